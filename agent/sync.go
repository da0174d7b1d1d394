//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/nftables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/notify"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

const (
	// applyTimeout bounds one family's turn. Waiting for the xtables lock is the
	// longest part of it; what is under way at a SIGTERM is finished within a
	// pod's usual grace of 30 seconds.
	applyTimeout = 12 * time.Second
)

// kernel makes the nat table of the node hold a ruleset, and tells what differed;
// Inspect only tells.
type kernel interface {
	Apply(ctx context.Context, want ruleset.Ruleset) ([]iptables.Drift, error)
	Inspect(ctx context.Context, want ruleset.Ruleset) ([]iptables.Drift, error)
}

// flows are the connections that the kernel knows. Forget deletes those of one family that
// a change treats otherwise, and tells how many; Decision is the one after it.
type flows interface {
	Forget(ctx context.Context, changed ruleset.Changed, after ruleset.Decision) (int, error)
}

// syncer carries the file into the kernel. One goroutine runs it and owns its
// state; others read its status.
type syncer struct {
	opts    options
	kernel  kernel
	flows   flows // nil: they keep the treatment of their first packet
	store   store
	log     *slog.Logger
	metrics *metrics
	about   about

	masqueraders *masqueraders
	surveyDue    bool                   // our rules have changed
	status       atomic.Pointer[status] // never nil

	labels   nodeLabels
	seen     *reading            // what was judged last; nil before the first pass
	parts    map[string]keptFile // of a directory: the last valid text of each file
	told     *reading            // what the published status tells of
	problems []config.Problem    // of the text in the file
	force    inForce
	families []*family

	witness  witness       // nil where the kernel tells nothing
	by       notify.Change // what it told before the last pass
	healing  allowance     // for passes that it asks for
	fighting bool          // the allowance was spent, which is logged once

	retry      time.Duration // the last wait after a failure; 0 after a success
	announced  inForceName   // what was last said to be applied
	storeError string        // the last one logged; empty when the store works
	flowsError string        // the last one logged; empty when flows could be forgotten
}

// inForce is the configuration that the kernel is to hold.
type inForce struct {
	inForceName
	whole  config.Config // with the overrides of all nodes
	config config.Config // what holds on this one; enforce sets it
	text   []byte        // what it was parsed from; nil for defaults
}

// inForceName is how logs and metrics name a configuration.
type inForceName struct {
	digest   string // of the text; empty for defaults
	origin   origin
	override string // the path of the override that holds on this node; empty for none
}

func (n inForceName) String() string {
	if n.digest == "" {
		return string(n.origin)
	}
	name := fmt.Sprintf("%s, sha256 %s", n.origin, n.digest)
	if n.override != "" {
		name += ", " + n.override
	}
	return name
}

// family is the state of one IP version.
type family struct {
	version ruleset.Family
	want    ruleset.Ruleset
	held    bool             // the kernel held want at some time, so that a difference is drift
	drift   []iptables.Drift // of the last pass: a fight over the rules is logged once
	failure string           // of the last pass; empty when it succeeded

	treated    *ruleset.Decision // by which the flows are treated that there are; nil: not known
	verifiedAt time.Time         // when the kernel was last seen to hold want; zero when it never was
	drifts     map[ruleset.Drift]int
}

func newSyncer(opts options, kernel kernel, log *slog.Logger) *syncer {
	s := &syncer{
		opts: opts, kernel: kernel, store: store{dir: opts.stateDir}, log: log, labels: nodeLabels{path: opts.labelsPath},
		metrics: newMetrics(buildVersion(), opts.families()),
	}
	s.masqueraders = newMasqueraders(s.metrics, log)
	for _, version := range opts.families() {
		s.families = append(s.families, &family{version: version, drifts: map[ruleset.Drift]int{}})
	}
	if opts.flushConntrack {
		s.flows = iptables.Conntrack{}
	}
	s.status.Store(&status{due: time.Now(), file: fileStatus{path: opts.source(), state: fileUnread}})
	s.metrics.asExpected(func() bool { return s.view().checkDigest() == nil })
	return s
}

