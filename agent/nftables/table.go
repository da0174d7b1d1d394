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
	tablePrefix    = "ip-masq-guard-"
	BaseChain      = "postrouting"  // hooked by Priority
	interfaceChain = "by-interface" // for more than one interface
	sourceChain    = "by-source"    // for more than one source
	sparedSet      = "spared"
	keptSet        = "kept" // there while the other one changes
)

// What the base chain is hooked to. iptables of both backends, kube-proxy's table and
// flannel's have priority srcnat, which is 100. Of chains of the same priority the
// kernel asks the one first that was made last, so which one wins would depend on who
// started last. One more, and ours is asked when all of them have been, as the jump of
// the iptables form is, which is appended.
const (
	Priority  = 101
	chainHead = "type nat hook postrouting priority srcnat + 1; policy accept;"
)

// localComment is one that the iptables form does not have, since it has no such rule.
const localComment = "ip-masq-agent: traffic to the node itself is not subject to MASQUERADE"

// Table is everything that nftables must hold of ours for one family.
//
// The list is the one set. All else that packets are compared with is in rules, of
// which the kernel changes all at the same instant; see steps for what sets do.
type Table struct {
	Family ruleset.Family
	Name   string
	Spared []netipx.IPRange // elements of the set: disjoint, sorted, none next to the other
	Chains []Chain          // the base chain first
}

// Chain is a chain with its rules, exactly as nft prints them.
type Chain struct {
	Name  string
	Rules []string
}

