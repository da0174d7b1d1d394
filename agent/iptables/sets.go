package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// setsSeen is what the kernel holds of the sets of a chain.
type setsSeen struct {
	held  setState // the one that the chain is to ask, if any
	stale []string // those that no rule of ours is to ask
}

// seeSets reads the sets of a chain.
func seeSets(want ruleset.Ruleset) (setsSeen, error) {
	held, next := ruleset.SetNames(want.Chain, want.Family)
	seen, unasked := setsSeen{}, []string{next}
	if want.Set != nil {
		var err error
		if seen.held, err = readSet(want.Set); err != nil {
			return setsSeen{}, explainSets(held, err)
		}
	} else {
		// A question would load the kernel's module on a node that never needs it.
		if _, err := os.Stat("/sys/module/ip_set"); errors.Is(err, os.ErrNotExist) {
			return setsSeen{}, nil
		}
		unasked = []string{held, next}
	}
	for _, name := range unasked {
		exists, err := setExists(name)
		if err != nil {
			return setsSeen{}, explainSets(name, err)
		}
		if exists {
			seen.stale = append(seen.stale, name)
		}
	}
	return seen, nil
}

// explainSets tells what to do about a kernel without ipsets, which takes the question
// for an invalid one.
func explainSets(name string, err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("reading set %s: %w: the kernel seems to have no ipsets; give it the modules ip_set, ip_set_hash_net "+
			"and xt_set, or write --set-threshold=%d for rules alone", name, err, ruleset.MaxSetThreshold)
	}
	return fmt.Errorf("reading set %s: %w", name, err)
}

// drift tells how the kernel's set differs from want.
func (s setsSeen) drift(want ruleset.Ruleset) []Drift {
	switch {
	case want.Set == nil:
		return nil
	case !s.held.exists:
		return []Drift{SetMissing}
	case !s.held.same || len(s.held.missing)+len(s.held.extra) > 0:
		return []Drift{SetChanged}
	default:
		return nil
	}
}

// settleSet makes the set hold what want says, before the chain asks it. At no moment
// does the chain ask a set in which a destination is missing that was there before and is
// wanted, or the other way round.
func (t *table) settleSet(ctx context.Context, want ruleset.Ruleset, found content, chainChanges bool) error {
	held := found.sets.held
	// Others may ask it too: the chain in the other backend, or a rule of somebody's own.
	oursAlone := held.references == 1 && found.asks(want.Set.Name)
	switch {
	case !held.exists:
		return createSet(want.Set)
	case oursAlone && (chainChanges || !held.alike):
		return t.replaceBeside(ctx, want)
	case held.references == 0 || !held.alike:
		return renewSet(want.Set)
	case held.updatable(want.Set):
		return errors.Join(addEntries(want.Set.Name, held.missing), deleteEntries(want.Set.Name, held.extra))
	default:
		return swapIn(want)
	}
}

// asks tells that a rule of the chain asks a set.
func (c content) asks(set string) bool {
	return slices.ContainsFunc(c.rules, func(rule string) bool { return strings.Contains(rule, " --match-set "+set+" ") })
}

// updatable tells that adding what is missing and then deleting what is too much is
// right at every moment: the more prefixes the set has, the more it spares, unless there
// are exceptions. It is also less work than a new set, and the set has room for it.
func (s setState) updatable(want *ruleset.Set) bool {
	return s.same && !s.exceptions && !want.HasExceptions() && len(s.missing)+len(s.extra) <= len(want.Entries)
}

// renewSet makes a set anew that no rule of ours asks.
func renewSet(want *ruleset.Set) error {
	err := destroySet(want.Name)
	switch {
	case err == nil:
		return createSet(want)
	case errors.Is(err, nl.IPSetError(nl.IPSET_ERR_BUSY)):
		return fmt.Errorf("%w: it is not like ours, and rules that are not ours ask it; delete them", err)
	default:
		return err
	}
}

// swapIn fills another set and gives its content to the held one at one moment.
func swapIn(want ruleset.Ruleset) error {
	held, next := ruleset.SetNames(want.Chain, want.Family)
	if err := destroySet(next); err != nil {
		return err
	}
	if err := createSet(want.Asking(next).Set); err != nil {
		return err
	}
	if err := swapSets(next, held); err != nil {
		return err
	}
	return destroySet(next)
}

// replaceBeside is for a set and a chain that change together: the new chain asks a
// new set first. A restore of the chain for the held set is still to come, and then the
// other one can go.
func (t *table) replaceBeside(ctx context.Context, want ruleset.Ruleset) error {
	_, next := ruleset.SetNames(want.Chain, want.Family)
	beside := want.Asking(next)
	if err := destroySet(next); err != nil {
		return err
	}
	if err := createSet(beside.Set); err != nil {
		return err
	}
	if err := t.restore(ctx, beside.String()); err != nil {
		return err
	}
	return renewSet(want.Set)
}

// dropSets destroys sets that nothing of ours asks. One that rules of others ask goes at a
// later pass, when they have gone.
func dropSets(names []string) error {
	for _, name := range names {
		if err := destroySet(name); err != nil && !errors.Is(err, nl.IPSetError(nl.IPSET_ERR_BUSY)) {
			return err
		}
	}
	return nil
}

// setBackend names ipsets where others name a backend of rules: both backends ask the
// same sets.
const setBackend Backend = "ipset"

// RemainingSets reads what RemoveSets would destroy; nothing is written.
func RemainingSets(family ruleset.Family, chain string) (Removal, error) {
	r := Removal{Backend: setBackend, Family: family}
	seen, err := seeSets(ruleset.Ruleset{Decision: ruleset.Decision{Family: family}, Chain: chain})
	for _, name := range seen.stale {
		r.Lines = append(r.Lines, "set "+name)
	}
	return r, err
}

// RemoveSets destroys the sets of a chain that is gone. One that rules of others ask stays,
// and is told in Left.
func RemoveSets(family ruleset.Family, chain string) (Removal, error) {
	r := Removal{Backend: setBackend, Family: family}
	seen, err := seeSets(ruleset.Ruleset{Decision: ruleset.Decision{Family: family}, Chain: chain})
	for _, name := range seen.stale {
		switch failure := destroySet(name); {
		case errors.Is(failure, nl.IPSetError(nl.IPSET_ERR_BUSY)):
			r.Left = append(r.Left, fmt.Sprintf("set %s stays, since rules of others ask it", name))
		case failure != nil:
			return r, failure
		default:
			r.Lines = append(r.Lines, "set "+name)
		}
	}
	return r, err
}
