package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

func TestReady(t *testing.T) {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	ago := noon.Add(-time.Hour)
	digest, other := strings.Repeat("0a", 32), strings.Repeat("1b", 32)
	fromSource := inForceName{digest: digest, origin: fromFile}
	const last = "; last pass: 2026-01-02T12:00:00Z\n"
	verified := status{passed: noon, due: noon.Add(time.Minute), inForce: fromSource, applied: &applied{digest, ago}}
	refused := fileStatus{state: fileRefused, problems: []config.Problem{
		{Line: 3, Path: "nonMasqueradeCIDRs[1]", Message: "bad", Remedy: "mend it"},
		{Line: 4, Path: "x", Message: "y"},
		{Severity: config.Suspicious, Line: 1, Path: "z", Message: "odd"},
	}}
	for _, test := range []struct {
		name     string
		status   status
		expected expectation
		exclude  []string
		code     int
		text     string
	}{
		{
			"before the first pass",
			status{due: noon},
			expectation{},
			nil, 503,
			"[-] rules: not applied yet\n[+] file: ok\n[+] digest: ok\n",
		},
		{
			"verified", verified,
			expectation{},
			nil, 200,
			"[+] rules: ok\n[+] file: ok\n[+] digest: ok\nin force: file, sha256 " + digest + last,
		},
		{
			"one family failed",
			status{passed: noon, due: noon, inForce: fromSource, families: []familyStatus{
				{version: ruleset.IPv4}, {version: ruleset.IPv6, failure: "applying IPv6 rules: no such table"},
			}},
			expectation{},
			[]string{"file"},
			503,
			"[-] rules: applying IPv6 rules: no such table\n[+] file: ok\n[+] digest: ok\nin force: file, sha256 " + digest + last,
		},
		{
			"file refused",
			status{passed: noon, due: noon, inForce: inForceName{digest: digest, origin: fromLastValid}, file: refused},
			expectation{},
			nil, 503,
			"[+] rules: ok\n[-] file: refused: line 3, nonMasqueradeCIDRs[1]: bad; mend it; line 4, x: y\n[+] digest: ok\n" +
				"in force: last-valid, sha256 " + digest + last,
		},
		{
			"file refused, which does not count",
			status{passed: noon, due: noon, inForce: inForceName{origin: fromDefaults}, file: refused},
			expectation{},
			[]string{"file"},
			200,
			"[+] rules: ok\n[ ] file (excluded): refused: line 3, nonMasqueradeCIDRs[1]: bad; mend it; line 4, x: y\n[+] digest: ok\n" +
				"in force: defaults" + last,
		},
		{
			"stuck",
			status{passed: ago, due: noon.Add(-2 * time.Minute), inForce: fromSource},
			expectation{},
			nil, 503,
			"[-] rules: a pass is overdue by 2m0s\n[+] file: ok\n[+] digest: ok\nin force: file, sha256 " + digest +
				"; last pass: 2026-01-02T11:00:00Z\n",
		},
		{
			"as expected", verified,
			expectation{digest: digest, since: noon},
			nil, 200,
			"[+] rules: ok\n[+] file: ok\n[+] digest: ok\nin force: file, sha256 " + digest + last,
		},
		{
			"another is expected", verified,
			expectation{digest: other, since: noon},
			nil, 503,
			"[+] rules: ok\n[+] file: ok\n[-] digest: expected " + other + " since 2026-01-02T12:00:00Z, applied " + digest +
				" since 2026-01-02T11:00:00Z; a mounted ConfigMap follows its object within 90 s\nin force: file, sha256 " + digest + last,
		},
		{
			"another than the defaults is expected",
			status{passed: noon, due: noon, inForce: inForceName{origin: fromDefaults}, applied: &applied{"", ago}},
			expectation{digest: other, since: noon},
			[]string{"digest"},
			200,
			"[+] rules: ok\n[+] file: ok\n[ ] digest (excluded): expected " + other + " since 2026-01-02T12:00:00Z, applied the defaults" +
				" since 2026-01-02T11:00:00Z; a mounted ConfigMap follows its object within 90 s\nin force: defaults" + last,
		},
		{
			"expected, and nothing is applied",
			status{due: noon},
			expectation{digest: other, since: noon},
			nil, 503,
			"[-] rules: not applied yet\n[+] file: ok\n[-] digest: expected " + other + " since 2026-01-02T12:00:00Z, and nothing is applied yet\n",
		},
		{
			"nobody can tell what is expected", verified,
			expectation{err: errors.New("reading the expected digest: no")},
			nil, 503,
			"[+] rules: ok\n[+] file: ok\n[-] digest: reading the expected digest: no\nin force: file, sha256 " + digest + last,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, text := ready(view{status: &test.status, expected: test.expected, now: noon}, test.exclude)
			if code != test.code {
				t.Errorf("code %d, want %d", code, test.code)
			}
			if diff := cmp.Diff(test.text, text); diff != "" {
				t.Errorf("text differs (-want +got):\n%s", diff)
			}
		})
	}
}

