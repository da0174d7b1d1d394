package twonode_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/ip-masq-guard/ip-masq-guard/certs"
)

// soakVariable is the duration of the soak, as Go writes it; for a quick look.
const soakVariable = "IPMASQ_SOAK"

const (
	soakTime     = 3 * time.Minute
	writeEvery   = time.Second / 20
	badEvery     = 10 // one write of so many is a bad one beside the valid ones
	certsSecret  = release + "-certs"
	propagation  = 30 * time.Second // --certs-propagation
	writeTimeout = 10 * time.Second
)

// tally counts the outcomes of writes.
type tally struct {
	mu       sync.Mutex
	valid    int
	failed   []failure // valid writes that were not stored
	bad      int
	accepted int       // bad ones that were
	odd      []failure // bad ones that failed by something else than a decision
	slowest  time.Duration
}

// failure is a write that failed.
type failure struct {
	at, end time.Duration // since the first write
	err     error
}

func (f failure) String() string { return fmt.Sprintf("%6.2f s: %v", f.at.Seconds(), f.err) }

// Writes go on while everything about the webhook changes: no valid one fails, no bad
// one is accepted.
func TestNoWriteFails(t *testing.T) {
	p := need(t)
	limit := soakTime
	if text := os.Getenv(soakVariable); text != "" {
		var err error
		if limit, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { p.restore(t) })
	client := p.client(t)
	before := p.certificates(t, client)

	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	begin := time.Now()
	count := &tally{}
	var writing sync.WaitGroup
	writing.Go(func() { count.write(ctx, client, begin, byTurns()...) })

	// The parts of the time at which things happen.
	for _, step := range []struct {
		at   float64
		name string
		do   func()
	}{
		{0.03, "the webhook is rolled out", func() { p.rollout(t) }},
		{0.25, "a new serving certificate is asked for", func() { rotate(t, client, certs.RotateLeaf) }},
		{0.35, "the leader's pod is deleted", func() { deleteLeader(t, client) }},
		{0.50, "a new CA is asked for", func() { rotate(t, client, certs.RotateCA) }},
		{0.80, "the webhook is rolled out again", func() { p.rollout(t) }},
	} {
		select {
		case <-time.After(time.Until(begin.Add(time.Duration(step.at * float64(limit))))):
		case <-ctx.Done():
		}
		t.Logf("%5.1f s: %s", time.Since(begin).Seconds(), step.name)
		step.do()
		t.Logf("%5.1f s: done", time.Since(begin).Seconds())
	}
	writing.Wait()

	after := p.certificates(t, client)
	if err := p.served(t, client, after.leaf); err != nil {
		t.Error(err)
	}
	t.Logf("certificates before: %s", before)
	t.Logf("certificates after:  %s", after)
	if after.trusted != 2 {
		t.Errorf("%d CAs are trusted, want the new one and the old one, whose certificates may be in use", after.trusted)
	}
	if before.leaf == after.leaf || before.authority == after.authority || before.leader == after.leader {
		t.Error("the certificate, its CA and the leader have not all changed")
	}
	count.report(t, limit)
	if len(count.failed) > 0 {
		t.Errorf("valid writes failed: %v", count.failed)
	}
}

// report prints the counts, and fails the test for what must never be.
func (c *tally) report(t *testing.T, limit time.Duration) {
	t.Helper()
	fmt.Fprintf(os.Stderr, "writes in %s: %d valid, %d of them failed; %d bad, %d of them accepted; the slowest took %s\n",
		limit, c.valid, len(c.failed), c.bad, c.accepted, c.slowest.Round(time.Millisecond))
	if want := int(limit/writeEvery) / 2; c.valid < want {
		t.Errorf("only %d valid writes in %s, want at least %d", c.valid, limit, want)
	}
	if c.accepted > 0 {
		t.Errorf("%d of %d bad writes were accepted", c.accepted, c.bad)
	}
	if len(c.odd) > 0 {
		t.Errorf("bad writes met no decision: %v", c.odd)
	}
}

// byTurns are valid texts that differ in a range.
func byTurns() []string {
	return []string{approved, strings.Replace(approved, "192.168.0.0/16", "192.168.0.0/17", 1)}
}

// write updates the ConfigMap until ctx ends: valid texts by turns, and bad ones.
// Each write has its time; one that takes long does not hold up the others.
func (c *tally) write(ctx context.Context, client kubernetes.Interface, begin time.Time, texts ...string) {
	ticker := time.NewTicker(writeEvery)
	defer ticker.Stop()
	var writing sync.WaitGroup
	defer writing.Wait()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		writing.Go(func() { c.one(ctx, client, texts[n%len(texts)], true, begin) })
		if n%badEvery == 0 {
			writing.Go(func() { c.one(ctx, client, strings.Replace(approved, "10.0.0.0/8", "10.0.0.1/8", 1), false, begin) })
		}
	}
}

