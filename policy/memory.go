package policy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/topdown"
)

const (
	// memoryWithoutLimit is taken for the limit of a process that has none, in bytes: a
	// laptop's, mostly, on which kubectl masq runs.
	memoryWithoutLimit = 1 << 30

	// sampleEvery is how often the heap is looked at while rules run: they allocate at most
	// some tens of MiB in between, since each function is bounded as well (see guardBuiltins).
	sampleEvery = 5 * time.Millisecond

	// settleTime is how long others wait for what was given up, but has not stopped yet, to
	// give back its memory: they are not what takes it.
	settleTime = time.Second

	// attendGrace is how long what was told to stop may take to tell what it has come to.
	attendGrace = 500 * time.Millisecond
)

var errMemory = errors.New("it needs more memory than there is")

// heapBound is how much the heap may hold before what rules do is stopped, in bytes:
// two thirds of the Go memory limit (GOMEMLIMIT). The rest is for stacks, for what
// is allocated until it stops, and for everything that is no rule.
func heapBound() uint64 {
	limit := debug.SetMemoryLimit(-1) // which changes nothing
	if limit == math.MaxInt64 {
		limit = memoryWithoutLimit
	}
	return uint64(limit) / 3 * 2
}

// crowded tells whether rules have to be stopped: the heap and the stacks hold more than
// heapBound, garbage left aside, or the stacks alone a quarter of it. OPA recurses, the
// deeper the longer it works, and a stack that grows is there twice for a moment. While
// garbage is collected rules wait: else they could fill the memory meanwhile.
func crowded() bool {
	bound := heapBound()
	heap, stacks := memoryUsed()
	if heap+stacks < bound && stacks < bound/4 {
		return false
	}
	collection.Lock()
	defer collection.Unlock()
	collecting.Store(true)
	defer collecting.Store(false)
	runtime.GC()
	heap, stacks = memoryUsed() // stacks of what has ended are garbage, too
	return heap+stacks >= bound || stacks >= bound/4
}

//nolint:gochecknoglobals // there is one heap
var (
	collection sync.RWMutex // held while garbage is collected because of a rule
	collecting atomic.Bool
)

// brake stops an evaluation, which asks it before each step.
type brake struct{ pulled atomic.Bool }

var _ topdown.Cancel = (*brake)(nil)

// Cancel makes the evaluation stop.
func (b *brake) Cancel() { b.pulled.Store(true) }

// Cancelled tells whether to stop.
func (b *brake) Cancelled() bool {
	if collecting.Load() {
		collection.RLock()
		defer collection.RUnlock()
	}
	return b.pulled.Load()
}

// memoryUsed is how many bytes the heap, garbage among them, and the stacks take.
func memoryUsed() (heap, stacks uint64) {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64(), samples[1].Value.Uint64()
}

// behind counts what was given up and has not stopped, in the whole process: a
// compilation or an evaluation cannot be ended from outside.
//
//nolint:gochecknoglobals // a property of the process
var behind atomic.Int32

// maxBehind is how many of these there may be before no new rules are taken in: each
// one keeps a processor busy.
const maxBehind = 4

// errBehind tells why no new rules are taken in, or is nil.
func errBehind() error {
	if n := behind.Load(); n >= maxBehind {
		return fmt.Errorf("%d rules that were tried earlier have not stopped, so no new ones are tried; restart the program", n)
	}
	return nil
}

// LeftBehind is how many compilations and evaluations of rules were told to stop and have
// not, in this process.
func LeftBehind() int { return int(behind.Load()) }

// leave counts what runs on as left behind until it is done; counts may be nil.
func leave[T any](done <-chan T, counts ...*atomic.Int32) {
	add := func(n int32) {
		for _, count := range counts {
			if count != nil {
				count.Add(n)
			}
		}
	}
	add(1)
	go func() {
		<-done
		add(-1)
	}()
}

// settle waits for what was given up to stop.
func settle(ctx context.Context) {
	timeout := time.After(settleTime)
	for behind.Load() > 0 {
		select {
		case <-time.After(sampleEvery):
		case <-timeout:
			return
		case <-ctx.Done():
			return
		}
	}
}

// attend waits for f until ctx ends or memory runs short; then f, whose context ends,
// is left behind if it does not stop. A panic of f is an error.
func attend[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if err := errBehind(); err != nil {
		return none, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if cause := recover(); cause != nil {
				r = result{err: fmt.Errorf("it panicked: %v", cause)}
			}
			done <- r
		}()
		r.value, r.err = f(ctx)
	}()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	roomy := time.Now()
	for {
		select {
		case r := <-done:
			return r.value, r.err
		case now := <-tick.C:
			switch {
			case !crowded():
				roomy = now
			case behind.Load() == 0 || now.Sub(roomy) > settleTime:
				cancel(errMemory)
			}
			continue
		case <-ctx.Done():
		}
		select {
		case r := <-done:
			return r.value, r.err
		case <-time.After(attendGrace):
		}
		leave(done, &behind)
		return none, context.Cause(ctx)
	}
}
