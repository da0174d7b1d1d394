package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

const (
	// settle is how long changes are gathered before the ranges are prepared anew:
	// a node pool that grows changes many nodes within seconds.
	settle = time.Second

	// serviceRetry is how often an API server without ServiceCIDR objects is asked
	// again: it may have been upgraded.
	serviceRetry = 10 * time.Minute

	// The wait before a failed call of the API server is tried again doubles from
	// the first to the last.
	firstRetry = time.Second
	lastRetry  = 8 * time.Second
)

// clusterRanges are the ranges of a cluster by kind; a nil slice is unknown.
type clusterRanges struct{ node, pod, service []policy.Range }

// and joins two sources; what one does not know the other may. That r knows there
// are none of a kind stays known.
func (r clusterRanges) and(other clusterRanges) clusterRanges {
	return clusterRanges{
		node:    append(slices.Clip(r.node), other.node...),
		pod:     append(slices.Clip(r.pod), other.pod...),
		service: append(slices.Clip(r.service), other.service...),
	}
}

func (r clusterRanges) equal(other clusterRanges) bool {
	return slices.Equal(r.node, other.node) && slices.Equal(r.pod, other.pod) && slices.Equal(r.service, other.service)
}

// member is what informers keep of a Node or a ServiceCIDR: what it tells of the
// cluster's ranges. A real Node has some 10 KiB of images, labels and managed fields,
// and even an empty one twice the size of this.
type member struct {
	metav1.ObjectMeta // of which informers need name and resource version

	ranges  clusterRanges
	podless bool // a Node without a pod range
}

// memberOf is a transform for informers.
func memberOf(object any) (any, error) {
	switch object := object.(type) {
	case *corev1.Node:
		m := newMember(object.ObjectMeta)
		m.ranges.node, m.ranges.pod = policy.NodeRanges(object)
		m.podless = object.Spec.PodCIDR == "" && len(object.Spec.PodCIDRs) == 0
		return m, nil
	case *networkingv1.ServiceCIDR:
		m := newMember(object.ObjectMeta)
		m.ranges.service = policy.ServiceRanges(object)
		return m, nil
	}
	return object, nil // a member already, or a tombstone
}

func newMember(object metav1.ObjectMeta) *member {
	return &member{ObjectMeta: metav1.ObjectMeta{Name: object.Name, ResourceVersion: object.ResourceVersion}}
}

// union joins what members tell, in order of their names, and counts those without
// a pod range.
func union(members []*member) (known clusterRanges, podless int) {
	slices.SortFunc(members, func(a, b *member) int { return cmp.Compare(a.Name, b.Name) })
	for _, m := range members {
		known.node = append(known.node, m.ranges.node...)
		known.pod = append(known.pod, m.ranges.pod...)
		known.service = append(known.service, m.ranges.service...)
		if m.podless {
			podless++
		}
	}
	return known, podless
}

// cacheOptions make informers keep members. Options by kind would do as well, but
// ask the API server already when the cache is made.
func cacheOptions() cache.Options {
	return cache.Options{
		ReaderFailOnMissingInformer: true, // nothing reads through the cache
		DefaultTransform:            memberOf,
	}
}

// informerSource is the part of a controller-runtime cache that a clusterWatch uses.
type informerSource interface {
	GetInformer(ctx context.Context, kind client.Object, opts ...cache.InformerGetOption) (cache.Informer, error)
}

// clusterWatch keeps the cluster's ranges as the API server and the params tell
// them. It is a manager.Runnable; Cluster may be called at any time.
type clusterWatch struct {
	configured clusterRanges // by the params
	informers  informerSource
	metrics    *metrics
	log        *slog.Logger

	current atomic.Pointer[policy.Cluster]
	changed chan struct{} // of size one: members have changed since prepare

	mu      sync.Mutex
	members map[string]*member // by kind and name
}

func newClusterWatch(configured clusterRanges, informers informerSource, metrics *metrics, log *slog.Logger) *clusterWatch {
	return &clusterWatch{
		configured: configured, informers: informers, metrics: metrics, log: log,
		changed: make(chan struct{}, 1),
		members: map[string]*member{},
	}
}

// Cluster returns the ranges as last prepared, or nil before the first time.
func (w *clusterWatch) Cluster() *policy.Cluster { return w.current.Load() }

// NeedLeaderElection implements manager.LeaderElectionRunnable: every replica answers.
func (*clusterWatch) NeedLeaderElection() bool { return false }

