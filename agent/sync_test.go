package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// recorder is a nat table that says what was done to it.
type recorder struct {
	mutex    sync.Mutex
	held     map[ruleset.Family][]string
	refuse   map[ruleset.Family]error
	attempts int
	looks    int      // by Inspect
	told     func()   // that there was a write; nil for a kernel that tells nothing
	writes   []string // "IPv4 169.254.0.0/16 10.0.0.0/8": family, spared destinations
}

// Inspect finds nothing: nobody is as fast as to come between.
func (r *recorder) Inspect(context.Context, ruleset.Ruleset) ([]iptables.Drift, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.looks++
	return nil, nil
}

func (r *recorder) Apply(_ context.Context, want ruleset.Ruleset) ([]iptables.Drift, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.attempts++
	if err := r.refuse[want.Family]; err != nil {
		return nil, err
	}
	held, ok := r.held[want.Family]
	if ok && slices.Equal(held, want.Rules) {
		return nil, nil
	}
	r.held[want.Family] = want.Rules
	if r.told != nil {
		r.told()
	}
	r.writes = append(r.writes, fmt.Sprintf("IPv%d %s", want.Family, spared(want.Rules)))
	if !ok {
		return []iptables.Drift{iptables.ChainMissing, iptables.JumpMissing}, nil
	}
	return []iptables.Drift{iptables.ChainChanged}, nil
}

// flush empties every chain.
func (r *recorder) flush() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for family := range r.held {
		r.held[family] = nil
	}
}

// refuses makes the kernel refuse the rules of a family, or take them again for
// want of a reason.
func (r *recorder) refuses(family ruleset.Family, reason string) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	delete(r.refuse, family)
	if reason != "" {
		r.refuse[family] = errors.New(reason)
	}
}

func spared(rules []string) string {
	var destinations []string
	for _, rule := range rules {
		if match := regexp.MustCompile(`-d (\S+) .*-j RETURN`).FindStringSubmatch(rule); match != nil {
			destinations = append(destinations, match[1])
		}
	}
	return strings.Join(destinations, " ")
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.String()
}

// take returns what was written since it was last called.
func (l *logBuffer) take() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

// world is an agent without a real kernel, on a real file.
type world struct {
	file    string
	kernel  *recorder
	syncer  *syncer
	changes chan struct{}
	notices <-chan struct{} // nil for a kernel that tells nothing
	log     logBuffer
}

func newWorld(t *testing.T, opts options) *world {
	t.Helper()
	if opts.configPath == "" {
		opts.configPath = filepath.Join(t.TempDir(), "ip-masq-agent")
	}
	opts.rules.Chain = "IP-MASQ-AGENT"
	w := &world{
		file:    opts.configPath,
		kernel:  &recorder{held: map[ruleset.Family][]string{}, refuse: map[ruleset.Family]error{}},
		changes: make(chan struct{}, 1),
	}
	w.syncer = newSyncer(opts, w.kernel, slog.New(slog.NewJSONHandler(&w.log, nil)))
	return w
}

// holds makes the file hold text and notifies the agent.
func (w *world) holds(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(w.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.notify()
}

func (w *world) vanishes(t *testing.T) {
	t.Helper()
	if err := os.Remove(w.file); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	w.notify()
}

func (w *world) notify() {
	select {
	case w.changes <- struct{}{}:
	default:
	}
}

// wrote returns what was written since it was last asked.
func (w *world) wrote() []string {
	w.kernel.mutex.Lock()
	defer w.kernel.mutex.Unlock()
	writes := w.kernel.writes
	w.kernel.writes = nil
	return writes
}

// attempts is how often the kernel was asked.
func (w *world) attempts() int {
	w.kernel.mutex.Lock()
	defer w.kernel.mutex.Unlock()
	return w.kernel.attempts
}

// logged returns what was logged since it was last asked, each line its message and
// the attributes that tell the cases apart.
func (w *world) logged(t *testing.T) []string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(w.log.take()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(entry["msg"])
		for _, key := range []string{"family", "source", "inForce", "drift", "severity", "path", "line", "error"} {
			if value, ok := entry[key]; ok {
				text += fmt.Sprintf(" %s=%v", key, value)
			}
		}
		lines = append(lines, text)
	}
	return lines
}

