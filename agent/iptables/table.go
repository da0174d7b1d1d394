package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/coreos/go-iptables/iptables"

	"github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

const (
	natTable    = "nat"
	postrouting = "POSTROUTING"
)

// table is the nat table of one family.
//
// Another version of iptables may print our rules in other words than we render
// them. So what it prints after each of two restores of ours is remembered and counts
// as ours too: else the chain would be rewritten for ever. Reading costs a process, which is
// saved where a new text replaces an old one and this iptables has been faithful,
// that is, has printed a text of ours byte for byte.
type table struct {
	tools tools
	jumps *iptables.IPTables
	err   error // why the table cannot be used

	faithful bool
	restored []string // the rules that were restored last
	printed  []string // what the kernel printed of them; nil when it was not asked
	jump     string   // what the kernel printed of our jump, where that differs
}

func open(backend Backend, family ruleset.Family) *table {
	found, err := find(context.Background(), backend, family)
	if err != nil {
		return &table{err: err}
	}
	protocol := iptables.ProtocolIPv4
	if family == ruleset.IPv6 {
		protocol = iptables.ProtocolIPv6
	}
	// A timeout of zero would wait for the lock without an end.
	jumps, err := iptables.New(iptables.IPFamily(protocol), iptables.Path(found.main), iptables.Timeout(lockWaitSeconds))
	if err != nil {
		return &table{err: fmt.Errorf("probing %s: %w", found.main, err)}
	}
	return &table{tools: found, jumps: jumps}
}

// compare tells how the kernel's content differs from want.
func (t *table) compare(want ruleset.Ruleset, found content) []Drift {
	var drift []Drift
	switch {
	case !found.chain:
		drift = append(drift, ChainMissing)
	case !slices.Equal(found.rules, want.Rules) && !t.knows(want, found.rules):
		drift = append(drift, ChainChanged)
	}
	switch {
	case len(found.jumps) == 0:
		drift = append(drift, JumpMissing)
	case len(found.jumps) > 1 || !t.isJump(want, found.jumps[0]):
		drift = append(drift, JumpDuplicate)
	}
	if slices.ContainsFunc(found.former, agentChain.goesSomehow) {
		drift = append(drift, ChainFormer)
	}
	return drift
}

// knows tells that the kernel prints want in these other words.
func (t *table) knows(want ruleset.Ruleset, rules []string) bool {
	return t.printed != nil && slices.Equal(t.restored, want.Rules) && slices.Equal(t.printed, rules)
}

func (t *table) isJump(want ruleset.Ruleset, rule string) bool {
	return rule == want.JumpRule() || rule == t.jump
}

// replaceChain restores the chain in one transaction.
func (t *table) replaceChain(ctx context.Context, want ruleset.Ruleset) error {
	healing := slices.Equal(t.restored, want.Rules)
	t.printed = nil
	if err := t.restore(ctx, want.String()); err != nil {
		return err
	}
	t.restored = want.Rules
	if t.faithful && !healing {
		return nil
	}
	printed, err := t.readBack(ctx, want.Chain)
	if err != nil {
		return err
	}
	if t.faithful = slices.Equal(printed, want.Rules); t.faithful || len(printed) != len(want.Rules) {
		return nil
	}
	// These are our rules in other words, or somebody has changed them meanwhile.
	// Only words come back after another restore.
	if err = t.restore(ctx, want.String()); err != nil {
		return err
	}
	again, err := t.readBack(ctx, want.Chain)
	if err != nil {
		return err
	}
	if slices.Equal(again, printed) {
		t.printed = printed
	}
	return nil
}

// readBack tells the rules that a restore has left.
func (t *table) readBack(ctx context.Context, chain string) ([]string, error) {
	found, err := t.read(ctx, chain)
	if err != nil {
		return nil, fmt.Errorf("reading it back: %w", err)
	}
	if !found.chain {
		return nil, errors.New("reading it back: the chain is not there; does a program with another iptables version remove it?")
	}
	return found.rules, nil
}

// settleJump leaves exactly one jump to the chain in POSTROUTING, in our form. The
// present ones are what was read; there is a jump at every moment if there was one.
func (t *table) settleJump(ctx context.Context, want ruleset.Ruleset, present []string) error {
	if !slices.ContainsFunc(present, func(rule string) bool { return t.isJump(want, rule) }) {
		if err := t.jumps.Append(natTable, postrouting, want.Jump...); err != nil {
			return fmt.Errorf("adding it: %w", err)
		}
		found, err := t.read(ctx, want.Chain)
		if err != nil {
			return fmt.Errorf("reading it back: %w", err)
		}
		if present = found.jumps; len(present) == 0 {
			return errors.New("reading it back: it is not there; does another program remove it?")
		}
		if !slices.Contains(present, want.JumpRule()) {
			t.jump = present[len(present)-1] // it was appended
		}
	}

	kept, puzzled := false, false
	for _, rule := range present {
		if !kept && t.isJump(want, rule) {
			kept = true
			continue
		}
		// By its words, not by its number, which other programs change. Of equal
		// rules iptables deletes the first, so that one remains in any case.
		err := t.jumps.Delete(natTable, postrouting, foreign.Words(rule)[2:]...)
		if failed := (*iptables.Error)(nil); errors.As(err, &failed) && failed.IsNotExist() {
			puzzled = true
			continue
		}
		if err != nil {
			return fmt.Errorf("deleting a superfluous one: %w", err)
		}
	}
	if !puzzled {
		return nil
	}
	// Someone else was faster, or iptables does not understand its own words.
	found, err := t.read(ctx, want.Chain)
	if err != nil {
		return fmt.Errorf("reading it back: %w", err)
	}
	if len(found.jumps) != 1 {
		return fmt.Errorf("deleting superfluous ones: %d are left; delete by hand all but the last of %q", len(found.jumps), found.jumps)
	}
	return nil
}
