package policy

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

func TestParseParams(t *testing.T) {
	for _, c := range []struct {
		name string
		text string
		want Params
	}{
		{name: "no text"},
		{name: "comments only", text: "# nothing\n"},
		{name: "null"},
		{name: "empty sections", text: "cluster:\nagent:\nrules: {}\ncustom:\n", want: Params{Rules: map[string]RuleParams{}}},
		{
			name: "everything",
			text: `
consumer: cilium
cluster:
  nodeCIDRs: [192.168.0.0/24]
  podCIDRs: [10.244.0.0/16, "fd00:10::/48"]
  serviceCIDRs: []
agent: {ipv6: true, reservedRanges: true}
requireClusterRanges: true
rules:
  no-overlap: {action: warn}
  list-explicit: {action: off}
  resync-bounds: {action: deny, min: 10s, max: 30m}
  cidr-limit: {max: 200}
custom:
  partners: [198.51.100.0/24]
`,
			want: Params{
				Cluster: ClusterRanges{
					Node:    []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24")},
					Pod:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10::/48")},
					Service: []netip.Prefix{},
				},
				Consumer:             config.Cilium,
				Agent:                config.Options{IPv6: true, ReservedRanges: true},
				RequireClusterRanges: true,
				Rules: map[string]RuleParams{
					"no-overlap":    {Action: Warn},
					"list-explicit": {Action: Off},
					"resync-bounds": {Action: Deny, Min: 10 * time.Second, Max: 30 * time.Minute},
					"cidr-limit":    {MaxCount: 200},
				},
				Custom: map[string]any{"partners": []any{"198.51.100.0/24"}},
			},
		},
		{
			name: "anchors",
			text: "cluster:\n  nodeCIDRs: &a [10.0.0.0/8]\n  podCIDRs: *a\n",
			want: Params{Cluster: ClusterRanges{
				Node: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
				Pod:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
			}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseParams([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("params differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseParamsErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		text string
		want string
	}{
		{
			name: "unknown keys",
			text: "clster: {}\ncluster:\n  podCIDR: []\nwhatever: 1\n",
			want: "line 1: clster: unknown; did you mean cluster?\n" +
				"line 3: cluster.podCIDR: unknown; did you mean podCIDRs?\n" +
				"line 4: whatever: unknown; there are agent, cluster, configDirectory, consumer, custom, exceptions, requireClusterRanges, ruleSets, rules",
		},
		{
			name: "unknown rule and action",
			text: "rules:\n  no-overlaps: {action: warn}\n  no-overlap: {action: audit}\n",
			want: "line 2: rules.no-overlaps: unknown; did you mean no-overlap?\n" +
				"line 3: rules.no-overlap.action: \"audit\" is not deny, warn or off",
		},
		{
			name: "bounds of another rule",
			text: "rules:\n  no-overlap: {max: 3}\n",
			want: "line 2: rules.no-overlap.max: unknown; there are action, until",
		},
		{
			name: "bounds",
			text: "rules:\n  resync-bounds: {min: 2h}\n  cidr-limit: {max: 0}\n",
			want: "line 2: rules.resync-bounds: min 2h0m0s is above max 1h0m0s\n" +
				"line 3: rules.cidr-limit.max: \"0\" is not a number from 1 to 16384",
		},
		{
			name: "durations",
			text: "rules:\n  resync-bounds:\n    min: 1d\n    max: 100ms\n",
			want: "line 3: rules.resync-bounds.min: \"1d\" is not a duration of at least 1s, like 90s or 5m\n" +
				"line 4: rules.resync-bounds.max: \"100ms\" is not a duration of at least 1s, like 90s or 5m",
		},
		{
			name: "prefixes",
			text: "cluster:\n  podCIDRs:\n  - 10.0.0.1/8\n  - 10.0.0.1\n  - pods\n  - ::ffff:10.0.0.0/104\n  -\n",
			want: "line 3: cluster.podCIDRs[0]: \"10.0.0.1/8\" has host bits set; write 10.0.0.0/8\n" +
				"line 4: cluster.podCIDRs[1]: \"10.0.0.1\" has no prefix length; write 10.0.0.1/32\n" +
				"line 5: cluster.podCIDRs[2]: \"pods\" is not a CIDR\n" +
				"line 6: cluster.podCIDRs[3]: \"::ffff:10.0.0.0/104\" is an IPv4 range in IPv6 notation\n" +
				"line 7: cluster.podCIDRs[4]: \"\" is not a CIDR",
		},
		{
			name: "types",
			text: "cluster: []\nagent: {ipv6: \"true\"}\nrequireClusterRanges: yes please\nrules: 3\ncustom: [1]\n",
			want: "line 1: cluster: not a mapping\n" +
				"line 2: agent.ipv6: \"true\" is not true or false\n" +
				"line 3: requireClusterRanges: \"yes please\" is not true or false\n" +
				"line 4: rules: not a mapping\n" +
				"line 5: custom: not a mapping with text keys: yaml: unmarshal errors:\n" +
				"  line 5: cannot unmarshal !!seq into map[string]interface {}",
		},
		{name: "consumer", text: "consumer: azure\n", want: "line 1: consumer: \"azure\" is none of ip-masq-guard, ip-masq-agent, cilium"},
		{
			name: "exceptions",
			text: "exceptions:\n- {rule: no-overlap}\n- {rule: no-overlaps, cidr: 10.0.0.0/8, reason: r, until: 2026-12-31}\n" +
				"- {rule: no-overlap, cidr: 10.0.0.0/8, path: 'nonMasqueradeCIDRs[0]', reason: r, until: 2026-12-31}\n" +
				"- {rule: no-overlap, cidr: 10.0.0.0/8, until: 2026-12-31}\n- {rule: no-overlap, cidr: 10.0.0.0/8, reason: r}\n" +
				"- {rule: no-overlap, cidr: 10.0.0.1/8, reason: r, until: tomorrow}\n- {rule: config-loads, path: config, reason: r, until: 2026-12-31}\n" +
				"- {rule: pod-cidrs-present, path: nonMasqueradeCIDRs, reason: r, until: 2026-12-31}\n",
			want: "line 2: exceptions[0]: want path or cidr, and one of them\n" +
				"line 3: exceptions[1]: no rule \"no-overlaps\"; of a custom rule write package/rule\n" +
				"line 4: exceptions[2]: want path or cidr, and one of them\n" +
				"line 5: exceptions[3]: no reason; those who read the warning want to know\n" +
				"line 6: exceptions[4]: no until; an exception ends, with a day such as 2026-12-31\n" +
				"line 7: exceptions[5].cidr[0]: \"10.0.0.1/8\" has host bits set; write 10.0.0.0/8\n" +
				"line 7: exceptions[5].until: \"tomorrow\" is neither a day such as 2026-12-31 nor a time such as 2026-12-31T18:00:00Z\n" +
				"line 8: exceptions[6]: config-loads has no exceptions: agents would not load the text\n" +
				"line 9: exceptions[7]: pod-cidrs-present judges the list as a whole; name the cidr that may be uncovered",
		},
		{
			name: "until without an action", text: "rules:\n  no-overlap: {until: 2026-12-31}\n",
			want: "line 2: rules.no-overlap: until without an action that would end then",
		},
		{name: "a list", text: "- 1\n", want: "line 1: params: not a mapping"},
		{name: "twice", text: "custom: {}\ncustom: {}\n", want: "line 2: custom: set twice"},
		{name: "two documents", text: "custom: {}\n---\ncustom: {}\n", want: "more than one YAML document"},
		{name: "no JSON", text: "custom: {a: .inf}\n", want: "line 1: custom: json: unsupported value: +Inf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseParams([]byte(c.text))
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff("reading params: "+c.want, err.Error()); diff != "" {
				t.Errorf("errors differ (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := ParseParams(make([]byte, maxParamsBytes+1)); err == nil {
		t.Error("a text of more than 1 MiB is read")
	}
}

func FuzzParseParams(f *testing.F) {
	f.Add("cluster: {podCIDRs: [10.0.0.0/8]}\nrules: {resync-bounds: {min: 5s}}\ncustom: {a: [1, {b: c}]}\n")
	f.Add("custom: &a [*a]\n")
	f.Fuzz(func(t *testing.T, text string) {
		params, err := ParseParams([]byte(text))
		if err != nil {
			return
		}
		for id, rule := range params.Rules {
			if least, most := rule.resyncBounds(); least > most || params.maxCount() < 1 {
				t.Errorf("%s: %+v", id, rule)
			}
		}
		if _, err := paramsInput(params, nil); err != nil {
			t.Errorf("rules cannot read the params: %v", err)
		}
	})
}
