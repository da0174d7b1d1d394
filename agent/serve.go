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
)

const (
	// stuckAfter is how long a pass may be overdue before the loop counts as stuck:
	// longer than two families may take.
	stuckAfter = time.Minute

	requestTimeout = 5 * time.Second
	maxHeaderBytes = 8 << 10
	maxScrapes     = 3 // at a time
)

// status is the outcome of the last pass.
type status struct {
	passed   time.Time // when it began; zero before the first one
	due      time.Time // when the next pass begins
	failures []string  // of families whose rules the kernel does not hold
	refusals []string  // why the file is refused, the first ones
	inForce  inForceName
}

// alive tells why the loop seems to be stuck, or nil.
func (s *status) alive(now time.Time) error {
	if late := now.Sub(s.due); late > stuckAfter {
		return fmt.Errorf("a pass is overdue by %s", late.Round(time.Second))
	}
	return nil
}

// rules tells why the kernel is not known to hold what is in force, or nil.
func (s *status) rules(now time.Time) error {
	if s.passed.IsZero() {
		return errors.New("not applied yet")
	}
	if len(s.failures) > 0 {
		return errors.New(strings.Join(s.failures, "; "))
	}
	return s.alive(now)
}

// file tells why the file is not what is in force, or nil.
func (s *status) file(time.Time) error {
	if len(s.refusals) == 0 {
		return nil
	}
	return fmt.Errorf("refused: %s", strings.Join(s.refusals, "; "))
}

// check is one condition of being ready.
type check struct {
	name   string
	failed func(*status, time.Time) error
}

func checks() []check {
	return []check{{"rules", (*status).rules}, {"file", (*status).file}}
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
			code, text := ready(s.status.Load(), time.Now(), r.URL.Query()["exclude"])
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, text)
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
func ready(s *status, now time.Time, exclude []string) (code int, text string) {
	code = http.StatusOK
	var b strings.Builder
	for _, check := range checks() {
		err := check.failed(s, now)
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
	if !s.passed.IsZero() {
		fmt.Fprintf(&b, "in force: %s; last pass: %s\n", s.inForce, s.passed.UTC().Format(time.RFC3339))
	}
	return code, b.String()
}
