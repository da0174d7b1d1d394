package policy

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// compileLimit bounds New.
const compileLimit = 10 * time.Second

// limits bound a decision in time.
type limits struct {
	all   time.Duration // for all rules at once
	each  time.Duration // for one of them, when that failed
	total time.Duration // for all of them one by one
}

// defaultLimits stay well below the seconds that an API server waits for a webhook,
// so that an author reads which rule was late rather than that the webhook was.
func defaultLimits() limits {
	return limits{all: 500 * time.Millisecond, each: 100 * time.Millisecond, total: time.Second}
}

// Engine judges requests; it is safe for concurrent use. New makes one; the zero
// Engine denies everything.
type Engine struct {
	params   Params
	revision string
	entries  []entry
	all      query           // the sets of every entry, in their order
	look     lookSize        // of guards of entries
	input    ast.Value       // input.params
	reads    map[string]bool // parts of the input that custom rules read
	defaults text            // what agents have without a text
	texts    textCache
	cidrs    cidrTerms
	watchdog watchdog
	limits   limits
}

// New compiles the built-in rules and custom ones. An error names file, line and
// column. It starts nothing that would have to be stopped.
func New(ctx context.Context, params Params, sources []Source) (*Engine, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, compileLimit, fmt.Errorf("not done after %s", compileLimit))
	defer cancel()
	e, err := attend(ctx, func(ctx context.Context) (*Engine, error) { return compile(ctx, params, sources) })
	if err != nil {
		return nil, fmt.Errorf("compiling rules: %w", err)
	}
	return e, nil
}

func compile(ctx context.Context, params Params, sources []Source) (*Engine, error) {
	builtin, err := builtinModules()
	if err != nil {
		return nil, err
	}
	stated := params
	if params, err = params.join(sources); err != nil {
		return nil, err
	}
	if err = checkRules(params); err != nil {
		return nil, err
	}
	custom, err := customModules(sources, builtin)
	if err != nil {
		return nil, err
	}
	if err = checkComplexity(custom); err != nil {
		return nil, err
	}
	e := &Engine{
		params:   params,
		reads:    partsRead(custom),
		defaults: textOf(config.Default(), params.flags()),
		watchdog: newWatchdog(),
		limits:   defaultLimits(),
	}
	entries, err := builtinEntries(builtin, params)
	if err != nil {
		return nil, err
	}
	added, err := customEntries(custom)
	if err != nil {
		return nil, err
	}
	if err = checkOwnParams(sources, custom); err != nil {
		return nil, err
	}
	if err = checkCustomIDs(params, added); err != nil {
		return nil, err
	}
	e.entries = slices.Concat(entries, added)
	modules := maps.Clone(builtin)
	maps.Copy(modules, custom)
	if e.revision, err = revisionOf(builtin, sources, stated); err != nil {
		return nil, err
	}
	actions, err := actionsOf(builtin, params)
	if err != nil {
		return nil, err
	}
	if e.input, err = paramsInput(params, actions); err != nil {
		return nil, err
	}
	refs := make(chan error, 1)
	go func() { // the other half of the work, which only reads modules
		defer func() {
			if cause := recover(); cause != nil {
				refs <- fmt.Errorf("it panicked: %v", cause)
			}
		}()
		refs <- checkRefs(modules)
	}()
	compiler := ast.NewCompiler().WithCapabilities(capabilities()).WithStrict(true).
		WithSchemas(schemaSet(decodedSchema()))
	compiler.Compile(modules)
	err = <-refs
	if compiler.Failed() {
		return nil, explain(compiler.Errors)
	}
	if err != nil {
		return nil, err
	}
	data, err := dataOf(sources)
	if err != nil {
		return nil, err
	}
	if err = checkDataRefs(compiler, custom, data); err != nil {
		return nil, err
	}
	if len(e.entries) == 0 {
		return e, nil
	}
	queries := make([]string, len(e.entries))
	for i, entry := range e.entries {
		queries[i] = entry.query
	}
	if e.all, err = prepare(ctx, compiler, queries, data); err != nil {
		return nil, err
	}
	return e, e.guard(ctx, compiler.Modules)
}

// guard gives each entry its guards.
func (e *Engine) guard(ctx context.Context, modules map[string]*ast.Module) error {
	data, err := e.all.data(ctx)
	if err != nil {
		return err
	}
	r := newReader(modules, data, e.input)
	for i := range e.entries {
		e.entries[i].guards = r.guards(e.entries[i].query)
	}
	e.look = r.size()
	return nil
}

// checkRules tells of Params made without ParseParams what that would refuse.
func checkRules(params Params) error {
	known := builtinIDs()
	for _, id := range slices.Sorted(maps.Keys(params.Rules)) {
		if !slices.Contains(known, id) && !strings.Contains(id, "/") {
			return fmt.Errorf("params: no rule %q", id)
		}
		if action := params.Rules[id].Action; action != "" && action != Deny && action != Warn && action != Off {
			return fmt.Errorf("params: rule %s: %q is not deny, warn or off", id, action)
		}
	}
	return nil
}

