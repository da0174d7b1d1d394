// Command demo shows the main job on one machine, without a cluster: the webhook
// refuses a bad ConfigMap and says what to mend, approves the mended one, the agent
// takes that into the kernel of a node, and packets show what a server beyond the
// node sees. Every program runs in a network namespace of its own, so nothing of the
// machine changes.
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// The cluster of the demo, its configuration, and two edits of that. The first one
// has the example of a vendor's guide, which the upstream agent refuses, and a
// misspelt key.
const (
	params = `cluster:
  podCIDRs: [10.244.0.0/16]
  nodeCIDRs: [192.168.100.0/24]
  serviceCIDRs: [10.96.0.0/16]
`
	before = `nonMasqueradeCIDRs:
  - 10.0.0.0/8
  - 172.16.0.0/12
  - 192.168.0.0/16
`
	bad = `nonMasqueradeCIDRs:
  - 198.15.5.92/24
  - 10.0.0.0/8
masqLinkLocal: false
resyscInterval: 60s
`
	mended = `nonMasqueradeCIDRs:
  - 198.15.5.0/24
  - 10.0.0.0/8
  - 192.168.0.0/16
masqLinkLocal: false
resyncInterval: 60s
`
)

// Where pods send to, and whether the mended configuration masquerades it.
//
//nolint:gochecknoglobals // a constant in all but the language
var destinations = []struct {
	address    netip.Addr
	masquerade bool
	because    string
}{
	{netip.MustParseAddr("10.20.0.5"), false, "in 10.0.0.0/8"},
	{netip.MustParseAddr("198.15.5.7"), false, "in 198.15.5.0/24"},
	{netip.MustParseAddr("172.16.9.9"), true, "no longer in the list"},
	{netip.MustParseAddr("203.0.113.7"), true, "in no range of the list"},
}

const (
	chain       = "IP-MASQ-AGENT"
	webhookPort = "10250"
	healthPort  = "8081"
	wholeRun    = 25 * time.Second // a bound, not a wait
)

func main() {
	bin := flag.String("bin", "bin", "the folder with the programs webhook and agent")
	flag.Parse()
	told := &teller{to: os.Stdout}
	if err := errors.Join(run(*bin, told), told.err); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// teller prints, and keeps the first error for the end.
type teller struct {
	to  io.Writer
	err error
}

func (t *teller) say(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.to, format, args...)
	}
}

// show prints a text of a program, or for one, below what was said.
func (t *teller) show(text string) {
	t.say("\n   %s\n", strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n   "))
}

func run(bin string, out *teller) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), wholeRun)
	defer cancel()
	folder, err := os.MkdirTemp("", "ip-masq-guard-demo-")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()

	out.say("1. An edit of configmap kube-system/ip-masq-agent reaches the webhook:\n")
	out.show(bad)
	hook, err := startWebhook(ctx, bin, folder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hook.close()) }()

	refusal, err := hook.review(ctx, bad)
	if err != nil {
		return err
	}
	if refusal.Allowed {
		return errors.New("the webhook approved the bad configuration")
	}
	out.say("\n   Refused. kubectl edit opens the editor again, with this on top:\n")
	out.show(editorHeader(refusal.Result))

	out.say("\n2. The same edit, mended as told:\n")
	out.show(mended)
	approval, err := hook.review(ctx, mended)
	if err != nil {
		return err
	}
	if !approval.Allowed {
		return fmt.Errorf("the webhook refused the mended configuration: %s", approval.Result.Message)
	}
	var printed strings.Builder
	for _, warning := range approval.Warnings {
		printed.WriteString("Warning: " + warning + "\n")
	}
	out.say("\n   Approved. kubectl prints:\n")
	out.show(printed.String() + "configmap/ip-masq-agent edited\n")
	return showNode(ctx, bin, folder, out)
}

