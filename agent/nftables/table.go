package nftables

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go4.org/netipx"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// Names in a table of ours.
const (
	tablePrefix   = "ip-masq-guard-"
	chainName     = "postrouting"
	sparedSet     = "spared"
	sourcesSet    = "sources"
	interfacesSet = "interfaces"

	ifname = "ifname" // the type of the last one
)

// What the base chain is hooked to. iptables of both backends, kube-proxy's table and
// flannel's have priority srcnat, which is 100. Of chains of the same priority the
// kernel asks the one first that was made last, so which one wins would depend on who
// started last. One more, and ours is asked when all of them have been, as the jump of
// the iptables form is, which is appended.
const (
	priority  = 101
	chainHead = "type nat hook postrouting priority srcnat + 1; policy accept;"
)

// Comments that the iptables form does not have, since it has no such rules.
const (
	localComment = "ip-masq-agent: traffic to the node itself is not subject to MASQUERADE"
)

// Table is everything that nftables must hold of ours for one family.
type Table struct {
	Family ruleset.Family
	Name   string
	Sets   []Set    // what the rules refer to
	Rules  []string // of the base chain, exactly as nft prints them
}

// Set is a named set. It holds addresses, or else names of interfaces.
type Set struct {
	Name   string
	Ranges []netipx.IPRange // disjoint, sorted, none next to the other
	Names  []string         // sorted, none covered by another; "eth*" is every name that begins with eth

	typ string // as nft(8) calls it
}

// TableName is the name of the table that stands for a chain of the iptables form. What
// nft(8) does not take in a name is written as a slash and two hexadecimal digits.
func TableName(chain string) string {
	var b strings.Builder
	b.WriteString(tablePrefix)
	for _, c := range []byte(chain) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-_.", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "/%02x", c)
		}
	}
	return b.String()
}

// Render computes the table of a Ruleset. An interval set knows no longest prefix, so
// the ranges of the set spared are those that are left of the list without its
// exceptions. The chain, which is for the iptables form, gives the table its name.
func Render(want ruleset.Ruleset) (Table, error) {
	spared, err := want.SparedSet()
	if err != nil {
		return Table{}, fmt.Errorf("rendering what is spared: %w", err)
	}
	addresses, protocol := "ipv4_addr", "ip"
	if want.Family == ruleset.IPv6 {
		addresses, protocol = "ipv6_addr", "ip6"
	}
	t := Table{Family: want.Family, Name: TableName(want.Chain)}
	t.Sets = append(t.Sets, Set{Name: sparedSet, Ranges: spared.Ranges(), typ: addresses})
	t.Rules = append(t.Rules, rule("fib daddr type local return", localComment))
	if names := interfaceNames(want.Interfaces); len(names) > 0 {
		t.Sets = append(t.Sets, Set{Name: interfacesSet, Names: names, typ: ifname})
		t.Rules = append(t.Rules, rule("oifname != @"+interfacesSet+" return", ruleset.InterfaceComment))
	}
	if len(want.Sources) > 0 {
		sources, err := merge(want.Sources)
		if err != nil {
			return Table{}, fmt.Errorf("rendering sources: %w", err)
		}
		t.Sets = append(t.Sets, Set{Name: sourcesSet, Ranges: sources, typ: addresses})
		t.Rules = append(t.Rules, rule(protocol+" saddr != @"+sourcesSet+" return", ruleset.SourceComment))
	}
	t.Rules = append(t.Rules, rule(protocol+" daddr @"+sparedSet+" return", ruleset.SparedComment))
	t.Rules = append(t.Rules, masquerade(want.Decision)...)
	return t, nil
}

// interfaceNames are patterns of iptables in the words of nft: "eth+" is "eth*". Ranges
// of a set may not overlap, so what another pattern covers is left out.
func interfaceNames(patterns []string) []string {
	var names []string
	for _, pattern := range slices.Compact(slices.Sorted(slices.Values(patterns))) {
		covered := slices.ContainsFunc(patterns, func(other string) bool {
			beginning, wildcard := strings.CutSuffix(other, "+")
			return wildcard && other != pattern && strings.HasPrefix(strings.TrimSuffix(pattern, "+"), beginning)
		})
		beginning, wildcard := strings.CutSuffix(pattern, "+")
		switch {
		case covered:
		case wildcard:
			names = append(names, beginning+"*")
		default:
			names = append(names, pattern)
		}
	}
	slices.Sort(names)
	return names
}

