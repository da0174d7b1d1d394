//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

const (
	// stuckAfter is how long a pass may be overdue before the loop counts as stuck:
	// longer than two families may take.
	stuckAfter = time.Minute

	requestTimeout = 5 * time.Second
	maxHeaderBytes = 8 << 10
	maxScrapes     = 3 // at a time
)

// status is the outcome of the last pass. It is not changed once it is published.
type status struct {
	passed       time.Time // when it began; zero before the first one
	due          time.Time // when the next pass begins
	interval     time.Duration
	inForce      inForceName // what the kernel is to hold
	inForceSince time.Time
	applied      *applied // nil before every family was right for the first time
	families     []familyStatus
	file         fileStatus
}

// applied is the configuration that the kernel was last seen to hold, for every family.
type applied struct {
	digest string    // empty for defaults
	since  time.Time // when it was first seen
}

// familyStatus is what is known of the rules of one IP version.
type familyStatus struct {
	version    ruleset.Family
	verifiedAt time.Time // when the kernel was last seen to hold the rules; zero when it never was
	failure    string    // of the last pass; empty when it succeeded
	rules      int       // that the kernel is to hold, the jump included
	setEntries int       // of the set that they ask; 0 when there is none
	drift      map[ruleset.Drift]int
}

// fileStatus is what is known of the file.
type fileStatus struct {
	path     string
	state    fileState
	since    time.Time // when this content was first seen
	counts   map[config.Severity]int
	problems []config.Problem // the first ones
}

type fileState string

const (
	fileUnread  fileState = "unread" // before the first pass
	fileLoaded  fileState = "loaded"
	fileMissing fileState = "missing"
	fileRefused fileState = "refused"
)

// view is what a question at one moment is answered from.
type view struct {
	*status

	about    about
	expected expectation
	others   *surveyed // nil before the first survey
	now      time.Time
}

// about is what does not change while the agent runs.
type about struct {
	node           string // empty when nobody has told it
	backend        string
	backendReason  string
	backendVersion string // "iptables v1.8.9 (nf_tables)"
	kernelVersion  string
}

// alive tells why the loop seems to be stuck, or nil.
func (s *status) alive(now time.Time) error {
	if late := now.Sub(s.due); late > stuckAfter {
		return fmt.Errorf("a pass is overdue by %s", late.Round(time.Second))
	}
	return nil
}

// checkRules tells why the kernel is not known to hold what is in force, or nil.
func (v view) checkRules() error {
	if v.passed.IsZero() {
		return errors.New("not applied yet")
	}
	var failures []string
	for _, f := range v.families {
		if f.failure != "" {
			failures = append(failures, f.failure)
		}
	}
	if len(failures) > 0 {
		return errors.New(strings.Join(failures, "; "))
	}
	return v.alive(v.now)
}

// checkFile tells why the file is not what is in force, or nil.
func (v view) checkFile() error {
	if v.file.state != fileRefused {
		return nil
	}
	var refusals []string
	for _, p := range v.file.problems {
		if p.Severity == config.Fatal {
			refusals = append(refusals, p.String())
		}
	}
	return fmt.Errorf("refused: %s", strings.Join(refusals, "; "))
}

// checkDigest tells why what is applied is not what is expected, or nil.
func (v view) checkDigest() error { return v.expected.met(v.applied) }

// check is one condition of being ready.
type check struct {
	name   string
	failed func(view) error
	worst  state // of the agent while the check fails
}

func checks() []check {
	return []check{
		{"rules", view.checkRules, notInForce},
		{"file", view.checkFile, degraded},
		{"digest", view.checkDigest, notInForce},
	}
}

// serve answers at address until the function that it returns is called.
func serve(ctx context.Context, address string, s *syncer, log *slog.Logger) (stop func(), err error) {
	if address == noAddress {
		return func() {}, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serving metrics and health: %w; --metrics-bind-address chooses another address, 0 none", err)
	}
	server := &http.Server{
		Handler:           newHandler(s),
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      2 * requestTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // broken requests of others
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.ErrorContext(ctx, "serving metrics and health failed", "error", err)
		}
	})
	log.InfoContext(ctx, "serving metrics and health", "address", listener.Addr().String())
	return func() {
		_ = server.Close() // nothing that is under way matters after the end
		serving.Wait()
	}, nil
}

// endpoint is one path that is served.
type endpoint struct {
	path    string
	handler http.Handler
}

func endpoints(s *syncer) []endpoint {
	return []endpoint{
		{"/healthz", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if err := s.status.Load().alive(time.Now()); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			_, _ = io.WriteString(w, "ok\n")
		})},
		{"/readyz", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			code, text := ready(s.view(), r.URL.Query()["exclude"])
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, text)
		})},
		{"/status", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			text, err := newReport(s.view()).text()
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(text) //nolint:gosec // JSON, and declared as such: nobody renders it as HTML
		})},
		{"/metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{
			DisableCompression:  true, // a compressor needs more memory than all the rest of the agent
			MaxRequestsInFlight: maxScrapes,
			Timeout:             requestTimeout,
		})},
	}
}

func newHandler(s *syncer) http.Handler {
	mux := http.NewServeMux()
	for _, endpoint := range endpoints(s) {
		mux.Handle("GET "+endpoint.path, endpoint.handler)
	}
	return mux
}

// ready lists every check with its outcome, as Kubernetes' own programs do. A check
// that is excluded is told all the same, and does not count.
func ready(v view, exclude []string) (code int, text string) {
	code = http.StatusOK
	var b strings.Builder
	for _, check := range checks() {
		err := check.failed(v)
		switch {
		case err == nil:
			fmt.Fprintf(&b, "[+] %s: ok\n", check.name)
		case slices.Contains(exclude, check.name):
			fmt.Fprintf(&b, "[ ] %s (excluded): %v\n", check.name, err)
		default:
			fmt.Fprintf(&b, "[-] %s: %v\n", check.name, err)
			code = http.StatusServiceUnavailable
		}
	}
	if !v.passed.IsZero() {
		fmt.Fprintf(&b, "in force: %s; last pass: %s\n", v.inForce, instant(v.passed))
	}
	return code, b.String()
}
