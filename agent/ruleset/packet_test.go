package ruleset_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// router is a node between a pod and a server, whose rules are ours.
type router struct {
	*netns.Lab

	kernel *iptables.Kernel
	family ruleset.Family
}

// newRouter makes a router whose server has these addresses of the family.
func newRouter(t *testing.T, backend iptables.Backend, family ruleset.Family, destinations []netip.Addr) router {
	t.Helper()
	kernel, err := iptables.Open(backend)
	if err != nil {
		t.Fatal(err)
	}
	return router{Lab: netns.LabForTest(t, destinations...), kernel: kernel, family: family}
}

func (r router) apply(t *testing.T, c config.Config, o ruleset.Options) []iptables.Drift {
	t.Helper()
	var drift []iptables.Drift
	err := r.Node.Do(func() (err error) {
		drift, err = r.kernel.Apply(t.Context(), ruleset.Build(c, r.family, o))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return drift
}

// source is whom the server should see.
func (r router) source(masqueraded bool) netip.Addr {
	return netns.Source(r.family == ruleset.IPv6, masqueraded)
}

func prefixes(list ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(list))
	for i, s := range list {
		parsed[i] = netip.MustParsePrefix(s)
	}
	return parsed
}

func ofFamily[T any](list []T, family ruleset.Family, address func(T) netip.Addr) []T {
	return slices.DeleteFunc(slices.Clone(list), func(v T) bool { return address(v).Is4() != (family == ruleset.IPv4) })
}

func itself(a netip.Addr) netip.Addr { return a }

func backends() []iptables.Backend { return []iptables.Backend{iptables.NFT, iptables.Legacy} }

// TestPackets sends real packets and asks the server whom it sees.
func TestPackets(t *testing.T) {
	destinations := make([]netip.Addr, 0, 12)
	for _, s := range []string{
		"10.9.0.5", "10.200.3.4", "100.64.7.7", "169.254.77.7", "172.20.1.1", "192.168.9.9", "203.0.113.5", "198.51.100.255",
		"fd00:77::5", "fd99::1", "2001:db8::5", "2001:db8:ffff::5",
	} {
		destinations = append(destinations, netip.MustParseAddr(s))
	}
	masquerading := ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: true}
	tests := []struct {
		name        string
		config      config.Config
		options     ruleset.Options
		masqueraded []string // of the destinations; the others are spared
	}{
		{
			name: "defaults", config: config.Default(), options: masquerading,
			masqueraded: []string{
				"100.64.7.7", "203.0.113.5", "198.51.100.255",
				"fd00:77::5", "fd99::1", "2001:db8::5", "2001:db8:ffff::5",
			},
		},
		{
			name: "empty list", options: masquerading,
			masqueraded: []string{
				"10.9.0.5", "10.200.3.4", "100.64.7.7", "172.20.1.1", "192.168.9.9", "203.0.113.5", "198.51.100.255",
				"fd00:77::5", "fd99::1", "2001:db8::5", "2001:db8:ffff::5",
			},
		},
		{
			name: "link-local masqueraded", options: masquerading,
			config:      config.Config{MasqueradeLinkLocal: true, NonMasquerade: prefixes("0.0.0.0/1", "fd00::/16", "198.51.100.254/31")},
			masqueraded: []string{"169.254.77.7", "172.20.1.1", "192.168.9.9", "203.0.113.5", "fd99::1", "2001:db8::5", "2001:db8:ffff::5"},
		},
		{
			name: "hosts and neighbours", options: masquerading,
			config: config.Config{NonMasquerade: prefixes("10.9.0.5/32", "10.200.3.0/30", "100.64.7.6/32", "2001:db8::5/128", "2001:db8:fffe::/48", "fd99::/127")},
			masqueraded: []string{
				"10.200.3.4", "100.64.7.7", "172.20.1.1", "192.168.9.9", "203.0.113.5", "198.51.100.255",
				"fd00:77::5", "2001:db8:ffff::5",
			},
		},
		{
			name: "everything spared", options: masquerading,
			config: config.Config{NonMasquerade: prefixes("0.0.0.0/0", "::/0")},
		},
		{
			name: "port ranges", config: config.Default(),
			options: ruleset.Options{Chain: "IP-MASQ-AGENT", ToPorts: []ruleset.PortRange{{First: 2000, Last: 2099}, {First: 3000, Last: 3999}}},
			masqueraded: []string{
				"100.64.7.7", "203.0.113.5", "198.51.100.255",
				"fd00:77::5", "fd99::1", "2001:db8::5", "2001:db8:ffff::5",
			},
		},
	}
	for _, backend := range backends() {
		for _, family := range families() {
			t.Run(fmt.Sprintf("%s %s", backend, family), func(t *testing.T) {
				asked := ofFamily(destinations, family, itself)
				r := newRouter(t, backend, family, asked)
				for _, test := range tests {
					t.Run(test.name, func(t *testing.T) {
						r.apply(t, test.config, test.options)
						for _, destination := range asked {
							want := r.source(slices.Contains(test.masqueraded, destination.String()))
							for _, network := range []string{"udp", "tcp"} {
								r.check(t, network, destination, want, test.options.ToPorts)
							}
						}
					})
				}
			})
		}
	}
}

