package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/agent/nftables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/notify"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// sizes are those of the tables in docs/benchmarks.md.
func sizes() []int { return []int{4, 64, 1000, 10000} }

// every is a line of a file.
func every(interval string) string { return "resyncInterval: " + interval + "\n" }

// percentile is in milliseconds.
func percentile(took []time.Duration, p int) float64 {
	slices.Sort(took)
	return took[(len(took)-1)*p/100].Seconds() * 1000
}

// BenchmarkHeal measures from the end of somebody's transaction that flushes our
// chain until the end of the one that restores it, as the kernel tells both.
func BenchmarkHeal(b *testing.B) {
	for _, form := range []struct {
		name, flag string
		subject    notify.Subject
		flush      string
		agents     int
		perAgent   int // the allowance of one agent covers so many at every size, on a machine at rest
	}{
		{
			"nft", "--iptables-backend=nft", notify.Chain(ruleset.IPv4, "nat", "IP-MASQ-AGENT", "POSTROUTING"),
			"iptables-nft -t nat -F IP-MASQ-AGENT", 5, 8,
		},
		{
			"nftables", natives()[0], notify.Table(ruleset.IPv4, nftables.TableName("IP-MASQ-AGENT")),
			"nft flush chain ip ip-masq-guard-IP-MASQ-AGENT postrouting", 10, 1,
		},
	} {
		for _, size := range sizes() {
			b.Run(fmt.Sprintf("%s/%d", form.name, size), func(b *testing.B) {
				host := netns.ForTest(b)
				v := newVolume(b, listOf(size, 0)+every("1h"))
				var watch *notify.Watch
				if err := host.Do(func() (err error) {
					watch, err = notify.New(form.subject)
					return err
				}); err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				ended := make(chan error)
				go func() { ended <- watch.Run(ctx) }()
				defer func() {
					cancel()
					if err := <-ended; err != nil {
						b.Error(err)
					}
				}()
				// changed waits for a change by another process than that of one before.
				changed := func(before notify.Change) (notify.Change, time.Time) {
					for timeout := time.After(10 * time.Second); ; {
						select {
						case <-watch.Changes():
							if by, pending := watch.Pending(); pending && by != before {
								return by, time.Now()
							}
						case <-timeout:
							b.Fatalf("no change by another than %+v", before)
						}
					}
				}

				var took []time.Duration
				for b.Loop() {
					for range form.agents {
						a := startAgent(b, host, "--config-path="+v.file(), form.flag)
						eventually(b, "the rules are there", func() string {
							if strings.Contains(a.log.String(), `"configuration applied"`) {
								return ""
							}
							return a.log.String()
						})
						time.Sleep(200 * time.Millisecond) // it verifies
						for range form.perAgent {
							watch.Look()() // what was is settled
							var flusher notify.Change
							var from time.Time
							flushed := make(chan struct{})
							go func() {
								defer close(flushed)
								flusher, from = changed(notify.Change{})
							}()
							command := strings.Fields(form.flush)
							host.Output(b, command[0], command[1:]...)
							<-flushed
							_, to := changed(flusher)
							took = append(took, to.Sub(from))
							time.Sleep(50 * time.Millisecond)
						}
						a.stop(b)
					}
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(percentile(took, 50), "p50-ms")
				b.ReportMetric(percentile(took, 99), "p99-ms")
			})
		}
	}
}

// processorTime is what the agent has used since its start, with the children that
// it has waited for.
func (a *agentProcess) processorTime(tb testing.TB) time.Duration {
	tb.Helper()
	root := fmt.Sprintf("/proc/%d", a.command.Process.Pid)
	tasks, err := filepath.Glob(root + "/task/*/schedstat")
	if err != nil {
		tb.Fatal(err)
	}
	var used time.Duration
	for _, task := range tasks {
		text, readErr := os.ReadFile(task)
		if readErr != nil {
			tb.Fatal(readErr)
		}
		nanoseconds, readErr := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if readErr != nil {
			tb.Fatal(readErr)
		}
		used += time.Duration(nanoseconds)
	}
	text, err := os.ReadFile(root + "/stat")
	if err != nil {
		tb.Fatal(err)
	}
	// The program's name, in parentheses, is the second field; cutime and cstime are
	// the 16th and 17th (proc_pid_stat(5)), in hundredths of a second.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	for _, field := range fields[13:15] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			tb.Fatal(err)
		}
		used += time.Duration(ticks) * 10 * time.Millisecond
	}
	return used
}

