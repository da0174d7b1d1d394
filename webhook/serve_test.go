package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	admissionv1 "k8s.io/api/admission/v1"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// deciderFunc decides as a test wants it.
type deciderFunc func(ctx context.Context, req policy.Request, cluster *policy.Cluster) policy.Decision

func (f deciderFunc) Decide(ctx context.Context, req policy.Request, cluster *policy.Cluster) policy.Decision {
	return f(ctx, req, cluster)
}

func allowAll(context.Context, policy.Request, *policy.Cluster) policy.Decision {
	return policy.Decision{ID: "decision-1", Revision: "revision-1", Allowed: true}
}

func newHandler(decide decider) *handler {
	own, log := newMetrics("test", "revision-1"), slog.New(slog.DiscardHandler)
	return &handler{
		reviewer: &guard{
			target:  target{"kube-system", "ip-masq-agent"},
			decider: decide,
			cluster: func() *policy.Cluster { return policy.NewCluster(nil, nil, nil) },
			metrics: own, log: log,
		},
		metrics:  own,
		log:      log,
		draining: &atomic.Bool{},
		held:     make(slots, maxHeld),
		deciding: make(slots, 2),
	}
}

// guard is the reviewer of a handler that newHandler made.
func (h *handler) guard() *guard { return h.reviewer.(*guard) } //nolint:forcetypeassert // newHandler made it

// review is a body with these fields of a request, beside a uid.
func review(request string) string {
	return `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"uid-1",` + request + `}}`
}

const create = `"kind":{"group":"","version":"v1","kind":"ConfigMap"},"resource":{"group":"","version":"v1","resource":"configmaps"},` +
	`"namespace":"kube-system","operation":"CREATE"`

const ours = `"name":"ip-masq-agent","object":{"metadata":{"name":"ip-masq-agent"},"data":{"config":""}},` + create

func post(ctx context.Context, target, body string) *http.Request {
	request := httptest.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	return request
}

// answerOf is the review's response; the test ends when it is none.
func answerOf(t *testing.T, recorder *httptest.ResponseRecorder) *admissionv1.AdmissionResponse {
	t.Helper()
	if recorder.Code != http.StatusOK {
		t.Fatalf("HTTP %d: %s", recorder.Code, recorder.Body)
	}
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(recorder.Body.Bytes(), &review); err != nil {
		t.Fatal(err)
	}
	if review.APIVersion != "admission.k8s.io/v1" || review.Kind != "AdmissionReview" || review.Response == nil {
		t.Fatalf("not an AdmissionReview v1 with a response: %s", recorder.Body)
	}
	return review.Response
}

