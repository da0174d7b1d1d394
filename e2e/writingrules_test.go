package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// typed is what docs/writing-rules.md has its reader type: each line after a $, and each
// block of a shell.
var typed = regexp.MustCompile("(?ms)^\\$ ([^\n]+)$|^```sh\n(.*?)^```$")

// TestWritingRules types the first part of the document on a real API server, and then
// ships each worked rule as it says.
func TestWritingRules(t *testing.T) {
	i := install(t)
	i.runWebhook(t)
	k := i.kubectl()
	document, err := os.ReadFile("../docs/writing-rules.md")
	if err != nil {
		t.Fatal(err)
	}
	_, begin, _ := strings.Cut(string(document), "\n## Ten minutes\n")
	begin, _, _ = strings.Cut(begin, "\n## ")
	here := strings.NewReplacer("-n ip-masq-guard", "-n "+i.namespace, "-n kube-system", "-n "+i.guarded)
	dir, path := t.TempDir(), t.TempDir()
	for name, binary := range map[string]string{"kubectl": k.binary, "kubectl-masq": program(t, "kubectl-masq")} {
		if err = os.Symlink(binary, filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	shell := func(line string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", here.Replace(line))
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + path + string(os.PathListSeparator) + os.Getenv("PATH"), "KUBECONFIG=" + k.kubeconfig, "HOME=" + k.home, "LC_ALL=C"}
		text, err := cmd.CombinedOutput()
		return string(text), err
	}
	steps := typed.FindAllStringSubmatch(begin, -1)
	if len(steps) < 8 {
		t.Fatalf("%d steps in the document", len(steps))
	}
	for _, step := range steps {
		line, block := step[1], step[2]
		switch {
		case strings.Contains(block, "--dry-run=server"):
			eventually(t, 10*time.Second, func() error {
				out, err := shell(block)
				if err == nil || !strings.Contains(out, "8.8.8.0/24 is a public range; spare private ranges only [payments/no-public]") {
					return fmt.Errorf("not refused: %s", out)
				}
				return nil
			})
		case block != "":
			if out, err := shell(block); err != nil || out != "configmap/payments created\n" {
				t.Fatalf("%s: %v\n%s", block, err, out)
			}
		default:
			out, err := shell(line)
			refused := strings.Contains(line, "masq test broken") || strings.Contains(line, "masq check")
			if (err != nil) != refused {
				t.Fatalf("%s: %v\n%s", line, err, out)
			}
		}
	}

	for _, folder := range workedFolders(t) {
		name := filepath.Base(folder)
		absolute, err := filepath.Abs(folder)
		if err != nil {
			t.Fatal(err)
		}
		out, err := shell(strings.NewReplacer("payments", name, "--from-file=rules", "--from-file="+absolute).Replace(shipped(t, begin)))
		if err != nil || out != "configmap/"+name+" created\n" {
			t.Errorf("shipping %s: %v\n%s", name, err, out)
		}
	}
	eventually(t, 10*time.Second, func() error {
		state, err := stateOf(i.metrics)
		if err != nil {
			return err
		}
		inForce := 0
		for _, set := range state.Rules.Sets {
			if set.State == "in-force" {
				inForce++
			}
		}
		if want := 1 + len(workedFolders(t)); inForce != want {
			return fmt.Errorf("%d rule sets in force, want %d: %+v", inForce, want, state.Rules.Sets)
		}
		return nil
	})
	got := k.run(t.Context(), manifestOf(i.guarded, configMap, "data", "config", "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16, 172.16.0.0/12]\nmasqLinkLocal: true\n"), "create", "--dry-run=server", "-f", "-")
	for _, want := range []string{"[register/approved-range]", "[metadata_server/metadata-server-spared]", "[ticket/ticket]"} {
		if got.exit != 1 || !strings.Contains(got.stderr, want) {
			t.Errorf("not refused with %s: %s", want, got)
		}
	}
}

// shipped is the block of the document that makes a rule set of a folder.
func shipped(t *testing.T, document string) string {
	t.Helper()
	for _, block := range typed.FindAllStringSubmatch(document, -1) {
		if strings.Contains(block[2], "kubectl label --local") {
			return block[2]
		}
	}
	t.Fatal("the document does not tell how to ship")
	return ""
}

// fenced is a block of the document: the mark of a file that it shows, its language, its
// text.
var fenced = regexp.MustCompile("(?ms)^(<!-- examples/\\S+ -->\n)?```(\\w*)\n(.*?)^```$")

// TestWritingRulesForCI types what the document has its reader put into CI, on the rule of its
// first part, and its params. Blocks that no test knows of would be untested.
func TestWritingRulesForCI(t *testing.T) {
	document, err := os.ReadFile("../docs/writing-rules.md")
	if err != nil {
		t.Fatal(err)
	}
	begin, rest, _ := strings.Cut(string(document), "\n## In CI\n")
	inCI, rest, found := strings.Cut(rest, "\n## ")
	if !found {
		t.Fatal("the document has no section In CI")
	}
	for _, block := range fenced.FindAllStringSubmatch(begin+rest, -1) {
		// TestWritingRules types blocks of a shell, and params are tried below; others are held
		// to the document in the package of kubectl-masq.
		if block[1] == "" && block[2] != "console" && (strings.Contains(rest, block[0]) || block[2] != "sh" && block[2] != "yaml") {
			t.Errorf("a block that no test reads:\n%s", block[0])
		}
	}

	dir, path := t.TempDir(), t.TempDir()
	for name, binary := range map[string]string{
		"kubectl": filepath.Join(controlPlaneBinaries(t), "kubectl"), "kubectl-masq": program(t, "kubectl-masq"),
		"opa": needRegoTool(t, "opa"), "conftest": needRegoTool(t, "conftest"),
	} {
		if err = os.Symlink(binary, filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	shell := func(line string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + path + string(os.PathListSeparator) + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C"}
		text, failure := cmd.CombinedOutput()
		return string(text), failure
	}
	if out, failure := shell("kubectl masq new rule no-public --team payments --dir rules && echo '{}' > rules/data.json"); failure != nil {
		t.Fatalf("%v\n%s", failure, out)
	}
	sample, err := os.ReadFile("../policy/samples/typical.input.json")
	if err != nil {
		t.Fatal(err)
	}
	if err = os.WriteFile(filepath.Join(dir, "typical.input.json"), sample, 0o600); err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, block := range fenced.FindAllStringSubmatch(inCI, -1) {
		for line := range strings.Lines(block[3]) {
			lines++
			out, failure := shell(line)
			if failure != nil {
				t.Errorf("%s: %v\n%s", strings.TrimSpace(line), failure, out)
			}
			for tool, want := range map[string]string{"opa test": "PASS: 3/3\n", "opa eval": `"value": []`, "conftest": "1 test, 1 passed, 0 warnings, 0 failures"} {
				if strings.HasPrefix(line, tool) && !strings.Contains(out, want) {
					t.Errorf("%s: want %q in\n%s", strings.TrimSpace(line), want, out)
				}
			}
		}
	}
	if lines < 8 {
		t.Errorf("%d lines in CI", lines)
	}

	params := regexp.MustCompile("(?s)```yaml\n(rules:.*?)```").FindStringSubmatch(begin)
	if params == nil {
		t.Fatal("the document has no params")
	}
	testCase := filepath.Join(dir, "rules", "testdata", "no-public.yaml")
	text, err := os.ReadFile(testCase)
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		// Whenever this runs, the action is that of a day before the end.
		testCase: "time: 2026-12-01T10:00:00Z\n" + strings.Replace(string(text), "action: deny", "action: warn", 1),
		filepath.Join(dir, "rules", "params.yaml"): params[1],
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := shell("kubectl masq test rules"); err != nil || out != "4 passed\n" {
		t.Errorf("with params: %v\n%s", err, out)
	}
}
