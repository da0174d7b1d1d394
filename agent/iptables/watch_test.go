package iptables_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/notify"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// watched is a node whose kernel tells of changes.
type watched struct {
	node
	watch *notify.Watch
}

func (n node) watched(tb testing.TB) watched {
	tb.Helper()
	w := watched{node: n}
	err := n.Do(func() (err error) {
		w.watch, err = n.kernel.Watch("IP-MASQ-AGENT", []ruleset.Family{n.family})
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- w.watch.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("watching ended with %v", err)
		}
	})
	return w
}

// counts waits until everything that was done before has been told. For that it makes
// a change that has to be told, by a program that nobody else is.
func (w watched) counts(tb testing.TB) notify.Counts {
	tb.Helper()
	table := map[ruleset.Family]string{ruleset.IPv4: "ip", ruleset.IPv6: "ip6"}[w.family]
	for by := (notify.Change{}); by.Program != "nft"; by = w.becomesPending(tb) {
		if by.Program == "" { // it was lost
			w.Output(tb, "nft", "add rule "+table+" nat IP-MASQ-AGENT counter")
		}
	}
	w.watch.Look()()
	return w.watch.Counts()
}

func (w watched) becomesPending(tb testing.TB) notify.Change {
	tb.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case <-w.watch.Changes():
			if by, pending := w.watch.Pending(); pending {
				return by
			}
		case <-timeout:
			tb.Fatal("the change is not told")
		}
	}
}

// watchable are the places whose kernel tells.
func watchable() []place { return []place{{iptables.NFT, ruleset.IPv4}, {iptables.NFT, ruleset.IPv6}} }

func TestForeignChangesAreTold(t *testing.T) {
	for _, p := range watchable() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			want := n.spare("10.0.0.0/8", "fd00::/8")
			for _, test := range []struct {
				name   string
				change func(t *testing.T)
				by     string
			}{
				{"chain flushed", func(t *testing.T) { t.Helper(); n.other(t, "-F", "IP-MASQ-AGENT") }, ""},
				{"POSTROUTING flushed", func(t *testing.T) { t.Helper(); n.other(t, "-F", "POSTROUTING") }, ""},
				{"table flushed", func(t *testing.T) { t.Helper(); n.other(t, "-F") }, ""},
				{"jump removed", func(t *testing.T) {
					t.Helper()
					n.other(t, append([]string{"-D", "POSTROUTING"}, want.Jump...)...)
				}, ""},
				{"second jump", func(t *testing.T) { t.Helper(); n.other(t, "-I", "POSTROUTING", "-j", "IP-MASQ-AGENT") }, ""},
				{"rule replaced", func(t *testing.T) { t.Helper(); n.other(t, "-R", "IP-MASQ-AGENT", "1", "-j", "ACCEPT") }, ""},
				{"rule removed", func(t *testing.T) { t.Helper(); n.other(t, "-D", "IP-MASQ-AGENT", "1") }, ""},
				{"rule added", func(t *testing.T) { t.Helper(); n.other(t, "-I", "IP-MASQ-AGENT", "-j", "ACCEPT") }, ""},
				{"among many others", func(t *testing.T) {
					t.Helper()
					n.otherRestores(t, "*nat\n:KUBE-SERVICES - [0:0]\n"+strings.Repeat("-A KUBE-SERVICES -p tcp -j RETURN\n", 500)+
						"-F IP-MASQ-AGENT\n:KUBE-NODEPORTS - [0:0]\n"+strings.Repeat("-A KUBE-NODEPORTS -p tcp -j RETURN\n", 500)+
						"COMMIT\n", "--noflush")
				}, ""},
				{"table deleted", func(t *testing.T) {
					t.Helper()
					n.Output(t, "nft", "delete", "table", map[ruleset.Family]string{ruleset.IPv4: "ip", ruleset.IPv6: "ip6"}[n.family], "nat")
				}, "nft"},
				{"ruleset flushed", func(t *testing.T) { t.Helper(); n.Output(t, "nft", "flush", "ruleset") }, "nft"},
			} {
				t.Run(test.name, func(t *testing.T) {
					n.apply(t, want)
					w := n.watched(t)
					test.change(t)
					by := w.becomesPending(t)
					program := test.by
					if program == "" {
						program = n.command("")
					}
					if !strings.HasPrefix(by.Program, program) || by.PID == 0 {
						t.Errorf("it is told of %+v, want program %s and its id", by, program)
					}
					w.watch.Look()()
					if _, pending := w.watch.Pending(); pending {
						t.Error("after a look it is still pending")
					}
				})
			}
		})
	}
}

