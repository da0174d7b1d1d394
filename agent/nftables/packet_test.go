package nftables

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// router is a node between a pod and a server, whose table is ours.
type router struct {
	*netns.Lab
	node
}

func newRouter(t *testing.T, family ruleset.Family, destinations []netip.Addr) router {
	t.Helper()
	lab := netns.LabForTest(t, destinations...)
	return router{lab, node{Host: lab.Node, kernel: Open(), family: family}}
}

// source is whom the server should see.
func (r router) source(masqueraded bool) netip.Addr {
	return netns.Source(r.family == ruleset.IPv6, masqueraded)
}

// serverInterface is that of the node towards the server.
const serverInterface = "server"

// TestPacketsAgreeWithDecisions sends real packets for decisions by chance and asks the
// server whom it sees.
func TestPacketsAgreeWithDecisions(t *testing.T) {
	const decisions = 40
	for _, family := range families() {
		t.Run(family.String(), func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			chance := rand.New(rand.NewPCG(seed, 0))
			asked := edges(family)
			r := newRouter(t, family, asked)
			pod, count := r.source(false), map[bool]int{}
			for i := range decisions {
				want := randomRuleset(chance, family)
				r.apply(t, want)
				for _, destination := range asked {
					masqueraded := want.Masquerades(pod, destination, serverInterface)
					count[masqueraded]++
					network := []string{"udp", "tcp"}[i%2]
					seen, err := r.Pod.Ask(t.Context(), network, r.At(destination))
					if err != nil {
						t.Fatal(err)
					}
					if seen.Addr() != r.source(masqueraded) {
						t.Errorf("%s to %s: the server saw %s, want %s; %+v", network, destination, seen.Addr(), r.source(masqueraded), want.Decision)
					}
					inRange := func(p ruleset.PortRange) bool { return seen.Port() >= p.First && seen.Port() <= p.Last }
					if masqueraded && len(want.ToPorts) > 0 && !slices.ContainsFunc(want.ToPorts, inRange) {
						t.Errorf("%s to %s: source port %d is not in %v", network, destination, seen.Port(), want.ToPorts)
					}
				}
			}
			if count[false] < decisions || count[true] < decisions {
				t.Errorf("%d packets were to be spared and %d masqueraded: that shows little", count[false], count[true])
			}
		})
	}
}

// edges are destinations at both ends of prefixes that randomPrefix makes.
func edges(family ruleset.Family) []netip.Addr {
	texts := []string{"10.0.0.0", "10.0.0.127", "10.0.1.255", "10.1.0.77", "10.1.1.128", "203.0.113.5", "169.254.7.7"}
	if family == ruleset.IPv6 {
		texts = []string{"fd01::7f", "fd01::80", "fd01:100::", "fd01:100::ff", "2001:db8::5", "fd02::1"}
	}
	var addresses []netip.Addr
	for _, text := range texts {
		addresses = append(addresses, netip.MustParseAddr(text))
	}
	return addresses
}

// TestPortsAreSharedBySize counts the ports of many connections.
func TestPortsAreSharedBySize(t *testing.T) {
	const connections = 600
	destination := netip.MustParseAddr("203.0.113.5")
	r := newRouter(t, ruleset.IPv4, []netip.Addr{destination})
	ranges := []ruleset.PortRange{{First: 10000, Last: 10999}, {First: 20000, Last: 22999}, {First: 30000, Last: 35999}}
	r.apply(t, ruleset.Build(config.Config{}, r.family, ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: true, ToPorts: ranges}))
	counts := make([]int, len(ranges))
	for range connections {
		seen, err := r.Pod.Ask(t.Context(), "udp", r.At(destination))
		if err != nil {
			t.Fatal(err)
		}
		counts[slices.IndexFunc(ranges, func(p ruleset.PortRange) bool { return seen.Port() >= p.First && seen.Port() <= p.Last })]++
	}
	// Of 600: 60, 180 and 360, each within five standard deviations.
	for i, bounds := range [][2]int{{23, 97}, {123, 237}, {299, 421}} {
		if counts[i] < bounds[0] || counts[i] > bounds[1] {
			t.Errorf("%d connections have ports of %s, want %d to %d; %v", counts[i], ranges[i], bounds[0], bounds[1], counts)
		}
	}
}

