package e2e

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// TestEditReachesTheKernel follows one ConfigMap all the way: what the API server
// stored is projected as a kubelet does, and a running agent carries it into the nat
// table of its namespace. What was refused never leaves the editor.
func TestEditReachesTheKernel(t *testing.T) {
	host := netns.ForTest(t)
	g := needGuard(t)
	k := g.cluster.kubectl()
	k.must(t, manifest(approvedConfig), "create", "-f", "-")

	mounted := &volume{dir: t.TempDir()}
	mounted.project(t, k.stored(t, kubeSystem))
	agent := host.Command(t.Context(), program(t, "agent"),
		"--config-path="+mounted.path(),
		"--state-dir="+filepath.Join(t.TempDir(), "state"),
		"--iptables-backend=nft",
		"--metrics-bind-address=0")
	var log bytes.Buffer
	agent.Stderr = &log
	if err := host.Start(agent); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
		if t.Failed() {
			t.Logf("the agent's log:\n%s", &log)
		}
	})

	const comment = ` -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN`
	// The chain follows the file in a moment; the resync interval is a minute.
	becomes := func(ranges ...string) {
		t.Helper()
		want := []string{"-A IP-MASQ-AGENT -d 169.254.0.0/16" + comment}
		for _, cidr := range ranges {
			want = append(want, "-A IP-MASQ-AGENT -d "+cidr+comment)
		}
		want = append(want,
			`-A IP-MASQ-AGENT -m comment --comment "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE --random-fully`)
		eventually(t, 5*time.Second, func() error {
			if diff := cmp.Diff(want, chain(t, host)); diff != "" {
				return fmt.Errorf("the chain differs (-want +got):\n%s", diff)
			}
			return nil
		})
	}
	becomes("10.0.0.0/8", "192.168.0.0/16")

	if seen, exit, _ := edit(t, k, "guide", kubeSystem, configMap); exit != 0 {
		t.Fatalf("the edit failed:\n%s", seen)
	}
	mounted.project(t, k.stored(t, kubeSystem))
	becomes("10.0.0.0/8", "192.168.0.0/16", "198.15.5.0/24")

	if seen, exit, _ := edit(t, k, "give-up", kubeSystem, configMap); exit != 1 {
		t.Fatalf("the edit was not refused:\n%s", seen)
	}
	mounted.project(t, k.stored(t, kubeSystem))
	k.must(t, manifest(widerConfig), "apply", "--server-side", "--force-conflicts", "-f", "-")
	mounted.project(t, k.stored(t, kubeSystem))
	becomes("10.0.0.0/8", "192.168.0.0/16", "172.16.0.0/12")
}

// chain lists the rules of the agent's chain as iptables-save prints them.
func chain(t *testing.T, host *netns.Host) []string {
	t.Helper()
	var rules []string
	for line := range strings.Lines(host.Output(t, "iptables-nft-save", "-t", "nat")) {
		if strings.HasPrefix(line, "-A IP-MASQ-AGENT ") {
			rules = append(rules, strings.TrimSpace(line))
		}
	}
	return rules
}
