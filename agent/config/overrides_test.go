package config_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

const edgeAndBatch = `nonMasqueradeCIDRs:
- 10.0.0.0/8
masqueradeCIDRs: [10.9.0.0/16]
nodeOverrides:
- matchLabels:
    pool: edge
    topology.kubernetes.io/zone: "1"
  nonMasqueradeCIDRs:
  - 10.0.0.0/8
  - 192.168.0.0/16
  masqLinkLocal: true
- matchLabels: {pool: edge}
  masqueradeCIDRs: []
cidrLimit: 3
`

func TestOverrides(t *testing.T) {
	c := mustParse(t, edgeAndBatch)
	defaulted := []string{"masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval"}
	base := config.Config{
		NonMasquerade: prefixes("10.0.0.0/8"), Masquerade: prefixes("10.9.0.0/16"), Resync: time.Minute, CIDRLimit: 3, Defaulted: defaulted,
	}
	want := base
	want.Overrides = []config.Override{
		{
			MatchLabels: []config.Label{{Key: "pool", Value: "edge"}, {Key: "topology.kubernetes.io/zone", Value: "1"}},
			Sets:        []string{"nonMasqueradeCIDRs", "masqLinkLocal"},
			Config: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "192.168.0.0/16"), Masquerade: prefixes("10.9.0.0/16"), MasqueradeLinkLocal: true,
				Resync: time.Minute, CIDRLimit: 3, Defaulted: []string{"masqLinkLocalIPv6", "resyncInterval"},
			},
		},
		{
			MatchLabels: []config.Label{{Key: "pool", Value: "edge"}},
			Sets:        []string{"masqueradeCIDRs"},
			Config:      config.Config{NonMasquerade: prefixes("10.0.0.0/8"), Resync: time.Minute, CIDRLimit: 3, Defaulted: defaulted},
		},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	for _, test := range []struct {
		name   string
		labels map[string]string
		want   config.Config
		index  int
	}{
		{"no labels", nil, base, -1},
		{"other labels", map[string]string{"pool": "batch", "topology.kubernetes.io/zone": "1"}, base, -1},
		{"the first", map[string]string{"pool": "edge", "topology.kubernetes.io/zone": "1", "x": "y"}, want.Overrides[0].Config, 0},
		{"the second", map[string]string{"pool": "edge", "topology.kubernetes.io/zone": "2"}, want.Overrides[1].Config, 1},
		{"an empty value is none", map[string]string{"pool": ""}, base, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, index := c.On(test.labels)
			if index != test.index || !got.Equal(test.want) {
				t.Errorf("override %d, want %d (-want +got):\n%s", index, test.index, cmp.Diff(test.want, got))
			}
		})
	}
	if got := c.Overrides[0].Selector(); got != "pool=edge,topology.kubernetes.io/zone=1" {
		t.Errorf("selector %s", got)
	}
}

func TestPlacesInOverrides(t *testing.T) {
	c := mustParse(t, edgeAndBatch)
	for path, want := range map[string]config.Position{
		"nodeOverrides":                          {Line: 4, Column: 1},
		"nodeOverrides[0]":                       {Line: 5, Column: 3},
		"nodeOverrides[1]":                       {Line: 12, Column: 3},
		"nodeOverrides[2]":                       {},
		"nodeOverrides[x]":                       {},
		"nodeOverrides[0].nonMasqueradeCIDRs":    {Line: 8, Column: 3},
		"nodeOverrides[0].nonMasqueradeCIDRs[1]": {Line: 10, Column: 5},
		"nodeOverrides[0].nonMasqueradeCIDRs[2]": {},
		"nodeOverrides[0].masqLinkLocal":         {Line: 11, Column: 3},
		"nodeOverrides[0].masqLinkLocalIPv6":     {},
		"nodeOverrides[0].masqueradeCIDRs":       {},
		"nodeOverrides[1].masqueradeCIDRs":       {Line: 13, Column: 3},
		"nonMasqueradeCIDRs[0]":                  {Line: 2, Column: 3},
	} {
		if got := c.At(path); got != want {
			t.Errorf("At(%s) is %v, want %v", path, got, want)
		}
	}
	on, _ := c.On(map[string]string{"pool": "edge", "topology.kubernetes.io/zone": "1"})
	if got, want := on.Element("nonMasqueradeCIDRs", 1), (config.Place{Path: "nodeOverrides[0].nonMasqueradeCIDRs[1]", Position: config.Position{Line: 10, Column: 5}}); got != want {
		t.Errorf("an element of the override is at %v, want %v", got, want)
	}
	if got, want := on.Element("masqueradeCIDRs", 0), (config.Place{Path: "masqueradeCIDRs[0]", Position: config.Position{Line: 3, Column: 19}}); got != want {
		t.Errorf("an element of the text is at %v, want %v", got, want)
	}
	if got := on.At("nodeOverrides[0].nonMasqueradeCIDRs[0]"); got != (config.Position{Line: 9, Column: 5}) {
		t.Errorf("in what holds on the node it is at %v", got)
	}
}

