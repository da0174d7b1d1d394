package policy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Complaint is one thing that the author of a set of rules should know.
//
//nolint:errname // it is no error of a call, though it can be told as one
type Complaint struct {
	RuleError

	Action Action // Deny: the set must not come into force so
	Text   string // the line it is about, as it stands there; may be empty
	Hint   string // what to do; may be empty
}

// String is one line, "FILE:LINE:COLUMN: MESSAGE: TEXT; HINT".
func (c Complaint) String() string {
	s := c.Error()
	if text := strings.TrimSpace(c.Text); text != "" {
		s += fmt.Sprintf(": %q", cut(text, maxDetailRunes))
	}
	if c.Hint != "" {
		s += "; " + strings.ReplaceAll(c.Hint, "\n", " ")
	}
	return oneLine(s)
}

// Vetting is what a set of rules is judged against before it comes into force.
type Vetting struct {
	Params  Params
	Beside  []Source // the other custom rules in force
	Before  []Source // the set as it was; nil: it is new
	InForce *Engine  // what decides now; nil: nothing yet
	Live    *Request // the configuration that is stored, as an unchanged write; nil: there is none
	Cluster *Cluster
}

// Bounds of a vetting. An API server waits 10 s.
const (
	vetTestTimeout = time.Second
	vetTimeout     = 6 * time.Second
	maxComplaints  = 100
	triedFor       = time.Second // samples are tried once rules have failed
)

// Vet compiles a set of rules with those beside it, holds it to the conventions, runs its
// tests, and tries it on samples and on what is stored. The complaints are sorted by
// file and line; a set may come into force if none has the action Deny, and then engine
// is what would decide.
func (v Vetting) Vet(ctx context.Context, set []Source) (engine *Engine, complaints []Complaint) {
	ctx, cancel := context.WithTimeoutCause(ctx, vetTimeout, fmt.Errorf("not done after %s", vetTimeout))
	defer cancel()
	engine, complaints = v.VetUntested(ctx, set)
	if engine == nil {
		return nil, complaints
	}
	return engine, located(append(complaints, v.test(ctx, set)...), set)
}

// VetUntested is Vet without the tests of the set and without a limit of time.
func (v Vetting) VetUntested(ctx context.Context, set []Source) (engine *Engine, complaints []Complaint) {
	if err := errBehind(); err != nil {
		return nil, complain(err, "docs/operations.md, Custom rules, tells more")
	}
	taken := taken(set, v.Beside)
	engine, err := New(ctx, v.Params, slices.Concat(v.Beside, set))
	if err != nil {
		return nil, located(append(complain(err, ""), taken...), set)
	}
	modules := map[string]*ast.Module{}
	for _, source := range set {
		if isRules(source.Name) {
			if modules[source.Name], err = parseModule(source.Name, source.Text); err != nil {
				return nil, located(complain(err, ""), set)
			}
		}
	}
	complaints = slices.Concat(taken, conventions(modules, titledIn(v.Before)))
	complaints = append(complaints, twice(modules)...)
	failing := tried(ctx, engine, modules)
	complaints = append(complaints, failing...)
	complaints = append(complaints, v.replayed(ctx, engine, failing)...)
	return engine, located(complaints, set)
}

// Denied tells whether any of the complaints keeps a set from coming into force.
func Denied(complaints []Complaint) bool {
	return slices.ContainsFunc(complaints, func(c Complaint) bool { return c.Action == Deny })
}

// Offered are the packages of a set with their titles, for people: "payments (Nothing
// public)". Files that do not parse offer nothing.
func Offered(set []Source) []string {
	titles := map[string]string{}
	for _, source := range set {
		module := rulesIn(source)
		if module == nil {
			continue
		}
		sets, err := setsOf(module, "deny", "violation", "warn")
		if err != nil || len(sets) == 0 {
			continue
		}
		name := idOf(module)
		titles[name] = cmp.Or(titles[name], title(module))
	}
	offered := make([]string, 0, len(titles))
	for _, name := range slices.Sorted(maps.Keys(titles)) {
		if own := titles[name]; own != "" {
			name += " (" + own + ")"
		}
		offered = append(offered, name)
	}
	return offered
}

// idOf is what findings call the package of a custom module.
func idOf(module *ast.Module) string {
	return strings.ReplaceAll(strings.TrimPrefix(packageOf(module), root+"."), ".", "/")
}

// complain makes complaints of an error that joins others.
func complain(err error, hint string) []Complaint {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		var all []Complaint
		for _, one := range several.Unwrap() {
			all = append(all, complain(one, hint)...)
		}
		return all
	}
	if rule, ok := err.(*RuleError); ok { //nolint:errorlint // as above
		return []Complaint{{RuleError: *rule, Action: Deny, Hint: hint}}
	}
	if inner := errors.Unwrap(err); inner != nil {
		return complain(inner, hint)
	}
	return []Complaint{{RuleError: RuleError{Message: err.Error()}, Action: Deny, Hint: hint}}
}