// checkCustomIDs tells of rules in params that no custom package can have. The last part
// of a name may be what a violation says as its rule, so the package counts.
func checkCustomIDs(params Params, entries []entry) error {
	names := slices.Sorted(maps.Keys(params.Rules))
	for _, w := range params.Waivers {
		names = append(names, w.Rule)
	}
	for _, name := range names {
		if !strings.Contains(name, "/") {
			continue // a built-in rule
		}
		pkg, all := strings.CutSuffix(name, everyRule)
		if !slices.ContainsFunc(entries, func(e entry) bool {
			return pkg == e.rule || strings.HasPrefix(pkg, e.rule+"/") && !all || strings.HasPrefix(e.rule, pkg+"/") && all
		}) {
			return fmt.Errorf("params: no custom rule %q: no package offers it; write package/rule, or package%s", name, everyRule)
		}
	}
	return nil
}

// actionsOf is the action in force of each built-in rule.
func actionsOf(modules map[string]*ast.Module, params Params) (map[string]Action, error) {
	actions := map[string]Action{}
	for _, module := range modules {
		if packageOf(module) == root+"."+libPackage {
			continue
		}
		meta, err := metadataOf(module)
		if err != nil {
			return nil, err
		}
		// Of a rule whose params end, rules are told the action without an end.
		actions[meta.id] = meta.action
		if own := params.Rules[meta.id]; own.Until.IsZero() {
			actions[meta.id] = cmp.Or(own.Action, meta.action)
		}
	}
	return actions, nil
}

// revisionOf is a digest over everything that decides: rules and params.
func revisionOf(builtin map[string]*ast.Module, sources []Source, params Params) (string, error) {
	digest := sha256.New()
	add := func(name string, content []byte) {
		digest.Write(fmt.Appendf(nil, "%d %s %d ", len(name), name, len(content)))
		digest.Write(content)
	}
	for _, name := range slices.Sorted(maps.Keys(builtin)) {
		content, err := files.ReadFile(name)
		if err != nil {
			return "", err
		}
		add(name, content)
	}
	custom := slices.Clone(sources)
	slices.SortFunc(custom, func(a, b Source) int { return strings.Compare(a.Name, b.Name) })
	for _, source := range custom {
		if !isTest(source.Name) {
			add(source.Name, source.Text)
		}
	}
	content, err := json.Marshal(params)
	if err != nil {
		return "", fmt.Errorf("params: %w", err)
	}
	add("params", content)
	return hex.EncodeToString(digest.Sum(nil)), nil
}

// Revision is the digest over all rules and params, as in each Decision.
func (e *Engine) Revision() string { return e.revision }

// Decide judges req. It never fails: what cannot be decided is denied, with a
// Finding that says why. A nil cluster is one of which nobody knows anything.
func (e *Engine) Decide(ctx context.Context, req Request, cluster *Cluster) (decision Decision) {
	decision = Decision{
		ID:       newID(),
		Revision: e.revision,
		Subject:  "ConfigMap " + req.Namespace + "/" + req.Name,
	}
	defer func() {
		if cause := recover(); cause != nil {
			decision.Findings = append(decision.Findings, undecided(fmt.Errorf("it panicked: %v", cause)))
			decision.Allowed = false
		}
	}()
	if e.revision == "" {
		decision.Findings = []Finding{undecided(errors.New("there are no rules"))}
		return decision
	}
	if cluster == nil {
		cluster = NewCluster(nil, nil, nil)
	}
	newText, oldText := e.read(req.Object), e.read(req.Old)
	decision.Problems = newText.problems
	decision.Findings, decision.Effect = e.judge(ctx, req, newText, oldText, cluster)
	decision.NodeEffects = e.effects(newText, oldText, decision.Effect)
	decision.Allowed = !slices.ContainsFunc(decision.Findings, func(f Finding) bool { return f.Action != Warn })
	return decision
}

func newID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return hex.EncodeToString(id[:])
}

func undecided(cause error) Finding {
	return Finding{
		Rule: ruleEngine, Action: Deny, Failed: true, Docs: docsOf(ruleEngine),
		Message: "the write could not be judged: " + cause.Error(),
		Hint:    "try again; if it stays, tell those who run the webhook",
	}
}

// judge is the decision on texts that are parsed.
func (e *Engine) judge(ctx context.Context, req Request, newText, oldText text, cluster *Cluster) ([]Finding, Effect) {
	// Whole seconds, as the schema says; and in UTC, since weekdays depend on the place.
	req.Time = req.Time.UTC().Truncate(time.Second)
	d, excused := e.documentOf(req, newText, oldText, cluster)
	findings := loadFindings(newText)
	findings = append(findings, e.ask(ctx, d)...)
	findings = append(findings, e.askOverrides(ctx, d, slices.Concat(findings, excused))...)
	findings = placed(append(withoutEchoes(findings), excused...), newText, req.Object)
	findings = e.params.relieve(findings, newText.config, req.Time)
	sortFindings(findings)
	if newText.keys != nil {
		slices.SortStableFunc(findings, func(a, b Finding) int { return strings.Compare(a.Key, b.Key) })
	}
	return findings, d.facts.effect
}

