package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
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
	lastRetry  = 30 * time.Second
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

// rangesOf reads what Nodes and ServiceCIDRs tell, in order of their names, and
// counts the nodes that have no pod range. Text that is no address or CIDR is left
// out: the API server validates these fields.
func rangesOf(nodes []corev1.Node, services []networkingv1.ServiceCIDR) (known clusterRanges, podless int) {
	for i := range nodes {
		node, source := &nodes[i], "Node "+nodes[i].Name
		cidrs := podCIDRs(node)
		if len(cidrs) == 0 {
			podless++
		}
		known.pod = appendCIDRs(known.pod, cidrs, source)
		for _, address := range node.Status.Addresses {
			if parsed, err := netip.ParseAddr(address.Address); err == nil && address.Type == corev1.NodeInternalIP {
				parsed = parsed.Unmap().WithZone("")
				known.node = append(known.node, policy.Range{Prefix: netip.PrefixFrom(parsed, parsed.BitLen()), Source: source})
			}
		}
	}
	for i := range services {
		known.service = appendCIDRs(known.service, services[i].Spec.CIDRs, "ServiceCIDR "+services[i].Name)
	}
	bySource := func(a, b policy.Range) int { return cmp.Compare(a.Source, b.Source) }
	slices.SortStableFunc(known.node, bySource)
	slices.SortStableFunc(known.pod, bySource)
	slices.SortStableFunc(known.service, bySource)
	return known, podless
}

func appendCIDRs(ranges []policy.Range, cidrs []string, source string) []policy.Range {
	for _, cidr := range cidrs {
		if prefix, err := netip.ParsePrefix(cidr); err == nil {
			ranges = append(ranges, policy.Range{Prefix: prefix.Masked(), Source: source})
		}
	}
	return ranges
}

// podCIDRs are the pod ranges of a node; podCIDR repeats the first of podCIDRs.
func podCIDRs(node *corev1.Node) []string {
	if len(node.Spec.PodCIDRs) == 0 && node.Spec.PodCIDR != "" {
		return []string{node.Spec.PodCIDR}
	}
	return node.Spec.PodCIDRs
}

// bare is a transform for informers: of an object it keeps only what rangesOf
// reads. A real Node has some 10 KiB of images, labels and managed fields.
func bare(object any) (any, error) {
	switch object := object.(type) {
	case *corev1.Node:
		kept := &corev1.Node{ObjectMeta: bareMeta(object.ObjectMeta)}
		kept.Spec.PodCIDRs = podCIDRs(object)
		for _, address := range object.Status.Addresses {
			if address.Type == corev1.NodeInternalIP {
				kept.Status.Addresses = append(kept.Status.Addresses, address)
			}
		}
		return kept, nil
	case *networkingv1.ServiceCIDR:
		return &networkingv1.ServiceCIDR{
			ObjectMeta: bareMeta(object.ObjectMeta),
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: object.Spec.CIDRs},
		}, nil
	}
	return object, nil // a tombstone
}

// bareMeta keeps what an informer itself needs.
func bareMeta(object metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: object.Name, ResourceVersion: object.ResourceVersion}
}

// sameRanges tells whether two states of one object tell the same ranges. The
// kubelet updates a Node's status every few minutes, and that must cost nothing.
func sameRanges(before, after any) bool {
	switch after := after.(type) {
	case *corev1.Node:
		before, ok := before.(*corev1.Node)
		return ok && slices.Equal(podCIDRs(before), podCIDRs(after)) &&
			slices.Equal(before.Status.Addresses, after.Status.Addresses)
	case *networkingv1.ServiceCIDR:
		before, ok := before.(*networkingv1.ServiceCIDR)
		return ok && slices.Equal(before.Spec.CIDRs, after.Spec.CIDRs)
	}
	return false
}

// cacheOptions make informers small: objects are bare and never copied. Options by
// kind would do as well, but ask the API server already when the cache is made.
func cacheOptions() cache.Options {
	shared := true
	return cache.Options{
		ReaderFailOnMissingInformer:  true, // a forgotten informer must not appear by itself
		DefaultTransform:             bare,
		DefaultUnsafeDisableDeepCopy: &shared,
	}
}

