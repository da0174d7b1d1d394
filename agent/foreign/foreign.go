// Package foreign finds the masquerade rules of other programs that packets meet
// beside ours: docker's, flannel's, kube-proxy's, a network plugin's. It reads what
// iptables-save and nft print, follows packets through it, and tells of every rule
// that rewrites sources whether it undoes what our list spares. It is pure: text in,
// findings out.
package foreign

import (
	"cmp"
	"slices"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// Verdict is what a foreign rule does to packets of ours.
type Verdict string

// The verdicts, the worst first.
const (
	Undoes    Verdict = "undoes"     // rewrites the source of packets that our list spares
	Unknown   Verdict = "unknown"    // may do so: on a condition that cannot be judged from here
	ShadowsUs Verdict = "shadows-us" // decides before our chain, and otherwise than it would
	Duplicate Verdict = "duplicate"  // masquerades what our chain masquerades anyway
	Harmless  Verdict = "harmless"   // no packet of ours comes to it, or only those that its owner marks
)

// Verdicts are all of them, the worst first.
func Verdicts() []Verdict { return []Verdict{Undoes, Unknown, ShadowsUs, Duplicate, Harmless} }

// Position is where packets meet a foreign rule.
type Position string

// The positions.
const (
	Before Position = "before" // before our chain
	After  Position = "after"  // after it, so only packets that it spares
	Either Position = "either" // in another table of the same priority: the kernel asks the one registered last first
)

// Finding is one foreign rule.
type Finding struct {
	Owner    string   `json:"owner"`    // the program that makes such rules, "unknown" without a guess; see Owners
	Family   string   `json:"family"`   // ipv4 or ipv6
	Backend  string   `json:"backend"`  // nft or legacy for rules of iptables, nftables for native ones
	Table    string   `json:"table"`    // "nat"; with the family for a native one: "inet flannel-ipv4"
	Chain    string   `json:"chain"`    // where the rule stands
	Rule     string   `json:"rule"`     // its text, as iptables-save prints it or in the words of nft
	Position Position `json:"position"` // before, after or either
	Verdict  Verdict  `json:"verdict"`  // undoes, shadows-us, unknown, duplicate or harmless
	Why      string   `json:"why"`      // one line

	// Sources are those of the packets in question; empty: any. Ranges are their
	// destinations: for undoes and unknown those that our list spares, for shadows-us and
	// duplicate those that it does not. Each is a prefix, or "10.0.0.0-10.244.0.255" where
	// that takes several; at most 16, in order, and More counts the rest.
	Sources []string `json:"sources"`
	Ranges  []string `json:"ranges"`
	More    int      `json:"more"`

	Remedy string `json:"remedy"` // what to do, one line; empty where nothing is to be done
}

// Kind is what findings are counted by.
type Kind struct {
	Family  string
	Owner   string
	Verdict Verdict
}

// Report is the outcome of one survey.
type Report struct {
	Findings []Finding    // the worst first, then in the order in which packets meet them; at most 64
	Left     int          // findings that are not in the list
	Counts   map[Kind]int // of all findings
	Partial  []string     // why there may be more, a line each; empty when everything was read
}

// Bounds. A node with 110 pods of a plugin that makes a chain a pod has twice as many
// findings.
const (
	maxFindings = 64
	maxRanges   = 16
)

// Ours is the place of our rules, and what they mean.
type Ours struct {
	Decision ruleset.Decision
	Backend  string // nft, legacy, or nftables for a native table
	Table    string // of nftables: its name
	Chain    string // the one that POSTROUTING jumps to; of nftables: the base chain
	Priority int    // of the hook; 100 for iptables
}

// Judge follows packets through every hook of one family and returns a Finding for
// every rule of others that rewrites sources. The same input gives the same report.
func Judge(ours Ours, hooks []Hook) Report {
	w := newWalker(ours)
	for _, hook := range hooks {
		w.hook(hook)
	}
	slices.SortStableFunc(w.findings, func(a, b Finding) int {
		return cmp.Compare(slices.Index(Verdicts(), a.Verdict), slices.Index(Verdicts(), b.Verdict))
	})
	report := Report{Findings: w.findings, Counts: map[Kind]int{}, Partial: w.partial}
	for _, f := range w.findings {
		report.Counts[Kind{f.Family, f.Owner, f.Verdict}]++
	}
	report.bound()
	return report
}

// Merge adds another family's report.
func (r *Report) Merge(other Report) {
	r.Findings = append(r.Findings, other.Findings...)
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Compare(slices.Index(Verdicts(), a.Verdict), slices.Index(Verdicts(), b.Verdict))
	})
	r.Left += other.Left
	r.Partial = append(r.Partial, other.Partial...)
	if r.Counts == nil {
		r.Counts = map[Kind]int{}
	}
	for kind, n := range other.Counts {
		r.Counts[kind] += n
	}
	r.bound()
}

func (r *Report) bound() {
	if over := len(r.Findings) - maxFindings; over > 0 {
		r.Findings = slices.Clip(r.Findings[:maxFindings])
		r.Left += over
	}
}

// Hook is one base chain at postrouting that may translate sources, with the chains
// that are reachable from it, for one family.
type Hook struct {
	Backend  string // nft, legacy or nftables
	Family   ruleset.Family
	Table    string // as Finding
	Chain    string // the base chain
	Priority int

	chains map[string][]rule
}

// targetKind is what a rule does with the packets that match.
type targetKind int

const (
	goesOn     targetKind = iota // nothing that matters here: it counts, logs
	marks                        // changes the packet's mark
	jumps                        // to a chain, and comes back
	goes                         // to a chain, and comes back where this one's caller goes on
	returns                      // to the caller
	accepts                      // ends the hook, the source as it is
	drops                        // ends the packet
	masquerade                   // gives it the address of the interface
	translates                   // gives it another source address
)

// rule is one rule, with what matters here.
type rule struct {
	text     string
	comments []string
	match    match
	kind     targetKind
	chain    string // of jumps and goes
	ports    bool   // it chooses source ports
}

// NATPriority is NF_IP_PRI_NAT_SRC (linux/netfilter_ipv4.h), where iptables hooks its
// nat table at postrouting.
const NATPriority = 100

func familyName(f ruleset.Family) string {
	if f == ruleset.IPv6 {
		return "ipv6"
	}
	return "ipv4"
}
