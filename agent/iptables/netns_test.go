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
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// place is where rules can be.
type place struct {
	backend iptables.Backend
	family  ruleset.Family
}

func (p place) String() string { return fmt.Sprintf("%s %s", p.backend, p.family) }

// places are all there are; a test runs in each.
func places() []place {
	return []place{
		{iptables.NFT, ruleset.IPv4},
		{iptables.NFT, ruleset.IPv6},
		{iptables.Legacy, ruleset.IPv4},
		{iptables.Legacy, ruleset.IPv6},
	}
}

// node is a throw-away host with a Kernel; its methods use the commands of its place.
type node struct {
	*netns.Host
	place

	kernel *iptables.Kernel
}

func (p place) node(tb testing.TB) node {
	tb.Helper()
	host := netns.ForTest(tb)
	kernel, err := iptables.Open(p.backend)
	if err != nil {
		tb.Fatal(err)
	}
	return node{Host: host, place: p, kernel: kernel}
}

func (n node) command(suffix string) string {
	name := "iptables"
	if n.family == ruleset.IPv6 {
		name = "ip6tables"
	}
	return name + "-" + string(n.backend) + suffix
}

// other changes the nat table as another program would.
func (n node) other(tb testing.TB, args ...string) {
	tb.Helper()
	n.Output(tb, n.command(""), append([]string{"-w", "5", "-t", "nat"}, args...)...)
}

// otherRestores is other for a whole transaction.
func (n node) otherRestores(tb testing.TB, text string, args ...string) {
	tb.Helper()
	if _, err := n.Feed(tb.Context(), text, n.command("-restore"), append([]string{"-w", "5"}, args...)...); err != nil {
		tb.Fatal(err)
	}
}

// rules are those of the nat table, in the words of iptables-save.
func (n node) rules(tb testing.TB, args ...string) []string {
	tb.Helper()
	var rules []string
	for line := range strings.Lines(n.Output(tb, n.command("-save"), append(args, "-t", "nat")...)) {
		if line = strings.TrimSuffix(line, "\n"); line != "" && line[0] != '#' && line[0] != ':' && line[0] != '*' && line != "COMMIT" {
			rules = append(rules, line)
		}
	}
	return rules
}

// state is everything that a write would change: with nft the handles of rules, which
// are new after each, with legacy their counters.
func (n node) state(tb testing.TB) string {
	tb.Helper()
	if n.backend == iptables.NFT {
		return n.Output(tb, "nft", "-a", "list", "ruleset")
	}
	return strings.Join(n.rules(tb, "-c"), "\n")
}

// apply makes the kernel hold want and returns what had drifted.
func (n node) apply(tb testing.TB, want ruleset.Ruleset) []iptables.Drift {
	tb.Helper()
	drift, err := n.tryApply(tb, want)
	if err != nil {
		tb.Fatalf("applying: %v", err)
	}
	return drift
}

func (n node) tryApply(tb testing.TB, want ruleset.Ruleset) (drift []iptables.Drift, err error) {
	tb.Helper()
	err = n.Do(func() (err error) {
		drift, err = n.kernel.Apply(tb.Context(), want)
		return err
	})
	return drift, err
}

func (n node) inspect(tb testing.TB, want ruleset.Ruleset) []iptables.Drift {
	tb.Helper()
	var drift []iptables.Drift
	err := n.Do(func() (err error) {
		drift, err = n.kernel.Inspect(tb.Context(), want)
		return err
	})
	if err != nil {
		tb.Fatalf("inspecting: %v", err)
	}
	return drift
}

// holds checks that the nat table holds want and nothing else.
func (n node) holds(tb testing.TB, want ruleset.Ruleset) {
	tb.Helper()
	wanted := append([]string{want.JumpRule()}, want.Rules...)
	if diff := cmp.Diff(wanted, n.rules(tb)); diff != "" {
		tb.Errorf("the nat table differs (-want +got):\n%s", diff)
	}
	if drift := n.inspect(tb, want); len(drift) > 0 {
		tb.Errorf("Inspect finds %v in what was just applied", drift)
	}
}

