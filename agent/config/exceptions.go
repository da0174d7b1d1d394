package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// contradictions reports the prefixes that are spared and excepted at once; of the
// spared ones those before first have been compared already.
func (c Config) contradictions(first int, add func(Problem)) {
	if len(c.Masquerade) == 0 {
		return
	}
	listed := make(map[netip.Prefix]int, len(c.NonMasquerade)-first)
	for i, prefix := range c.NonMasquerade[first:] {
		if _, again := listed[prefix]; !again && prefix.IsValid() {
			listed[prefix] = first + i
		}
	}
	for i, prefix := range c.Masquerade {
		other, both := listed[prefix]
		if !both {
			continue
		}
		at, listed := c.Element(KeyMasqueradeCIDRs, i), c.Element(KeyNonMasqueradeCIDRs, other)
		p := Problem{
			Code: CodeContradiction, Text: prefix.String(),
			Message: fmt.Sprintf("%s is in both lists: %s in line %d spares it", quote(prefix.String()), listed, listed.Line),
			Remedy:  "keep it in one of the two lists",
		}
		if c.ListAbsent() {
			p.Message = quote(prefix.String()) + " is a default range of " + KeyNonMasqueradeCIDRs + ", which the text does not have"
			p.Remedy = "write " + KeyNonMasqueradeCIDRs + " without it instead"
		}
		add(p.at(at))
	}
}

// ineffective reports exceptions that change nothing, since nothing spares what they
// except, or another exception covers it.
func (c Config) ineffective(add func(Problem)) {
	if len(c.Masquerade) == 0 {
		return
	}
	type entry struct {
		prefix netip.Prefix
		list   list
		index  int
	}
	entries := make([]entry, 0, len(c.NonMasquerade)+len(c.Masquerade)+2)
	for l := range listCount {
		for i, prefix := range c.CIDRs(l.key()) {
			entries = append(entries, entry{prefix, l, i})
		}
	}
	if !c.MasqueradeLinkLocal {
		entries = append(entries, entry{LinkLocalIPv4, spared, -1})
	}
	if !c.MasqueradeLinkLocalIPv6 {
		entries = append(entries, entry{LinkLocalIPv6, spared, -1})
	}
	slices.SortFunc(entries, func(a, b entry) int { // what contains a prefix stands before it
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()),
			cmp.Compare(a.list, b.list), cmp.Compare(a.index, b.index))
	})
	var around []entry // the last entry and what contains it, widest first
	for _, e := range entries {
		for len(around) > 0 && !around[len(around)-1].prefix.Contains(e.prefix.Addr()) {
			around = around[:len(around)-1]
		}
		within := entry{list: excepted}
		if len(around) > 0 {
			within = around[len(around)-1]
		}
		if e.list == excepted && within.prefix == e.prefix && within.list == excepted {
			continue // a repetition, not one inside another
		}
		around = append(around, e)
		if e.list == spared || within.list == spared {
			continue
		}
		at := c.Element(KeyMasqueradeCIDRs, e.index)
		p := Problem{
			Code: CodeIneffective, Severity: Suspicious,
			Text:    e.prefix.String(),
			Message: quote(e.prefix.String()) + " lies in no range that is spared, so it is masqueraded anyway",
			Remedy:  "remove it",
		}
		if within.prefix.IsValid() {
			p.Message = fmt.Sprintf("%s lies inside the exception %s (%s), so it has no effect", quote(e.prefix.String()),
				within.prefix, c.Element(KeyMasqueradeCIDRs, within.index))
		}
		add(p.at(at))
	}
}
