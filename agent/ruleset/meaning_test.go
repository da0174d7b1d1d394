package ruleset_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// masquerades walks the text of a chain as the kernel would for a packet of a protocol
// without ports. It knows no more than the words that it expects.
func masquerades(t *testing.T, rules ruleset.Ruleset, destination netip.Addr) bool {
	t.Helper()
	for _, rule := range rules.Rules {
		rest, ok := strings.CutPrefix(rule, "-A "+rules.Chain)
		if !ok {
			t.Fatalf("rule %q is not of chain %s", rule, rules.Chain)
		}
		if prefix, after, ok := strings.Cut(strings.TrimPrefix(rest, " -d "), " "); ok && strings.HasPrefix(rest, " -d ") {
			if !netip.MustParsePrefix(prefix).Contains(destination) {
				continue
			}
			rest = " " + after
		}
		if strings.HasPrefix(rest, " -p ") {
			continue
		}
		switch rest {
		case ` -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN`:
			return false
		case ` -m comment --comment "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE --random-fully`:
			return true
		default:
			t.Fatalf("rule %q has words that nobody expects: %q", rule, rest)
		}
	}
	t.Fatalf("no rule decides on %s", destination)
	return false
}

// FuzzMeaning holds the chain against the plain meaning of a configuration: a
// destination keeps its source exactly if some prefix contains it.
func FuzzMeaning(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0, 8}, []byte{10, 1, 2, 3}, false)
	f.Add([]byte{0, 0, 0, 0, 0}, []byte{192, 0, 2, 1}, true)
	f.Add([]byte{169, 254, 3, 0, 24}, []byte{169, 254, 3, 4}, true)
	f.Add([]byte{192, 0, 2, 1, 32, 10, 0, 0, 0, 8}, []byte{192, 0, 2, 1}, false)
	six := netip.MustParseAddr("2001:db8::1").AsSlice()
	f.Add(append(six, 32), six, true)
	f.Add(append(netip.MustParseAddr("::192.0.2.0").AsSlice(), 120), netip.MustParseAddr("::192.0.2.9").AsSlice(), true)
	f.Fuzz(func(t *testing.T, list, to []byte, masqueradeLinkLocal bool) {
		destination, ok := netip.AddrFromSlice(to)
		if !ok || destination.Is4In6() {
			return
		}
		c := config.Config{MasqueradeLinkLocal: masqueradeLinkLocal, MasqueradeLinkLocalIPv6: masqueradeLinkLocal}
		family, linkLocal := ruleset.IPv4, netip.MustParsePrefix("169.254.0.0/16")
		if destination.Is6() {
			family, linkLocal = ruleset.IPv6, netip.MustParsePrefix("fe80::/10")
		}
		spared := !masqueradeLinkLocal && linkLocal.Contains(destination)
		for size := len(to); len(list) > size; list = list[size+1:] {
			address, _ := netip.AddrFromSlice(list[:size])
			prefix, err := address.Prefix(int(list[size]) % (address.BitLen() + 1))
			if err != nil || prefix.Addr().Is4In6() {
				return
			}
			c.NonMasquerade = append(c.NonMasquerade, prefix)
			spared = spared || prefix.Contains(destination)
		}
		options := ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: true, ToPorts: []ruleset.PortRange{{First: 1, Last: 2}}}
		if got := masquerades(t, ruleset.Build(c, family, options), destination); got == spared {
			t.Errorf("%s with %v is masqueraded: %t", destination, c.NonMasquerade, got)
		}
	})
}