func TestProblemsOfOverrides(t *testing.T) {
	many := "nodeOverrides:\n"
	for i := range 65 {
		many += fmt.Sprintf("- matchLabels: {n: \"%d\"}\n", i)
	}
	wide := "cidrLimit: 20000\nnonMasqueradeCIDRs:\n" + strings.Repeat("- 10.0.0.0/8\n", 16384) +
		"nodeOverrides: [{matchLabels: {a: b}}, {matchLabels: {a: c}}, {matchLabels: {a: d}}, {matchLabels: {a: e}}]\n"
	for _, test := range []struct {
		name    string
		text    string
		options config.Options
		want    []string // severity, code and the problem as an agent logs it
	}{
		{name: "none", text: "nodeOverrides: []\n"},
		{name: "null", text: "nodeOverrides:\n"},
		{name: "no list", text: "nodeOverrides: {matchLabels: {a: b}}\n", want: []string{
			`fatal wrong-type line 1, nodeOverrides: the value is a mapping, not a list of overrides; write each override as an element, with a dash before it`,
		}},
		{name: "no mappings", text: "nodeOverrides:\n-\n- x\n- {}\n", want: []string{
			`fatal null-element line 2, nodeOverrides[0]: the override is empty; write matchLabels: and the keys that differ on such nodes`,
			`fatal wrong-type line 3, nodeOverrides[1]: "x" is text, not an override; write matchLabels: and the keys that differ on such nodes`,
			`fatal no-labels line 4, nodeOverrides[2]: the override has no matchLabels, so it would be for every node; ` +
				`write matchLabels, or set its keys for all nodes, outside nodeOverrides`,
		}},
		{name: "labels", text: "nodeOverrides:\n- matchLabels: {}\n- matchLabels:\n- matchLabels: [a]\n- matchLabels: {a: 1, b: true, c: ~, d: [x], e: a b, -f: g, A.b/c: d, g: }\n", want: []string{
			`fatal no-labels line 2, nodeOverrides[0].matchLabels: the override asks for 0 labels, not for 1 to 16; write labels, such as pool: edge`,
			`fatal no-labels line 3, nodeOverrides[1].matchLabels: the override asks for no label, so it would be for every node; write labels, such as pool: edge`,
			`fatal wrong-type line 4, nodeOverrides[2].matchLabels: the value is a list, not a mapping of labels; write labels, such as pool: edge`,
			`fatal wrong-type line 5, nodeOverrides[3].matchLabels.a: "1" is a number, not text; put it in quotes`,
			`fatal wrong-type line 5, nodeOverrides[3].matchLabels.b: "true" is a boolean, not text; put it in quotes`,
			`fatal wrong-type line 5, nodeOverrides[3].matchLabels.c: the value is null, not text; write the label's value, or "" if it is empty`,
			`fatal wrong-type line 5, nodeOverrides[3].matchLabels.d: the value is a list, not text; write one value; make an override for each`,
			`fatal bad-label line 5, nodeOverrides[3].matchLabels.e: "a b" is no value of a label: it has to be letters and digits, with - _ . between them; ` +
				`write it as in kubectl get nodes --show-labels`,
			`fatal bad-label line 5, nodeOverrides[3].matchLabels: "-f" is no key of a label: it has to be letters and digits, with - _ . between them; ` +
				`write it as in kubectl get nodes --show-labels`,
			`fatal bad-label line 5, nodeOverrides[3].matchLabels: "A.b/c" is no key of a label: what stands before the slash is no DNS name; ` +
				`write it as in kubectl get nodes --show-labels`,
			`fatal wrong-type line 5, nodeOverrides[3].matchLabels.g: the value is null, not text; write the label's value, or "" if it is empty`,
		}},
		{name: "keys", text: "nodeOverrides:\n- matchlabels: {a: b}\n  cidrLimit: 5\n  masqLinkLokal: true\n  masqLinkLocal: true\n  masqLinkLocal: false\n  foo: 1\n", want: []string{
			`suspicious key-case line 2, nodeOverrides[0].matchLabels: "matchlabels" works only because agents ignore case; write matchLabels`,
			`suspicious unknown-key line 3, nodeOverrides[0].cidrLimit: "cidrLimit" is no key of an override: it is the same on every node; write cidrLimit outside nodeOverrides`,
			`suspicious unknown-key line 4, nodeOverrides[0].masqLinkLokal: "masqLinkLokal" is not a key of an override, so agents ignore it; did you mean masqLinkLocal?`,
			`suspicious duplicate-key line 5, nodeOverrides[0].masqLinkLocal: "masqLinkLocal" is set again in line 6, which wins; keep one of the two`,
			`suspicious unknown-key line 7, nodeOverrides[0].foo: "foo" is not a key of an override, so agents ignore it; ` +
				`remove it; the keys are matchLabels, nonMasqueradeCIDRs, masqLinkLocal, masqLinkLocalIPv6, masqueradeCIDRs`,
		}},
		{name: "lists", text: "nodeOverrides:\n- matchLabels: {a: b}\n  nonMasqueradeCIDRs: [10.0.0.1/8, ~, 10.1.0.0/16]\n  masqueradeCIDRs: 10.1.0.0/16\n", want: []string{
			`fatal host-bits line 3, nodeOverrides[0].nonMasqueradeCIDRs[0]: "10.0.0.1/8" has host bits set; write 10.0.0.0/8`,
			`fatal null-element line 3, nodeOverrides[0].nonMasqueradeCIDRs[1]: the element is empty; the upstream agent would put a default range in its place; remove the element, or write a CIDR`,
			`fatal wrong-type line 4, nodeOverrides[0].masqueradeCIDRs: "10.1.0.0/16" is text, not a list of CIDRs; write masqueradeCIDRs: [10.1.0.0/16]`,
		}},
		{name: "contradictions", text: "masqueradeCIDRs: [10.1.0.0/16]\nnodeOverrides:\n- matchLabels: {a: b}\n  nonMasqueradeCIDRs: [10.0.0.0/8, 10.1.0.0/16]\n" +
			"- matchLabels: {a: c}\n  masqueradeCIDRs: [10.0.0.0/8]\n", want: []string{
			`fatal contradiction line 1, masqueradeCIDRs[0]: with nodeOverrides[0]: "10.1.0.0/16" is in both lists: nodeOverrides[0].nonMasqueradeCIDRs[1] in line 4 spares it; ` +
				`keep it in one of the two lists`,
			`fatal contradiction line 6, nodeOverrides[1].masqueradeCIDRs[0]: "10.0.0.0/8" is a default range of nonMasqueradeCIDRs, which the text does not have; ` +
				`write nonMasqueradeCIDRs without it instead`,
		}},
		{name: "a contradiction of the text is told once", text: "masqueradeCIDRs: [10.0.0.0/8]\nnodeOverrides: [{matchLabels: {a: b}, masqLinkLocal: true}]\n", want: []string{
			`fatal contradiction line 1, masqueradeCIDRs[0]: "10.0.0.0/8" is a default range of nonMasqueradeCIDRs, which the text does not have; ` +
				`write nonMasqueradeCIDRs without it instead`,
		}},
		{name: "limit", text: "nonMasqueradeCIDRs: [10.0.0.0/8]\ncidrLimit: 1\nnodeOverrides:\n- matchLabels: {a: b}\n  nonMasqueradeCIDRs: [10.0.0.0/8, 11.0.0.0/8]\n" +
			"- matchLabels: {a: c}\n  masqueradeCIDRs: [10.1.0.0/16]\n", want: []string{
			`fatal cidr-limit line 1, nonMasqueradeCIDRs: with nodeOverrides[1]: the list and its exceptions have 2 CIDRs, more than cidrLimit, which is 1; remove cidrLimit, which is 64 then`,
			`fatal cidr-limit line 5, nodeOverrides[0].nonMasqueradeCIDRs: the list has 2 CIDRs, more than cidrLimit, which is 1; remove cidrLimit, which is 64 then`,
		}},
		{name: "never reached", text: "nodeOverrides:\n- matchLabels: {a: b}\n- matchLabels: {a: c, d: e}\n- matchLabels: {a: b}\n- matchLabels: {x: z, d: e, a: c}\n- matchLabels: {d: e}\n", want: []string{
			`suspicious unreachable-override line 4, nodeOverrides[2]: no node gets as far as here: nodeOverrides[0] in line 2 matches every node that this one does; ` +
				`put it before that one, or remove it`,
			`suspicious unreachable-override line 5, nodeOverrides[3]: no node gets as far as here: nodeOverrides[1] in line 3 matches every node that this one does; ` +
				`put it before that one, or remove it`,
		}},
		{name: "too many", text: many, want: []string{
			`fatal too-many-overrides line 66, nodeOverrides: there are more than 64 overrides; join those that say the same by a label of their own`,
		}},
		{name: "too wide", text: wide, want: []string{
			`fatal too-many-cidrs line 16387, nodeOverrides: the text and its overrides have 81920 CIDRs, each override with those that it takes over, more than 65536; ` +
				`join neighbouring ranges into wider ones, or make fewer overrides`,
		}},
		{name: "IPv6 without IPv6", text: "nodeOverrides:\n- matchLabels: {a: b}\n  nonMasqueradeCIDRs: [\"fd00::/8\"]\n", want: []string{
			`fatal ipv6-disabled line 3, nodeOverrides[0].nonMasqueradeCIDRs[0]: "fd00::/8" is an IPv6 range, but the agent runs without IPv6, so it refuses the whole text; ` +
				`remove it, or start the agents with --enable-ipv6`,
		}},
		{name: "no effect", text: "masqueradeCIDRs: [10.1.0.0/16]\nnodeOverrides:\n- matchLabels: {a: b}\n  nonMasqueradeCIDRs: [11.0.0.0/8]\n", want: []string{
			`suspicious ineffective-exception line 1, masqueradeCIDRs[0]: with nodeOverrides[0]: "10.1.0.0/16" lies in no range that is spared, so it is masqueraded anyway; remove it`,
		}},
		{name: "other agents", text: "nodeOverrides:\n- matchLabels: {a: b}\n", options: config.Options{Foreign: true}, want: []string{
			`suspicious unknown-key line 1, nodeOverrides: "nodeOverrides" is a key of the ip-masq-guard agent alone, so the agents here ignore it; remove it`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, problems := config.Parse([]byte(test.text))
			checkProblems(t, test.text, problems)
			if !isFatal(problems) {
				effective, more := c.For(test.options)
				problems = append(problems, more...)
				if test.options.Foreign && len(effective.Overrides) > 0 {
					t.Error("agents that do not know overrides have some")
				}
			}
			var got []string
			for _, p := range problems {
				got = append(got, fmt.Sprintf("%s %s %s", p.Severity, p.Code, p))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFormatOverrides(t *testing.T) {
	want := `nonMasqueradeCIDRs:
  - 10.0.0.0/8
cidrLimit: 3
masqueradeCIDRs:
  - 10.9.0.0/16
nodeOverrides:
  - matchLabels:
      "pool": "edge"
      "topology.kubernetes.io/zone": "1"
    nonMasqueradeCIDRs:
      - 10.0.0.0/8
      - 192.168.0.0/16
    masqLinkLocal: true
  - matchLabels:
      "pool": "edge"
    masqueradeCIDRs: []
`
	if diff := cmp.Diff(want, string(mustParse(t, edgeAndBatch).Format())); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}
