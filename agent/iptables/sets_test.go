package iptables_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// withSet is the ruleset that spares these destinations through a set; a prefix after "!"
// is an exception.
func (n node) withSet(list ...string) ruleset.Ruleset {
	return ruleset.Build(lists(list...), n.family, setOptions())
}

func lists(list ...string) config.Config {
	var c config.Config
	for _, item := range list {
		if exception, ok := strings.CutPrefix(item, "!"); ok {
			c.Masquerade = append(c.Masquerade, netip.MustParsePrefix(exception))
		} else {
			c.NonMasquerade = append(c.NonMasquerade, netip.MustParsePrefix(item))
		}
	}
	return c
}

func setOptions() ruleset.Options {
	o := plainOptions()
	o.Sets = true
	return o
}

// ipset is the other implementation of what this package does over netlink.
func (n node) ipset(tb testing.TB, args ...string) string {
	tb.Helper()
	return n.Output(tb, "ipset", args...)
}

// sets are all of the host, as ipset restore would make them, entries sorted.
func (n node) sets(tb testing.TB) []string {
	tb.Helper()
	var sets []string
	for line := range strings.Lines(n.ipset(tb, "save")) {
		// The kernel draws initval, and newer ones print the size of a bucket.
		line, _, _ = strings.Cut(strings.TrimSpace(line), " bucketsize ")
		sets = append(sets, line)
	}
	slices.Sort(sets)
	return sets
}

// holdsSet checks that the host holds the rules, the set and no other.
func (n node) holdsSet(tb testing.TB, want ruleset.Ruleset) {
	tb.Helper()
	n.holds(tb, want)
	n.holdsSetAlone(tb, want.Set)
}

func (n node) holdsSetAlone(tb testing.TB, want *ruleset.Set) {
	tb.Helper()
	var lines []string
	if want != nil {
		lines = strings.Split(strings.TrimSpace(want.String()), "\n")
		slices.Sort(lines)
	}
	if diff := cmp.Diff(lines, n.sets(tb)); diff != "" {
		tb.Errorf("the sets differ (-want +got):\n%s", diff)
	}
}

func TestSetInKernel(t *testing.T) {
	tests := []struct {
		name string
		list []string
	}{
		{name: "empty"},
		{name: "plain", list: []string{"10.0.0.0/8", "192.0.2.1/32", "fd00::/8", "2001:db8::1/128", "10.0.0.0/8"}},
		{name: "everything", list: []string{"0.0.0.0/0", "::/0"}},
		{name: "exceptions", list: []string{"10.0.0.0/8", "!10.1.0.0/16", "10.1.2.0/24", "fd00::/8", "!fd00:1::/32", "fd00:1:2::/48"}},
		{name: "halves and exceptions", list: []string{"0.0.0.0/0", "!128.0.0.0/1", "::/0", "!8000::/1", "!::/0"}},
		{name: "many", list: many(3000, 0)},
	}
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			for _, test := range tests {
				t.Run(test.name, func(t *testing.T) {
					n.other(t, "-F")
					n.other(t, "-X")
					n.ipset(t, "destroy")
					want := n.withSet(test.list...)
					drift := n.apply(t, want)
					wantDrift := []iptables.Drift{iptables.ChainMissing, iptables.JumpMissing, iptables.SetMissing}
					if diff := cmp.Diff(wantDrift, drift); diff != "" {
						t.Errorf("drift differs (-want +got):\n%s", diff)
					}
					n.holdsSet(t, want)
					before := n.state(t)
					if drift := n.apply(t, want); len(drift) > 0 {
						t.Errorf("the second time there is drift %v", drift)
					}
					if diff := cmp.Diff(before, n.state(t)); diff != "" {
						t.Errorf("the second time something is written (-before +after):\n%s", diff)
					}
				})
			}
		})
	}
}

// many are hosts of both families, apart for each generation but for the first half.
func many(count, generation int) []string {
	var list []string
	for i := range count {
		g := generation
		if i < count/2 {
			g = 0
		}
		list = append(list, fmt.Sprintf("10.%d.%d.%d/32", 100+g, i>>8, i&255), fmt.Sprintf("fd00:%d::%x/128", 100+g, i))
	}
	return list
}

