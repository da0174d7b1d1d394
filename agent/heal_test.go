package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/notify"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// gossip is a kernel that tells of every change of our rules, our own too.
type gossip struct {
	mutex           sync.Mutex
	changes         chan struct{}
	counted, latest int // changes: all, and the last one that is not settled
	by              notify.Change
}

// gossips makes the kernel of a world tell.
func (w *world) gossips() *gossip {
	g := &gossip{changes: make(chan struct{}, 1)}
	w.notices, w.syncer.witness = g.changes, g
	w.kernel.told = func() { g.tell(notify.Change{Program: "iptables-nft-re", PID: 7}) }
	return g
}

func (g *gossip) tell(by notify.Change) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.counted++
	g.latest, g.by = g.counted, by
	select {
	case g.changes <- struct{}{}:
	default:
	}
}

func (g *gossip) Pending() (notify.Change, bool) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if g.latest == 0 {
		return notify.Change{}, false
	}
	return g.by, true
}

func (g *gossip) Look() (settle func()) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	seen := g.counted
	return func() {
		g.mutex.Lock()
		defer g.mutex.Unlock()
		if g.latest <= seen {
			g.latest = 0
		}
	}
}

// firewalld flushes our chain, and the kernel tells it.
func (w *world) firewalld(g *gossip) {
	w.kernel.flush()
	g.tell(notify.Change{Program: "firewalld", PID: 4711})
}

// TestOthersChangesWake: within moments, though the tick is an hour away.
func TestOthersChangesWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, options{})
		g := w.gossips()
		w.holds(t, goodText+"resyncInterval: 1h\n")
		ctx, cancel := context.WithCancel(t.Context())
		go w.syncer.run(ctx, w.changes, w.notices)
		time.Sleep(soon)
		synctest.Wait()
		w.wrote()
		w.logged(t)

		w.firewalld(g)
		time.Sleep(2 * quiet)
		synctest.Wait()
		if diff := cmp.Diff([]string{good}, w.wrote()); diff != "" {
			t.Errorf("writes differ (-want +got):\n%s", diff)
		}
		const told = `"msg":"drift healed: something else had changed the rules","family":"IPv4","drift":["chain-changed"],` +
			`"by":{"program":"firewalld","pid":4711}}`
		if log := w.log.String(); strings.Count(log, told) != 1 {
			t.Errorf("the log is to tell once %s:\n%s", told, log)
		}
		cancel()
		synctest.Wait()
	})
}

// TestOwnChangesDoNotWake: each write is followed by one look, and by no pass.
func TestOwnChangesDoNotWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, options{})
		w.gossips()
		ctx, cancel := context.WithCancel(t.Context())
		go w.syncer.run(ctx, w.changes, w.notices)
		synctest.Wait() // for the first pass, without a file
		for i := range 20 {
			w.holds(t, fmt.Sprintf("nonMasqueradeCIDRs: [10.%d.0.0/16]\nresyncInterval: 1h\n", i))
			time.Sleep(time.Second)
			synctest.Wait()
			if got := w.attempts(); got != i+2 {
				t.Fatalf("after %d texts there were %d passes", i+1, got-1)
			}
		}
		if got := w.kernel.looks; got != 21 {
			t.Errorf("%d looks after 21 writes", got)
		}
		cancel()
		synctest.Wait()
	})
}

// slow is a kernel that takes its time.
type slow struct{ *recorder }

func (s slow) Apply(ctx context.Context, want ruleset.Ruleset) ([]iptables.Drift, error) {
	time.Sleep(25 * time.Millisecond)
	return s.recorder.Apply(ctx, want)
}

// TestFightIsBounded: another program undoes each healing at once, for an hour. A pass
// takes 25 ms here.
func TestFightIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, options{})
		g := w.gossips()
		w.syncer.kernel = slow{w.kernel}
		w.holds(t, goodText+"resyncInterval: 1h\n")
		ctx, cancel := context.WithCancel(t.Context())
		go w.syncer.run(ctx, w.changes, w.notices)
		started := time.Now()
		for time.Since(started) < time.Hour {
			time.Sleep(5 * time.Millisecond)
			w.firewalld(g)
		}
		// The credit of a second, and a hundredth of an hour.
		if got := w.attempts(); got < 1400 || got > 1500 {
			t.Errorf("%d passes in an hour, want about 40 + 1440", got)
		}
		if got := strings.Count(w.log.String(), "others change the rules too often"); got != 1 {
			t.Errorf("the fight is logged %d times", got)
		}
		if got := strings.Count(w.log.String(), "drift healed"); got != 1 {
			t.Errorf("drift is logged %d times", got)
		}

		// Two minutes later it is forgotten.
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		before := w.attempts()
		w.firewalld(g)
		time.Sleep(soon)
		synctest.Wait()
		if got := w.attempts() - before; got != 1 {
			t.Errorf("%d passes within moments after a flush, want 1", got)
		}
		cancel()
		synctest.Wait()
	})
}

func TestAllowance(t *testing.T) {
	start := time.Unix(0, 0)
	var a allowance
	if free := a.free(start); free.After(start) {
		t.Errorf("a full allowance is free at %s", free)
	}
	for range 4 {
		a.spend(start, 250*time.Millisecond)
	}
	if free := a.free(start); !free.Equal(start) {
		t.Errorf("after the credit was spent it is free at %s, want now", free)
	}
	a.spend(start, 30*time.Millisecond)
	if free := a.free(start); !free.Equal(start.Add(3 * time.Second)) {
		t.Errorf("30 ms more are free at %s, want in 3 s", free)
	}
	a.spend(start, time.Hour)
	if free := a.free(start); !free.Equal(start.Add(103 * time.Second)) {
		t.Errorf("after an hour more it is free at %s, want in 103 s", free)
	}
	if owed := a.owed(start.Add(time.Hour)); owed != 0 {
		t.Errorf("an hour later %s are owed", owed)
	}
}
