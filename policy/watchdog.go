package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Bounds of evaluations.
const (
	// maxEvaluations bounds how many run at once, those among them that were given
	// up and have not stopped: each holds memory that nothing else bounds.
	maxEvaluations = 32
	// grace is how long an evaluation that was told to stop may take to; OPA looks
	// between steps, so that a healthy one needs microseconds.
	grace = 50 * time.Millisecond
)

var (
	errBusy  = errors.New("too many evaluations are running")
	errLate  = errors.New("it did not end in time")
	errLarge = fmt.Errorf("what it gives is larger than %d MiB", maxVolume>>20)
)

// watchdog runs evaluations in time. OPA stops one between its own steps, but not
// inside a built-in function; the functions that are known to run on are not in the
// language (see allowedBuiltins), what one can produce is bounded (see guardBuiltins),
// and one that runs on nevertheless is left behind, where it goes on holding one of
// maxEvaluations.
type watchdog struct {
	slots  chan struct{}
	caches *sync.Pool
}

func newWatchdog() watchdog {
	guardBuiltins()
	return watchdog{
		slots:  make(chan struct{}, maxEvaluations),
		caches: &sync.Pool{New: func() any { return newVirtualCache() }},
	}
}

// query is a compiled query: for each of its variables an expression that binds it.
type query struct {
	body     ast.Body
	vars     []ast.Var
	queries  ast.QueryCompiler
	compiler *ast.Compiler
	store    storage.Store
	reading  storage.Transaction // of a store that nobody writes; shared and never closed
}

// prepare compiles a query of these expressions over data.
func prepare(ctx context.Context, compiler *ast.Compiler, expressions []string, data map[string]any) (query, error) {
	q := query{compiler: compiler, queries: compiler.QueryCompiler(), store: inmem.NewFromObjectWithOpts(data, inmem.OptReturnASTValuesOnRead(true))}
	var text strings.Builder
	for i, expression := range expressions {
		name := fmt.Sprintf("set%d", i)
		q.vars = append(q.vars, ast.Var(name))
		text.WriteString(name + " = " + expression + "\n")
	}
	body, err := ast.ParseBodyWithOpts(text.String(), ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return query{}, err
	}
	if q.body, err = q.queries.Compile(body); err != nil {
		return query{}, err
	}
	for i, name := range q.vars {
		if len(q.body) != len(q.vars) || !q.body[i].Operand(0).Equal(ast.VarTerm(string(name))) {
			return query{}, fmt.Errorf("the compiled query does not have its expressions one by one: %s", q.body)
		}
	}
	q.reading, err = q.store.NewTransaction(ctx)
	return q, err
}

// data is what the query reads beside rules.
func (q *query) data(ctx context.Context) (ast.Value, error) {
	all, err := q.store.Read(ctx, q.reading, storage.RootPath)
	if err != nil {
		return nil, err
	}
	value, ok := all.(ast.Value)
	if !ok {
		return ast.InterfaceToValue(all)
	}
	return value, nil
}

// only is the part of q at these indexes. Its expressions do not depend on one another.
func (q *query) only(indexes ...int) *query {
	part := *q
	part.body, part.vars = make(ast.Body, len(indexes)), make([]ast.Var, len(indexes))
	for n, i := range indexes {
		part.body[n], part.vars[n] = q.body[i], q.vars[i]
	}
	return &part
}

type outcome struct {
	values []ast.Value // of the variables; none: undefined
	errs   []topdown.Error
	err    error
}

// evaluation is what to evaluate, and how.
type evaluation struct {
	query *query
	input ast.Value // of this evaluation alone
	now   time.Time // what the time of day would be, were there a function for it
	limit time.Duration

	// strict makes the first error of a built-in function the error of all. Without
	// it the rule goes on as if undefined there, and the errors are listed, which
	// takes memory for each.
	strict bool

	behind *atomic.Int32 // counts evaluations like this one that were left behind; may be nil
}

// evaluate gives the values of a query, or none when it is undefined.
func (w *watchdog) evaluate(ctx context.Context, e evaluation) ([]ast.Value, []topdown.Error, error) {
	timer := time.NewTimer(e.limit)
	defer timer.Stop()
	select {
	case w.slots <- struct{}{}:
	default:
		select {
		case w.slots <- struct{}{}:
		case <-timer.C:
			return nil, nil, errBusy
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
	cancel := &brake{}
	deadline := time.Now().Add(e.limit)
	timer.Reset(min(e.limit, sampleEvery))
	done := make(chan outcome, 1)
	go func() {
		defer func() { <-w.slots }()
		growStack()
		done <- w.run(ctx, e, cancel)
	}()
	var reason error
	for reason == nil {
		select {
		case o := <-done:
			return o.values, o.errs, o.err
		case now := <-timer.C:
			switch {
			case !now.Before(deadline):
				reason = fmt.Errorf("%w (%s)", errLate, e.limit)
			case crowded():
				reason = errMemory
			default:
				timer.Reset(min(deadline.Sub(now), sampleEvery))
			}
		case <-ctx.Done():
			reason = fmt.Errorf("the request ended first: %w", context.Cause(ctx))
		}
	}
	cancel.Cancel()
	timer.Reset(grace)
	select {
	case <-done:
	case <-timer.C:
		leave(done, &behind, e.behind)
	}
	return nil, nil, reason
}

// stackRoom is what the built-in rules need and what the compiler still leaves on the stack.
const stackRoom = 120 << 10

// growStack makes the stack as large as evaluations need it, while there is next to
// nothing on it: they recurse once per rule, and copying a full stack again and
// again to grow it took a quarter of their time.
//
//go:noinline
func growStack() {
	var room [stackRoom]byte
	use(&room)
}

//go:noinline
func use(*[stackRoom]byte) {}

func (w *watchdog) run(ctx context.Context, e evaluation, cancel topdown.Cancel) (o outcome) {
	defer func() {
		if cause := recover(); cause != nil {
			o = outcome{err: fmt.Errorf("it panicked: %v", cause)}
		}
	}()
	cache, _ := w.caches.Get().(*virtualCache)
	cache.tooLarge = cancel.Cancel
	o.err = topdown.NewQuery(e.query.body).
		WithQueryCompiler(e.query.queries).
		WithCompiler(e.query.compiler).
		WithStore(e.query.store).
		WithTransaction(e.query.reading).
		WithInput(ast.NewTerm(e.input)).
		WithTime(e.now).
		WithMetrics(metrics.NoOp()).
		WithCancel(cancel).
		WithVirtualCache(cache).
		WithStrictBuiltinErrors(e.strict).
		WithBuiltinErrorList(&o.errs).
		Iter(ctx, func(result topdown.QueryResult) error {
			o.values = make([]ast.Value, len(e.query.vars))
			for i, name := range e.query.vars {
				o.values[i] = result[name].Value
			}
			return nil
		})
	if cache.exceeded {
		o = outcome{err: errLarge}
	}
	cache.reset()
	w.caches.Put(cache) // not after a panic: who knows in what state it is
	return o
}