// get asks the handler of an agent.
func get(t *testing.T, w *world, path string) (code int, body string) {
	t.Helper()
	answer := httptest.NewRecorder()
	newHandler(w.syncer).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
	return answer.Code, answer.Body.String()
}

// metricLines are the agent's own samples, without those that time decides.
func metricLines(t *testing.T, w *world) []string {
	t.Helper()
	code, body := get(t, w, "/metrics")
	if code != http.StatusOK {
		t.Fatalf("/metrics: code %d: %s", code, body)
	}
	var lines []string
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "ip_masq_guard_agent_") || strings.Contains(line, "_bucket{") || strings.Contains(line, "_sum{") ||
			strings.Contains(line, "_created") || strings.HasPrefix(line, "ip_masq_guard_agent_build_info{") ||
			strings.HasPrefix(line, "ip_masq_guard_agent_sync_phase_seconds_") ||
			strings.HasPrefix(line, "ip_masq_guard_agent_last_success_timestamp_seconds") {
			continue
		}
		lines = append(lines, strings.TrimPrefix(line, "ip_masq_guard_agent_"))
	}
	return lines
}

func TestMetricsTellTheTruth(t *testing.T) {
	opts := options{}
	opts.config.IPv6 = true
	w := newWorld(t, opts)
	want := func(title string, lines ...string) {
		t.Helper()
		if diff := cmp.Diff(lines, metricLines(t, w)); diff != "" {
			t.Errorf("%s: metrics differ (-want +got):\n%s", title, diff)
		}
	}
	noDrift := []string{
		`drift_total{family="ipv4",kind="chain-changed"} 0`,
		`drift_total{family="ipv4",kind="chain-former"} 0`,
		`drift_total{family="ipv4",kind="chain-missing"} 0`,
		`drift_total{family="ipv4",kind="jump-duplicate"} 0`,
		`drift_total{family="ipv4",kind="jump-missing"} 0`,
		`drift_total{family="ipv4",kind="set-changed"} 0`,
		`drift_total{family="ipv4",kind="set-missing"} 0`,
		`drift_total{family="ipv4",kind="table-missing"} 0`,
		`drift_total{family="ipv6",kind="chain-changed"} 0`,
		`drift_total{family="ipv6",kind="chain-former"} 0`,
		`drift_total{family="ipv6",kind="chain-missing"} 0`,
		`drift_total{family="ipv6",kind="jump-duplicate"} 0`,
		`drift_total{family="ipv6",kind="jump-missing"} 0`,
		`drift_total{family="ipv6",kind="set-changed"} 0`,
		`drift_total{family="ipv6",kind="set-missing"} 0`,
		`drift_total{family="ipv6",kind="table-missing"} 0`,
	}
	want("before the first pass", append(append([]string{
		`config_as_expected 1`,
		`config_file_problems{severity="fatal"} 0`,
		`config_file_problems{severity="suspicious"} 0`,
		`config_file_refusals_total 0`,
		`config_file_refused 0`,
		`conntrack_flushed_total{family="ipv4"} 0`,
		`conntrack_flushed_total{family="ipv6"} 0`,
	}, noDrift...),
		`kernel_changes_total 0`,
		`kernel_losses_total 0`,
		`kernel_wakeups_postponed_total 0`,
		`kernel_wakeups_total 0`,
		`lock_wait_seconds_total 0`,
		`resync_interval_seconds 0`,
		`rules_verified{family="ipv4"} 0`,
		`rules_verified{family="ipv6"} 0`,
		`sync_seconds_count{result="failure"} 0`,
		`sync_seconds_count{result="success"} 0`,
	)...)

	w.holds(t, "nonMasqueradeCIDRs: [10.1.0.0/16, 10.2.0.0/16, 'fd00::/8']\n")
	w.syncer.pass(t.Context())
	want("applied", append(append([]string{
		`config_applied_info{digest="bbc1e5d040042b9003d7d33d35ee19914e2b8a97f7fe14eae7b6880498bdc69b"} 1`,
		`config_as_expected 1`,
		`config_cidrs{family="ipv4"} 2`,
		`config_cidrs{family="ipv6"} 1`,
		`config_file_problems{severity="fatal"} 0`,
		`config_file_problems{severity="suspicious"} 0`,
		`config_file_refusals_total 0`,
		`config_file_refused 0`,
		`config_info{digest="bbc1e5d040042b9003d7d33d35ee19914e2b8a97f7fe14eae7b6880498bdc69b",source="file"} 1`,
		`conntrack_flushed_total{family="ipv4"} 0`,
		`conntrack_flushed_total{family="ipv6"} 0`,
	}, noDrift...),
		`kernel_changes_total 0`,
		`kernel_losses_total 0`,
		`kernel_wakeups_postponed_total 0`,
		`kernel_wakeups_total 0`,
		`lock_wait_seconds_total 0`,
		`resync_interval_seconds 60`,
		`rules{family="ipv4"} 5`,
		`rules{family="ipv6"} 4`,
		`rules_verified{family="ipv4"} 1`,
		`rules_verified{family="ipv6"} 1`,
		`set_entries{family="ipv4"} 0`,
		`set_entries{family="ipv6"} 0`,
		`sync_seconds_count{result="failure"} 0`,
		`sync_seconds_count{result="success"} 1`,
	)...)

	w.holds(t, badText)
	w.kernel.flush()
	w.kernel.refuses(ruleset.IPv6, "locked")
	w.syncer.pass(t.Context())
	w.syncer.pass(t.Context())
	drift := append([]string{`drift_total{family="ipv4",kind="chain-changed"} 1`}, noDrift[1:]...)
	want("refused, drifted and failing", append(append([]string{
		`config_applied_info{digest="bbc1e5d040042b9003d7d33d35ee19914e2b8a97f7fe14eae7b6880498bdc69b"} 1`,
		`config_as_expected 1`,
		`config_cidrs{family="ipv4"} 2`,
		`config_cidrs{family="ipv6"} 1`,
		`config_file_problems{severity="fatal"} 1`,
		`config_file_problems{severity="suspicious"} 0`,
		`config_file_refusals_total 1`,
		`config_file_refused 1`,
		`config_info{digest="bbc1e5d040042b9003d7d33d35ee19914e2b8a97f7fe14eae7b6880498bdc69b",source="last-valid"} 1`,
		`conntrack_flushed_total{family="ipv4"} 0`,
		`conntrack_flushed_total{family="ipv6"} 0`,
	}, drift...),
		`kernel_changes_total 0`,
		`kernel_losses_total 0`,
		`kernel_wakeups_postponed_total 0`,
		`kernel_wakeups_total 0`,
		`lock_wait_seconds_total 0`,
		`resync_interval_seconds 60`,
		`rules{family="ipv4"} 5`,
		`rules{family="ipv6"} 4`,
		`rules_verified{family="ipv4"} 1`,
		`rules_verified{family="ipv6"} 0`,
		`set_entries{family="ipv4"} 0`,
		`set_entries{family="ipv6"} 0`,
		`sync_seconds_count{result="failure"} 2`,
		`sync_seconds_count{result="success"} 1`,
	)...)

	code, body := get(t, w, "/readyz")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "[-] rules: applying IPv6 rules: locked\n") ||
		!strings.Contains(body, "[-] file: refused: line 1, nonMasqueradeCIDRs[0]: ") {
		t.Errorf("/readyz: code %d, %s", code, body)
	}
	if code, body := get(t, w, "/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("/healthz: code %d, %s", code, body)
	}
}

