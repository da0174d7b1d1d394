package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience bounds every wait of these tests; what they wait for takes far less.
const patience = 20 * time.Second

// running is a webhook that run serves.
type running struct {
	url     string // of reviews
	health  string
	metrics string
	signals chan os.Signal
	done    chan error
	log     *syncBuffer
	client  *http.Client
}

// syncBuffer is a log that libraries may write to after their test.
type syncBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// startWebhook runs a webhook that stands alone, and waits until it is ready. It
// is stopped, without a drain, at the end of the test.
func startWebhook(t *testing.T, certDir string, args ...string) *running {
	t.Helper()
	ports := freePorts(t, 3)
	r := &running{
		url:     fmt.Sprintf("https://127.0.0.1:%d/validate", ports[0]),
		health:  fmt.Sprintf("http://127.0.0.1:%d", ports[1]),
		metrics: fmt.Sprintf("http://127.0.0.1:%d/metrics", ports[2]),
		signals: make(chan os.Signal, 2),
		done:    make(chan error, 1),
		log:     &syncBuffer{},
		client: &http.Client{Timeout: patience, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		}},
	}
	ctx, cancel := context.WithCancel(t.Context())
	args = append([]string{
		"--standalone", "--bind-address=127.0.0.1", fmt.Sprintf("--port=%d", ports[0]), "--cert-dir=" + certDir,
		fmt.Sprintf("--health-probe-bind-address=127.0.0.1:%d", ports[1]),
		fmt.Sprintf("--metrics-bind-address=127.0.0.1:%d", ports[2]),
	}, args...)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		r.done <- run(ctx, args, process{io.Discard, r.log, r.signals, func(slog.Handler) {}})
	}()
	t.Cleanup(func() {
		r.client.CloseIdleConnections()
		cancel()
		<-finished
		if t.Failed() {
			t.Logf("log of the webhook:\n%s", r.log)
		}
	})
	eventually(t, "ready", func() error {
		select {
		case err := <-r.done:
			t.Fatalf("the webhook ended: %v", err)
		default:
		}
		code, body, err := r.get(r.health + "/readyz")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("HTTP %d: %s", code, body)
		}
		return err
	})
	return r
}

func (r *running) get(url string) (int, string, error) {
	response, err := r.client.Get(url)
	if err != nil {
		return 0, "", err
	}
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), errors.Join(err, response.Body.Close())
}

// reply is what there is to know of a response beside its body.
type reply struct {
	code  int
	proto string
	tls   *tls.ConnectionState
	close bool // Connection: close
}

// post sends a review.
func (r *running) post() (reply, error) {
	response, err := r.client.Post(r.url+"?timeout=5s", "application/json", strings.NewReader(review(ours)))
	if err != nil {
		return reply{}, err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return reply{response.StatusCode, response.Proto, response.TLS, response.Close}, errors.Join(err, response.Body.Close())
}

// eventually tries until check succeeds.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not %s after %s: %v", what, patience, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func freePorts(t *testing.T, count int) []int {
	t.Helper()
	ports := make([]int, 0, count)
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		// All are held until all are found, so that they differ.
		defer listener.Close() //nolint:errcheck // nothing was sent
		address, ok := listener.Addr().(*net.TCPAddr)
		if !ok {
			t.Fatalf("not a TCP address: %s", listener.Addr())
		}
		ports = append(ports, address.Port)
	}
	return ports
}

// writeCertificate makes a self-signed certificate with this serial number.
func writeCertificate(t *testing.T, directory string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	leaf, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"tls.crt": {Type: "CERTIFICATE", Bytes: leaf},
		"tls.key": {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(filepath.Join(directory, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestServe(t *testing.T) {
	certDir := t.TempDir()
	writeCertificate(t, certDir, 1)
	r := startWebhook(t, certDir, "--drain=1s")

	got, err := r.post()
	if err != nil {
		t.Fatal(err)
	}
	if got.code != http.StatusOK || got.proto != "HTTP/1.1" || got.tls.Version != tls.VersionTLS13 || got.close {
		t.Errorf("HTTP %d over %s and TLS %#x, close %t; want 200 over HTTP/1.1 and TLS 1.3, kept alive",
			got.code, got.proto, got.tls.Version, got.close)
	}
	for url, want := range map[string]int{
		strings.TrimSuffix(r.url, "/validate") + "/": http.StatusNotFound,
		r.health + "/healthz":                        http.StatusOK,
	} {
		code, _, failure := r.get(url)
		if failure != nil || code != want {
			t.Errorf("GET %s: HTTP %d, %v; want %d", url, code, failure, want)
		}
	}
	_, page, err := r.get(r.metrics)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`ip_masq_guard_decisions_total{allowed="`,
		`ip_masq_guard_cluster_ranges{kind="pod",source="params"} 0`,
		`ip_masq_guard_policy_info{revision="`,
		`ip_masq_guard_evaluation_seconds_count 1`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("metrics lack %s", want)
		}
	}

	old := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}}
	if connection, err := old.DialContext(t.Context(), "tcp", strings.TrimSuffix(strings.TrimPrefix(r.url, "https://"), "/validate")); err == nil {
		t.Errorf("TLS 1.2 is spoken; closing: %v", connection.Close())
	}
}

