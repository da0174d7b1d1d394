package iptables_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// TestTakeOver: what other agents have left is replaced by what is wanted, and what
// others have is not.
func TestTakeOver(t *testing.T) {
	for _, p := range places() {
		foreign := p.left("KUBE-POSTROUTING", "-A CHAIN -m mark ! --mark 0x4000/0x4000 -j RETURN", "-A POSTROUTING -j CHAIN")
		gke := p.left("IP-MASQ", gkeJump, gkeSpares, gkeMasq)
		for _, test := range []struct {
			name   string
			chain  string // ours
			before []string
			stays  []string // of before
			drift  []iptables.Drift
			left   int // sentences
		}{
			{
				name: "upstream's default chain", chain: "MASQ", before: p.left("IP-MASQ-AGENT", upstreamJump, agentSpares, agentMasq+" --random-fully"),
				drift: []iptables.Drift{iptables.ChainMissing, iptables.JumpMissing, iptables.ChainFormer},
			},
			{
				name: "Azure's default chain", chain: "MASQ", before: p.left("IP-MASQ-AGENT", azureJump, agentSpares, agentMasq),
				drift: []iptables.Drift{iptables.ChainMissing, iptables.JumpMissing, iptables.ChainFormer},
			},
			{
				name: "upstream's chain is ours", chain: "IP-MASQ-AGENT", before: p.left("IP-MASQ-AGENT", upstreamJump, agentSpares, agentMasq),
				drift: []iptables.Drift{iptables.ChainChanged},
			},
			{
				name: "Azure's chain is ours", chain: "IP-MASQ-AGENT", before: p.left("IP-MASQ-AGENT", azureJump, agentSpares, agentMasq),
				drift: []iptables.Drift{iptables.ChainChanged, iptables.JumpDuplicate},
			},
			{
				name: "two former chains, and ours with two jumps", chain: "MASQ",
				before: slices.Concat(p.left("IP-MASQ-AGENT", azureJump, upstreamJump, agentMasq), p.left("B", upstreamJump, agentMasq),
					p.left("MASQ", upstreamJump, azureJump, agentMasq)),
				drift: []iptables.Drift{iptables.ChainChanged, iptables.JumpDuplicate, iptables.ChainFormer},
			},
			{
				name: "a former chain that is empty", chain: "MASQ", before: p.left("IP-MASQ-AGENT", upstreamJump),
				drift: []iptables.Drift{iptables.ChainMissing, iptables.JumpMissing, iptables.ChainFormer},
			},
			{
				name: "a former chain without its jump", chain: "MASQ", before: p.left("IP-MASQ-AGENT", agentSpares, agentMasq),
				drift: []iptables.Drift{iptables.ChainMissing, iptables.JumpMissing, iptables.ChainFormer},
			},
			{
				name: "GKE's chain is left", chain: "IP-MASQ-AGENT", before: gke, stays: gke[1:],
				drift: []iptables.Drift{iptables.ChainMissing, iptables.JumpMissing},
			},
			{
				name: "GKE's chain is adopted by its name", chain: "IP-MASQ", before: gke,
				drift: []iptables.Drift{iptables.ChainChanged, iptables.JumpDuplicate},
			},
			{
				name: "upstream's chain on GKE, beside GKE's own jump", chain: "IP-MASQ-AGENT",
				before: p.left("IP-MASQ", gkeJump, upstreamJump, agentMasq), stays: p.left("IP-MASQ", gkeJump, agentMasq)[1:],
				drift: []iptables.Drift{iptables.ChainMissing, iptables.JumpMissing, iptables.ChainFormer}, left: 1,
			},
			{
				name: "a former chain with a rule of others", chain: "MASQ",
				before: p.left("IP-MASQ-AGENT", upstreamJump, "-A CHAIN -p tcp -j ACCEPT", agentMasq),
				stays:  p.left("IP-MASQ-AGENT", "-A CHAIN -p tcp -j ACCEPT", agentMasq)[1:],
				drift:  []iptables.Drift{iptables.ChainMissing, iptables.JumpMissing, iptables.ChainFormer}, left: 1,
			},
			{
				name: "a rule of others with an agent's comment", chain: "MASQ",
				before: p.left("THEIRS", agentSpares, "-A CHAIN -p tcp -j ACCEPT", "-A POSTROUTING -j CHAIN"),
				stays:  p.left("THEIRS", agentSpares, "-A CHAIN -p tcp -j ACCEPT", "-A POSTROUTING -j CHAIN")[1:],
				drift:  []iptables.Drift{iptables.ChainMissing, iptables.JumpMissing},
			},
			{
				name: "an agent's words before a target that is no chain", chain: "MASQ",
				before: p.left("X", strings.NewReplacer("CHAIN", "ACCEPT").Replace(upstreamJump)),
				stays:  p.left("X", strings.NewReplacer("CHAIN", "ACCEPT").Replace(upstreamJump))[1:],
				drift:  []iptables.Drift{iptables.ChainMissing, iptables.JumpMissing},
			},
		} {
			t.Run(p.String()+"/"+test.name, func(t *testing.T) {
				n := p.node(t)
				n.holding(t, foreign)
				alone := n.rules(t)
				n.holding(t, test.before)
				want := ruleset.Build(config.Default(), p.family, ruleset.Options{Chain: test.chain, RandomFully: true})

				drift := n.apply(t, want)
				if diff := cmp.Diff(test.drift, drift); diff != "" {
					t.Errorf("drift differs (-want +got):\n%s", diff)
				}
				if left := n.kernel.Left(n.family); len(left) != test.left {
					t.Errorf("%d sentences, want %d: %q", len(left), test.left, left)
				}
				ours := append([]string{want.JumpRule()}, want.Rules...)
				if diff := cmp.Diff(sorted(slices.Concat(alone, test.stays, ours)), sorted(n.rules(t))); diff != "" {
					t.Errorf("the table differs (-want +got):\n%s", diff)
				}
				held := n.Output(t, n.command("-save"), "-t", "nat")
				if gone := strings.Count(held, "\n:"); gone != 4+2+min(1, len(test.stays)) {
					t.Errorf("%d chains are there:\n%s", gone, held)
				}
				state := n.state(t)
				if drift := n.apply(t, want); len(drift) > 0 {
					t.Errorf("the second time there is drift: %v", drift)
				}
				if diff := cmp.Diff(state, n.state(t)); diff != "" {
					t.Errorf("the second time it writes (-before +after):\n%s", diff)
				}
			})
		}
	}
}

