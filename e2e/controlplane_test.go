package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/pki"
)

// controlPlane is etcd and kube-apiserver on the loopback address, without nodes,
// controllers or a scheduler: objects are stored, admitted and audited as anywhere.
type controlPlane struct {
	dir       string // everything it writes
	binaries  string // etcd, kube-apiserver, kubectl
	users     pki.Authority
	url       string
	etcd      string
	auditLog  string
	admin     string // kubeconfig of a cluster administrator
	processes []*process
}

// sharedControlPlane is started by the first test that asks for it.
type sharedControlPlane struct {
	once sync.Once
	*controlPlane
	err error
}

//nolint:gochecknoglobals // one for all tests of this binary: a start takes seconds.
var theControlPlane sharedControlPlane

// needControlPlane returns the control plane that all tests share. Without its
// binaries the test is skipped, or fails where REQUIRE_CLUSTER=1.
func needControlPlane(t *testing.T) *controlPlane {
	t.Helper()
	binaries := controlPlaneBinaries(t)
	theControlPlane.once.Do(func() {
		theControlPlane.controlPlane, theControlPlane.err = startControlPlane(binaries)
	})
	if theControlPlane.err != nil {
		t.Fatal(theControlPlane.err)
	}
	for _, p := range theControlPlane.processes {
		if err := p.alive(); err != nil {
			t.Fatal(err)
		}
	}
	return theControlPlane.controlPlane
}

func (s *sharedControlPlane) stop() {
	if s.controlPlane != nil {
		s.controlPlane.stop()
	}
}

// controlPlaneBinaries is the folder that cluster/build.sh made.
func controlPlaneBinaries(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "cluster/build.sh", "--print").Output()
	if err != nil {
		t.Fatalf("running cluster/build.sh --print: %v", err)
	}
	dir := strings.TrimSpace(string(out))
	_, err = os.Stat(dir)
	switch {
	case err == nil:
		return dir
	case os.Getenv("REQUIRE_CLUSTER") == "1":
		t.Fatalf("no etcd, kube-apiserver and kubectl in %s: run `make controlplane`", dir)
	default:
		t.Skipf("no etcd, kube-apiserver and kubectl in %s: run `make controlplane`; REQUIRE_CLUSTER=1 makes this a failure", dir)
	}
	return ""
}

// startControlPlane starts it in a new folder and waits until it serves.
func startControlPlane(binaries string) (*controlPlane, error) {
	dir, err := os.MkdirTemp("", "ip-masq-guard-e2e-")
	if err != nil {
		return nil, fmt.Errorf("starting the control plane: %w", err)
	}
	if err = loopbackUp(); err != nil {
		return nil, fmt.Errorf("starting the control plane: %w", err)
	}
	// Between the choice of the ports and their use anybody may take one.
	for attempt := range 3 {
		var c *controlPlane
		c, err = launch(filepath.Join(dir, fmt.Sprint(attempt)), binaries)
		if err == nil {
			c.dir = dir
			return c, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("starting the control plane: %w", err), os.RemoveAll(dir))
}

// loopbackUp serves a run in a new network namespace, where loopback starts down.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("looking for the loopback interface: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("setting the loopback interface up: %w", err)
	}
	return nil
}

// serviceRange is where the cluster's service addresses come from.
const serviceRange = "10.96.0.0/16"

// auditPolicy records whose writes of ConfigMaps met which admission annotations,
// and everything that the webhook asks of the API server, as a user or in a pod.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: [` + webhookUser + `]
- level: Metadata
  userGroups: ["system:serviceaccounts"]
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
  resources: [{group: "", resources: [configmaps]}]