// Start watches until ctx ends.
func (w *clusterWatch) Start(ctx context.Context) error {
	if err := w.follow(ctx, &corev1.Node{}); err != nil {
		return err
	}
	services := w.followServices(ctx, slog.LevelWarn)

	again := time.NewTicker(serviceRetry)
	defer again.Stop()
	w.prepare(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.changed:
			if sleep(ctx, settle) {
				w.prepare(ctx)
			}
		case <-again.C:
			if !services {
				services = w.followServices(ctx, slog.LevelDebug)
			}
		}
	}
}

// followServices follows ServiceCIDRs, which an API server before Kubernetes 1.33
// does not have: then the params alone tell the service ranges. It tells whether
// there are any to follow.
func (w *clusterWatch) followServices(ctx context.Context, level slog.Level) bool {
	if err := w.follow(ctx, &networkingv1.ServiceCIDR{}); err != nil {
		w.log.LogAttrs(ctx, level, "service ranges not watched: those of the params hold", slog.String("err", err.Error()))
		w.metrics.serviceAPI.Set(0)
		return false
	}
	w.metrics.serviceAPI.Set(1)
	return true
}

// follow starts an informer for objects of this kind and waits until all of them
// are members. It tries until ctx ends, and gives up only on a kind that the API
// server does not have.
func (w *clusterWatch) follow(ctx context.Context, kind client.Object) error {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := w.inform(ctx, kind)
		if err == nil {
			return nil
		}
		if meta.IsNoMatchError(err) {
			return fmt.Errorf("watching %T: %w", kind, err)
		}
		if ctx.Err() == nil {
			w.log.LogAttrs(ctx, slog.LevelError, "objects not watched",
				slog.String("kind", fmt.Sprintf("%T", kind)), slog.String("err", err.Error()), slog.String("retry", wait.String()))
		}
		if !sleep(ctx, wait) {
			return nil // asked to stop
		}
	}
}

// inform keeps the members of one kind, and returns once it has them all.
func (w *clusterWatch) inform(ctx context.Context, kind client.Object) error {
	informer, err := w.informers.GetInformer(ctx, kind, cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	prefix := fmt.Sprintf("%T/", kind)
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { w.set(prefix, object) },
		UpdateFunc: func(_, object any) { w.set(prefix, object) },
		DeleteFunc: func(object any) { w.forget(prefix, object) },
	})
	if err != nil {
		return err
	}
	if !toolscache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
		return ctx.Err()
	}
	return nil
}

// set keeps a member. The kubelet updates a Node's status every few minutes; what
// tells the same ranges as before costs nothing more.
func (w *clusterWatch) set(prefix string, object any) {
	m, ok := object.(*member)
	if !ok {
		return
	}
	w.mu.Lock()
	before := w.members[prefix+m.Name]
	w.members[prefix+m.Name] = m
	w.mu.Unlock()
	if before == nil || !before.ranges.equal(m.ranges) {
		w.note()
	}
}

// forget drops a member.
func (w *clusterWatch) forget(prefix string, object any) {
	name := ""
	switch object := object.(type) {
	case *member:
		name = object.Name
	case toolscache.DeletedFinalStateUnknown: // the watch was interrupted meanwhile
		name = object.Key // cluster-scoped: the key is the name
	}
	w.mu.Lock()
	delete(w.members, prefix+name)
	w.mu.Unlock()
	w.note()
}

// note remembers that members have changed.
func (w *clusterWatch) note() {
	select {
	case w.changed <- struct{}{}:
	default: // it is remembered already
	}
}

// prepare makes the ranges that decisions read from now on.
func (w *clusterWatch) prepare(ctx context.Context) {
	select {
	case <-w.changed: // what follows sees it
	default:
	}
	w.mu.Lock()
	members := slices.Collect(maps.Values(w.members))
	w.mu.Unlock()
	known, podless := union(members)
	w.current.Store(prepared(w.configured.and(known)))
	w.metrics.countRanges("api", known)
	w.metrics.podless.Set(float64(podless))
	// Reading whole Nodes leaves behind several times what is kept of them.
	debug.FreeOSMemory()
	w.log.LogAttrs(ctx, slog.LevelInfo, "cluster ranges", slog.Int("node", len(known.node)), slog.Int("pod", len(known.pod)),
		slog.Int("service", len(known.service)), slog.Int("nodesWithoutPodCIDR", podless))
}

func prepared(known clusterRanges) *policy.Cluster {
	return policy.NewCluster(known.node, known.pod, known.service)
}

// sleep waits and tells whether ctx is still alive.
func sleep(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
