package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	admissionclient "k8s.io/client-go/kubernetes/typed/admissionregistration/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// certsName is the Secret and the Lease of a webhook with certificates of its own.
const certsName = "ip-masq-guard-certs"

// replicated are two replicas of the webhook with certificates of their own, behind
// one address, as behind a Service.
type replicated struct {
	cluster       *controlPlane
	namespace     string
	name          string       // of the ValidatingWebhookConfiguration
	cleanup       func(func()) // at the end of the whole test
	mu            sync.Mutex
	replicas      []*replica // guarded by mu; a replica itself never changes
	balancer      *balancer
	core          coreclient.CoreV1Interface
	configuration admissionclient.ValidatingWebhookConfigurationInterface
	leases        coordinationclient.LeaseInterface
}

// replica is one of them.
type replica struct {
	address string // of reviews
	metrics string
	guard
}

// newReplicated registers a webhook that nobody has a certificate of, in a namespace
// of the test.
func newReplicated(t *testing.T, test string) *replicated {
	t.Helper()
	needGuard(t) // for the node of the cluster
	c := needControlPlane(t)
	namespace := test + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	config, err := clientcmd.BuildConfigFromFlags("", c.admin)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1                           // the writer is limited by its own clock
	config.WarningHandler = rest.NoWarnings{} // each write has one
	r := &replicated{
		cluster: c, namespace: namespace, name: "ip-masq-guard-" + namespace, cleanup: t.Cleanup,
		core: must(coreclient.NewForConfig(config))(t),
	}
	r.configuration = must(admissionclient.NewForConfig(config))(t).ValidatingWebhookConfigurations()
	r.leases = must(coordinationclient.NewForConfig(config))(t).Leases(namespace)

	r.balancer = newBalancer(t)
	k := c.kubectl()
	k.must(t, "", "create", "namespace", namespace)
	for _, manifest := range []string{"webhook.yaml", "certs.yaml"} {
		k.must(t, r.fill(t, manifest), "apply", "-f", "-")
	}
	t.Cleanup(func() { k.must(t, "", "delete", "validatingwebhookconfiguration", r.name) })
	return r
}

// user is whose rights the replicas have.
func (r *replicated) user() string { return webhookUser + ":" + r.namespace }

// start starts two replicas, and with them the balancer, and waits until both are
// ready and a ConfigMap is stored.
func (r *replicated) start(t *testing.T, args ...string) {
	t.Helper()
	began := time.Now()
	for i := range 2 {
		r.replicas = append(r.replicas, r.startReplica(t, i, args...))
	}
	var balancing sync.WaitGroup
	serving, stop := context.WithCancel(t.Context())
	balancing.Go(func() { r.balancer.serve(serving, r) })
	t.Cleanup(func() {
		stop()
		balancing.Wait()
	})
	for _, one := range r.replicas {
		eventually(t, guardLimit, one.ready)
	}
	t.Logf("ready after %s", time.Since(began).Round(10*time.Millisecond))
	good := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: configMap}, Data: map[string]string{"config": approvedConfig}}
	eventually(t, 5*time.Second, func() error { // the balancer has to hear of it
		_, err := r.core.ConfigMaps(r.namespace).Create(t.Context(), good, metav1.CreateOptions{})
		return err
	})
}

// running are the replicas that have not ended.
func (r *replicated) running() []*replica {
	r.mu.Lock()
	defer r.mu.Unlock()
	var running []*replica
	for _, one := range r.replicas {
		if one.alive() == nil {
			running = append(running, one)
		}
	}
	return running
}

// restart starts a replica that has ended.
func (r *replicated) restart(t *testing.T, number int) {
	t.Helper()
	again := *r.replicas[number]
	again.run(t, r.cleanup)
	r.mu.Lock()
	r.replicas[number] = &again
	r.mu.Unlock()
	eventually(t, guardLimit, again.ready)
}