- level: None
`

// launch makes one attempt in dir.
func launch(dir, binaries string) (_ *controlPlane, err error) {
	c := &controlPlane{
		dir:      dir,
		binaries: binaries,
		auditLog: filepath.Join(dir, "audit.log"),
		admin:    filepath.Join(dir, "admin.kubeconfig"),
	}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	c.etcd = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	peer := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	c.url = fmt.Sprintf("https://127.0.0.1:%d", ports[2])
	if err := c.writeFiles(); err != nil {
		return nil, err
	}

	if err := c.start("etcd",
		"--data-dir="+filepath.Join(dir, "etcd"),
		"--unsafe-no-fsync", // the data ends with the test
		"--listen-client-urls="+c.etcd, "--advertise-client-urls="+c.etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer,
		"--log-level=warn",
	); err != nil {
		return nil, err
	}
	if err := c.start("kube-apiserver",
		"--etcd-servers="+c.etcd,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", ports[2]),
		"--endpoint-reconciler-type=none", // endpoints must not be loopback addresses
		"--service-cluster-ip-range="+serviceRange,
		"--authorization-mode=RBAC",
		"--client-ca-file="+filepath.Join(dir, "users.crt"),
		"--tls-cert-file="+filepath.Join(dir, "server", "tls.crt"),
		"--tls-private-key-file="+filepath.Join(dir, "server", "tls.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+filepath.Join(dir, "accounts.pub"),
		"--service-account-signing-key-file="+filepath.Join(dir, "accounts.key"),
		"--audit-policy-file="+filepath.Join(dir, "audit-policy.yaml"),
		"--audit-log-path="+c.auditLog,
		"--profiling=false",
	); err != nil {
		return nil, err
	}
	if err := waitFor(time.Minute, c.ready); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, c.processes[1].tail())
	}
	return c, nil
}

// start runs one of the control plane's binaries.
func (c *controlPlane) start(binary string, args ...string) error {
	p, err := startProcess(c.dir, binary, append([]string{filepath.Join(c.binaries, binary)}, args...)...)
	if err != nil {
		return err
	}
	c.processes = append(c.processes, p)
	return nil
}

// stop ends every process, the API server first: without etcd it only complains.
func (c *controlPlane) stop() {
	for _, p := range slices.Backward(c.processes) {
		p.kill()
	}
	_ = os.RemoveAll(c.dir)
}

// writeFiles makes the certificates, keys and policies that the flags name.
func (c *controlPlane) writeFiles() error {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	var err error
	if c.users, err = pki.New("ip-masq-guard-e2e"); err != nil {
		return err
	}
	write := func(name string, text []byte) error {
		return os.WriteFile(filepath.Join(c.dir, name), text, 0o600)
	}
	return errors.Join(
		write("users.crt", c.users.PEM()),
		write("audit-policy.yaml", []byte(auditPolicy)),
		pki.WriteAccountKeys(c.dir),
		c.users.WriteKeyPair(filepath.Join(c.dir, "server"), "tls", pki.Local("kube-apiserver")),
		c.writeKubeconfig(c.admin, "admin", "system:masters"),
	)
}

// writeKubeconfig lets a user of these groups in, by client certificate.
func (c *controlPlane) writeKubeconfig(path, user string, groups ...string) error {
	return c.users.WriteKubeconfig(path, c.url, user, groups...)
}

// ready tells whether the API server serves and has made the objects that every
// cluster has from its start.
func (c *controlPlane) ready() error {
	for _, p := range c.processes {
		if err := p.alive(); err != nil {
			return permanentError{err}
		}
	}
	for _, path := range []string{
		"/readyz",
		"/api/v1/namespaces/kube-system",
		"/apis/networking.k8s.io/v1/servicecidrs/kubernetes",
	} {
		if got := c.kubectl().run(context.Background(), "", "get", "--raw", path); got.exit != 0 {
			return fmt.Errorf("asking for %s: %s", path, got.stderr)
		}
	}
	return nil
}

// forget removes an object of kube-system behind the API server's back, which nothing but the
// absence of any rule could do with a ConfigMap whose deletion is denied.
func (c *controlPlane) forget(t *testing.T, resource, name string) {
	t.Helper()
	key := base64.StdEncoding.EncodeToString([]byte("/registry/" + resource + "/" + kubeSystem + "/" + name))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.etcd+"/v3/kv/deleterange",
		strings.NewReader(`{"key": "`+key+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatalf("removing %s from etcd: %v", name, err)
	}
	defer func() { _ = response.Body.Close() }()
	if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("removing %s from etcd: %s: %s (%v)", name, response.Status, body, err)
	}
}