// TestMetricsTimeEachPart: what a pass does not need is not counted.
func TestMetricsTimeEachPart(t *testing.T) {
	w := newWorld(t, options{})
	counts := func() map[string]string {
		t.Helper()
		_, body := get(t, w, "/metrics")
		found := map[string]string{}
		for _, match := range regexp.MustCompile(`(?m)_sync_phase_seconds_count\{family="(\w*)",phase="(\w+)"\} (\d+)$`).FindAllStringSubmatch(body, -1) {
			found[strings.TrimSpace(match[2]+" "+match[1])] = match[3]
		}
		return found
	}
	w.holds(t, goodText)
	w.syncer.pass(t.Context())
	w.syncer.pass(t.Context())
	want := map[string]string{"read": "2", "parse": "1", "build ipv4": "1", "save": "2"}
	if diff := cmp.Diff(want, counts()); diff != "" {
		t.Errorf("counts differ (-want +got):\n%s", diff)
	}
	trace := ruleset.TraceOf(w.syncer.metrics.trace(t.Context(), ruleset.IPv6))
	trace.Took(ruleset.Write, time.Second)
	trace.LockWait(1500 * time.Millisecond)
	if got := counts()["write ipv6"]; got != "1" {
		t.Errorf("%s writes, want 1", got)
	}
	if _, body := get(t, w, "/metrics"); !strings.Contains(body, "\nip_masq_guard_agent_lock_wait_seconds_total 1.5\n") {
		t.Error("the wait for the lock is not counted")
	}
}

