package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

const (
	// maxBody bounds a review: two objects of at most 3 MiB, which is what the API
	// server accepts in a write, and the rest (controller-runtime draws the same line).
	maxBody = 7 << 20

	// maxHeld bounds the reviews that are held in memory at once.
	maxHeld = 16

	// bodyTimeout bounds the wait for a body, which the API server sends in one go,
	// so that a slow sender does not keep others from being held.
	bodyTimeout = 3 * time.Second

	// defaultTimeout and maxTimeout are those of a webhook configuration's
	// timeoutSeconds, which the API server passes on as ?timeout=.
	defaultTimeout = 10 * time.Second
	maxTimeout     = 30 * time.Second
)

// decider is the part of policy.Engine that answers a review.
type decider interface {
	Decide(ctx context.Context, req policy.Request, cluster *policy.Cluster) policy.Decision
}

// reviewer answers decoded requests. Its error is a *refusal.
type reviewer interface {
	review(ctx context.Context, req *request, received time.Time) (*admissionv1.AdmissionResponse, error)
}

// handler answers AdmissionReviews over HTTP.
type handler struct {
	reviewer reviewer
	metrics  *metrics
	log      *slog.Logger
	draining *atomic.Bool

	held     slots // reviews in memory
	deciding slots // reviews that are decoded and judged
}

// guard judges writes of the one ConfigMap.
type guard struct {
	target  target
	decider decider
	cluster func() *policy.Cluster // nil as long as nobody knows the cluster
	bypass  bypasser               // nil: nobody may bypass
	metrics *metrics
	log     *slog.Logger

	decisions *decisionLog // nil: none is kept
}

// slots bounds how many do something at once.
type slots chan struct{}

// take waits for a slot until ctx ends and tells whether it got one.
func (s slots) take(ctx context.Context) bool {
	select {
	case s <- struct{}{}:
		return true
	default:
	}
	select {
	case s <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s slots) give() { <-s }

// ServeHTTP answers every review whose uid it can read with HTTP 200, as the API
// server wants it; what it cannot read it refuses, and failurePolicy decides.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.draining.Load() {
		// The API server keeps connections alive: this one is about to go.
		w.Header().Set("Connection", "close")
	}
	review, err := h.answer(w, r)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	// AdmissionResponse cannot fail to encode: it has no value that JSON lacks.
	body, err := json.Marshal(review)
	if err != nil {
		h.refuse(w, r, fmt.Errorf("encoding the response: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(body); err != nil {
		h.log.LogAttrs(r.Context(), slog.LevelWarn, "response not written", slog.String("err", err.Error()))
	}
}

// answer reads the review and answers it. Its error tells why nobody could.
func (h *handler) answer(w http.ResponseWriter, r *http.Request) (*admissionv1.AdmissionReview, error) {
	received := time.Now()
	timeout, err := checkRequest(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()

	if !h.held.take(ctx) {
		return nil, &refusal{http.StatusServiceUnavailable, "busy", "too many reviews are waiting"}
	}
	defer h.held.give()
	body, err := readBody(w, r, received.Add(min(timeout, bodyTimeout)))
	if err != nil {
		return nil, err
	}

	if !h.deciding.take(ctx) {
		return nil, &refusal{http.StatusServiceUnavailable, "busy", "too many reviews are being judged"}
	}
	defer h.deciding.give()
	request, err := decodeReview(body)
	if err != nil {
		return nil, err
	}
	response, err := h.reviewer.review(ctx, request, received)
	if err != nil {
		return nil, err
	}
	return reviewOf(response), nil
}

// checkRequest refuses what cannot be a review before its body is read, and
// returns how long an answer may take.
func checkRequest(r *http.Request) (time.Duration, error) {
	if r.Method != http.MethodPost {
		return 0, &refusal{http.StatusMethodNotAllowed, "method", fmt.Sprintf("method %s: want POST", r.Method)}
	}
	contentType := r.Header.Get("Content-Type")
	if media, _, err := mime.ParseMediaType(contentType); err != nil || media != "application/json" {
		return 0, &refusal{http.StatusUnsupportedMediaType, "content_type", fmt.Sprintf("content type %q: want application/json", contentType)}
	}
	if r.ContentLength > maxBody {
		return 0, tooLarge()
	}
	timeout := defaultTimeout
	if asked := r.URL.Query().Get("timeout"); asked != "" {
		parsed, err := time.ParseDuration(asked)
		if err != nil || parsed <= 0 {
			return 0, &refusal{http.StatusBadRequest, "timeout", fmt.Sprintf("timeout %q: want a positive duration such as 3s", asked)}
		}
		timeout = min(parsed, maxTimeout)
	}
	// The rest of the time is for the way back: an answer after the API server has
	// given up says nothing to anybody.
	return timeout * 9 / 10, nil
}

// readBody reads the whole body, bounded in size and time.
func readBody(w http.ResponseWriter, r *http.Request, deadline time.Time) ([]byte, error) {
	connection := http.NewResponseController(w)
	if err := connection.SetReadDeadline(deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("setting the read deadline: %w", err)
	}
	var body bytes.Buffer
	// What the header claims is only believed up to the size of an honest review.
	body.Grow(int(min(max(r.ContentLength, 0), 256<<10)) + bytes.MinRead)
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			return nil, tooLarge()
		}
		return nil, &refusal{http.StatusBadRequest, "unreadable", "reading the body: " + err.Error()}
	}
	if err := connection.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("clearing the read deadline: %w", err)
	}
	if body.Len() == 0 {
		return nil, &refusal{http.StatusBadRequest, "empty", "the body is empty"}
	}
	return body.Bytes(), nil
}

