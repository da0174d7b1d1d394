package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// A ConfigMap with this label in the webhook's namespace is a set of rules.
const (
	ruleLabel      = "ip-masq-guard.io/policy"
	ruleLabelValue = "rego"
)

const (
	// ruleSettle is how long changes of rule sets are gathered: kubectl apply of a
	// folder writes several ConfigMaps.
	ruleSettle = 100 * time.Millisecond

	// keptKey of the ConfigMap that keeps rule sets over a restart holds gzipped JSON:
	// by set, by file.
	keptKey = "rule-sets.json.gz"

	maxKeptBytes = 32 << 20 // of the JSON; a ConfigMap has at most 1 MiB of gzip
	keepTimeout  = 10 * time.Second
)

// ruleSet is the files of one ConfigMap, by key.
type ruleSet map[string]string

// setOf is the rules in a ConfigMap; binary values are files as well.
func setOf(data map[string]string, binary map[string][]byte) ruleSet {
	set := maps.Clone(ruleSet(data))
	if set == nil {
		set = ruleSet{}
	}
	for key, value := range binary {
		set[key] = string(value)
	}
	return set
}

// sources are the files of a set as policy takes them, named SET/KEY, in order.
func (s ruleSet) sources(name string) []policy.Source {
	sources := make([]policy.Source, 0, len(s))
	for _, key := range slices.Sorted(maps.Keys(s)) {
		if policy.IsSource(key) {
			sources = append(sources, policy.Source{Name: name + "/" + key, Text: []byte(s[key])})
		}
	}
	return sources
}

// ruleStore is where rule sets stand and are kept.
type ruleStore struct {
	client    coreclient.ConfigMapInterface // of the webhook's namespace
	namespace string
	kept      string // name of the ConfigMap that keeps the sets in force
}

// ruleWatch keeps the engine that decides: the built-in rules, those of --policy-dir, and
// the rule sets of the cluster. A set that does not compile does not come into force:
// what it was before stays, over a restart too, and the other sets change on.
type ruleWatch struct {
	params  policy.Params
	fixed   []policy.Source
	store   ruleStore
	metrics *metrics
	log     *slog.Logger

	engine  atomic.Pointer[policy.Engine]
	state   atomic.Pointer[rulesState]
	built   atomic.Bool   // the sets have been read once
	changed chan struct{} // of size one: a set has changed since the last build

	mu   sync.Mutex
	sets map[string]ruleSet // as they stand in the cluster

	inForce atomic.Pointer[map[string]ruleSet] // what engine was made of; never changed in place
	saved   map[string]ruleSet                 // what the kept ConfigMap holds; nil: not known; the run loop's
}

// rulesState is what is said of the rules in force.
type rulesState struct {
	Revision string      `json:"revision"`
	Since    time.Time   `json:"since"`
	Sets     []setStatus `json:"sets"`
}

type setStatus struct {
	Name   string   `json:"name"`
	State  string   `json:"state"` // "in-force", "last-good": an earlier version is, "left-out"
	Errors []string `json:"errors,omitempty"`
}

// Rule sets are in one of these states.
const (
	setInForce  = "in-force"
	setLastGood = "last-good"
	setLeftOut  = "left-out"
)

func newRuleWatch(params policy.Params, fixed []policy.Source, engine *policy.Engine, store ruleStore, own *metrics, log *slog.Logger) *ruleWatch {
	w := &ruleWatch{
		params: params, fixed: fixed, store: store, metrics: own, log: log,
		changed: make(chan struct{}, 1), sets: map[string]ruleSet{},
	}
	w.inForce.Store(&map[string]ruleSet{})
	w.engine.Store(engine)
	w.state.Store(&rulesState{Revision: engine.Revision(), Since: time.Now().UTC(), Sets: []setStatus{}})
	return w
}

// Decide is that of the engine in force.
func (w *ruleWatch) Decide(ctx context.Context, req policy.Request, cluster *policy.Cluster) policy.Decision {
	return w.engine.Load().Decide(ctx, req, cluster)
}

// ready tells why this replica does not decide by the cluster's rules yet, or nil.
func (w *ruleWatch) ready(*http.Request) error {
	if !w.built.Load() {
		return errors.New("the rule sets are not read yet")
	}
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every replica answers.
func (*ruleWatch) NeedLeaderElection() bool { return false }

// Start follows the rule sets until ctx ends. What was kept is in force at once where
// the sets of the cluster do not compile.
func (w *ruleWatch) Start(ctx context.Context) error {
	_, informer := toolscache.NewInformerWithOptions(toolscache.InformerOptions{
		ListerWatcher: w.listWatch(),
		ObjectType:    &corev1.ConfigMap{},
		Handler: toolscache.ResourceEventHandlerFuncs{
			AddFunc:    w.set,
			UpdateFunc: func(_, object any) { w.set(object) },
			DeleteFunc: w.forget,
		},
		Transform: func(object any) (any, error) {
			if c, ok := object.(*corev1.ConfigMap); ok {
				c.ManagedFields = nil
			}
			return object, nil
		},
	})
	var following sync.WaitGroup
	following.Go(func() { informer.RunWithContext(ctx) })
	defer following.Wait()
	if !toolscache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil // asked to stop
	}
	w.build(ctx, w.load(ctx))
	w.built.Store(true)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.changed:
			if sleep(ctx, ruleSettle) {
				w.build(ctx, *w.inForce.Load())
			}
		}
	}
}

