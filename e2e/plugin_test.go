package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestKubectlPlugin asks `kubectl masq check` what the API server says as well:
// each cause is told in the same words before anything is written.
func TestKubectlPlugin(t *testing.T) {
	g := needGuard(t)
	k := g.cluster.kubectl()
	// kubectl finds its plugins on the PATH.
	path := filepath.Dir(program(t, "kubectl-masq")) + string(os.PathListSeparator) + os.Getenv("PATH")
	withPlugin := k
	withPlugin.env = []string{"PATH=" + path}
	check := []string{
		"masq", "check", "-f", "-",
		"--node-cidrs=192.168.1.11/32", "--pod-cidrs=10.244.1.0/24", "--service-cidrs=" + serviceRange,
	}

	k.must(t, manifest(approvedConfig), "create", "--dry-run=server", "-f", "-")
	if got := withPlugin.run(t.Context(), manifest(approvedConfig), check...); got.exit != 0 {
		t.Errorf("the plugin refuses what the API server takes: %s", got)
	}

	bad := manifest("nonMasqueradeCIDRs:\n- 198.15.5.92/24\n- 10.0.0.0/8\n- 10.96.0.0/33\nresyscInterval: 1d\n")
	refused := k.run(t.Context(), bad, "create", "-f", "-")
	causes := 0
	checked := withPlugin.run(t.Context(), bad, check...)
	if refused.exit != 1 || checked.exit != 1 {
		t.Fatalf("refused by the API server: %s\nby the plugin: %s", refused, checked)
	}
	for line := range strings.Lines(refused.stderr) {
		cause, ok := strings.CutPrefix(strings.TrimSpace(line), `* data["config"]:`)
		if !ok {
			continue
		}
		causes++
		_, words, _ := strings.Cut(cause, ": ") // behind the place
		words, _, _ = strings.Cut(words, "; ")  // before the remedy
		if !strings.Contains(checked.stdout+checked.stderr, words) {
			t.Errorf("the plugin does not say %q: %s", words, checked)
		}
	}
	if causes < 3 {
		t.Errorf("the API server gives %d causes, want at least 3: %s", causes, refused)
	}
}
