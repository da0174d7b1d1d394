package main

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

func node(name string, podCIDRs []string, addresses ...corev1.NodeAddress) corev1.Node {
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.NodeSpec{PodCIDRs: podCIDRs},
		Status:     corev1.NodeStatus{Addresses: addresses},
	}
}

func address(kind corev1.NodeAddressType, text string) corev1.NodeAddress {
	return corev1.NodeAddress{Type: kind, Address: text}
}

func serviceCIDR(name string, cidrs ...string) networkingv1.ServiceCIDR {
	return networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
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

func TestRangesOf(t *testing.T) {
	tests := []struct {
		name     string
		nodes    []corev1.Node
		services []networkingv1.ServiceCIDR
		want     []string
		podless  int
	}{
		{name: "empty cluster"},
		{
			name: "nodes in the order of their names",
			nodes: []corev1.Node{
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
			nodes: []corev1.Node{node("a", []string{"10.244.0.0/24", "fd00:10:244::/64"},
				address(corev1.NodeInternalIP, "192.168.0.11"), address(corev1.NodeInternalIP, "fd00::11"))},
			services: []networkingv1.ServiceCIDR{serviceCIDR("kubernetes", "10.96.0.0/16", "fd00:10:96::/112")},
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
			nodes: []corev1.Node{node("a", []string{"10.244.0.0/24"}, address(corev1.NodeExternalIP, "203.0.113.1"),
				address(corev1.NodeHostName, "a"), address(corev1.NodeInternalIP, "a.example.com"))},
			want: []string{"pod 10.244.0.0/24 Node a"},
		},
		{
			name:    "nodes without a pod range are counted",
			nodes:   []corev1.Node{node("a", nil, address(corev1.NodeInternalIP, "192.168.0.11")), node("b", nil)},
			want:    []string{"node 192.168.0.11/32 Node a"},
			podless: 2,
		},
		{
			name:  "the older field alone",
			nodes: []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NodeSpec{PodCIDR: "10.244.0.0/24"}}},
			want:  []string{"pod 10.244.0.0/24 Node a"},
		},
		{
			name:  "odd notation becomes canonical",
			nodes: []corev1.Node{node("a", []string{"10.244.0.7/24"}, address(corev1.NodeInternalIP, "::ffff:192.168.0.11"))},
			want:  []string{"node 192.168.0.11/32 Node a", "pod 10.244.0.0/24 Node a"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			known, podless := rangesOf(tt.nodes, tt.services)
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

// realNode is a Node as an informer sees it, with everything a decision does not need.
func realNode() *corev1.Node {
	return &corev1.Node{
		TypeMeta: metav1.TypeMeta{Kind: "Node", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "a", UID: "uid", ResourceVersion: "12", Labels: map[string]string{"kubernetes.io/os": "linux"},
			Annotations:   map[string]string{"node.alpha.kubernetes.io/ttl": "0"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet"}},
		},
		Spec: corev1.NodeSpec{PodCIDR: "10.244.0.0/24", PodCIDRs: []string{"10.244.0.0/24"}, ProviderID: "cloud:///a"},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{address(corev1.NodeHostName, "a"), address(corev1.NodeInternalIP, "192.168.0.11")},
			Images:     []corev1.ContainerImage{{Names: []string{"registry.example.com/image:1"}, SizeBytes: 1}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

func TestBareNode(t *testing.T) {
	got, err := bare(realNode())
	if err != nil {
		t.Fatal(err)
	}
	want := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "a", ResourceVersion: "12"},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/24"}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{address(corev1.NodeInternalIP, "192.168.0.11")}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("bare node differs (-want +got):\n%s", diff)
	}
	// An informer may transform an object twice.
	again, err := bare(got)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, again); diff != "" {
		t.Errorf("bare node changed when bared again (-want +got):\n%s", diff)
	}
	tombstone := toolscache.DeletedFinalStateUnknown{Key: "a"}
	if got, err := bare(tombstone); err != nil || got != any(tombstone) {
		t.Errorf("bare(tombstone) = %v, %v", got, err)
	}
}

func TestBareServiceCIDR(t *testing.T) {
	service := serviceCIDR("kubernetes", "10.96.0.0/16")
	service.ResourceVersion = "3"
	service.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kube-apiserver"}}
	service.Status.Conditions = []metav1.Condition{{Type: "Ready"}}
	got, err := bare(&service)
	if err != nil {
		t.Fatal(err)
	}
	want := serviceCIDR("kubernetes", "10.96.0.0/16")
	want.ResourceVersion = "3"
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("bare ServiceCIDR differs (-want +got):\n%s", diff)
	}
}

func TestSameRanges(t *testing.T) {
	before := node("a", []string{"10.244.0.0/24"}, address(corev1.NodeInternalIP, "192.168.0.11"))
	heartbeat := before
	heartbeat.ResourceVersion = "13"
	otherPods := node("a", []string{"10.244.9.0/24"}, before.Status.Addresses...)
	otherAddress := node("a", before.Spec.PodCIDRs, address(corev1.NodeInternalIP, "192.168.0.99"))
	service, wider := serviceCIDR("kubernetes", "10.96.0.0/16"), serviceCIDR("kubernetes", "10.96.0.0/12")
	tests := []struct {
		name          string
		before, after any
		want          bool
	}{
		{name: "heartbeat", before: &before, after: &heartbeat, want: true},
		{name: "pod range", before: &before, after: &otherPods},
		{name: "address", before: &before, after: &otherAddress},
		{name: "same service range", before: &service, after: &service, want: true},
		{name: "service range", before: &service, after: &wider},
		{name: "kinds that differ", before: &service, after: &before},
		{name: "unknown kind", before: 1, after: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := sameRanges(tt.before, tt.after); got != tt.want {
				t.Errorf("sameRanges = %t, want %t", got, tt.want)
			}
		})
	}
}
