package ruleset_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

const (
	crossings  = 50
	cycle      = 3 // of lists, the first of which is short
	longerThan = 20
)

// crossing is one of a cycle of configurations that treat the destinations of underFire
// alike: a list of rules, then two sets. The second one is the first with other entries,
// with exceptions, or with other flags too.
func crossing(number int) (config.Config, ruleset.Options) {
	c := config.Config{NonMasquerade: prefixes("10.9.0.0/16", "fd00:9::/32")}
	if number%2 > 0 {
		c.NonMasquerade = prefixes("10.8.0.0/15", "fd00:8::/31") // the same, by another entry
	}
	o := ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: true, Sets: true, SetThreshold: longerThan}
	more := 5
	if number%cycle > 0 {
		more = 400 + number%7
	}
	for i := range more {
		third := byte(i >> 8)
		if i%5 == 0 { // few enough for a set to be changed as it stands
			third += byte(number % 5 * 4)
		}
		c.NonMasquerade = append(c.NonMasquerade,
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100, third, byte(i)}), 32),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1, third, 15: byte(i)}), 128))
	}
	if number%cycle == 2 {
		switch number / cycle % 3 {
		case 0: // another list is all
		case 1:
			// Around what is masqueraded anyway, and around what a longer prefix spares.
			c.Masquerade = prefixes("203.0.113.0/24", "10.0.0.0/8", "2001:db8::/32", "fd00::/8")
		case 2:
			c.MasqueradeLinkLocal, c.MasqueradeLinkLocalIPv6 = true, true
			o.RandomFully = false
		}
	}
	return c, o
}

// TestNoWrongPacketBetweenRulesAndSets crosses the threshold to and fro while packets flow
// to destinations whose treatment no change touches.
func TestNoWrongPacketBetweenRulesAndSets(t *testing.T) {
	for _, backend := range backends() {
		for _, family := range families() {
			t.Run(fmt.Sprintf("%s %s", backend, family), func(t *testing.T) {
				r, spared, masqueraded := underFire(t, backend, family)
				done, crossed, wasSet := 0, 0, false
				wrong, tally := r.flood(t, spared, masqueraded, packets, func() bool {
					done++
					c, o := crossing(done)
					if drift := r.apply(t, c, o); len(drift) == 0 {
						t.Errorf("change %d wrote nothing", done)
					}
					if isSet := ruleset.Build(c, family, o).Set != nil; isSet != wasSet {
						crossed++
						wasSet = isSet
					}
					return crossed >= crossings
				})
				t.Logf("%d packets during %d changes, %d of them over the threshold: %d with a wrong source, %d lost",
					tally.Sent, done, crossed, wrong, tally.Lost)
				if wrong > 0 || tally.Lost > 0 {
					t.Errorf("sources seen: %v", tally.Sources)
				}
				if tally.Sent < packets || crossed < crossings {
					t.Errorf("%d packets and %d crossings, want at least %d and %d", tally.Sent, crossed, packets, crossings)
				}
			})
		}
	}
}

// junction is a router with two pods and two ways out.
type junction struct {
	router

	pods map[netip.Addr]*netns.Host
	ways []way
}

// way is an interface of the node to a server.
type way struct {
	out          string
	node         netip.Addr // what the server sees of masqueraded packets
	destinations []netip.Addr
}

