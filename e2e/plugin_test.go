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

// TestKubectlPluginLive asks about what is stored, and about the ranges of the cluster,
// as somebody without a file does.
func TestKubectlPluginLive(t *testing.T) {
	g := needGuard(t)
	k := g.cluster.kubectl()
	k.env = []string{"PATH=" + filepath.Dir(program(t, "kubectl-masq")) + string(os.PathListSeparator) + os.Getenv("PATH")}

	before := k.run(t.Context(), "", "masq", "explain", "10.244.1.7", "--live")
	if before.exit != 0 || !strings.Contains(before.stderr, "there is no configmap kube-system/ip-masq-agent, so agents have their defaults") ||
		!strings.Contains(before.stdout, "in the pod range 10.244.1.0/24 (Node worker-1)") {
		t.Errorf("without a ConfigMap: %s", before)
	}

	k.must(t, manifest("nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 192.168.0.0/16\nresyncInterval: 60s\n"), "create", "-f", "-")
	stored := k.run(t.Context(), "", "masq", "explain", "192.168.1.11", "--live")
	for _, want := range []string{
		"not masqueraded", "nonMasqueradeCIDRs[1] spares 192.168.0.0/16 (configmap kube-system/ip-masq-agent:3:3)", "in the node range 192.168.1.11/32 (Node worker-1)",
	} {
		if stored.exit != 0 || stored.stderr != "" || !strings.Contains(stored.stdout, want) {
			t.Errorf("no %q: %s", want, stored)
		}
	}
	changed := k.run(t.Context(), manifest("nonMasqueradeCIDRs:\n- 10.0.0.0/8\nresyncInterval: 60s\n"), "masq", "diff", "--live", "-")
	if changed.exit != 1 || !strings.Contains(changed.stdout, "192.168.0.0/16  65,536 addresses  node range 192.168.1.11/32 (Node worker-1)") {
		t.Errorf("diff: %s", changed)
	}
	k.must(t, "", "label", "node", "worker-1", "plugin-test=edge")
	t.Cleanup(func() { k.must(t, "", "label", "node", "worker-1", "plugin-test-") })
	overridden := "nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 192.168.0.0/16\nresyncInterval: 60s\nnodeOverrides:\n- matchLabels: {plugin-test: edge}\n  masqueradeCIDRs: [10.200.0.0/16]\n"
	k.must(t, manifest(overridden), "replace", "-f", "-")
	for _, tt := range []struct{ args, want string }{
		{"", "10.200.0.1: not masqueraded"},
		{"", "on nodes with plugin-test=edge: masqueraded"},
		{"--node worker-1", "10.200.0.1: masqueraded"},
		{"--node worker-1", "on this node nodeOverrides[0] holds, for nodes with plugin-test=edge (configmap kube-system/ip-masq-agent:6:3)"},
	} {
		on := k.run(t.Context(), "", append([]string{"masq", "explain", "10.200.0.1", "--live"}, strings.Fields(tt.args)...)...)
		if on.exit != 0 || !strings.Contains(on.stdout, tt.want) {
			t.Errorf("explain %s, and not %q: %s", tt.args, tt.want, on)
		}
	}
	nowhere := k.run(t.Context(), "", "masq", "explain", "10.200.0.1", "--live", "--node", "none-such")
	if nowhere.exit != 2 || !strings.Contains(nowhere.stderr, `reading the labels of the node: nodes "none-such" not found`) {
		t.Errorf("another node: %s", nowhere)
	}

	drawn := k.run(t.Context(), "", "masq", "map", "--live", "-o", "svg")
	if drawn.exit != 0 || !strings.Contains(drawn.stdout, "configmap kube-system/ip-masq-agent") {
		t.Errorf("map: %s", drawn)
	}
	wrong := k.run(t.Context(), "", "masq", "explain", "10.0.0.1", "--live", "--context", "none-such")
	if wrong.exit != 2 || !strings.Contains(wrong.stderr, `context "none-such" does not exist`) {
		t.Errorf("another context: %s", wrong)
	}
}
