package netns_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

func TestHostIsNotTheMachine(t *testing.T) {
	h := netns.ForTest(t)
	machine, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	inside := strings.TrimSpace(h.Output(t, "readlink", "/proc/self/ns/net"))
	if inside == machine {
		t.Fatalf("a command in the host runs in the machine's namespace %s", machine)
	}
	var thread string
	err = h.Do(func() (err error) {
		thread, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if thread != inside {
		t.Errorf("Do runs in %s, a command in %s", thread, inside)
	}
	if back, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || back != machine {
		t.Errorf("after Do the thread is in %s (%v), want %s", back, err, machine)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	netns.Require(t)
	h, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimSpace(h.Output(t, "readlink", "/proc/self/ns/net"))
	if !held(t, name) {
		t.Fatalf("%s is not held while the host is open", name)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if held(t, name) {
		t.Errorf("%s is still held after Close", name)
	}
	if err := h.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

// held tells whether this process holds a namespace, by a descriptor or a thread.
func held(t *testing.T, name string) bool {
	t.Helper()
	for _, pattern := range []string{"/proc/self/fd/*", "/proc/self/task/*/ns/net"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if target, err := os.Readlink(path); err == nil && target == name {
				return true
			}
		}
	}
	return false
}

func TestCommandEndsWithItsContext(t *testing.T) {
	h := netns.ForTest(t)
	ctx, cancel := context.WithCancel(t.Context())
	command := h.Command(ctx, "sh", "-c", "sleep 60 & echo started; wait")
	var out strings.Builder
	command.Stdout = &out
	if err := h.Start(command); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	cancel()
	// The shell's child holds the output open, so that Wait would time out.
	if err := command.Wait(); err == nil || errors.Is(err, exec.ErrWaitDelay) || time.Since(started) > 10*time.Second {
		t.Errorf("the command ended with %v after %s", err, time.Since(started))
	}
}

func TestRunTellsStandardError(t *testing.T) {
	h := netns.ForTest(t)
	if _, err := h.Run(t.Context(), "ls", "/does/not/exist"); err == nil || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("Run: error %v, want the standard error of ls in it", err)
	}
}

func TestLabTellsSources(t *testing.T) {
	four, six := netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("2001:db8::5")
	lab := netns.LabForTest(t, four, six)
	for _, test := range []struct {
		name        string
		destination netip.Addr
		plain, nat  netip.Addr
		iptables    string
	}{
		{"IPv4", four, netns.PodIPv4, netns.NodeIPv4, "iptables-nft"},
		{"IPv6", six, netns.PodIPv6, netns.NodeIPv6, "ip6tables-nft"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ask := func(want netip.Addr) {
				t.Helper()
				for _, network := range []string{"udp", "tcp"} {
					seen, err := lab.Pod.Ask(t.Context(), network, lab.At(test.destination))
					if err != nil {
						t.Fatal(err)
					}
					if seen.Addr() != want {
						t.Errorf("%s: the server saw %s, want %s", network, seen.Addr(), want)
					}
				}
			}
			ask(test.plain)
			lab.Node.Output(t, test.iptables, "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE")
			ask(test.nat)

			servers := []netip.AddrPort{lab.At(test.destination)}
			tally, err := lab.Pod.Flood(t.Context(), 2, servers, func(sent int) bool { return sent == 200 })
			if err != nil {
				t.Fatal(err)
			}
			if got := tally.Sources[servers[0]][test.nat]; got != 200 || tally.Sent != 200 || tally.Lost != 0 {
				t.Errorf("flood: %+v, want 200 answers, all with %s", tally, test.nat)
			}
		})
	}
}

func TestAskWithoutServer(t *testing.T) {
	lab := netns.LabForTest(t)
	_, err := lab.Pod.Ask(t.Context(), "udp", lab.At(netip.MustParseAddr("192.168.100.2")))
	if err == nil {
		t.Error("an answer without a server")
	}
}

func TestLockIsTheHostsOwn(t *testing.T) {
	h := netns.ForTest(t)
	if got := os.Getenv(netns.LockVariable); got != h.LockFile() {
		t.Fatalf("%s is %q, want %q", netns.LockVariable, got, h.LockFile())
	}
	before, beforeErr := os.Stat("/run/xtables.lock")
	h.Output(t, "iptables-legacy", "-w", "1", "-t", "nat", "-N", "OURS")
	after, afterErr := os.Stat("/run/xtables.lock")
	if (beforeErr == nil) != (afterErr == nil) || beforeErr == nil && before.ModTime() != after.ModTime() {
		t.Error("iptables-legacy touched the machine's lock")
	}
	// Someone else holds ours.
	lock, err := os.OpenFile(h.LockFile(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err = h.Run(t.Context(), "iptables-legacy", "-w", "1", "-t", "nat", "-S"); err == nil || !strings.Contains(err.Error(), "xtables lock") {
		t.Errorf("iptables-legacy with the lock held: error %v", err)
	}
}
