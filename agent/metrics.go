//go:build !windows

package main

import (
	"context"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/notify"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

const namespace = "ip_masq_guard_agent"

// metrics are what the agent tells Prometheus. The syncer sets them; scrapes may
// come at any time.
type metrics struct {
	registry *prometheus.Registry

	info         *prometheus.GaugeVec
	applied      *prometheus.GaugeVec
	cidrs        *prometheus.GaugeVec
	resync       prometheus.Gauge
	problems     *prometheus.GaugeVec
	fileRefused  prometheus.Gauge
	refusals     prometheus.Counter
	held         *prometheus.GaugeVec
	drift        *prometheus.CounterVec
	passSeconds  *prometheus.HistogramVec
	phaseSeconds *prometheus.HistogramVec
	lockWait     prometheus.Counter
	forgotten    *prometheus.CounterVec
	rules        *prometheus.GaugeVec
	foreign      *prometheus.GaugeVec
	setEntries   *prometheus.GaugeVec
	lastVerified prometheus.Gauge
	wakeups      prometheus.Counter
	postponed    prometheus.Counter
	kernel       func() notify.Counts // nil where the kernel tells nothing

	families []ruleset.Family
}

func newMetrics(version string, families []ruleset.Family) *metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		info: gauge("config_info", "The configuration in force: SHA-256 of its text (empty for defaults) and "+
			"where it comes from (file, last-valid, defaults).", "digest", "source"),
		applied: gauge("config_applied_info", "The configuration that the kernel was last seen to hold, for every family: "+
			"SHA-256 of its text (empty for defaults).", "digest"),
		cidrs:    gauge("config_cidrs", "CIDRs of the configuration in force that are not masqueraded.", "family"),
		problems: gauge("config_file_problems", "Problems in the configuration file as it is now.", "severity"),
		held:     gauge("rules_verified", "1 when the kernel was seen to hold the rules at the last pass.", "family"),
		foreign: gauge("foreign_masqueraders", "Rules of other programs that rewrite sources beside ours, by what they do to packets of ours: "+
			"undoes, unknown, shadows-us, duplicate, harmless.", "family", "owner", "verdict"),
		rules:      gauge("rules", "Rules that the kernel is to hold, the jump included.", "family"),
		setEntries: gauge("set_entries", "Entries of the set that the rules ask; 0 when they name each CIDR.", "family"),
		resync: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: namespace, Name: "resync_interval_seconds", Help: "Time between two passes when nothing changes.",
		}),
		fileRefused: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: namespace, Name: "config_file_refused",
			Help: "1 when the configuration file is refused, so that another configuration is in force.",
		}),
		refusals: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "config_file_refusals_total", Help: "Texts of the configuration file that were refused.",
		}),
		drift: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "drift_total", Help: "Times that the kernel had lost the rules and was healed, by kind.",
		}, []string{"family", "kind"}),
		passSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "sync_seconds", Help: "Duration of a pass: file read, kernel compared and, where it differed, written.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"result"}),
		phaseSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "sync_phase_seconds", Help: "Duration of the parts of passes: read and parse (file), build (rules), " +
				"inspect and write (kernel), save (last valid configuration). Parts that are not needed are left out.",
			Buckets: []float64{.0001, .001, .005, .025, .1, .5, 2.5, 10},
		}, []string{"phase", "family"}),
		lockWait: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "lock_wait_seconds_total",
			Help: "Time that iptables commands of the legacy backend were seen to wait for the xtables lock.",
		}),
		forgotten: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "conntrack_flushed_total",
			Help: "Flows that the kernel was made to forget, since a change treats their destinations otherwise.",
		}, []string{"family"}),
		lastVerified: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: namespace, Name: "last_success_timestamp_seconds",
			Help: "Unix time of the last pass after which the kernel held the rules of every family.",
		}),
		wakeups: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "kernel_wakeups_total",
			Help: "Passes made at once since the kernel told that others had changed the rules.",
		}),
		postponed: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "kernel_wakeups_postponed_total",
			Help: "Such passes that had to wait, since others change the rules so often that healing takes too much time.",
		}),
		families: families,
	}
	build := gauge("build_info", "The program.", "version", "goversion")
	build.WithLabelValues(version, runtime.Version()).Set(1)

	m.registry.MustRegister(build, m.info, m.applied, m.rules, m.setEntries, m.cidrs, m.resync, m.problems, m.fileRefused, m.refusals, m.held, m.drift,
		m.passSeconds, m.phaseSeconds, m.lockWait, m.forgotten, m.foreign, m.lastVerified,
		m.wakeups, m.postponed,
		m.told("kernel_changes_total", "Transactions in the kernel that concern the rules, the agent's own too.",
			func(c notify.Counts) int { return c.Changes }),
		m.told("kernel_losses_total", "Times that the kernel had more changes to tell than it keeps; a look at the rules follows each.",
			func(c notify.Counts) int { return c.Losses }),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics()))

	// Series exist from the start, so that a rate sees the first increase.
	for _, family := range families {
		m.held.WithLabelValues(label(family)).Set(0)
		m.forgotten.WithLabelValues(label(family))
		for _, kind := range drifts() {
			m.drift.WithLabelValues(label(family), string(kind))
		}
	}
	m.passSeconds.WithLabelValues("success")
	m.passSeconds.WithLabelValues("failure")
	m.judged(nil)
	m.refusals.Add(0)
	return m
}

