package iptables

import (
	"context"
	"slices"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// Plan reads what the kernel holds of ours, and of other ip-masq-agents where Apply would
// remove it, and tells what it would hold after Apply: both in the words of iptables-save,
// sets in those of ipset(8). Nothing is written.
func (k *Kernel) Plan(ctx context.Context, want ruleset.Ruleset) (have, wanted []string, err error) {
	found, drift := content{}, []Drift{ChainMissing, JumpMissing}
	if k.backend == Legacy && !legacyHas(want.Family, natTable) {
		// To read the table would make it.
		found.sets, err = seeSets(want)
	} else {
		found, drift, err = k.inspect(ctx, want)
	}
	if err != nil {
		return nil, nil, err
	}
	have, wanted = slices.Clone(found.jumps), []string{want.JumpRule()}
	if !slices.Contains(drift, JumpMissing) && !slices.Contains(drift, JumpDuplicate) {
		wanted = found.jumps // maybe in other words
	}
	if found.chain {
		have = append(append(have, ":"+want.Chain+" - [0:0]"), found.rules...)
	}
	rules := want.Rules
	if !slices.Contains(drift, ChainMissing) && !slices.Contains(drift, ChainChanged) {
		rules = found.rules
	}
	wanted = append(append(slices.Clone(wanted), ":"+want.Chain+" - [0:0]"), rules...)
	if want.Set != nil {
		have = append(have, found.sets.held.lines(want.Set)...)
		wanted = append(wanted, setLines(want.Set.Name, want.Set.Entries)...)
	}
	for _, name := range found.sets.stale {
		have = append(have, "create "+name+" "+ruleset.SetType)
	}
	return append(have, removal(k.backend, want.Family, found.former).Lines...), wanted, nil
}

// lines are those of the set that the kernel has.
func (s setState) lines(want *ruleset.Set) []string {
	if !s.exists {
		return nil
	}
	missing := map[ruleset.SetEntry]bool{}
	for _, e := range s.missing {
		missing[e] = true
	}
	entries := slices.DeleteFunc(slices.Clone(want.Entries), func(e ruleset.SetEntry) bool { return missing[e] })
	lines := setLines(want.Name, entries)
	if !s.same {
		lines[0] += " (of another type or size)"
	}
	return append(lines, setLines(want.Name, s.extra)[1:]...)
}

func setLines(name string, entries []ruleset.SetEntry) []string {
	lines := []string{"create " + name + " " + ruleset.SetType}
	for _, e := range entries {
		line := "add " + name + " " + e.Prefix.String()
		if e.Exception {
			line += " nomatch"
		}
		lines = append(lines, line)
	}
	return lines
}

// RemainsAll reads what RemoveAll would take out of a nat table; nothing is written.
func RemainsAll(ctx context.Context, backend Backend, family ruleset.Family) (Removal, error) {
	t, err := openPresent(ctx, backend, family)
	if err != nil || t == nil {
		return Removal{Backend: backend, Family: family}, err
	}
	found, err := t.findAll(ctx)
	return removal(backend, family, found), err
}
