package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// informerLimit bounds the wait for the webhook to hear of a change of the cluster.
const informerLimit = 10 * time.Second

// TestClusterRanges changes the cluster under a configuration: what agents have to
// spare follows the objects of the API server.
func TestClusterRanges(t *testing.T) {
	g := needGuard(t)
	k := g.cluster.kubectl()
	k.must(t, manifest(approvedConfig), "create", "-f", "-")
	try := func(config string) output {
		return k.run(t.Context(), manifest(config), "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-")
	}
	// deniedFor waits until the approved config is refused with these words, and
	// shows that the line that it is told to add is enough.
	deniedFor := func(t *testing.T, line string, words ...string) {
		t.Helper()
		eventually(t, informerLimit, func() error {
			got := try(approvedConfig)
			if got.exit != 1 {
				return fmt.Errorf("approved, though a range is missing: %s", got)
			}
			for _, want := range append(words, "- "+line) {
				if !strings.Contains(got.stderr, want) {
					return fmt.Errorf("nobody says %q: %s", want, got)
				}
			}
			return nil
		})
		golden(t, transcript([]string{"apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"}, try(approvedConfig)))
		mended := strings.Replace(approvedConfig, "- 10.0.0.0/8\n", "- 10.0.0.0/8\n- "+line+"\n", 1)
		if got := try(mended); got.exit != 0 {
			t.Errorf("refused, though the line was added: %s", got)
		}
	}
	approvedAgain := func(t *testing.T) {
		t.Helper()
		eventually(t, informerLimit, func() error {
			if got := try(approvedConfig); got.exit != 0 {
				return fmt.Errorf("still refused: %s", got)
			}
			return nil
		})
	}

	t.Run("pod range of a node", func(t *testing.T) {
		k.must(t, strings.NewReplacer("worker-1", "worker-2", "10.244.1.0", "100.64.2.0", "192.168.1.11", "192.168.1.12").Replace(node),
			"create", "-f", "-")
		deniedFor(t, "100.64.2.0/24", "worker-2")
		k.must(t, "", "delete", "node", "worker-2")
		approvedAgain(t)
	})

	t.Run("address of a node", func(t *testing.T) {
		patch := func(address string) {
			k.must(t, "", "patch", "node", "worker-1", "--subresource=status", "--type=merge",
				`--patch={"status":{"addresses":[{"type":"InternalIP","address":"`+address+`"}]}}`)
		}
		patch("172.16.5.9")
		deniedFor(t, "172.16.5.9/32", "worker-1")
		patch("192.168.1.11")
		approvedAgain(t)
	})

	t.Run("services", func(t *testing.T) {
		const withoutServices = "nonMasqueradeCIDRs:\n- 10.244.0.0/16\n- 192.168.0.0/16\nresyncInterval: 60s\n"
		got := try(withoutServices)
		if got.exit != 0 || !strings.Contains(got.stderr, serviceRange) || !strings.Contains(got.stderr, "ServiceCIDR kubernetes") {
			t.Errorf("no warning names the service range and its object: %s", got)
		}
		golden(t, transcript([]string{"apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"}, got))

		// A second range, as a cluster that grows gets it.
		k.must(t, `apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: more}
spec: {cidrs: [172.20.0.0/16]}
`, "create", "-f", "-")
		eventually(t, informerLimit, func() error {
			got := try(approvedConfig)
			if got.exit != 0 || !strings.Contains(got.stderr, "172.20.0.0/16") {
				return fmt.Errorf("no warning names the new service range: %s", got)
			}
			return nil
		})
		k.must(t, "", "delete", "servicecidr", "more")
		eventually(t, informerLimit, func() error {
			if got := try(approvedConfig); got.stderr != "" {
				return fmt.Errorf("still a warning: %s", got)
			}
			return nil
		})
	})
}

// TestRights shows that the webhook never asks for more than its ClusterRole of two
// resources lets it see.
func TestRights(t *testing.T) {
	g := needGuard(t)
	asked := map[string]bool{}
	for _, event := range g.cluster.audited(t) {
		if event.User.Username != webhookUser {
			continue
		}
		if code := event.ResponseStatus.Code; code >= 400 {
			t.Errorf("%s %s: %d %s", event.Verb, event.RequestURI, code, event.ResponseStatus.Message)
		}
		if event.ObjectRef != nil {
			asked[event.Verb+" "+event.ObjectRef.Resource] = true
		}
	}
	want := map[string]bool{
		"list nodes": true, "watch nodes": true,
		"list servicecidrs": true, "watch servicecidrs": true,
	}
	for request := range asked {
		if !want[request] {
			t.Errorf("the webhook asks to %s", request)
		}
	}
	// A watch may bring the list with it, so a list need not be asked for.
	for _, request := range []string{"watch nodes", "watch servicecidrs"} {
		if !asked[request] {
			t.Errorf("the webhook never asks to %s", request)
		}
	}
}
