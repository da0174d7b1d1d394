package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/pki"
)

// Names of the product in the cluster.
const (
	webhookUser = "ip-masq-guard:webhook"
	webhookName = "validate.ip-masq-guard.io"
	configMap   = "ip-masq-agent"
	kubeSystem  = "kube-system"
)

// guard is the webhook program, and the API server's order to ask it about one
// namespace.
type guard struct {
	cluster   *controlPlane
	namespace string
	dir       string
	argv      []string
	health    string // URL of the probes
	metrics   string // URL
	*process
}

// guardLimit bounds the wait for a webhook to become ready: rules compiled, caches
// synced, certificate loaded.
const guardLimit = 30 * time.Second

// sharedGuard watches kube-system; most tests use it.
type sharedGuard struct {
	once sync.Once
	*guard
	err error
}

//nolint:gochecknoglobals // one for all tests of this binary, like the control plane.
var theGuard sharedGuard

func (s *sharedGuard) start(c *controlPlane, binary string) (err error) {
	if got := c.kubectl().run(context.Background(), node, "create", "-f", "-"); got.exit != 0 {
		return fmt.Errorf("creating a node: %s", got)
	}
	if s.guard, err = c.newGuard(binary, filepath.Join(c.dir, "guard"), kubeSystem); err != nil {
		return err
	}
	return s.guard.start()
}

// needGuard returns the control plane's guard of kube-system, with one node in the
// cluster and no ConfigMap stored. What a test stores is gone after it.
func needGuard(t *testing.T) *guard {
	t.Helper()
	c := needControlPlane(t)
	binary := program(t, "webhook")
	theGuard.once.Do(func() {
		theGuard.err = theGuard.start(c, binary)
	})
	if theGuard.err != nil {
		t.Fatal(theGuard.err)
	}
	if err := theGuard.alive(); err != nil {
		t.Fatal(err)
	}
	g := theGuard.guard
	g.showLogOfFailure(t)
	t.Cleanup(func() { c.forget(t, "configmaps", configMap) })
	return g
}

// newGuardOf starts a guard of its own for a test that is going to stop it, in a
// namespace of that test. Nobody ends namespaces here, so each run has a new one.
func newGuardOf(t *testing.T, test string, args ...string) *guard {
	t.Helper()
	c := needControlPlane(t)
	namespace := test + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	c.kubectl().must(t, "", "create", "namespace", namespace)
	g, err := c.newGuard(program(t, "webhook"), t.TempDir(), namespace, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.kubectl().must(t, "", "delete", "validatingwebhookconfiguration", g.configuration())
		if g.process != nil {
			g.kill()
		}
	})
	g.showLogOfFailure(t)
	if err := g.start(); err != nil {
		t.Fatal(err)
	}
	return g
}

// showLogOfFailure has what the webhook logged during a failed test in its output.
func (g *guard) showLogOfFailure(t *testing.T) {
	t.Helper()
	log := filepath.Join(g.dir, "webhook.log")
	before, _ := os.ReadFile(log) // none before its first start
	t.Cleanup(func() {
		after, err := os.ReadFile(log)
		if t.Failed() && err == nil {
			t.Logf("the webhook's log:\n%s", after[len(before):])
		}
	})
}

// newGuard prepares a webhook for one namespace and registers it: from here on the
// API server refuses what the webhook does not approve, running or not.
func (c *controlPlane) newGuard(binary, dir, namespace string, args ...string) (*guard, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	serving, err := pki.New("webhook of " + namespace)
	if err != nil {
		return nil, err
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err = errors.Join(
		serving.WriteKeyPair(filepath.Join(dir, "tls"), "tls", pki.Local("webhook")),
		c.writeKubeconfig(kubeconfig, webhookUser),
	); err != nil {
		return nil, err
	}
	g := &guard{
		cluster:   c,
		namespace: namespace,
		dir:       dir,
		health:    fmt.Sprintf("http://127.0.0.1:%d", ports[1]),
		metrics:   fmt.Sprintf("http://127.0.0.1:%d/metrics", ports[2]),
		argv: append([]string{
			binary,
			"--bind-address=127.0.0.1",
			fmt.Sprintf("--port=%d", ports[0]),
			"--cert-dir=" + filepath.Join(dir, "tls"),
			"--kubeconfig=" + kubeconfig,
			"--configmap-namespace=" + namespace,
			fmt.Sprintf("--health-probe-bind-address=127.0.0.1:%d", ports[1]),
			fmt.Sprintf("--metrics-bind-address=127.0.0.1:%d", ports[2]),
		}, args...),
	}

	manifest, err := os.ReadFile(filepath.Join("testdata", "webhook.yaml"))
	if err != nil {
		return nil, err
	}
	values := map[string]string{
		"NAME":      g.configuration(),
		"NAMESPACE": namespace,
		"URL":       fmt.Sprintf("https://127.0.0.1:%d/validate", ports[0]),
		"CA":        base64.StdEncoding.EncodeToString(serving.PEM()),
	}
	filled := os.Expand(string(manifest), func(name string) string { return values[name] })
	if got := c.kubectl().run(context.Background(), filled, "apply", "-f", "-"); got.exit != 0 {
		return nil, fmt.Errorf("registering the webhook: %s", got)
	}
	return g, nil
}

// configuration is the name of the guard's ValidatingWebhookConfiguration.
func (g *guard) configuration() string { return "ip-masq-guard-" + g.namespace }

// start runs the webhook and waits until it is ready.
func (g *guard) start() error {
	p, err := startProcess(g.dir, "webhook", g.argv...)
	if err != nil {
		return err
	}
	g.process = p
	if err := waitFor(guardLimit, g.ready); err != nil {
		return fmt.Errorf("%w\n%s", err, g.tail())
	}
	return nil
}

// ready asks the probe that a kubelet would ask.
func (g *guard) ready() error {
	if err := g.alive(); err != nil {
		return permanentError{err}
	}
	return g.probe("/readyz")
}

// probe is nil when the path answers with 200.
func (g *guard) probe(path string) error {
	client := http.Client{Timeout: 2 * time.Second}
	response, err := client.Get(g.health + path)
	if err != nil {
		return fmt.Errorf("probing the webhook: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("probing the webhook: %s: %s", path, response.Status)
	}
	return nil
}

func (s *sharedGuard) stop() {
	if s.guard != nil && s.process != nil {
		s.kill()
	}
}