// TestSetChanges goes from each list to each other; the kernel then holds what a fresh
// start would give it.
func TestSetChanges(t *testing.T) {
	wants := func(n node) []ruleset.Ruleset {
		visible := n.spare("10.0.0.0/8", "fd00::/8")
		ports := setOptions()
		ports.RandomFully, ports.ToPorts = false, []ruleset.PortRange{{First: 1024, Last: 2047}}
		return []ruleset.Ruleset{
			visible,
			n.withSet("10.0.0.0/8", "fd00::/8"),
			n.withSet("10.0.0.0/8", "192.168.0.0/16", "fd00::/8", "fd01::/16"),
			n.withSet("10.0.0.0/8", "!10.1.0.0/16", "fd00::/8", "!fd00:1::/32"),
			n.withSet("10.0.0.0/8", "10.1.0.0/16", "fd00::/8", "fd00:1::/32"),
			n.withSet(many(100, 0)...),
			n.withSet(many(100, 1)...),
			n.withSet(),
			ruleset.Build(lists("10.0.0.0/8", "172.16.0.0/12", "fd00::/8", "fd02::/16"), n.family, ports),
		}
	}
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			all := wants(n)
			for _, from := range all {
				for _, to := range all {
					n.apply(t, from)
					n.apply(t, to)
					n.holdsSet(t, to)
					if t.Failed() {
						t.Fatalf("from\n%s%v\nto\n%s%v", from, from.Set, to, to.Set)
					}
				}
			}
		})
	}
}

// TestSetDriftIsMended harms the rules and the set as others would, or as an end of the
// agent in the midst of a change leaves them.
func TestSetDriftIsMended(t *testing.T) {
	tests := []struct {
		name  string
		harm  func(tb testing.TB, n node, set, next string)
		drift []iptables.Drift
	}{
		{name: "flushed set", drift: []iptables.Drift{iptables.SetChanged}, harm: func(tb testing.TB, n node, set, _ string) {
			tb.Helper()
			n.ipset(tb, "flush", set)
		}},
		{name: "entry added and deleted", drift: []iptables.Drift{iptables.SetChanged}, harm: func(tb testing.TB, n node, set, _ string) {
			tb.Helper()
			n.ipset(tb, "add", set, n.prefix("198.51.100.0/24", "2001:db8::/32"))
			n.ipset(tb, "del", set, n.prefix("10.0.0.0/8", "fd00::/8"))
		}},
		{name: "entry made an exception", drift: []iptables.Drift{iptables.SetChanged}, harm: func(tb testing.TB, n node, set, _ string) {
			tb.Helper()
			n.ipset(tb, "del", set, n.prefix("10.0.0.0/8", "fd00::/8"))
			n.ipset(tb, "add", set, n.prefix("10.0.0.0/8", "fd00::/8"), "nomatch")
		}},
		{
			name: "chain flushed, set destroyed", drift: []iptables.Drift{iptables.ChainChanged, iptables.SetMissing},
			harm: func(tb testing.TB, n node, set, _ string) {
				tb.Helper()
				n.other(tb, "-F", "IP-MASQ-AGENT")
				n.ipset(tb, "destroy", set)
			},
		},
		{
			name: "another type by our name", drift: []iptables.Drift{iptables.ChainChanged, iptables.SetChanged},
			harm: func(tb testing.TB, n node, set, _ string) {
				tb.Helper()
				n.other(tb, "-F", "IP-MASQ-AGENT")
				n.ipset(tb, "destroy", set)
				n.ipset(tb, "create", set, "hash:ip", "family", n.prefix("inet", "inet6"))
			},
		},
		{
			name: "another type by our name, asked by our chain", drift: []iptables.Drift{iptables.ChainChanged, iptables.SetChanged},
			harm: func(tb testing.TB, n node, set, _ string) {
				tb.Helper()
				n.other(tb, "-F", "IP-MASQ-AGENT")
				n.ipset(tb, "destroy", set)
				n.ipset(tb, "create", set, "hash:ip", "family", n.prefix("inet", "inet6"))
				n.other(tb, "-A", "IP-MASQ-AGENT", "-m", "set", "--match-set", set, "dst", "-j", "RETURN")
			},
		},
		{name: "timeouts", drift: []iptables.Drift{iptables.SetChanged}, harm: func(tb testing.TB, n node, set, next string) {
			tb.Helper()
			n.ipset(tb, "create", next, "hash:net", "family", n.prefix("inet", "inet6"), "timeout", "1000", "comment", "counters")
			n.ipset(tb, "swap", set, next)
		}},
		{name: "ended before the swap", drift: nil, harm: func(tb testing.TB, n node, _, next string) {
			tb.Helper()
			n.ipset(tb, "create", next, "hash:net", "family", n.prefix("inet", "inet6"))
		}},
		{name: "ended after the swap", drift: []iptables.Drift{iptables.SetChanged}, harm: func(tb testing.TB, n node, set, next string) {
			tb.Helper()
			n.ipset(tb, "create", next, "hash:net", "family", n.prefix("inet", "inet6"))
			n.ipset(tb, "add", next, n.prefix("198.51.100.0/24", "2001:db8::/32"))
			n.ipset(tb, "swap", set, next)
		}},
		{
			name: "ended between two restores", drift: []iptables.Drift{iptables.ChainChanged, iptables.SetMissing},
			harm: func(tb testing.TB, n node, set, next string) {
				tb.Helper()
				n.ipset(tb, "create", next, "hash:net", "family", n.prefix("inet", "inet6"))
				n.other(tb, "-R", "IP-MASQ-AGENT", "1", "-m", "set", "--match-set", next, "dst", "-j", "RETURN")
				n.ipset(tb, "destroy", set)
			},
		},
	}
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			want := n.withSet("10.0.0.0/8", "192.168.0.0/16", "fd00::/8", "fd01::/16")
			set, next := ruleset.SetNames("IP-MASQ-AGENT", n.family)
			for _, test := range tests {
				t.Run(test.name, func(t *testing.T) {
					n.apply(t, want)
					test.harm(t, n, set, next)
					if diff := cmp.Diff(test.drift, n.inspect(t, want)); diff != "" {
						t.Errorf("Inspect: drift differs (-want +got):\n%s", diff)
					}
					if diff := cmp.Diff(test.drift, n.apply(t, want)); diff != "" {
						t.Errorf("drift differs (-want +got):\n%s", diff)
					}
					n.holdsSet(t, want)
				})
			}
		})
	}
}

