//go:build !windows

package main

import (
	_ "embed"
	"encoding/json"
	"runtime"
	"slices"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	others "github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// reportSchema is the JSON Schema of report.
//
//go:embed status.schema.json
var reportSchema string

// reportVersion is told in every report. It grows when a field goes away or changes its
// meaning; a new field leaves it.
const reportVersion = 1

// state sums a report up.
type state string

const (
	allInForce state = "in-force"     // the kernel holds what the file says
	degraded   state = "degraded"     // the kernel holds a configuration, but not the file's, or others undo it
	notInForce state = "not-in-force" // the kernel is not known to hold the configuration, or not the one that is expected
)

// report is what /status answers; status.schema.json describes each field.
type report struct {
	Version  int             `json:"version"`
	State    state           `json:"state"`
	Time     time.Time       `json:"time"`
	Node     string          `json:"node"`
	Config   reportConfig    `json:"config"`
	Applied  *reportApplied  `json:"applied"`
	Expected *reportExpected `json:"expected"`
	File     reportFile      `json:"file"`
	Backend  reportBackend   `json:"backend"`
	Families []reportFamily  `json:"families"`
	Others   reportOthers    `json:"masqueraders"`
	Passes   reportPasses    `json:"passes"`
	Versions reportVersions  `json:"versions"`
	Checks   []reportCheck   `json:"checks"`
}

type reportConfig struct {
	Digest   string     `json:"digest"`
	Source   string     `json:"source"`
	Override string     `json:"override"`
	Since    *time.Time `json:"since"`
}

type reportApplied struct {
	Digest string    `json:"digest"`
	Since  time.Time `json:"since"`
}

type reportExpected struct {
	Digest string     `json:"digest"`
	Since  *time.Time `json:"since"`
}

type reportFile struct {
	Path       string          `json:"path"`
	State      string          `json:"state"`
	Since      *time.Time      `json:"since"`
	Fatal      int             `json:"fatal"`
	Suspicious int             `json:"suspicious"`
	Problems   []reportProblem `json:"problems"`
}

type reportProblem struct {
	Severity string `json:"severity"`
	Code     string `json:"code"`
	File     string `json:"file"`
	Path     string `json:"path"`
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Message  string `json:"message"`
	Remedy   string `json:"remedy"`
}

type reportBackend struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

type reportFamily struct {
	Family     string                `json:"family"`
	Verified   bool                  `json:"verified"`
	VerifiedAt *time.Time            `json:"verifiedAt"`
	Error      string                `json:"error"`
	Rules      int                   `json:"rules"`
	SetEntries int                   `json:"setEntries"`
	Drift      map[ruleset.Drift]int `json:"drift"`
}

type reportPasses struct {
	Last     *time.Time `json:"last"`
	Next     time.Time  `json:"next"`
	Interval float64    `json:"intervalSeconds"`
}

type reportVersions struct {
	Agent   string `json:"agent"`
	Go      string `json:"go"`
	Backend string `json:"backend"`
	Kernel  string `json:"kernel"`
}

type reportCheck struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Message string `json:"message"`
}

// newReport tells what v shows. It shares nothing with it that may change.
func newReport(v view) report {
	s := v.status
	r := report{
		Version: reportVersion, State: allInForce, Time: v.now.UTC(), Node: v.about.node,
		Config:   reportConfig{Digest: s.inForce.digest, Source: string(s.inForce.origin), Override: s.inForce.override, Since: moment(s.inForceSince)},
		File:     s.file.report(),
		Backend:  reportBackend{Name: v.about.backend, Reason: v.about.backendReason},
		Families: []reportFamily{},
		Passes:   reportPasses{Last: moment(s.passed), Next: s.due.UTC(), Interval: s.interval.Seconds()},
		Versions: reportVersions{Agent: buildVersion(), Go: runtime.Version(), Backend: v.about.backendVersion, Kernel: v.about.kernelVersion},
	}
	r.Others = v.others.status()
	if s.applied != nil {
		r.Applied = &reportApplied{Digest: s.applied.digest, Since: s.applied.since.UTC()}
	}
	if v.expected.digest != "" || v.expected.err != nil {
		r.Expected = &reportExpected{Digest: v.expected.digest, Since: moment(v.expected.since)}
	}
	for _, f := range s.families {
		r.Families = append(r.Families, reportFamily{
			Family: label(f.version), Verified: f.failure == "" && !f.verifiedAt.IsZero(), VerifiedAt: moment(f.verifiedAt),
			Error: f.failure, Rules: f.rules, SetEntries: f.setEntries, Drift: f.drift,
		})
	}
	for _, check := range checks() {
		outcome := reportCheck{Name: check.name, OK: true}
		if err := check.failed(v); err != nil {
			outcome.OK, outcome.Message = false, err.Error()
			if r.State != notInForce {
				r.State = check.worst
			}
		}
		r.Checks = append(r.Checks, outcome)
	}
	undoes := func(f others.Finding) bool { return f.Verdict == others.Undoes }
	if r.State == allInForce && slices.ContainsFunc(r.Others.Findings, undoes) {
		r.State = degraded
	}
	return r
}

func (f fileStatus) report() reportFile {
	r := reportFile{
		Path: f.path, State: string(f.state), Since: moment(f.since),
		Fatal: f.counts[config.Fatal], Suspicious: f.counts[config.Suspicious],
		Problems: []reportProblem{},
	}
	for _, p := range f.problems {
		r.Problems = append(r.Problems, reportProblem{
			Severity: p.Severity.String(), Code: string(p.Code), File: p.File, Path: p.Path, Line: p.Line, Column: p.Column,
			Message: p.Message, Remedy: p.Remedy,
		})
	}
	return r
}

// moment is nil for the zero time, which JSON would tell as the year 1.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// text is the report as /status sends it.
func (r report) text() ([]byte, error) {
	text, err := json.MarshalIndent(r, "", "  ")
	return append(text, '\n'), err
}
