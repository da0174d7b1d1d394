package iptables_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// TestHeldLock also shows the bound: without a limit iptables-legacy waits for ever.
func TestHeldLock(t *testing.T) {
	n := place{iptables.Legacy, ruleset.IPv4}.node(t)
	first, second := n.spare("10.0.0.0/8"), n.spare("10.1.0.0/16")
	n.apply(t, first)

	lock, err := os.OpenFile(n.LockFile(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	_, err = n.tryApply(t, second)
	waited := time.Since(started)
	if err == nil || !strings.Contains(err.Error(), "xtables lock") {
		t.Errorf("Apply with the lock held: error %v, want one that names the lock", err)
	}
	if waited < 4*time.Second || waited > 10*time.Second {
		t.Errorf("Apply waited for %s, want about five seconds", waited)
	}
	n.holds(t, first)

	if err := unix.Flock(int(lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	n.apply(t, second)
	n.holds(t, second)
}

// TestLockWaitIsTold: the command's own wait, and none where it does not wait.
func TestLockWaitIsTold(t *testing.T) {
	n := place{iptables.Legacy, ruleset.IPv4}.node(t)
	lock, err := os.OpenFile(n.LockFile(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	var waited time.Duration
	phases := map[ruleset.Phase]int{}
	apply := func(want ruleset.Ruleset) {
		t.Helper()
		ctx := ruleset.WithTrace(t.Context(), ruleset.Trace{
			Took:     func(phase ruleset.Phase, _ time.Duration) { phases[phase]++ },
			LockWait: func(d time.Duration) { waited += d },
		})
		if err = n.Do(func() (err error) {
			_, err = n.kernel.Apply(ctx, want)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	apply(n.spare("10.0.0.0/8"))
	if waited != 0 {
		t.Errorf("waited for %s with nobody else there", waited)
	}

	const held = 700 * time.Millisecond
	if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	released := make(chan error)
	time.AfterFunc(held, func() { released <- unix.Flock(int(lock.Fd()), unix.LOCK_UN) })
	apply(n.spare("10.1.0.0/16"))
	if err = <-released; err != nil {
		t.Fatal(err)
	}
	if waited < held*3/4 || waited > 2*held {
		t.Errorf("waited for %s, want about %s", waited, held)
	}
	apply(n.spare("10.1.0.0/16"))
	if diff := cmp.Diff(map[ruleset.Phase]int{ruleset.Inspect: 3, ruleset.Write: 2}, phases); diff != "" {
		t.Errorf("phases differ (-want +got):\n%s", diff)
	}
}

// TestWalkEndsLikeAFreshStart goes through configurations, flags and disturbances by
// chance; where each step ends must not tell how it came there.
func TestWalkEndsLikeAFreshStart(t *testing.T) {
	const steps = 50
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			n.ipset(t, "create", "KUBE-LOOP-BACK", "hash:net", "family", n.prefix("inet", "inet6"))
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			chance := rand.New(rand.NewPCG(seed, 0))
			var want ruleset.Ruleset
			for step := range steps {
				disturb(t, n, chance, want)
				want = ruleset.Build(randomConfig(chance), n.family, randomOptions(chance))
				n.apply(t, want)
				if drift := n.inspect(t, want); len(drift) > 0 {
					t.Fatalf("step %d left drift %v", step, drift)
				}
				fresh := n.node(t)
				fresh.ipset(t, "create", "KUBE-LOOP-BACK", "hash:net", "family", n.prefix("inet", "inet6"))
				fresh.apply(t, want)
				if diff := cmp.Diff(append(fresh.rules(t), fresh.sets(t)...), append(n.rules(t), n.sets(t)...)); diff != "" {
					t.Fatalf("step %d differs from a fresh start (-fresh +walked):\n%s", step, diff)
				}
			}
		})
	}
}

// disturb does to our rules what another program might.
func disturb(t *testing.T, n node, chance *rand.Rand, held ruleset.Ruleset) {
	t.Helper()
	if held.Rules == nil {
		return
	}
	set, next := ruleset.SetNames("IP-MASQ-AGENT", n.family)
	switch chance.IntN(12) {
	case 0:
		n.other(t, "-F")
		n.other(t, "-X")
	case 1:
		n.other(t, "-F", "IP-MASQ-AGENT")
	case 2:
		n.other(t, "-I", "IP-MASQ-AGENT", "-j", "ACCEPT")
	case 3:
		n.other(t, append([]string{"-D", "POSTROUTING"}, held.Jump...)...)
	case 4:
		n.other(t, append([]string{"-I", "POSTROUTING"}, held.Jump...)...)
	case 5:
		n.other(t, "-A", "POSTROUTING", "-p", "udp", "-j", "IP-MASQ-AGENT")
	case 6:
		_, _ = n.Run(t.Context(), "ipset", "flush", set) // there may be none
	case 7:
		n.ipset(t, "create", next, "hash:net", "family", n.prefix("inet", "inet6"))
	case 8:
		n.other(t, "-F", "IP-MASQ-AGENT")
		_, _ = n.Run(t.Context(), "ipset", "destroy", set) // there may be none
	default: // nothing
	}
}

func randomConfig(chance *rand.Rand) config.Config {
	c := config.Config{
		MasqueradeLinkLocal: chance.IntN(2) == 0, MasqueradeLinkLocalIPv6: chance.IntN(2) == 0,
		NonMasquerade: randomList(chance, 12),
	}
	if chance.IntN(3) == 0 {
		c.Masquerade = randomList(chance, 6)
	}
	if chance.IntN(3) == 0 { // lists of which parts change
		c.NonMasquerade = append(c.NonMasquerade, prefixes(many(100, chance.IntN(3))...)...)
	}
	return c
}

func randomList(chance *rand.Rand, most int) []netip.Prefix {
	var list []netip.Prefix
	for range chance.IntN(most) {
		list = append(list, randomPrefix(chance, []int{4, 16}[chance.IntN(2)]))
	}
	return list
}

// randomPrefix has many zero bytes, where texts of IPv6 addresses differ.
func randomPrefix(chance *rand.Rand, size int) netip.Prefix {
	bytes := make([]byte, size)
	for i := range bytes {
		if chance.IntN(2) == 0 {
			bytes[i] = byte(chance.Uint32())
		}
	}
	address, _ := netip.AddrFromSlice(bytes)
	prefix, err := address.Prefix(chance.IntN(address.BitLen() + 1))
	if err != nil {
		panic(err)
	}
	if prefix.Addr().Is4In6() { // the parser refuses these
		return netip.MustParsePrefix("2001:db8::/32")
	}
	return prefix
}

func randomOptions(chance *rand.Rand) ruleset.Options {
	o := ruleset.Options{
		Chain: "IP-MASQ-AGENT", RandomFully: chance.IntN(2) == 0, SpareMulticast: chance.IntN(3) == 0,
		Sets: true, SetThreshold: []int{0, 5, 64, ruleset.MaxSetThreshold}[chance.IntN(4)],
	}
	if chance.IntN(3) == 0 {
		o.Sources = randomList(chance, 3)
	}
	if chance.IntN(3) == 0 {
		o.Interfaces = []string{"eth0", "bond+"}[chance.IntN(2):]
	}
	first := 1 + chance.IntN(60000)
	for range chance.IntN(4) {
		last := first + chance.IntN(1500)
		o.ToPorts = append(o.ToPorts, ruleset.PortRange{First: uint16(first), Last: uint16(last)})
		first = last + 1
	}
	return o
}

// shadow puts a script before a command of iptables, as another version of it.
func shadow(t *testing.T, command, script string) {
	t.Helper()
	path, err := exec.LookPath(command)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := "#!/bin/sh\n" + strings.ReplaceAll(script, "REAL", path) + "\n"
	if err := os.WriteFile(filepath.Join(dir, command), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestAnotherVersionsWords: an iptables that prints our rules in other words must not
// make us write for ever.
func TestAnotherVersionsWords(t *testing.T) {
	shadow(t, "iptables-nft-save", `REAL "$@" | sed 's/ -m addrtype/ -m "addrtype"/; s,/16 , ,'`)
	n := place{iptables.NFT, ruleset.IPv4}.node(t)
	first, second := n.spare("10.0.0.0/8"), n.spare("10.1.0.0/16", "10.2.0.0/16")
	for _, want := range []ruleset.Ruleset{first, second, first} {
		if drift := n.apply(t, want); len(drift) == 0 {
			t.Fatal("Apply of a new text finds no drift")
		}
		before := n.state(t)
		for range 3 {
			if drift := n.apply(t, want); len(drift) > 0 {
				t.Errorf("Apply of the same text finds drift %v", drift)
			}
		}
		if diff := cmp.Diff(before, n.state(t)); diff != "" {
			t.Errorf("something was written (-before +after):\n%s", diff)
		}
	}

	// True drift is still seen.
	n.other(t, "-D", "IP-MASQ-AGENT", "1")
	n.other(t, append([]string{"-I", "POSTROUTING"}, first.Jump...)...)
	want := []iptables.Drift{iptables.ChainChanged, iptables.JumpDuplicate}
	if diff := cmp.Diff(want, n.apply(t, first)); diff != "" {
		t.Errorf("drift differs (-want +got):\n%s", diff)
	}
	if drift := n.inspect(t, first); len(drift) > 0 {
		t.Errorf("after healing there is drift %v", drift)
	}

	// So after a restart: at most one write.
	kernel, err := iptables.Open(iptables.NFT)
	if err != nil {
		t.Fatal(err)
	}
	n.kernel = kernel
	n.apply(t, first)
	if drift := n.apply(t, first); len(drift) > 0 {
		t.Errorf("after a restart the second Apply finds drift %v", drift)
	}
	if got := len(n.rules(t)); got != len(first.Rules)+1 {
		t.Errorf("the nat table has %d rules, want %d", got, len(first.Rules)+1)
	}
}

// TestLearnsLate: an iptables that was faithful for one text may not be so for the next.
func TestLearnsLate(t *testing.T) {
	shadow(t, "iptables-nft-save", `REAL "$@" | sed 's,/16 , ,'`)
	n := place{iptables.NFT, ruleset.IPv4}.node(t)
	first := ruleset.Build(config.Config{MasqueradeLinkLocal: true, NonMasquerade: prefixes("10.0.0.0/8")}, n.family, plainOptions())
	n.apply(t, first)
	second := n.spare("10.1.0.0/16")
	n.apply(t, second)
	n.apply(t, second) // heals what is none, and learns
	if drift := n.apply(t, second); len(drift) > 0 {
		t.Errorf("drift %v for ever", drift)
	}
}

func TestFailures(t *testing.T) {
	tests := []struct {
		name, command, script string
		told                  string
	}{
		{"save fails", "iptables-nft-save", "echo no luck >&2; exit 3", "reading the nat table: running "},
		{"save tells why", "iptables-nft-save", "echo no luck >&2; exit 3", "exit status 3: no luck"},
		{"endless line", "iptables-nft-save", "exec tr '\\0' x </dev/zero", "a line has more than 65536 bytes"},
		{"endless complaint", "iptables-nft-restore", "exec head -c 1000000 /dev/zero >&2", "replacing chain IP-MASQ-AGENT"},
		{
			"words not understood", "iptables-nft-save", `echo ":IP-MASQ-AGENT - [0:0]"; echo "-A POSTROUTING -j IP-MASQ-AGENT"; echo "-A POSTROUTING -p tcp -j IP-MASQ-AGENT"`,
			"deleting superfluous ones: 2 are left; delete by hand all but the last of ",
		},
		{"chain vanishes", "iptables-nft-restore", "cat >/dev/null", "the chain is not there"},
		{
			"nft rules in the table", "true", "",
			"cannot show the nat table, which holds rules of another program in nft's own form",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			shadow(t, test.command, test.script)
			n := place{iptables.NFT, ruleset.IPv4}.node(t)
			if test.command == "true" {
				if _, err := n.Feed(t.Context(), "table ip nat {\nchain x {\nnumgen inc mod 2 0 accept\n}\n}\n", "nft", "-f", "-"); err != nil {
					t.Fatal(err)
				}
			}
			_, err := n.tryApply(t, n.spare("10.0.0.0/8"))
			if err == nil || !strings.Contains(err.Error(), test.told) {
				t.Fatalf("error %v does not hold %q", err, test.told)
			}
			if len(err.Error()) > 8<<10 {
				t.Errorf("error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestContextEndsACommand(t *testing.T) {
	shadow(t, "iptables-nft-save", "exec sleep 60")
	n := place{iptables.NFT, ruleset.IPv4}.node(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	started := time.Now()
	err := n.Do(func() error {
		_, err := n.kernel.Apply(ctx, n.spare("10.0.0.0/8"))
		return err
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that of the context", err)
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("Apply took %s", took)
	}
}

// onlyCommands makes a PATH with links to these alone: "iptables=iptables-nft" is one
// by another name.
func onlyCommands(t *testing.T, links ...string) {
	t.Helper()
	dir := t.TempDir()
	for _, link := range links {
		name, target, _ := strings.Cut(link, "=")
		if target == "" {
			target = name
		}
		for _, suffix := range []string{"", "-save", "-restore"} {
			path, err := exec.LookPath(target + suffix)
			if err != nil {
				t.Fatal(err)
			}
			// xtables-multi looks at the name it is called by; the plain names are
			// not bound to a backend.
			text := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\"\n", path)
			if err := os.WriteFile(filepath.Join(dir, name+suffix), []byte(text), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", dir)
}

func TestCommandLookup(t *testing.T) {
	tests := []struct {
		name    string
		links   []string
		backend iptables.Backend
		err     string // for IPv4
	}{
		{name: "plain is nft", links: []string{"iptables=iptables-nft"}, backend: iptables.NFT},
		{name: "plain is legacy", links: []string{"iptables=iptables-legacy"}, backend: iptables.Legacy},
		{
			name: "plain is the other", links: []string{"iptables=iptables-nft"}, backend: iptables.Legacy,
			err: "looking for iptables-legacy: ",
		},
		{
			name: "nothing", backend: iptables.NFT,
			err: "reading the nat table: looking for iptables-nft: ",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := place{test.backend, ruleset.IPv4}.node(t)
			path := os.Getenv("PATH")
			onlyCommands(t, test.links...)
			kernel, err := iptables.Open(test.backend)
			if err != nil {
				t.Fatal(err)
			}
			n.kernel = kernel
			want := n.spare("10.0.0.0/8")
			_, err = n.tryApply(t, want)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v does not hold %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := n.kernel.Inspect(t.Context(), ruleset.Build(config.Default(), ruleset.IPv6, plainOptions())); err == nil {
				t.Error("IPv6 works without its commands")
			}
			t.Setenv("PATH", path)
			if got := n.rules(t); len(got) != len(want.Rules)+1 {
				t.Errorf("the nat table of %s holds %q", test.backend, got)
			}
		})
	}
}

func TestOpenNeedsABackend(t *testing.T) {
	for _, backend := range []iptables.Backend{iptables.Auto, "", "nf_tables"} {
		if _, err := iptables.Open(backend); err == nil {
			t.Errorf("Open(%q) succeeds", backend)
		}
	}
}

func TestChoose(t *testing.T) {
	mark := func(command, chain string) []string {
		return []string{command, "-w", "5", "-t", "mangle", "-N", chain}
	}
	rule := func(command, table string) []string {
		return []string{command, "-w", "5", "-t", table, "-A", "OUTPUT", "-j", "ACCEPT"}
	}
	const hint, canary = "KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"
	tests := []struct {
		name     string
		commands [][]string
		want     iptables.Backend
		why      string
	}{
		{name: "empty node", want: iptables.NFT, why: "no rules of others tell, and the command iptables is of this backend"},
		{
			name: "hint in nft", commands: [][]string{mark("iptables-nft", hint), rule("iptables-legacy", "nat"), rule("iptables-legacy", "mangle")},
			want: iptables.NFT, why: "the kubelet's chain KUBE-IPTABLES-HINT is in its IPv4 mangle table",
		},
		{
			name: "hint in legacy", commands: [][]string{mark("iptables-legacy", hint), rule("iptables-nft", "nat")},
			want: iptables.Legacy, why: "the kubelet's chain KUBE-IPTABLES-HINT is in its IPv4 mangle table",
		},
		{
			name: "hint before canary", commands: [][]string{mark("iptables-nft", canary), mark("ip6tables-legacy", hint)},
			want: iptables.Legacy, why: "the kubelet's chain KUBE-IPTABLES-HINT is in its IPv6 mangle table",
		},
		{
			name: "canary in legacy", commands: [][]string{mark("iptables-legacy", canary), rule("iptables-nft", "nat")},
			want: iptables.Legacy, why: "the kubelet's chain KUBE-KUBELET-CANARY is in its IPv4 mangle table",
		},
		{
			name: "the same in both", commands: [][]string{mark("iptables-legacy", canary), mark("iptables-nft", canary)},
			want: iptables.NFT, why: "the kubelet's chain KUBE-KUBELET-CANARY is in its IPv4 mangle table",
		},
		{
			name: "IPv6 nft", commands: [][]string{mark("ip6tables-nft", canary), rule("iptables-legacy", "nat")},
			want: iptables.NFT, why: "the kubelet's chain KUBE-KUBELET-CANARY is in its IPv6 mangle table",
		},
		{
			name: "more rules in legacy",
			commands: [][]string{
				rule("iptables-legacy", "nat"), rule("ip6tables-legacy", "mangle"), rule("iptables-nft", "nat"),
				{"iptables-nft", "-A", "OUTPUT", "-j", "ACCEPT"},
				{"iptables-nft", "-A", "OUTPUT", "-j", "ACCEPT"},
			},
			want: iptables.Legacy, why: "legacy holds 2 rules in mangle and nat, nft 1",
		},
		{
			name: "more rules in nft", commands: [][]string{rule("iptables-nft", "nat")},
			want: iptables.NFT, why: "nft holds 1 rules in mangle and nat, legacy 0",
		},
		{
			name: "a hint elsewhere says nothing", commands: [][]string{
				{"iptables-legacy", "-w", "5", "-t", "nat", "-N", hint}, rule("iptables-nft", "nat"),
			},
			want: iptables.NFT, why: "nft holds 1 rules in mangle and nat, legacy 0",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := place{iptables.NFT, ruleset.IPv4}.node(t)
			usesLegacy := false
			for _, command := range test.commands {
				n.Output(t, command[0], command[1:]...)
				usesLegacy = usesLegacy || strings.Contains(command[0], "legacy")
			}
			backend, why := n.choose(t)
			if backend != test.want || why != test.why {
				t.Errorf("Choose: %s, %q; want %s, %q", backend, why, test.want, test.why)
			}
			if names := n.Output(t, "cat", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"); !usesLegacy && names != "" {
				t.Errorf("Choose made the legacy tables %q", names)
			}
		})
	}
	t.Run("plain is legacy", func(t *testing.T) {
		n := place{iptables.NFT, ruleset.IPv4}.node(t)
		onlyCommands(t, "iptables=iptables-legacy", "iptables-nft")
		backend, why := n.choose(t)
		if backend != iptables.Legacy || why != "no rules of others tell, and the command iptables is of this backend" {
			t.Errorf("Choose: %s, %q; want legacy", backend, why)
		}
	})
	t.Run("nft alone", func(t *testing.T) {
		n := place{iptables.NFT, ruleset.IPv4}.node(t)
		onlyCommands(t, "ip6tables-nft")
		backend, why := n.choose(t)
		if backend != iptables.NFT || why != "no rules of others tell, and its commands are installed" {
			t.Errorf("Choose: %s, %q; want nft", backend, why)
		}
	})
	t.Run("no iptables", func(t *testing.T) {
		n := place{iptables.NFT, ruleset.IPv4}.node(t)
		t.Setenv("PATH", t.TempDir())
		err := n.Do(func() error {
			_, _, err := iptables.Choose(t.Context())
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "choosing an iptables backend: looking for iptables-nft: ") {
			t.Errorf("error %v does not tell what is missing", err)
		}
	})
}

func (n node) choose(t *testing.T) (backend iptables.Backend, why string) {
	t.Helper()
	err := n.Do(func() (err error) {
		backend, why, err = iptables.Choose(t.Context())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return backend, why
}

// TestSomebodyIsFaster: a change between our restore and our look at it is no other
// wording of our rules.
func TestSomebodyIsFaster(t *testing.T) {
	for _, test := range []struct{ name, change string }{
		{"a rule more", "-I IP-MASQ-AGENT 1 -j RETURN"},
		{"another rule", "-R IP-MASQ-AGENT 2 -j RETURN"},
		{"a rule less", "-D IP-MASQ-AGENT 2"},
	} {
		for _, backend := range []iptables.Backend{iptables.NFT, iptables.Legacy} {
			t.Run(test.name+" "+string(backend), func(t *testing.T) {
				once := filepath.Join(t.TempDir(), "once")
				command := "iptables-" + string(backend)
				shadow(t, command+"-restore", `REAL "$@" && if [ -e `+once+` ]; then rm `+once+` && `+command+` -t nat `+test.change+`; fi`)
				n := place{backend, ruleset.IPv4}.node(t)
				want := n.spare("10.0.0.0/8", "172.16.0.0/12")
				n.apply(t, want)
				n.other(t, "-F", "IP-MASQ-AGENT")
				if err := os.WriteFile(once, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				n.apply(t, want)
				if _, err := os.Stat(once); err == nil {
					t.Fatal("nobody was faster")
				}
				n.apply(t, want)
				n.holds(t, want)
			})
		}
	}
}
