package twonode_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/twonode"
)

// What approved makes of the IPv4 and the IPv6 table: link-local ranges come first.
const (
	save4 = "iptables-save"
	save6 = "ip6tables-save"
)

//nolint:gochecknoglobals // constants in all but the language
var (
	approved4 = []string{"169.254.0.0/16", "10.0.0.0/8", "192.168.0.0/16"}
	approved6 = []string{"fe80::/10", "fd00:10::/32"}
)

// followLimit bounds the way of a ConfigMap into a node's kernel. A kubelet of this
// cluster looks after its volumes every second.
const followLimit = 15 * time.Second

// An agent is ready on each node, and replicas of the webhook are on both.
func TestInstalled(t *testing.T) {
	p := need(t)
	if got := p.kubectl(t, "", "get", "daemonset", "-n", "kube-system", release+"-agent", "-o",
		"jsonpath={.status.desiredNumberScheduled} {.status.numberReady}"); got != "2 2" {
		t.Errorf("agents desired and ready: %s, want 2 2", got)
	}
	if nodes := p.webhookNodes(t); nodes[0] == nodes[1] {
		t.Errorf("both replicas of the webhook are on %s", nodes[0])
	}
	for _, n := range p.Nodes() {
		eventually(t, followLimit, holds(n, save4, approved4...))
		eventually(t, followLimit, holds(n, save6, approved6...))
	}
	if err := p.run(t.Context(), "test", release, "--namespace", namespace); err != nil {
		t.Error(err)
	}
}

// editor is a person: at the first visit the example of a vendor's guide goes in, at
// the second it is mended by what the reopened buffer says.
const editor = `#!/bin/sh
visit=$(($(ls %[1]s | wc -l) + 1))
cp "$1" %[1]s/$visit
case $visit in
1) sed -i 's|^\( *\)- 192.168.0.0/16|&\n\1- 198.15.5.92/24|' "$1" ;;
2) remedy=$(sed -n 's|^# .*"198.15.5.92/24" has host bits set; write \([0-9./]*\) .*|\1|p' "$1")
   sed -i "s|- 198.15.5.92/24|- $remedy|" "$1" ;;
esac
`

// kubectl edit through the real chain: a bad edit is refused in the editor, the mended
// one is in both nodes' kernels.
func TestEdit(t *testing.T) {
	p := need(t)
	dir := t.TempDir()
	visits := filepath.Join(dir, "visits")
	if err := os.Mkdir(visits, 0o700); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "editor")
	if err := os.WriteFile(script, fmt.Appendf(nil, editor, visits), 0o700); err != nil {
		t.Fatal(err)
	}
	command := p.KubectlCommand(t.Context(), "edit", "configmap", configMap, "-n", "kube-system")
	command.Env = append(command.Env, "KUBE_EDITOR="+script)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl edit: %v\n%s", err, out)
	}
	t.Cleanup(func() { p.restore(t) })
	if want := "Warning: no longer masqueraded: 198.15.5.0/24"; !strings.Contains(string(out), want) {
		t.Errorf("kubectl edit does not say %q:\n%s", want, out)
	}
	second, err := os.ReadFile(filepath.Join(visits, "2"))
	if err != nil {
		t.Fatal(err)
	}
	if want := `"198.15.5.92/24" has host bits set; write 198.15.5.0/24 [config-loads]`; !strings.Contains(string(second), want) {
		t.Errorf("the reopened editor does not say %q:\n%s", want, second)
	}
	want := append(append([]string{}, approved4...), "198.15.5.0/24")
	for _, n := range p.Nodes() {
		t.Logf("in the kernel of %s %s after kubectl's end", n.Name, eventually(t, followLimit, holds(n, save4, want...)))
	}
}

// restore stores approved and waits until every node has it.
func (p *product) restore(t *testing.T) {
	t.Helper()
	p.kubectl(t, configMapOf(approved), "apply", "-f", "-")
	for _, n := range p.Nodes() {
		if err := twonode.Wait(context.WithoutCancel(t.Context()), 3*followLimit, holds(n, save4, approved4...)); err != nil {
			t.Error(err)
		}
	}
}