// counted is the value of a counter.
func counted(t *testing.T, counter prometheus.Counter) float64 {
	t.Helper()
	var metric dto.Metric
	if err := counter.Write(&metric); err != nil {
		t.Fatal(err)
	}
	return metric.GetCounter().GetValue()
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name   string
		change func(*http.Request)
		body   string
		status int
		reason string
		detail string
	}{
		{
			name:   "method",
			change: func(r *http.Request) { r.Method = http.MethodGet },
			status: http.StatusMethodNotAllowed, reason: "method", detail: "method GET: want POST",
		},
		{
			name:   "no content type",
			change: func(r *http.Request) { r.Header.Del("Content-Type") },
			status: http.StatusUnsupportedMediaType, reason: "content_type", detail: `content type "": want application/json`,
		},
		{
			name:   "content type",
			change: func(r *http.Request) { r.Header.Set("Content-Type", "application/yaml") },
			status: http.StatusUnsupportedMediaType, reason: "content_type", detail: `content type "application/yaml": want application/json`,
		},
		{
			name:   "claims to be too large",
			change: func(r *http.Request) { r.ContentLength = 7<<20 + 1 },
			status: http.StatusRequestEntityTooLarge, reason: "too_large", detail: "the body has more than 7340032 bytes",
		},
		{
			name:   "is too large",
			change: func(r *http.Request) { r.ContentLength = -1 }, // chunked
			body:   strings.Repeat(" ", 7<<20+1),
			status: http.StatusRequestEntityTooLarge, reason: "too_large", detail: "the body has more than 7340032 bytes",
		},
		{
			name:   "breaks off",
			change: func(r *http.Request) { r.Body = io.NopCloser(io.MultiReader(strings.NewReader("{"), failingReader{})) },
			status: http.StatusBadRequest, reason: "unreadable", detail: "reading the body: connection lost",
		},
		{name: "empty", status: http.StatusBadRequest, reason: "empty", detail: "the body is empty"},
		{
			name: "timeout", body: review(ours),
			change: func(r *http.Request) { r.URL.RawQuery = "timeout=soon" },
			status: http.StatusBadRequest, reason: "timeout", detail: `timeout "soon": want a positive duration such as 3s`,
		},
		{
			name: "no JSON", body: "kind: AdmissionReview",
			status: http.StatusBadRequest, reason: "malformed", detail: "reading the AdmissionReview: invalid character 'k' looking for beginning of value",
		},
		{
			name: "half of it", body: review(ours)[:100],
			status: http.StatusBadRequest, reason: "malformed", detail: "reading the AdmissionReview: unexpected end of JSON input",
		},
		{name: "null", body: "null", status: http.StatusBadRequest, reason: "kind", detail: `the body is a "", want an AdmissionReview`},
		{
			name: "other kind", body: `{"apiVersion":"v1","kind":"ConfigMap"}`,
			status: http.StatusBadRequest, reason: "kind", detail: `the body is a "ConfigMap", want an AdmissionReview`,
		},
		{
			name: "v1beta1", body: strings.Replace(review(ours), "admission.k8s.io/v1", "admission.k8s.io/v1beta1", 1),
			status: http.StatusBadRequest, reason: "version",
			detail: `the AdmissionReview is of version "admission.k8s.io/v1beta1", want admission.k8s.io/v1: set admissionReviewVersions: [v1]`,
		},
		{
			name: "no request", body: `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`,
			status: http.StatusBadRequest, reason: "no_request", detail: "the AdmissionReview has no request",
		},
		{
			name: "no uid", body: strings.Replace(review(ours), `"uid":"uid-1",`, "", 1),
			status: http.StatusBadRequest, reason: "no_uid", detail: "the request has no uid, so it cannot be answered",
		},
		{
			name: "no object", body: review(`"name":"ip-masq-agent",` + create),
			status: http.StatusBadRequest, reason: "no_object", detail: "the CREATE request has no object",
		},
		{
			name: "operation", body: review(strings.Replace(ours, `"CREATE"`, `"REPLACE"`, 1)),
			status: http.StatusBadRequest, reason: "operation", detail: `the operation "REPLACE" is not known`,
		},
		{
			name: "data that is no text", body: review(strings.Replace(ours, `"config":""`, `"config":1`, 1)),
			status: http.StatusBadRequest, reason: "malformed",
			detail: "reading the AdmissionReview: json: cannot unmarshal number into Go struct field configMap.request.object.data of type string",
		},
		{
			name: "name that is no text", body: review(strings.Replace(ours, `"name":"ip-masq-agent",`, `"name":1,`, 1)),
			status: http.StatusBadRequest, reason: "malformed",
			detail: "reading the AdmissionReview: json: cannot unmarshal number into Go struct field request.request.envelope.name of type string",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHandler(deciderFunc(func(context.Context, policy.Request, *policy.Cluster) policy.Decision {
				t.Error("a decision was made")
				return policy.Decision{}
			}))
			request := post(t.Context(), "/validate", tt.body)
			if tt.change != nil {
				tt.change(request)
			}
			recorder := httptest.NewRecorder()
			h.ServeHTTP(recorder, request)

			if recorder.Code != tt.status {
				t.Errorf("HTTP %d, want %d", recorder.Code, tt.status)
			}
			if diff := cmp.Diff(tt.detail+"\n", recorder.Body.String()); diff != "" {
				t.Errorf("body differs (-want +got):\n%s", diff)
			}
			if got := counted(t, h.metrics.refused.WithLabelValues(tt.reason)); got != 1 {
				t.Errorf("refusals counted for %s: %v, want 1", tt.reason, got)
			}
			if len(h.held) != 0 || len(h.deciding) != 0 {
				t.Errorf("slots not given back: %d held, %d deciding", len(h.held), len(h.deciding))
			}
		})
	}
}

// failingReader is a connection that is lost.
type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errLost }

var errLost = errors.New("connection lost")

