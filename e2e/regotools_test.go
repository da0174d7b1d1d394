package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Where rules are, seen from here, and what the webhook compiles them with.
const (
	builtinRules = "../policy/rules"
	workedRules  = "../docs/examples/rules"
	inputSchema  = "../policy/schema/input.json"
	language     = "../policy/capabilities.json"
)

// needRegoTool returns stock opa or conftest. Where regotools/build.sh has not built it the
// test is skipped, or fails where REQUIRE_CLUSTER=1.
func needRegoTool(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "regotools/build.sh", "--print").Output()
	if err != nil {
		t.Fatalf("running regotools/build.sh --print: %v", err)
	}
	binary := filepath.Join(strings.TrimSpace(string(out)), name)
	_, err = os.Stat(binary)
	switch {
	case err == nil:
	case os.Getenv("REQUIRE_CLUSTER") == "1":
		t.Fatalf("no %s: run `make regotools`", binary)
	default:
		t.Skipf("no %s: run `make regotools`; REQUIRE_CLUSTER=1 makes this a failure", binary)
	}
	return binary
}

// stock runs a tool as it comes, without a cluster.
func stock(t *testing.T, binary string, args ...string) output {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "LC_ALL=C"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	got := output{stdout: stdout.String(), stderr: stderr.String()}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got.exit = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return got
}

// workedFolders are the folders of docs/writing-rules.md.
func workedFolders(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(workedRules)
	if err != nil || len(entries) < 8 {
		t.Fatalf("%d worked rules: %v", len(entries), err)
	}
	folders := make([]string, 0, len(entries))
	for _, entry := range entries {
		folders = append(folders, filepath.Join(workedRules, entry.Name()))
	}
	return folders
}

