package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"

	"go4.org/netipx"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// Bounds of what facts list. A range minus a single address is up to 127 prefixes,
// so a short text can ask for millions of them; what is beyond is counted only.
const (
	maxUncovered = 1024 // prefixes of one kind
	maxEffect    = 1024 // prefixes of one direction
)

// facts is the prefix arithmetic that rules decide on.
type facts struct {
	overlaps   []overlap
	duplicates []duplicate
	node       coverage
	pod        coverage
	service    coverage
	disabled   []string // families whose every address is spared: "ipv4", "ipv6"
	linkLocal  []linkLocal
	ipv6       []int // indexes of IPv6 CIDRs
	effect     Effect
}

// overlap tells that the CIDR at inner adds nothing to the one at outer, the
// widest that contains it. Both are indexes in the list.
type overlap struct{ inner, outer int }

// duplicate tells that the CIDR at index stands at first already.
type duplicate struct{ index, first int }

// linkLocal tells that a key asks to masquerade what the list spares altogether.
type linkLocal struct {
	key    string
	within netip.Prefix
	index  int // of a CIDR that covers it, or -1 when several together do
}

// coverage is what of one kind of cluster range the list does not spare.
type coverage struct {
	known     bool
	uncovered []Range // widest first; the source is of one of the ranges, and how many more
	omitted   int     // how many prefixes uncovered lacks
}

// sortedPrefix is a CIDR of the list with its place there.
type sortedPrefix struct {
	prefix netip.Prefix
	index  int
}

// sortPrefixes orders a list by family, address and width, so that what contains a
// prefix stands before it.
func sortPrefixes(list []netip.Prefix) []sortedPrefix {
	sorted := make([]sortedPrefix, len(list))
	for i, prefix := range list {
		sorted[i] = sortedPrefix{prefix, i}
	}
	slices.SortFunc(sorted, func(a, b sortedPrefix) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()),
			cmp.Compare(a.index, b.index))
	})
	return sorted
}

// redundant finds what the list says more than once, in one sweep: two prefixes
// are disjoint or one contains the other, so only the last widest one counts.
func redundant(sorted []sortedPrefix) (overlaps []overlap, duplicates []duplicate) {
	var outer, previous sortedPrefix
	for _, p := range sorted {
		switch {
		case p.prefix == previous.prefix:
			duplicates = append(duplicates, duplicate{p.index, previous.index})
			continue
		case outer.prefix.IsValid() && outer.prefix.Contains(p.prefix.Addr()):
			overlaps = append(overlaps, overlap{p.index, outer.index})
		default:
			outer = p
		}
		previous = p
	}
	slices.SortFunc(overlaps, func(a, b overlap) int { return cmp.Compare(a.inner, b.inner) })
	slices.SortFunc(duplicates, func(a, b duplicate) int { return cmp.Compare(a.index, b.index) })
	return overlaps, duplicates
}

// merge makes the fewest ranges of sorted prefixes, in order, IPv4 before IPv6.
func merge(sorted []sortedPrefix) []netipx.IPRange {
	ranges := make([]netipx.IPRange, 0, len(sorted))
	for _, p := range sorted {
		ranges = extend(ranges, netipx.RangeOfPrefix(p.prefix))
	}
	return ranges
}

// extend adds a range that does not begin before the last one of ranges.
func extend(ranges []netipx.IPRange, next netipx.IPRange) []netipx.IPRange {
	if len(ranges) > 0 {
		last := ranges[len(ranges)-1]
		touches := next.From().Compare(last.To()) <= 0 || last.To().Next() == next.From()
		if touches && last.From().BitLen() == next.From().BitLen() {
			if next.To().Compare(last.To()) > 0 {
				ranges[len(ranges)-1] = netipx.IPRangeFrom(last.From(), next.To())
			}
			return ranges
		}
	}
	return append(ranges, next)
}

// union is merge for prefixes in any order.
func union(prefixes ...netip.Prefix) []netipx.IPRange { return merge(sortPrefixes(prefixes)) }

// subtract is what of a is not in b; both are merged. It walks the gaps of b and
// searches a for each, so that its cost hangs on b and on the result, and next to
// nothing on a.
func subtract(a, b []netipx.IPRange) []netipx.IPRange {
	var left []netipx.IPRange
	at := 0 // no range of a before it reaches into the gap
	within := func(from, to netip.Addr) {
		at = reaching(a, at, from)
		for i := at; i < len(a) && a[i].From().Compare(to) <= 0; i++ {
			left = append(left, netipx.IPRangeFrom(later(a[i].From(), from), earlier(a[i].To(), to)))
		}
	}
	next := 0
	for _, family := range addressFamilies {
		from, open := family.first, true
		for ; next < len(b) && b[next].From().BitLen() == family.first.BitLen(); next++ {
			if b[next].From() != from {
				within(from, b[next].From().Prev())
			}
			from = b[next].To().Next()
			open = from.IsValid() // there is no next address after the last one
		}
		if open {
			within(from, family.last)
		}
	}
	return left
}

// reaching is the index of the first range, not before start, that ends at address or
// after it. It looks near start first: the distance, not the length, counts.
func reaching(ranges []netipx.IPRange, start int, address netip.Addr) int {
	step := 1
	for start+step <= len(ranges) && ranges[start+step-1].To().Compare(address) < 0 {
		start += step
		step *= 2
	}
	end := min(start+step, len(ranges))
	return start + sort.Search(end-start, func(i int) bool { return ranges[start+i].To().Compare(address) >= 0 })
}