// run passes now, after every change of the file or of the rules by others, and at
// the configuration's interval, until ctx ends.
func (s *syncer) run(ctx context.Context, file, rules <-chan struct{}) {
	var fileChanges, ruleChanges burst
	next := time.NewTimer(0)
	defer next.Stop()
	tick := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-file:
			fileChanges.add(time.Now())
		case <-rules:
			s.disturbed(ctx, &ruleChanges)
		case <-next.C:
			began := time.Now()
			wait := s.pass(ctx)
			if ruleChanges.due(began) {
				s.healing.spend(time.Now(), time.Since(began))
				s.metrics.wakeups.Inc()
			}
			tick = time.Now().Add(wait)
			fileChanges, ruleChanges = burst{}, burst{}
		}
		next.Reset(time.Until(earliest(tick, fileChanges.at, ruleChanges.at)))
	}
}

// pass makes the kernel hold what the file says and returns when to do so again.
func (s *syncer) pass(ctx context.Context) time.Duration {
	// A signal ends the agent after this pass rather than in the midst of it.
	ctx = context.WithoutCancel(ctx)
	began := time.Now()

	settle := s.look()
	if s.labels.look(ctx, s.log) && s.seen != nil {
		s.enforce(s.force)
	}
	timed := s.metrics.timed("read")
	now := s.opts.read()
	timed()
	s.observe(ctx, now)
	wrote, err := s.apply(ctx)
	s.metrics.passed(err, time.Since(began))
	s.announce(ctx, err)
	timed = s.metrics.timed("save")
	s.remember(ctx)
	timed()

	wait := s.wait(err)
	s.publish(began, wait)
	switch {
	case err != nil: // the next pass comes soon
	case wrote:
		s.verify(ctx)
	default:
		settle()
	}
	if s.surveyDue {
		s.surveyDue = false
		s.masqueraders.look(s.places())
	}
	return wait
}

// observe decides what is in force, after a look at the file.
func (s *syncer) observe(ctx context.Context, now reading) {
	if s.seen != nil && s.seen.equal(now) {
		return
	}
	if s.opts.configDir != "" {
		s.observeDirectory(ctx, now)
		return
	}
	first := s.seen == nil
	if first && s.flows != nil {
		s.recall()
	}
	s.seen = &now
	s.problems = nil
	if now.missing {
		s.log.InfoContext(ctx, "no configuration file, so the defaults are in force", "config", s.opts.configPath)
		s.enforce(s.defaults())
		s.metrics.judged(nil)
		return
	}
	timed := s.metrics.timed("parse")
	v := now.judge(s.opts.config)
	timed()
	s.problems = v.problems
	s.metrics.judged(v.problems)
	if !refused(v.problems) {
		s.logProblems(ctx, v.problems)
		s.enforce(inForce{inForceName: inForceName{digest: config.Digest(now.text), origin: fromFile}, whole: v.config, text: now.text})
		return
	}
	switch {
	case first:
		s.enforce(s.fallback(ctx))
	case s.force.origin == fromFile:
		s.force.origin = fromLastValid
	}
	s.log.ErrorContext(ctx, "configuration file refused",
		"config", s.opts.configPath, "digest", config.Digest(now.text), "inForce", s.force.origin, "inForceDigest", s.force.digest)
	s.logProblems(ctx, v.problems)
}

func (s *syncer) logProblems(ctx context.Context, problems []config.Problem) {
	for i, p := range problems {
		if i == maxTold {
			s.log.WarnContext(ctx, "more problems in the configuration file", "more", len(problems)-maxTold)
			break
		}
		level := slog.LevelWarn
		if p.Severity == config.Fatal {
			level = slog.LevelError
		}
		s.log.Log(ctx, level, "problem in the configuration file",
			"severity", p.Severity.String(), "code", p.Code, "file", p.File, "path", p.Path, "line", p.Line, "column", p.Column,
			"message", p.Message, "remedy", p.Remedy)
	}
}

// defaults are in force without a file. The flags cannot refuse them.
func (s *syncer) defaults() inForce {
	c, _ := config.Default().For(s.opts.config)
	return inForce{inForceName: inForceName{origin: fromDefaults}, whole: c}
}

// fallback is in force when the file is refused before any text was valid: the
// last valid text of an earlier run, or else the defaults.
func (s *syncer) fallback(ctx context.Context) inForce {
	text, err := s.store.load()
	if errors.Is(err, fs.ErrNotExist) {
		return s.defaults()
	}
	if err != nil {
		s.log.WarnContext(ctx, "last valid configuration ignored", "error", err)
		return s.defaults()
	}
	v := judge(text, s.opts.config)
	if refused(v.problems) {
		s.log.WarnContext(ctx, "last valid configuration ignored, these flags refuse it", "digest", config.Digest(text))
		s.logProblems(ctx, v.problems)
		return s.defaults()
	}
	return inForce{inForceName: inForceName{digest: config.Digest(text), origin: fromLastValid}, whole: v.config, text: text}
}

