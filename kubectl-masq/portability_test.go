package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// recorded is a run of another agent, or of its parser, with one file.
type recorded struct {
	ID        string
	Flags     []string
	Text      *string
	Files     map[string]string // the keys of the ConfigMap, instead
	Outcome   string
	Spared    []netip.Prefix
	Family    string
	Effective *struct {
		CIDRs         []netip.Prefix `json:"nonMasqueradeCIDRs"`
		LinkLocal     bool           `json:"masqLinkLocal"`
		LinkLocalIPv6 bool           `json:"masqLinkLocalIPv6"`
	} `json:"effectiveConfig"`
}

func viewOf(t *testing.T, name string, c recorded) agentsView {
	t.Helper()
	agents := foreignAgents()
	agent := agents[slices.IndexFunc(agents, func(a foreignAgent) bool { return a.name == name })]
	flags := config.Options{
		IPv6:           name == "cilium" || slices.Contains(c.Flags, "--enable-ipv6"),
		ReservedRanges: slices.Contains(c.Flags, "--nomasq-all-reserved-ranges"),
	}
	document := rawDocument("FILE", nil, "", "")
	document.configMap.Data = c.Files
	if c.Text != nil {
		document.configMap.Data = map[string]string{"config": *c.Text}
	}
	report, err := port(document, []foreignAgent{agent}, portabilityOptions{readingOptions: readingOptions{reserved: flags.ReservedRanges, ipv6: flags.IPv6}})
	if err != nil {
		t.Fatal(err)
	}
	return report.Agents[0]
}

// TestPortabilityAsRecorded holds the table to what the agents really did.
func TestPortabilityAsRecorded(t *testing.T) {
	for _, agent := range []struct {
		name, file string
		fates      map[string]fate
		least      int
		unknown    []string // loaded with what only the agent's run tells
	}{
		{
			name: "upstream", file: "../agent/config/testdata/conformance.json", least: 70,
			fates: map[string]fate{"accept": loads, "reject": refuses, "apply-error": breaks},
			unknown: []string{
				"edge-null-element-dash", "edge-null-elements-around", "edge-null-elements-three",
				"edge-resync-negative", "edge-resync-zero", "edge-resync-1ns",
			},
		},
		{
			name: "azure", file: "testdata/azure.json", least: 60,
			fates: map[string]fate{"accept": loads, "crash": crashes, "crash-on-apply": breaks},
		},
		{
			name: "azure", file: "testdata/azure-files.json", least: 5,
			fates: map[string]fate{"accept": loads, "crash": crashes},
		},
		{
			name: "cilium", file: "../policy/testdata/cilium.json", least: 70,
			fates: map[string]fate{"accept": loads, "reject": refuses},
		},
	} {
		var cases []recorded
		data, err := os.ReadFile(agent.file)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &cases); err != nil {
			t.Fatal(err)
		}
		if len(cases) < agent.least {
			t.Errorf("%s: only %d cases", agent.name, len(cases))
		}
		for _, c := range cases {
			if c.Text == nil && c.Files == nil {
				continue // no file at all
			}
			t.Run(agent.name+"/"+c.ID, func(t *testing.T) {
				view := viewOf(t, agent.name, c)
				for _, remark := range view.Remarks {
					if agent.name == "azure" && strings.Contains(remark.Message, "Cilium") {
						t.Errorf("of Azure's agent: %s", remark.Message)
					}
				}
				if want := agent.fates[c.Outcome]; view.Fate != want {
					t.Fatalf("recorded: %s, told: %s %+v", c.Outcome, view.Fate, view.Remarks)
				}
				if slices.Contains(agent.unknown, c.ID) != (view.Fate == loads && view.Spared == nil) {
					t.Errorf("known is %t", view.Spared != nil)
				}
				if view.Spared == nil {
					return
				}
				want := c.Spared
				if c.Effective != nil {
					want = slices.Clone(c.Effective.CIDRs)
					if !c.Effective.LinkLocal {
						want = append(want, config.LinkLocalIPv4)
					}
					if !c.Effective.LinkLocalIPv6 && slices.Contains(c.Flags, "--enable-ipv6") {
						want = append(want, config.LinkLocalIPv6)
					}
				}
				got := slices.DeleteFunc(slices.Clone(view.Spared), func(p netip.Prefix) bool {
					return c.Family != "" && (c.Family == "ipv4") != p.Addr().Is4()
				})
				if diff := cmp.Diff(fewest(t, want), fewest(t, got), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
					t.Errorf("spared (-recorded +told):\n%s", diff)
				}
			})
		}
	}
}

// TestPortabilityOfSeveralKeys holds Azure's limit to each file alone, which it was seen to
// do with two files of 64.
func TestPortabilityOfSeveralKeys(t *testing.T) {
	list := func(second, n int) string {
		var b strings.Builder
		b.WriteString("nonMasqueradeCIDRs:\n")
		for i := range n {
			fmt.Fprintf(&b, "- 10.%d.%d.0/24\n", second, i)
		}
		return b.String()
	}
	for _, tt := range []struct {
		name   string
		second int
		want   fate
		keys   []string // of the remarks
	}{
		{name: "64 each", second: 64, want: loads, keys: []string{""}},
		{name: "one of them more", second: 65, want: crashes, keys: []string{"ip-masq-b"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			view := viewOf(t, "azure", recorded{Files: map[string]string{"ip-masq-a": list(1, 64), "ip-masq-b": list(2, tt.second)}})
			var keys []string
			for _, remark := range view.Remarks {
				keys = append(keys, remark.Key)
			}
			if view.Fate != tt.want || !slices.Equal(keys, tt.keys) {
				t.Errorf("%s with remarks of %q, want %s and %q", view.Fate, keys, tt.want, tt.keys)
			}
		})
	}
}

func fewest(t *testing.T, prefixes []netip.Prefix) []netip.Prefix {
	t.Helper()
	var b netipx.IPSetBuilder
	for _, p := range prefixes {
		b.AddPrefix(p)
	}
	set, err := b.IPSet()
	if err != nil {
		t.Fatal(err)
	}
	return set.Prefixes()
}