// TestNotOurs has reviews of everything but the one ConfigMap.
func TestNotOurs(t *testing.T) {
	tests := []struct{ name, body string }{
		{name: "other name", body: review(strings.ReplaceAll(ours, "ip-masq-agent", "coredns"))},
		{name: "other namespace", body: review(strings.Replace(ours, "kube-system", "default", 1))},
		{name: "other kind", body: review(strings.Replace(ours, `"kind":"ConfigMap"`, `"kind":"Secret"`, 1))},
		{name: "other group", body: review(strings.Replace(ours, `"group":""`, `"group":"example.com"`, 1))},
		{name: "subresource", body: review(`"subResource":"status",` + ours)},
		{
			name: "other kind whose data is no text",
			body: review(`"name":"ip-masq-agent","object":{"metadata":{"name":"ip-masq-agent"},"data":[1,2]},` + strings.Replace(create, `"ConfigMap"`, `"Table"`, 1)),
		},
		{name: "no name at all", body: review(create)},
		{name: "generated name", body: review(`"name":"","object":{"metadata":{"generateName":"ip-masq-agent"}},` + create)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHandler(deciderFunc(func(context.Context, policy.Request, *policy.Cluster) policy.Decision {
				t.Error("a decision was made")
				return policy.Decision{}
			}))
			recorder := httptest.NewRecorder()
			h.ServeHTTP(recorder, post(t.Context(), "/validate", tt.body))
			want := `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","response":{"uid":"uid-1","allowed":true}}`
			if diff := cmp.Diff(want, recorder.Body.String()); recorder.Code != http.StatusOK || diff != "" {
				t.Errorf("HTTP %d, body differs (-want +got):\n%s", recorder.Code, diff)
			}
		})
	}
}

// TestNamelessRequests are ours although the request does not say so.
func TestNamelessRequests(t *testing.T) {
	tests := []struct{ name, body string }{
		{name: "create", body: review(`"object":{"metadata":{"name":"ip-masq-agent"}},` + create)},
		{
			name: "delete of a collection",
			body: review(`"name":"","object":null,"oldObject":{"metadata":{"name":"ip-masq-agent"}},"options":null,` + strings.Replace(create, "CREATE", "DELETE", 1)),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			decisions := 0
			h := newHandler(deciderFunc(func(_ context.Context, req policy.Request, _ *policy.Cluster) policy.Decision {
				decisions++
				if req.Name != "ip-masq-agent" {
					t.Errorf("name %q, want ip-masq-agent", req.Name)
				}
				return policy.Decision{Allowed: true}
			}))
			recorder := httptest.NewRecorder()
			h.ServeHTTP(recorder, post(t.Context(), "/validate", tt.body))
			answerOf(t, recorder)
			if decisions != 1 {
				t.Errorf("%d decisions, want 1", decisions)
			}
		})
	}
}

func TestStarting(t *testing.T) {
	h := newHandler(deciderFunc(allowAll))
	h.guard().cluster = func() *policy.Cluster { return nil }
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, post(t.Context(), "/validate", review(ours)))
	answer := answerOf(t, recorder)
	if answer.Allowed || answer.Result.Code != http.StatusServiceUnavailable || answer.Result.Details.RetryAfterSeconds != 1 {
		t.Errorf("answer %+v, want a denial with code 503 that asks to retry after 1 s", answer)
	}
}

func TestPanicIsADenial(t *testing.T) {
	var log bytes.Buffer
	h := newHandler(deciderFunc(func(context.Context, policy.Request, *policy.Cluster) policy.Decision {
		panic("a rule of mine")
	}))
	h.log = slog.New(slog.NewJSONHandler(&log, nil))
	h.guard().log = h.log
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, post(t.Context(), "/validate", review(ours)))
	want := `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","response":{"uid":"uid-1","allowed":false,` +
		`"status":{"metadata":{},"status":"Failure","message":"the webhook failed while judging this write, which is a bug of it; its log has the details",` +
		`"reason":"InternalError","code":500}}}`
	if diff := cmp.Diff(want, recorder.Body.String()); recorder.Code != http.StatusOK || diff != "" {
		t.Errorf("HTTP %d, body differs (-want +got):\n%s", recorder.Code, diff)
	}
	if got := counted(t, h.metrics.panics); got != 1 {
		t.Errorf("panics counted: %v, want 1", got)
	}
	if !strings.Contains(log.String(), "a rule of mine") || !strings.Contains(log.String(), "TestPanicIsADenial") {
		t.Errorf("the log lacks the panic or its stack:\n%s", &log)
	}
	if len(h.held) != 0 || len(h.deciding) != 0 {
		t.Errorf("slots not given back: %d held, %d deciding", len(h.held), len(h.deciding))
	}
}

func TestDeadline(t *testing.T) {
	tests := []struct {
		name, query string
		want        time.Duration
	}{
		{name: "nine tenths of what the API server waits", query: "?timeout=3s", want: 2700 * time.Millisecond},
		{name: "its own default", query: "", want: 9 * time.Second},
		{name: "its own maximum", query: "?timeout=2h", want: 27 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				started := time.Now()
				h := newHandler(deciderFunc(func(ctx context.Context, _ policy.Request, _ *policy.Cluster) policy.Decision {
					<-ctx.Done()
					return policy.Decision{Allowed: false}
				}))
				recorder := httptest.NewRecorder()
				h.ServeHTTP(recorder, post(t.Context(), "/validate"+tt.query, review(ours)))
				if answerOf(t, recorder).Allowed {
					t.Error("allowed")
				}
				if got := time.Since(started); got != tt.want {
					t.Errorf("the decision had %s, want %s", got, tt.want)
				}
			})
		})
	}
}