// told is a counter of what the kernel tells, where it does.
func (m *metrics) told(name, help string, value func(notify.Counts) int) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, func() float64 {
		if m.kernel == nil {
			return 0
		}
		return float64(value(m.kernel()))
	})
}

func label(family ruleset.Family) string {
	if family == ruleset.IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

// judged tells what a new text of the file is like.
func (m *metrics) judged(problems []config.Problem) {
	m.problems.WithLabelValues("fatal").Set(float64(count(problems, config.Fatal)))
	m.problems.WithLabelValues("suspicious").Set(float64(count(problems, config.Suspicious)))
	m.fileRefused.Set(0)
	if refused(problems) {
		m.fileRefused.Set(1)
		m.refusals.Inc()
	}
}

func (m *metrics) inForce(force inForce) {
	m.info.Reset()
	m.info.WithLabelValues(force.digest, string(force.origin)).Set(1)
	m.resync.Set(force.config.Resync.Seconds())
	for _, family := range m.families {
		n := 0
		for _, prefix := range force.config.NonMasquerade {
			if prefix.Addr().Is6() == (family == ruleset.IPv6) {
				n++
			}
		}
		m.cidrs.WithLabelValues(label(family)).Set(float64(n))
	}
}

// asExpected registers what tells whether the applied digest is the expected one. It
// is asked at every scrape, since the expectation changes without a pass.
func (m *metrics) asExpected(met func() bool) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "config_as_expected",
		Help: "1 when the applied digest is the one of --expected-digest-file, or none is expected.",
	}, func() float64 {
		if met() {
			return 1
		}
		return 0
	}))
}

// published tells what a pass has left in force.
func (m *metrics) published(s *status) {
	for _, f := range s.families {
		m.rules.WithLabelValues(label(f.version)).Set(float64(f.rules))
		m.setEntries.WithLabelValues(label(f.version)).Set(float64(f.setEntries))
	}
	if s.applied != nil {
		m.applied.Reset()
		m.applied.WithLabelValues(s.applied.digest).Set(1)
	}
}

func (m *metrics) verified(family ruleset.Family, err error) {
	value := 1.0
	if err != nil {
		value = 0
	}
	m.held.WithLabelValues(label(family)).Set(value)
}

func (m *metrics) drifted(family ruleset.Family, drift []iptables.Drift) {
	for _, kind := range drift {
		m.drift.WithLabelValues(label(family), string(kind)).Inc()
	}
}

// timed measures a part of a pass until the function that it returns is called.
func (m *metrics) timed(phase string) (done func()) {
	return m.stopwatch(phase, "")
}

// timedOf is timed for a part that each family has.
func (m *metrics) timedOf(phase string, family ruleset.Family) (done func()) {
	return m.stopwatch(phase, label(family))
}

func (m *metrics) stopwatch(phase, family string) (done func()) {
	began := time.Now()
	return func() { m.phaseSeconds.WithLabelValues(phase, family).Observe(time.Since(began).Seconds()) }
}

// trace returns a context for what is done in the kernel for a family.
func (m *metrics) trace(ctx context.Context, family ruleset.Family) context.Context {
	return ruleset.WithTrace(ctx, ruleset.Trace{
		Took: func(phase ruleset.Phase, took time.Duration) {
			m.phaseSeconds.WithLabelValues(string(phase), label(family)).Observe(took.Seconds())
		},
		LockWait: func(waited time.Duration) { m.lockWait.Add(waited.Seconds()) },
	})
}

func (m *metrics) forgot(family ruleset.Family, flows int) {
	m.forgotten.WithLabelValues(label(family)).Add(float64(flows))
}

func (m *metrics) passed(err error, took time.Duration) {
	if err != nil {
		m.passSeconds.WithLabelValues("failure").Observe(took.Seconds())
		return
	}
	m.passSeconds.WithLabelValues("success").Observe(took.Seconds())
	m.lastVerified.SetToCurrentTime()
}