// run starts the process, which ends in the cleanup.
func (one *replica) run(t *testing.T, cleanup func(func())) {
	t.Helper()
	p, err := startProcess(one.dir, "webhook", one.argv...)
	if err != nil {
		t.Fatal(err)
	}
	one.process = p
	cleanup(p.kill)
}

// fill is a manifest of testdata with this webhook's names.
func (r *replicated) fill(t *testing.T, manifest string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", manifest))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{
		"NAME": r.name, "NAMESPACE": r.namespace, "USER": r.user(), "CA": `""`,
		"URL": "https://" + r.balancer.address() + "/validate",
	}
	return os.Expand(string(text), func(name string) string { return values[name] })
}

func (r *replicated) startReplica(t *testing.T, number int, args ...string) *replica {
	t.Helper()
	ports, err := freePorts(3)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := r.cluster.writeKubeconfig(kubeconfig, r.user()); err != nil {
		t.Fatal(err)
	}
	one := &replica{
		address: fmt.Sprintf("127.0.0.1:%d", ports[0]),
		metrics: fmt.Sprintf("http://127.0.0.1:%d/metrics", ports[2]),
	}
	one.guard = guard{
		cluster: r.cluster, namespace: r.namespace, dir: dir,
		health: fmt.Sprintf("http://127.0.0.1:%d", ports[1]),
		argv: append([]string{
			program(t, "webhook"),
			"--bind-address=127.0.0.1",
			fmt.Sprintf("--port=%d", ports[0]),
			fmt.Sprintf("--health-probe-bind-address=127.0.0.1:%d", ports[1]),
			fmt.Sprintf("--metrics-bind-address=127.0.0.1:%d", ports[2]),
			"--kubeconfig=" + kubeconfig,
			"--configmap-namespace=" + r.namespace,
			"--namespace=" + r.namespace,
			"--certs-service=guard",
			"--webhook-configuration=" + r.name,
		}, args...),
	}
	t.Cleanup(func() {
		if log, err := os.ReadFile(filepath.Join(dir, "webhook.log")); t.Failed() && err == nil {
			t.Logf("replica %d:\n%s", number, withoutNoise(string(log)))
		}
	})
	one.run(t, r.cleanup)
	return one
}

// withoutNoise leaves out what the writer and the probes cause.
func withoutNoise(log string) string {
	var kept strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, `"msg":"decision"`) && !strings.Contains(line, `"msg":"healthz check failed"`) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// balancer passes connections to replicas that are ready, as a Service does.
type balancer struct {
	listener net.Listener
	mu       sync.Mutex
	ready    []string
	turn     int
}

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	b := &balancer{listener: listener}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go b.pass(connection)
		}
	}()
	return b
}

func (b *balancer) address() string { return b.listener.Addr().String() }

// serve probes the replicas until ctx ends, as kubelets do.
func (b *balancer) serve(ctx context.Context, r *replicated) {
	for ctx.Err() == nil {
		var ready []string
		for _, one := range r.running() {
			if one.ready() == nil {
				ready = append(ready, one.address)
			}
		}
		b.mu.Lock()
		b.ready = ready
		b.mu.Unlock()
		time.Sleep(50 * time.Millisecond)
	}
}

// pass carries one connection to the end of either side.
func (b *balancer) pass(client net.Conn) {
	defer func() { _ = client.Close() }()
	b.mu.Lock()
	candidates := append([]string{}, b.ready...)
	b.turn++
	turn := b.turn
	b.mu.Unlock()
	for i := range candidates {
		server, err := net.DialTimeout("tcp", candidates[(turn+i)%len(candidates)], time.Second)
		if err != nil {
			continue
		}
		go func() {
			defer func() { _ = client.Close() }()
			_, _ = io.Copy(client, server) // its end is all there is to know
		}()
		defer func() { _ = server.Close() }()
		_, _ = io.Copy(server, client)
		return
	}
}

