package main

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// metrics are the webhook's own, beside those of controller-runtime. They are one
// prometheus.Collector, so that a run registers and unregisters them as one.
type metrics struct {
	decisions  *prometheus.CounterVec // operation, allowed
	findings   *prometheus.CounterVec // rule, action
	refused    *prometheus.CounterVec // reason
	unjudged   *prometheus.CounterVec // reason
	panics     prometheus.Counter     // while deciding
	evaluation prometheus.Histogram   // seconds
	ranges     *prometheus.GaugeVec   // kind, source
	podless    prometheus.Gauge       // nodes without a pod range
	serviceAPI prometheus.Gauge       // 1: ServiceCIDR objects are watched
	info       *prometheus.GaugeVec   // version, revision
	version    string
	ruleSets   *prometheus.GaugeVec   // state
	vettings   *prometheus.CounterVec // operation, allowed
	bypasses   *prometheus.CounterVec // allowed
	unlogged   prometheus.Counter     // decisions that the decision log dropped
	behind     prometheus.GaugeFunc   // rules that do not stop
	all        []prometheus.Collector

	mu     sync.Mutex
	custom map[string]bool // ids of custom rules that are labels
}

// maxCustomLabels bounds the series for custom rules, which name themselves.
const maxCustomLabels = 1000

func newMetrics(version, revision string) *metrics {
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ip_masq_guard_decisions_total",
			Help: "Decisions on writes of the ConfigMap, dry runs included.",
		}, []string{"operation", "allowed"}),
		findings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ip_masq_guard_findings_total",
			Help: "Findings of rules, by what they do: deny, warn, or failed when the rule itself failed.",
		}, []string{"rule", "action"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ip_masq_guard_requests_refused_total",
			Help: "HTTP requests that were no review to answer; failurePolicy decides them.",
		}, []string{"reason"}),
		unjudged: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ip_masq_guard_reviews_unjudged_total",
			Help: "Reviews answered without a decision: other objects are allowed, the rest is denied.",
		}, []string{"reason"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ip_masq_guard_panics_total",
			Help: "Panics while deciding, each a denial.",
		}),
		evaluation: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "ip_masq_guard_evaluation_seconds",
			Help:    "Seconds from the decoded request to the decision.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 17), // 50 µs to 3.3 s
		}),
		ranges: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "ip_masq_guard_cluster_ranges",
			Help: "Ranges of the cluster that decisions know, by kind (node, pod, service) and source (api, params).",
		}, []string{"kind", "source"}),
		podless: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ip_masq_guard_nodes_without_pod_cidr",
			Help: "Nodes whose spec has no pod range; the network plugin may keep it elsewhere.",
		}),
		serviceAPI: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ip_masq_guard_service_cidr_api_watched",
			Help: "1 when ServiceCIDR objects are watched, 0 when the API server has none (before Kubernetes 1.33).",
		}),
		info: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "ip_masq_guard_policy_info",
			Help: "Version of the webhook and digest over its rules and params; always 1.",
		}, []string{"version", "revision"}),
		ruleSets: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "ip_masq_guard_rule_sets",
			Help: "Rule sets in ConfigMaps by state: in-force; last-good, where an earlier version is in force since the present one does not compile; left-out.",
		}, []string{"state"}),
		vettings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ip_masq_guard_rule_sets_judged_total",
			Help: "Judgements of writes of rule sets, dry runs included.",
		}, []string{"operation", "allowed"}),
		bypasses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ip_masq_guard_bypasses_total",
			Help: "Denied edits that asked to bypass the rules, by whether that was allowed.",
		}, []string{"allowed"}),
		unlogged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ip_masq_guard_decisions_unlogged_total",
			Help: "Decisions that the decision log lacks, as too many waited or a write failed.",
		}),
	}
	m.behind = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ip_masq_guard_rules_left_behind",
		Help: "Compilations and evaluations of rules that were told to stop and have not.",
	}, func() float64 { return float64(policy.LeftBehind()) })
	m.custom = map[string]bool{}
	m.version = version
	m.all = []prometheus.Collector{
		m.decisions, m.findings, m.refused, m.unjudged, m.panics, m.evaluation,
		m.ranges, m.podless, m.serviceAPI, m.info, m.ruleSets, m.vettings, m.bypasses, m.unlogged, m.behind,
	}
	m.info.WithLabelValues(version, revision).Set(1)
	// Series exist from the start, so that a rate sees the first increase.
	for _, reason := range []string{
		"busy", "content_type", "empty", "internal", "kind", "malformed", "method", "no_object", "no_request", "no_uid", "operation",
		"timeout", "too_large", "unreadable", "version",
	} {
		m.refused.WithLabelValues(reason)
	}
	m.unjudged.WithLabelValues("other_object")
	m.unjudged.WithLabelValues("starting")
	return m
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(descriptions chan<- *prometheus.Desc) {
	for _, collector := range m.all {
		collector.Describe(descriptions)
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(values chan<- prometheus.Metric) {
	for _, collector := range m.all {
		collector.Collect(values)
	}
}

// decided counts a decision that took elapsed.
func (m *metrics) decided(operation policy.Operation, decision policy.Decision, elapsed time.Duration) {
	allowed := "false"
	if decision.Allowed {
		allowed = "true"
	}
	m.decisions.WithLabelValues(string(operation), allowed).Inc()
	m.evaluation.Observe(elapsed.Seconds())
	for _, finding := range decision.Findings {
		action := string(finding.Action)
		if finding.Failed {
			action = "failed"
		}
		m.findings.WithLabelValues(m.label(finding), action).Inc()
	}
}

// label is the id of a rule, or its package when there are too many.
func (m *metrics) label(finding policy.Finding) string {
	if !finding.Custom() {
		return finding.Rule
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.custom[finding.Rule] && len(m.custom) >= maxCustomLabels {
		if i := strings.LastIndexByte(finding.Rule, '/'); i > 0 {
			return finding.Rule[:i]
		}
	}
	m.custom[finding.Rule] = true
	return finding.Rule
}

// vetted counts a judgement on a rule set.
func (m *metrics) vetted(operation admissionv1.Operation, allowed bool) {
	m.vettings.WithLabelValues(string(operation), strconv.FormatBool(allowed)).Inc()
}

// rulesInForce tells what decides now.
func (m *metrics) rulesInForce(revision string, sets []setStatus) {
	m.info.Reset()
	m.info.WithLabelValues(m.version, revision).Set(1)
	for _, state := range []string{setInForce, setLastGood, setLeftOut} {
		count := 0
		for _, s := range sets {
			if s.State == state {
				count++
			}
		}
		m.ruleSets.WithLabelValues(state).Set(float64(count))
	}
}

// countRanges tells how many ranges of each kind a source knows.
func (m *metrics) countRanges(source string, known clusterRanges) {
	m.ranges.WithLabelValues("node", source).Set(float64(len(known.node)))
	m.ranges.WithLabelValues("pod", source).Set(float64(len(known.pod)))
	m.ranges.WithLabelValues("service", source).Set(float64(len(known.service)))
}
