package foreign

import (
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// A region is a set of packets: the union of boxes. A box is the product of a set of
// sources, a set of destinations, and conditions that are kept as they are.
//
// Splitting a region by a rule is exact, but a region of more than maxBoxes boxes is no
// longer reduced by what rules take away: it is then too large, never too small.
type region []box

const maxBoxes = 64

type box struct {
	src, dst *netipx.IPSet // never nil; of one family
	facts    []fact        // all of them hold
	remarked bool          // a rule has set the mark, so that it is no longer its owner's
}

// factKind is what is known of a condition.
type factKind int

const (
	plain       factKind = iota // it narrows in a way that changes nothing: a protocol, a port
	out                         // the outgoing interface; text is its name, a trailing + stands for any ending
	mark                        // of the packet
	markBefore                  // of the packet before a rule has set it
	localSource                 // the source is an address of this node
	hairpin                     // the packet comes back to its own source
	opaque                      // it may match everything or nothing
	fickle                      // another answer each time: a limit, chance
)

// fact is one condition on a packet.
type fact struct {
	kind        factKind
	text        string // in the words of its rule, without the negation
	negated     bool
	value, bits uint32 // of mark: packet & bits == value
}

// match is the condition of a rule: all of it holds.
type match struct {
	src, dst *netipx.IPSet // nil: any
	facts    []fact
	never    bool // it holds for no packet that leaves the node
}

func (f fact) String() string {
	text := f.text
	if f.kind == out {
		text = "-o " + text
	}
	if f.negated {
		text = "! " + text
	}
	return text
}

func (f fact) not() fact {
	f.negated = !f.negated
	return f
}

// excludes tells that f and g cannot both hold.
func (f fact) excludes(g fact) bool {
	if f.kind != g.kind || f.kind == fickle {
		return false
	}
	if f.negated && g.negated {
		return false
	}
	if f.negated {
		return g.implies(f.not())
	}
	if g.negated {
		return f.implies(g.not())
	}
	switch f.kind {
	case mark:
		return (f.value^g.value)&f.bits&g.bits != 0
	case out:
		return !covers(f.text, g.text) && !covers(g.text, f.text)
	case plain, markBefore, localSource, hairpin, opaque, fickle:
	}
	return false
}

// implies tells that g holds where f does; both as they are without a negation.
func (f fact) implies(g fact) bool {
	switch f.kind {
	case mark:
		return f.bits&g.bits == g.bits && f.value&g.bits == g.value
	case out:
		return covers(g.text, f.text)
	case plain, markBefore, localSource, hairpin, opaque, fickle:
	}
	return f.text == g.text
}

// covers tells that an interface pattern matches all that another one does.
func covers(pattern, name string) bool {
	if prefix, cut := strings.CutSuffix(pattern, "+"); cut {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

// with is the part of a box where a fact holds.
func (b box) with(f fact) (box, bool) {
	for _, known := range b.facts {
		if known.excludes(f) {
			return box{}, false
		}
		if known == f {
			return b, true
		}
	}
	b.facts = append(slices.Clip(b.facts), f)
	return b, true
}

// split divides a region into what a rule's condition takes, and the rest.
func (r region) split(m match) (hit, miss region) {
	if m.never {
		return nil, r
	}
	for _, b := range r {
		taken, rest := b.split(m)
		hit = append(hit, taken...)
		miss = append(miss, rest...)
	}
	miss = miss.compact()
	if len(miss) > maxBoxes {
		miss = r // more than what is left, in fewer boxes
	}
	return hit.compact(), miss
}

func (b box) split(m match) (hit, miss region) {
	if m.src != nil {
		rest := b
		b.src, rest.src = intersect(b.src, m.src), subtract(b.src, m.src)
		miss = miss.add(rest)
	}
	if m.dst != nil {
		rest := b
		b.dst, rest.dst = intersect(b.dst, m.dst), subtract(b.dst, m.dst)
		miss = miss.add(rest)
	}
	if empty(b.src) || empty(b.dst) {
		return nil, miss
	}
	for _, f := range m.facts {
		if f.kind == fickle {
			miss = miss.add(b)
		} else if rest, some := b.with(f.not()); some {
			miss = miss.add(rest)
		}
		taken, some := b.with(f)
		if !some {
			return nil, miss
		}
		b = taken
	}
	return region{b}, miss
}

func (r region) add(b box) region {
	if empty(b.src) || empty(b.dst) {
		return r
	}
	return append(r, b)
}

// compact joins boxes that differ in one side alone.
func (r region) compact() region {
	if len(r) < 2 {
		return r
	}
	r = r.join(func(a, b box) (box, bool) {
		if !a.src.Equal(b.src) {
			return box{}, false
		}
		a.dst = union(a.dst, b.dst)
		return a, true
	})
	return r.join(func(a, b box) (box, bool) {
		if !a.dst.Equal(b.dst) {
			return box{}, false
		}
		a.src = union(a.src, b.src)
		return a, true
	})
}

func (r region) join(try func(a, b box) (box, bool)) region {
	var joined region
next:
	for _, b := range r {
		for i, a := range joined {
			if a.remarked != b.remarked || !slices.Equal(a.facts, b.facts) {
				continue
			}
			if both, ok := try(a, b); ok {
				joined[i] = both
				continue next
			}
		}
		joined = append(joined, b)
	}
	return joined
}

// everything are all packets of a family.
func everything(family ruleset.Family) *netipx.IPSet {
	if family == ruleset.IPv6 {
		return setOf(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	}
	return setOf(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
}

func setOf(prefixes ...netip.Prefix) *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, p := range prefixes {
		b.AddPrefix(p)
	}
	return built(&b)
}

// built takes what the builder holds: its errors are invalid prefixes, and those are
// refused before.
func built(b *netipx.IPSetBuilder) *netipx.IPSet {
	set, err := b.IPSet()
	if err != nil || set == nil {
		return &netipx.IPSet{}
	}
	return set
}

func empty(s *netipx.IPSet) bool { return s.Equal(&netipx.IPSet{}) }

func intersect(a, b *netipx.IPSet) *netipx.IPSet {
	var builder netipx.IPSetBuilder
	builder.AddSet(a)
	builder.Intersect(b)
	return built(&builder)
}

func subtract(a, b *netipx.IPSet) *netipx.IPSet {
	var builder netipx.IPSetBuilder
	builder.AddSet(a)
	builder.RemoveSet(b)
	return built(&builder)
}

func union(a, b *netipx.IPSet) *netipx.IPSet {
	var builder netipx.IPSetBuilder
	builder.AddSet(a)
	builder.AddSet(b)
	return built(&builder)
}
