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
	disabled   []string // families whose every address the list spares, exceptions left aside: "ipv4", "ipv6"
	linkLocal  []linkLocal
	ipv6       []element // IPv6 CIDRs
	effect     Effect
}

// element is a CIDR of a list: of the one that key holds, or the exceptions.
type element struct {
	key   string
	index int
}

// overlap tells that the CIDR at inner adds nothing to the one at outer, the
// widest that contains it with no exception between. Both are of the list.
type overlap struct{ inner, outer int }

// duplicate tells that the same CIDR stands before in the same list.
type duplicate struct{ again, first element }

// linkLocal tells that a key asks to masquerade what the list spares altogether.
type linkLocal struct {
	key    string
	within netip.Prefix
	index  int // of a CIDR that covers it, or -1 when several together do
}

// coverage is what of one kind of cluster range is not spared.
type coverage struct {
	known     bool
	uncovered []uncovered // what the list lacks, widest first, and then what exceptions take from it
	omitted   int         // how many prefixes uncovered lacks
}

// uncovered is a part of cluster ranges; the source is of one of the ranges, and how
// many more.
type uncovered struct {
	Range

	exception int // that takes it from the list; -1 where the list lacks it
}

// sortedPrefix is a CIDR of a list with its place there.
type sortedPrefix struct {
	prefix    netip.Prefix
	index     int // of the list; -1 for what agents spare besides
	exception bool
}

// sortPrefixes orders a list by family, address and width, so that what contains a
// prefix stands before it.
func sortPrefixes(list []netip.Prefix) []sortedPrefix {
	sorted := make([]sortedPrefix, len(list))
	for i, prefix := range list {
		sorted[i] = sortedPrefix{prefix: prefix, index: i}
	}
	sortEntries(sorted)
	return sorted
}

func sortEntries(sorted []sortedPrefix) {
	slices.SortFunc(sorted, func(a, b sortedPrefix) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()),
			compareBool(a.exception, b.exception), cmp.Compare(a.index, b.index))
	})
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// redundant finds what the lists say more than once, in one sweep: two prefixes are
// disjoint or one contains the other, so what contains a prefix is a stack.
func redundant(sorted []sortedPrefix) (overlaps []overlap, duplicates []duplicate) {
	type layer struct {
		sortedPrefix

		outer int // the widest around it without an exception between, as an index in the list
	}
	var around []layer
	for _, p := range sorted {
		for len(around) > 0 && !around[len(around)-1].prefix.Contains(p.prefix.Addr()) {
			around = around[:len(around)-1]
		}
		next := layer{p, p.index}
		if len(around) > 0 {
			top := around[len(around)-1]
			switch {
			case top.prefix == p.prefix && top.exception == p.exception:
				duplicates = append(duplicates, duplicate{p.element(), top.element()})
				continue
			case !top.exception && !p.exception:
				next.outer = top.outer
				overlaps = append(overlaps, overlap{p.index, top.outer})
			}
		}
		around = append(around, next)
	}
	slices.SortFunc(overlaps, func(a, b overlap) int { return cmp.Compare(a.inner, b.inner) })
	slices.SortFunc(duplicates, func(a, b duplicate) int {
		return cmp.Or(compareBool(a.again.isException(), b.again.isException()), cmp.Compare(a.again.index, b.again.index))
	})
	return overlaps, duplicates
}

func (p sortedPrefix) element() element {
	if p.exception {
		return element{config.KeyMasqueradeCIDRs, p.index}
	}
	return listed(p.index)
}

func (e element) isException() bool { return e.key == config.KeyMasqueradeCIDRs }

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

// layout is the lists of a configuration in the order of addresses.
type layout struct {
	sorted    []sortedPrefix   // both lists
	list      []netipx.IPRange // the addresses of the list
	listed    []netipx.IPRange // what agents would not masquerade without exceptions: the list and what their flags and keys add
	spared    []netipx.IPRange // what they do not masquerade
	exempted  []exempted       // what exceptions take from listed, in order
	effective []netipx.IPRange // the addresses of the list that no exception takes from it
}

// exempted is a range that one exception takes from what is listed.
type exempted struct {
	netipx.IPRange

	exception int // its index
}

