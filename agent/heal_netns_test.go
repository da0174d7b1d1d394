package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// metric reads a counter of the agent's.
func (a *agentProcess) metric(tb testing.TB, name string) int {
	tb.Helper()
	_, body := a.get(tb, "/metrics")
	match := regexp.MustCompile(`(?m)^ip_masq_guard_agent_` + regexp.QuoteMeta(name) + ` (\d+)$`).FindStringSubmatch(body)
	if match == nil {
		tb.Fatalf("no %s in:\n%s", name, body)
	}
	n, err := strconv.Atoi(match[1])
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// startAgentInPod starts the agent in a process namespace of its own, as a pod's: there it
// and its children have other process ids than the kernel tells.
func startAgentInPod(tb testing.TB, host *netns.Host, args ...string) *agentProcess {
	tb.Helper()
	return startAgentAs(tb, host, func(attributes *syscall.SysProcAttr) { attributes.Cloneflags |= syscall.CLONE_NEWPID }, args...)
}

// TestHealsAtOnce: with a tick of an hour only the kernel's word can wake the agent.
func TestHealsAtOnce(t *testing.T) {
	const resync = "resyncInterval: 1h\n"
	for _, pod := range []bool{false, true} {
		t.Run(fmt.Sprintf("pod %t", pod), func(t *testing.T) {
			b := newBackend(t, "nft")
			v := newVolume(t, "nonMasqueradeCIDRs: [10.1.0.0/16]\n"+resync)
			start := startAgent
			if pod {
				start = startAgentInPod
			}
			a := start(t, b.host, "--config-path="+v.file(), "--iptables-backend=nft")
			b.eventuallyHolds(t, "the first file", table("10.1.0.0/16"))
			for i := range 10 { // changes of its own
				v.swap(t, fmt.Sprintf("nonMasqueradeCIDRs: [10.%d.0.0/16]\n", i+2)+resync)
				b.eventuallyHolds(t, "the next file", table(fmt.Sprintf("10.%d.0.0/16", i+2)))
			}
			want := table("10.11.0.0/16")

			// Others' changes elsewhere.
			for range 10 {
				b.restore(t, ":KUBE-SERVICES - [0:0]", "-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -j RETURN")
				b.restore(t, "-A POSTROUTING -s 198.51.100.1/32 -j RETURN")
				b.host.Output(t, "iptables-nft", "-t", "mangle", "-A", "POSTROUTING", "-j", "RETURN")
			}
			want = append(want, ":KUBE-SERVICES - [0:0]", "-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -j RETURN")
			for range 10 {
				want = append(want, "-A POSTROUTING -s 198.51.100.1/32 -j RETURN")
			}
			slices.Sort(want)
			if woken := a.metric(t, "kernel_wakeups_total"); woken != 0 {
				t.Errorf("%d passes were made for changes that are its own or do not concern it", woken)
			}
			changes := a.metric(t, "kernel_changes_total")
			if changes < 11 {
				t.Errorf("the kernel told %d changes of our rules, want the own ones at least", changes)
			}

			const ours = `-m comment --comment "ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom ` +
				`IP-MASQ-AGENT chain" -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT`
			for i, test := range []struct {
				name, kind string
				harm       []string
				loses      string // a rule of somebody else
			}{
				{"flush of the chain", "chain-changed", []string{"-F IP-MASQ-AGENT"}, ""},
				{"removal of the jump", "jump-missing", []string{"-D POSTROUTING " + ours}, ""},
				{"rule replaced", "chain-changed", []string{"-R IP-MASQ-AGENT 1 -j ACCEPT"}, ""},
				{"flush of POSTROUTING", "jump-missing", []string{"-F POSTROUTING"}, "-A POSTROUTING "},
			} {
				before := driftCount(t, a, test.kind)
				b.restore(t, test.harm...)
				if test.loses != "" {
					want = slices.DeleteFunc(want, func(line string) bool {
						return strings.HasPrefix(line, test.loses) && !strings.Contains(line, "IP-MASQ-AGENT")
					})
				}
				b.eventuallyHolds(t, test.name, want)
				eventually(t, test.name+" is counted", func() string {
					if woken := a.metric(t, "kernel_wakeups_total"); woken != i+1 {
						return fmt.Sprintf("%d passes were made for %d changes", woken, i+1)
					}
					if drift := driftCount(t, a, test.kind); drift != before+1 {
						return fmt.Sprintf("drift_total of %s grew from %d to %d", test.kind, before, drift)
					}
					return ""
				})
			}
			if log := a.log.String(); strings.Count(log, `"drift":["chain-changed"],"by":{"program":"iptables-nft-re","pid":`) == 0 {
				t.Error("the log does not tell who has changed the chain")
			}
			a.stop(t)
		})
	}
}

// TestWithoutTheKernelsWord: switched off, the tick heals.
func TestWithoutTheKernelsWord(t *testing.T) {
	b := newBackend(t, "nft")
	v := newVolume(t, "nonMasqueradeCIDRs: [10.1.0.0/16]\nresyncInterval: 1s\n")
	a := startAgent(t, b.host, "--config-path="+v.file(), "--iptables-backend=nft", "--watch-kernel=false")
	b.eventuallyHolds(t, "the file", table("10.1.0.0/16"))
	b.iptables(t, "-F", "IP-MASQ-AGENT")
	b.eventuallyHolds(t, "the flushed chain", table("10.1.0.0/16"))
	if changes, woken := a.metric(t, "kernel_changes_total"), a.metric(t, "kernel_wakeups_total"); changes != 0 || woken != 0 {
		t.Errorf("%d changes told, %d passes for them, want none", changes, woken)
	}
	a.stop(t)
}
