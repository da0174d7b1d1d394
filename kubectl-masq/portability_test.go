package main

import (
	"encoding/json"
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
	view, err := agent.view([]byte(*c.Text), flags, nil)
	if err != nil {
		t.Fatal(err)
	}
	return view
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
			if c.Text == nil {
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