func (c *tally) one(ctx context.Context, client kubernetes.Interface, text string, valid bool, begin time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	start := time.Now()
	_, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Update(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: configMap},
		Data:       map[string]string{"config": text},
	}, metav1.UpdateOptions{})
	took := time.Since(start)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.slowest = max(c.slowest, took)
	missed := failure{start.Sub(begin), start.Add(took).Sub(begin), err}
	switch {
	case valid:
		c.valid++
		if err != nil {
			c.failed = append(c.failed, missed)
		}
	default:
		c.bad++
		switch {
		case err == nil:
			c.accepted++
		case !apierrors.IsInvalid(err):
			c.odd = append(c.odd, missed)
		}
	}
}

func (p *product) client(t *testing.T) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", p.Admin)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = -1, -1 // no limit
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// identity tells certificates and leaders apart.
type identity struct {
	leaf, authority string // serial number of the leaf, name of the CA that signed it
	trusted         int    // CAs in the caBundle
	leader          string
}

func (i identity) String() string {
	return fmt.Sprintf("leaf %s of %s, %d CAs trusted, leader %s", i.leaf, i.authority, i.trusted, i.leader)
}

func (p *product) certificates(t *testing.T, client kubernetes.Interface) identity {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	secret, err := client.CoreV1().Secrets(namespace).Get(ctx, certsSecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(secret.Data[corev1.TLSCertKey])
	if block == nil {
		t.Fatalf("the Secret has no certificate: %v", slices.Sorted(maps.Keys(secret.Data)))
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	configuration, err := client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Get(ctx, release, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return identity{
		leaf:      serial(leaf),
		authority: fmt.Sprintf("%x", leaf.AuthorityKeyId)[:8],
		trusted:   bytes.Count(configuration.Webhooks[0].ClientConfig.CABundle, []byte("BEGIN CERTIFICATE")),
		leader:    leader(t, client),
	}
}

// leader is the pod that holds the Lease.
func leader(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	lease, err := client.CoordinationV1().Leases(namespace).Get(context.WithoutCancel(t.Context()), certsSecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	pod, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	return pod
}

func (p *product) rollout(t *testing.T) {
	t.Helper()
	p.kubectl(t, "", "rollout", "restart", "-n", namespace, "deployment/"+release)
	p.kubectl(t, "", "rollout", "status", "-n", namespace, "deployment/"+release, "--timeout=55s")
	if nodes := p.webhookNodes(t); nodes[0] == nodes[1] {
		t.Errorf("after a rollout both replicas are on %s", nodes[0])
	}
}

// webhookNodes are the nodes of the ready replicas.
func (p *product) webhookNodes(t *testing.T) []string {
	t.Helper()
	var nodes []string
	eventually(t, time.Minute, func(ctx context.Context) error {
		out, err := p.Kubectl(ctx, "", "get", "pods", "-n", namespace, "-l", "app.kubernetes.io/component=webhook", "-o",
			`jsonpath={range .items[*]}{.metadata.deletionTimestamp}{.spec.nodeName} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
		if err != nil {
			return err
		}
		nodes = nil
		for line := range strings.Lines(out) {
			if node, ready := strings.CutSuffix(line, " True\n"); ready && strings.HasPrefix(node, "node-") {
				nodes = append(nodes, node)
			}
		}
		if len(nodes) != 2 {
			return fmt.Errorf("ready replicas are on %v", nodes)
		}
		return nil
	})
	return nodes
}

// rotate asks for new certificates and waits until the request is done with.
func rotate(t *testing.T, client kubernetes.Interface, request certs.Request) {
	t.Helper()
	annotate(t, client, request)
	took := eventually(t, 2*propagation, func(ctx context.Context) error {
		secret, err := client.CoreV1().Secrets(namespace).Get(ctx, certsSecret, metav1.GetOptions{})
		if err == nil && secret.Annotations[certs.RotateAnnotation] != "" {
			err = fmt.Errorf("the Secret still asks for %s", secret.Annotations[certs.RotateAnnotation])
		}
		return err
	})
	t.Logf("%s was done after %s", request, took)
}

func annotate(t *testing.T, client kubernetes.Interface, request certs.Request) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{certs.RotateAnnotation: string(request)}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Secrets(namespace).Patch(t.Context(), certsSecret, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// deleteLeader ends the leading replica as a drained node would, and waits for another.
func deleteLeader(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	before := leader(t, client)
	if err := client.CoreV1().Pods(namespace).Delete(t.Context(), before, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, time.Minute, func(context.Context) error {
		if now := leader(t, client); now == before || now == "" {
			return fmt.Errorf("the leader is %q, was %q", now, before)
		}
		return nil
	})
	t.Logf("another replica leads after %s", took)
}

// sigkill is the end of a replica's container by SIGKILL.
type sigkill struct {
	address  string        // of the replica, as errors name it
	from, to time.Duration // since the first write: it happened in between
}

// followed is when the API server has learned at the latest that a replica is gone: its
// kubelet looks once a second, then the endpoints are written and read.
const followed = 5 * time.Second

// explains tells which of the two ways in which a SIGKILL fails a write a failure has
// gone; empty if none (docs/decisions/0004-writes-during-a-sigkill.md).
func (k sigkill) explains(f failure) string {
	text := f.err.Error()
	const soon = 100 * time.Millisecond // until the API server has read the end of its connections
	lost := strings.HasSuffix(text, ": EOF")
	for _, how := range []string{"read: connection reset by peer", "write: connection reset by peer", "write: broken pipe"} {
		lost = lost || strings.HasSuffix(text, "->"+k.address+": "+how)
	}
	switch {
	case !strings.Contains(text, `failed calling webhook "validate.ip-masq-guard.io"`):
		return ""
	case lost && f.at <= k.to+soon && f.end >= k.from:
		return "under way at the replica"
	case strings.HasSuffix(text, "dial tcp "+k.address+": connect: connection refused") && f.end >= k.from && f.at <= k.to+followed:
		return "sent to the replica before the endpoints followed"
	}
	return ""
}

// A replica that is killed by SIGKILL takes with it what it was about to answer, and
// the API server asks nobody else; until the pod has left the endpoints, it may also
// dial it in vain. That cannot be had otherwise, and each write that fails has to be of
// one of these two kinds: they fail closed, they are few, and soon after they succeed.
func TestReplicasKilled(t *testing.T) {
	p := need(t)
	t.Cleanup(func() { p.restore(t) })
	client := p.client(t)
	const (
		limit = 20 * time.Second
		most  = 5 // failed writes, good and bad, for each SIGKILL
	)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	begin := time.Now()
	count := &tally{}
	var writing sync.WaitGroup
	writing.Go(func() { count.write(ctx, client, begin, byTurns()...) })

	// One after the other: whichever serves the API server's connection is hit.
	var kills []sigkill
	for _, replica := range p.replicas(t, client) {
		time.Sleep(2 * time.Second)
		k := sigkill{address: net.JoinHostPort(replica.Status.PodIP, "10250"), from: time.Since(begin)}
		p.sigkill(t, replica)
		k.to = time.Since(begin)
		kills = append(kills, k)
		took := eventually(t, time.Minute, func(ctx context.Context) error {
			pod, err := client.CoreV1().Pods(namespace).Get(ctx, replica.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if now := pod.Status.ContainerStatuses[0]; !now.Ready || now.RestartCount == replica.Status.ContainerStatuses[0].RestartCount {
				return fmt.Errorf("replica %s has not come back", replica.Name)
			}
			return nil
		})
		t.Logf("replica %s was ready again after %s", replica.Name, took)
	}
	writing.Wait()

	kinds := map[string]int{}
	all := slices.Concat(count.failed, count.odd)
	for _, failure := range all {
		kind := ""
		for _, k := range kills {
			kind = cmp.Or(kind, k.explains(failure))
		}
		if kind == "" {
			t.Errorf("no SIGKILL explains that a write failed; %+v: %s", kills, failure)
		}
		kinds[kind]++
		t.Logf("%s: %s", kind, failure)
	}
	if len(all) > most*len(kills) {
		t.Errorf("%d writes failed after %d SIGKILLs, want at most %d each", len(all), len(kills), most)
	}
	fmt.Fprintf(os.Stderr, "%d replicas killed by SIGKILL; failed writes, good and bad: %v; ", len(kills), kinds)
	count.odd = nil // judged above
	count.report(t, limit)
}

// replicas are the ready pods of the webhook.
func (p *product) replicas(t *testing.T, client kubernetes.Interface) []corev1.Pod {
	t.Helper()
	pods, err := client.CoreV1().Pods(namespace).List(context.WithoutCancel(t.Context()),
		metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=webhook"})
	if err != nil {
		t.Fatal(err)
	}
	ready := slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool {
		return pod.DeletionTimestamp != nil || len(pod.Status.ContainerStatuses) == 0 || !pod.Status.ContainerStatuses[0].Ready
	})
	if len(ready) != 2 {
		t.Fatalf("%d replicas are ready, want 2", len(ready))
	}
	return ready
}

// sigkill kills a pod's container behind its kubelet's back.
func (p *product) sigkill(t *testing.T, pod corev1.Pod) {
	t.Helper()
	container := strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
	for _, n := range p.Nodes() {
		if n.Name != pod.Spec.NodeName {
			continue
		}
		if _, err := n.Run(t.Context(), "ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", container); err != nil {
			t.Fatal(err)
		}
	}
}

// served is an error as long as a replica serves another certificate than the Secret's.
func (p *product) served(t *testing.T, client kubernetes.Interface, leaf string) error {
	t.Helper()
	for _, pod := range p.replicas(t, client) {
		connection, err := tls.Dial("tcp", net.JoinHostPort(pod.Status.PodIP, "10250"), &tls.Config{
			InsecureSkipVerify: true, // what it serves is looked at, not used
		})
		if err != nil {
			return err
		}
		if got := serial(connection.ConnectionState().PeerCertificates[0]); got != leaf {
			err = fmt.Errorf("replica %s serves leaf %s, want %s", pod.Name, got, leaf)
		}
		_ = connection.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// serial is the beginning of a serial number, enough to tell certificates apart.
func serial(certificate *x509.Certificate) string {
	return fmt.Sprintf("%x", certificate.SerialNumber.Bytes()[:4])
}