func (w *ruleWatch) listWatch() *toolscache.ListWatch {
	selector := ruleLabel + "=" + ruleLabelValue
	return &toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.LabelSelector = selector
			return w.store.client.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector = selector
			return w.store.client.Watch(ctx, options)
		},
	}
}

func (w *ruleWatch) set(object any) {
	c, ok := object.(*corev1.ConfigMap)
	if !ok {
		return
	}
	now := setOf(c.Data, c.BinaryData)
	w.mu.Lock()
	before, known := w.sets[c.Name]
	w.sets[c.Name] = now
	w.mu.Unlock()
	if !known || !maps.Equal(before, now) {
		w.note()
	}
}

func (w *ruleWatch) forget(object any) {
	name := ""
	switch object := object.(type) {
	case *corev1.ConfigMap:
		name = object.Name
	case toolscache.DeletedFinalStateUnknown: // the watch was interrupted meanwhile
		_, name, _ = strings.Cut(object.Key, "/")
	}
	w.mu.Lock()
	delete(w.sets, name)
	w.mu.Unlock()
	w.note()
}

func (w *ruleWatch) note() {
	select {
	case w.changed <- struct{}{}:
	default: // it is remembered already
	}
}

// snapshot is the sets as they stand in the cluster.
func (w *ruleWatch) snapshot() map[string]ruleSet {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.sets)
}

// build makes an engine of the sets, with what was good before for those that do not
// compile, and puts it in force.
func (w *ruleWatch) build(ctx context.Context, good map[string]ruleSet) {
	select {
	case <-w.changed: // what follows sees it
	default:
	}
	began := time.Now()
	sets := w.snapshot()
	engine, statuses, chosen := w.choose(ctx, sets, good)
	if ctx.Err() != nil {
		return
	}
	if engine == nil { // not even the rules without sets compile, which they did at the start
		w.log.LogAttrs(ctx, slog.LevelError, "rule sets not taken: nothing compiles", slog.Any("sets", statuses))
		return
	}
	before := w.engine.Swap(engine)
	w.inForce.Store(&chosen)
	w.state.Store(&rulesState{Revision: engine.Revision(), Since: time.Now().UTC(), Sets: statuses})
	w.metrics.rulesInForce(engine.Revision(), statuses)
	w.tell(ctx, before.Revision(), engine.Revision(), statuses, time.Since(began))
	w.keep(ctx)
}

func (w *ruleWatch) tell(ctx context.Context, before, after string, statuses []setStatus, took time.Duration) {
	for _, s := range statuses {
		if s.State != setInForce {
			w.log.LogAttrs(ctx, slog.LevelError, "rule set not in force as it stands",
				slog.String("set", s.Name), slog.String("state", s.State), slog.Any("errors", s.Errors))
		}
	}
	if before != after {
		w.log.LogAttrs(ctx, slog.LevelInfo, "rules changed", slog.String("revision", after), slog.String("before", before),
			slog.Int("sets", len(statuses)), slog.Float64("seconds", took.Seconds()))
	}
}

// choose takes every set as it stands if they compile together. If not, it takes those
// that stand as they were good, then the others in the order of their names, and of one
// that does not compile with those what was good: a new set pushes no older one out.
func (w *ruleWatch) choose(ctx context.Context, sets, good map[string]ruleSet) (*policy.Engine, []setStatus, map[string]ruleSet) {
	c := &choice{watch: w, sets: sets, good: good, chosen: map[string]ruleSet{}, refused: map[string]error{}}
	names := slices.Sorted(maps.Keys(sets))
	if c.try(ctx, names, sets) != nil {
		unchanged := func(name string) bool { return maps.Equal(sets[name], good[name]) && good[name] != nil }
		changed := slices.DeleteFunc(slices.Clone(names), unchanged)
		left := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !unchanged(name) })
		c.add(ctx, left)
		c.add(ctx, changed)
		for before := 0; len(c.refused) != before && len(c.refused) > 0; { // one may have needed another behind it
			before = len(c.refused)
			for _, name := range slices.Sorted(maps.Keys(c.refused)) {
				c.addOne(ctx, name)
			}
		}
	}
	statuses := make([]setStatus, 0, len(names))
	for _, name := range names {
		status := setStatus{Name: name, State: setInForce}
		if err := c.refused[name]; err != nil {
			status.State = setLeftOut
			status.Errors = strings.Split(strings.TrimPrefix(err.Error(), "compiling rules: "), "\n")
			if _, kept := c.chosen[name]; kept {
				status.State = setLastGood
			}
		}
		statuses = append(statuses, status)
	}
	if c.engine == nil {
		c.engine, _ = policy.New(ctx, w.params, w.fixed)
	}
	return c.engine, statuses, c.chosen
}