// enforce makes want the configuration in force, as it holds on a node with these
// labels; apply carries it out.
func (s *syncer) enforce(want inForce) {
	effective, index := want.whole.On(s.labels.labels)
	want.config, want.override = effective, ""
	if index >= 0 {
		want.override = want.whole.Place(index).String()
	}
	s.force = want
	s.retry = 0
	for _, f := range s.families {
		timed := s.metrics.timedOf("build", f.version)
		rules := ruleset.Build(want.config, f.version, s.opts.rules)
		timed()
		if !rules.Equal(f.want) {
			f.want, f.held, f.verifiedAt = rules, false, time.Time{}
		}
	}
}

// apply makes the kernel hold what is in force, and tells whether anything was
// written. A family that fails does not stop the other.
func (s *syncer) apply(ctx context.Context) (wrote bool, err error) {
	errs := make([]error, 0, len(s.families))
	for _, f := range s.families {
		drift, err := s.applyFamily(ctx, f)
		errs = append(errs, err)
		wrote = wrote || len(drift) > 0
	}
	return wrote, errors.Join(errs...)
}

func (s *syncer) applyFamily(ctx context.Context, f *family) ([]iptables.Drift, error) {
	name := f.version.String()
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	drift, err := s.kernel.Apply(s.metrics.trace(ctx, f.version), f.want)
	s.metrics.verified(f.version, err)
	if err != nil {
		err = fmt.Errorf("applying %s rules: %w", name, err)
		if f.failure != err.Error() {
			s.log.ErrorContext(ctx, "kernel does not hold the rules", "family", name, "error", err)
		}
		f.failure = err.Error()
		return drift, err
	}
	f.verifiedAt = time.Now()
	if f.failure != "" {
		s.log.InfoContext(ctx, "kernel holds the rules again", "family", name)
		f.failure = ""
	}
	if !f.held {
		s.forget(ctx, f)
		s.log.DebugContext(ctx, "rules written", "family", name, "difference", drift)
		f.held, f.drift = true, nil
		return drift, nil
	}
	s.metrics.drifted(f.version, drift)
	for _, kind := range drift {
		f.drifts[kind]++
	}
	if len(drift) > 0 && !slices.Equal(drift, f.drift) {
		s.log.WarnContext(ctx, "drift healed: something else had changed the rules", "family", name, "drift", drift,
			"by", author{s.by})
	}
	f.drift = drift
	return drift, nil
}

// forget makes flows that were there before a change follow it.
func (s *syncer) forget(ctx context.Context, f *family) {
	before, after := f.treated, f.want.Decision
	f.treated = &after
	if s.flows == nil || before == nil {
		return
	}
	changed, err := ruleset.Compare(*before, after)
	n := 0
	if err == nil && !changed.Empty() {
		n, err = s.flows.Forget(ctx, changed, after)
	}
	s.metrics.forgot(f.version, n)
	if n > 0 {
		s.log.InfoContext(ctx, "flows forgotten whose destinations are treated otherwise now", "family", f.version.String(), "flows", n)
	}
	message := ""
	if err != nil {
		message = err.Error()
	}
	if message != "" && message != s.flowsError {
		s.log.WarnContext(ctx, "flows keep the treatment of their first packet", "family", f.version.String(), "error", err)
	}
	s.flowsError = message
}

// kept is the last valid configuration of an earlier run.
func (s *syncer) kept() (_ config.Config, ok bool) {
	if s.opts.configDir != "" {
		return s.keptFiles()
	}
	text, err := s.store.load()
	if err != nil {
		return config.Config{}, false
	}
	v := judge(text, s.opts.config)
	return v.config, !refused(v.problems)
}

// recall assumes that the flows of before the start are treated as the last valid
// configuration has it. The kernel forgets flows and rules at once, when it is
// booted.
func (s *syncer) recall() {
	whole, ok := s.kept()
	if !ok {
		return
	}
	effective, _ := whole.On(s.labels.labels)
	for _, f := range s.families {
		before := ruleset.Decide(effective, f.version, s.opts.rules)
		f.treated = &before
	}
}

