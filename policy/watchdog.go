package policy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
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
	errBusy = errors.New("too many evaluations are running")
	errLate = errors.New("it did not end in time")
)

// watchdog runs evaluations in time. OPA stops one between its own steps, but not
// inside a built-in function; the functions that are known to run on are not in the
// language (see allowedBuiltins), and one that does nevertheless is left behind,
// where it goes on holding one of maxEvaluations.
type watchdog struct {
	slots  chan struct{}
	caches *sync.Pool
}

func newWatchdog() watchdog {
	return watchdog{
		slots:  make(chan struct{}, maxEvaluations),
		caches: &sync.Pool{New: func() any { return newVirtualCache() }},
	}
}

type outcome struct {
	value ast.Value // nil: undefined
	errs  []topdown.Error
	err   error
}

// evaluate gives the value of a query with one variable, or nil when it is
// undefined, and the errors of built-in functions on the way.
func (w *watchdog) evaluate(
	ctx context.Context, query *rego.PreparedEvalQuery, input ast.Value, limit time.Duration,
) (ast.Value, []topdown.Error, error) {
	timer := time.NewTimer(limit)
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
	cancel := topdown.NewCancel()
	done := make(chan outcome, 1)
	go func() {
		defer func() { <-w.slots }()
		done <- w.run(ctx, query, input, cancel)
	}()
	var reason error
	select {
	case o := <-done:
		return o.value, o.errs, o.err
	case <-timer.C:
		reason = fmt.Errorf("%w (%s)", errLate, limit)
	case <-ctx.Done():
		reason = fmt.Errorf("the request ended first: %w", context.Cause(ctx))
	}
	cancel.Cancel()
	timer.Reset(grace)
	select {
	case <-done:
	case <-timer.C:
	}
	return nil, nil, reason
}

func (w *watchdog) run(
	ctx context.Context, query *rego.PreparedEvalQuery, input ast.Value, cancel topdown.Cancel,
) (o outcome) {
	defer func() {
		if cause := recover(); cause != nil {
			o = outcome{err: fmt.Errorf("it panicked: %v", cause)}
		}
	}()
	cache, _ := w.caches.Get().(*virtualCache)
	results, err := query.Eval(ctx,
		rego.EvalParsedInput(input),
		rego.EvalBuiltinErrorList(&o.errs),
		rego.EvalMetrics(metrics.NoOp()),
		rego.EvalExternalCancel(cancel),
		rego.EvalVirtualCache(cache),
	)
	cache.reset()
	w.caches.Put(cache) // not after a panic: who knows in what state it is
	if err != nil {
		o.err = err
		return o
	}
	if len(results) == 1 {
		o.value, _ = results[0].Bindings["result"].(ast.Value)
	}
	return o
}
