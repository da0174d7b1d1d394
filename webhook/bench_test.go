package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// allowEverything is the least a webhook can do, as most are written: decode the
// review with the API's own types and echo the uid.
func allowEverything(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var review admissionv1.AdmissionReview
	if err = json.Unmarshal(body, &review); err != nil || review.Request == nil {
		http.Error(w, "not a review", http.StatusBadRequest)
		return
	}
	answer, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Response: &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true},
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(answer); err != nil {
		return // the client is gone
	}
}

// manyNodes is a cluster of count nodes, all of which the list of benchText covers.
func manyNodes(count int) *policy.Cluster {
	nodes := make([]any, 0, count)
	for i := range count {
		nodes = append(nodes, node(fmt.Sprintf("worker-%04d", i), []string{fmt.Sprintf("10.%d.%d.0/24", 128+i/256, i%256)},
			address(corev1.NodeInternalIP, fmt.Sprintf("192.168.%d.%d", i/256, i%256))))
	}
	known, _ := union(membersOf(nodes...))
	none := clusterRanges{node: []policy.Range{}, pod: []policy.Range{}, service: []policy.Range{}}
	return prepared(none.and(known))
}

// benchText is a configuration with count CIDRs, of which the last says which one
// of many it is.
func benchText(count, which int) string {
	var b strings.Builder
	b.WriteString("nonMasqueradeCIDRs:\n  - 10.128.0.0/9\n  - 192.168.0.0/16\n")
	for i := range count - 3 {
		fmt.Fprintf(&b, "  - 100.%d.%d.0/25\n", 64+i/256, i%256)
	}
	fmt.Fprintf(&b, "  - 172.%d.%d.%d/32\n", 16+which>>16&15, which>>8&255, which&255)
	fmt.Fprintf(&b, "cidrLimit: %d\nresyncInterval: 60s\nmasqLinkLocal: false\n", max(count, 64))
	return b.String()
}

