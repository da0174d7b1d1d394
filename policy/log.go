package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LogEntry is one decision as a line of a decision log, in the shape of OPA's
// (openpolicyagent.org/docs/management-decision-logs), beside which it has a digest of
// the input. Fields may be added, but not changed.
type LogEntry struct {
	DecisionID  string            `json:"decision_id"`
	Labels      map[string]string `json:"labels"`
	Revision    string            `json:"revision"` // of rules and params
	Path        string            `json:"path"`     // what was asked, in OPA's words: the package of all rules
	RequestedBy string            `json:"requested_by"`
	Timestamp   time.Time         `json:"timestamp"`
	InputDigest string            `json:"input_digest"` // SHA-256 of the whole input, as it stands here when nothing is erased
	Input       *LogInput         `json:"input,omitempty"`
	Erased      []string          `json:"erased,omitempty"` // JSON pointers of what is left out
	Result      LogResult         `json:"result"`
	Metrics     map[string]int64  `json:"metrics"` // nanoseconds
}

// LogInput is what a decision went by: with it the decision can be made again.
type LogInput struct {
	Operation    Operation  `json:"operation"`
	Namespace    string     `json:"namespace"`
	Name         string     `json:"name"`
	FieldManager string     `json:"fieldManager"`
	DryRun       bool       `json:"dryRun"`
	Time         time.Time  `json:"time"`
	User         string     `json:"user"`
	Groups       []string   `json:"groups,omitempty"`
	Object       *logObject `json:"object"`
	Old          *logObject `json:"old"`
	Cluster      logCluster `json:"cluster"`
}

type logObject struct {
	Annotations map[string]string `json:"annotations,omitempty"`
	Data        map[string]string `json:"data,omitempty"`
	BinaryData  map[string][]byte `json:"binaryData,omitempty"`
}

// logCluster are the ranges of a cluster; null is unknown.
type logCluster struct {
	Node    rangesInput `json:"node_cidrs"`
	Pod     rangesInput `json:"pod_cidrs"`
	Service rangesInput `json:"service_cidrs"`
}

// LogResult is what the rules said, before a bypass.
type LogResult struct {
	Allowed  bool         `json:"allowed"`
	Bypassed bool         `json:"bypassed,omitempty"` // it was let through all the same
	Bypass   *LogBypass   `json:"bypass,omitempty"`   // nil: its author did not ask for one
	Findings []LogFinding `json:"findings"`
}

// LogBypass is what became of a request to bypass the rules. A masked entry has it too:
// the reason is written to be read by others.
type LogBypass struct {
	Reason  string `json:"reason"`
	Refused string `json:"refused,omitempty"` // why; empty: it was granted
}

// LogFinding is one of the findings.
type LogFinding struct {
	Rule    string `json:"rule"`
	Action  Action `json:"action"`
	Path    string `json:"path,omitempty"`
	Line    int    `json:"line,omitempty"`
	Message string `json:"message,omitempty"`
	Failed  bool   `json:"failed,omitempty"`
}

// NewLogEntry tells all of a decision, texts of the configuration too.
func NewLogEntry(req Request, cluster *Cluster, decision Decision) (LogEntry, error) {
	input := &LogInput{
		Operation: req.Operation, Namespace: req.Namespace, Name: req.Name, FieldManager: req.FieldManager, DryRun: req.DryRun,
		Time: req.Time.UTC(), User: req.User, Groups: req.Groups, Object: logObjectOf(req.Object), Old: logObjectOf(req.Old),
	}
	if cluster != nil {
		input.Cluster = logCluster{cluster.node.ranges, cluster.pod.ranges, cluster.service.ranges}
	}
	text, err := json.Marshal(input)
	if err != nil {
		return LogEntry{}, fmt.Errorf("encoding the input: %w", err)
	}
	digest := sha256.Sum256(text)
	return LogEntry{
		DecisionID: decision.ID, Revision: decision.Revision, Path: root, RequestedBy: req.User, Timestamp: req.Time.UTC(),
		InputDigest: hex.EncodeToString(digest[:]), Input: input, Labels: map[string]string{}, Metrics: map[string]int64{},
		Result: LogResult{Allowed: decision.Allowed, Findings: logFindings(decision.Findings)},
	}, nil
}

func logObjectOf(object *corev1.ConfigMap) *logObject {
	if object == nil {
		return nil
	}
	return &logObject{object.Annotations, object.Data, object.BinaryData}
}

func logFindings(findings []Finding) []LogFinding {
	logged := []LogFinding{}
	for _, f := range findings {
		logged = append(logged, LogFinding{f.Rule, f.Action, f.Path, f.Position.Line, f.Message, f.Failed})
	}
	return logged
}

// Masked is e without any text of a configuration: paths may hold keys that somebody
// mistyped, and messages quote.
func (e LogEntry) Masked() LogEntry {
	e.Input = nil
	e.Erased = []string{"/input"}
	findings := []LogFinding{}
	for i, f := range e.Result.Findings {
		if f.Path != "" {
			e.Erased = append(e.Erased, fmt.Sprintf("/result/findings/%d/path", i))
		}
		if f.Message != "" {
			e.Erased = append(e.Erased, fmt.Sprintf("/result/findings/%d/message", i))
		}
		f.Path, f.Message = "", ""
		findings = append(findings, f)
	}
	e.Result.Findings = findings
	return e
}

// Request is what was decided on, and in which cluster; false for a masked entry.
func (e LogEntry) Request() (Request, *Cluster, bool) {
	if e.Input == nil {
		return Request{}, nil, false
	}
	in := e.Input
	object := func(o *logObject) *corev1.ConfigMap {
		if o == nil {
			return nil
		}
		return &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: in.Namespace, Name: in.Name, Annotations: o.Annotations}, Data: o.Data, BinaryData: o.BinaryData,
		}
	}
	return Request{
		Operation: in.Operation, Namespace: in.Namespace, Name: in.Name, User: in.User, Groups: in.Groups, FieldManager: in.FieldManager,
		DryRun: in.DryRun, Time: in.Time, Object: object(in.Object), Old: object(in.Old),
	}, NewCluster(in.Cluster.Node, in.Cluster.Pod, in.Cluster.Service), true
}

// Differs tells which findings a decision on the same request has that the logged one
// has not, and the other way round.
func (e LogEntry) Differs(decision Decision) (added, gone []LogFinding) {
	type key struct {
		rule   string
		action Action
		path   string
	}
	counts := map[key]int{}
	now := logFindings(decision.Findings)
	for _, f := range now {
		counts[key{f.Rule, f.Action, f.Path}]++
	}
	for _, f := range e.Result.Findings {
		if k := (key{f.Rule, f.Action, f.Path}); counts[k] > 0 {
			counts[k]--
		} else {
			gone = append(gone, f)
		}
	}
	for _, f := range now {
		if k := (key{f.Rule, f.Action, f.Path}); counts[k] > 0 {
			counts[k]--
			added = append(added, f)
		}
	}
	return added, gone
}

// UnmarshalJSON is the other way of MarshalJSON.
func (l *rangesInput) UnmarshalJSON(text []byte) error {
	var list []rangeInput
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	if list == nil {
		*l = nil
		return nil
	}
	*l = rangesInput{}
	for _, one := range list {
		prefix, err := netip.ParsePrefix(one.CIDR)
		if err != nil {
			return fmt.Errorf("reading a range: %w", err)
		}
		*l = append(*l, Range{prefix, one.Source})
	}
	return nil
}