const (
	goodText       = "nonMasqueradeCIDRs: [10.1.0.0/16]\n"
	otherText      = "nonMasqueradeCIDRs: [10.2.0.0/16]\n"
	quickText      = "nonMasqueradeCIDRs: [10.1.0.0/16]\nresyncInterval: 2s\n"
	badText        = "nonMasqueradeCIDRs: [10.0.0.1/8]\n"
	otherBadText   = "nonMasqueradeCIDRs: 7\n"
	suspiciousText = "nonMasqueradeCIDRs: [10.3.0.0/16]\nresyscInterval: 5s\n"

	good       = "IPv4 169.254.0.0/16 10.1.0.0/16"
	other      = "IPv4 169.254.0.0/16 10.2.0.0/16"
	suspicious = "IPv4 169.254.0.0/16 10.3.0.0/16"
	byDefault  = "IPv4 169.254.0.0/16 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16"

	soon = 50 * time.Millisecond // after a change; less than the shortest interval
	tick = time.Minute           // the default interval
)

// step is something that happens, and what the agent makes of it.
type step struct {
	does   func(*testing.T, *world)
	lasts  time.Duration
	writes []string
	logs   []string
}

func holds(text string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) { t.Helper(); w.holds(t, text) }
}

func vanishes(t *testing.T, w *world) { t.Helper(); w.vanishes(t) }

func flushes(_ *testing.T, w *world) { w.kernel.flush() }

func rests(*testing.T, *world) {}

func refuses(reason string) func(*testing.T, *world) {
	return func(_ *testing.T, w *world) { w.kernel.refuses(ruleset.IPv4, reason) }
}

func all(events ...func(*testing.T, *world)) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		t.Helper()
		for _, event := range events {
			event(t, w)
		}
	}
}