func prefixes(list ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(list))
	for i, s := range list {
		parsed[i] = netip.MustParsePrefix(s)
	}
	return parsed
}

// plainOptions are the defaults of the flags.
func plainOptions() ruleset.Options {
	return ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: true}
}

// spare is the ruleset that spares these destinations, those of the other family too.
func (n node) spare(list ...string) ruleset.Ruleset {
	return ruleset.Build(config.Config{NonMasquerade: prefixes(list...)}, n.family, plainOptions())
}

func TestReadBackEqualsRendered(t *testing.T) {
	ports := []ruleset.PortRange{{First: 1024, Last: 29999}, {First: 32768, Last: 49151}, {First: 61000, Last: 61000}}
	tests := []struct {
		name    string
		config  config.Config
		options ruleset.Options
	}{
		{name: "defaults", config: config.Default(), options: plainOptions()},
		{name: "empty list", options: plainOptions()},
		{
			name: "everything spared", options: plainOptions(),
			config: config.Config{NonMasquerade: prefixes("0.0.0.0/0", "::/0")},
		},
		{
			name: "hosts, odd lengths, repeats", options: plainOptions(),
			config: config.Config{NonMasquerade: prefixes("192.0.2.1/32", "10.128.0.0/9", "10.128.0.0/9", "0.0.0.0/1", "198.51.100.252/31",
				"2001:db8::1/128", "2001:db8::/29", "fc00::/7", "2001:db8:0:1:1:1:1:1/128", "2001:db8::1:0:0:1/128", "8000::/1")},
		},
		{
			name: "IPv4 inside of IPv6", options: plainOptions(),
			config: config.Config{NonMasquerade: prefixes("::192.0.2.0/120", "::1/128", "::1:0/112", "::1:2:3/128", "64:ff9b::/96",
				"::ffff:0:192.0.2.0/120")},
		},
		{
			name: "link-local masqueraded, no flags", options: ruleset.Options{Chain: "a.b+c/d:e=f*"},
			config: config.Config{MasqueradeLinkLocal: true, MasqueradeLinkLocalIPv6: true},
		},
		{
			name: "one source and interface", config: config.Default(),
			options: ruleset.Options{
				Chain: "IP-MASQ", SpareMulticast: true, Interfaces: []string{"bond+"},
				Sources: prefixes("10.244.0.0/16", "fd00:10:244::/48"),
			},
		},
		{
			name: "several sources and interfaces, exceptions, port ranges",
			config: config.Config{
				NonMasquerade: prefixes("0.0.0.0/0", "10.1.0.0/16", "::/0", "fd00:1::/32"),
				Masquerade:    prefixes("10.0.0.0/8", "10.1.2.3/32", "fd00::/8", "fd00:1::1/128"),
			},
			options: ruleset.Options{
				Chain: "IP-MASQ", RandomFully: true, ToPorts: ports, Interfaces: []string{"eth0", "a1234567890123+"},
				Sources: prefixes("10.244.0.0/16", "10.245.0.1/32", "fd00:10:244::/48", "fd00:10:245::1/128"),
			},
		},
		{
			name: "everything an exception", options: plainOptions(),
			config: config.Config{NonMasquerade: prefixes("10.0.0.0/8", "fd00::/8"), Masquerade: prefixes("0.0.0.0/0", "::/0")},
		},
		{
			name: "port ranges", config: config.Default(),
			options: ruleset.Options{Chain: "ABCDEFGHIJKLMNOPQRSTUVWXYZ12", RandomFully: true, ToPorts: ports},
		},
		{
			name: "port ranges of small shares", config: config.Default(),
			options: ruleset.Options{Chain: "IP-MASQ", ToPorts: []ruleset.PortRange{{First: 1, Last: 1}, {First: 2, Last: 3}, {First: 4, Last: 65535}}},
		},
	}
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			for _, test := range tests {
				t.Run(test.name, func(t *testing.T) {
					n.other(t, "-F")
					n.other(t, "-X")
					want := ruleset.Build(test.config, n.family, test.options)
					drift := n.apply(t, want)
					if diff := cmp.Diff([]iptables.Drift{iptables.ChainMissing, iptables.JumpMissing}, drift); diff != "" {
						t.Errorf("drift differs (-want +got):\n%s", diff)
					}
					n.holds(t, want)
				})
			}
		})
	}
}