// documentOf is what rules are asked about, and what waivers took out of it.
func (e *Engine) documentOf(req Request, newText, oldText text, cluster *Cluster) (d *document, excused []Finding) {
	d = &document{request: req, new: newText, old: oldText, cluster: cluster, params: e.input, read: e.reads, cidrs: &e.cidrs}
	d.facts = nothingKnown()
	if newText.loads {
		d.facts = factsOf(newText.config, newText.layout, e.params.flags(), cluster)
		excused = e.params.waiveRanges(&d.facts, newText.layout, cluster, req.Time)
	}
	d.facts.effect = e.effect(newText, oldText)
	return d, excused
}

// effect compares the text before with the text after the write; without a text
// agents have their defaults.
func (e *Engine) effect(after, before text) Effect {
	if after.absent {
		after = e.defaults
	}
	if before.absent {
		before = e.defaults
	}
	if !after.loads || !before.loads || slices.ContainsFunc(after.problems, isFatal) ||
		slices.ContainsFunc(before.problems, isFatal) {
		return Effect{}
	}
	return effectOf(before.layout.spared, after.layout.spared)
}

// effects compares the texts on nodes that overrides of either one are for, where that
// is not what happens on all others.
func (e *Engine) effects(after, before text, others Effect) []NodeEffect {
	if !others.Known {
		return nil
	}
	if after.absent {
		after = e.defaults
	}
	if before.absent {
		before = e.defaults
	}
	var effects []NodeEffect
	told := map[string]bool{}
	for _, o := range slices.Concat(after.config.Overrides, before.config.Overrides) {
		selector := o.Selector()
		if told[selector] {
			continue
		}
		told[selector] = true
		labels := o.Labels()
		effect := effectOf(before.on(labels).layout.spared, after.on(labels).layout.spared)
		if !effect.equal(others) {
			effects = append(effects, NodeEffect{selector, effect})
		}
	}
	return effects
}

func isFatal(p config.Problem) bool { return p.Severity == config.Fatal }

// nothingKnown is the facts of a text that does not load: rules have nothing to
// say of it, since the problems of the text say it already.
func nothingKnown() facts {
	known := coverage{known: true}
	return facts{node: known, pod: known, service: known}
}

// ask evaluates the rules that may have something to say: all of them at once, or
// when one of them fails one by one, so that a broken rule neither silences nor
// blocks the others.
func (e *Engine) ask(ctx context.Context, d *document) []Finding {
	input := d.value()
	l := newLook(input, e.look, e.limits.all)
	var asked []int
	var findings []Finding
	for i := range e.entries {
		switch entry := &e.entries[i]; {
		case entry.guards.empty(l):
		case entry.behind.Load() > 0:
			findings = append(findings, entry.failed("it was told to stop earlier and has not, so it is not asked"))
		default:
			asked = append(asked, i)
		}
	}
	if len(asked) == 0 {
		return findings
	}
	sets, _, err := e.watchdog.evaluate(ctx, evaluation{
		query: e.all.only(asked...), input: input, now: d.request.Time, limit: e.limits.all, strict: true,
	})
	switch {
	case err == nil && len(sets) == len(asked):
		for n, i := range asked {
			findings = append(findings, e.entries[i].findings(sets[n], d)...)
		}
		return findings
	case errors.Is(err, errBusy):
		return append(findings, undecided(err))
	case errors.Is(err, errMemory):
		// Of several that run, one needs the memory: it is found where one runs at a time.
		select {
		case oneByOne <- struct{}{}:
			defer func() { <-oneByOne }()
			settle(ctx)
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return append(findings, undecided(fmt.Errorf("the request ended first: %w", context.Cause(ctx))))
	}
	return append(findings, e.askEach(ctx, d, asked)...)
}

// oneByOne is held, in the whole process, by who asks rules one by one because memory ran
// short.
//
//nolint:gochecknoglobals // memory is the process's
var oneByOne = make(chan struct{}, 1)

// askEach evaluates rules one by one.
func (e *Engine) askEach(ctx context.Context, d *document, asked []int) []Finding {
	var findings []Finding
	deadline := time.Now().Add(e.limits.total)
	for _, i := range asked {
		entry := &e.entries[i]
		limit := min(e.limits.each, time.Until(deadline))
		if limit <= 0 {
			findings = append(findings, entry.failed("other rules used up the time, so it was not asked"))
			continue
		}
		sets, errs, err := e.watchdog.evaluate(ctx, evaluation{
			query: e.all.only(i), input: d.value(), now: d.request.Time, limit: limit, behind: entry.behind,
		})
		switch {
		case err != nil:
			findings = append(findings, entry.failed(err.Error()))
		case len(sets) == 0:
			findings = append(findings, entry.failed("it is undefined"))
		default:
			findings = append(findings, entry.findings(sets[0], d)...)
		}
		if len(errs) > 0 {
			findings = append(findings, entry.failedBy(errs))
		}
	}
	return findings
}
