//go:build !windows

package main

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	others "github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/nftables"
)

const (
	// Rules of others come and go with pods and programs, not with our passes. A
	// survey takes up to a second of a processor on a busy node, so it is repeated rarely. A
	// change of our own list asks for one when it has been quiet for a while.
	surveyInterval = 5 * time.Minute
	surveyQuiet    = time.Second
	surveyPause    = 10 * time.Second
)

// masqueraders looks for programs that masquerade beside us. It has a goroutine of its
// own: whatever it finds, and however long it takes, the rules are held meanwhile.
type masqueraders struct {
	survey  func(ctx context.Context, ours []others.Ours) others.Report
	log     *slog.Logger
	metrics *metrics

	wanted chan []others.Ours // the latest place and meaning of our rules; holds one
	latest atomic.Pointer[surveyed]
}

// surveyed is the outcome of one survey.
type surveyed struct {
	at     time.Time
	report others.Report
}

func newMasqueraders(m *metrics, log *slog.Logger) *masqueraders {
	return &masqueraders{survey: iptables.Survey, log: log, metrics: m, wanted: make(chan []others.Ours, 1)}
}

// places tells where rules of ours stand, a family each.
func (s *syncer) places() []others.Ours {
	places := make([]others.Ours, len(s.families))
	for i, f := range s.families {
		places[i] = others.Ours{
			Decision: f.want.Decision, Backend: s.about.backend, Chain: f.want.Chain, Priority: others.NATPriority,
		}
		if s.about.backend == others.Native {
			places[i].Table, places[i].Chain, places[i].Priority = nftables.Place(f.version, f.want.Chain)
		}
	}
	return places
}

// look asks for a survey. Only the goroutine of the syncer calls it.
func (m *masqueraders) look(places []others.Ours) {
	select {
	case <-m.wanted: // it is out of date
	default:
	}
	m.wanted <- places
}

// run surveys when it is asked to, and again from time to time, until ctx ends.
func (m *masqueraders) run(ctx context.Context) {
	var places []others.Ours
	next := time.NewTimer(surveyInterval)
	defer next.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case places = <-m.wanted:
			next.Reset(max(surveyQuiet, surveyPause-time.Since(last)))
		case <-next.C:
			if places != nil {
				m.tell(ctx, m.survey(ctx, places))
				last = time.Now()
			}
			next.Reset(surveyInterval)
		}
	}
}

// tell publishes a survey, and logs what it has found that the one before had not.
func (m *masqueraders) tell(ctx context.Context, report others.Report) {
	if ctx.Err() != nil {
		return // it was broken off
	}
	var before others.Report
	if last := m.latest.Load(); last != nil {
		before = last.report
	}
	m.latest.Store(&surveyed{time.Now(), report})
	m.metrics.masqueraders(report)

	told := 0
	for _, f := range report.Findings {
		if slices.ContainsFunc(before.Findings, func(b others.Finding) bool { return same(b, f) }) {
			continue
		}
		if told++; told > maxTold {
			m.log.WarnContext(ctx, "more such rules; /status lists them")
			break
		}
		m.log.LogAttrs(ctx, severity(f.Verdict), "a rule of another program meets packets of ours",
			slog.String("verdict", string(f.Verdict)), slog.String("owner", f.Owner), slog.String("family", f.Family),
			slog.String("backend", f.Backend), slog.String("table", f.Table), slog.String("chain", f.Chain),
			slog.String("rule", f.Rule), slog.String("position", string(f.Position)), slog.String("why", f.Why),
			slog.Any("ranges", f.Ranges), slog.String("remedy", f.Remedy))
	}
	gone := 0
	for _, b := range before.Findings {
		if !slices.ContainsFunc(report.Findings, func(f others.Finding) bool { return same(b, f) }) {
			gone++
		}
	}
	if gone > 0 {
		m.log.InfoContext(ctx, "rules of other programs are gone, or do something else now", "count", gone)
	}
	if !slices.Equal(report.Partial, before.Partial) {
		m.log.InfoContext(ctx, "the survey of other programs' rules does not see everything", "partial", report.Partial)
	}
}

// same tells that two findings are about the same rule, and say the same of it.
func same(a, b others.Finding) bool {
	return a.Family == b.Family && a.Backend == b.Backend && a.Table == b.Table && a.Chain == b.Chain && a.Rule == b.Rule &&
		a.Verdict == b.Verdict && a.Position == b.Position && slices.Equal(a.Ranges, b.Ranges) && slices.Equal(a.Sources, b.Sources)
}

// severity is the level at which a new finding is logged.
func severity(v others.Verdict) slog.Level {
	switch v {
	case others.Undoes:
		return slog.LevelWarn
	case others.Unknown, others.ShadowsUs, others.Duplicate:
		return slog.LevelInfo
	case others.Harmless:
	}
	return slog.LevelDebug
}

// reportOthers is what /status tells of the last survey.
type reportOthers struct {
	SurveyedAt *time.Time       `json:"surveyedAt"`
	Findings   []others.Finding `json:"findings"`
	Left       int              `json:"left"`
	Partial    []string         `json:"partial"`
}

func (s *surveyed) status() reportOthers {
	r := reportOthers{Findings: []others.Finding{}, Partial: []string{}}
	if s == nil {
		return r
	}
	r.SurveyedAt = moment(s.at)
	r.Findings = append(r.Findings, s.report.Findings...)
	r.Left = s.report.Left
	r.Partial = append(r.Partial, s.report.Partial...)
	return r
}

// masqueraders counts what the last survey has found.
func (m *metrics) masqueraders(report others.Report) {
	m.foreign.Reset()
	for kind, n := range report.Counts {
		m.foreign.WithLabelValues(kind.Family, kind.Owner, string(kind.Verdict)).Set(float64(n))
	}
	// An alert needs a series to compare with.
	for _, family := range m.families {
		for _, v := range others.Verdicts() {
			_ = m.foreign.WithLabelValues(label(family), "unknown", string(v))
		}
	}
}
