package ruleset_test

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

//nolint:gochecknoglobals // a flag of the test binary
var update = flag.Bool("update", false, "write the golden files anew")

// goldenCase is testdata/NAME with its flags.
type goldenCase struct {
	name           string
	options        ruleset.Options
	reservedRanges bool
}

func goldenCases() []goldenCase {
	plain := ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: true}
	return []goldenCase{
		{name: "both-families", options: plain},
		{name: "defaults", options: plain},
		{name: "empty-list", options: plain},
		{name: "everything-spared", options: plain},
		{name: "gke-chain", options: ruleset.Options{Chain: "IP-MASQ", RandomFully: true}},
		{name: "link-local-masqueraded", options: ruleset.Options{Chain: "IP-MASQ-AGENT"}},
		{name: "port-ranges", options: ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: true, ToPorts: []ruleset.PortRange{
			{First: 1024, Last: 29999}, {First: 32768, Last: 49151}, {First: 61000, Last: 61000},
		}}},
		{name: "reserved-ranges", options: plain, reservedRanges: true},
	}
}

func goldenFile(name string, family ruleset.Family) string {
	file := "ipv4.rules"
	if family == ruleset.IPv6 {
		file = "ipv6.rules"
	}
	return filepath.Join("testdata", name, file)
}

func families() []ruleset.Family { return []ruleset.Family{ruleset.IPv4, ruleset.IPv6} }

func TestGolden(t *testing.T) {
	for _, test := range goldenCases() {
		t.Run(test.name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", test.name, "config.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			parsed, problems := config.Parse(text)
			effective, more := parsed.For(config.Options{ReservedRanges: test.reservedRanges, IPv6: true})
			if problems = append(problems, more...); len(problems) > 0 {
				t.Fatalf("the configuration has problems: %v", problems)
			}
			for _, family := range families() {
				got := ruleset.Build(effective, family, test.options).String()
				file := goldenFile(test.name, family)
				if *update {
					if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), got); diff != "" {
					t.Errorf("%s rules differ (-want +got):\n%s", family, diff)
				}
			}
		})
	}
}

func TestGoldenFilesAreAllTested(t *testing.T) {
	found, err := filepath.Glob("testdata/*/*.rules")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, test := range goldenCases() {
		for _, family := range families() {
			want = append(want, goldenFile(test.name, family))
		}
	}
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(found))); diff != "" {
		t.Errorf("files differ (-tested +found):\n%s", diff)
	}
}

// TestIptablesTakesGoldenFiles asks the real parsers of the text, and that they can say no.
func TestIptablesTakesGoldenFiles(t *testing.T) {
	h := netns.ForTest(t)
	commands := map[ruleset.Family][]string{
		ruleset.IPv4: {"iptables-nft-restore", "iptables-legacy-restore"},
		ruleset.IPv6: {"ip6tables-nft-restore", "ip6tables-legacy-restore"},
	}
	for _, family := range families() {
		for _, command := range commands[family] {
			for _, test := range goldenCases() {
				h.Output(t, command, "--test", "--noflush", goldenFile(test.name, family))
			}
			if _, err := h.Run(t.Context(), command, "--test", "--noflush", "testdata/broken.rules"); err == nil {
				t.Errorf("%s takes testdata/broken.rules", command)
			}
		}
	}
}

func TestJump(t *testing.T) {
	rules := ruleset.Build(config.Default(), ruleset.IPv4, ruleset.Options{Chain: "IP-MASQ"})
	const comment = "ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom IP-MASQ chain"
	want := []string{"-m", "comment", "--comment", comment, "-m", "addrtype", "!", "--dst-type", "LOCAL", "-j", "IP-MASQ"}
	if diff := cmp.Diff(want, rules.Jump); diff != "" {
		t.Errorf("jump differs (-want +got):\n%s", diff)
	}
	const line = `-A POSTROUTING -m comment --comment "` + comment + `" -m addrtype ! --dst-type LOCAL -j IP-MASQ`
	if diff := cmp.Diff(line, rules.JumpRule()); diff != "" {
		t.Errorf("jump rule differs (-want +got):\n%s", diff)
	}
}