func tooLarge() *refusal {
	return &refusal{http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the body has more than %d bytes", maxBody)}
}

// review judges a write of the ConfigMap.
func (g *guard) review(ctx context.Context, req *request, received time.Time) (*admissionv1.AdmissionResponse, error) {
	if !req.concerns(g.target) {
		g.metrics.unjudged.WithLabelValues("other_object").Inc()
		return &admissionv1.AdmissionResponse{UID: req.UID, Allowed: true}, nil
	}
	judged, err := req.policyRequest(received)
	if err != nil {
		return nil, err
	}
	cluster := g.cluster()
	if cluster == nil {
		g.metrics.unjudged.WithLabelValues("starting").Inc()
		return deniedFor(req.UID, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, time.Second,
			"the webhook is starting and does not know the cluster's ranges and rules yet; try again in a moment"), nil
	}
	started := time.Now()
	decision, failure := g.decide(ctx, judged, cluster)
	if failure != nil {
		g.metrics.panics.Inc()
		g.log.LogAttrs(ctx, slog.LevelError, "panic", slog.String("uid", string(req.UID)),
			slog.Any("err", failure.value), slog.String("stack", failure.stack))
		return deniedFor(req.UID, http.StatusInternalServerError, metav1.StatusReasonInternalError, 0,
			"the webhook failed while judging this write, which is a bug of it; its log has the details"), nil
	}
	judgement := decided{request: judged, cluster: cluster, decision: decision}
	decision, receipt := g.withBypass(ctx, req, decision)
	judgement.elapsed, judgement.bypass = time.Since(started), receipt.bypass
	g.decisions.record(judgement)
	g.metrics.decided(judged.Operation, decision, judgement.elapsed)
	g.logDecision(ctx, req, judged, decision)
	response := respond(req.UID, judged, decision)
	receipt.add(response)
	return response, nil
}

// panicked is what a decision panicked with.
type panicked struct {
	value any
	stack string
}

// decide asks the decider and survives its panics.
func (g *guard) decide(ctx context.Context, judged policy.Request, cluster *policy.Cluster) (_ policy.Decision, failure *panicked) {
	defer func() {
		if value := recover(); value != nil {
			failure = &panicked{value: value, stack: string(debug.Stack())}
		}
	}()
	return g.decider.Decide(ctx, judged, cluster), nil
}

// logDecision writes one line, without any text of the configuration.
func (g *guard) logDecision(ctx context.Context, req *request, judged policy.Request, decision policy.Decision) {
	g.log.LogAttrs(ctx, slog.LevelInfo, "decision",
		slog.String("id", decision.ID),
		slog.String("uid", string(req.UID)),
		slog.String("user", judged.User),
		slog.String("operation", string(judged.Operation)),
		slog.Bool("dryRun", judged.DryRun),
		slog.Bool("allowed", decision.Allowed),
		slog.String("rules", strings.Join(violatedRules(decision.Findings), ",")),
		slog.Float64("seconds", time.Since(judged.Time).Seconds()),
	)
	for _, finding := range decision.Findings {
		if finding.Failed { // why is in the response; the message may quote the configuration
			g.log.LogAttrs(ctx, slog.LevelError, "rule failed", slog.String("id", decision.ID), slog.String("rule", finding.Rule))
		}
	}
}

// refuse answers a request that no review could be read from.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	refused, ok := errors.AsType[*refusal](err)
	if !ok {
		refused = &refusal{http.StatusInternalServerError, "internal", err.Error()}
	}
	h.metrics.refused.WithLabelValues(refused.reason).Inc()
	h.log.LogAttrs(r.Context(), slog.LevelWarn, "request refused",
		slog.String("reason", refused.reason), slog.Int("status", refused.status), slog.String("err", refused.detail),
		slog.String("remote", r.RemoteAddr))
	if refused.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodPost)
	}
	http.Error(w, refused.detail, refused.status)
}

// drain returns when the server may stop: once it has been asked to, it goes on
// serving for as long as the cluster needs to hear that it is no longer ready. A
// second signal ends that wait, and so does the end of ctx.
func drain(ctx context.Context, signals <-chan os.Signal, grace time.Duration, draining *atomic.Bool, log *slog.Logger) {
	select {
	case <-ctx.Done():
		return
	case received := <-signals:
		draining.Store(true)
		log.LogAttrs(ctx, slog.LevelInfo, "draining", slog.String("signal", received.String()), slog.String("grace", grace.String()))
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case received := <-signals:
		log.LogAttrs(ctx, slog.LevelInfo, "draining cut short", slog.String("signal", received.String()))
	}
}