// kubeProxy is what kube-proxy restores for so many services of two endpoints each,
// when all have changed.
func kubeProxy(services int) string {
	var chains, rules strings.Builder
	for i := range services {
		svc, ip := fmt.Sprintf("KUBE-SVC-%016d", i), fmt.Sprintf("10.96.%d.%d", i>>8, i&0xff)
		fmt.Fprintf(&chains, ":%s - [0:0]\n", svc)
		fmt.Fprintf(&rules, "-A KUBE-SERVICES -m comment --comment \"default/service-%d:http cluster IP\" -d %s/32 -m tcp -p tcp --dport 80 -j %s\n", i, ip, svc)
		fmt.Fprintf(&rules, "-A %s -m comment --comment \"default/service-%d:http cluster IP\" -m tcp -p tcp -d %s/32 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ\n", svc, i, ip)
		for j := range 2 {
			sep := fmt.Sprintf("KUBE-SEP-%015d%d", i, j)
			fmt.Fprintf(&chains, ":%s - [0:0]\n", sep)
			fmt.Fprintf(&rules, "-A %s -m comment --comment \"default/service-%d:http -> 10.244.%d.%d:8080\" -j %s\n", svc, i, j, i&0xff, sep)
			fmt.Fprintf(&rules, "-A %s -m comment --comment default/service-%d:http -m tcp -p tcp -j DNAT --to-destination 10.244.%d.%d:8080\n", sep, i, j, i&0xff)
		}
	}
	return "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n" + chains.String() + rules.String() + "COMMIT\n"
}

// BenchmarkStorm measures the processor time that others' changes cost an agent at
// rest: a thousand small ones, and kube-proxy's rewriting all of 1,000 services, of
// which it does at most one a second.
func BenchmarkStorm(b *testing.B) {
	for _, storm := range []struct {
		name, text string
	}{
		{"1000 changes", strings.Repeat("*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -p tcp -j RETURN\nCOMMIT\n", 1000)},
		{"kube-proxy of 1000 services", kubeProxy(1000)},
	} {
		b.Run(storm.name, func(b *testing.B) {
			host := netns.ForTest(b)
			v := newVolume(b, listOf(64, 0)+every("1h"))
			feed := func() {
				if _, err := host.Feed(b.Context(), storm.text, "iptables-nft-restore", "--noflush"); err != nil {
					b.Fatal(err)
				}
			}
			feed()
			a := startAgent(b, host, "--config-path="+v.file(), "--iptables-backend=nft")
			eventually(b, "the rules are there", func() string {
				if strings.Contains(a.log.String(), `"configuration applied"`) {
					return ""
				}
				return a.log.String()
			})
			time.Sleep(time.Second)
			used, storms := a.processorTime(b), 0
			for b.Loop() {
				feed()
				storms++
			}
			time.Sleep(100 * time.Millisecond) // it reads the rest
			b.ReportMetric(0, "ns/op")
			b.ReportMetric((a.processorTime(b)-used).Seconds()*1000/float64(storms), "agent-ms/storm")
			b.ReportMetric(float64(a.metric(b, "kernel_losses_total")), "losses")
			b.ReportMetric(float64(a.metric(b, "kernel_wakeups_total")), "wakeups")
			a.stop(b)
		})
	}
}

// BenchmarkRest measures an agent that has nothing to do: processor time of a second
// without a tick and of a tick, its children's too, and resident memory.
func BenchmarkRest(b *testing.B) {
	const atRest, ticking = 10 * time.Second, 5
	for _, name := range backendNames() {
		for _, size := range sizes() {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				host := netns.ForTest(b)
				v := newVolume(b, listOf(size, 0)+every("1h"))
				a := startAgent(b, host, "--config-path="+v.file(), "--iptables-backend="+name)
				applied := func(times int) {
					eventually(b, "the file is applied", func() string {
						if strings.Count(a.log.String(), `"configuration applied"`) >= times {
							return ""
						}
						return a.log.String()
					})
				}
				applied(1)
				var rest, tick time.Duration
				for n := 0; b.Loop(); n++ {
					time.Sleep(time.Second)
					before := a.processorTime(b)
					time.Sleep(atRest)
					rest = (a.processorTime(b) - before) / (atRest / time.Second)

					v.swap(b, listOf(size, 0)+every("1s"))
					applied(2*n + 2)
					before = a.processorTime(b)
					time.Sleep(ticking * time.Second)
					tick = (a.processorTime(b)-before)/ticking - rest
					v.swap(b, listOf(size, 0)+every("1h"))
					applied(2*n + 3)
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(rest.Seconds()*1000, "ms/s")
				b.ReportMetric(tick.Seconds()*1000, "ms/tick")
				b.ReportMetric((rest.Seconds()+tick.Seconds()/60)*100, "%core@60s")
				a.get(b, "/metrics")
				b.ReportMetric(float64(a.memory(b))/1024, "RSS-MiB")
				a.stop(b)
			})
		}
	}
}
