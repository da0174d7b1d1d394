package e2e

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	manyNodes = 5000
	// mostMemory is what the webhook may have resident, at rest, in a cluster of manyNodes.
	mostMemory = 60 << 10 // KiB
	crowdLabel = "crowd"
)

// TestWebhookMemory fills the cluster with nodes as kubelets report them and looks
// at the webhook after a start and after some hundred decisions.
func TestWebhookMemory(t *testing.T) {
	c := needControlPlane(t)
	nodes := c.crowd(t)
	g := newGuardOf(t, "memory")
	started := g.memory(t)

	k := c.kubectl()
	for i := range 20 {
		config := approvedConfig
		if i%2 > 0 {
			config = widerConfig
		}
		k.must(t, manifestOf(g.namespace, configMap, "data", "config", config), "apply", "--server-side", "-f", "-")
	}
	// It is ready before it has given back what reading whole nodes took.
	rest := g.memory(t)
	t.Logf("%d nodes: %d KiB when just ready, %d KiB after 20 decisions", nodes, started, rest)
	if rest > mostMemory {
		t.Errorf("the webhook has %d KiB resident, more than %d", rest, mostMemory)
	}
}

// memory is the resident set of the webhook in KiB.
func (g *guard) memory(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if match == nil {
		t.Fatalf("no VmRSS in %s", status)
	}
	kibibytes, err := strconv.Atoi(string(match[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kibibytes
}

// crowd adds manyNodes to the cluster, and removes them after the test. Their
// ranges lie apart from each other in what approvedConfig spares.
func (c *controlPlane) crowd(t *testing.T) int {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.admin)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1 // no limit
	nodes := kubernetes.NewForConfigOrDie(config).CoreV1().Nodes()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := nodes.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: crowdLabel}); err != nil {
			t.Errorf("removing the nodes: %v", err)
		}
	})
	creating, ctx := errgroup.WithContext(t.Context())
	creating.SetLimit(16)
	for i := range manyNodes {
		creating.Go(func() error {
			_, err := nodes.Create(ctx, crowdedNode(i), metav1.CreateOptions{})
			return err
		})
	}
	if err := creating.Wait(); err != nil {
		t.Fatalf("creating %d nodes: %v", manyNodes, err)
	}
	return manyNodes
}

// crowdedNode is a node of a size that real ones have: images make most of it.
func crowdedNode(i int) *corev1.Node {
	high, low := i/128, 2*(i%128) // every other /24, so that no two join
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:        fmt.Sprintf("crowd-%04d", i),
			Labels:      map[string]string{crowdLabel: "", "topology.kubernetes.io/zone": "a"},
			Annotations: map[string]string{"note": strings.Repeat("x", 500)},
		},
		Spec: corev1.NodeSpec{PodCIDRs: []string{fmt.Sprintf("10.%d.%d.0/24", 64+high, low)}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.168.%d.%d", 64+high, low)},
			{Type: corev1.NodeHostName, Address: fmt.Sprintf("crowd-%04d", i)},
		}},
	}
	node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
	for image := range 30 {
		node.Status.Images = append(node.Status.Images, corev1.ContainerImage{
			Names:     []string{fmt.Sprintf("registry.example/team/image-%d@sha256:%s", image, strings.Repeat("0", 64))},
			SizeBytes: 100 << 20,
		})
	}
	return node
}
