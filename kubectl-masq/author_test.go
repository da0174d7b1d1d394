package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// masq runs a command line and gives what it prints and its exit code.
func masq(t *testing.T, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	var out, err bytes.Buffer
	exit = run(t.Context(), args, streams{in: strings.NewReader(""), out: &out, err: &err})
	return out.String(), err.String(), exit
}

// TestNewRule writes a rule that passes its own tests, and nothing twice.
func TestNewRule(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rules")
	stdout, stderr, exit := masq(t, "new", "rule", "no-public", "--team", "payments", "--dir", dir)
	if exit != 0 || strings.Count(stdout, "wrote ") != 3 {
		t.Fatalf("exit %d: %s%s", exit, stdout, stderr)
	}
	stdout, stderr, exit = masq(t, "test", dir, "--coverage", "--threshold", "100")
	if exit != 0 || stdout != "4 passed, coverage 100.0 %\n" {
		t.Errorf("exit %d: %s%s", exit, stdout, stderr)
	}
	stdout, stderr, exit = masq(t, "check", "--raw", "-f", "testdata/traffic-raw.yaml", "--policy-dir", dir, "--node-cidrs=", "--pod-cidrs=", "--service-cidrs=")
	if exit != 0 {
		t.Errorf("the built-in rules beside it: exit %d: %s%s", exit, stdout, stderr)
	}
	_, stderr, exit = masq(t, "new", "rule", "no-public", "--team", "payments", "--dir", dir)
	if want := "kubectl-masq: " + dir + "/no-public.rego is there already, so nothing was written\n"; exit != 2 || stderr != want {
		t.Errorf("a second time: exit %d: %s", exit, stderr)
	}
	for _, tt := range []struct{ args, want string }{
		{"new", "what is to be written is missing: rule"},
		{"new rule", "an argument is missing: a name such as no-public"},
		{"new rule NoPublic --team a", `"NoPublic" is no name of a rule; write small letters, digits and hyphens, as in no-public`},
		{"new rule no-public", "--team is missing: the package below ipmasq, as in payments"},
		{"new rule no-public --team A", `--team "A": write small letters, digits and _, a letter first`},
	} {
		if _, stderr, exit := masq(t, strings.Fields(tt.args)...); exit != 2 || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit %d: %s", tt.args, exit, stderr)
		}
	}
}

// brokenRules are a set of which some tests fail, and a rule that none reaches.
func brokenRules(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "rules")
	if _, stderr, exit := masq(t, "new", "rule", "no-public", "--team", "payments", "--dir", dir); exit != 0 {
		t.Fatal(stderr)
	}
	for name, text := range map[string]string{
		"more_test.rego":    "package ipmasq.more_test\n\ntest_false if {\n\tprint(\"looking\")\n\tinput.config == null\n}\n\ntodo_test_later if true\n",
		"late.rego":         "package ipmasq.late\n\nwarn contains \"late\" if {\n\tinput.request.user == \"jane@example.com\"; to_number(input.config.nonMasqueradeCIDRs) == 3\n}\n",
		"testdata/bad.yaml": "config: |\n  nonMasqueradeCIDRs: [8.8.8.0/24]\nexpect:\n- {rule: payments/other, path: x}\n",
		"testdata/odd.yaml": "confg: \"\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTestReports(t *testing.T) {
	dir := brokenRules(t)
	stdout, stderr, exit := masq(t, "test", dir, "--coverage")
	want := `DIR/more_test.rego:3: failed: ipmasq.more_test.test_false
  looking
DIR/late.rego:1: failed: as a rule set
  package ipmasq.late has no METADATA with a title, which tells those who are denied what it is about
  write above package: # METADATA, # title: What the rule wants
DIR/late.rego:4: failed: as a rule set
  the rule fails on the sample empty and 8 more: to_number: operand 1 must be one of {null, boolean, number, string} but got array
  a rule has an answer for every write; test for what may be missing, and for its type
DIR/testdata/bad.yaml:1: failed: bad
  not expected: deny payments/no-public at nonMasqueradeCIDRs[0]: 8.8.8.0/24 is a public range
  missing: payments/other at x
DIR/testdata/odd.yaml:1: error: odd
  reading the case: yaml: unmarshal errors:
    line 1: field confg not found in type main.testCase
DIR/late.rego:3: not reached by a test
DIR/late.rego:4: not reached by a test
4 passed, 5 failed, 1 skipped, coverage 91.7 %
`
	if diff := cmp.Diff(want, strings.ReplaceAll(stdout, dir, "DIR")); diff != "" || exit != 1 {
		t.Errorf("exit %d: %s\n%s", exit, stderr, diff)
	}

	stdout, _, exit = masq(t, "test", dir, "-o", "junit")
	var suite junitSuite
	if err := xml.Unmarshal([]byte(stdout), &suite); err != nil || exit != 1 {
		t.Fatalf("exit %d: %v", exit, err)
	}
	if suite.Tests != 10 || suite.Failures != 4 || suite.Errors != 1 || suite.Skipped != 1 || len(suite.Cases) != 10 {
		t.Errorf("%+v", suite)
	}
	stdout, _, exit = masq(t, "test", dir, "-o", "json", "--run", "no-public|test_deny_public")
	var report jsonTestReport
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || exit != 0 || len(report.Results) != 2 || report.Coverage != nil {
		t.Errorf("exit %d: %v: %s", exit, err, stdout)
	}
	_, stderr, exit = masq(t, "test", dir, "--run", "test_deny_public", "--threshold", "99")
	if exit != 1 || !regexp.MustCompile(`^kubectl-masq: coverage is \d+\.\d %, below 99 %\n$`).MatchString(stderr) {
		t.Errorf("below the threshold: exit %d: %s", exit, stderr)
	}
	for _, tt := range []struct{ args, want string }{
		{"test", "an argument is missing: a directory of rules"},
		{"test " + t.TempDir(), "there are no rules in "},
		{"test " + dir + " --run nothing", "no test ran"},
		{"test " + dir + " -o xml", `-o "xml": want text, json or junit`},
	} {
		if _, stderr, exit := masq(t, strings.Fields(tt.args)...); exit != 2 || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit %d: %s", tt.args, exit, stderr)
		}
	}
}