// TestTakeOverIsRefused: while the old chain cannot go, ours is in force all the same.
func TestTakeOverIsRefused(t *testing.T) {
	n := place{iptables.Legacy, ruleset.IPv4}.node(t)
	n.holding(t, n.left("IP-MASQ-AGENT", upstreamJump, agentMasq))
	want := ruleset.Build(config.Default(), n.family, ruleset.Options{Chain: "MASQ", RandomFully: true})
	want.Jump = append([]string{"-m", "no-such-match"}, want.Jump...) // refuses the transaction, and the jump
	if _, err := n.tryApply(t, want); err == nil || !strings.Contains(err.Error(), "settling the jump to MASQ") {
		t.Fatalf("error %v", err)
	}
	rules := strings.Join(n.rules(t), "\n")
	for _, rule := range append(want.Rules, n.left("IP-MASQ-AGENT", upstreamJump, agentMasq)[1:]...) {
		if !strings.Contains(rules, rule) {
			t.Errorf("%q is gone", rule)
		}
	}
}

// upstreamStarts does what the upstream agent does at its start and at each interval:
// it makes its chain, appends its jump unless there is one, and replaces the chain.
func (n node) upstreamStarts(tb testing.TB, chain string) {
	tb.Helper()
	rules := n.left(chain, upstreamJump, agentSpares, agentMasq+" --random-fully")
	_, _ = n.Run(tb.Context(), n.command(""), "-w", "5", "-t", "nat", "-N", chain) // fails where it exists
	jump := []string{
		"POSTROUTING", "-m", "comment", "--comment",
		"ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom " + chain + " chain",
		"-m", "addrtype", "!", "--dst-type", "LOCAL", "-j", chain,
	}
	if _, err := n.Run(tb.Context(), n.command(""), append([]string{"-w", "5", "-t", "nat", "-C"}, jump...)...); err != nil {
		n.other(tb, append([]string{"-A"}, jump...)...)
	}
	n.otherRestores(tb, "*nat\n"+rules[0]+"\n"+strings.Join(rules[2:], "\n")+"\nCOMMIT\n", "--noflush")
}

// TestThereAndBack: from the upstream agent to ours and back, with its chain and with
// another, there is one chain and one jump at the end of each step.
func TestThereAndBack(t *testing.T) {
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			n.upstreamStarts(t, "IP-MASQ-AGENT")
			upstream := n.rules(t)
			for _, chain := range []string{"IP-MASQ-AGENT", "OURS"} {
				want := ruleset.Build(config.Default(), p.family, ruleset.Options{Chain: chain, RandomFully: true})
				n.apply(t, want)
				n.holds(t, want)
				if chain != "IP-MASQ-AGENT" {
					// Its old chain would stay in force beside upstream's.
					n.remove(t, chain)
				}
				n.upstreamStarts(t, "IP-MASQ-AGENT")
				if diff := cmp.Diff(upstream, n.rules(t)); diff != "" {
					t.Errorf("back from %s the table differs (-want +got):\n%s", chain, diff)
				}
			}
		})
	}
}