// addressFamilies in the order of netip.Addr.Compare.
//
//nolint:gochecknoglobals // a constant in all but the language
var addressFamilies = []struct {
	name        string
	all         netip.Prefix
	first, last netip.Addr
}{
	{
		"ipv4", netip.MustParsePrefix("0.0.0.0/0"),
		netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("255.255.255.255"),
	},
	{
		"ipv6", netip.MustParsePrefix("::/0"),
		netip.MustParseAddr("::"), netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
	},
}

func later(a, b netip.Addr) netip.Addr {
	if a.Compare(b) > 0 {
		return a
	}
	return b
}

func earlier(a, b netip.Addr) netip.Addr {
	if a.Compare(b) < 0 {
		return a
	}
	return b
}

// covers tells whether merged ranges hold every address of prefix.
func covers(ranges []netipx.IPRange, prefix netip.Prefix) bool {
	r := netipx.RangeOfPrefix(prefix)
	i := reaching(ranges, 0, r.From())
	return i < len(ranges) && ranges[i].From().Compare(r.From()) <= 0 && ranges[i].To().Compare(r.To()) >= 0
}

// prefixesOf is the fewest prefixes for merged ranges, at most limit of them, and
// how many more there are.
func prefixesOf(ranges []netipx.IPRange, limit int) (prefixes []netip.Prefix, omitted int) {
	var scratch []netip.Prefix
	for _, r := range ranges {
		scratch = r.AppendPrefixes(scratch[:0])
		fit := min(len(scratch), limit-len(prefixes))
		prefixes = append(prefixes, scratch[:fit]...)
		omitted += len(scratch) - fit
	}
	return prefixes, omitted
}

// layout is a list in the order of addresses.
type layout struct {
	sorted []sortedPrefix
	list   []netipx.IPRange // its addresses
	spared []netipx.IPRange // what agents do not masquerade: the list and what their flags and keys add
}

func layoutOf(c config.Config, agent config.Options) layout {
	l := layout{sorted: sortPrefixes(c.NonMasquerade)}
	l.list = merge(l.sorted)
	l.spared = l.list
	if !c.MasqueradeLinkLocal {
		l.spared = insert(l.spared, config.LinkLocalIPv4)
	}
	switch {
	case !agent.IPv6:
		l.spared = insert(l.spared, addressFamilies[1].all) // agents leave that family alone
	case !c.MasqueradeLinkLocalIPv6:
		l.spared = insert(l.spared, config.LinkLocalIPv6)
	}
	return l
}

// insert adds a prefix to merged ranges.
func insert(ranges []netipx.IPRange, prefix netip.Prefix) []netipx.IPRange {
	if covers(ranges, prefix) {
		return ranges
	}
	added := netipx.RangeOfPrefix(prefix)
	all := make([]netipx.IPRange, 0, len(ranges)+1)
	i := 0
	for ; i < len(ranges) && ranges[i].From().Compare(added.From()) <= 0; i++ {
		all = append(all, ranges[i])
	}
	all = extend(all, added)
	for ; i < len(ranges); i++ {
		all = extend(all, ranges[i])
	}
	return all
}

// effectOf compares what agents spare before and after.
func effectOf(before, after []netipx.IPRange) Effect {
	effect := Effect{Known: true}
	if slices.Equal(before, after) {
		return effect
	}
	effect.NowMasqueraded, effect.NowOmitted = prefixesOf(subtract(before, after), maxEffect)
	effect.NoLongerMasqueraded, effect.NoLongerOmitted = prefixesOf(subtract(after, before), maxEffect)
	return effect
}

// factsOf computes what rules decide on from a configuration that loads.
func factsOf(c config.Config, l layout, agent config.Options, cluster *Cluster) facts {
	var f facts
	f.overlaps, f.duplicates = redundant(l.sorted)
	for _, family := range addressFamilies {
		if covers(l.list, family.all) {
			f.disabled = append(f.disabled, family.name)
		}
	}
	f.linkLocal = linkLocals(c, l.list)
	if !agent.IPv6 {
		for i, prefix := range c.NonMasquerade {
			if prefix.Addr().Is6() {
				f.ipv6 = append(f.ipv6, i)
			}
		}
	}
	f.node = cluster.node.minus(l.spared)
	f.pod = cluster.pod.minus(l.spared)
	f.service = cluster.service.minus(l.spared)
	return f
}

// linkLocals finds keys that ask to masquerade link-local addresses which the list spares.
func linkLocals(c config.Config, list []netipx.IPRange) []linkLocal {
	var found []linkLocal
	for _, ask := range []struct {
		key        string
		masquerade bool
		within     netip.Prefix
	}{
		{config.KeyMasqLinkLocal, c.MasqueradeLinkLocal, config.LinkLocalIPv4},
		{config.KeyMasqLinkLocalIPv6, c.MasqueradeLinkLocalIPv6, config.LinkLocalIPv6},
	} {
		if ask.masquerade && covers(list, ask.within) {
			index := slices.IndexFunc(c.NonMasquerade, func(p netip.Prefix) bool {
				return p.Bits() <= ask.within.Bits() && p.Contains(ask.within.Addr())
			})
			found = append(found, linkLocal{ask.key, ask.within, index})
		}
	}
	return found
}