// check asks the server for the source it sees. One that is translated has a port of
// the ranges, if there are any.
func (r router) check(t *testing.T, network string, destination, want netip.Addr, ports []ruleset.PortRange) {
	t.Helper()
	seen, err := r.Pod.Ask(t.Context(), network, r.At(destination))
	if err != nil {
		t.Fatal(err)
	}
	if seen.Addr() != want {
		t.Errorf("%s to %s: the server saw %s, want %s", network, destination, seen.Addr(), want)
	}
	inRange := func(p ruleset.PortRange) bool { return seen.Port() >= p.First && seen.Port() <= p.Last }
	if want == r.source(true) && len(ports) > 0 && !slices.ContainsFunc(ports, inRange) {
		t.Errorf("%s to %s: source port %d is not in %v", network, destination, seen.Port(), ports)
	}
}

const (
	changes = 50
	packets = 20000
)

// TestNoWrongPacketDuringChanges changes the configuration again and again, as fast as
// it goes, while packets flow to destinations whose treatment no change touches.
func TestNoWrongPacketDuringChanges(t *testing.T) {
	for _, backend := range backends() {
		for _, family := range families() {
			t.Run(fmt.Sprintf("%s %s", backend, family), func(t *testing.T) {
				r, spared, masqueraded := underFire(t, backend, family)
				done := 0
				wrong, tally := r.flood(t, spared, masqueraded, packets, func() bool {
					done++
					c, o := change(done)
					if drift := r.apply(t, c, o); !slices.Contains(drift, iptables.ChainChanged) {
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
}

// TestWrongPacketsAreSeen shows that the test before can fail: a chain that is emptied
// and then filled lets packets through as they are.
func TestWrongPacketsAreSeen(t *testing.T) {
	for _, backend := range backends() {
		t.Run(string(backend), func(t *testing.T) {
			r, spared, masqueraded := underFire(t, backend, ruleset.IPv4)
			done := 0
			wrong, tally := r.flood(t, spared, masqueraded, packets/10, func() bool {
				done++
				r.Node.Output(t, "iptables-"+string(backend), "-w", "5", "-t", "nat", "-F", "IP-MASQ-AGENT")
				c, o := change(done)
				r.apply(t, c, o)
				return done >= changes/10
			})
			t.Logf("%d packets during %d changes in two steps: %d with a wrong source", tally.Sent, done, wrong)
			if wrong == 0 {
				t.Error("no packet had a wrong source")
			}
		})
	}
}

// underFire makes a router with rules in force, two destinations that change spares
// always, and two that it never does.
func underFire(t *testing.T, backend iptables.Backend, family ruleset.Family) (r router, spared, masqueraded []netip.Addr) {
	t.Helper()
	parse := netip.MustParseAddr
	spared = ofFamily([]netip.Addr{parse("10.9.0.5"), parse("10.9.255.1"), parse("fd00:9::5"), parse("fd00:9::ffff")}, family, itself)
	masqueraded = ofFamily([]netip.Addr{parse("203.0.113.5"), parse("198.51.100.1"), parse("2001:db8::5"), parse("2001:db8:1::5")}, family, itself)
	r = newRouter(t, backend, family, append(slices.Clone(spared), masqueraded...))
	c, o := change(0)
	r.apply(t, c, o)
	return r, spared, masqueraded
}

// change is one of many configurations that treat the destinations of underFire alike:
// one to 64 prefixes more, in front or behind, and other flags.
func change(number int) (config.Config, ruleset.Options) {
	always := prefixes("10.9.0.0/16", "fd00:9::/32")
	var more []netip.Prefix
	for i := range 1 + number*7%64 {
		more = append(more,
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100, byte(number), byte(i)}), 32),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1, byte(number), 15: byte(i)}), 128))
	}
	c := config.Config{NonMasquerade: append(always, more...), MasqueradeLinkLocal: number%3 == 0, MasqueradeLinkLocalIPv6: number%3 == 0}
	if number%2 == 0 {
		c.NonMasquerade = slices.Concat(more, always)
	}
	return c, ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: number%4 < 2}
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