func newJunction(t *testing.T, p place) junction {
	t.Helper()
	parse := netip.MustParsePrefix
	near, far := []string{"10.1.0.5", "10.1.2.3", "169.254.7.7", "203.0.113.5"}, []string{"10.1.0.6", "10.200.0.1", "169.254.7.8", "198.51.100.9"}
	podAddr, nodeAddr, second := netns.PodIPv4, netns.NodeIPv4, [4]string{"10.245.1.1/24", "10.245.1.2/24", "192.168.101.1/24", "192.168.101.2/24"}
	if p.family == ruleset.IPv6 {
		near, far = []string{"fd01::5", "fd01:2::3", "2001:db8::5", "2001:db8:1::1"}, []string{"fd01::6", "fd02::1", "2001:db8::6", "2001:db8:2::1"}
		podAddr, nodeAddr = netns.PodIPv6, netns.NodeIPv6
		second = [4]string{"fd00:10:245:1::1/64", "fd00:10:245:1::2/64", "fd00:192:168:101::1/64", "fd00:192:168:101::2/64"}
	}
	addresses := func(list []string) []netip.Addr {
		parsed := make([]netip.Addr, len(list))
		for i, s := range list {
			parsed[i] = netip.MustParseAddr(s)
		}
		return parsed
	}
	j := junction{router: newRouter(t, p.backend, p.family, addresses(near))}
	pod, server := netns.ForTest(t), netns.ForTest(t)
	gateway, wan := parse(second[0]), parse(second[2])
	end := func(host *netns.Host, name, address string) netns.End {
		return netns.End{Host: host, Interface: name, Addresses: []netip.Prefix{parse(address)}}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netns.Connect(end(pod, "eth0", second[1]), end(j.Node, "pod2", second[0])))
	must(netns.Connect(end(j.Node, "wan1", second[2]), end(server, "eth0", second[3])))
	everywhere := netip.PrefixFrom(gateway.Addr(), 0).Masked()
	must(pod.AddRoute(everywhere, gateway.Addr()))
	must(server.AddRoute(everywhere, wan.Addr()))
	must(j.Server.AddRoute(gateway, nodeAddr))
	var endpoints []netip.AddrPort
	for _, destination := range addresses(far) {
		must(server.AddAddresses("lo", netip.PrefixFrom(destination, destination.BitLen())))
		must(j.Node.AddRoute(netip.PrefixFrom(destination, destination.BitLen()), parse(second[3]).Addr()))
		endpoints = append(endpoints, j.At(destination))
	}
	echo, err := server.Echo(endpoints...)
	must(err)
	t.Cleanup(func() { _ = echo.Close() })
	j.pods = map[netip.Addr]*netns.Host{podAddr: j.Pod, parse(second[1]).Addr(): pod}
	j.ways = []way{{"server", nodeAddr, addresses(near)}, {"wan1", wan.Addr(), addresses(far)}}
	return j
}

// TestPacketsMeetTheDecision sends real packets through random rules, visible and as sets,
// from each pod to each destination over each interface.
func TestPacketsMeetTheDecision(t *testing.T) {
	const configs = 40
	for _, backend := range backends() {
		for _, family := range families() {
			t.Run(fmt.Sprintf("%s %s", backend, family), func(t *testing.T) {
				j := newJunction(t, place{backend, family})
				seed := rand.Uint64()
				t.Logf("seed %d", seed)
				random := rand.New(rand.NewPCG(seed, 0))
				for range configs {
					c, o := j.draw(random)
					for _, threshold := range []int{0, ruleset.MaxSetThreshold} {
						o.SetThreshold = threshold
						j.apply(t, c, o)
						j.checkAll(t, ruleset.Build(c, family, o))
						if t.Failed() {
							t.FailNow()
						}
					}
				}
			})
		}
	}
}

// draw draws lists and flags around what there is.
func (j junction) draw(random *rand.Rand) (config.Config, ruleset.Options) {
	around := func(of func() netip.Addr, most int) []netip.Prefix {
		var list []netip.Prefix
		for range random.IntN(most + 1) {
			addr := of()
			prefix, err := addr.Prefix(random.IntN(addr.BitLen() + 1))
			if err == nil {
				list = append(list, prefix)
			}
		}
		return list
	}
	destination := func() netip.Addr {
		w := j.ways[random.IntN(len(j.ways))]
		return w.destinations[random.IntN(len(w.destinations))]
	}
	pods := slices.SortedFunc(maps.Keys(j.pods), netip.Addr.Compare)
	pod := func() netip.Addr { return pods[random.IntN(len(pods))] }
	c := config.Config{
		NonMasquerade: around(destination, 4), Masquerade: around(destination, 3),
		MasqueradeLinkLocal: random.IntN(2) == 0, MasqueradeLinkLocalIPv6: random.IntN(2) == 0,
	}
	o := ruleset.Options{
		Chain: "IP-MASQ-AGENT", Sets: true, RandomFully: random.IntN(2) == 0, SpareMulticast: random.IntN(2) == 0,
		Sources: around(pod, 2),
	}
	for _, name := range []string{"server", "wan+", "eth0"} {
		if random.IntN(3) == 0 {
			o.Interfaces = append(o.Interfaces, name)
		}
	}
	return c, o
}

func (j junction) checkAll(t *testing.T, rules ruleset.Ruleset) {
	t.Helper()
	for source, pod := range j.pods {
		for _, w := range j.ways {
			for _, destination := range w.destinations {
				want := source
				if rules.Masquerades(source, destination, w.out) {
					want = w.node
				}
				seen, err := pod.Ask(t.Context(), "udp", j.At(destination))
				if err != nil {
					t.Fatal(err)
				}
				if seen.Addr() != want {
					t.Errorf("from %s to %s through %s: the server saw %s, want %s, by\n%s%v",
						source, destination, w.out, seen.Addr(), want, rules, rules.Set)
				}
			}
		}
	}
}

// place is where rules can be.
type place struct {
	backend iptables.Backend
	family  ruleset.Family
}
