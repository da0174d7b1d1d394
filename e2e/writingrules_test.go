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
