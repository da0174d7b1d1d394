package foreign_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

func parsed(list ...string) []netip.Prefix {
	prefixes := make([]netip.Prefix, len(list))
	for i, s := range list {
		prefixes[i] = netip.MustParsePrefix(s)
	}
	return prefixes
}

const ourJump = "-A POSTROUTING -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT\n"

// TestFlagsDecide: what our rules mean decides what a foreign rule does to them.
func TestFlagsDecide(t *testing.T) {
	list := config.Config{NonMasquerade: parsed("10.0.0.0/8"), MasqueradeLinkLocal: true}
	tests := []struct {
		name    string
		config  config.Config
		options ruleset.Options
		rules   string
		want    []string
	}{
		{
			name: "sources of others do not count", config: list, options: ruleset.Options{Sources: parsed("10.244.0.0/16")},
			rules: "-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE\n" + ourJump,
			want:  []string{"unknown before POSTROUTING: harmless"},
		},
		{
			name: "sources of ours do", config: list, options: ruleset.Options{Sources: parsed("10.244.0.0/16")},
			rules: ourJump + "-A POSTROUTING -j MASQUERADE\n",
			want:  []string{"unknown after POSTROUTING: undoes from 10.244.0.0/16 to 10.0.0.0/8"},
		},
		{
			name: "another interface is spared altogether", config: list, options: ruleset.Options{Interfaces: []string{"eth+"}},
			rules: ourJump + "-A POSTROUTING -o wg0 -d 192.0.2.0/24 -j MASQUERADE\n",
			want:  []string{"unknown after POSTROUTING: undoes to 192.0.2.0/24"},
		},
		{
			name: "an interface of ours is not", config: list, options: ruleset.Options{Interfaces: []string{"eth+"}},
			rules: "-A POSTROUTING -o eth1 -d 192.0.2.0/24 -j MASQUERADE\n" + ourJump,
			want:  []string{"unknown before POSTROUTING: duplicate to 192.0.2.0/24"},
		},
		{
			name: "source ports of ours are lost", config: list, options: ruleset.Options{ToPorts: []ruleset.PortRange{{First: 1024, Last: 2047}}},
			rules: "-A POSTROUTING -d 192.0.2.0/24 -j MASQUERADE\n" + ourJump,
			want:  []string{"unknown before POSTROUTING: shadows-us to 192.0.2.0/24"},
		},
		{
			name:   "an exception is masqueraded anyway",
			config: config.Config{NonMasquerade: parsed("10.0.0.0/8"), Masquerade: parsed("10.9.0.0/16"), MasqueradeLinkLocal: true},
			rules:  "-A POSTROUTING -d 10.9.0.0/16 -j MASQUERADE\n-A POSTROUTING -d 10.8.0.0/15 -j MASQUERADE\n" + ourJump,
			want: []string{
				"unknown before POSTROUTING: undoes to 10.8.0.0/16",
				"unknown before POSTROUTING: duplicate to 10.9.0.0/16",
			},
		},
		{
			name: "a mark that is set on the way is no guard", config: list,
			rules: "-A POSTROUTING -j MARK --set-xmark 0x4000/0x4000\n-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE\n" + ourJump,
			want:  []string{"unknown before POSTROUTING: undoes to 10.0.0.0/8"},
		},
		{
			name: "any mark is a guard, none is not", config: list,
			rules: "-A POSTROUTING -m mark ! --mark 0x0 -j MASQUERADE\n-A POSTROUTING -m mark --mark 0x0 -j MASQUERADE\n" + ourJump,
			want:  []string{"unknown before POSTROUTING: undoes to 10.0.0.0/8", "unknown before POSTROUTING: harmless"},
		},
		{
			name: "a chain that comes back, and one that does not", config: list,
			rules: "-A A -d 10.1.0.0/16 -j RETURN\n-A A -d 10.2.0.0/16 -j MASQUERADE\n" +
				"-A POSTROUTING -d 10.0.0.0/14 -g A\n-A POSTROUTING -d 10.1.0.0/16 -j MASQUERADE\n-A POSTROUTING -d 10.4.0.0/16 -j MASQUERADE\n" + ourJump,
			want: []string{
				"unknown before A: undoes to 10.2.0.0/16",
				"unknown before POSTROUTING: undoes to 10.4.0.0/16",
				"unknown before POSTROUTING: harmless",
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			decision := ruleset.Decide(test.config, ruleset.IPv4, test.options)
			report := foreign.Judge(nftPlace(decision), []foreign.Hook{scan(t, test.rules, ruleset.IPv4, nil)})
			if diff := cmp.Diff(test.want, summaries(report)); diff != "" {
				t.Errorf("findings differ (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSetsAreResolved: what ipsets hold makes Calico's and kube-router's rules plain.
func TestSetsAreResolved(t *testing.T) {
	members := map[string][]string{"cali40masq-ipam-pools": {"10.244.0.0/16"}, "cali40all-ipam-pools": {"10.244.0.0/16", "10.245.0.0/16"}}
	sets := func(name string) (*netipx.IPSet, bool) {
		list, ok := members[name]
		var b netipx.IPSetBuilder
		for _, p := range parsed(list...) {
			b.AddPrefix(p)
		}
		set, err := b.IPSet()
		return set, ok && err == nil
	}
	rules := "-A POSTROUTING -j cali-nat-outgoing\n" + ourJump +
		"-A cali-nat-outgoing -m set --match-set cali40masq-ipam-pools src -m set ! --match-set cali40all-ipam-pools dst -j MASQUERADE\n" +
		"-A cali-nat-outgoing -m set --match-set other src -j MASQUERADE\n"
	d := decide(ruleset.IPv4, "10.0.0.0/8")
	report := foreign.Judge(nftPlace(d), []foreign.Hook{scan(t, rules, ruleset.IPv4, sets)})
	if diff := cmp.Diff([]string{
		"calico before cali-nat-outgoing: undoes from 10.244.0.0/16 to 10.0.0.0-10.243.255.255 to 10.246.0.0-10.255.255.255 to 169.254.0.0/16",
		"calico before cali-nat-outgoing: unknown to 10.0.0.0/8 to 169.254.0.0/16",
	}, summaries(report)); diff != "" {
		t.Errorf("findings differ (-want +got):\n%s", diff)
	}
}

// TestOrderOfTables: a smaller priority comes first, and of equal ones nobody knows.
func TestOrderOfTables(t *testing.T) {
	const text = `{"nftables": [
		{"chain": {"family": "ip", "table": "t", "name": "c", "type": "nat", "hook": "postrouting", "prio": %d}},
		{"rule": {"family": "ip", "table": "t", "chain": "c", "expr": [{"snat": {"addr": "192.0.2.1"}}]}}]}`
	tests := []struct {
		priority int
		backend  string
		want     string
	}{
		{99, "nft", "unknown before c: undoes to 10.0.0.0/8 to 169.254.0.0/16"},
		{100, "nft", "unknown either c: undoes to 10.0.0.0/8 to 169.254.0.0/16"},
		{101, "nft", "unknown after c: undoes to 10.0.0.0/8 to 169.254.0.0/16"},
		{100, foreign.Native, "unknown before c: undoes to 10.0.0.0/8 to 169.254.0.0/16"},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.backend, test.priority), func(t *testing.T) {
			ours := nftPlace(decide(ruleset.IPv4, "10.0.0.0/8"))
			if test.backend == foreign.Native {
				ours = foreign.Ours{Decision: ours.Decision, Backend: foreign.Native, Table: "ip ours", Chain: "postrouting", Priority: 101}
			}
			hooks, _ := scanNFT(t, []byte(fmt.Sprintf(text, test.priority))).Hooks(ruleset.IPv4)
			if diff := cmp.Diff([]string{test.want}, summaries(foreign.Judge(ours, hooks))); diff != "" {
				t.Errorf("findings differ (-want +got):\n%s", diff)
			}
		})
	}
}

// TestOursIsNotForeign: our own native table and chain are nobody else's.
func TestOursIsNotForeign(t *testing.T) {
	const text = `{"nftables": [
		{"chain": {"family": "ip", "table": "ip-masq-guard-X", "name": "postrouting", "type": "nat", "hook": "postrouting", "prio": 101}},
		{"rule": {"family": "ip", "table": "ip-masq-guard-X", "chain": "postrouting", "expr": [{"masquerade": null}]}}]}`
	hooks, _ := scanNFT(t, []byte(text)).Hooks(ruleset.IPv4)
	ours := foreign.Ours{
		Decision: decide(ruleset.IPv4, "10.0.0.0/8"), Backend: foreign.Native, Table: "ip ip-masq-guard-X", Chain: "postrouting", Priority: 101,
	}
	if got := summaries(foreign.Judge(ours, hooks)); got != nil {
		t.Errorf("ours is a finding: %q", got)
	}
	ours.Table = "ip ip-masq-guard-Y" // another agent's is
	want := []string{"ip-masq-agent either postrouting: undoes to 10.0.0.0/8 to 169.254.0.0/16"}
	if diff := cmp.Diff(want, summaries(foreign.Judge(ours, hooks))); diff != "" {
		t.Errorf("findings differ (-want +got):\n%s", diff)
	}
}

// TestManyRules: a report is bounded, its counts are not; and so is the work.
func TestManyRules(t *testing.T) {
	var text strings.Builder
	for i := range 300 {
		fmt.Fprintf(&text, "-A POSTROUTING -s 10.244.%d.%d/32 -j CNI-%d\n", i/200, i%200, i)
	}
	text.WriteString(ourJump)
	for i := range 300 {
		fmt.Fprintf(&text, "-A CNI-%d -d 10.244.0.0/24 -j ACCEPT\n-A CNI-%d ! -d 224.0.0.0/4 -j MASQUERADE\n", i, i)
	}
	report := foreign.Judge(nftPlace(decide(ruleset.IPv4, "10.0.0.0/8")), []foreign.Hook{scan(t, text.String(), ruleset.IPv4, nil)})
	if len(report.Findings) != 64 || report.Left != 236 || len(report.Partial) != 0 {
		t.Errorf("%d findings, %d left, partial %q", len(report.Findings), report.Left, report.Partial)
	}
	if diff := cmp.Diff(map[foreign.Kind]int{{Family: "ipv4", Owner: "cni-plugins", Verdict: foreign.Undoes}: 300}, report.Counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}

	// Chains that multiply the ways through them: each jumps twice to the next.
	text.Reset()
	for i := range 30 {
		fmt.Fprintf(&text, "-A C%d -j C%d\n-A C%d -j C%d\n", i, i+1, i, i+1)
	}
	text.WriteString("-A POSTROUTING -j C0\n" + ourJump)
	report = foreign.Judge(nftPlace(decide(ruleset.IPv4, "10.0.0.0/8")), []foreign.Hook{scan(t, text.String(), ruleset.IPv4, nil)})
	if diff := cmp.Diff([]string{"ipv4 nft table nat: too many rules to follow"}, report.Partial); diff != "" {
		t.Errorf("partial (-want +got):\n%s", diff)
	}
}

// FuzzScan: whatever somebody's rules look like, they are read and followed to an end.
func FuzzScan(f *testing.F) {
	f.Add(ourJump + "-A POSTROUTING ! -s 10.0.0.0/8 -m mark ! --mark 0x1/0x2 -o eth+ -j X\n-A X -m set --match-set a dst,src -g X\n")
	f.Add("-A POSTROUTING -s 1.2.3.4/255.0.255.0 -m iprange --src-range 9-1 -m policy --dir out ! --x \"a\\\"b\" -j MASQUERADE --to-ports 1")
	f.Add("-A POSTROUTING -m\n-A POSTROUTING !\n-A POSTROUTING -j\n-A POSTROUTING -s\n-A\n-A POSTROUTING -d ::1 -m mark --mark 99999999999 -j SNAT")
	f.Fuzz(func(t *testing.T, text string) {
		s := foreign.NewSaveScan("nft", ruleset.IPv4)
		for range 50 {
			for line := range strings.Lines(text) {
				s.Line(strings.TrimSuffix(line, "\n"))
			}
			if !s.Again() {
				break
			}
		}
		hook, _ := s.Hook(func(string) (*netipx.IPSet, bool) { return &netipx.IPSet{}, true })
		report := foreign.Judge(nftPlace(decide(ruleset.IPv4, "10.0.0.0/8")), []foreign.Hook{hook})
		for _, finding := range report.Findings {
			if finding.Why == "" || finding.Verdict == foreign.Undoes && len(finding.Ranges) == 0 {
				t.Errorf("a finding without a reason: %+v", finding)
			}
		}
	})
}
