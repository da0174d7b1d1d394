package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestWebhookDown kills the webhook: only writes of the one ConfigMap are refused
// while it is away, and they work once it is back.
func TestWebhookDown(t *testing.T) {
	needGuard(t) // the one of kube-system goes on
	g := newGuardOf(t, "outage")
	k := g.cluster.kubectl()
	good := manifestOf(g.namespace, configMap, "data", "config", approvedConfig)
	wider := manifestOf(g.namespace, configMap, "data", "config", widerConfig)
	k.must(t, good, "create", "-f", "-")

	g.kill()
	for _, args := range [][]string{
		{"apply", "--server-side", "--force-conflicts", "-f", "-"},
		{"replace", "-f", "-"},
		{"delete", "-f", "-"},
	} {
		got := k.run(t.Context(), wider, args...)
		if got.exit == 0 || !strings.Contains(got.stderr, `failed calling webhook "validate.ip-masq-guard.io"`) {
			t.Errorf("%s without the webhook: %s", args[0], got)
		}
	}
	if got := k.stored(t, g.namespace).Data["config"]; got != approvedConfig {
		t.Errorf("the config has changed without the webhook: %q", got)
	}

	// Everything else is as always.
	k.must(t, "", "create", "configmap", "another", "-n", g.namespace, "--from-literal=config=x")
	k.must(t, "", "delete", "configmap", "another", "-n", g.namespace)
	k.must(t, "", "create", "secret", "generic", configMap, "-n", g.namespace, "--from-literal=config=x")
	k.must(t, "", "create", "configmap", configMap, "-n", "default", "--from-literal=config=x")
	k.must(t, "", "delete", "configmap", configMap, "-n", "default")
	k.must(t, "", "label", "node", "worker-1", "outage=true")
	k.must(t, manifest(approvedConfig), "create", "-f", "-")

	if err := g.start(); err != nil {
		t.Fatal(err)
	}
	got := k.must(t, wider, "apply", "--server-side", "--force-conflicts", "-f", "-")
	if !strings.Contains(got.stderr, "Warning: no longer masqueraded: 172.16.0.0/12") {
		t.Errorf("the webhook is back and says nothing of the effect: %s", got)
	}
	if got := k.stored(t, g.namespace).Data["config"]; got != widerConfig {
		t.Errorf("the webhook is back and the config is still %q", got)
	}
}

// TestWebhookDrain stops the webhook as a rollout does. It goes on answering while
// it is no longer ready, since the API server has not heard of its end.
func TestWebhookDrain(t *testing.T) {
	const drain = 6 * time.Second // the default is 10 s
	g := newGuardOf(t, "drain", "--drain="+drain.String())
	k := g.cluster.kubectl()
	args := []string{"apply", "--server-side", "--force-conflicts", "-f", "-"}
	good := manifestOf(g.namespace, configMap, "data", "config", approvedConfig)
	bad := manifestOf(g.namespace, configMap, "data", "config", guideConfig)
	k.must(t, good, args...)

	start := time.Now()
	if err := g.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// The probe says no at once, and says so by an answer.
	eventually(t, 2*time.Second, func() error {
		client := http.Client{Timeout: time.Second}
		response, err := client.Get(g.health + "/readyz")
		if err != nil {
			return fmt.Errorf("the probe does not answer: %w", err)
		}
		defer func() { _ = response.Body.Close() }()
		if response.StatusCode == http.StatusOK {
			return fmt.Errorf("still ready %s after SIGTERM", time.Since(start))
		}
		return nil
	})
	writes := 0
	for time.Since(start) < drain/2 { // a busy machine needs time for the last ones
		k.must(t, good, args...)
		if got := k.run(t.Context(), bad, args...); got.exit != 1 || !strings.Contains(got.stderr, "write 198.15.5.0/24") {
			t.Fatalf("%s after SIGTERM: %s", time.Since(start), got)
		}
		writes += 2
		time.Sleep(200 * time.Millisecond)
	}
	if writes < 4 {
		t.Errorf("only %d writes were judged in the time of the drain", writes)
	}
	select {
	case <-g.done:
	case <-time.After(drain + 10*time.Second):
		t.Fatal("the webhook does not end")
	}
	if took := time.Since(start); took < drain {
		t.Errorf("ended %s after SIGTERM, want at least %s", took, drain)
	}
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d\n%s", code, g.tail())
	}
}
