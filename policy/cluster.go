package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"go4.org/netipx"
)

// Cluster holds the cluster's ranges, prepared once for many decisions, whose cost
// does not grow with the number of ranges. It is immutable.
type Cluster struct {
	node    required
	pod     required
	service required

	once      sync.Once
	converted ast.Value // for rules that read input.cluster
}

// required is one kind of cluster range.
type required struct {
	ranges []Range          // as given; nil: nobody knows them
	sorted []Range          // by address, widest first
	reach  []netip.Addr     // reach[i] is the highest address of sorted[:i+1] in its family
	merged []netipx.IPRange // the union
}

// NewCluster prepares ranges by kind; a nil slice means that nobody knows them,
// an empty one that there are none. Host bits and zones of prefixes do not count;
// an invalid Prefix is left out.
func NewCluster(node, pod, service []Range) *Cluster {
	return &Cluster{node: requiredOf(node), pod: requiredOf(pod), service: requiredOf(service)}
}

func requiredOf(ranges []Range) required {
	if ranges == nil {
		return required{}
	}
	r := required{ranges: make([]Range, 0, len(ranges))}
	for _, one := range ranges {
		prefix := netip.PrefixFrom(one.Prefix.Addr().Unmap(), one.Prefix.Bits())
		if one.Prefix.Addr().Is4In6() {
			prefix = netip.PrefixFrom(one.Prefix.Addr().Unmap(), one.Prefix.Bits()-96)
		}
		if prefix = prefix.Masked(); prefix.IsValid() {
			r.ranges = append(r.ranges, Range{prefix, one.Source})
		}
	}
	r.sorted = slices.Clone(r.ranges)
	slices.SortStableFunc(r.sorted, func(a, b Range) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	r.reach = make([]netip.Addr, len(r.sorted))
	for i, one := range r.sorted {
		r.reach[i] = netipx.PrefixLastIP(one.Prefix)
		if i > 0 {
			r.reach[i] = later(r.reach[i-1], r.reach[i])
		}
		r.merged = extend(r.merged, netipx.RangeOfPrefix(one.Prefix))
	}
	return r
}

// minus is what of r is not spared.
func (r required) minus(l layout) coverage {
	c := coverage{known: r.ranges != nil}
	prefixes, omitted := prefixesOf(subtract(r.merged, l.listed), maxUncovered)
	c.add(r, -1, prefixes)
	c.omitted = omitted
	for _, taken := range l.exempted {
		prefixes, omitted := prefixesOf(intersect(r.merged, taken.IPRange), maxUncovered-len(c.uncovered))
		c.add(r, taken.exception, prefixes)
		c.omitted += omitted
	}
	return c
}

func (c *coverage) add(r required, exception int, prefixes []netip.Prefix) {
	// Widest first: what an author has to add before all else.
	slices.SortStableFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Addr().BitLen(), b.Addr().BitLen()), cmp.Compare(a.Bits(), b.Bits()))
	})
	for _, prefix := range prefixes {
		c.uncovered = append(c.uncovered, uncovered{Range{prefix, r.source(prefix)}, exception})
	}
}

// intersect is what merged ranges have in common with another one.
func intersect(ranges []netipx.IPRange, other netipx.IPRange) []netipx.IPRange {
	var common []netipx.IPRange
	for i := reaching(ranges, 0, other.From()); i < len(ranges) && ranges[i].From().Compare(other.To()) <= 0; i++ {
		common = append(common, netipx.IPRangeFrom(later(ranges[i].From(), other.From()), earlier(ranges[i].To(), other.To())))
	}
	return common
}

// source names who asks for addresses of prefix: the first one, and how many more.
func (r required) source(prefix netip.Prefix) string {
	last := netipx.PrefixLastIP(prefix)
	start := sort.Search(len(r.reach), func(i int) bool { return r.reach[i].Compare(prefix.Addr()) >= 0 })
	first, count := "", 0
	for _, one := range r.sorted[start:] {
		if one.Prefix.Addr().Compare(last) > 0 {
			break
		}
		if !one.Prefix.Overlaps(prefix) {
			continue
		}
		if count == 0 {
			first = one.Source
		}
		count++
	}
	if count > 1 {
		return fmt.Sprintf("%s and %d more", first, count-1)
	}
	return first
}

// RangesFrom gives every prefix the same source; nil, which is unknown, stays nil.
func RangesFrom(prefixes []netip.Prefix, source string) []Range {
	if prefixes == nil {
		return nil
	}
	ranges := make([]Range, 0, len(prefixes))
	for _, prefix := range prefixes {
		ranges = append(ranges, Range{Prefix: prefix, Source: source})
	}
	return ranges
}