func merge(prefixes []netip.Prefix) ([]netipx.IPRange, error) {
	var b netipx.IPSetBuilder
	for _, prefix := range prefixes {
		b.AddPrefix(prefix)
	}
	set, err := b.IPSet()
	if err != nil {
		return nil, fmt.Errorf("merging %d prefixes: %w", len(prefixes), err)
	}
	return set.Ranges(), nil
}

func rule(text, comment string) string { return text + ` comment "` + comment + `"` }

// masquerade are the rules at the end. Ports can be given to the protocols that have
// them only. A connection falls into a range by its size: each range takes its share of
// what the ones before it have left, the last one all of it.
func masquerade(d ruleset.Decision) []string {
	random := ""
	if d.Random {
		random = " fully-random"
	}
	left := 0
	for _, ports := range d.ToPorts {
		left += ports.Size()
	}
	var rules []string
	for i, ports := range d.ToPorts {
		chance := ""
		if i < len(d.ToPorts)-1 {
			chance = fmt.Sprintf(" numgen random mod %d < %d", left, ports.Size())
		}
		rules = append(rules, rule("meta l4proto { tcp, udp, sctp }"+chance+" masquerade to :"+ports.String()+random, ruleset.MasqueradeComment))
		left -= ports.Size()
	}
	return append(rules, rule("masquerade"+random, ruleset.MasqueradeComment))
}

// String is the table as nft(8) prints it, but for line breaks between elements; `nft -f`
// reads it.
func (t Table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s {\n", familyName(t.Family), t.Name)
	for _, set := range t.Sets {
		fmt.Fprintf(&b, "\tset %s {\n", set.Name)
		for _, line := range set.head() {
			b.WriteString("\t\t" + line + "\n")
		}
		if elements := set.elements(); len(elements) > 0 {
			fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(elements, ", "))
		}
		b.WriteString("\t}\n\n")
	}
	fmt.Fprintf(&b, "\tchain %s {\n\t\t%s\n", chainName, chainHead)
	for _, rule := range t.Rules {
		b.WriteString("\t\t" + rule + "\n")
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

// familyName is that of nft(8).
func familyName(family ruleset.Family) string {
	if family == ruleset.IPv6 {
		return "ip6"
	}
	return "ip"
}

// head is what nft prints of a set beside its elements.
func (s Set) head() []string {
	if s.interval() {
		return []string{"type " + s.typ, "flags interval"}
	}
	return []string{"type " + s.typ}
}

// interval tells that elements may be ranges. Older versions of nft know no patterns of
// names, so a set without any does not ask for them.
func (s Set) interval() bool {
	return s.typ != ifname || slices.ContainsFunc(s.Names, func(name string) bool { return strings.HasSuffix(name, "*") })
}

// elements are written for nft(8).
func (s Set) elements() []string {
	texts := rangeTexts(s.Ranges)
	for _, name := range s.Names {
		texts = append(texts, `"`+name+`"`)
	}
	return texts
}

func rangeTexts(ranges []netipx.IPRange) []string {
	texts := make([]string, len(ranges))
	for i, r := range ranges {
		texts[i] = rangeText(r)
	}
	return texts
}

// rangeText is a prefix where there is one, as nft(8) does.
func rangeText(r netipx.IPRange) string {
	first := ruleset.AddressText(r.From())
	prefix, ok := r.Prefix()
	switch {
	case !ok:
		return first + "-" + ruleset.AddressText(r.To())
	case prefix.IsSingleIP():
		return first
	default:
		return first + "/" + strconv.Itoa(prefix.Bits())
	}
}

// difference is what has to be deleted from and added to a sorted list of disjoint
// ranges to make it another one.
func difference(from, to []netipx.IPRange) (deleted, added []netipx.IPRange) {
	for len(from) > 0 && len(to) > 0 {
		switch order := compareRanges(from[0], to[0]); {
		case order < 0:
			deleted, from = append(deleted, from[0]), from[1:]
		case order > 0:
			added, to = append(added, to[0]), to[1:]
		default:
			from, to = from[1:], to[1:]
		}
	}
	return append(deleted, from...), append(added, to...)
}

func compareRanges(a, b netipx.IPRange) int {
	return cmp.Or(a.From().Compare(b.From()), a.To().Compare(b.To()))
}

// disjoint tells that no address is in a range of both sorted lists.
func disjoint(a, b []netipx.IPRange) bool {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].To().Less(b[0].From()):
			a = a[1:]
		case b[0].To().Less(a[0].From()):
			b = b[1:]
		default:
			return false
		}
	}
	return true
}