// benchReview is an update as `kubectl apply` makes it, with its annotation and
// managed fields.
func benchReview(b *testing.B, oldText, newText string) []byte {
	b.Helper()
	object := func(text string) map[string]any {
		return map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]string{"config": text},
			"metadata": map[string]any{
				"name": "ip-masq-agent", "namespace": "kube-system", "uid": "6f0a2b1c-77aa-4f3e-9f54-0a4f4b7f3c11", "resourceVersion": "812",
				"creationTimestamp": "2026-06-01T08:00:00Z",
				"annotations":       map[string]string{corev1.LastAppliedConfigAnnotation: `{"apiVersion":"v1","kind":"ConfigMap","data":{"config":` + fmt.Sprintf("%q", text) + `}}`},
				"managedFields": []map[string]any{{
					"manager": "kubectl-client-side-apply", "operation": "Update", "apiVersion": "v1", "time": "2026-06-01T08:00:00Z",
					"fieldsType": "FieldsV1", "fieldsV1": map[string]any{"f:data": map[string]any{".": map[string]any{}, "f:config": map[string]any{}}},
				}},
			},
		}
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
		"request": map[string]any{
			"uid":       "b1d1f3f6-6f0a-4a0f-8a3c-2f6b0f1d9c01",
			"kind":      metav1.GroupVersionKind{Version: "v1", Kind: "ConfigMap"},
			"resource":  metav1.GroupVersionResource{Version: "v1", Resource: "configmaps"},
			"name":      "ip-masq-agent",
			"namespace": "kube-system", "operation": "UPDATE",
			"userInfo": map[string]any{"username": "kubernetes-admin", "groups": []string{"system:masters", "system:authenticated"}},
			"object":   object(newText), "oldObject": object(oldText), "dryRun": false,
			"options": map[string]any{"kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "kubectl-client-side-apply"},
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	return body
}

// teams are sets of twenty rules of the kinds that platform teams have, each set with
// addresses, names and bounds of its own. A good text breaks none of them.
func teams(count int) []policy.Source {
	const kinds = 10
	rules := [kinds]string{
		"deny contains v if {\n\tsome range in input.config.nonMasqueradeCIDRs\n\tnet.cidr_contains(range.cidr, \"198.51.%[1]d.%[2]d/32\")\n\t%[3]s\n}\n",
		"deny contains v if {\n\tsome range in input.config.nonMasqueradeCIDRs\n\tnet.cidr_intersects(\"203.0.%[1]d.%[2]d/32\", range.cidr)\n\t%[3]s\n}\n",
		"deny contains v if {\n\tsome range in input.config.nonMasqueradeCIDRs\n\tnot _mine(range.cidr)\n\t_length(range.cidr) < %[2]d / 100\n\t%[3]s\n}\n",
		"warn contains v if {\n\tsome range in input.config.nonMasqueradeCIDRs\n\trange.family == \"ipv6\"\n\tstartswith(range.cidr, \"2001:db8:%[2]d:\")\n\t%[3]s\n}\n",
		"deny contains v if {\n\tinput.request.user == \"robot-%[1]d-%[2]d\"\n\trange := {\"cidr\": \"*\", \"path\": \"\"}\n\t%[3]s\n}\n",
		"deny contains v if {\n\tcount(input.config.nonMasqueradeCIDRs) > 20000 + %[2]d\n\trange := {\"cidr\": \"*\", \"path\": \"\"}\n\t%[3]s\n}\n",
		"deny contains v if {\n\tsome cidr in input.derived.diff.no_longer_masqueraded\n\tnet.cidr_contains(\"198.18.%[2]d.0/24\", cidr)\n\trange := {\"cidr\": cidr, \"path\": \"\"}\n\t%[3]s\n}\n",
		"deny contains v if {\n\tnot regex.match(`^[a-z]`, input.request.user)\n\tinput.request.operation == \"DELETE\"\n\trange := {\"cidr\": \"%[2]d\", \"path\": \"\"}\n\t%[3]s\n}\n",
		"deny contains v if {\n\tsome range in input.config.nonMasqueradeCIDRs\n\tevery entry in data.team%[1]d.forbidden {\n\t\tnet.cidr_contains(entry, range.cidr)\n\t}\n\t%[3]s\n}\n",
		"deny contains v if {\n\tcount([range | some range in input.config.nonMasqueradeCIDRs; endswith(range.cidr, \"/%[2]d\"); range.line == 0]) > 7\n" +
			"\trange := {\"cidr\": \"*\", \"path\": \"\"}\n\t%[3]s\n}\n",
	}
	var sources []policy.Source
	for team := range count {
		var b strings.Builder
		fmt.Fprintf(&b, "# METADATA\n# title: Rules of team %[1]d\npackage ipmasq.team%[1]d\n", team)
		for i := range 2 * kinds {
			body := fmt.Sprintf("v := {\"rule\": \"rule-%d\", \"path\": range.path, \"msg\": $\"{range.cidr} is not for team %d\"}", i, team)
			b.WriteString("\n" + fmt.Sprintf(rules[i%kinds], team, 100+i, body))
		}
		b.WriteString("\n_mine(cidr) if {\n\tsome entry in data." + fmt.Sprintf("team%d", team) + ".register\n\tnet.cidr_contains(entry, cidr)\n}\n" +
			"\n_length(cidr) := to_number(split(cidr, \"/\")[1])\n")
		sources = append(sources,
			policy.Source{Name: fmt.Sprintf("team-%d/rules.rego", team), Text: []byte(b.String())},
			policy.Source{Name: fmt.Sprintf("team-%d/data.json", team), Text: fmt.Appendf(nil,
				`{"team%d": {"register": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"], "forbidden": ["192.0.2.0/24", "198.51.100.0/24"]}}`, team)})
	}
	return sources
}

// benchServerEnv makes the test binary a server: "allow-all", or the number of nodes
// of the cluster that the webhook's handler knows and the number of teams with rules.
const benchServerEnv = "WEBHOOK_BENCH_SERVER"

func TestMain(m *testing.M) {
	if kind := os.Getenv(benchServerEnv); kind != "" {
		if err := serveBench(kind); err != nil {
			panic(err)
		}
		return
	}
	adoptLoggers(slog.DiscardHandler) // once: webhooks that tests run share the libraries' loggers
	m.Run()
}

// serveBench serves over TLS 1.3 until its standard input ends. It prints its URL.
func serveBench(kind string) error {
	var served http.Handler = http.HandlerFunc(allowEverything)
	var nodes, sets int
	if _, err := fmt.Sscanf(kind, "%d %d", &nodes, &sets); err == nil {
		params, err := policy.ParseParams([]byte("rules: {cidr-limit: {max: 10000}}"))
		if err != nil {
			return err
		}
		engine, err := policy.New(context.Background(), params, teams(sets))
		if err != nil {
			return err
		}
		h := newHandler(engine)
		h.log = slog.New(slog.NewJSONHandler(os.Stderr, nil))
		h.guard().log = h.log
		cluster := manyNodes(nodes)
		h.guard().cluster = func() *policy.Cluster { return cluster }
		served = h
	}
	server := httptest.NewUnstartedServer(served)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
	server.StartTLS()
	defer server.Close()
	if _, err := fmt.Fprintln(os.Stdout, server.URL); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// BenchmarkHandler compares the handler, over TLS and a connection that is kept,
// with one that allows everything. Each is a process of its own, as it is for an
// API server; both are asked in turn, so that what else the machine does hits both.
// Each review brings a text that was never seen before.
func BenchmarkHandler(b *testing.B) {
	for _, count := range []int{4, 64, 1000} {
		for _, nodes := range []int{0, 5000} {
			b.Run(fmt.Sprintf("cidrs=%d/nodes=%d", count, nodes), func(b *testing.B) {
				compareServers(b, count, fmt.Sprintf("%d 0", nodes), "allow-all", "allow-all")
			})
		}
	}
}

// BenchmarkHandlerRules compares the handler with fifty sets of twenty rules with the
// same one that has the built-in rules alone.
func BenchmarkHandlerRules(b *testing.B) {
	for _, count := range []int{4, 64, 1000} {
		b.Run(fmt.Sprintf("cidrs=%d", count), func(b *testing.B) {
			compareServers(b, count, "5000 50", "5000 0", "built-in")
		})
	}
}

// compareServers sends every review, each with a text that was never seen before, to two
// servers by turns.
func compareServers(b *testing.B, cidrs int, kind, other, otherName string) {
	b.Helper()
	ours, theirs := benchServer(b, kind), benchServer(b, other)
	oldText := benchText(cidrs, 0)
	var oursTook, theirsTook []time.Duration
	for i := 1; b.Loop(); i++ {
		body := benchReview(b, oldText, benchText(cidrs, i))
		oursTook = append(oursTook, ours(body))
		theirsTook = append(theirsTook, theirs(body))
	}
	slices.Sort(oursTook)
	slices.Sort(theirsTook)
	at := func(took []time.Duration, percent int) float64 {
		return float64(took[len(took)*percent/100].Microseconds())
	}
	b.ReportMetric(at(oursTook, 50), "p50-µs")
	b.ReportMetric(at(oursTook, 99), "p99-µs")
	b.ReportMetric(at(theirsTook, 50), otherName+"-p50-µs")
	b.ReportMetric(at(oursTook, 50)/at(theirsTook, 50), "p50-ratio")
}

// BenchmarkReload is what a change of one of fifty sets of twenty rules takes until the
// new rules decide.
func BenchmarkReload(b *testing.B) {
	sources := teams(50)
	for i := 0; b.Loop(); i++ {
		sources[0].Text = append(bytes.TrimRight(sources[0].Text, "#\n"), []byte(strings.Repeat("#", i%7)+"\n")...)
		if _, err := policy.New(b.Context(), policy.Params{}, sources); err != nil {
			b.Fatal(err)
		}
	}
}

// benchServer starts a server and returns what sends a review to it and measures.
func benchServer(b *testing.B, kind string) func(body []byte) time.Duration {
	b.Helper()
	server := exec.CommandContext(context.WithoutCancel(b.Context()), os.Args[0])
	server.Env = append(os.Environ(), benchServerEnv+"="+kind)
	input, err := server.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	output, err := server.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err = server.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err = errors.Join(input.Close(), server.Wait()); err != nil {
			b.Errorf("server %s: %v", kind, err)
		}
	})
	url, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	url = strings.TrimSpace(url) + "/validate?timeout=10s"
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	b.Cleanup(client.CloseIdleConnections)
	return func(body []byte) time.Duration {
		started := time.Now()
		response, err := client.Post(url, "application/json", bytes.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		answer, err := io.ReadAll(response.Body)
		took := time.Since(started)
		if err = errors.Join(err, response.Body.Close()); err != nil || !bytes.Contains(answer, []byte(`"allowed":true`)) {
			b.Fatalf("%s: %s, %v", response.Status, answer, err)
		}
		return took
	}
}

// BenchmarkAnswer is the handler alone, without a connection.
func BenchmarkAnswer(b *testing.B) {
	engine, err := policy.New(b.Context(), policy.Params{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	h := newHandler(engine)
	cluster := manyNodes(5000)
	h.guard().cluster = func() *policy.Cluster { return cluster }
	bodies := make([]string, 1000)
	for i := range bodies {
		bodies[i] = string(benchReview(b, benchText(64, 0), benchText(64, i+1)))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		recorder := httptest.NewRecorder()
		h.ServeHTTP(recorder, post(b.Context(), "/validate", bodies[i%len(bodies)]))
		if recorder.Code != http.StatusOK {
			b.Fatal(recorder.Body)
		}
	}
}