// TestBusy fills the handler with decisions that do not end.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		h := newHandler(deciderFunc(func(context.Context, policy.Request, *policy.Cluster) policy.Decision {
			<-release
			return policy.Decision{Allowed: true}
		}))
		for range cap(h.deciding) {
			go h.ServeHTTP(httptest.NewRecorder(), post(t.Context(), "/validate", review(ours)))
		}
		synctest.Wait()
		started := time.Now()
		recorder := httptest.NewRecorder()
		h.ServeHTTP(recorder, post(t.Context(), "/validate?timeout=2s", review(ours)))
		if got := time.Since(started); recorder.Code != http.StatusServiceUnavailable || got != 1800*time.Millisecond {
			t.Errorf("HTTP %d after %s, want 503 after 1.8s", recorder.Code, got)
		}
		close(release)
		synctest.Wait()
		recorder = httptest.NewRecorder()
		h.ServeHTTP(recorder, post(t.Context(), "/validate?timeout=2s", review(ours)))
		if !answerOf(t, recorder).Allowed {
			t.Error("denied although there are slots again")
		}
	})
}

func TestConnectionCloseWhileDraining(t *testing.T) {
	h := newHandler(deciderFunc(allowAll))
	for _, draining := range []bool{false, true} {
		h.draining.Store(draining)
		recorder := httptest.NewRecorder()
		h.ServeHTTP(recorder, post(t.Context(), "/validate", review(ours)))
		if got := recorder.Header().Get("Connection") == "close"; got != draining {
			t.Errorf("draining %t: Connection: close is %t", draining, got)
		}
	}
}

func TestDrain(t *testing.T) {
	const grace = 10 * time.Second
	tests := []struct {
		name    string
		signals []time.Duration // when they arrive
		cancel  time.Duration   // when the context ends, or zero
		want    time.Duration
		drained bool
	}{
		{name: "waits out the grace", signals: []time.Duration{time.Second}, want: 11 * time.Second, drained: true},
		{name: "a second signal ends it", signals: []time.Duration{time.Second, 3 * time.Second}, want: 3 * time.Second, drained: true},
		{name: "so does the end of the servers", signals: []time.Duration{time.Second}, cancel: 2 * time.Second, want: 2 * time.Second, drained: true},
		{name: "without a signal", cancel: 2 * time.Second, want: 2 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				signals := make(chan os.Signal, 2)
				for _, at := range tt.signals {
					time.AfterFunc(at, func() { signals <- os.Interrupt })
				}
				if tt.cancel > 0 {
					time.AfterFunc(tt.cancel, cancel)
				}
				var draining atomic.Bool
				started := time.Now()
				drain(ctx, signals, grace, &draining, slog.New(slog.DiscardHandler))
				if got := time.Since(started); got != tt.want {
					t.Errorf("stopped after %s, want %s", got, tt.want)
				}
				if draining.Load() != tt.drained {
					t.Errorf("draining is %t, want %t", draining.Load(), tt.drained)
				}
			})
		})
	}
}

// TestLogHasNoConfiguration: what people write into the ConfigMap stays out of logs.
func TestLogHasNoConfiguration(t *testing.T) {
	var log bytes.Buffer
	h := newHandler(deciderFunc(func(context.Context, policy.Request, *policy.Cluster) policy.Decision {
		return policy.Decision{ID: "decision-1", Findings: []policy.Finding{
			{Rule: "no-overlap", Action: policy.Deny, Key: "config", Text: "SECRET", Message: `"SECRET" overlaps`, Hint: "remove SECRET"},
			{Rule: "no-overlap", Action: policy.Deny, Key: "config", Text: "SECRET", Message: `"SECRET" overlaps`},
			{Rule: "resync-bounds", Action: policy.Warn, Message: "SECRET"},
		}}
	}))
	h.guard().log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "seconds" {
			return slog.Attr{}
		}
		return a
	}}))
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, post(t.Context(), "/validate", review(`"userInfo":{"username":"alice"},"dryRun":true,`+strings.Replace(ours, `"config":""`, `"config":"SECRET"`, 1))))
	want := `{"level":"INFO","msg":"decision","id":"decision-1","uid":"uid-1","user":"alice","operation":"CREATE","dryRun":true,"allowed":false,"rules":"no-overlap"}` + "\n"
	if diff := cmp.Diff(want, log.String()); diff != "" {
		t.Errorf("log differs (-want +got):\n%s", diff)
	}
}
