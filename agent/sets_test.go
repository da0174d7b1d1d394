package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// listOf is a file of so many CIDRs beside 10.9.0.0/16, apart for each generation.
func listOf(size, generation int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cidrLimit: %d\nnonMasqueradeCIDRs:\n- 10.9.0.0/16\n", size+1)
	for i := range size {
		fmt.Fprintf(&b, "- 10.%d.%d.%d/32\n", 100+generation%50, i>>7, i&127<<1) // no two are neighbours, which the native table would join
	}
	return b.String()
}

// held is all that a host holds of rules and sets, in a fixed order.
func (b backend) held(tb testing.TB) []string {
	tb.Helper()
	held := b.saved(tb)
	for line := range strings.Lines(b.host.Output(tb, "ipset", "save")) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " bucketsize ") // then comes what the kernel draws
		held = append(held, line)
	}
	slices.Sort(held)
	return held
}

// TestKilledAnywhere ends the agent, and what it runs, at random moments of a change
// between rules and sets, while packets flow. What is spared before and after is never
// masqueraded, and the next pass leaves what a fresh start would.
func TestKilledAnywhere(t *testing.T) {
	const kills = 25
	for _, name := range backendNames() {
		t.Run(name, func(t *testing.T) {
			spared, masqueraded := netip.MustParseAddr("10.9.0.5"), netip.MustParseAddr("203.0.113.5")
			lab := netns.LabForTest(t, spared, masqueraded)
			b := backend{name, lab.Node}
			file := filepath.Join(t.TempDir(), "ip-masq-agent")
			args := []string{"--once", "--config-path=" + file, "--iptables-backend=" + name, "--set-threshold=20"}
			once := func(host *netns.Host) {
				if _, stderr, status := inNode(t, host, args...); status != 0 {
					t.Fatalf("status %d: %s", status, stderr)
				}
			}
			must(t, os.WriteFile(file, []byte(listOf(5, 0)), 0o600))
			once(lab.Node)

			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			done := make(chan struct{})
			var tally netns.Tally
			flowing := make(chan error, 1)
			go func() {
				var err error
				tally, err = lab.Pod.Flood(t.Context(), 2, []netip.AddrPort{lab.At(spared), lab.At(masqueraded)}, func(int) bool {
					select {
					case <-done:
						return true
					default:
						time.Sleep(time.Millisecond) // the number of flows is bounded
						return false
					}
				})
				flowing <- err
			}()
			for i := range kills {
				size := []int{5, 300, 310, 5, 2000}[i%5]
				must(t, os.WriteFile(file, []byte(listOf(size, i/2)), 0o600))
				command := lab.Node.Command(t.Context(), agentBinary(t), args...)
				must(t, lab.Node.Start(command))
				time.Sleep(time.Duration(random.IntN(int(60 * time.Millisecond))))
				// Its iptables too, as at the end of a container.
				if err := syscall.Kill(-command.Process.Pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				_ = command.Wait() // killed, or done already
				if i%3 == 0 {
					continue // it is killed again before it can mend
				}
				once(lab.Node)
				fresh := backend{name, netns.ForTest(t)}
				once(fresh.host)
				if diff := cmp.Diff(fresh.held(t), b.held(t)); diff != "" {
					t.Fatalf("after kill %d the kernel differs (-fresh +killed):\n%s", i, diff)
				}
			}
			close(done)
			if err := <-flowing; err != nil {
				t.Fatal(err)
			}
			t.Logf("%d packets", tally.Sent)
			want := map[netip.AddrPort]netip.Addr{lab.At(spared): netns.PodIPv4, lab.At(masqueraded): netns.NodeIPv4}
			for destination, sources := range tally.Sources {
				if len(sources) != 1 || sources[want[destination]] == 0 {
					t.Errorf("%s saw %v, want %s alone", destination, sources, want[destination])
				}
			}
			if tally.Lost > 0 {
				t.Errorf("%d packets are lost", tally.Lost)
			}
		})
	}
}

// TestMemoryOfALongList: ten thousand CIDRs, which change.
func TestMemoryOfALongList(t *testing.T) {
	const most = 30 << 10 // KiB
	for _, name := range backendNames() {
		t.Run(name, func(t *testing.T) {
			b := backend{name, netns.ForTest(t)}
			v := newVolume(t, listOf(10000, 0))
			a := startAgent(t, b.host, "--config-path="+v.file(), "--iptables-backend="+name)
			for i := 1; i < 4; i++ {
				v.swap(t, listOf(10000, i))
				last := fmt.Sprintf("10.%d.78.30", 100+i)
				eventually(t, "list "+last, func() string {
					if _, err := b.host.Run(t.Context(), "ipset", "test", "masq-guard-4:IP-MASQ-AGENT", last); err != nil {
						return err.Error()
					}
					return ""
				})
				a.get(t, "/metrics")
			}
			if got := a.memory(t); got > most {
				t.Errorf("the agent takes %d KiB, want at most %d", got, most)
			} else {
				t.Logf("the agent takes %d KiB", got)
			}
			a.stop(t)
		})
	}
}