// trusted is the live caBundle, each certificate once.
func (r *replicated) trusted(ctx context.Context) ([]*x509.Certificate, error) {
	configuration, err := r.configuration.Get(ctx, r.name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return certificates(configuration.Webhooks[0].ClientConfig.CABundle)
}

func certificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

// serial is of the certificate that a replica serves, which these CAs have to verify.
func (one *replica) serial(ctx context.Context, trusted []*x509.Certificate) (string, error) {
	roots := x509.NewCertPool()
	for _, ca := range trusted {
		roots.AddCert(ca)
	}
	dialer := tls.Dialer{
		NetDialer: &net.Dialer{Timeout: 2 * time.Second},
		Config:    &tls.Config{RootCAs: roots, ServerName: "guard." + one.namespace + ".svc", MinVersion: tls.VersionTLS13},
	}
	connection, err := dialer.DialContext(ctx, "tcp", one.address)
	if err != nil {
		return "", err
	}
	defer func() { _ = connection.Close() }()
	secure, ok := connection.(*tls.Conn)
	if !ok {
		return "", errors.New("not a TLS connection")
	}
	return secure.ConnectionState().PeerCertificates[0].SerialNumber.Text(16), nil
}

// load writes the ConfigMap 20 times a second, and shakes hands with every replica,
// until it is stopped.
type load struct {
	written, refused, shaken atomic.Int64
	mu                       sync.Mutex
	wrong                    []string // writes and handshakes that failed, bad writes that did not
}

func (l *load) fail(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// during runs what happens under load, and returns what went wrong meanwhile.
func (r *replicated) during(t *testing.T, happens func()) []string {
	t.Helper()
	l := &load{}
	ctx, stop := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	loops.Go(func() { r.write(ctx, l) })
	loops.Go(func() { r.shake(ctx, l) })
	func() {
		defer loops.Wait()
		defer stop()
		time.Sleep(500 * time.Millisecond)
		happens()
		time.Sleep(time.Second)
	}()
	t.Logf("%d valid writes, %d bad ones refused, %d handshakes; wrong: %d %q",
		l.written.Load(), l.refused.Load(), l.shaken.Load(), len(l.wrong), l.wrong)
	if l.written.Load() == 0 || l.refused.Load() == 0 || l.shaken.Load() == 0 {
		t.Error("there was no load")
	}
	return l.wrong
}

// write alternates two valid configurations, and tries a bad one now and then.
func (r *replicated) write(ctx context.Context, l *load) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		config := []string{approvedConfig, widerConfig}[i%2]
		bad := i%10 == 9
		if bad {
			config = guideConfig
		}
		// A write under way is not cut off by the end of the load.
		_, err := r.core.ConfigMaps(r.namespace).Update(context.WithoutCancel(ctx), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: configMap},
			Data:       map[string]string{"config": config},
		}, metav1.UpdateOptions{})
		switch {
		case bad && apierrors.IsInvalid(err):
			l.refused.Add(1)
		case bad:
			l.fail("bad write: %v", err)
		case err != nil:
			l.fail("valid write: %v", err)
		default:
			l.written.Add(1)
		}
	}
}

// shake connects to every replica that lives, as an API server would that is a
// second behind with the caBundle.
func (r *replicated) shake(ctx context.Context, l *load) {
	type read struct {
		at      time.Time
		trusted []*x509.Certificate
	}
	var history []read
	for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		trusted, err := r.trusted(ctx)
		if err != nil {
			continue // the end of the load
		}
		history = append(history, read{time.Now(), trusted})
		for len(history) > 1 && time.Since(history[1].at) > time.Second {
			history = history[1:]
		}
		for _, one := range r.running() {
			if one.ready() != nil { // Services would not ask it either
				continue
			}
			if _, err := one.serial(ctx, history[0].trusted); err == nil {
				l.shaken.Add(1)
			} else if ctx.Err() == nil && one.alive() == nil {
				l.fail("handshake with the replica at %s: %v", one.address, err)
			}
		}
	}
}