// traffic is a pod that talks to two servers while rules change: one that every list
// spares, and one that none does.
type traffic struct {
	*netns.Lab

	servers [2]netip.AddrPort
	sources [2]netip.Addr // as each server has to see them
	sent    atomic.Int64
	stop    context.CancelFunc
	done    chan error
	tally   netns.Tally
}

// flows is how many begin between two changes, at least.
const flows = 20

func newTraffic(t *testing.T, family ruleset.Family) *traffic {
	t.Helper()
	spared, masqueraded := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.1")
	f := &traffic{sources: [2]netip.Addr{netns.PodIPv4, netns.NodeIPv4}, done: make(chan error, 1)}
	if family == ruleset.IPv6 {
		spared, masqueraded = netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:2::1")
		f.sources = [2]netip.Addr{netns.PodIPv6, netns.NodeIPv6}
	}
	f.Lab = netns.LabForTest(t, spared, masqueraded)
	f.servers = [2]netip.AddrPort{f.At(spared), f.At(masqueraded)}
	return f
}

// spared is a list that spares the first server, and something else in each round.
func (f *traffic) spared(round int) config.Config {
	server := netip.PrefixFrom(f.servers[0].Addr(), f.servers[0].Addr().BitLen())
	return config.Config{NonMasquerade: prefixes(server.String(), fmt.Sprintf("10.%d.0.0/16", round))}
}

func (f *traffic) begin(t *testing.T) {
	t.Helper()
	var ctx context.Context
	ctx, f.stop = context.WithCancel(t.Context())
	go func() {
		tally, err := f.Pod.Flood(ctx, 2, f.servers[:], func(n int) bool {
			f.sent.Store(int64(n))
			return false
		})
		f.tally = tally
		f.done <- err
	}()
}

// await waits until enough flows have begun for the next round.
func (f *traffic) await(round int) {
	for deadline := time.Now().Add(10 * time.Second); f.sent.Load() < int64(round*flows) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// end checks that each server saw the one source that it should.
func (f *traffic) end(t *testing.T, rounds int) {
	t.Helper()
	f.stop()
	if err := <-f.done; err != nil {
		t.Fatal(err)
	}
	for i, server := range f.servers {
		sources := f.tally.Sources[server]
		if len(sources) != 1 || sources[f.sources[i]] < rounds*flows/3 {
			t.Errorf("%s saw %v, want %s alone", server, sources, f.sources[i])
		}
	}
	t.Logf("%d flows, %d lost", f.tally.Sent, f.tally.Lost)
}

// TestTakeOverUnderTraffic renames the chain again and again while a pod talks: what is
// spared by both lists never has the node's address, and what is spared by neither
// always has it.
func TestTakeOverUnderTraffic(t *testing.T) {
	const rounds = 30
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			f := newTraffic(t, p.family)
			kernel, err := iptables.Open(p.backend)
			if err != nil {
				t.Fatal(err)
			}
			n := node{Host: f.Node, place: p, kernel: kernel}
			want := func(round int) ruleset.Ruleset {
				return ruleset.Build(f.spared(round), p.family, ruleset.Options{Chain: fmt.Sprintf("MASQ-%d", round), RandomFully: true})
			}
			n.apply(t, want(0))
			f.begin(t)
			for round := 1; round <= rounds; round++ {
				f.await(round)
				if drift := n.apply(t, want(round)); !slices.Contains(drift, iptables.ChainFormer) {
					t.Errorf("round %d: drift %v", round, drift)
				}
			}
			f.end(t, rounds)
			n.holds(t, want(rounds))
		})
	}
}

// TestChangeOfBackendUnderTraffic goes from one backend to the other and back, as the agent
// does: first the new rules, then the old ones go.
func TestChangeOfBackendUnderTraffic(t *testing.T) {
	const rounds = 20
	for _, family := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
		t.Run(family.String(), func(t *testing.T) {
			f := newTraffic(t, family)
			var nodes [2]node
			for i, backend := range []iptables.Backend{iptables.NFT, iptables.Legacy} {
				kernel, err := iptables.Open(backend)
				if err != nil {
					t.Fatal(err)
				}
				nodes[i] = node{Host: f.Node, place: place{backend, family}, kernel: kernel}
			}
			want := func(round int) ruleset.Ruleset { return ruleset.Build(f.spared(round), family, plainOptions()) }
			nodes[0].apply(t, want(0))
			f.begin(t)
			for round := 1; round <= rounds; round++ {
				f.await(round)
				next, former := nodes[round%2], nodes[(round+1)%2]
				next.apply(t, want(round))
				err := f.Node.Do(func() error {
					_, err := iptables.RemoveAll(t.Context(), former.backend, family)
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			f.end(t, rounds)
			nodes[rounds%2].holds(t, want(rounds))
			if rules := nodes[(rounds+1)%2].rules(t); len(rules) > 0 {
				t.Errorf("the former backend holds %q", rules)
			}
		})
	}
}
