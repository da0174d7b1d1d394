package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

func node(name string, podCIDRs []string, addresses ...corev1.NodeAddress) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.NodeSpec{PodCIDRs: podCIDRs},
		Status:     corev1.NodeStatus{Addresses: addresses},
	}
}

func address(kind corev1.NodeAddressType, text string) corev1.NodeAddress {
	return corev1.NodeAddress{Type: kind, Address: text}
}

func serviceCIDR(cidrs ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
}

// membersOf are these objects as informers keep them.
func membersOf(objects ...any) []*member {
	members := make([]*member, 0, len(objects))
	for _, object := range objects {
		kept, err := memberOf(object)
		if m, ok := kept.(*member); ok && err == nil {
			members = append(members, m)
		}
	}
	return members
}

// lines writes ranges as "KIND PREFIX SOURCE".
func lines(known clusterRanges) []string {
	var all []string
	for _, kind := range []struct {
		name   string
		ranges []policy.Range
	}{{"node", known.node}, {"pod", known.pod}, {"service", known.service}} {
		for _, one := range kind.ranges {
			all = append(all, fmt.Sprintf("%s %s %s", kind.name, one.Prefix, one.Source))
		}
	}
	return all
}

func TestUnion(t *testing.T) {
	tests := []struct {
		name    string
		objects []any
		want    []string
		podless int
	}{
		{name: "empty cluster"},
		{
			name: "nodes in the order of their names",
			objects: []any{
				node("worker-2", []string{"10.244.2.0/24"}, address(corev1.NodeInternalIP, "192.168.0.12")),
				node("worker-1", []string{"10.244.1.0/24"}, address(corev1.NodeInternalIP, "192.168.0.11")),
			},
			want: []string{
				"node 192.168.0.11/32 Node worker-1",
				"node 192.168.0.12/32 Node worker-2",
				"pod 10.244.1.0/24 Node worker-1",
				"pod 10.244.2.0/24 Node worker-2",
			},
		},
		{
			name: "two families",
			objects: []any{
				node("a", []string{"10.244.0.0/24", "fd00:10:244::/64"},
					address(corev1.NodeInternalIP, "192.168.0.11"), address(corev1.NodeInternalIP, "fd00::11")),
				serviceCIDR("10.96.0.0/16", "fd00:10:96::/112"),
			},
			want: []string{
				"node 192.168.0.11/32 Node a",
				"node fd00::11/128 Node a",
				"pod 10.244.0.0/24 Node a",
				"pod fd00:10:244::/64 Node a",
				"service 10.96.0.0/16 ServiceCIDR kubernetes",
				"service fd00:10:96::/112 ServiceCIDR kubernetes",
			},
		},
		{
			name: "addresses that are not internal, and names, do not count",
			objects: []any{node("a", []string{"10.244.0.0/24"}, address(corev1.NodeExternalIP, "203.0.113.1"),
				address(corev1.NodeHostName, "a"), address(corev1.NodeInternalIP, "a.example.com"))},
			want: []string{"pod 10.244.0.0/24 Node a"},
		},
		{
			name:    "nodes without a pod range are counted",
			objects: []any{node("a", nil, address(corev1.NodeInternalIP, "192.168.0.11")), node("b", nil), serviceCIDR("10.96.0.0/16")},
			want:    []string{"node 192.168.0.11/32 Node a", "service 10.96.0.0/16 ServiceCIDR kubernetes"},
			podless: 2,
		},
		{
			name:    "the older field alone",
			objects: []any{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NodeSpec{PodCIDR: "10.244.0.0/24"}}},
			want:    []string{"pod 10.244.0.0/24 Node a"},
		},
		{
			name:    "odd notation becomes canonical",
			objects: []any{node("a", []string{"10.244.0.7/24"}, address(corev1.NodeInternalIP, "::ffff:192.168.0.11"))},
			want:    []string{"node 192.168.0.11/32 Node a", "pod 10.244.0.0/24 Node a"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			known, podless := union(membersOf(tt.objects...))
			if diff := cmp.Diff(tt.want, lines(known)); diff != "" {
				t.Errorf("ranges differ (-want +got):\n%s", diff)
			}
			if podless != tt.podless {
				t.Errorf("%d nodes without a pod range, want %d", podless, tt.podless)
			}
			if len(tt.want) == 0 && (known.node != nil || known.pod != nil || known.service != nil) {
				t.Errorf("ranges of an empty cluster are known: %#v", known)
			}
		})
	}
}

func TestRangesAnd(t *testing.T) {
	ten := []policy.Range{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Source: "params"}}
	more := []policy.Range{{Prefix: netip.MustParsePrefix("10.9.0.0/16"), Source: "Node a"}}
	got := clusterRanges{node: ten, service: []policy.Range{}}.and(clusterRanges{node: more})
	if diff := cmp.Diff([]string{"node 10.0.0.0/8 params", "node 10.9.0.0/16 Node a"}, lines(got)); diff != "" {
		t.Errorf("ranges differ (-want +got):\n%s", diff)
	}
	if got.pod != nil {
		t.Error("unknown pod ranges became known")
	}
	if got.service == nil {
		t.Error("that there are no service ranges was forgotten")
	}
	if len(ten) != 1 || cap(ten) != 1 {
		t.Error("the params' ranges were written to")
	}
}

