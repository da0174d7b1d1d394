// Package policy judges a write of the ip-masq-agent ConfigMap: facts are computed
// in Go, rules in Rego decide on them, findings tell the author what to mend. The
// webhook and kubectl-masq share it, so both say the same in the same words. It
// does no I/O but for reading the rules it is given.
package policy

import (
	"net/netip"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	corev1 "k8s.io/api/core/v1"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// ConfigKey is the key of the ConfigMap that agents read; the upstream manifest
// projects it to the file ip-masq-agent.
const ConfigKey = "config"

// Operation is what the request does to the ConfigMap, as in an AdmissionReview.
type Operation string

// The operations that are judged.
const (
	Create Operation = "CREATE"
	Update Operation = "UPDATE"
	Delete Operation = "DELETE"
)

// Request is one write of the ConfigMap.
type Request struct {
	Operation    Operation
	Namespace    string
	Name         string
	User         string
	Groups       []string // of the user
	FieldManager string   // "kubectl-edit" and the like
	DryRun       bool
	Time         time.Time         // when the request was received
	Object       *corev1.ConfigMap // nil for Delete
	Old          *corev1.ConfigMap // nil for Create
}

// Range is a cluster range and who says so: "Node worker-1", "params", "ServiceCIDR kubernetes".
type Range struct {
	Prefix netip.Prefix
	Source string
}

// Action is what a rule does with what it finds.
type Action string

// The actions.
const (
	Deny Action = "deny"
	Warn Action = "warn"
	Off  Action = "off"
)

// Finding is one thing a rule, or the parser, has to say of the write.
type Finding struct {
	Rule     string // "no-overlap", "config-loads", or of a custom rule "payments/no-public"
	Action   Action // Deny or Warn
	Key      string // of data or binaryData: "config"; empty for the object as a whole
	Binary   bool   // Key is one of binaryData
	Path     string // inside the value: "nonMasqueradeCIDRs[2]"; without Key a field of the object; may be empty
	Position config.Position
	Text     string // the offending text; may be empty
	Message  string // what is wrong and why, one line, without Hint
	Hint     string // what to do; may have several lines
	Docs     string // URL of the rule's page; may be empty
	Details  any    // of a custom rule, as encoding/json decodes; may be nil
	Failed   bool   // the rule itself failed (Message names file and line); the write is not to blame

	code    config.Code // of the Problem that it tells of; may be empty
	custom  bool        // the rule is not built in
	fixed   bool        // params do not change the action
	failing *failure    // of a rule that failed; else nil
}

// failure is what authors of a rule that failed look for.
type failure struct {
	at  *ast.Location // of the expression, or of the rule where nobody knows it
	why string
}

// Custom tells that the finding is of a rule which is not built in.
func (f Finding) Custom() bool { return f.custom }

// Decision is the verdict on a Request, with everything an author is told.
type Decision struct {
	ID       string    // unique; in logs, audit annotations
	Revision string    // digest over all rules and params
	Subject  string    // what was judged: "ConfigMap kube-system/ip-masq-agent"
	Allowed  bool      // no Finding has the action Deny
	Findings []Finding // by line, then path, then rule; of several files by key before that; every one, without a limit
	Effect   Effect
	Problems []config.Problem // of the new text

	// NodeEffects is the effect on nodes that overrides are for, the new text's
	// first, where it is another one than Effect.
	NodeEffects []NodeEffect
}

// NodeEffect is the Effect on some nodes.
type NodeEffect struct {
	Selector string // the labels of these nodes: "pool=edge,zone=a"
	Effect
}

// Bypassed is d with its denials as warnings, for one who may bypass the rules and says
// why. What no agent loads stays denied, and so does what could not be judged.
func (d Decision) Bypassed(reason string) Decision {
	d.Findings = slices.Clone(d.Findings)
	d.Allowed = true
	for i := range d.Findings {
		f := &d.Findings[i]
		switch {
		case f.Action != Deny:
		case f.Rule == ruleLoads || f.Rule == ruleEngine:
			d.Allowed = false
		default:
			f.Action = Warn
			f.Message = "bypassed (" + cut(oneLine(reason), maxWarningRunes/4) + "): " + f.Message
		}
	}
	return d
}

// Effect is what changes for traffic once agents have the new configuration,
// as the fewest prefixes that cover it, IPv4 first. Without a configuration,
// before Create and after Delete, agents have their defaults.
type Effect struct {
	Known               bool // false when the old or the new text does not load
	NowMasqueraded      []netip.Prefix
	NoLongerMasqueraded []netip.Prefix
	NowOmitted          int // how many prefixes NowMasqueraded lacks; it is bounded
	NoLongerOmitted     int // the same of NoLongerMasqueraded
}

func (e Effect) equal(other Effect) bool {
	return e.Known == other.Known && slices.Equal(e.NowMasqueraded, other.NowMasqueraded) &&
		slices.Equal(e.NoLongerMasqueraded, other.NoLongerMasqueraded) &&
		e.NowOmitted == other.NowOmitted && e.NoLongerOmitted == other.NoLongerOmitted
}

// Source is one file of custom rules: *.rego; *_test.rego, which decide nothing;
// data.json, whose keys rules read as data.<key>; params.yaml, Params with rules,
// exceptions and custom alone.
type Source struct {
	Name string // for messages: a path
	Text []byte
}
