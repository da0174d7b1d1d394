package policy

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// traceTimeout bounds a traced evaluation.
const traceTimeout = 10 * time.Second

// Rules are the rules that decide, by the names that findings have, sorted; of custom
// rules their packages.
func (e *Engine) Rules() []string {
	var names []string
	for _, entry := range e.entries {
		names = append(names, entry.rule)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Trace is what one set of a rule gives, and every step of its evaluation.
type Trace struct {
	Set    string // "ipmasq.payments.deny"
	Place  string // file and line where the set begins
	Result string // in Rego's notation
	Steps  string // several lines
}

// Trace evaluates one rule, by a name of Rules, for a request; for authors of rules.
func (e *Engine) Trace(ctx context.Context, req Request, cluster *Cluster, rule string) ([]Trace, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, traceTimeout, fmt.Errorf("not done after %s", traceTimeout))
	defer cancel()
	if cluster == nil {
		cluster = NewCluster(nil, nil, nil)
	}
	req.Time = req.Time.UTC().Truncate(time.Second)
	d, _ := e.documentOf(req, e.read(req.Object), e.read(req.Old), cluster)
	d.read = map[string]bool{partConfig: true, partOld: true, partCluster: true}
	var traces []Trace
	for i, entry := range e.entries {
		if entry.rule != rule {
			continue
		}
		q := e.all.only(i)
		stop := topdown.NewCancel()
		end := context.AfterFunc(ctx, stop.Cancel)
		tracer := topdown.NewBufferTracer()
		found := ast.Value(ast.NewSet())
		err := topdown.NewQuery(q.body).WithQueryCompiler(q.queries).WithCompiler(q.compiler).WithStore(q.store).WithTransaction(q.reading).
			WithInput(ast.NewTerm(d.value())).WithTime(req.Time).WithCancel(stop).WithQueryTracer(tracer).
			Iter(ctx, func(result topdown.QueryResult) error {
				found = result[q.vars[0]].Value
				return nil
			})
		end()
		if err != nil {
			return nil, fmt.Errorf("evaluating %s: %w", rule, err)
		}
		var steps bytes.Buffer
		topdown.PrettyTraceWithLocation(&steps, *tracer)
		traces = append(traces, Trace{
			Set: strings.TrimPrefix(entry.query, "data."), Place: placeOf(entry.place), Result: found.String(), Steps: steps.String(),
		})
	}
	if len(traces) == 0 {
		return nil, fmt.Errorf("looking for rule %q: there is none; there are %s", rule, strings.Join(e.Rules(), ", "))
	}
	return traces, nil
}