// prefix is that of the node's family.
func (n node) prefix(ipv4, ipv6 string) string {
	if n.family == ruleset.IPv6 {
		return ipv6
	}
	return ipv4
}

// TestSetThatOthersAsk: their rule goes on to work, and stops nothing.
func TestSetThatOthersAsk(t *testing.T) {
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			n.apply(t, n.withSet("10.0.0.0/8", "fd00::/8"))
			set, _ := ruleset.SetNames("IP-MASQ-AGENT", n.family)
			foreign := []string{"OUTPUT", "-m", "set", "--match-set", set, "dst", "-j", "RETURN"}
			n.other(t, append([]string{"-A"}, foreign...)...)

			options := setOptions()
			options.RandomFully = false
			both := ruleset.Build(lists("10.0.0.0/8", "192.168.0.0/16", "fd00::/8", "fd01::/16"), n.family, options)
			n.apply(t, both)
			n.holdsSetAlone(t, both.Set)

			visible := n.spare("10.0.0.0/8", "fd00::/8")
			n.apply(t, visible)
			n.holdsSetAlone(t, both.Set)
			n.other(t, append([]string{"-D"}, foreign...)...)
			n.apply(t, visible)
			n.holdsSetAlone(t, nil)
		})
	}
}

// TestOtherBackendAsksTheSet: the rules of both are in force until those of the former one
// are removed.
func TestOtherBackendAsksTheSet(t *testing.T) {
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			former := place{iptables.NFT, p.family}
			if p.backend == iptables.NFT {
				former.backend = iptables.Legacy
			}
			kernel, err := iptables.Open(former.backend)
			if err != nil {
				t.Fatal(err)
			}
			before := node{Host: n.Host, place: former, kernel: kernel}
			before.apply(t, n.withSet(many(50, 0)...))
			options := setOptions()
			options.RandomFully = false
			for _, list := range [][]string{many(40, 1), many(1000, 2), {"10.0.0.0/8", "!10.1.0.0/16", "fd00::/8", "!fd00:1::/32"}} {
				want := ruleset.Build(lists(list...), n.family, options)
				n.apply(t, want)
				n.holdsSet(t, want)
				options.RandomFully = !options.RandomFully
			}
		})
	}
}

// TestOtherSetsStay: those of another chain, of the other family and of strangers.
func TestOtherSetsStay(t *testing.T) {
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			n.ipset(t, "create", "masq-guard", "hash:net")
			n.ipset(t, "create", "masq-guard-4:IP-MASQ", "hash:net")
			n.ipset(t, "create", "masq-guard-6+IP-MASQ", "hash:net")
			want := n.sets(t)
			n.apply(t, n.withSet("10.0.0.0/8", "fd00::/8"))
			n.apply(t, n.spare("10.0.0.0/8", "fd00::/8"))
			if diff := cmp.Diff(want, n.sets(t)); diff != "" {
				t.Errorf("the sets of others differ (-want +got):\n%s", diff)
			}
		})
	}
}