func TestOtherChangesAreNotTold(t *testing.T) {
	for _, p := range watchable() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			n.apply(t, n.spare("10.0.0.0/8", "fd00::/8"))
			w := n.watched(t)
			for _, test := range []struct {
				name   string
				change func(t *testing.T)
			}{
				{"another chain", func(t *testing.T) {
					t.Helper()
					n.other(t, "-N", "KUBE-SERVICES")
					n.other(t, "-A", "KUBE-SERVICES", "-j", "RETURN")
					n.other(t, "-F", "KUBE-SERVICES")
					n.other(t, "-X", "KUBE-SERVICES")
				}},
				{"a chain with a longer name", func(t *testing.T) {
					t.Helper()
					n.otherRestores(t, "*nat\n:IP-MASQ-AGENT-2 - [0:0]\n-A IP-MASQ-AGENT-2 -j RETURN\nCOMMIT\n", "--noflush")
				}},
				{"a rule added to POSTROUTING", func(t *testing.T) { t.Helper(); n.other(t, "-A", "POSTROUTING", "-p", "tcp", "-j", "RETURN") }},
				{"another table", func(t *testing.T) {
					t.Helper()
					n.otherRestores(t, "*mangle\n:IP-MASQ-AGENT - [0:0]\n-A IP-MASQ-AGENT -j RETURN\n-A POSTROUTING -j IP-MASQ-AGENT\nCOMMIT\n")
					n.otherRestores(t, "*mangle\n-F IP-MASQ-AGENT\nCOMMIT\n", "--noflush")
				}},
				{"another family", func(t *testing.T) {
					t.Helper()
					other := place{iptables.NFT, map[ruleset.Family]ruleset.Family{ruleset.IPv4: ruleset.IPv6, ruleset.IPv6: ruleset.IPv4}[n.family]}
					node{Host: n.Host, place: other, kernel: n.kernel}.apply(t, node{place: other}.spare("10.0.0.0/8", "fd00::/8"))
				}},
				{"a table of nft", func(t *testing.T) {
					t.Helper()
					n.Output(t, "nft", "add table inet nat; add chain inet nat IP-MASQ-AGENT; add rule inet nat IP-MASQ-AGENT return; delete table inet nat")
				}},
				{"reading", func(t *testing.T) {
					t.Helper()
					n.rules(t)
					n.Output(t, "nft", "list", "ruleset")
				}},
			} {
				t.Run(test.name, func(t *testing.T) {
					before := w.counts(t)
					test.change(t)
					if after := w.counts(t); after.Changes != before.Changes+1 || after.Losses != 0 {
						t.Errorf("%d changes were told, want only the one that ends the test", after.Changes-before.Changes)
					}
				})
			}
		})
	}
}

// TestLostNotifications: nobody reads, so the kernel drops what is too much; that
// counts as a change, even if it was none of ours.
func TestLostNotifications(t *testing.T) {
	n := place{iptables.NFT, ruleset.IPv4}.node(t)
	n.apply(t, n.spare("10.0.0.0/8"))
	var watch *notify.Watch
	err := n.Do(func() (err error) {
		watch, err = n.kernel.Watch("IP-MASQ-AGENT", []ruleset.Family{ruleset.IPv4})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rules := strings.Repeat("-A KUBE-SERVICES -p tcp -m comment --comment \""+strings.Repeat("x", 200)+"\" -j RETURN\n", 12000)
	for range 4 {
		n.otherRestores(t, "*nat\n:KUBE-SERVICES - [0:0]\n"+rules+"COMMIT\n", "--noflush")
	}
	w := watched{n, watch}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- watch.Run(ctx) }()
	if by := w.becomesPending(t); by != (notify.Change{}) {
		t.Errorf("what was lost is told to be by %+v", by)
	}
	if counts := w.counts(t); counts.Losses == 0 { // and listening goes on
		t.Error("no loss is counted")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestOldLooks: a look settles what was before it, and nothing that came after.
func TestOldLooks(t *testing.T) {
	n := place{iptables.NFT, ruleset.IPv4}.node(t)
	n.apply(t, n.spare("10.0.0.0/8"))
	w := n.watched(t)
	settle := w.watch.Look()
	n.other(t, "-F", "IP-MASQ-AGENT")
	w.becomesPending(t)
	settle()
	if _, pending := w.watch.Pending(); !pending {
		t.Error("a look settled what came after it")
	}
}

// TestSettledBeforeTold: the kernel's word may come after the look that saw the change.
func TestSettledBeforeTold(t *testing.T) {
	n := place{iptables.NFT, ruleset.IPv4}.node(t)
	want := n.spare("10.0.0.0/8")
	n.apply(t, want)
	var watch *notify.Watch
	err := n.Do(func() (err error) {
		watch, err = n.kernel.Watch("IP-MASQ-AGENT", []ruleset.Family{ruleset.IPv4})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	n.other(t, "-F", "IP-MASQ-AGENT")
	n.apply(t, want)
	watch.Look()()

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- watch.Run(ctx) }()
	for watch.Counts().Changes < 2 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if by, pending := watch.Pending(); pending || len(watch.Changes()) > 0 {
		t.Errorf("what a look had settled is told, by %+v", by)
	}
}

func TestNoNotificationsOfLegacy(t *testing.T) {
	n := place{iptables.Legacy, ruleset.IPv4}.node(t)
	err := n.Do(func() error {
		_, err := n.kernel.Watch("IP-MASQ-AGENT", []ruleset.Family{ruleset.IPv4})
		return err
	})
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("error %v, want %v", err, errors.ErrUnsupported)
	}
}

// TestNoSocket: without the privilege there is an error, and nothing else.
func TestNoSocket(t *testing.T) {
	n := place{iptables.NFT, ruleset.IPv4}.node(t)
	// A descriptor limit of what is open refuses every socket.
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	err := n.Do(func() error {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		_, err := n.kernel.Watch("IP-MASQ-AGENT", []ruleset.Family{ruleset.IPv4})
		return errors.Join(err, unix.Setrlimit(unix.RLIMIT_NOFILE, &old))
	})
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("error %v, want %v", err, unix.EMFILE)
	}
}
