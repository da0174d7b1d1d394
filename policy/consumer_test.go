package policy

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// TestCiliumConformance judges texts with consumer cilium and no rule, and compares
// what is approved, and what is spared then, with what Cilium itself made of them.
func TestCiliumConformance(t *testing.T) {
	data, err := os.ReadFile("testdata/cilium.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		ID      string
		Text    *string // nil: there is no file
		Outcome string  // accept, reject
		Spared  []netip.Prefix
		Family  string // the only one that Spared tells of; empty: both
	}
	if err = json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) < 70 {
		t.Errorf("only %d cases", len(cases))
	}
	var off strings.Builder
	for _, id := range builtinIDs() {
		off.WriteString("  " + id + ": {action: off}\n")
	}
	e := engine(t, "consumer: cilium\nagent: {ipv6: false}\nrules:\n"+off.String())
	for _, c := range cases {
		t.Run(c.ID, func(t *testing.T) {
			read := e.defaults
			if c.Text != nil {
				req := update(*c.Text)
				d := e.Decide(context.Background(), req, smallCluster())
				if d.Allowed != (c.Outcome == "accept") {
					t.Fatalf("Cilium: %s, ours:\n%s", c.Outcome, told(d))
				}
				if !d.Allowed {
					return
				}
				read = e.read(req.Object)
			}
			var got []netip.Prefix
			for _, r := range read.layout.spared {
				if c.Family == "" || (c.Family == "ipv4") == r.From().Is4() {
					got = append(got, r.Prefixes()...)
				}
			}
			var want []netip.Prefix
			for _, r := range union(c.Spared...) {
				want = append(want, r.Prefixes()...)
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("spared (-Cilium +ours):\n%s", diff)
			}
		})
	}
}

// TestDecideForCilium judges by the rules as they are.
func TestDecideForCilium(t *testing.T) {
	many := "nonMasqueradeCIDRs:\n- 192.168.0.0/16\n- 10.0.0.0/8\n"
	for n := range 100 {
		many += "- " + netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, byte(n), 0}), 24).String() + "\n"
	}
	for _, c := range []struct {
		name   string
		params string
		text   string
		want   string
	}{
		{name: "good", text: "nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 192.168.0.0/16\n"},
		{name: "IPv6, whatever flags of agents say", text: "nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 192.168.0.0/16\n- fd00::/8\n"},
		{name: "more than 64", text: many},
		{
			name: "a bound of the owner's", params: "rules: {cidr-limit: {max: 64}}", text: many,
			want: `deny data["config"]:1 nonMasqueradeCIDRs: 102 CIDRs, more than 64: each one slows new connections on every node; ` +
				`list wider ranges instead of many narrow ones [cidr-limit]` + "\n",
		},
		{
			name: "what others refuse is a warning", text: "nonMasqueradeCIDRs:\n- 10.0.0.1/8\n- 192.168.0.0/16\nresyncInterval: 5min\n",
			want: `warn data["config"]:2 nonMasqueradeCIDRs[0]: "10.0.0.1/8" has host bits set, which Cilium cuts off; ` +
				`other agents refuse the whole text; write 10.0.0.0/8 [agents-agree]
warn data["config"]:4 resyncInterval: "resyncInterval" is no key of Cilium's, which ignores it; ` +
				`remove it, unless other agents read the text as well [agents-agree]
`,
		},
		{
			name: "what is cut off is judged", text: "nonMasqueradeCIDRs:\n- 10.0.0.1/8\n- 10.0.0.0/8\n- 192.168.0.0/16\n", params: "rules: {agents-agree: {action: off}}",
			want: `deny data["config"]:3 nonMasqueradeCIDRs[1]: 10.0.0.0/8 is listed already (nonMasqueradeCIDRs[0], line 2); drop this line [no-duplicate]` + "\n",
		},
		{
			name: "without a list nothing is spared", text: "masqLinkLocal: true\n", params: "rules: {pod-cidrs-present: {action: off}, node-cidrs-present: {action: off}, service-cidrs-present: {action: off}}",
			want: `deny data["config"] nonMasqueradeCIDRs: the list is empty, so agents masquerade all traffic, that between pods too; ` +
				`list the ranges of the cluster [list-not-empty]` + "\n",
		},
		{
			name: "a blank element", text: "nonMasqueradeCIDRs:\n- 10.0.0.0/8\n-\n- 192.168.0.0/16\n",
			want: `deny data["config"]:3 nonMasqueradeCIDRs[1]: the element is empty, for which Cilium refuses the whole text; ` +
				`remove the element, or write a CIDR [config-loads]` + "\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := engine(t, "consumer: cilium\n"+c.params).Decide(context.Background(), update(c.text), smallCluster())
			if diff := cmp.Diff(c.want, told(d)); diff != "" {
				t.Errorf("findings differ (-want +got):\n%s", diff)
			}
		})
	}
}

// The keys that are our agent's alone are unknown to others.
func TestKeysOfOurs(t *testing.T) {
	text := "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\nmasqueradeCIDRs: [10.9.0.0/16]\n"
	unknown := `deny data["config"]:2 masqueradeCIDRs: "masqueradeCIDRs" is a key of the ip-masq-guard agent alone, so the agents here ignore it; ` +
		`remove it [no-unknown-keys]` + "\n"
	for consumer, want := range map[string]string{"ip-masq-guard": "", "ip-masq-agent": unknown, "cilium": unknown} {
		d := engine(t, "consumer: "+consumer).Decide(context.Background(), update(text), smallCluster())
		if diff := cmp.Diff(want, told(d)); diff != "" {
			t.Errorf("findings with %s differ (-want +got):\n%s", consumer, diff)
		}
	}
}

// A deletion leaves Cilium with its defaults, the reserved ranges.
func TestEffectForCilium(t *testing.T) {
	req := update("")
	req.Operation, req.Object = Delete, (*corev1.ConfigMap)(nil)
	d := engine(t, "consumer: cilium").Decide(context.Background(), req, smallCluster())
	var got []string
	for _, prefix := range d.Effect.NoLongerMasqueraded {
		got = append(got, prefix.String())
	}
	want := []string{
		"100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("no longer masqueraded (-want +got):\n%s", diff)
	}
}
