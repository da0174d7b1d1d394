package e2e

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// certManagerParts is the folder that certmanager/build.sh made: cert-manager's own
// controllers as one program, and its CRDs. Without it the test is skipped, or fails
// where REQUIRE_CLUSTER=1.
func certManagerParts(t *testing.T) string {
	t.Helper()
	return partsOf(t, "certmanager/build.sh")
}

// partsOf returns the folder that a script has built. Where it has not the test is
// skipped, or fails where REQUIRE_CLUSTER=1.
func partsOf(t *testing.T, build string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), build, "--print").Output()
	if err != nil {
		t.Fatalf("running %s --print: %v", build, err)
	}
	dir := strings.TrimSpace(string(out))
	if _, err = os.Stat(dir); err != nil {
		const missing = "no %s: run e2e/%s"
		if os.Getenv("REQUIRE_CLUSTER") == "1" {
			t.Fatalf(missing, dir, build)
		}
		t.Skipf(missing+"; REQUIRE_CLUSTER=1 makes this a failure", dir, build)
	}
	return dir
}

// TestCertManager has cert-manager issue, inject and renew what the webhook serves,
// while somebody writes.
func TestCertManager(t *testing.T) {
	parts := certManagerParts(t)
	r := newReplicated(t, "certmanager")
	k := r.cluster.kubectl()
	k.must(t, "", "apply", "--server-side", "-f", filepath.Join(parts, "crds"))
	for _, crd := range []string{"issuers", "certificates", "certificaterequests", "clusterissuers"} {
		// kubectl wait fails on an object that has no conditions yet.
		eventually(t, 20*time.Second, func() error {
			if got := k.run(t.Context(), "", "wait", "--for=condition=Established", "--timeout=5s", "crd/"+crd+".cert-manager.io"); got.exit != 0 {
				return fmt.Errorf("the CRD %s is not there: %s", crd, got)
			}
			return nil
		})
	}
	manager, err := startProcess(t.TempDir(), "certmanager", filepath.Join(parts, "certmanager"), "--kubeconfig="+r.cluster.admin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("cert-manager: %s", manager.tail())
		}
		manager.kill()
	})

	made, err := exec.CommandContext(t.Context(), filepath.Join(parts, "certmanager"), "manifests", r.namespace, "guard", "127.0.0.1").Output()
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "certmanager.yaml")
	if *update {
		text := strings.ReplaceAll(string(made), r.namespace, "NAMESPACE")
		if err = os.WriteFile(golden, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	manifest, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	filled := strings.ReplaceAll(string(manifest), "NAMESPACE", r.namespace)
	if diff := cmp.Diff(filled, string(made)); diff != "" {
		t.Errorf("%s differs from what cert-manager's own types say (-want +got):\n%s", golden, diff)
	}
	k.must(t, filled, "apply", "-f", "-")
	start := time.Now()
	const serving = "ip-masq-guard-webhook"
	k.must(t, "", "annotate", "validatingwebhookconfiguration", r.name, "cert-manager.io/inject-ca-from="+r.namespace+"/"+serving)
	k.must(t, "", "wait", "--for=condition=Ready", "--timeout=25s", "-n", r.namespace, "certificate/"+serving)
	t.Logf("issued after %s", time.Since(start).Round(10*time.Millisecond))

	mount := filepath.Join(t.TempDir(), "tls")
	r.mount(t, serving, mount)
	// Readiness waits for the cainjector.
	r.start(t, "--cert-dir="+mount)
	page, err := r.replicas[0].page()
	if err != nil || !strings.Contains(page, "ip_masq_guard_certificate_matches_ca_bundle 1") {
		t.Errorf("no match in the metrics (%v)", err)
	}

	// The serving certificate gets another key, the CA keeps its own. The webhook
	// reads either only after a while, as a kubelet brings it.
	for _, name := range []string{serving, "ip-masq-guard-ca", serving} {
		t.Run("renew "+name, func(t *testing.T) {
			wrong := r.during(t, func() {
				r.renew(t, name)
				time.Sleep(2 * time.Second)
				r.mount(t, serving, mount)
				r.untilServedFrom(t, serving)
			})
			if len(wrong) > 0 {
				t.Errorf("wrong:\n%s", strings.Join(wrong, "\n"))
			}
		})
	}
}

// renew has cert-manager renew a certificate as its own command line does, and waits
// for it.
func (r *replicated) renew(t *testing.T, name string) {
	t.Helper()
	k := r.cluster.kubectl()
	before, err := r.core.Secrets(r.namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	condition, err := json.Marshal([]map[string]any{{"op": "add", "path": "/status/conditions/-", "value": map[string]string{
		"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "asked for by a test",
		"lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	k.must(t, "", "patch", "certificate", name, "-n", r.namespace, "--subresource=status", "--type=json", "--patch="+string(condition))
	eventually(t, 20*time.Second, func() error {
		after, err := r.core.Secrets(r.namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && string(after.Data[corev1.TLSCertKey]) == string(before.Data[corev1.TLSCertKey]) {
			err = errors.New("not renewed")
		}
		return err
	})
}

// mount brings a Secret into a folder as a kubelet does: all of it at once.
func (r *replicated) mount(t *testing.T, name, folder string) {
	t.Helper()
	secret, err := r.core.Secrets(r.namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	version := fmt.Sprintf("..%d", time.Now().UnixNano())
	if err := os.MkdirAll(filepath.Join(folder, version), 0o700); err != nil {
		t.Fatal(err)
	}
	for key, value := range secret.Data {
		if err := os.WriteFile(filepath.Join(folder, version, key), value, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join("..data", key), filepath.Join(folder, key)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(version, filepath.Join(folder, "..data_tmp")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(folder, "..data_tmp"), filepath.Join(folder, "..data")); err != nil {
		t.Fatal(err)
	}
}

// untilServedFrom waits until every replica serves a Secret's certificate and is
// ready with it.
func (r *replicated) untilServedFrom(t *testing.T, name string) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		secret, err := r.core.Secrets(r.namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		leaf, err := certificates(secret.Data[corev1.TLSCertKey])
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

// allServe is nil when every replica serves this certificate, and these CAs verify it.
func (r *replicated) allServe(ctx context.Context, leaf *x509.Certificate, trusted []*x509.Certificate) error {
	for _, one := range r.running() {
		serial, err := one.serial(ctx, trusted)
		if err != nil {
			return err
		}
		if want := leaf.SerialNumber.Text(16); serial != want {
			return fmt.Errorf("the replica at %s serves %s, not %s", one.address, serial, want)
		}
	}
	return nil
}
