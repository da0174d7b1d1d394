package ruleset

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
)

// render is the chain, in the words of iptables-save.
func render(rules Ruleset) []string {
	r := newRenderer(rules.Chain, rules.Decision)
	switch {
	case rules.Set != nil:
		r.add(asks(rules.Set.Name), SparedComment, "", "RETURN")
	case len(rules.Exceptions) > 0:
		r.longestFirst()
	default:
		for _, prefix := range rules.Spared {
			r.spare(prefix)
		}
	}
	r.masquerade("", MasqueradeComment)
	return r.rules
}

// asks is the match of destinations that a set holds.
func asks(set string) string { return " -m set --match-set " + set + " dst" }

// masquerading is the number of rules that masquerade one destination.
func masquerading(d Decision) int {
	r := newRenderer("", d)
	before := len(r.rules)
	r.masquerade("", MasqueradeComment)
	return len(r.rules) - before
}

// renderer writes a chain from its top.
type renderer struct {
	chain    string
	decision Decision
	rules    []string

	// matches of every MASQUERADE rule: where there are several sources or interfaces,
	// no single rule at the top can send all others away.
	sources    []string // " -s PREFIX"
	interfaces []string // " -o NAME"
}

func (r *renderer) add(matches, comment, more, target string) {
	r.rules = append(r.rules, "-A "+r.chain+matches+` -m comment --comment "`+comment+`"`+more+" -j "+target)
}

// newRenderer writes what lets packets of other sources and interfaces go.
func newRenderer(chain string, d Decision) *renderer {
	r := &renderer{chain: chain, decision: d}
	if sources := fewestSources(r.decision.Sources); len(sources) == 1 {
		r.add(" ! -s "+cidr(sources[0]), SourceComment, "", "RETURN")
	} else {
		for _, source := range sources {
			r.sources = append(r.sources, " -s "+cidr(source))
		}
	}
	if interfaces := fewestInterfaces(r.decision.Interfaces); len(interfaces) == 1 {
		r.add(" ! -o "+interfaces[0], InterfaceComment, "", "RETURN")
	} else {
		for _, name := range interfaces {
			r.interfaces = append(r.interfaces, " -o "+name)
		}
	}
	return r
}

// fewestSources leaves out what others contain. Nothing is left where one is
// everything.
func fewestSources(sources []netip.Prefix) []netip.Prefix {
	var fewest []netip.Prefix
	for i, source := range sources {
		if source.Bits() == 0 {
			return nil
		}
		redundant := false
		for j, other := range sources {
			larger := other.Bits() < source.Bits() || other.Bits() == source.Bits() && j < i
			redundant = redundant || larger && other.Contains(source.Addr())
		}
		if !redundant {
			fewest = append(fewest, source)
		}
	}
	return fewest
}

// fewestInterfaces leaves out what others cover.
func fewestInterfaces(patterns []string) []string {
	var fewest []string
	for i, pattern := range patterns {
		redundant := false
		for j, other := range patterns {
			// Both ends of the comparison may be wildcards: "eth+" covers "eth0+" by its text.
			wider := other != pattern || j < i
			redundant = redundant || i != j && wider && interfaceCovers(other, pattern)
		}
		if !redundant {
			fewest = append(fewest, pattern)
		}
	}
	return fewest
}

// spare keeps a destination from being masqueraded.
func (r *renderer) spare(prefix netip.Prefix) {
	r.add(destination(prefix), SparedComment, "", "RETURN")
}

// longestFirst is the list with its exceptions. Of equal prefixes the exception decides.
func (r *renderer) longestFirst() {
	type entry struct {
		prefix    netip.Prefix
		exception bool
	}
	var entries []entry
	for _, prefix := range r.decision.Exceptions {
		entries = append(entries, entry{prefix, true})
	}
	for _, prefix := range r.decision.Spared {
		entries = append(entries, entry{prefix, false})
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return b.prefix.Bits() - a.prefix.Bits() })
	for _, e := range entries {
		if e.exception {
			r.masquerade(destination(e.prefix), exceptionComment)
		} else {
			r.spare(e.prefix)
		}
	}
}

// destination is the match of a prefix. iptables-save has no words for "everywhere".
func destination(prefix netip.Prefix) string {
	if prefix.Bits() == 0 {
		return ""
	}
	return " -d " + cidr(prefix)
}

func cidr(prefix netip.Prefix) string {
	return AddressText(prefix.Addr()) + "/" + strconv.Itoa(prefix.Bits())
}

// AddressText is the text of iptables and nft, which is inet_ntop(3)'s. It differs from
// netip's, and from RFC 5952, for the long deprecated IPv4-compatible addresses
// alone: ::192.0.2.1 (RFC 4291 section 2.5.5.1).
func AddressText(a netip.Addr) string {
	if a.Is6() {
		b := a.As16()
		if [12]byte(b[:12]) == [12]byte{} && (b[12] != 0 || b[13] != 0) {
			return "::" + netip.AddrFrom4([4]byte(b[12:])).String()
		}
	}
	return a.String()
}

// masquerade are the rules that masquerade what goes to a destination. Ports can be
// given to the protocols that have them only, so each has its own rules, and a rule
// for the rest follows.
func (r *renderer) masquerade(destination, comment string) {
	random := ""
	if r.decision.Random {
		random = " --random-fully"
	}
	for _, source := range anyOf(r.sources) {
		for _, out := range anyOf(r.interfaces) {
			if ports := r.decision.ToPorts; len(ports) > 0 {
				chances := probabilities(ports)
				for _, protocol := range []string{"tcp", "udp", "sctp"} {
					for i := range ports {
						r.add(source+destination+out+" -p "+protocol, comment, chances[i], "MASQUERADE --to-ports "+ports[i].String()+random)
					}
				}
			}
			r.add(source+destination+out, comment, "", "MASQUERADE"+random)
		}
	}
}

// anyOf are the alternatives of a match; without any there is no match.
func anyOf(matches []string) []string {
	if len(matches) == 0 {
		return []string{""}
	}
	return matches
}

// probabilities spreads connections over port ranges by their size: each range
// takes its share of what the ones before it have left, the last one all of it.
func probabilities(ranges []PortRange) []string {
	left := 0
	for _, r := range ranges {
		left += r.Size()
	}
	matches := make([]string, len(ranges))
	for i, r := range ranges {
		if i < len(ranges)-1 {
			share := float64(r.Size()) / float64(left)
			matches[i] = " -m statistic --mode random --probability " + probability(share)
		}
		left -= r.Size()
	}
	return matches
}

// probability is the text of iptables-save: the kernel keeps a whole number of
// parts of 2^31 (linux/netfilter/xt_statistic.h), iptables prints 11 decimals.
func probability(share float64) string {
	const parts = 1 << 31
	return fmt.Sprintf("%.11f", math.Round(share*parts)/parts)
}

// jump sends what is not for this host itself to the chain.
func jump(chain string) []string {
	return []string{
		"-m", "comment", "--comment", fmt.Sprintf(jumpComment, chain),
		"-m", "addrtype", "!", "--dst-type", "LOCAL",
		"-j", chain,
	}
}
