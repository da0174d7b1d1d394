// Package iptables makes the nat table hold a Ruleset. It is the only package that
// runs a process: iptables-restore for the chain (one transaction), iptables-save to
// see what is there, go-iptables for the jump.
package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/agent/notify"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// Backend is the kernel interface behind the iptables commands.
type Backend string

// The backends; Auto is only an input.
const (
	Auto   Backend = "auto"
	NFT    Backend = "nft"
	Legacy Backend = "legacy"
)

// Drift is the one of every backend.
type Drift = ruleset.Drift

// The kinds of drift that the nat table can have.
const (
	ChainMissing  = ruleset.ChainMissing
	ChainChanged  = ruleset.ChainChanged
	JumpMissing   = ruleset.JumpMissing
	JumpDuplicate = ruleset.JumpDuplicate
	SetMissing    = ruleset.SetMissing
	SetChanged    = ruleset.SetChanged
	ChainFormer   = ruleset.ChainFormer
)

// Drifts are the kinds of drift that a Kernel tells.
func Drifts() []Drift {
	return []Drift{ChainMissing, ChainChanged, JumpMissing, JumpDuplicate, SetMissing, SetChanged, ChainFormer}
}

// Kernel is the nat table of this network namespace, through one backend. It is
// for one goroutine at a time.
type Kernel struct {
	backend Backend
	tables  map[ruleset.Family]*table
	left    map[ruleset.Family][]string // see Left
}

// Open probes the commands of a backend for both families; a family whose
// commands are missing fails at its first use, not here.
func Open(backend Backend) (*Kernel, error) {
	if backend != NFT && backend != Legacy {
		return nil, fmt.Errorf("opening iptables: %q is not a backend; choose %s or %s", backend, NFT, Legacy)
	}
	k := &Kernel{backend: backend, tables: map[ruleset.Family]*table{}, left: map[ruleset.Family][]string{}}
	for _, family := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
		k.tables[family] = open(backend, family)
	}
	return k, nil
}

// Version is how the iptables commands call themselves: "iptables v1.8.9 (nf_tables)".
// It is empty when they do not tell.
func (k *Kernel) Version(ctx context.Context) string {
	for _, family := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
		if t := k.tables[family]; t.err == nil {
			return banner(ctx, t.tools.main)
		}
	}
	return ""
}

// Inspect reads how the kernel differs from want; nothing is written.
func (k *Kernel) Inspect(ctx context.Context, want ruleset.Ruleset) ([]Drift, error) {
	_, drift, err := k.inspect(ctx, want)
	return drift, err
}

// table is opened anew where its commands were missing: they may have come.
func (k *Kernel) table(family ruleset.Family) *table {
	if k.tables[family].err != nil {
		k.tables[family] = open(k.backend, family)
	}
	return k.tables[family]
}

// Watch begins to listen for changes of what Rulesets of these families and this chain
// hold. The error is errors.ErrUnsupported where the kernel tells none.
func (k *Kernel) Watch(chain string, families []ruleset.Family) (*notify.Watch, error) {
	if k.backend != NFT {
		return nil, fmt.Errorf("listening to %s iptables: %w", k.backend, errors.ErrUnsupported)
	}
	var subjects []notify.Subject
	for _, family := range families {
		subjects = append(subjects, notify.Chain(family, natTable, chain, postrouting))
	}
	return notify.New(subjects...)
}

// inspect is look as a part of a pass of its own.
func (k *Kernel) inspect(ctx context.Context, want ruleset.Ruleset) (content, []Drift, error) {
	defer took(ctx, ruleset.Inspect)()
	return k.look(ctx, want)
}

func (k *Kernel) look(ctx context.Context, want ruleset.Ruleset) (content, []Drift, error) {
	t := k.table(want.Family)
	found, err := t.read(ctx, want.Chain)
	if err != nil {
		return content{}, nil, fmt.Errorf("reading the nat table: %w", err)
	}
	k.left[want.Family] = removal(k.backend, want.Family, found.former).Left
	if found.sets, err = seeSets(want); err != nil {
		return content{}, nil, err
	}
	return found, append(t.compare(want, found), found.sets.drift(want)...), nil
}

// Left tells why chains of other ip-masq-agents stay, that the last Apply or Inspect
// saw, a sentence each.
func (k *Kernel) Left(family ruleset.Family) []string { return k.left[family] }

// Apply makes the kernel hold want and returns what had drifted. Where nothing
// had, nothing is written. A refused restore changes nothing: the chain is replaced
// in one transaction, after the set that it asks and before the jump to it. Where an
// ip-masq-agent has left another chain, one transaction changes over from that. With an
// error, what had drifted may be as it was.
func (k *Kernel) Apply(ctx context.Context, want ruleset.Ruleset) ([]Drift, error) {
	found, drift, err := k.inspect(ctx, want)
	if err != nil {
		return nil, err
	}
	if len(drift) > 0 {
		defer took(ctx, ruleset.Write)()
	}
	t := k.table(want.Family)
	all := drift
	chainChanges := slices.Contains(drift, ChainMissing) || slices.Contains(drift, ChainChanged)
	stale := found.sets.stale
	if slices.Contains(drift, SetMissing) || slices.Contains(drift, SetChanged) {
		if err := t.settleSet(ctx, want, found, chainChanges); err != nil {
			return all, fmt.Errorf("settling set %s: %w", want.Set.Name, err)
		}
		_, next := ruleset.SetNames(want.Chain, want.Family)
		stale = []string{next}
	}
	takingOver := error(nil)
	if slices.Contains(drift, ChainFormer) {
		sets, err := formerSets(want.Family, found.former)
		if err != nil {
			return all, err
		}
		if takingOver = t.takeOver(ctx, want, drift, found.former); takingOver == nil {
			stale = append(stale, sets...)
			left := k.left[want.Family]
			if found, drift, err = k.look(ctx, want); err != nil {
				return all, err
			}
			k.left[want.Family] = left // without its jump a chain is not recognised any more
			chainChanges = slices.Contains(drift, ChainMissing) || slices.Contains(drift, ChainChanged)
		}
	}
	if chainChanges {
		if err := t.replaceChain(ctx, want); err != nil {
			return all, fmt.Errorf("replacing chain %s: %w", want.Chain, err)
		}
	}
	if slices.Contains(drift, JumpMissing) || slices.Contains(drift, JumpDuplicate) {
		if err := t.settleJump(ctx, want, found.jumps); err != nil {
			return all, fmt.Errorf("settling the jump to %s: %w", want.Chain, err)
		}
	}
	patience := time.Duration(0)
	if len(all) > 0 {
		patience = releasePatience
	}
	if err := dropSets(stale, patience); err != nil {
		return all, fmt.Errorf("removing sets of an earlier state: %w", err)
	}
	return all, takingOver
}