func layoutOf(c config.Config, agent config.Options) layout {
	l := layout{sorted: sortPrefixes(c.NonMasquerade)}
	l.list = merge(l.sorted)
	l.effective = l.list
	var beside []netip.Prefix
	if !c.MasqueradeLinkLocal {
		beside = append(beside, config.LinkLocalIPv4)
	}
	if agent.IPv6 && !c.MasqueradeLinkLocalIPv6 {
		beside = append(beside, config.LinkLocalIPv6)
	}
	l.listed = l.list
	for _, prefix := range beside {
		l.listed = insert(l.listed, prefix)
	}
	l.spared = l.listed
	if len(c.Masquerade) > 0 {
		l.except(c.Masquerade, beside)
	}
	if !agent.IPv6 { // agents leave that family alone
		l.listed = insert(l.listed, addressFamilies[1].all)
		l.spared = insert(l.spared, addressFamilies[1].all)
	}
	return l
}

// except lets exceptions take their part of the list and of what agents spare
// beside it: the longest prefix decides, and between equal ones the exception.
func (l *layout) except(exceptions, beside []netip.Prefix) {
	listed := len(l.sorted)
	for i, prefix := range exceptions {
		l.sorted = append(l.sorted, sortedPrefix{prefix, i, true})
	}
	entries := slices.Clone(l.sorted)
	for _, prefix := range beside {
		entries = append(entries, sortedPrefix{prefix, -1, false})
	}
	sortEntries(l.sorted)
	sortEntries(entries)
	l.spared, l.exempted = longestPrefix(entries)
	if len(entries) == listed+len(exceptions) {
		l.effective = l.spared
		return
	}
	l.effective, _ = longestPrefix(l.sorted)
}

// longestPrefix is what sorted prefixes spare where the longest one decides, and what
// exceptions among them take from wider ones.
func longestPrefix(sorted []sortedPrefix) (spared []netipx.IPRange, taken []exempted) {
	type layer struct {
		netipx.IPRange

		exception int  // its index, or -1 for one that spares
		within    bool // one around it spares
	}
	var around []layer              // the prefixes that hold address next, widest first
	var next netip.Addr             // the first address that is not told yet
	tell := func(last netip.Addr) { // for all up to last the innermost decides
		top := around[len(around)-1]
		if !next.IsValid() || next.Compare(last) > 0 {
			return
		}
		r := netipx.IPRangeFrom(next, last)
		switch {
		case top.exception < 0:
			spared = extend(spared, r)
		case top.within:
			taken = append(taken, exempted{r, top.exception})
		}
		next = last.Next()
	}
	// leave ends the prefixes that end before address; the zero Addr ends all.
	leave := func(address netip.Addr) {
		for len(around) > 0 {
			top := around[len(around)-1]
			if address.IsValid() && top.Contains(address) {
				return
			}
			tell(top.To())
			around = around[:len(around)-1]
		}
	}
	for i, p := range sorted {
		if i > 0 && p.prefix == sorted[i-1].prefix && p.exception == sorted[i-1].exception {
			continue // the first of equal ones stands for all
		}
		leave(p.prefix.Addr())
		if len(around) > 0 && next.Compare(p.prefix.Addr()) < 0 {
			tell(p.prefix.Addr().Prev())
		}
		next = p.prefix.Addr()
		inner := layer{IPRange: netipx.RangeOfPrefix(p.prefix), exception: -1}
		if p.exception {
			inner.exception = p.index
		}
		if len(around) > 0 {
			top := around[len(around)-1]
			inner.within = top.within || top.exception < 0
		}
		around = append(around, inner)
	}
	leave(netip.Addr{})
	return spared, taken
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
	f.linkLocal = linkLocals(c, l.effective)
	if !agent.IPv6 {
		for _, key := range listKeys {
			for i, prefix := range c.CIDRs(key) {
				if prefix.Addr().Is6() {
					f.ipv6 = append(f.ipv6, element{key, i})
				}
			}
		}
	}
	f.node = cluster.node.minus(l)
	f.pod = cluster.pod.minus(l)
	f.service = cluster.service.minus(l)
	return f
}

// listKeys are the keys that hold CIDRs.
//
//nolint:gochecknoglobals // a constant in all but the language
var listKeys = []string{config.KeyNonMasqueradeCIDRs, config.KeyMasqueradeCIDRs}

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
