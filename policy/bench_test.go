package policy

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// benchText lists n CIDRs that no rule minds: two that cover the cluster, and others
// that touch neither those nor each other.
func benchText(n, resync int) string {
	var b strings.Builder
	b.WriteString("nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 192.168.0.0/16\n")
	for i := range n - 2 {
		var address [4]byte
		binary.BigEndian.PutUint32(address[:], 100<<24|64<<16+uint32(i)<<8)
		fmt.Fprintf(&b, "- %s/25\n", netip.AddrFrom4(address))
	}
	fmt.Fprintf(&b, "resyncInterval: %ds\ncidrLimit: 16384\n", resync)
	return b.String()
}

// benchCluster has a pod range and an address for each node, and one service range;
// without nodes it has the service range alone.
func benchCluster(nodes int) *Cluster {
	node, pod := make([]Range, 0, nodes), make([]Range, 0, nodes)
	for i := range nodes {
		var address [4]byte
		binary.BigEndian.PutUint32(address[:], 10<<24|128<<16+uint32(i)<<8)
		pod = append(pod, Range{netip.PrefixFrom(netip.AddrFrom4(address), 24), fmt.Sprintf("Node worker-%d", i)})
		binary.BigEndian.PutUint32(address[:], 192<<24|168<<16+2*uint32(i))
		node = append(node, Range{netip.PrefixFrom(netip.AddrFrom4(address), 32), fmt.Sprintf("Node worker-%d", i)})
	}
	return NewCluster(node, pod, []Range{{netip.MustParsePrefix("10.96.0.0/12"), "ServiceCIDR kubernetes"}})
}

func benchEngine(tb testing.TB) *Engine {
	tb.Helper()
	e, err := New(context.Background(), Params{Rules: map[string]RuleParams{"cidr-limit": {MaxCount: 16384}}}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func benchRequest(n, serial int) Request {
	return Request{
		Operation: Update, Namespace: "kube-system", Name: "ip-masq-agent", User: "alice",
		FieldManager: "kubectl-edit", Time: time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC),
		Object: &corev1.ConfigMap{Data: map[string]string{ConfigKey: benchText(n, 60+serial%1000)}},
		Old:    &corev1.ConfigMap{Data: map[string]string{ConfigKey: benchText(n-1, 30)}},
	}
}

// BenchmarkDecide is a decision on an update that nothing is wrong with: texts are
// read (the old one from the cache, as in every edit after the first), judged, and
// the effect computed.
func BenchmarkDecide(b *testing.B) {
	benchmark(b, func(e *Engine, req Request, cluster *Cluster) bool {
		return e.Decide(context.Background(), req, cluster).Allowed
	})
}

// BenchmarkJudge is BenchmarkDecide without reading texts.
func BenchmarkJudge(b *testing.B) {
	texts := map[string]text{}
	benchmark(b, func(e *Engine, req Request, cluster *Cluster) bool {
		read := func(object *corev1.ConfigMap) text {
			value := object.Data[ConfigKey]
			if _, ok := texts[value]; !ok {
				texts[value] = parseText(value, e.params)
			}
			return texts[value]
		}
		findings, effect := e.judge(context.Background(), req, read(req.Object), read(req.Old), cluster)
		return len(findings) == 0 && effect.Known
	})
}

// TestAllocations holds a decision to its bound, which a busy machine does not move.
func TestAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	e := benchEngine(t)
	cluster := benchCluster(5000)
	var texts []Request
	for serial := range 8 {
		texts = append(texts, benchRequest(64, serial))
	}
	i := 0
	got := testing.AllocsPerRun(200, func() {
		if d := e.Decide(context.Background(), texts[i%len(texts)], cluster); !d.Allowed {
			t.Fatal(d.Message())
		}
		i++
	})
	if got > 350 {
		t.Errorf("%.0f allocations, more than 350", got)
	}
}

func benchmark(b *testing.B, decide func(*Engine, Request, *Cluster) bool) {
	b.Helper()
	for _, nodes := range []int{0, 5000} {
		cluster := benchCluster(nodes)
		for _, size := range []int{4, 64, 1000, 10000} {
			b.Run(fmt.Sprintf("cidrs=%d/nodes=%d", size, nodes), func(b *testing.B) {
				e := benchEngine(b)
				var requests []Request
				for serial := range 8 { // more than the cache of texts holds
					requests = append(requests, benchRequest(size, serial))
				}
				for _, req := range requests {
					if !decide(e, req, cluster) {
						b.Fatal("denied")
					}
				}
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					decide(e, requests[i%len(requests)], cluster)
					i++
				}
			})
		}
	}
}