func TestTwiceIsOnce(t *testing.T) {
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			want := n.spare("10.0.0.0/8", "fd00::/8")
			n.apply(t, want)
			if n.backend == iptables.Legacy {
				// Counters as after traffic; a chain that is written again has zeros.
				n.otherRestores(t, strings.ReplaceAll(want.String(), "\n-A", "\n[5:300] -A"), "--noflush", "--counters")
			}
			before := n.state(t)
			if drift := n.apply(t, want); len(drift) > 0 {
				t.Errorf("the second time drift was %v", drift)
			}
			fresh, err := iptables.Open(n.backend)
			if err != nil {
				t.Fatal(err)
			}
			n.kernel = fresh // as after a restart
			if drift := n.apply(t, want); len(drift) > 0 {
				t.Errorf("after a restart drift was %v", drift)
			}
			if diff := cmp.Diff(before, n.state(t)); diff != "" {
				t.Errorf("something was written (-before +after):\n%s", diff)
			}
			// The comparison can fail: a true write is seen.
			n.otherRestores(t, want.String(), "--noflush")
			if before == n.state(t) {
				t.Error("writing the chain again would not be seen")
			}
		})
	}
}

// everyones are rules of other programs, in the order of iptables-save.
func everyones(n node) []string {
	host := "192.0.2.7/32"
	if n.family == ruleset.IPv6 {
		host = "2001:db8::7/128"
	}
	return []string{
		"-A PREROUTING -j KUBE-SERVICES",
		`-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING`,
		"-A POSTROUTING -d " + host + ` -m comment --comment "said \"IP-MASQ-AGENT\" -j IP-MASQ-AGENT" -j RETURN`,
		"-A POSTROUTING -j IP-MASQ-AGENT-2",
		"-A IP-MASQ-AGENT-2 -d " + host + " -j RETURN",
		"-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
		"-A KUBE-POSTROUTING -j MASQUERADE",
	}
}

func TestOthersAreLeftAlone(t *testing.T) {
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			others := everyones(n)
			n.otherRestores(t, "*nat\n:IP-MASQ-AGENT-2 - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-SERVICES - [0:0]\n"+
				strings.Join(others, "\n")+"\nCOMMIT\n*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n")
			without := n.rules(t)
			elsewhere := n.Output(t, n.command("-save"), "-t", "mangle")

			first, second := n.spare("10.0.0.0/8", "fd00::/8"), n.spare("10.1.0.0/16", "fd00:1::/32")
			n.apply(t, first)
			n.apply(t, second)
			n.other(t, "-F", "IP-MASQ-AGENT")
			n.other(t, append([]string{"-D", "POSTROUTING"}, second.Jump...)...)
			n.apply(t, second)

			ours := map[string]bool{second.JumpRule(): true}
			for _, rule := range second.Rules {
				ours[rule] = true
			}
			got := slices.DeleteFunc(n.rules(t), func(rule string) bool { return ours[rule] })
			if diff := cmp.Diff(without, got); diff != "" {
				t.Errorf("rules of others changed (-before +after):\n%s", diff)
			}
			if diff := cmp.Diff(len(without)+len(second.Rules)+1, len(n.rules(t))); diff != "" {
				t.Errorf("number of rules (-want +got):\n%s", diff)
			}
			if after := n.Output(t, n.command("-save"), "-t", "mangle"); !slices.Equal(noRemarks(elsewhere), noRemarks(after)) {
				t.Errorf("the mangle table changed:\n%s\n%s", elsewhere, after)
			}
		})
	}
}

func noRemarks(text string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return strings.HasPrefix(line, "#") })
}