// TestOrderAmongOthers shows who wins for a packet that both we and another program
// have a rule for: the other one, whoever started last, as with the jump of the iptables
// form, which is appended.
func TestOrderAmongOthers(t *testing.T) {
	const other = "192.0.2.77"
	destination := netip.MustParseAddr("203.0.113.5")
	forms := map[string]func(r router){
		"native": func(r router) {
			r.other(t, "table ip kube-proxy { chain nat-postrouting { type nat hook postrouting priority srcnat; snat to "+other+"; }; }")
		},
		"iptables-nft": func(r router) {
			r.Node.Output(t, "iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-j", "SNAT", "--to-source", other)
		},
		"iptables-legacy": func(r router) {
			r.Node.Output(t, "iptables-legacy", "-w", "-t", "nat", "-A", "POSTROUTING", "-j", "SNAT", "--to-source", other)
		},
	}
	for name, add := range forms {
		for _, oursFirst := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, ours first: %v", name, oursFirst), func(t *testing.T) {
				r := newRouter(t, ruleset.IPv4, []netip.Addr{destination})
				if err := r.Server.AddRoute(netip.MustParsePrefix(other+"/32"), netns.NodeIPv4); err != nil {
					t.Fatal(err)
				}
				if err := r.Node.AddAddresses("lo", netip.MustParsePrefix(other+"/32")); err != nil {
					t.Fatal(err)
				}
				if oursFirst {
					r.apply(t, r.spare("10.0.0.0/8"))
				}
				add(r)
				r.apply(t, r.spare("10.0.0.0/8"))
				seen, err := r.Pod.Ask(t.Context(), "udp", r.At(destination))
				if err != nil || seen.Addr() != netip.MustParseAddr(other) {
					t.Errorf("the server saw %s (%v), want %s", seen.Addr(), err, other)
				}
			})
		}
	}
}

const (
	changes = 50
	packets = 20000
)

// TestNoWrongPacketDuringChanges changes the table again and again, as fast as it goes,
// while packets flow to destinations whose treatment no change touches. Some changes
// touch the element that such a destination is in.
func TestNoWrongPacketDuringChanges(t *testing.T) {
	for _, family := range families() {
		t.Run(family.String(), func(t *testing.T) {
			r, spared, masqueraded := underFire(t, family)
			done := 0
			wrong, tally := r.flood(t, spared, masqueraded, packets, func() bool {
				done++
				if drift := r.apply(t, change(done, family)); len(drift) == 0 {
					t.Errorf("change %d wrote nothing", done)
				}
				return done >= changes
			})
			t.Logf("%d packets during %d changes: %d with a wrong source, %d lost", tally.Sent, done, wrong, tally.Lost)
			if wrong > 0 || tally.Lost > 0 {
				t.Errorf("sources seen: %v", tally.Sources)
			}
			if tally.Sent < packets || done < changes {
				t.Errorf("%d packets and %d changes, want at least %d and %d", tally.Sent, done, packets, changes)
			}
		})
	}
}

// TestWrongPacketsAreSeen shows that the test before can fail: a table that is deleted
// and then made lets packets through as they are.
func TestWrongPacketsAreSeen(t *testing.T) {
	r, spared, masqueraded := underFire(t, ruleset.IPv4)
	done := 0
	wrong, tally := r.flood(t, spared, masqueraded, packets/10, func() bool {
		done++
		r.other(t, "delete table OURS")
		r.apply(t, change(done, r.family))
		return done >= changes/10
	})
	t.Logf("%d packets during %d changes in two steps: %d with a wrong source", tally.Sent, done, wrong)
	if wrong == 0 {
		t.Error("no packet had a wrong source")
	}
}

// underFire makes a router with a table in force, two destinations that change spares
// always, and two that it never does.
func underFire(t *testing.T, family ruleset.Family) (r router, spared, masqueraded []netip.Addr) {
	t.Helper()
	parse := netip.MustParseAddr
	spared = []netip.Addr{parse("10.9.0.5"), parse("10.9.255.1")}
	masqueraded = []netip.Addr{parse("203.0.113.5"), parse("198.51.100.1")}
	if family == ruleset.IPv6 {
		spared = []netip.Addr{parse("fd00:9::5"), parse("fd00:9::ffff")}
		masqueraded = []netip.Addr{parse("2001:db8::5"), parse("2001:db8:1::5")}
	}
	r = newRouter(t, family, append(slices.Clone(spared), masqueraded...))
	r.apply(t, change(0, family))
	return r, spared, masqueraded
}

// change is one of many rulesets that treat the destinations of underFire alike: one to
// 64 prefixes more, now and then beside the one that spares them, which then is
// another element, and other flags.
func change(number int, family ruleset.Family) ruleset.Ruleset {
	c := config.Config{
		NonMasquerade:       prefixes("10.9.0.0/16", "fd00:9::/32"),
		MasqueradeLinkLocal: number%7 == 0, MasqueradeLinkLocalIPv6: number%7 == 0,
	}
	if number%3 == 1 {
		c.NonMasquerade = append(c.NonMasquerade, prefixes("10.8.0.0/16", "fd00:8::/32")...)
	}
	if number%5 == 1 {
		c.Masquerade = prefixes("10.9.128.0/24", "fd00:9:1::/48")
	}
	for i := range 1 + number*7%64 {
		c.NonMasquerade = append(c.NonMasquerade,
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100, byte(number), byte(2 * i)}), 32),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1, byte(number), 15: byte(2 * i)}), 128))
	}
	return ruleset.Build(c, family, ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: number%11 < 9})
}

// flood floods the lab, and ends the test where that fails.
func (r router) flood(
	t *testing.T, spared, masqueraded []netip.Addr, atLeast int, disturb func() (content bool),
) (wrong int, tally netns.Tally) {
	t.Helper()
	wrong, tally, err := r.FloodWhile(t.Context(), spared, masqueraded, atLeast, disturb)
	if err != nil {
		t.Fatal(err)
	}
	return wrong, tally
}
