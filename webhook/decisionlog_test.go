package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

func unlogged(t *testing.T, own *metrics) float64 {
	t.Helper()
	var read dto.Metric
	if err := own.unlogged.Write(&read); err != nil {
		t.Fatal(err)
	}
	return read.GetCounter().GetValue()
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// A log that nobody writes takes what it has room for and drops the rest at once; one
// whose disk is full drops all of it.
func TestDecisionLogDrops(t *testing.T) {
	own := newMetrics("test", "")
	l, err := newDecisionLog(options{decisions: decisionOptions{to: "stdout"}}, fullDisk{}, own, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for range decisionsWaiting + 5 {
		l.record(decided{})
	}
	if got := unlogged(t, own); got != 5 {
		t.Errorf("%v dropped, want 5", got)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Start(ended); err != nil {
		t.Fatal(err)
	}
	if got := unlogged(t, own); got != decisionsWaiting+5 {
		t.Errorf("%v dropped, want %d", got, decisionsWaiting+5)
	}
	(*decisionLog)(nil).record(decided{}) // none is kept
}

// What waits when the program is stopped is written; the file is rotated.
func TestDecisionLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "decisions.log")
	l, err := newDecisionLog(options{decisions: decisionOptions{to: path, size: 1, kept: 2}}, nil, newMetrics("test", ""), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l.record(decided{request: policy.Request{User: "alice"}, decision: policy.Decision{ID: "one"}, bypass: &policy.LogBypass{Reason: "outage 7"}})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err = l.Start(ended); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var entry policy.LogEntry
	if err := json.Unmarshal(text, &entry); err != nil || entry.DecisionID != "one" || entry.RequestedBy != "alice" || !entry.Result.Bypassed || entry.Result.Bypass.Reason != "outage 7" || entry.Input != nil {
		t.Errorf("%s (%v)", text, err)
	}
}

func TestRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	r, err := openRotated(path, 10, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"1111\n", "2222\n", "3333\n", "a line beyond the bound\n", "4444\n"} {
		if _, err = r.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if err = r.Close(); err != nil {
		t.Fatal(err)
	}
	// One that is there already goes on.
	if r, err = openRotated(path, 10, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write([]byte("5555\n")); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"": "4444\n5555\n", ".1": "a line beyond the bound\n", ".2": "3333\n", ".3": ""} {
		got, err := os.ReadFile(path + name)
		if string(got) != want || (err != nil) != (want == "") {
			t.Errorf("log%s holds %q (%v), want %q", name, got, err, want)
		}
	}
}

// The log has what the rules said, and the request that it was said of.
func TestDecisionLogOfAReview(t *testing.T) {
	var out bytes.Buffer
	engine, err := policy.New(t.Context(), policy.Params{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	own, log := newMetrics("test", ""), slog.New(slog.DiscardHandler)
	l, err := newDecisionLog(options{decisions: decisionOptions{to: "stdout", full: true}}, &out, own, log)
	if err != nil {
		t.Fatal(err)
	}
	g := &guard{
		target: target{"kube-system", "ip-masq-agent"}, decider: engine, metrics: own, log: log, decisions: l,
		cluster: func() *policy.Cluster { return policy.NewCluster(nil, nil, nil) },
	}
	body, err := os.ReadFile("testdata/edit-denied.json")
	if err != nil {
		t.Fatal(err)
	}
	req, err := decodeReview(body)
	if err != nil {
		t.Fatal(err)
	}
	response, err := g.review(t.Context(), req, policy.Samples()[0].Request.Time)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Start(ended); err != nil {
		t.Fatal(err)
	}
	var entry policy.LogEntry
	if err := json.Unmarshal(out.Bytes(), &entry); err != nil {
		t.Fatal(err)
	}
	if entry.DecisionID != response.AuditAnnotations[auditDecision] || entry.Result.Allowed || entry.Input.Operation != "UPDATE" ||
		!strings.Contains(out.String(), "nonMasqueradeCIDRs") {
		t.Errorf("%s", &out)
	}
}