func TestLoop(t *testing.T) {
	const (
		applied   = "configuration applied source=file"
		refusal   = "configuration file refused"
		problem   = "problem in the configuration file severity=fatal path=nonMasqueradeCIDRs[0] line=1"
		misspelt  = "problem in the configuration file severity=suspicious path=resyscInterval line=2"
		fresh     = "no configuration file, so the defaults are in force"
		notHeld   = "kernel does not hold the rules family=IPv4 error=applying IPv4 rules: "
		heldAgain = "kernel holds the rules again family=IPv4"
	)
	for _, test := range []struct {
		name  string
		steps []step
	}{
		{"the file changes", []step{
			{holds(goodText), soon, []string{good}, []string{applied}},
			{rests, 3 * tick, nil, nil},
			{holds(otherText), soon, []string{other}, []string{applied}},
			{holds(goodText), soon, []string{good}, []string{applied}},
			{holds(goodText + "# a comment\n"), soon, nil, []string{applied}},
		}},
		{"the file is missing, comes and goes", []step{
			{rests, soon, []string{byDefault}, []string{fresh, "configuration applied source=defaults"}},
			{rests, 3 * tick, nil, nil},
			{holds(goodText), soon, []string{good}, []string{applied}},
			{vanishes, soon, []string{byDefault}, []string{fresh, "configuration applied source=defaults"}},
			{rests, 3 * tick, nil, nil},
			{holds(badText), soon, nil, []string{refusal + " inForce=defaults", problem}},
			{vanishes, soon, nil, []string{fresh}},
		}},
		{"a bad file freezes nothing", []step{
			{holds(goodText), soon, []string{good}, []string{applied}},
			{holds(badText), soon, nil, []string{
				refusal + " inForce=last-valid", problem, "configuration applied source=last-valid",
			}},
			{rests, 3 * tick, nil, nil},
			{flushes, tick, []string{good}, []string{"drift healed: something else had changed the rules family=IPv4 drift=[chain-changed]"}},
			{rests, tick, nil, nil},
			{holds(otherBadText), soon, nil, []string{
				refusal + " inForce=last-valid", "problem in the configuration file severity=fatal path=nonMasqueradeCIDRs line=1",
			}},
			{holds(otherText), soon, []string{other}, []string{applied}},
		}},
		{"a suspicious file loads and is told once", []step{
			{holds(suspiciousText), soon, []string{suspicious}, []string{misspelt, applied}},
			{rests, 3 * tick, nil, nil},
			{flushes, tick, []string{suspicious}, []string{"drift healed: something else had changed the rules family=IPv4 drift=[chain-changed]"}},
		}},
		{"a fight over the rules is told once", []step{
			{holds(quickText), soon, []string{good}, []string{applied}},
			{flushes, 2 * time.Second, []string{good}, []string{"drift healed: something else had changed the rules family=IPv4 drift=[chain-changed]"}},
			{flushes, 2 * time.Second, []string{good}, nil},
			{flushes, 2 * time.Second, []string{good}, nil},
			{rests, 2 * time.Second, nil, nil},
			{flushes, 2 * time.Second, []string{good}, []string{"drift healed: something else had changed the rules family=IPv4 drift=[chain-changed]"}},
		}},
		{"the kernel refuses for a while", []step{
			{all(refuses("locked"), holds(goodText)), soon, nil, []string{notHeld + "locked"}},
			{rests, 10 * time.Second, nil, nil},
			{refuses("no memory"), 10 * time.Second, nil, []string{notHeld + "no memory"}},
			{refuses(""), 20 * time.Second, []string{good}, []string{heldAgain, applied}},
			{rests, 3 * tick, nil, nil},
		}},
		{"the kernel refuses a change", []step{
			{holds(goodText), soon, []string{good}, []string{applied}},
			{all(refuses("locked"), holds(otherText)), soon, nil, []string{notHeld + "locked"}},
			{refuses(""), time.Second, []string{other}, []string{heldAgain, applied}},
		}},
		{"a shorter interval holds at once", []step{
			{holds(goodText), soon, []string{good}, []string{applied}},
			{holds(quickText), soon, nil, []string{applied}},
			{flushes, 2 * time.Second, []string{good}, []string{"drift healed: something else had changed the rules family=IPv4 drift=[chain-changed]"}},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, options{})
				runSteps(t, w, test.steps)
			})
		})
	}
}

// runSteps does what the first step does before the agent starts.
func runSteps(t *testing.T, w *world, steps []step) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer func() { cancel(); synctest.Wait() }()
	for i, step := range steps {
		step.does(t, w)
		if i == 0 {
			go w.syncer.run(ctx, w.changes, w.notices)
		}
		time.Sleep(step.lasts)
		synctest.Wait()
		if diff := cmp.Diff(step.writes, w.wrote()); diff != "" {
			t.Errorf("step %d: writes differ (-want +got):\n%s", i+1, diff)
		}
		if diff := cmp.Diff(step.logs, w.logged(t)); diff != "" {
			t.Errorf("step %d: log differs (-want +got):\n%s", i+1, diff)
		}
	}
}

