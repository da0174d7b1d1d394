//go:build !windows

package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/agent/notify"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

const (
	// Passes that others' changes ask for may take 1/healingShare of the time in the
	// long run, and so at most as much of a processor; a pause saves up to
	// healingCredit for passes without delay. Another program that undoes each
	// healing, or one that floods us with changes, so costs little.
	healingShare  = 100
	healingCredit = time.Second
)

// witness tells of changes to our rules in the kernel (notify.Watch). Its notices
// come through a channel; then there may be something pending.
type witness interface {
	Pending() (notify.Change, bool)
	Look() (settle func())
}

// watchable is a kernel with a backend that may tell changes, or
// errors.ErrUnsupported.
type watchable interface {
	Watch(chain string, families []ruleset.Family) (*notify.Watch, error)
}

// watchKernel begins to listen to the kernel, where it tells anything. Nothing is
// lost without but speed: the tick looks too.
func watchKernel(ctx context.Context, opts options, kernel watchable, log *slog.Logger) *notify.Watch {
	if !opts.watchKernel {
		return nil
	}
	watch, err := kernel.Watch(opts.rules.Chain, opts.families())
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		log.InfoContext(ctx, "the kernel tells nothing of these rules, so changes by others wait for the next tick", "reason", err)
	case err != nil:
		log.WarnContext(ctx, "the kernel tells nothing, so changes by others wait for the next tick", "error", err)
	}
	return watch
}

// notices is where a watch tells; nil without one.
func notices(watch *notify.Watch) <-chan struct{} {
	if watch == nil {
		return nil
	}
	return watch.Changes()
}

// listensTo makes the syncer ask the watch, before it runs.
func (s *syncer) listensTo(watch *notify.Watch) {
	if watch != nil {
		s.witness = watch
		s.metrics.kernel = watch.Counts
	}
}

// disturbed plans a pass after a notice, unless it was about our own changes.
func (s *syncer) disturbed(ctx context.Context, plan *burst) {
	by, pending := s.witness.Pending()
	if !pending {
		return
	}
	now := time.Now()
	if s.healing.owed(now) == 0 {
		s.fighting = false
	}
	first := plan.at.IsZero()
	plan.add(now)
	free := s.healing.free(now)
	if !free.After(plan.at) {
		return
	}
	plan.at = free
	if first {
		s.metrics.postponed.Inc()
	}
	if !s.fighting {
		s.fighting = true
		s.log.WarnContext(ctx, "others change the rules too often, so healing them slows down",
			"by", author{by}, "pause", time.Until(free).Round(time.Millisecond).String())
	}
}

// look begins a look at the rules; settle tells that they were in order.
func (s *syncer) look() (settle func()) {
	if s.witness == nil {
		return func() {}
	}
	s.by, _ = s.witness.Pending()
	return s.witness.Look()
}

// verify looks at what was just written, so that its notices are known to be our own.
func (s *syncer) verify(ctx context.Context) {
	if s.witness == nil {
		return
	}
	settle := s.witness.Look()
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	for _, f := range s.families {
		if drift, err := s.kernel.Inspect(ctx, f.want); err != nil || len(drift) > 0 {
			return // others are at work; their notices are on the way
		}
	}
	settle()
}

// author is how the log names who changed the rules: empty, and so left out, where the
// kernel does not tell.
type author struct{ notify.Change }

// LogValue groups what is known.
func (a author) LogValue() slog.Value {
	if a.Program == "" {
		return slog.GroupValue()
	}
	return slog.GroupValue(slog.String("program", a.Program), slog.Int("pid", a.PID))
}

// burst is a stream of events, acted on at once: when it has been quiet for so long,
// or patience ends.
type burst struct{ since, at time.Time }

func (b *burst) add(now time.Time) {
	if b.since.IsZero() {
		b.since = now
	}
	b.at = earliest(now.Add(quiet), b.since.Add(patience))
}

// due tells that it is time to act.
func (b *burst) due(now time.Time) bool { return !b.at.IsZero() && !b.at.After(now) }

// earliest leaves out zero times.
func earliest(times ...time.Time) time.Time {
	var first time.Time
	for _, t := range times {
		if first.IsZero() || !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}

// allowance is time to be spent, which comes back slowly. The zero allowance is full.
type allowance struct {
	spent time.Duration // at most 2 healingCredits
	at    time.Time     // when it was
}

// owed is what has not come back yet.
func (a *allowance) owed(now time.Time) time.Duration {
	return max(0, a.spent-now.Sub(a.at)/healingShare)
}

// spend takes time away. Waiting for a lock is not all work, so there is a bound.
func (a *allowance) spend(now time.Time, took time.Duration) {
	a.spent, a.at = a.owed(now)+min(took, healingCredit), now
}

// free is when there is something to spend; it may have been.
func (a *allowance) free(now time.Time) time.Time {
	return now.Add((a.owed(now) - healingCredit) * healingShare)
}