// showNode hands the approved text to the agent of a node and shows its chain and
// what packets of a pod become.
func showNode(ctx context.Context, bin, folder string, out *teller) (err error) {
	addresses := make([]netip.Addr, 0, len(destinations))
	for _, destination := range destinations {
		addresses = append(addresses, destination.address)
	}
	lab, err := netns.NewLab(addresses...)
	if err != nil {
		return fmt.Errorf("making pod, node and server: %w", err)
	}
	defer func() { err = errors.Join(err, lab.Close()) }()

	file := filepath.Join(folder, "ip-masq-agent")
	if err = os.WriteFile(file, []byte(mended), 0o600); err != nil {
		return fmt.Errorf("mounting the configuration: %w", err)
	}
	if _, err = lab.Node.Run(ctx, filepath.Join(bin, "agent"), "--once", "--config-path", file, "--iptables-backend", "nft"); err != nil {
		return fmt.Errorf("running the agent: %w", err)
	}
	listing, err := lab.Node.Run(ctx, "iptables-nft", "-t", "nat", "-n", "-L", chain)
	if err != nil {
		return fmt.Errorf("listing the chain: %w", err)
	}
	out.say("\n3. The agent of a node has taken it. iptables -t nat -L %s:\n", chain)
	out.show(listing)

	out.say("\n4. A pod (%s) on that node (%s) sends packets; a server beyond tells the source it saw:\n",
		netns.PodIPv4, netns.NodeIPv4)
	rows := []string{"DESTINATION\tSOURCE SEEN\tTREATMENT\tBECAUSE"}
	for _, destination := range destinations {
		seen, err := lab.Pod.Ask(ctx, "udp", lab.At(destination.address))
		if err != nil {
			return fmt.Errorf("sending to %s: %w", destination.address, err)
		}
		want, treatment := netns.PodIPv4, "spared"
		if destination.masquerade {
			want, treatment = netns.NodeIPv4, "masqueraded"
		}
		if seen.Addr() != want {
			return fmt.Errorf("sending to %s: the server saw %s instead of %s", destination.address, seen.Addr(), want)
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s", destination.address, seen.Addr(), treatment, destination.because))
	}
	out.show(aligned(rows))
	return nil
}

// aligned sets tab-separated rows in columns.
func aligned(rows []string) string {
	var table strings.Builder
	columns := tabwriter.NewWriter(&table, 0, 0, 3, ' ', 0)
	_, _ = io.WriteString(columns, strings.Join(rows, "\n")+"\n") // a strings.Builder takes everything
	_ = columns.Flush()
	return table.String()
}

// editorHeader is what kubectl edit writes above the reopened object.
func editorHeader(status *metav1.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# configmaps %q was not valid:\n", status.Details.Name)
	for _, cause := range status.Details.Causes {
		fmt.Fprintf(&b, "# * %s: %s\n", cause.Field, strings.ReplaceAll(cause.Message, "\n", "\n# "))
	}
	return b.String()
}

// hook is a running webhook, alone on a host.
type hook struct {
	host   *netns.Host
	client *http.Client
	stop   context.CancelFunc
	ended  chan struct{} // closed when it has
	ending error         // how; to be read after ended
	log    *bytes.Buffer
}

func startWebhook(ctx context.Context, bin, folder string) (_ *hook, err error) {
	paramsFile := filepath.Join(folder, "params.yaml")
	if err = os.WriteFile(paramsFile, []byte(params), 0o600); err != nil {
		return nil, fmt.Errorf("writing params: %w", err)
	}
	roots, err := writeCertificate(folder)
	if err != nil {
		return nil, err
	}
	host, err := netns.New()
	if err != nil {
		return nil, fmt.Errorf("making a host for the webhook: %w", err)
	}
	life, stop := context.WithCancel(ctx)
	command := host.Command(life, filepath.Join(bin, "webhook"),
		"--standalone", "--bind-address=127.0.0.1", "--port="+webhookPort, "--cert-dir="+folder, "--params="+paramsFile,
		"--metrics-bind-address=0", "--health-probe-bind-address=127.0.0.1:"+healthPort)
	h := &hook{host: host, stop: stop, ended: make(chan struct{}), log: &bytes.Buffer{}}
	command.Stderr = h.log
	if err = host.Start(command); err != nil {
		stop()
		return nil, errors.Join(fmt.Errorf("starting the webhook: %w", err), host.Close())
	}
	go func() {
		h.ending = command.Wait()
		close(h.ended)
	}()
	h.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			var connection net.Conn
			dial := func() (failure error) {
				connection, failure = (&net.Dialer{}).DialContext(ctx, network, address)
				return failure
			}
			failure := host.Do(dial)
			return connection, failure
		},
	}}
	if err = h.ready(ctx); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// ready waits until the webhook says that it is.
func (h *hook) ready(ctx context.Context) error {
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+healthPort+"/readyz", http.NoBody)
		if err != nil {
			return fmt.Errorf("asking for readiness: %w", err)
		}
		if response, err := h.client.Do(request); err == nil {
			closing := response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return closing
			}
		}
		select {
		case <-h.ended:
			return fmt.Errorf("waiting for the webhook: it ended: %w\n%s", h.ending, h.log)
		case <-ctx.Done():
			return fmt.Errorf("waiting for the webhook: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// review has the webhook judge an edit of the ConfigMap to text, as the API server
// would for kubectl edit.
func (h *hook) review(ctx context.Context, text string) (*admissionv1.AdmissionResponse, error) {
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID:       "00000000-0000-4000-8000-000000000000",
			Kind:      metav1.GroupVersionKind{Version: "v1", Kind: "ConfigMap"},
			Resource:  metav1.GroupVersionResource{Version: "v1", Resource: "configmaps"},
			Name:      "ip-masq-agent",
			Namespace: metav1.NamespaceSystem,
			Operation: admissionv1.Update,
			UserInfo:  authenticationv1.UserInfo{Username: "operator"},
			Object:    configMap(text),
			OldObject: configMap(before),
			Options:   runtime.RawExtension{Object: &metav1.UpdateOptions{FieldManager: "kubectl-edit"}},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the review: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost,
		"https://127.0.0.1:"+webhookPort+"/validate", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("asking the webhook: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := h.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking the webhook: %w", err)
	}
	var review admissionv1.AdmissionReview
	if err := errors.Join(json.NewDecoder(response.Body).Decode(&review), response.Body.Close()); err != nil {
		return nil, fmt.Errorf("reading the webhook's answer (%s): %w", response.Status, err)
	}
	if review.Response == nil {
		return nil, fmt.Errorf("reading the webhook's answer (%s): no response in it", response.Status)
	}
	return review.Response, nil
}

func configMap(text string) runtime.RawExtension {
	return runtime.RawExtension{Object: &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "ip-masq-agent"},
		Data:       map[string]string{"config": text},
	}}
}

func (h *hook) close() error {
	h.client.CloseIdleConnections()
	h.stop()
	<-h.ended
	return h.host.Close()
}

// writeCertificate writes tls.crt and tls.key for 127.0.0.1 and returns who trusts them.
func writeCertificate(folder string) (*x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate back: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the key: %w", err)
	}
	for name, block := range map[string]*pem.Block{
		"tls.crt": {Type: "CERTIFICATE", Bytes: der},
		"tls.key": {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(filepath.Join(folder, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return nil, fmt.Errorf("writing the certificate: %w", err)
		}
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	return roots, nil
}