// TestMemberOf keeps nothing of a Node as an API server sends it but its name, its
// resource version and its ranges.
func TestMemberOf(t *testing.T) {
	object := node("a", []string{"10.244.0.0/24"}, address(corev1.NodeHostName, "a"), address(corev1.NodeInternalIP, "192.168.0.11"))
	object.ObjectMeta = metav1.ObjectMeta{
		Name: "a", UID: "uid", ResourceVersion: "12", Labels: map[string]string{"kubernetes.io/os": "linux"},
		Annotations:   map[string]string{"node.alpha.kubernetes.io/ttl": "0"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet"}},
	}
	got, err := memberOf(object)
	if err != nil {
		t.Fatal(err)
	}
	want := &member{
		ObjectMeta: metav1.ObjectMeta{Name: "a", ResourceVersion: "12"},
		ranges: clusterRanges{
			node: []policy.Range{{Prefix: netip.MustParsePrefix("192.168.0.11/32"), Source: "Node a"}},
			pod:  []policy.Range{{Prefix: netip.MustParsePrefix("10.244.0.0/24"), Source: "Node a"}},
		},
	}
	compare := cmp.Options{cmp.AllowUnexported(member{}, clusterRanges{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}
	if diff := cmp.Diff(want, got, compare); diff != "" {
		t.Errorf("member differs (-want +got):\n%s", diff)
	}
	// An informer may transform an object twice, and tombstones too.
	tombstone := toolscache.DeletedFinalStateUnknown{Key: "a"}
	for _, object := range []any{got, tombstone} {
		if again, err := memberOf(object); err != nil || again != object {
			t.Errorf("memberOf(%T) = %v, %v; want what came in", object, again, err)
		}
	}
}

// TestMembersChange counts which events make the ranges anew.
func TestMembersChange(t *testing.T) {
	tests := []struct {
		name string
		do   func(w *clusterWatch)
		want bool
		left []string
	}{
		{
			name: "heartbeat",
			do:   func(w *clusterWatch) { w.set("Node/", membersOf(node("a", []string{"10.244.0.0/24"}))[0]) },
			left: []string{"pod 10.244.0.0/24 Node a"},
		},
		{
			name: "new pod range",
			do:   func(w *clusterWatch) { w.set("Node/", membersOf(node("a", []string{"10.244.9.0/24"}))[0]) },
			want: true,
			left: []string{"pod 10.244.9.0/24 Node a"},
		},
		{
			name: "new address",
			do: func(w *clusterWatch) {
				w.set("Node/", membersOf(node("a", []string{"10.244.0.0/24"}, address(corev1.NodeInternalIP, "192.168.0.11")))[0])
			},
			want: true,
			left: []string{"node 192.168.0.11/32 Node a", "pod 10.244.0.0/24 Node a"},
		},
		{
			name: "new node",
			do:   func(w *clusterWatch) { w.set("Node/", membersOf(node("b", nil))[0]) },
			want: true,
			left: []string{"pod 10.244.0.0/24 Node a"},
		},
		{name: "deleted", do: func(w *clusterWatch) { w.forget("Node/", membersOf(node("a", nil))[0]) }, want: true},
		{
			name: "deleted while the watch was interrupted",
			do:   func(w *clusterWatch) { w.forget("Node/", toolscache.DeletedFinalStateUnknown{Key: "a"}) },
			want: true,
		},
		{
			name: "another kind of the same name",
			do:   func(w *clusterWatch) { w.forget("ServiceCIDR/", toolscache.DeletedFinalStateUnknown{Key: "a"}) },
			want: true,
			left: []string{"pod 10.244.0.0/24 Node a"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newClusterWatch(clusterRanges{}, nil, newMetrics("test", ""), slog.New(slog.DiscardHandler))
			if w.Cluster() != nil {
				t.Error("ranges are known before they are read")
			}
			w.set("Node/", membersOf(node("a", []string{"10.244.0.0/24"}))[0])
			w.prepare(t.Context())
			if w.Cluster() == nil || len(w.changed) != 0 {
				t.Errorf("prepared: %v, changes left: %d", w.Cluster(), len(w.changed))
			}
			tt.do(w)
			if got := len(w.changed) == 1; got != tt.want {
				t.Errorf("changed is %t, want %t", got, tt.want)
			}
			known, _ := union(slices.Collect(maps.Values(w.members)))
			if diff := cmp.Diff(tt.left, lines(known)); diff != "" {
				t.Errorf("ranges differ (-want +got):\n%s", diff)
			}
		})
	}
}

// informerFunc stands for informers of kinds that an API server may not have.
type informerFunc func() (cache.Informer, error)

// GetInformer calls f.
func (f informerFunc) GetInformer(context.Context, client.Object, ...cache.InformerGetOption) (cache.Informer, error) {
	return f()
}

// TestFollow waits, ever longer, for an API server, but not for a kind that it lacks.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started, calls := time.Now(), 0
		w := newClusterWatch(clusterRanges{}, informerFunc(func() (cache.Informer, error) {
			if calls++; calls < 8 {
				return nil, errLost
			}
			return nil, &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "networking.k8s.io", Kind: "ServiceCIDR"}}
		}), newMetrics("test", ""), slog.New(slog.DiscardHandler))
		if w.followServices(t.Context(), slog.LevelWarn) {
			t.Error("a kind that is not there is followed")
		}
		if got := time.Since(started); got != (1+2+4+8+8+8+8)*time.Second {
			t.Errorf("gave up after %s, want 39s", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		calls = -1000
		if err := w.follow(ctx, &corev1.Node{}); err != nil {
			t.Errorf("follow: %v; want nil when asked to stop", err)
		}
	})
}