// pod starts a probe on a node, as a server of port 7777, and returns its addresses.
func (p *product) pod(t *testing.T, name string, n *twonode.Node) []netip.Addr {
	t.Helper()
	p.kubectl(t, fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 0
  containers: [{name: probe, image: %q, imagePullPolicy: Never, args: [serve, ":7777"]}]
`, name, n.Name, twonode.ProbeImage), "apply", "-f", "-")
	t.Cleanup(func() { p.kubectl(t, "", "delete", "pod", name, "--wait=false") })
	p.kubectl(t, "", "wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s")
	var addresses []netip.Addr
	for text := range strings.FieldsSeq(p.kubectl(t, "", "get", "pod", name, "-o", "jsonpath={.status.podIPs[*].ip}")) {
		addresses = append(addresses, netip.MustParseAddr(text))
	}
	if len(addresses) != 2 {
		t.Fatalf("pod %s has the addresses %v, want one of each family", name, addresses)
	}
	return addresses
}

// ask has a pod ask a server which source address it sees.
func (p *product) ask(t *testing.T, pod, network string, server netip.AddrPort) netip.Addr {
	t.Helper()
	out := p.kubectl(t, "", "exec", pod, "--", "/probe", "ask", network, server.String())
	_, seen, ok := strings.Cut(strings.TrimSpace(out), " ")
	if !ok {
		t.Fatalf("the probe says %q", out)
	}
	return netip.MustParseAddr(seen)
}

// Pods of both nodes and a server outside of the cluster show, by the source address
// that is seen, what is spared and what is masqueraded.
func TestSourceAddresses(t *testing.T) {
	p := need(t)
	const port = 7
	destinations := []struct {
		name       string
		address    netip.Addr
		masquerade bool
	}{
		{"in 10.0.0.0/8", netip.MustParseAddr("10.20.0.5"), false},
		{"in 192.168.0.0/16", netip.MustParseAddr("192.168.77.7"), false},
		{"in no IPv4 range", netip.MustParseAddr("203.0.113.7"), true},
		{"in fd00:10::/32", netip.MustParseAddr("fd00:10:20::5"), false},
		{"in no IPv6 range", netip.MustParseAddr("2001:db8::7"), true},
	}
	var servers []netip.AddrPort
	for _, d := range destinations {
		if err := p.Outside.AddAddresses("lo", netip.PrefixFrom(d.address, d.address.BitLen())); err != nil {
			t.Fatal(err)
		}
		servers = append(servers, netip.AddrPortFrom(d.address, port))
	}
	echo, err := p.Outside.Echo(servers...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = echo.Close() }()

	nodes := p.Nodes()[:2]
	pods := map[string][]netip.Addr{}
	for _, n := range nodes {
		pods["on-"+n.Name] = p.pod(t, "on-"+n.Name, n)
	}
	family := func(of netip.Addr, v4, v6 netip.Addr) netip.Addr {
		if of.Is4() {
			return v4
		}
		return v6
	}
	for i, n := range nodes {
		name, other := "on-"+n.Name, nodes[1-i]
		own := pods[name]
		for _, d := range destinations {
			for _, network := range []string{"udp", "tcp"} {
				want := family(d.address, own[0], own[1])
				if d.masquerade {
					want = family(d.address, n.IPv4, n.IPv6)
				}
				if seen := p.ask(t, name, network, netip.AddrPortFrom(d.address, port)); seen != want {
					t.Errorf("pod %s, %s to a server %s (%s): it sees %s, want %s", name, network, d.name, d.address, seen, want)
				}
			}
		}
		for _, server := range pods["on-"+other.Name] {
			want := family(server, own[0], own[1])
			if seen := p.ask(t, name, "tcp", netip.AddrPortFrom(server, 7777)); seen != want {
				t.Errorf("pod %s to the pod of %s (%s): it sees %s, want %s", name, other.Name, server, seen, want)
			}
		}
	}
}

// A node that comes later has its agent and the rules, even one that nothing else may
// run on.
func TestNodeAddedLater(t *testing.T) {
	p := need(t)
	for _, tt := range []struct {
		name   string
		node   string
		taints []string
	}{
		{"plain", "node-3", nil},
		{"NoSchedule and NoExecute", "node-4", []string{"dedicated=batch:NoSchedule", "drained:NoExecute"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			begin := time.Now()
			n, err := p.AddNode(t.Context(), tt.node, twonode.NodeOptions{Images: p.images, Taints: tt.taints})
			if err != nil {
				t.Fatal(err)
			}
			ready := time.Since(begin)
			rules := eventually(t, time.Minute, holds(n, save4, approved4...))
			eventually(t, followLimit, holds(n, save6, approved6...))
			t.Logf("Ready after %s, rules %s later", ready.Round(10*time.Millisecond), rules)
		})
	}
}

// agentOf returns the UID of a node's agent and the number of its restarts.
func (p *product) agentOf(ctx context.Context, n *twonode.Node) (string, error) {
	return p.Kubectl(ctx, "", "get", "pods", "-n", "kube-system", "-l", "app.kubernetes.io/component=agent",
		"--field-selector", "spec.nodeName="+n.Name, "-o",
		`jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}{end}`)
}

// counted sends packets of a pod of the node through our chain, so that its rules have
// counters that a rewrite would reset, and returns the rules.
func (p *product) counted(t *testing.T, n *twonode.Node) []string {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	p.pod(t, name, n)
	server := netip.MustParseAddrPort("198.51.100.9:7")
	if err := p.Outside.AddAddresses("lo", netip.PrefixFrom(server.Addr(), 32)); err != nil && !strings.Contains(err.Error(), "exists") {
		t.Fatal(err)
	}
	echo, err := p.Outside.Echo(server)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = echo.Close() }()
	for range 3 {
		p.ask(t, name, "tcp", server)
	}
	rules, err := natChain(t.Context(), n, save4)
	if err != nil {
		t.Fatal(err)
	}
	if last := rules[len(rules)-1]; packets(t, last) < 3 {
		t.Fatalf("no packets are counted: %s", last)
	}
	return rules
}

// packets reads the first counter of "[packets:bytes] -A ...".
func packets(t *testing.T, rule string) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscanf(rule, "[%d:", &n); err != nil {
		t.Fatalf("reading the counters of %s: %v", rule, err)
	}
	return n
}

// notRewritten fails the test when a counter has gone back, as after a rewrite.
func notRewritten(t *testing.T, n *twonode.Node, before []string) {
	t.Helper()
	after, err := natChain(t.Context(), n, save4)
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != len(before) {
		t.Fatalf("rules of %s before:\n%s\nafter:\n%s", n.Name, strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	for i := range before {
		if packets(t, after[i]) < packets(t, before[i]) {
			t.Errorf("a rule of %s was written again: before %s, after %s", n.Name, before[i], after[i])
		}
	}
}

// A kubelet that is away and comes back changes nothing, and a change made meanwhile
// arrives after it.
func TestKubeletRestarts(t *testing.T) {
	p := need(t)
	n := p.Nodes()[0]
	before := p.counted(t, n)
	agent, err := p.agentOf(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	n.StopKubelet()
	stopped := true
	defer func() {
		if stopped {
			_ = n.StartKubelet()
		}
	}()
	p.kubectl(t, configMapOf(strings.Replace(approved, "192.168.0.0/16", "192.168.0.0/17", 1)), "apply", "-f", "-")
	t.Cleanup(func() { p.restore(t) })
	changed := []string{"169.254.0.0/16", "10.0.0.0/8", "192.168.0.0/17"}
	eventually(t, followLimit, holds(p.Nodes()[1], save4, changed...))
	notRewritten(t, n, before)
	if err := holds(n, save4, approved4...)(t.Context()); err != nil {
		t.Error(err)
	}

	if err := n.StartKubelet(); err != nil {
		t.Fatal(err)
	}
	stopped = false
	t.Logf("the change arrived %s after the kubelet's start", eventually(t, time.Minute, holds(n, save4, changed...)))
	if after, err := p.agentOf(t.Context(), n); err != nil || after != agent {
		t.Errorf("the agent before: %s, after: %s (%v)", agent, after, err)
	}
}

// The rules stay when the agent's pod goes, and the next one adopts them as they are.
func TestAgentDeleted(t *testing.T) {
	p := need(t)
	n := p.Nodes()[0]
	before := p.counted(t, n)
	agent, err := p.agentOf(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	p.kubectl(t, "", "delete", "pod", "-n", "kube-system", "-l", "app.kubernetes.io/component=agent",
		"--field-selector", "spec.nodeName="+n.Name, "--wait=false")
	took := eventually(t, time.Minute, func(ctx context.Context) error {
		if rules, err := natChain(ctx, n, save4); err != nil || len(rules) != len(before) {
			t.Fatalf("while no agent runs there are %d rules, want %d (%v)", len(rules), len(before), err)
		}
		now, err := p.agentOf(ctx, n)
		if err != nil || now == agent || !strings.HasSuffix(now, "0 true") {
			return fmt.Errorf("the agent is %q, was %q (%w)", now, agent, err)
		}
		return nil
	})
	t.Logf("the next agent was ready after %s", took)
	notRewritten(t, n, before)
}

// While the API server is away the rules stay and are healed.
func TestAPIServerAway(t *testing.T) {
	p := need(t)
	p.StopAPIServer()
	away := true
	defer func() {
		if away {
			_ = p.StartAPIServer(context.WithoutCancel(t.Context()))
		}
	}()
	for _, n := range p.Nodes() {
		if err := holds(n, save4, approved4...)(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := n.Run(t.Context(), "iptables", "-t", "nat", "-F", masqChain); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range p.Nodes() {
		t.Logf("%s healed after %s", n.Name, eventually(t, followLimit, holds(n, save4, approved4...)))
	}
	if err := p.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	away = false
	eventually(t, time.Minute, func(ctx context.Context) error {
		_, err := p.Kubectl(ctx, configMapOf(approved), "apply", "--server-side", "--force-conflicts", "-f", "-")
		return err
	})
}