// clusterWatch keeps the cluster's ranges as the API server and the params tell
// them. It is a manager.Runnable; Cluster may be called at any time.
type clusterWatch struct {
	configured clusterRanges // by the params
	cache      cache.Cache
	metrics    *metrics
	log        *slog.Logger

	current atomic.Pointer[policy.Cluster]
	changed chan struct{} // of size one: a change that has not been looked at

	services bool // ServiceCIDRs are watched; Start's own
}

func newClusterWatch(configured clusterRanges, objects cache.Cache, metrics *metrics, log *slog.Logger) *clusterWatch {
	return &clusterWatch{
		configured: configured, cache: objects, metrics: metrics, log: log,
		changed: make(chan struct{}, 1),
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
	w.watchServices(ctx, slog.LevelWarn)

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
			if !w.services {
				w.watchServices(ctx, slog.LevelDebug)
			}
		}
	}
}

// watchServices follows ServiceCIDRs, which an API server before Kubernetes 1.33
// does not have: then the params alone tell the service ranges.
func (w *clusterWatch) watchServices(ctx context.Context, level slog.Level) {
	err := w.follow(ctx, &networkingv1.ServiceCIDR{})
	w.services = err == nil && ctx.Err() == nil
	if err != nil {
		w.log.LogAttrs(ctx, level, "service ranges not watched: those of the params hold", slog.String("err", err.Error()))
	}
	if w.services {
		w.metrics.serviceAPI.Set(1)
	} else {
		w.metrics.serviceAPI.Set(0)
	}
}

// follow starts an informer for objects of this kind and waits until it has read
// them all. It tries until ctx ends, and gives up only on a kind that the API
// server does not have.
func (w *clusterWatch) follow(ctx context.Context, kind client.Object) error {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := w.inform(ctx, kind)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if meta.IsNoMatchError(err) {
			return fmt.Errorf("watching %T: %w", kind, err)
		}
		w.log.LogAttrs(ctx, slog.LevelError, "objects not watched",
			slog.String("kind", fmt.Sprintf("%T", kind)), slog.String("err", err.Error()), slog.Duration("retry", wait))
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// inform notes changes of objects of this kind, and returns once all are read.
func (w *clusterWatch) inform(ctx context.Context, kind client.Object) error {
	informer, err := w.cache.GetInformer(ctx, kind)
	if err != nil {
		return err
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { w.note() },
		UpdateFunc: func(before, after any) {
			if !sameRanges(before, after) {
				w.note()
			}
		},
		DeleteFunc: func(any) { w.note() },
	})
	return err
}

// note remembers that something has changed.
func (w *clusterWatch) note() {
	select {
	case w.changed <- struct{}{}:
	default: // it is remembered already
	}
}

// prepare makes the ranges that decisions read from now on.
func (w *clusterWatch) prepare(ctx context.Context) {
	var nodes corev1.NodeList
	if err := w.cache.List(ctx, &nodes); err != nil {
		w.log.LogAttrs(ctx, slog.LevelError, "nodes not read", slog.String("err", err.Error()))
		return
	}
	var services networkingv1.ServiceCIDRList
	if w.services {
		if err := w.cache.List(ctx, &services); err != nil {
			w.log.LogAttrs(ctx, slog.LevelError, "service ranges not read", slog.String("err", err.Error()))
			return
		}
	}
	known, podless := rangesOf(nodes.Items, services.Items)
	w.current.Store(prepared(w.configured.and(known)))
	w.metrics.countRanges("api", known)
	w.metrics.podless.Set(float64(podless))
	w.log.LogAttrs(ctx, slog.LevelInfo, "cluster ranges", slog.Int("nodes", len(nodes.Items)), slog.Int("nodesWithoutPodCIDR", podless),
		slog.Int("node", len(known.node)), slog.Int("pod", len(known.pod)), slog.Int("service", len(known.service)))
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