// TestOverrides has the labels of the node change, vanish and break.
func TestOverrides(t *testing.T) {
	const text = "nonMasqueradeCIDRs: [10.1.0.0/16]\nnodeOverrides:\n- matchLabels: {pool: edge}\n  nonMasqueradeCIDRs: [10.2.0.0/16]\n"
	synctest.Test(t, func(t *testing.T) {
		labels := filepath.Join(t.TempDir(), "labels")
		w := newWorld(t, options{labelsPath: labels})
		writes := func(text string) {
			if err := os.WriteFile(labels, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		w.holds(t, text)
		for _, step := range []struct {
			name   string
			does   func()
			writes []string
			logs   []string
			told   string
		}{
			{"no labels file", func() {}, []string{good}, []string{
				"no file of node labels, so no override is in force", "configuration applied source=file",
			}, ""},
			{"labels of an override", func() { writes("pool=\"edge\"\n") }, []string{other}, []string{"configuration applied source=file"}, "nodeOverrides[0]"},
			{"more labels", func() { writes("pool=\"edge\"\nx=y\n") }, nil, nil, "nodeOverrides[0]"},
			{"a bad labels file", func() { writes("pool") }, []string{good}, []string{
				"file of node labels ignored, so no override is in force error=line 1: \"pool\" is not key=\"value\"", "configuration applied source=file",
			}, ""},
			{"labels again", func() { writes("pool=edge") }, []string{other}, []string{"configuration applied source=file"}, "nodeOverrides[0]"},
			{"a bad file keeps the override", func() { w.holds(t, badText) }, nil, []string{
				"configuration file refused inForce=last-valid",
				"problem in the configuration file severity=fatal path=nonMasqueradeCIDRs[0] line=1",
				"configuration applied source=last-valid",
			}, "nodeOverrides[0]"},
			{"and labels still count", func() { writes("pool=batch") }, []string{good}, []string{"configuration applied source=last-valid"}, ""},
		} {
			step.does()
			w.syncer.pass(t.Context())
			if diff := cmp.Diff(step.writes, w.wrote()); diff != "" {
				t.Errorf("%s: writes (-want +got):\n%s", step.name, diff)
			}
			if diff := cmp.Diff(step.logs, w.logged(t)); diff != "" {
				t.Errorf("%s: log (-want +got):\n%s", step.name, diff)
			}
			if got := w.syncer.status.Load().inForce.override; got != step.told {
				t.Errorf("%s: override %q, want %q", step.name, got, step.told)
			}
		}
	})
}

func TestRetriesSlowDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, options{})
		w.kernel.refuses(ruleset.IPv4, "locked")
		started := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		go w.syncer.run(ctx, w.changes, w.notices)

		var at []time.Duration
		for seen := 0; len(at) < 9; time.Sleep(100 * time.Millisecond) {
			synctest.Wait()
			if now := w.attempts(); now != seen {
				seen = now
				at = append(at, time.Since(started).Truncate(100*time.Millisecond))
			}
		}
		cancel()
		synctest.Wait()
		want := []time.Duration{
			0, 1 * time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second,
			31 * time.Second, 61 * time.Second, 91 * time.Second, 121 * time.Second,
		}
		if diff := cmp.Diff(want, at); diff != "" {
			t.Errorf("attempts differ (-want +got):\n%s", diff)
		}
	})
}

func TestChangesComeInBursts(t *testing.T) {
	for _, test := range []struct {
		name     string
		every    time.Duration
		lasts    time.Duration
		attempts int // after the first one
	}{
		{"one change", time.Millisecond, time.Millisecond, 1},
		{"a burst", time.Millisecond, 60 * time.Millisecond, 1},
		{"no end of changes", 7 * time.Millisecond, time.Second, 10},
		{"changes with time between", 50 * time.Millisecond, 150 * time.Millisecond, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, options{})
				ctx, cancel := context.WithCancel(t.Context())
				go w.syncer.run(ctx, w.changes, w.notices)
				synctest.Wait()
				for since := time.Duration(0); since < test.lasts; since += test.every {
					w.notify()
					time.Sleep(test.every)
				}
				time.Sleep(time.Second)
				cancel()
				synctest.Wait()
				if got := w.attempts() - 1; got != test.attempts {
					t.Errorf("%d passes, want %d", got, test.attempts)
				}
			})
		})
	}
}