// choice is what choose has come to.
type choice struct {
	watch      *ruleWatch
	sets, good map[string]ruleSet

	engine  *policy.Engine     // of what is chosen; nil: of nothing yet
	chosen  map[string]ruleSet // never changed in place
	refused map[string]error   // of sets as they stand
}

// try chooses these versions of sets beside what is chosen, if that compiles.
func (c *choice) try(ctx context.Context, names []string, from map[string]ruleSet) error {
	candidate := maps.Clone(c.chosen)
	for _, name := range names {
		candidate[name] = from[name]
	}
	made, err := policy.New(ctx, c.watch.params, c.watch.with(candidate))
	if err == nil {
		c.engine, c.chosen = made, candidate
	}
	return err
}

// add chooses what compiles of these sets. It halves them where they do not compile
// together: one broken set among n costs log n compilations, not n.
func (c *choice) add(ctx context.Context, names []string) {
	switch len(names) {
	case 0:
		return
	case 1:
		c.addOne(ctx, names[0])
		return
	}
	if ctx.Err() != nil || c.try(ctx, names, c.sets) == nil {
		return
	}
	c.add(ctx, names[:len(names)/2])
	c.add(ctx, names[len(names)/2:])
}

// addOne chooses a set as it stands, or what was good of it, and tells why.
func (c *choice) addOne(ctx context.Context, name string) {
	err := c.try(ctx, []string{name}, c.sets)
	if err == nil {
		delete(c.refused, name)
		return
	}
	c.refused[name] = err
	earlier, ok := c.good[name]
	if _, chosen := c.chosen[name]; ok && !chosen && !maps.Equal(earlier, c.sets[name]) {
		_ = c.try(ctx, []string{name}, c.good) // it is left out where not even that compiles
	}
}

// with is the fixed rules and the sets.
func (w *ruleWatch) with(sets map[string]ruleSet) []policy.Source {
	sources := slices.Clone(w.fixed)
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		sources = append(sources, sets[name].sources(name)...)
	}
	return sources
}

// beside is every custom rule in force but those of one set.
func (w *ruleWatch) beside(name string) []policy.Source {
	sets := maps.Clone(*w.inForce.Load())
	delete(sets, name)
	return w.with(sets)
}

// load reads the kept sets. Without them a set that does not compile is left out.
func (w *ruleWatch) load(ctx context.Context) map[string]ruleSet {
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	object, err := w.store.client.Get(ctx, w.store.kept, metav1.GetOptions{})
	if err == nil {
		w.saved, err = unpack(object.BinaryData[keptKey])
	}
	if err != nil && !apierrors.IsNotFound(err) {
		w.log.LogAttrs(ctx, slog.LevelWarn, "kept rule sets not read", slog.String("err", err.Error()))
	}
	return w.saved
}

// keep writes the sets in force where load finds them. Replicas that write the same do
// not hinder one another.
func (w *ruleWatch) keep(ctx context.Context) {
	inForce := *w.inForce.Load()
	if w.saved != nil && maps.EqualFunc(w.saved, inForce, maps.Equal[ruleSet, ruleSet]) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	packed, err := pack(inForce)
	if err == nil {
		var object *corev1.ConfigMap
		if object, err = w.store.client.Get(ctx, w.store.kept, metav1.GetOptions{}); err == nil {
			object.BinaryData = map[string][]byte{keptKey: packed}
			_, err = w.store.client.Update(ctx, object, metav1.UpdateOptions{FieldManager: "ip-masq-guard-rules"})
		}
	}
	switch {
	case err == nil:
		w.saved = inForce
	case apierrors.IsConflict(err): // another replica was faster, and will have written the same
		w.saved = nil
	default:
		w.log.LogAttrs(ctx, slog.LevelWarn, "rule sets not kept: a restart would not know the last good ones", slog.String("err", err.Error()))
	}
}

func pack(sets map[string]ruleSet) ([]byte, error) {
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	if err := json.NewEncoder(writer).Encode(sets); err != nil {
		return nil, fmt.Errorf("encoding rule sets: %w", err)
	}
	if err := writer.Close(); err != nil {
		return nil, fmt.Errorf("compressing rule sets: %w", err)
	}
	return packed.Bytes(), nil
}

func unpack(packed []byte) (map[string]ruleSet, error) {
	if len(packed) == 0 {
		return nil, nil
	}
	reader, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("decompressing rule sets: %w", err)
	}
	var sets map[string]ruleSet
	limited := io.LimitReader(reader, maxKeptBytes)
	if err := json.NewDecoder(limited).Decode(&sets); err != nil {
		return nil, fmt.Errorf("decoding rule sets: %w", err)
	}
	if _, err := io.Copy(io.Discard, limited); err != nil { // at the end stands the checksum
		return nil, fmt.Errorf("decompressing rule sets: %w", err)
	}
	return sets, nil
}