// TestNewRuleBesideAnother writes a second rule of a team: both compile, and the tests of both pass.
func TestNewRuleBesideAnother(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rules")
	for _, name := range []string{"no-public", "no-tiny"} {
		if _, stderr, exit := masq(t, "new", "rule", name, "--team", "payments", "--dir", dir); exit != 0 {
			t.Fatal(stderr)
		}
	}
	if stdout, stderr, exit := masq(t, "test", dir, "--run", "test_", "--threshold", "100"); exit != 0 || stdout != "6 passed, coverage 100.0 %\n" {
		t.Errorf("exit %d: %s%s", exit, stdout, stderr)
	}
	stdout, stderr, exit := masq(t, "test", dir)
	if want := "not expected: deny payments/no-tiny at nonMasqueradeCIDRs[1]: 8.8.8.0/24 is a public range"; exit != 1 || !strings.Contains(stdout, want) {
		t.Errorf("exit %d, want %q: %s%s", exit, want, stdout, stderr)
	}
}

func TestEval(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rules")
	if _, stderr, exit := masq(t, "new", "rule", "no-public", "--team", "payments", "--dir", dir); exit != 0 {
		t.Fatal(stderr)
	}
	stdout, stderr, exit := masq(t, "eval", "no-duplicate", "--raw", "-f", "testdata/traffic-raw.yaml")
	if exit != 0 || !regexp.MustCompile(`^ipmasq\.no_duplicate\.deny \(rules/no-duplicate\.rego:\d+\) = set\(\)\n$`).MatchString(stdout) {
		t.Errorf("exit %d: %s%s", exit, stdout, stderr)
	}
	stdout, stderr, exit = masq(t, "eval", "payments", "--policy-dir", dir, "--explain", "--raw", "-f", "testdata/traffic-raw.yaml")
	if exit != 0 || !strings.Contains(stdout, "no-public.rego:9") || !strings.Contains(stdout, "Eval not data.ipmasq.payments._private") {
		t.Errorf("exit %d: %s%s", exit, stdout, stderr)
	}
	stdout, stderr, exit = masq(t, "eval", "two_person", "--policy-dir", examples+"/two-person", "--case", examples+"/two-person/testdata/alone.yaml")
	if exit != 0 || !strings.Contains(stdout, "no colleague has approved: masquerade 172.16.0.0/12") || !strings.Contains(stdout, "an approval by alice@example.com") {
		t.Errorf("of a case: exit %d: %s%s", exit, stdout, stderr)
	}
	for _, tt := range []struct{ args, want string }{
		{"eval two_person", "-f is missing"},
		{"eval two_person --case a -f b", "exclude each other"},
		{"eval two_person --case testdata/none", "no such file"},
		{"eval two_person --case testdata/traffic-raw.yaml", "reading the case: "},
	} {
		if _, stderr, exit := masq(t, strings.Fields(tt.args)...); exit != 2 || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit %d: %s", tt.args, exit, stderr)
		}
	}
	if _, stderr, exit := masq(t, "eval", "nothing", "--raw", "-f", "testdata/traffic-raw.yaml"); exit != 2 || !strings.Contains(stderr, `looking for rule "nothing": there is none; there are `) {
		t.Errorf("exit %d: %s", exit, stderr)
	}
}

// TestEvalOfNothing says why a rule sees nothing.
func TestEvalOfNothing(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, []byte("nonMasqueradeCIDRs: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, exit := masq(t, "eval", "no-duplicate", "--raw", "-f", config)
	if exit != 0 || !strings.HasSuffix(stdout, " = set()\n") || stderr != "note: the configuration does not load, so input.config is null; check tells why\n" {
		t.Errorf("exit %d: %s%s", exit, stdout, stderr)
	}
}

// TestEmbedded prints what stock tools read.
func TestEmbedded(t *testing.T) {
	for _, tt := range []struct{ args, file string }{
		{"schema", "../policy/schema/input.json"},
		{"schema input", "../policy/schema/input.json"},
		{"schema config", "../agent/config/config.schema.json"},
		{"capabilities", "../policy/capabilities.json"},
	} {
		stdout, stderr, exit := masq(t, strings.Fields(tt.args)...)
		want, err := os.ReadFile(tt.file)
		if err != nil {
			t.Fatal(err)
		}
		if exit != 0 || stdout != string(want) || !json.Valid(want) {
			t.Errorf("%s: exit %d: %s%s", tt.args, exit, stdout, stderr)
		}
	}
	if _, stderr, exit := masq(t, "schema", "agent"); exit != 2 || stderr != "kubectl-masq: there is no schema of \"agent\": want input or config\n" {
		t.Errorf("exit %d: %s", exit, stderr)
	}
	stdout, _, exit := masq(t, "completion", "bash")
	if exit != 0 || !strings.Contains(stdout, "kubectl-masq") {
		t.Errorf("completion: exit %d", exit)
	}
}