// located sorts complaints and adds the lines that they are about.
func located(complaints []Complaint, set []Source) []Complaint {
	lines := map[string][][]byte{}
	for _, source := range set {
		lines[source.Name] = bytes.Split(source.Text, []byte("\n"))
	}
	for i := range complaints {
		c := &complaints[i]
		if own := lines[c.File]; c.Text == "" && c.Line >= 1 && c.Line <= len(own) {
			c.Text = cut(strings.TrimRight(string(own[c.Line-1]), "\r"), maxDetailRunes)
		}
	}
	slices.SortStableFunc(complaints, func(a, b Complaint) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if len(complaints) > maxComplaints {
		more := len(complaints) - maxComplaints
		complaints = append(complaints[:maxComplaints], Complaint{Action: Deny, RuleError: RuleError{Message: fmt.Sprintf("and %d more", more)}})
	}
	return complaints
}

// ruleID is how ids of rules look: they stand in findings, metrics and params.
var ruleID = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// titledIn are the packages whose METADATA has a title. Files that do not parse have none.
func titledIn(set []Source) map[string]bool {
	titled := map[string]bool{}
	for _, source := range set {
		if module := rulesIn(source); module != nil && title(module) != "" {
			titled[packageOf(module)] = true
		}
	}
	return titled
}

// title is that of a module's package, or empty.
func title(module *ast.Module) string {
	for _, a := range module.Annotations {
		if a.Scope == "package" && a.Title != "" {
			return a.Title
		}
	}
	return ""
}

// conventions are those of METADATA and names, which nobody needs for a decision but
// everybody who reads one. METADATA that was there before is missed with a warning:
// kubectl edit drops comment lines when it reopens after an error, and its user would
// not get out of that.
func conventions(modules map[string]*ast.Module, before map[string]bool) []Complaint {
	var complaints []Complaint
	titled := map[string]bool{}
	for _, module := range modules {
		titled[packageOf(module)] = titled[packageOf(module)] || title(module) != ""
	}
	for _, module := range modules {
		name := packageOf(module)
		if !titled[name] {
			titled[name] = true // once a package
			complaint := Complaint{
				Action:    Deny,
				RuleError: *ruleErrorf(module.Package.Location, "package %s has no METADATA with a title, which tells those who are denied what it is about", name),
				Hint:      "write above package: # METADATA, # title: What the rule wants",
			}
			if before[name] {
				complaint.Action = Warn
				complaint.Hint = "it was there before: kubectl edit drops comment lines when it reopens; put them back with kubectl apply"
			}
			complaints = append(complaints, complaint)
		}
		ast.WalkTerms(module, func(term *ast.Term) bool {
			if id := idIn(term); id != "" && !ruleID.MatchString(id) {
				complaints = append(complaints, Complaint{
					Action:    Deny,
					RuleError: *ruleErrorf(term.Location, "the rule id %q is not made of small letters, digits and hyphens", id),
					Hint:      "write it as no-public-ranges is written; params name rules by it",
				})
			}
			return false
		})
	}
	return complaints
}

// taken tells which packages of a set are those of other rules, or one inside the
// other: whose rules add up there could be changed by either author, and ids of rules
// would not tell whose they are. Files that do not parse have no package.
func taken(set, beside []Source) []Complaint {
	type claim struct {
		name string // of the package
		file string
	}
	var others []claim
	for _, source := range beside {
		if module := rulesIn(source); module != nil {
			others = append(others, claim{packageOf(module), source.Name})
		}
	}
	var complaints []Complaint
	for _, source := range set {
		module := rulesIn(source)
		if module == nil {
			continue
		}
		name := packageOf(module)
		for _, other := range others {
			if !strings.HasPrefix(name+".", other.name+".") && !strings.HasPrefix(other.name+".", name+".") {
				continue
			}
			message := fmt.Sprintf("package %s is that of %s already", name, other.file)
			if name != other.name {
				message = fmt.Sprintf("package %s and %s of %s are one inside the other", name, other.name, other.file)
			}
			complaints = append(complaints, Complaint{
				Action: Deny, RuleError: *ruleErrorf(module.Package.Location, "%s", message),
				Hint: "choose a package of your own: what both define would be one rule, that either could change",
			})
			break
		}
	}
	return complaints
}

// rulesIn is the module of a file that decides, nil where it is none or does not parse.
func rulesIn(source Source) *ast.Module {
	if !isRules(source.Name) {
		return nil
	}
	module, err := parseModule(source.Name, source.Text)
	if err != nil {
		return nil // who compiles it tells why
	}
	return module
}

// twice tells of ids that a package has in several files: params mean all of them. Inside
// one file an id may well be that of several bodies of one rule.
func twice(modules map[string]*ast.Module) []Complaint {
	var complaints []Complaint
	first := map[[2]string]*ast.Location{}
	for _, file := range slices.Sorted(maps.Keys(modules)) {
		name := packageOf(modules[file])
		ast.WalkTerms(modules[file], func(term *ast.Term) bool {
			id := idIn(term)
			if id == "" {
				return false
			}
			before := first[[2]string{name, id}]
			if before != nil && before.File == term.Location.File {
				return false
			}
			if before != nil {
				complaints = append(complaints, Complaint{
					Action:    Warn,
					RuleError: *ruleErrorf(term.Location, "the rule id %q is that of %s as well", id, placeOf(before)),
					Hint:      "an action or exception in params would mean both; give each its own, unless they are one rule",
				})
				return false
			}
			first[[2]string{name, id}] = term.Location
			return false
		})
	}
	return complaints
}

// idIn is the rule id of a violation that a term is, or empty.
func idIn(term *ast.Term) string {
	object, ok := term.Value.(ast.Object)
	if !ok || lookup(object, "msg") == nil {
		return ""
	}
	id, _ := lookup(object, "rule").(ast.String)
	return string(id)
}

// test runs the set's own tests, beside the other rules.
func (v Vetting) test(ctx context.Context, set []Source) []Complaint {
	beside := slices.DeleteFunc(slices.Clone(v.Beside), func(s Source) bool { return isTest(s.Name) })
	results, _, err := RunTests(ctx, slices.Concat(beside, set), TestOptions{Timeout: vetTestTimeout})
	if err != nil {
		return complain(err, "the tests of the set must run")
	}
	var complaints []Complaint
	for _, r := range results {
		if r.Outcome != TestFailed && r.Outcome != TestErrored {
			continue
		}
		message := fmt.Sprintf("the test %s %s", r.Name, map[Outcome]string{TestFailed: "fails", TestErrored: "ends in an error"}[r.Outcome])
		if r.Detail != "" {
			message += ": " + oneLine(lastOf(r.Detail, maxTextRunes/8)) // the error stands behind what was printed
		}
		complaints = append(complaints, Complaint{
			Action: Deny, RuleError: RuleError{File: r.File, Line: r.Line, Message: message},
			Hint: "mend the rule or the test; kubectl masq test runs it",
		})
	}
	if len(results) == 0 && v.Params.RuleSets.Untested != Off {
		complaints = append(complaints, Complaint{
			Action: cmp.Or(v.Params.RuleSets.Untested, Warn), RuleError: RuleError{Message: "the set has no tests"},
			Hint: "add a key NAME_test.rego; kubectl masq new rule writes one to begin with",
		})
	}
	return complaints
}

// lastOf is at most the last bytes of a text, from a whole character on.
func lastOf(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	from := len(s) - limit
	for from < len(s) && !utf8.RuneStart(s[from]) {
		from++
	}
	return ellipsis + s[from:]
}

// tried tells which rules of the set fail on samples: in force, they would fail on such
// writes. A mistake is told once, however many samples meet it.
func tried(ctx context.Context, engine *Engine, modules map[string]*ast.Module) []Complaint {
	own := map[string]bool{}
	for _, module := range modules {
		own[idOf(module)] = true
	}
	type mistake struct {
		place, why string
	}
	met := map[mistake][]string{} // samples
	failures := map[mistake]*failure{}
	began := time.Now()
	for _, sample := range Samples() {
		if len(met) > 0 && time.Since(began) > triedFor {
			break
		}
		for _, f := range engine.Decide(ctx, sample.Request, SampleCluster()).Findings {
			if !f.Failed || !own[f.Rule] {
				continue
			}
			key := mistake{placeOf(f.failing.at), f.failing.why}
			failures[key] = f.failing
			if !slices.Contains(met[key], sample.Name) {
				met[key] = append(met[key], sample.Name)
			}
		}
	}
	var complaints []Complaint
	for key, samples := range met {
		on := samples[0]
		if more := len(samples) - 1; more > 0 {
			on += fmt.Sprintf(" and %d more", more)
		}
		complaints = append(complaints, Complaint{
			Action: Deny, RuleError: *ruleErrorf(failures[key].at, "the rule fails on the sample %s: %s", on, oneLine(key.why)),
			Hint: "a rule has an answer for every write; test for what may be missing, and for its type",
		})
	}
	return complaints
}

// replayed tells what would deny the stored configuration that is approved now. Where rules
// are failing on samples, nothing more is told of rules that fail.
func (v Vetting) replayed(ctx context.Context, engine *Engine, failing []Complaint) []Complaint {
	if v.Live == nil {
		return nil
	}
	if v.InForce != nil && !v.InForce.Decide(ctx, *v.Live, v.Cluster).Allowed {
		return nil // it would be denied anyway
	}
	var complaints []Complaint
	for _, f := range engine.Decide(ctx, *v.Live, v.Cluster).Findings {
		if f.Action != Deny || f.Failed && len(failing) > 0 {
			continue
		}
		complaints = append(complaints, Complaint{
			Action:    cmp.Or(v.Params.RuleSets.LiveDenied, Warn),
			RuleError: RuleError{Message: "this would deny the configuration that is stored now: " + f.line(maxDetailRunes)},
			Hint:      "its next edit has to mend that as well",
		})
	}
	return complaints
}
