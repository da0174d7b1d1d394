package ruleset_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// packet is what the kernel knows of a new flow in POSTROUTING, without ports.
type packet struct {
	source, destination netip.Addr
	out                 string
}

// masquerades walks the text of a chain as the kernel would for a packet of a protocol
// without ports. It knows no more than the words that it expects.
func masquerades(t fataler, rules ruleset.Ruleset, p packet) bool {
	t.Helper()
	for _, rule := range rules.Rules {
		matches, target, ok := strings.Cut(strings.TrimPrefix(rule, "-A "+rules.Chain), ` -m comment --comment "ip-masq-agent: `)
		if !ok {
			t.Fatalf("rule %q has no comment of ours", rule)
		}
		if rest, ok := strings.CutPrefix(matches, " -m set --match-set masq-guard-"); ok {
			if !strings.HasSuffix(rest, ":IP-MASQ-AGENT dst") {
				t.Fatalf("rule %q asks a set in words that nobody expects", rule)
			}
			if !holds(rules.Set, p.destination) {
				continue
			}
		} else if !p.meets(t, matches) {
			continue
		}
		switch _, target, _ = strings.Cut(target, `" `); target {
		case "-j RETURN":
			return false
		case "-j MASQUERADE", "-j MASQUERADE --random-fully":
			return true
		default:
			t.Fatalf("rule %q has words that nobody expects: %q", rule, target)
		}
	}
	return false
}

// fataler is what testing.T and rapid.T have in common.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// holds tells, as the kernel does, whether an address is in a set: the longest prefix
// decides.
func holds(set *ruleset.Set, addr netip.Addr) bool {
	decides := ruleset.SetEntry{Exception: true}
	for _, e := range set.Entries {
		if e.Prefix.Contains(addr) && e.Prefix.Bits() > decides.Prefix.Bits() {
			decides = e
		}
	}
	return !decides.Exception
}

func (p packet) meets(t fataler, matches string) bool {
	t.Helper()
	words, meets := strings.Fields(matches), true
	for i := 0; i < len(words); i += 2 {
		inverted := words[i] == "!"
		if inverted {
			i++
		}
		if i+1 >= len(words) {
			t.Fatalf("match %q ends too early", matches)
		}
		var met bool
		switch option, value := words[i], words[i+1]; option {
		case "-s":
			met = netip.MustParsePrefix(value).Contains(p.source)
		case "-d":
			met = netip.MustParsePrefix(value).Contains(p.destination)
		case "-o":
			beginning, wildcard := strings.CutSuffix(value, "+")
			met = value == p.out || wildcard && strings.HasPrefix(p.out, beginning)
		case "-p":
			met = false
		default:
			t.Fatalf("match %q has words that nobody expects", matches)
		}
		meets = meets && met != inverted
	}
	return meets
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
		if got := masquerades(t, ruleset.Build(c, family, options), packet{destination: destination}); got == spared {
			t.Errorf("%s with %v is masqueraded: %t", destination, c.NonMasquerade, got)
		}
	})
}

// TestMeaning holds the chain against the Decision that it renders, for packets that
// have something to do with it.
func TestMeaning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		family := rapid.SampledFrom(families()).Draw(t, "family")
		c, o := drawConfig(t), drawOptions(t)
		rules := ruleset.Build(c, family, o)
		for range 8 {
			p := drawPacket(t, rules.Decision)
			want := rules.Masquerades(p.source, p.destination, p.out)
			if got := masquerades(t, rules, p); got != want {
				t.Fatalf("%+v is masqueraded: %t, want %t, by\n%s", p, got, want, rules)
			}
		}
	})
}

// drawConfig draws lists whose prefixes lie within each other often.
func drawConfig(t *rapid.T) config.Config {
	list := rapid.SliceOfN(rapid.Custom(drawPrefix), 0, 8)
	c := config.Config{
		NonMasquerade:           list.Draw(t, "nonMasquerade"),
		MasqueradeLinkLocal:     rapid.Bool().Draw(t, "masqLinkLocal"),
		MasqueradeLinkLocalIPv6: rapid.Bool().Draw(t, "masqLinkLocalIPv6"),
	}
	if rapid.Bool().Draw(t, "exceptions") {
		c.Masquerade = list.Draw(t, "masquerade")
	}
	return c
}

func drawPrefix(t *rapid.T) netip.Prefix {
	addr := drawAddr(t, rapid.SampledFrom(families()).Draw(t, "family"))
	prefix, err := addr.Prefix(rapid.SampledFrom([]int{0, 1, 2, 4, 7, 8, 9, 10, 16, 24, 31, addr.BitLen() - 1, addr.BitLen()}).Draw(t, "bits"))
	if err != nil {
		t.Fatal(err)
	}
	return prefix
}

// drawAddr draws one of few addresses.
func drawAddr(t *rapid.T, family ruleset.Family) netip.Addr {
	octet := rapid.SampledFrom([]byte{0, 1, 127, 128, 255})
	first := rapid.SampledFrom([]byte{10, 11, 169, 224}).Draw(t, "first")
	if family == ruleset.IPv4 {
		return netip.AddrFrom4([4]byte{first, rapid.SampledFrom([]byte{0, 254}).Draw(t, "second"), octet.Draw(t, "third"), octet.Draw(t, "fourth")})
	}
	return netip.AddrFrom16([16]byte{0xf0 | first, octet.Draw(t, "second"), octet.Draw(t, "third"), 15: octet.Draw(t, "last")})
}

func drawOptions(t *rapid.T) ruleset.Options {
	o := ruleset.Options{
		Chain: "IP-MASQ-AGENT", RandomFully: rapid.Bool().Draw(t, "random"), SpareMulticast: rapid.Bool().Draw(t, "multicast"),
		Sources:    rapid.SliceOfN(rapid.Custom(drawPrefix), 0, 3).Draw(t, "sources"),
		Interfaces: rapid.SliceOfN(rapid.SampledFrom([]string{"eth0", "eth1", "eth+", "eth1+", "bond0"}), 0, 3).Draw(t, "interfaces"),
	}
	o.Sets, o.SetThreshold = rapid.Bool().Draw(t, "sets"), rapid.IntRange(0, 3).Draw(t, "threshold")
	if rapid.Bool().Draw(t, "ports") {
		o.ToPorts = []ruleset.PortRange{{First: 1024, Last: 2047}, {First: 4096, Last: 4096}}
	}
	return o
}

func drawPacket(t *rapid.T, d ruleset.Decision) packet {
	near := func(name string, lists ...[]netip.Prefix) netip.Addr {
		prefixes := slices.Concat(lists...)
		if len(prefixes) == 0 || rapid.Bool().Draw(t, name+" anywhere") {
			return drawAddr(t, d.Family)
		}
		return rapid.SampledFrom(prefixes).Draw(t, name).Addr()
	}
	return packet{
		source: near("source", d.Sources), destination: near("destination", d.Spared, d.Exceptions),
		out: rapid.SampledFrom([]string{"eth0", "eth1", "eth10", "bond0", "lo"}).Draw(t, "out"),
	}
}