func TestDriftIsHealed(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, n node, want ruleset.Ruleset)
		drift  []iptables.Drift
	}{
		{"chain flushed", func(t *testing.T, n node, _ ruleset.Ruleset) {
			t.Helper()
			n.other(t, "-F", "IP-MASQ-AGENT")
		}, []iptables.Drift{iptables.ChainChanged}},
		{"rule removed", func(t *testing.T, n node, _ ruleset.Ruleset) {
			t.Helper()
			n.other(t, "-D", "IP-MASQ-AGENT", "2")
		}, []iptables.Drift{iptables.ChainChanged}},
		{"rule of another in our chain", func(t *testing.T, n node, _ ruleset.Ruleset) {
			t.Helper()
			n.other(t, "-I", "IP-MASQ-AGENT", "1", "-p", "tcp", "-j", "ACCEPT")
		}, []iptables.Drift{iptables.ChainChanged}},
		{"rules in another order", func(t *testing.T, n node, want ruleset.Ruleset) {
			t.Helper()
			want.Rules = slices.Clone(want.Rules)
			want.Rules[1], want.Rules[2] = want.Rules[2], want.Rules[1]
			n.otherRestores(t, want.String(), "--noflush")
		}, []iptables.Drift{iptables.ChainChanged}},
		{"last rule first", func(t *testing.T, n node, _ ruleset.Ruleset) {
			t.Helper()
			n.other(t, "-I", "IP-MASQ-AGENT", "1", "-j", "MASQUERADE")
		}, []iptables.Drift{iptables.ChainChanged}},
		{"comment lost", func(t *testing.T, n node, _ ruleset.Ruleset) {
			t.Helper()
			n.other(t, "-R", "IP-MASQ-AGENT", "4", "-j", "MASQUERADE", "--random-fully")
		}, []iptables.Drift{iptables.ChainChanged}},
		{"jump removed", func(t *testing.T, n node, want ruleset.Ruleset) {
			t.Helper()
			n.other(t, append([]string{"-D", "POSTROUTING"}, want.Jump...)...)
		}, []iptables.Drift{iptables.JumpMissing}},
		{"table flushed", func(t *testing.T, n node, _ ruleset.Ruleset) {
			t.Helper()
			n.other(t, "-F")
		}, []iptables.Drift{iptables.ChainChanged, iptables.JumpMissing}},
		{"table emptied", func(t *testing.T, n node, _ ruleset.Ruleset) {
			t.Helper()
			n.other(t, "-F")
			n.other(t, "-X")
		}, []iptables.Drift{iptables.ChainMissing, iptables.JumpMissing}},
		{"jump twice", func(t *testing.T, n node, want ruleset.Ruleset) {
			t.Helper()
			n.other(t, append([]string{"-A", "POSTROUTING"}, want.Jump...)...)
			n.other(t, append([]string{"-I", "POSTROUTING"}, want.Jump...)...)
		}, []iptables.Drift{iptables.JumpDuplicate}},
		{"jump of GKE beside ours", func(t *testing.T, n node, _ ruleset.Ruleset) {
			t.Helper()
			n.other(t, "-I", "POSTROUTING", "-m", "comment", "--comment", "ip-masq: ensure nat POSTROUTING directs all "+
				"non-LOCAL destination traffic to our custom IP-MASQ chain", "-m", "addrtype", "!", "--dst-type", "LOCAL", "-j", "IP-MASQ-AGENT")
		}, []iptables.Drift{iptables.JumpDuplicate}},
		{"jump of GKE instead of ours", func(t *testing.T, n node, want ruleset.Ruleset) {
			t.Helper()
			n.other(t, "-A", "POSTROUTING", "-m", "comment", "--comment", "ip-masq: ensure nat POSTROUTING directs all "+
				"non-LOCAL destination traffic to our custom IP-MASQ chain", "-m", "addrtype", "!", "--dst-type", "LOCAL", "-j", "IP-MASQ-AGENT")
			n.other(t, append([]string{"-D", "POSTROUTING"}, want.Jump...)...)
		}, []iptables.Drift{iptables.JumpDuplicate}},
		{"goto and quoted comment", func(t *testing.T, n node, _ ruleset.Ruleset) {
			t.Helper()
			n.other(t, "-I", "POSTROUTING", "-m", "comment", "--comment", `a "b" c\d 'e'`, "-p", "udp", "-g", "IP-MASQ-AGENT")
		}, []iptables.Drift{iptables.JumpDuplicate}},
		{"everything at once", func(t *testing.T, n node, want ruleset.Ruleset) {
			t.Helper()
			n.other(t, "-D", "IP-MASQ-AGENT", "1")
			n.other(t, append([]string{"-D", "POSTROUTING"}, want.Jump...)...)
			n.other(t, "-A", "POSTROUTING", "-j", "IP-MASQ-AGENT")
			n.other(t, "-A", "POSTROUTING", "-p", "tcp", "-j", "IP-MASQ-AGENT")
		}, []iptables.Drift{iptables.ChainChanged, iptables.JumpDuplicate}},
	}
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			want := n.spare("10.0.0.0/8", "172.16.0.0/12", "fd00::/8", "fc00:1::/32")
			n.apply(t, want)
			for _, test := range tests {
				t.Run(test.name, func(t *testing.T) {
					test.change(t, n, want)
					if diff := cmp.Diff(test.drift, n.inspect(t, want)); diff != "" {
						t.Errorf("Inspect differs (-want +got):\n%s", diff)
					}
					if diff := cmp.Diff(test.drift, n.apply(t, want)); diff != "" {
						t.Errorf("Apply differs (-want +got):\n%s", diff)
					}
					n.holds(t, want)
				})
			}
		})
	}
}

