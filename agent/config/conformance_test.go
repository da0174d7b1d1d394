package config_test

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// TestConformance replays what the upstream agent really did with a text: its tests,
// and runs of its binary. The same texts also check the oracle of FuzzParse.
func TestConformance(t *testing.T) {
	data, err := os.ReadFile("testdata/conformance.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		ID        string
		Flags     []string
		Text      string
		Outcome   string         // accept, reject; apply-error: iptables refuses what the agent accepts
		Effective upstreamConfig `json:"effectiveConfig"`
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	// deliberate are the accepted texts that are fatal with us.
	deliberate := map[string]config.Code{
		"edge-null-element-dash":    config.CodeNullElement,
		"edge-null-elements-around": config.CodeNullElement,
		"edge-null-elements-three":  config.CodeNullElement,
		"edge-cidr-v4mapped-v6":     config.CodeIPv4Mapped,
		"edge-resync-negative":      config.CodeResyncTooShort,
		"edge-resync-zero":          config.CodeResyncTooShort,
		"edge-resync-1ns":           config.CodeResyncTooShort,
	}
	for _, test := range cases {
		t.Run(test.ID, func(t *testing.T) {
			c, problems := config.Parse([]byte(test.Text))
			checkProblems(t, test.Text, problems)
			if !isFatal(problems) {
				var more []config.Problem
				c, more = c.For(config.Options{
					IPv6:           slices.Contains(test.Flags, "--enable-ipv6"),
					ReservedRanges: slices.Contains(test.Flags, "--nomasq-all-reserved-ranges"),
				})
				problems = append(problems, more...)
			}
			if code, ok := deliberate[test.ID]; ok {
				delete(deliberate, test.ID)
				if test.Outcome == "reject" || !slices.ContainsFunc(problems, func(p config.Problem) bool { return p.Code == code && p.Severity == config.Fatal }) {
					t.Errorf("upstream: %s, ours: %v; want %s", test.Outcome, problems, code)
				}
				return
			}
			if got := isFatal(problems); got != (test.Outcome == "reject") {
				t.Fatalf("upstream: %s, ours: %v", test.Outcome, problems)
			}
			if _, err := upstreamParse([]byte(test.Text)); (err != nil) != (test.Outcome == "reject") {
				t.Errorf("the oracle is wrong: %v", err)
			}
			if test.Outcome == "accept" && meaningOf(c) != effective(test.Effective) {
				t.Errorf("upstream: %s\nours:     %s", effective(test.Effective), meaningOf(c))
			}
		})
	}
	if len(cases) == 0 || len(deliberate) > 0 {
		t.Errorf("%d cases; not met: %v", len(cases), deliberate)
	}
}

func isFatal(problems []config.Problem) bool {
	return slices.ContainsFunc(problems, func(p config.Problem) bool { return p.Severity == config.Fatal })
}