// TestStop asks the webhook to stop: it goes on serving, not ready, until the drain
// is over, and leaves nothing behind.
func TestStop(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	certDir := t.TempDir()
	writeCertificate(t, certDir, 1)
	const grace = 1500 * time.Millisecond
	r := startWebhook(t, certDir, "--drain="+grace.String())
	defer r.client.CloseIdleConnections()

	r.signals <- syscall.SIGTERM
	asked := time.Now()
	eventually(t, "draining", func() error {
		code, _, err := r.get(r.health + "/readyz")
		if err == nil && code == http.StatusOK {
			err = errors.New("still ready")
		}
		return err
	})
	answers := 0
	for time.Since(asked) < grace-200*time.Millisecond {
		got, err := r.post()
		if err != nil {
			t.Fatalf("%s after the signal: %v", time.Since(asked), err)
		}
		if got.code != http.StatusOK || !got.close {
			t.Fatalf("HTTP %d, close %t; want 200 and Connection: close", got.code, got.close)
		}
		answers++
		time.Sleep(20 * time.Millisecond)
	}
	if err := <-r.done; err != nil {
		t.Errorf("run: %v", err)
	}
	if took := time.Since(asked); took < grace || took > grace+patience/2 {
		t.Errorf("stopped %s after the signal, want a little more than %s", took, grace)
	}
	if _, err := r.post(); err == nil {
		t.Error("a stopped webhook answers")
	}
	t.Logf("%d answers while draining", answers)
}

func TestSecondSignalStopsAtOnce(t *testing.T) {
	certDir := t.TempDir()
	writeCertificate(t, certDir, 1)
	r := startWebhook(t, certDir, "--drain=1h")
	r.signals <- syscall.SIGTERM
	r.signals <- syscall.SIGTERM
	select {
	case err := <-r.done:
		if err != nil {
			t.Errorf("run: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("still running")
	}
}

func TestCertificateReload(t *testing.T) {
	certDir := t.TempDir()
	writeCertificate(t, certDir, 1)
	r := startWebhook(t, certDir)
	served := func() (int64, error) {
		defer r.client.CloseIdleConnections()
		got, err := r.post()
		if err != nil {
			return 0, err
		}
		return got.tls.PeerCertificates[0].SerialNumber.Int64(), nil
	}
	if serial, err := served(); err != nil || serial != 1 {
		t.Fatalf("serial number %d, %v; want 1", serial, err)
	}
	writeCertificate(t, certDir, 2)
	eventually(t, "serving the new certificate", func() error {
		serial, err := served()
		if err == nil && serial != 2 {
			err = fmt.Errorf("serial number %d", serial)
		}
		return err
	})
}

func TestRunRefuses(t *testing.T) {
	certDir := t.TempDir()
	writeCertificate(t, certDir, 1)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close() //nolint:errcheck // nothing was sent
	_, port, err := net.SplitHostPort(taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	rules := t.TempDir()
	broken := filepath.Join(rules, "broken.rego")
	if err := os.WriteFile(broken, []byte("package ipmasq.team\n\ndeny contains \"x\" if {\n\tnothing_of_the_kind\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	params := filepath.Join(t.TempDir(), "params.yaml")
	if err := os.WriteFile(params, []byte("clutser: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		want string // in the error
	}{
		{name: "flags", args: []string{"--port=0"}, want: "reading the flags: --port 0: want 1 to 65535"},
		{name: "no certificate", args: []string{"--cert-dir=" + rules}, want: "loading the certificate: open " + filepath.Join(rules, "tls.crt") + ": no such file or directory"},
		{name: "rule that does not compile", args: []string{"--policy-dir=" + rules}, want: broken + ":4"},
		{name: "no rules", args: []string{"--policy-dir=" + rules + "/missing"}, want: "reading custom rules: open " + rules + "/missing: no such file or directory"},
		{name: "no params", args: []string{"--params=" + rules + "/missing"}, want: "reading --params: open " + rules + "/missing: no such file or directory"},
		{name: "wrong params", args: []string{"--params=" + params}, want: "--params " + params + ": reading params: line 1: clutser: unknown"},
		{name: "port taken", args: []string{"--port=" + port}, want: "address already in use"},
		{name: "no cluster", args: []string{"--standalone=false"}, want: "outside a pod, use --kubeconfig or --standalone"},
		{name: "no kubeconfig", args: []string{"--standalone=false", "--kubeconfig=" + rules + "/missing"}, want: "reading --kubeconfig: stat " + rules + "/missing: no such file or directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			args := append([]string{
				"--standalone", "--bind-address=127.0.0.1", "--cert-dir=" + certDir,
				"--metrics-bind-address=0", "--health-probe-bind-address=0",
			}, tt.args...)
			err := run(ctx, args, process{io.Discard, io.Discard, nil, func(slog.Handler) {}})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("run = %v, want ... %s", err, tt.want)
			}
		})
	}
}

func TestVersionAndHelp(t *testing.T) {
	for flag, want := range map[string]string{"--version": "dev\n", "--help": "Usage: webhook"} {
		var out bytes.Buffer
		if err := run(t.Context(), []string{flag}, process{&out, io.Discard, nil, func(slog.Handler) {}}); err != nil || !strings.HasPrefix(out.String(), want) {
			t.Errorf("run(%s) = %v, printed %q; want %q", flag, err, &out, want)
		}
	}
}