func TestInspectWritesNothing(t *testing.T) {
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			n.other(t, "-N", "SOMEONE")
			before := n.state(t)
			drift := n.inspect(t, n.spare("10.0.0.0/8"))
			if diff := cmp.Diff([]iptables.Drift{iptables.ChainMissing, iptables.JumpMissing}, drift); diff != "" {
				t.Errorf("drift differs (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, n.state(t)); diff != "" {
				t.Errorf("something was written (-before +after):\n%s", diff)
			}
		})
	}
}

func TestRefusedRestoreChangesNothing(t *testing.T) {
	tests := []struct {
		name string
		rule string // takes the place of the second rule
		told []string
	}{
		{"address", "-A IP-MASQ-AGENT -d 10.0.0.0/104000 -j RETURN", []string{"invalid mask", "10.0.0.0/104000"}},
		{"option", "-A IP-MASQ-AGENT --no-such-option -j RETURN", []string{"--no-such-option"}},
		{"target", "-A IP-MASQ-AGENT -j NO-SUCH-CHAIN", []string{"NO-SUCH-CHAIN"}},
		{"ports without a protocol", "-A IP-MASQ-AGENT -j MASQUERADE --to-ports 1-2", []string{"port specification", "--to-ports 1-2"}},
	}
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			for _, test := range tests {
				good := n.spare("10.0.0.0/8", "fd00::/8")
				bad := n.spare("10.0.0.0/8", "fd00::/8")
				bad.Rules[1] = test.rule

				t.Run(test.name+", first start", func(t *testing.T) {
					n.other(t, "-F")
					n.other(t, "-X")
					before := n.state(t)
					_, err := n.tryApply(t, bad)
					if err == nil {
						t.Fatal("Apply took a bad rule")
					}
					for _, part := range append(test.told, "replacing chain IP-MASQ-AGENT: running ", "-restore -w 5 --noflush: exit status ") {
						if !strings.Contains(err.Error(), part) {
							t.Errorf("error %q does not hold %q", err, part)
						}
					}
					if diff := cmp.Diff(before, n.state(t)); diff != "" {
						t.Errorf("something was written (-before +after):\n%s", diff)
					}
				})
				t.Run(test.name+", later", func(t *testing.T) {
					n.apply(t, good)
					before := n.state(t)
					if drift, err := n.tryApply(t, bad); err == nil {
						t.Errorf("Apply took a bad rule; drift %v", drift)
					}
					if diff := cmp.Diff(before, n.state(t)); diff != "" {
						t.Errorf("something was written (-before +after):\n%s", diff)
					}
					n.holds(t, good)
				})
			}
		})
	}
}