// secret is the Secret as it is.
func (r *replicated) secret(ctx context.Context) (*corev1.Secret, error) {
	return r.core.Secrets(r.namespace).Get(ctx, certsName, metav1.GetOptions{})
}

// rotate asks for a rotation and waits until it is done: the request is gone, and
// every replica that runs serves the Secret's certificate, another than before.
func (r *replicated) rotate(t *testing.T, request string) {
	t.Helper()
	before, err := r.secret(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{"ip-masq-guard.io/rotate":%q}}}`, request)
	if _, err := r.core.Secrets(r.namespace).Patch(t.Context(), certsName, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	r.untilServed(t, string(before.Data["tls.crt"]))
	t.Logf("rotate %s: %s", request, time.Since(start).Round(10*time.Millisecond))
}

// untilServed waits until all serve the Secret's certificate, which is not old.
func (r *replicated) untilServed(t *testing.T, old string) {
	t.Helper()
	eventually(t, 40*time.Second, func() error {
		secret, err := r.secret(t.Context())
		if err != nil {
			return err
		}
		if text := string(secret.Data["tls.crt"]); text == old || text == "" {
			return errors.New("no new certificate in the Secret")
		}
		if request := secret.Annotations["ip-masq-guard.io/rotate"]; request != "" {
			return fmt.Errorf("the request %s is still there", request)
		}
		leaf, err := certificates(secret.Data["tls.crt"])
		if err != nil {
			return err
		}
		trusted, err := r.trusted(t.Context())
		if err != nil {
			return err
		}
		return r.allServe(t.Context(), leaf[0], trusted)
	})
}

// leader is the replica that holds the Lease.
func (r *replicated) leader(t *testing.T) (int, string) {
	t.Helper()
	lease, err := r.leases.Get(t.Context(), certsName, metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil {
		t.Fatalf("reading the Lease: %v", err)
	}
	for i, one := range r.replicas {
		if page, err := one.page(); err == nil && strings.Contains(page, "\nip_masq_guard_certificate_leader 1\n") {
			return i, *lease.Spec.HolderIdentity
		}
	}
	t.Fatal("no replica leads")
	return 0, ""
}

// page is what Prometheus would read.
func (one *replica) page() (string, error) {
	client := http.Client{Timeout: 2 * time.Second}
	response, err := client.Get(one.metrics)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}

// must unwraps what cannot fail for a configuration that is valid.
func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// TestCertificates takes two replicas from nothing through every rotation, the loss
// of their Secret, of their caBundle and of their leader, while somebody writes.
func TestCertificates(t *testing.T) {
	r := newReplicated(t, "certs")
	r.start(t, "--certs-mode=self", "--certs-propagation=2s",
		"--certs-name=127.0.0.1") // where the API server reaches it by URL

	t.Run("only the caBundle is touched", r.testOwnership)
	for _, tt := range []struct {
		request string
		cas     int // in the caBundle afterwards
	}{
		{request: "leaf", cas: 1},
		{request: "ca", cas: 2}, // what the old one signed has not run out
		{request: "revoke", cas: 1},
	} {
		t.Run("rotate "+tt.request, func(t *testing.T) {
			if wrong := r.during(t, func() { r.rotate(t, tt.request) }); len(wrong) > 0 {
				t.Errorf("wrong:\n%s", strings.Join(wrong, "\n"))
			}
			if trusted, err := r.trusted(t.Context()); err != nil || len(trusted) != tt.cas {
				t.Errorf("%d CAs in the caBundle, want %d (%v)", len(trusted), tt.cas, err)
			}
		})
	}
	t.Run("Secret deleted", func(t *testing.T) {
		r.testSecretLost(t, func(secrets coreclient.SecretInterface) error {
			return secrets.Delete(t.Context(), certsName, metav1.DeleteOptions{})
		})
	})
	t.Run("Secret emptied", func(t *testing.T) {
		r.testSecretLost(t, func(secrets coreclient.SecretInterface) error {
			empty := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: certsName}}
			_, err := secrets.Update(t.Context(), empty, metav1.UpdateOptions{})
			return err
		})
	})
	t.Run("leader killed", r.testLeaderKilled)
	t.Run("caBundle lost", r.testBundleLost)
}

// testOwnership: of the configuration, the webhook owns the caBundle and no more.
func (r *replicated) testOwnership(t *testing.T) {
	configuration, err := r.configuration.Get(t.Context(), r.name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var owned []string
	for _, entry := range configuration.ManagedFields {
		if entry.Manager == "ip-masq-guard-certs" {
			owned = append(owned, entry.FieldsV1.GetRawString())
		}
	}
	const want = `{"f:webhooks":{"k:{\"name\":\"validate.ip-masq-guard.io\"}":{"f:clientConfig":{"f:caBundle":{}}}}}`
	if len(owned) != 1 || owned[0] != want {
		t.Errorf("owned fields %s, want %s", owned, want)
	}
	for i, one := range r.replicas {
		page, err := one.page()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"ip_masq_guard_certificate_matches_ca_bundle 1",
			`ip_masq_guard_certificate_expiry_timestamp_seconds{certificate="leaf"} 1.`,
			`ip_masq_guard_certificate_expiry_timestamp_seconds{certificate="ca"} 1.`,
		} {
			if !strings.Contains(page, want) {
				t.Errorf("metrics of replica %d lack %s", i, want)
			}
		}
	}
}

// testSecretLost: replicas go on with what they have until there is more.
func (r *replicated) testSecretLost(t *testing.T, lose func(coreclient.SecretInterface) error) {
	t.Helper()
	before, err := r.secret(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if wrong := r.during(t, func() {
		if err := lose(r.core.Secrets(r.namespace)); err != nil {
			t.Fatal(err)
		}
		r.untilServed(t, string(before.Data["tls.crt"]))
	}); len(wrong) > 0 {
		t.Errorf("wrong:\n%s", strings.Join(wrong, "\n"))
	}
}

// testLeaderKilled: the other replica answers at once, leads after the time of the
// Lease, and rotates.
func (r *replicated) testLeaderKilled(t *testing.T) {
	leader, holder := r.leader(t)
	wrong := r.during(t, func() {
		if err := r.replicas[leader].signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-r.replicas[leader].done
		start := time.Now()
		eventually(t, time.Minute, func() error {
			lease, err := r.leases.Get(t.Context(), certsName, metav1.GetOptions{})
			if err == nil && (lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == holder) {
				err = errors.New("nobody else leads")
			}
			return err
		})
		t.Logf("another leader after %s", time.Since(start).Round(10*time.Millisecond))
		r.rotate(t, "ca")
		r.restart(t, leader)
	})
	// A SIGKILL leaves the request that is being answered without its answer, and
	// nothing repeats an admission review.
	if len(wrong) > 1 {
		t.Errorf("wrong:\n%s", strings.Join(wrong, "\n"))
	}
}

// testBundleLost: somebody resets the caBundle. No write is possible until it is
// back, which the replicas say by not being ready, and which takes a moment.
func (r *replicated) testBundleLost(t *testing.T) {
	start := time.Now()
	patch := `[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]`
	if _, err := r.configuration.Patch(t.Context(), r.name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error {
		for _, one := range r.replicas {
			if err := one.ready(); err != nil {
				return err
			}
		}
		_, err := r.core.ConfigMaps(r.namespace).Update(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: configMap},
			Data:       map[string]string{"config": approvedConfig},
		}, metav1.UpdateOptions{})
		return err
	})
	t.Logf("healed after %s", time.Since(start).Round(10*time.Millisecond))
}
