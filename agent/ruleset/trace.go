package ruleset

import (
	"context"
	"time"
)

// Phase is a part of making the kernel hold a Ruleset.
type Phase string

// The phases of every backend.
const (
	Inspect Phase = "inspect" // reading what the kernel holds, and comparing it
	Write   Phase = "write"   // changing what differs
)

// Trace is told how long the parts of an Apply take, by whoever is called with a context
// that holds it. Functions that are nil are not called; those that are not may be called
// from another goroutine, but not after the Apply.
type Trace struct {
	Took     func(phase Phase, took time.Duration)
	LockWait func(waited time.Duration) // of a command for the xtables lock
}

type traceKey struct{}

// WithTrace returns a context that holds t.
func WithTrace(ctx context.Context, t Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

// TraceOf returns what WithTrace was given, or else a Trace that is told nothing.
func TraceOf(ctx context.Context) Trace {
	t, _ := ctx.Value(traceKey{}).(Trace)
	if t.Took == nil {
		t.Took = func(Phase, time.Duration) {}
	}
	if t.LockWait == nil {
		t.LockWait = func(time.Duration) {}
	}
	return t
}