// announce tells once that another configuration is in force in the kernel.
func (s *syncer) announce(ctx context.Context, err error) {
	s.metrics.inForce(s.force)
	if err != nil || s.announced == s.force.inForceName {
		return
	}
	s.announced = s.force.inForceName
	s.surveyDue = true
	defer debug.FreeOSMemory() // what parsing took is not needed until the next change
	s.log.InfoContext(ctx, "configuration applied",
		"digest", s.force.digest, "source", s.force.origin, "override", s.force.override, "cidrs", len(s.force.config.NonMasquerade),
		"resyncInterval", s.force.config.Resync.String())
}

// remember keeps what is in force for a restart. It comes after the kernel, as a
// disk may be slow. When the defaults are in force for want of a valid text, what is
// kept stays: other flags may load it again.
func (s *syncer) remember(ctx context.Context) {
	var err error
	switch {
	case s.opts.configDir != "":
		err = s.rememberFiles()
	case s.force.text != nil:
		err = s.store.save(s.force.text)
	case s.seen.missing:
		err = s.store.clear()
	}
	message := ""
	if err != nil {
		message = err.Error()
	}
	if message != "" && message != s.storeError {
		s.log.WarnContext(ctx, "configuration would not survive a restart with a bad file", "error", err)
	}
	s.storeError = message
}

// wait is the time to the next pass when nothing happens.
func (s *syncer) wait(err error) time.Duration {
	resync := s.force.config.Resync
	if err == nil {
		s.retry = 0
		return resync
	}
	s.retry = min(max(firstRetry, 2*s.retry), lastRetry, resync)
	return s.retry
}

// publish tells others what this pass has found.
func (s *syncer) publish(began time.Time, wait time.Duration) {
	before := s.status.Load()
	now := &status{
		passed: began, due: time.Now().Add(wait), interval: s.force.config.Resync,
		inForce: s.force.inForceName, inForceSince: before.inForceSince, applied: before.applied, file: before.file,
	}
	if before.inForce != now.inForce || now.inForceSince.IsZero() {
		now.inForceSince = began
	}
	right := true
	for _, f := range s.families {
		right = right && f.failure == ""
		drift := map[ruleset.Drift]int{}
		for _, kind := range drifts() {
			drift[kind] = f.drifts[kind]
		}
		now.families = append(now.families, familyStatus{
			version: f.version, verifiedAt: f.verifiedAt, failure: f.failure, rules: s.rules(f), setEntries: s.setEntries(f), drift: drift,
		})
	}
	if right && (now.applied == nil || now.applied.digest != now.inForce.digest) {
		now.applied = &applied{digest: now.inForce.digest, since: time.Now()}
	}
	if s.told != s.seen {
		s.told = s.seen
		now.file = s.fileStatus(began)
	}
	s.metrics.published(now)
	s.status.Store(now)
}

// rules is how many the kernel is to hold of a family, the jump included.
func (s *syncer) rules(f *family) int {
	if s.about.backend == string(nativeTable) {
		return nftables.Rules(f.want)
	}
	return len(f.want.Rules) + 1
}

// setEntries is how many the set of a family has that the kernel is to hold; 0 without a
// set.
func (s *syncer) setEntries(f *family) int {
	switch {
	case s.about.backend == string(nativeTable):
		return nftables.Elements(f.want)
	case f.want.Set == nil:
		return 0
	default:
		return len(f.want.Set.Entries)
	}
}

// fileStatus is what the last reading was like; the worst problems come first.
func (s *syncer) fileStatus(since time.Time) fileStatus {
	now := fileStatus{path: s.opts.source(), state: fileLoaded, since: since, counts: map[config.Severity]int{}}
	switch {
	case s.seen.missing:
		now.state = fileMissing
	case refused(s.problems):
		now.state = fileRefused
	}
	for _, severity := range []config.Severity{config.Fatal, config.Suspicious} {
		for _, p := range s.problems {
			if p.Severity != severity {
				continue
			}
			now.counts[severity]++
			if len(now.problems) < maxTold {
				now.problems = append(now.problems, p)
			}
		}
	}
	return now
}

// view is what a question now is answered from.
func (s *syncer) view() view {
	return view{s.status.Load(), s.about, expect(s.opts.expectedDigest), s.masqueraders.latest.Load(), time.Now()}
}
