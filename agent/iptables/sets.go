package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

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
	if want.Set == nil {
		// Rules that need no set are not to fail for one that cannot be looked at.
		stale, _ := existingSets(held, next)
		return setsSeen{stale: stale}, nil
	}
	state, err := readSet(want.Set)
	if err != nil {
		return setsSeen{}, fmt.Errorf("reading set %s: %w", held, explainSets(err))
	}
	stale, err := existingSets(next)
	return setsSeen{held: state, stale: stale}, err
}

// existingSets are those of the named ones that exist.
func existingSets(names ...string) ([]string, error) {
	// A question would load the kernel's module on a node that never needs it.
	if _, err := os.Stat("/sys/module/ip_set"); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var existing []string
	for _, name := range names {
		exists, err := setExists(name)
		if err != nil {
			return existing, fmt.Errorf("reading set %s: %w", name, err)
		}
		if exists {
			existing = append(existing, name)
		}
	}
	return existing, nil
}

// explainSets tells what to do about a kernel without ipsets, which takes the question
// for an invalid one, or without this type of them.
func explainSets(err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, nl.IPSetError(nl.IPSET_ERR_FIND_TYPE)) {
		return fmt.Errorf("%w: the kernel seems to have no such ipsets; give it the modules ip_set, ip_set_hash_net "+
			"and xt_set, or write --set-threshold=%d for rules alone", err, ruleset.MaxSetThreshold)
	}
	return err
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
		if err := addEntries(want.Set.Name, held.missing); err != nil {
			return err // before anything is spared no more
		}
		return deleteEntries(want.Set.Name, held.extra)
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
	err := destroyReleased(want.Name, releasePatience)
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

// The kernel releases what rules of the nft backend have asked some time after it has
// deleted them: when no packet can be in their midst (nf_tables_trans_destroy_work).
const (
	releasePatience = 500 * time.Millisecond
	releasePause    = 5 * time.Millisecond
)

// destroyReleased destroys a set whose last rule may have gone just now.
func destroyReleased(name string, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		err := destroySet(name)
		if !errors.Is(err, nl.IPSetError(nl.IPSET_ERR_BUSY)) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(releasePause)
	}
}

// dropSets destroys sets that nothing of ours asks. One that rules of others ask goes at a
// later pass, when they have gone.
func dropSets(names []string, patience time.Duration) error {
	for _, name := range names {
		if err := destroyReleased(name, patience); err != nil && !errors.Is(err, nl.IPSetError(nl.IPSET_ERR_BUSY)) {
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
	held, next := ruleset.SetNames(chain, family)
	names, err := existingSets(held, next)
	for _, name := range names {
		r.Lines = append(r.Lines, "set "+name)
	}
	return r, err
}

// RemoveSets destroys the sets of a chain that is gone. One that rules of others ask stays,
// and is told in Left.
func RemoveSets(family ruleset.Family, chain string) (Removal, error) {
	r := Removal{Backend: setBackend, Family: family}
	held, next := ruleset.SetNames(chain, family)
	names, err := existingSets(held, next)
	if err != nil {
		return r, err
	}
	for _, name := range names {
		switch err = destroyReleased(name, releasePatience); {
		case errors.Is(err, nl.IPSetError(nl.IPSET_ERR_BUSY)):
			r.Left = append(r.Left, fmt.Sprintf("set %s stays, since rules of others ask it", name))
		case err != nil:
			return r, err
		default:
			r.Lines = append(r.Lines, "set "+name)
		}
	}
	return r, nil
}