// Place is where the rules of a family stand for a chain of the iptables form: the
// table, with nft's word for the family before its name, the chain, and the priority of
// its hook.
func Place(family ruleset.Family, chain string) (table, base string, hookPriority int) {
	return FullName(family, chain), BaseChain, Priority
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

// FullName is the table of a family that stands for a chain: "ip ip-masq-guard-IP-MASQ-AGENT".
func FullName(family ruleset.Family, chain string) string {
	return familyName(family) + " " + TableName(chain)
}

// Render computes the table of a Ruleset. An interval set knows no longest prefix, so
// the ranges of the set spared are those that are left of the list without its
// exceptions. The chain, which is for the iptables form, gives the table its name.
func Render(want ruleset.Ruleset) (Table, error) {
	spared, err := want.SparedSet()
	if err != nil {
		return Table{}, fmt.Errorf("rendering what is spared: %w", err)
	}
	t, err := renderRules(want)
	t.Spared = spared.Ranges()
	return t, err
}

// Rules is how many rules the table of a Ruleset has.
func Rules(want ruleset.Ruleset) int {
	count := 0
	if t, err := renderRules(want); err == nil {
		for _, chain := range t.Chains {
			count += len(chain.Rules)
		}
	}
	return count
}

// Elements is how many elements the set of a Ruleset has.
func Elements(want ruleset.Ruleset) int {
	spared, err := want.SparedSet()
	if err != nil {
		return 0
	}
	return len(spared.Ranges())
}

// renderRules computes the table but for the elements of its set.
func renderRules(want ruleset.Ruleset) (Table, error) {
	t := Table{Family: want.Family, Name: TableName(want.Chain)}
	t.begin(BaseChain)
	t.add("fib daddr type local return", localComment)
	t.add(t.protocol()+" daddr @"+sparedSet+" return", ruleset.SparedComment)
	t.only("oifname", interfaceNames(want.Interfaces), interfaceChain, ruleset.InterfaceComment)
	sources, err := merge(want.Sources)
	if err != nil {
		return Table{}, fmt.Errorf("rendering sources: %w", err)
	}
	t.only(t.protocol()+" saddr", rangeTexts(sources), sourceChain, ruleset.SourceComment)
	t.masquerade(want.Decision)
	return t, nil
}

// protocol is how rules of the family call its header.
func (t *Table) protocol() string { return familyName(t.Family) }

// begin begins a chain; rules are added to the last one.
func (t *Table) begin(chain string) { t.Chains = append(t.Chains, Chain{Name: chain}) }

func (t *Table) add(text, comment string) {
	last := &t.Chains[len(t.Chains)-1]
	last.Rules = append(last.Rules, text+` comment "`+comment+`"`)
}

// only lets those packets go on that one of the values fits, if there are any.
func (t *Table) only(what string, values []string, chain, comment string) {
	switch len(values) {
	case 0:
	case 1:
		t.add(what+" != "+values[0]+" return", comment)
	default:
		for _, value := range values {
			t.add(what+" "+value+" goto "+chain, comment)
		}
		t.begin(chain)
	}
}

// interfaceNames are patterns of iptables in the words of nft: "eth+" is "eth*". What
// another pattern covers is left out.
func interfaceNames(patterns []string) []string {
	var names []string
	for _, pattern := range slices.Compact(slices.Sorted(slices.Values(patterns))) {
		covered := slices.ContainsFunc(patterns, func(other string) bool {
			beginning, wildcard := strings.CutSuffix(other, "+")
			return wildcard && other != pattern && strings.HasPrefix(strings.TrimSuffix(pattern, "+"), beginning)
		})
		if covered {
			continue
		}
		if beginning, wildcard := strings.CutSuffix(pattern, "+"); wildcard {
			pattern = beginning + "*"
		}
		names = append(names, `"`+pattern+`"`)
	}
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

// masquerade adds the rules at the end. Ports can be given to the protocols that have
// them only. A connection falls into a range by its size: each range takes its share of
// what the ones before it have left, the last one all of it.
func (t *Table) masquerade(d ruleset.Decision) {
	random := ""
	if d.Random {
		random = " fully-random"
	}
	left := 0
	for _, ports := range d.ToPorts {
		left += ports.Size()
	}
	for i, ports := range d.ToPorts {
		chance := ""
		if i < len(d.ToPorts)-1 {
			chance = fmt.Sprintf(" numgen random mod %d < %d", left, ports.Size())
		}
		t.add("meta l4proto { tcp, udp, sctp }"+chance+" masquerade to :"+ports.String()+random, ruleset.MasqueradeComment)
		left -= ports.Size()
	}
	t.add("masquerade"+random, ruleset.MasqueradeComment)
}

// String is the table as nft(8) prints it, but for line breaks between elements; `nft -f`
// reads it.
func (t *Table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s {\n", familyName(t.Family), t.Name)
	fmt.Fprintf(&b, "\tset %s {\n", sparedSet)
	for _, line := range t.setHead() {
		b.WriteString("\t\t" + line + "\n")
	}
	if len(t.Spared) > 0 {
		fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(rangeTexts(t.Spared), ", "))
	}
	b.WriteString("\t}\n")
	for _, chain := range t.Chains {
		fmt.Fprintf(&b, "\n\tchain %s {\n", chain.Name)
		for _, line := range chain.lines() {
			b.WriteString("\t\t" + line + "\n")
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// familyName is that of nft(8).
func familyName(family ruleset.Family) string {
	if family == ruleset.IPv6 {
		return "ip6"
	}
	return "ip"
}

// setType is that of addresses.
func (t *Table) setType() string {
	if t.Family == ruleset.IPv6 {
		return "ipv6_addr"
	}
	return "ipv4_addr"
}

// setHead is what nft prints of the set beside its elements.
func (t *Table) setHead() []string { return []string{"type " + t.setType(), "flags interval"} }

// lines are what nft prints of a chain.
func (c Chain) lines() []string {
	if c.Name == BaseChain {
		return append([]string{chainHead}, c.Rules...)
	}
	return c.Rules
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

// common is what is in ranges of both sorted lists.
func common(a, b []netipx.IPRange) []netipx.IPRange {
	var both []netipx.IPRange
	for len(a) > 0 && len(b) > 0 {
		first, last := a[0].From(), a[0].To()
		if first.Less(b[0].From()) {
			first = b[0].From()
		}
		if b[0].To().Less(last) {
			last = b[0].To()
		}
		if !last.Less(first) {
			both = append(both, netipx.IPRangeFrom(first, last))
		}
		if a[0].To().Less(b[0].To()) {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return both
}
