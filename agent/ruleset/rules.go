package ruleset

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
)

// spare is the rule that keeps a destination from being masqueraded.
func spare(chain string, prefix netip.Prefix) string {
	destination := ""
	if prefix.Bits() > 0 { // iptables-save has no words for "everywhere"
		destination = " -d " + address(prefix.Addr()) + "/" + strconv.Itoa(prefix.Bits())
	}
	return "-A " + chain + destination + ` -m comment --comment "` + sparedComment + `" -j RETURN`
}

// address is the text of iptables, which is inet_ntop(3)'s. It differs from
// netip's, and from RFC 5952, for the long deprecated IPv4-compatible addresses
// alone: ::192.0.2.1 (RFC 4291 section 2.5.5.1).
func address(a netip.Addr) string {
	if a.Is6() {
		b := a.As16()
		if [12]byte(b[:12]) == [12]byte{} && (b[12] != 0 || b[13] != 0) {
			return "::" + netip.AddrFrom4([4]byte(b[12:])).String()
		}
	}
	return a.String()
}

// masquerade are the rules at the end of the chain. Ports can be given to the
// protocols that have them only, so each has its own rules, and a rule for the
// rest follows.
func masquerade(o Options) []string {
	rule := func(protocol, statistic, ports string) string {
		rule := "-A " + o.Chain + protocol + ` -m comment --comment "` + masqueradeComment + `"` + statistic + " -j MASQUERADE" + ports
		if o.RandomFully {
			rule += " --random-fully"
		}
		return rule
	}
	var rules []string
	if len(o.ToPorts) > 0 {
		chances := probabilities(o.ToPorts)
		for _, protocol := range []string{"tcp", "udp", "sctp"} {
			for i, ports := range o.ToPorts {
				rules = append(rules, rule(" -p "+protocol, chances[i], " --to-ports "+ports.String()))
			}
		}
	}
	return append(rules, rule("", "", ""))
}

// probabilities spreads connections over port ranges by their size: each range
// takes its share of what the ones before it have left, the last one all of it.
func probabilities(ranges []PortRange) []string {
	left := 0
	for _, r := range ranges {
		left += r.size()
	}
	matches := make([]string, len(ranges))
	for i, r := range ranges {
		if i < len(ranges)-1 {
			share := float64(r.size()) / float64(left)
			matches[i] = " -m statistic --mode random --probability " + probability(share)
		}
		left -= r.size()
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
