package ruleset

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// SparedSet is every destination that the Decision does not masquerade for a packet from
// its Sources that leaves by its Interfaces: longest prefixes resolved, disjoint, sorted.
func (d Decision) SparedSet() (*netipx.IPSet, error) {
	type entry struct {
		prefix netip.Prefix
		except bool
	}
	entries := make([]entry, 0, len(d.Spared)+len(d.Exceptions))
	for _, prefix := range d.Spared {
		entries = append(entries, entry{prefix, false})
	}
	for _, prefix := range d.Exceptions {
		entries = append(entries, entry{prefix, true})
	}
	// Shorter prefixes first, so that longer ones have the last word; of two of the
	// same length only equal ones overlap, where the exception decides.
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(a.prefix.Bits(), b.prefix.Bits()) })

	var b netipx.IPSetBuilder
	for _, e := range entries {
		if e.except {
			b.RemovePrefix(e.prefix)
		} else {
			b.AddPrefix(e.prefix)
		}
	}
	set, err := b.IPSet()
	if err != nil {
		return nil, fmt.Errorf("merging %d prefixes: %w", len(entries), err)
	}
	return set, nil
}

// Changed are the destinations of one family that a change of the list treats in
// another way.
type Changed struct {
	NowMasqueraded      *netipx.IPSet
	NoLongerMasqueraded *netipx.IPSet
}

// Compare computes what changes for destinations from one Decision to the next of the
// same family. Sources and Interfaces do not count.
func Compare(before, after Decision) (Changed, error) {
	old, err := before.SparedSet()
	if err != nil {
		return Changed{}, err
	}
	now, err := after.SparedSet()
	if err != nil {
		return Changed{}, err
	}
	var changed Changed
	if changed.NowMasqueraded, err = minus(old, now); err != nil {
		return Changed{}, err
	}
	changed.NoLongerMasqueraded, err = minus(now, old)
	return changed, err
}

func minus(a, b *netipx.IPSet) (*netipx.IPSet, error) {
	var left netipx.IPSetBuilder
	left.AddSet(a)
	left.RemoveSet(b)
	set, err := left.IPSet()
	if err != nil {
		return nil, fmt.Errorf("subtracting ranges: %w", err)
	}
	return set, nil
}