// TestStockOPATakesRules runs what authors of rules run, on the built-in rules and on the worked ones.
func TestStockOPATakesRules(t *testing.T) {
	opa := needRegoTool(t, "opa")
	if got := stock(t, opa, "fmt", "--fail", "--list", "../policy", workedRules); got.exit != 0 || got.stdout != "" {
		t.Errorf("opa fmt: %s", got)
	}
	check := []string{"check", "--strict", "--schema", inputSchema, "--capabilities", language}
	if got := stock(t, opa, append(check, builtinRules, workedRules)...); got.exit != 0 {
		t.Errorf("opa check: %s", got)
	}
	for _, tt := range []struct{ name, rule, want string }{
		{"what is no input", `deny contains "x" if input.request.usr`, "undefined ref: input.request.usr"},
		{"what is not in the language", `deny contains "x" if http.send({}).status_code == 200`, "undefined function http.send"},
		{"what is not strict", `deny contains "x" if idle := input.config`, "assigned var idle unused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "bad.rego")
			if err := os.WriteFile(file, []byte("package ipmasq.bad\n\n"+tt.rule+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := stock(t, opa, append(check, file)...); got.exit == 0 || !strings.Contains(got.stdout+got.stderr, tt.want) {
				t.Errorf("opa check takes %s: %s", tt.rule, got)
			}
		})
	}
	for _, folder := range append(workedFolders(t), builtinRules) {
		got := stock(t, opa, "test", "--schema", inputSchema, "--capabilities", language, "--ignore", "testdata", folder)
		var passed, all int
		if _, err := fmt.Sscanf(got.stdout, "PASS: %d/%d\n", &passed, &all); err != nil || got.exit != 0 || passed != all || passed < 5 {
			t.Errorf("opa test %s: %s", folder, got)
		}
	}
}

// TestStockOPAEvaluatesSamples gives the published inputs to the built-in rules. A text that
// does not load is no rule's business, but the parser's.
func TestStockOPAEvaluatesSamples(t *testing.T) {
	opa := needRegoTool(t, "opa")
	want := map[string][]string{
		"created":    {},
		"deleted":    {"deny no-delete at metadata.name"},
		"empty":      {"deny config-not-empty at "},
		"everything": {"deny masquerade-not-disabled at nonMasqueradeCIDRs[0]"},
		"exceptions": {"deny node-cidrs-present at nonMasqueradeCIDRs"},
		"ipv6":       {"deny ipv6-enabled at nonMasqueradeCIDRs[1]", "deny node-cidrs-present at nonMasqueradeCIDRs"},
		"no-list":    {"warn list-explicit at nonMasqueradeCIDRs"},
		"null-list": {
			"deny list-not-empty at nonMasqueradeCIDRs", "deny node-cidrs-present at nonMasqueradeCIDRs",
			"deny pod-cidrs-present at nonMasqueradeCIDRs", "deny service-cidrs-present at nonMasqueradeCIDRs",
		},
		"suspicious": {
			"deny no-duplicate at nonMasqueradeCIDRs[2]", "deny no-overlap at nonMasqueradeCIDRs[1]",
			"deny no-unknown-keys at resyscInterval", "deny node-cidrs-present at nonMasqueradeCIDRs", "deny resync-bounds at resyncInterval",
		},
		"typical":    {},
		"unloadable": {},
	}
	const query = `[$"{kind} {v.rule} at {v.path}" | some kind in ["deny", "warn"]; some p; some v in data.ipmasq[p][kind]]`
	got := map[string][]string{}
	inputs, err := filepath.Glob("../policy/samples/*.input.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, input := range inputs {
		result := stock(t, opa, "eval", "--strict-builtin-errors", "--schema", inputSchema, "--capabilities", language,
			"--ignore", "*_test.rego", "--data", builtinRules, "--input", input, "--format", "raw", query)
		found := []string{}
		if err = json.Unmarshal([]byte(result.stdout), &found); err != nil {
			t.Fatalf("%s: %v: %s", input, err, result)
		}
		slices.Sort(found)
		got[strings.TrimSuffix(filepath.Base(input), ".input.json")] = found
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings on samples (-want +got):\n%s", diff)
	}
}

// TestConftestTakesRules runs tests and rules by conftest.
func TestConftestTakesRules(t *testing.T) {
	conftest := needRegoTool(t, "conftest")
	for _, folder := range append(workedFolders(t), builtinRules) {
		got := stock(t, conftest, "verify", "--no-color", "--strict", "--capabilities", language, "--policy", folder)
		var all, passed int
		if _, err := fmt.Sscanf(strings.TrimSpace(got.stdout), "%d tests, %d passed, 0 warnings, 0 failures", &all, &passed); err != nil || got.exit != 0 || passed != all || passed < 5 {
			t.Errorf("conftest verify %s: %s", folder, got)
		}
	}
	for _, tt := range []struct {
		name string
		args []string
		exit int
		want string // of its output
	}{
		{
			name: "a worked rule with data", exit: 1,
			args: []string{
				"--policy", workedRules + "/approved-register", "--data", workedRules + "/approved-register/data.json",
				"--namespace", "ipmasq.register", "../policy/samples/typical.input.json",
			},
			want: "FAIL - ../policy/samples/typical.input.json - ipmasq.register - 172.16.0.0/12 lies in no range of the register\n" +
				"\n1 test, 0 passed, 0 warnings, 1 failure, 0 exceptions\n",
		},
		{
			name: "a worked rule that finds nothing",
			args: []string{"--policy", workedRules + "/metadata-server", "--namespace", "ipmasq.metadata_server", "../policy/samples/typical.input.json"},
			want: "\n2 tests, 2 passed, 0 warnings, 0 failures, 0 exceptions\n",
		},
		{
			name: "built-in rules", exit: 1,
			args: []string{"--policy", builtinRules, "--namespace", "ipmasq.masquerade_not_disabled", "../policy/samples/everything.input.json"},
			want: "FAIL - ../policy/samples/everything.input.json - ipmasq.masquerade_not_disabled - " +
				"the list covers 0.0.0.0/0, so no ipv4 traffic is masqueraded, that to the internet neither\n" +
				"\n1 test, 0 passed, 0 warnings, 1 failure, 0 exceptions\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := stock(t, conftest, append([]string{"test", "--no-color", "--capabilities", language}, tt.args...)...)
			if diff := cmp.Diff(tt.want, got.stdout); diff != "" || got.exit != tt.exit {
				t.Errorf("exit %d (-want +got):\n%s%s", got.exit, diff, got.stderr)
			}
		})
	}
}
