package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// conformance is testdata/conformance.json: what the upstream agent does.
type conformance struct {
	Cases      []conformanceCase `json:"cases"`
	NotCarried []struct {
		ID     string `json:"id"`
		Reason string `json:"reason"`
	} `json:"notCarried"`
}

// conformanceCase is one input and what the upstream agent made of it.
type conformanceCase struct {
	ID       string   `json:"id"`
	Group    string   `json:"group"`
	File     *string  `json:"file"` // nil: there is none
	Flags    []string `json:"flags"`
	CIDR     string   `json:"cidr"` // a file of this alone
	Upstream struct {
		Outcome  string   `json:"outcome"`
		IPv4     []string `json:"ipv4"` // of iptables-save -t nat
		IPv6     []string `json:"ipv6"`
		RuleText string   `json:"ruleText"` // one rule of the chain, as given to iptables-restore
	} `json:"upstream"`
}

func (c conformanceCase) isSequence() bool { return c.Group == "sequence" }

func readConformance(t *testing.T) conformance {
	t.Helper()
	text, err := os.ReadFile("testdata/conformance.json")
	if err != nil {
		t.Fatal(err)
	}
	var all conformance
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// difference is what our agent does on purpose instead of what upstream does: it
// refuses, says so, and leaves the kernel untouched.
type difference struct {
	exit int
	told string // a part of the standard error
}

// differences are the cases of docs/differences.md but for the sequences.
func differences() map[string]difference {
	const wrongUsage, refused = 2, 1
	return map[string]difference{
		"edge-null-element-dash":      {refused, "nonMasqueradeCIDRs[0]: the element is empty"},
		"edge-null-elements-around":   {refused, "nonMasqueradeCIDRs[0]: the element is empty"},
		"edge-null-elements-three":    {refused, "nonMasqueradeCIDRs[0]: the element is empty"},
		"edge-resync-zero":            {refused, "resyncInterval"},
		"edge-resync-negative":        {refused, "resyncInterval"},
		"edge-resync-1ns":             {refused, "resyncInterval"},
		"edge-cidr-v4mapped-v6":       {refused, "::ffff:10.0.0.0/104"},
		"edge-masq-chain-empty":       {wrongUsage, `chain name ""`},
		"edge-masq-chain-POSTROUTING": {wrongUsage, `chain name "POSTROUTING"`},
		"edge-to-ports-zero":          {wrongUsage, `port range 1 of "0-100"`},
		"edge-to-ports-overlap":       {wrongUsage, "1024-2000 and 1500-3000 overlap"},
	}
}

// agentRun is one run of the agent that came to its end.
type agentRun struct {
	exit           int
	stdout, stderr string
}

// runAgent runs the agent in a host until it ends.
func runAgent(t *testing.T, host *netns.Host, args ...string) agentRun {
	t.Helper()
	command := host.Command(t.Context(), program(t, "agent"), args...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := host.Start(command); err != nil {
		t.Fatal(err)
	}
	err := command.Wait()
	if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return agentRun{command.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// natRules are the rules of the nat table, as a command like iptables-nft prints them.
func natRules(t *testing.T, host *netns.Host, iptables string) []string {
	t.Helper()
	var rules []string
	for line := range strings.Lines(host.Output(t, iptables+"-save", "-t", "nat")) {
		if strings.HasPrefix(line, "-A ") {
			rules = append(rules, strings.TrimSuffix(line, "\n"))
		}
	}
	return rules
}

// TestConformance gives the agent what the upstream agent was given.
func TestConformance(t *testing.T) {
	for _, test := range readConformance(t).Cases {
		if test.isSequence() {
			continue // TestConformanceSequences
		}
		for _, backend := range []string{"nft", "legacy"} {
			t.Run(test.ID+" "+backend, func(t *testing.T) {
				conform(t, test, backend)
			})
		}
	}
}

func conform(t *testing.T, test conformanceCase, backend string) {
	t.Helper()
	host := netns.ForTest(t)
	path := filepath.Join(t.TempDir(), "ip-masq-agent")
	if test.CIDR != "" {
		text := "nonMasqueradeCIDRs: [" + test.CIDR + "]\n"
		test.File, test.Flags = &text, append(test.Flags, "--enable-ipv6")
	}
	if test.File != nil {
		if err := os.WriteFile(path, []byte(*test.File), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := runAgent(t, host, append([]string{"--once", "--config-path=" + path, "--iptables-backend=" + backend}, test.Flags...)...)
	held4, held6 := natRules(t, host, "iptables-"+backend), natRules(t, host, "ip6tables-"+backend)

	refuses := func(exit int, told string) {
		t.Helper()
		if got.exit != exit || !strings.Contains(got.stderr, told) {
			t.Errorf("exit %d, want %d; standard error %q does not hold %q", got.exit, exit, got.stderr, told)
		}
		if len(held4)+len(held6) > 0 {
			t.Errorf("the nat tables hold rules:\n%s", strings.Join(append(held4, held6...), "\n"))
		}
	}
	if differs, ok := differences()[test.ID]; ok {
		refuses(differs.exit, differs.told)
		return
	}
	switch {
	case test.Upstream.RuleText != "":
		rule := asSaved(test.Upstream.RuleText)
		if got.exit != 0 || !slices.Contains(append(held4, held6...), rule) {
			t.Errorf("exit %d (%s); the rule %q is not there", got.exit, got.stderr, rule)
		}
	case test.Upstream.Outcome == "accept":
		if got.exit != 0 {
			t.Fatalf("exit %d: %s", got.exit, got.stderr)
		}
		if test.Upstream.IPv4 == nil { // no text is recorded
			if len(held4) == 0 {
				t.Error("the nat table is empty")
			}
			return
		}
		if diff := cmp.Diff(test.Upstream.IPv4, held4); diff != "" {
			t.Errorf("the IPv4 nat table differs (-upstream +ours):\n%s", diff)
		}
		if diff := cmp.Diff(test.Upstream.IPv6, held6); diff != "" {
			t.Errorf("the IPv6 nat table differs (-upstream +ours):\n%s", diff)
		}
	case test.Upstream.Outcome == "reject":
		refuses(1, ": fatal: ")
	case test.Upstream.Outcome == "fatal-flag":
		refuses(2, "--to-ports: ")
	default:
		t.Errorf("nothing is known to compare with outcome %q", test.Upstream.Outcome)
	}
}

// asSaved puts a rule that is given to iptables-restore in the order of iptables-save.
func asSaved(rule string) string {
	return regexp.MustCompile(`^(-A \S+) (-m .*) (-d \S+) (-j .*)\n$`).ReplaceAllString(rule, "$1 $3 $2 $4")
}

// TestConformanceIsComplete: no case is left out in silence, and the differences are
// those of the document, which tells why.
func TestConformanceIsComplete(t *testing.T) {
	all := readConformance(t)
	ids := map[string]bool{}
	outcomes := map[string]int{}
	for _, c := range all.Cases {
		if ids[c.ID] {
			t.Errorf("%s is there twice", c.ID)
		}
		ids[c.ID] = true
		if _, ok := sequences()[c.ID]; ok != c.isSequence() {
			t.Errorf("%s: a sequence: %t, has a test as one: %t", c.ID, c.isSequence(), ok)
		}
		outcomes[c.Group+": "+c.Upstream.Outcome]++
	}
	reasons := map[string]int{}
	for _, c := range all.NotCarried {
		if c.Reason == "" || ids[c.ID] {
			t.Errorf("%s is not carried, reason %q", c.ID, c.Reason)
		}
		reasons[c.Reason]++
	}
	if len(all.Cases) != 110 || len(all.NotCarried) != 26 {
		t.Errorf("%d cases are carried and %d are not; want 110 and 26", len(all.Cases), len(all.NotCarried))
	}
	t.Logf("%d cases on two backends; not carried: %v", len(all.Cases), reasons)

	var differ []string
	for id := range differences() {
		differ = append(differ, id)
	}
	for id, s := range sequences() {
		if s.differs {
			differ = append(differ, id)
		}
	}
	for _, id := range differ {
		if !ids[id] {
			t.Errorf("the difference %s is of no case", id)
		}
	}
	slices.Sort(differ)
	if diff := cmp.Diff(differ, documentedDifferences(t)); diff != "" {
		t.Errorf("docs/differences.md does not tell what is tested (-tested +told):\n%s", diff)
	}
}

// documentedDifferences are the cases named in the last column of the tables of
// docs/differences.md, sorted.
func documentedDifferences(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../docs/differences.md")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`((?:edge|seq|upstream)-[A-Za-z0-9-]+)`")
	var ids []string
	for line := range strings.Lines(string(text)) {
		columns := strings.Split(strings.Trim(line, "| \n"), " | ")
		if !strings.HasPrefix(line, "|") {
			continue
		}
		found := name.FindAllStringSubmatch(columns[len(columns)-1], -1)
		if len(found) > 0 && (len(columns) != 5 || slices.ContainsFunc(columns, func(s string) bool { return strings.TrimSpace(s) == "" })) {
			t.Errorf("the row %q has not five filled columns", line)
		}
		for _, match := range found {
			ids = append(ids, match[1])
		}
	}
	slices.Sort(ids)
	return ids
}