func TestOneFamilyFails(t *testing.T) {
	const text = "nonMasqueradeCIDRs: [10.1.0.0/16, 'fd00::/8']\n"
	for _, test := range []struct {
		name    string
		refuses ruleset.Family
		writes  []string
		logs    []string
	}{
		{"IPv4", ruleset.IPv4, []string{"IPv6 fe80::/10 fd00::/8"}, []string{
			"kernel does not hold the rules family=IPv4 error=applying IPv4 rules: no such table",
		}},
		{"IPv6", ruleset.IPv6, []string{"IPv4 169.254.0.0/16 10.1.0.0/16"}, []string{
			"kernel does not hold the rules family=IPv6 error=applying IPv6 rules: no such table",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := options{}
				opts.config.IPv6 = true
				w := newWorld(t, opts)
				w.kernel.refuses(test.refuses, "no such table")
				runSteps(t, w, []step{{holds(text), soon, test.writes, test.logs}})
				failed := ""
				for _, f := range w.syncer.status.Load().families {
					if f.failure != "" {
						failed += f.version.String()
					}
				}
				if failed != test.refuses.String() {
					t.Errorf("%q failed as the status has it, want %s", failed, test.refuses)
				}
			})
		})
	}
}

func TestFirstStartWithBadFile(t *testing.T) {
	const (
		refusal = "configuration file refused inForce="
		problem = "problem in the configuration file severity=fatal path=nonMasqueradeCIDRs[0] line=1"
		ignored = "last valid configuration ignored"
	)
	for _, test := range []struct {
		name   string
		state  string // content of the state file; "" for none
		writes []string
		logs   []string
	}{
		{"no state", "", []string{byDefault}, []string{refusal + "defaults", problem, "configuration applied source=defaults"}},
		{
			"state", "ip-masq-guard last valid configuration, version 1, sha256 " +
				"ad2f7ae24bbd6fd44e955c9818f56129470e1e403edf71f362876b1a379aad49\nnonMasqueradeCIDRs: [10.1.0.0/16]\n",
			[]string{good},
			[]string{refusal + "last-valid", problem, "configuration applied source=last-valid"},
		},
		{
			"state with a changed text", "ip-masq-guard last valid configuration, version 1, sha256 " +
				"ad2f7ae24bbd6fd44e955c9818f56129470e1e403edf71f362876b1a379aad49\nnonMasqueradeCIDRs: [10.9.0.0/16]\n",
			[]string{byDefault},
			[]string{
				ignored + " error=loading the last valid configuration: STATE is corrupt: the checksum of its text is " +
					"5ac254c13aa5d936de97c6f9a94b8821092355dd8f7fca1938c8bc7801f8a691, not ad2f7ae24bbd6fd44e955c9818f56129470e1e403edf71f362876b1a379aad49",
				refusal + "defaults", problem, "configuration applied source=defaults",
			},
		},
		{
			"state of another program", "nonMasqueradeCIDRs: [10.1.0.0/16]\n",
			[]string{byDefault},
			[]string{
				ignored + " error=loading the last valid configuration: STATE is corrupt: it does not begin with " +
					`"ip-masq-guard last valid configuration, version 1, sha256 "`,
				refusal + "defaults", problem, "configuration applied source=defaults",
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := options{stateDir: t.TempDir()}
				w := newWorld(t, opts)
				state := filepath.Join(opts.stateDir, "last-valid")
				if test.state != "" {
					if err := os.WriteFile(state, []byte(test.state), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				for i, line := range test.logs {
					test.logs[i] = strings.ReplaceAll(line, "STATE", state)
				}
				runSteps(t, w, []step{
					{holds(badText), soon, test.writes, test.logs},
					{rests, 3 * tick, nil, nil},
					{holds(otherText), soon, []string{other}, []string{"configuration applied source=file"}},
				})
				next := newWorld(t, options{stateDir: opts.stateDir})
				runSteps(t, next, []step{{
					holds(badText), soon,
					[]string{other},
					[]string{refusal + "last-valid", problem, "configuration applied source=last-valid"},
				}})
			})
		})
	}
}