func TestServe(t *testing.T) {
	w := newWorld(t, options{})
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	stop, err := serve(t.Context(), "127.0.0.1:0", w.syncer, logger)
	if err != nil {
		t.Fatal(err)
	}
	_, address, _ := strings.Cut(strings.TrimSpace(log.String()), "address=")
	if _, err = serve(t.Context(), address, w.syncer, logger); err == nil ||
		!strings.HasSuffix(err.Error(), "address already in use; --metrics-bind-address chooses another address, 0 none") {
		t.Errorf("serving twice at %s: %v", address, err)
	}
	for _, test := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/healthz", 200},
		{"GET", "/readyz", 503},
		{"GET", "/status", 200},
		{"GET", "/metrics", 200},
		{"POST", "/metrics", 405},
		{"GET", "/", 404},
		{"GET", "/debug/pprof/", 404},
	} {
		if got := statusOf(t, test.method, "http://"+address+test.path); got != test.code {
			t.Errorf("%s %s: code %d, want %d", test.method, test.path, got, test.code)
		}
	}
	stop()
	http.DefaultClient.CloseIdleConnections()
	stop, err = serve(t.Context(), address, w.syncer, logger)
	if err != nil {
		t.Fatalf("the address is not free after the end: %v", err)
	}
	stop()
}

func statusOf(t *testing.T, method, url string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	must(t, err)
	answer, err := http.DefaultTransport.RoundTrip(request)
	must(t, err)
	_, err = io.Copy(io.Discard, answer.Body)
	must(t, errors.Join(err, answer.Body.Close()))
	return answer.StatusCode
}

// TestDaemonLeavesNothingRunning: goleak looks after the test binary.
func TestDaemonLeavesNothingRunning(t *testing.T) {
	v := newVolume(t, goodText)
	w := newWorld(t, options{configPath: v.file()})
	opts := w.syncer.opts
	opts.metricsAddress = "127.0.0.1:0"
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := daemon(ctx, opts, w.kernel, nil, about{}, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{good}, w.wrote()); diff != "" {
		t.Errorf("writes differ (-want +got):\n%s", diff)
	}
}