// TestStateIsReadWithTheFlagsOfToday: what an agent with IPv6 kept means nothing to
// one without, and is there again when the flag comes back.
func TestStateIsReadWithTheFlagsOfToday(t *testing.T) {
	dir := t.TempDir()
	start := func(ipv6 bool, text string) []string {
		var writes []string
		synctest.Test(t, func(t *testing.T) {
			opts := options{stateDir: dir}
			opts.config.IPv6 = ipv6
			w := newWorld(t, opts)
			w.holds(t, text)
			w.syncer.pass(t.Context())
			writes = w.wrote()
		})
		return writes
	}
	six := []string{"IPv4 169.254.0.0/16", "IPv6 fe80::/10 fd00::/8"}
	for i, run := range []struct {
		ipv6 bool
		text string
		want []string
	}{
		{true, "nonMasqueradeCIDRs: ['fd00::/8']\n", six},
		{true, badText, six},
		{false, badText, []string{byDefault}},
		{true, badText, six},
	} {
		if diff := cmp.Diff(run.want, start(run.ipv6, run.text)); diff != "" {
			t.Errorf("run %d: writes differ (-want +got):\n%s", i+1, diff)
		}
	}
}

func TestStateCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blocked := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(blocked, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, options{stateDir: blocked})
		runSteps(t, w, []step{
			{holds(goodText), soon, []string{good}, []string{
				"configuration applied source=file",
				"configuration would not survive a restart with a bad file error=saving the last valid configuration: mkdir " +
					blocked + ": not a directory",
			}},
			{rests, 3 * tick, nil, nil},
			{holds(otherText), soon, []string{other}, []string{"configuration applied source=file"}},
		})
	})
}

// TestRandomWalk: wherever the files of a walk lead, the rules in force are those
// of a fresh start with the same file and state.
func TestRandomWalk(t *testing.T) {
	const walks, length = 40, 25
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	texts := []string{goodText, otherText, quickText, badText, otherBadText, suspiciousText, "", "\t\x00", "{}"}
	for range walks {
		synctest.Test(t, func(t *testing.T) {
			opts := options{stateDir: t.TempDir(), configPath: filepath.Join(t.TempDir(), "ip-masq-agent")}
			opts.config.IPv6 = random.IntN(2) == 0
			w := newWorld(t, opts)
			ctx, cancel := context.WithCancel(t.Context())
			go w.syncer.run(ctx, w.changes, w.notices)
			var walk []string
			for range length {
				synctest.Wait()
				switch choice := random.IntN(len(texts) + 3); choice {
				case len(texts):
					w.vanishes(t)
					walk = append(walk, "(missing)")
				case len(texts) + 1:
					w.kernel.flush()
					walk = append(walk, "(flushed)")
				case len(texts) + 2:
					refuses([]string{"", "locked"}[random.IntN(2)])(t, w)
					walk = append(walk, "(refusing or not)")
				default:
					w.holds(t, texts[choice])
					walk = append(walk, texts[choice])
				}
				time.Sleep(time.Duration(random.IntN(int(2 * tick))))
			}
			refuses("")(t, w)
			time.Sleep(tick)
			cancel()
			synctest.Wait()

			fresh := newWorld(t, opts)
			fresh.syncer.pass(t.Context())
			if diff := cmp.Diff(fresh.kernel.held, w.kernel.held); diff != "" {
				t.Errorf("walk %q ends otherwise than a fresh start (-fresh +walk):\n%s", walk, diff)
			}
			if len(w.kernel.held) != len(opts.families()) {
				t.Errorf("walk %q: rules of %d families, want %d", walk, len(w.kernel.held), len(opts.families()))
			}
		})
	}
}
