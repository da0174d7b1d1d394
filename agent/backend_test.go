package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// natives are the flags of the native table.
func natives() []string { return []string{"--backend=nftables"} }

// ways are every flag that chooses where rules are.
func ways() [][]string {
	return [][]string{{"--iptables-backend=nft"}, {"--iptables-backend=legacy"}, natives()}
}

// nativeTables are ours, without line breaks between elements.
func nativeTables(tb testing.TB, host *netns.Host) string {
	tb.Helper()
	var ours strings.Builder
	for line := range strings.Lines(host.Output(tb, "nft", "list", "tables")) {
		if words := strings.Fields(line); strings.HasPrefix(words[2], "ip-masq-guard-") {
			ours.WriteString(host.Output(tb, "nft", "list", "table", words[1], words[2]))
		}
	}
	return regexp.MustCompile(`,\n\t+ +`).ReplaceAllString(ours.String(), ", ")
}

// nativeTable4 is the table of the defaults' flags for these elements.
func nativeTable4(elements string) string {
	return `table ip ip-masq-guard-IP-MASQ-AGENT {
	set spared {
		type ipv4_addr
		flags interval
		elements = { ` + elements + ` }
	}

	chain postrouting {
		type nat hook postrouting priority srcnat + 1; policy accept;
		fib daddr type local return comment "ip-masq-agent: traffic to the node itself is not subject to MASQUERADE"
		ip daddr @spared return comment "ip-masq-agent: local traffic is not subject to MASQUERADE"
		masquerade fully-random comment "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)"
	}
}
`
}

func eventuallyHoldsTable(tb testing.TB, host *netns.Host, what, want string) {
	tb.Helper()
	eventually(tb, what, func() string { return cmp.Diff(want, nativeTables(tb, host)) })
}

func TestDaemonHoldsANativeTable(t *testing.T) {
	host := netns.ForTest(t)
	v := newVolume(t, "nonMasqueradeCIDRs: [10.1.0.0/16]\nresyncInterval: 1h\n")
	a := startAgent(t, host, append(natives(), "--config-path="+v.file())...)
	eventuallyHoldsTable(t, host, "the first file", nativeTable4("10.1.0.0/16, 169.254.0.0/16"))
	v.swap(t, "nonMasqueradeCIDRs: [10.2.0.0/16, 10.3.0.0/16]\nresyncInterval: 1h\n")
	want := nativeTable4("10.2.0.0/15, 169.254.0.0/16")
	eventuallyHoldsTable(t, host, "the second file", want)
	if tables := natTables(t, host); len(tables) > 0 {
		t.Errorf("the agent made iptables' tables: %v", tables)
	}

	// The tick comes in an hour: the kernel tells of what others do.
	for kind, harm := range map[string]string{
		"chain-changed": "flush chain ip ip-masq-guard-IP-MASQ-AGENT postrouting",
		"set-changed":   "delete element ip ip-masq-guard-IP-MASQ-AGENT spared { 169.254.0.0/16 }",
		"table-missing": "delete table ip ip-masq-guard-IP-MASQ-AGENT",
	} {
		before := driftCount(t, a, kind)
		host.Output(t, "nft", harm)
		eventuallyHoldsTable(t, host, harm, want)
		eventually(t, harm+" is counted", func() string {
			if got := driftCount(t, a, kind); got <= before {
				return fmt.Sprint(got)
			}
			return ""
		})
	}
	if _, body := a.get(t, "/status"); !regexp.MustCompile(`"name": ?"nftables"`).MatchString(body) || !strings.Contains(body, "nftables v1.") {
		t.Errorf("/status does not name the backend:\n%s", body)
	}
	a.stop(t)
	if diff := cmp.Diff(want, nativeTables(t, host)); diff != "" {
		t.Errorf("after SIGTERM the table differs (-want +got):\n%s", diff)
	}

	state := host.Output(t, "nft", "-a", "list", "ruleset")
	a = startAgent(t, host, append(natives(), "--config-path="+v.file())...)
	eventually(t, "a pass", func() string {
		if _, body := a.get(t, "/readyz"); !strings.Contains(body, "[+] rules: ok") {
			return body
		}
		return ""
	})
	if diff := cmp.Diff(state, host.Output(t, "nft", "-a", "list", "ruleset")); diff != "" {
		t.Errorf("a restart wrote (-before +after):\n%s", diff)
	}
	a.stop(t)
}

// everything is what a host holds of rules in each place.
func everything(tb testing.TB, host *netns.Host) string {
	tb.Helper()
	text := fmt.Sprint(natTables(tb, host)) + "\n" + nativeTables(tb, host)
	sets := strings.Fields(host.Output(tb, "ipset", "list", "-name"))
	slices.Sort(sets)
	return text + strings.Join(sets, "\n")
}

// TestChangingTheBackend goes from each place to each other one: where it ends, nothing
// tells how it came there.
func TestChangingTheBackend(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ip-masq-agent")
	must(t, os.WriteFile(file, []byte("nonMasqueradeCIDRs: [10.1.0.0/16, 'fd00::/8']\nmasqLinkLocal: true\n"), 0o600))
	once := func(t *testing.T, host *netns.Host, way []string, more ...string) {
		t.Helper()
		args := slices.Concat([]string{"--once", "--enable-ipv6", "--config-path=" + file}, way, more)
		if _, stderr, status := inNode(t, host, args...); status != 0 {
			t.Fatalf("%v: status %d, %s", way, status, stderr)
		}
	}
	for _, threshold := range []string{"--set-threshold=64", "--set-threshold=0"} {
		for _, to := range ways() {
			for _, from := range ways() {
				t.Run(fmt.Sprintf("%v to %v, %s", from, to, threshold), func(t *testing.T) {
					fresh := netns.ForTest(t)
					host := netns.ForTest(t)
					// The built-in chains of a table stay; they are nobody's.
					for _, h := range []*netns.Host{fresh, host} {
						for _, command := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
							h.Output(t, command, "-w", "-t", "nat", "-A", "POSTROUTING", "-j", "RETURN")
						}
					}
					t.Setenv(netns.LockVariable, fresh.LockFile())
					once(t, fresh, to, threshold)
					t.Setenv(netns.LockVariable, host.LockFile())
					once(t, host, from, threshold, "--masq-chain=FORMER")
					once(t, host, from, threshold)
					once(t, host, to, threshold)
					if diff := cmp.Diff(everything(t, fresh), everything(t, host)); diff != "" {
						t.Errorf("a fresh start differs (-fresh +changed):\n%s", diff)
					}
					if _, stderr, status := inNode(t, host, "cleanup"); status != 0 {
						t.Errorf("cleanup: status %d, %s", status, stderr)
					}
					if left := everything(t, host); strings.Contains(left, "MASQ") {
						t.Errorf("after cleanup there is\n%s", left)
					}
				})
			}
		}
	}
}

// TestNoLegacyTablesAreMade: looking for leftovers leaves no trace.
func TestNoLegacyTablesAreMade(t *testing.T) {
	host := netns.ForTest(t)
	file := filepath.Join(t.TempDir(), "none")
	for _, way := range [][]string{natives(), {"--iptables-backend=nft"}, natives()} {
		if _, stderr, status := inNode(t, host, append(way, "--once", "--enable-ipv6", "--config-path="+file)...); status != 0 {
			t.Fatalf("%v: status %d, %s", way, status, stderr)
		}
	}
	for _, names := range []string{"/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"} {
		if text := host.Output(t, "sh", "-c", "cat "+names+" 2>/dev/null || :"); text != "" {
			t.Errorf("%s: %s", names, text)
		}
	}
}

// TestChangingTheBackendUnderFire sends packets while agents with every backend take over
// from one another.
func TestChangingTheBackendUnderFire(t *testing.T) {
	const atLeast, rounds = 8000, 3
	spared, masqueraded := netip.MustParseAddr("10.9.0.5"), netip.MustParseAddr("203.0.113.5")
	lab := netns.LabForTest(t, spared, masqueraded)
	file := filepath.Join(t.TempDir(), "ip-masq-agent")
	apply := func(round int, way []string) {
		text := fmt.Sprintf("nonMasqueradeCIDRs: [10.9.0.0/16, 10.%d.0.0/16]\n", 7+round%2) // 10.8.0.0/16 is its neighbour
		must(t, os.WriteFile(file, []byte(text), 0o600))
		if _, stderr, status := inNode(t, lab.Node, append([]string{"--once", "--config-path=" + file}, way...)...); status != 0 {
			t.Fatalf("%v: status %d, %s", way, status, stderr)
		}
	}
	apply(0, ways()[0])
	var content atomic.Bool
	var tally netns.Tally
	var err error
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		tally, err = lab.Pod.Flood(t.Context(), 2, []netip.AddrPort{lab.At(spared), lab.At(masqueraded)}, func(sent int) bool {
			if sent >= atLeast {
				time.Sleep(time.Millisecond) // the number of flows is bounded
			}
			return content.Load() && sent >= atLeast
		})
	}()
	for round := range rounds {
		for _, way := range [][]string{ways()[2], ways()[0], ways()[2], ways()[1], ways()[0]} {
			apply(round, way)
		}
	}
	content.Store(true)
	<-finished
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d packets, %d lost; sources %v", tally.Sent, tally.Lost, tally.Sources)
	want := map[netip.AddrPort]netip.Addr{lab.At(spared): netns.PodIPv4, lab.At(masqueraded): netns.NodeIPv4}
	for destination, sources := range tally.Sources {
		for source, count := range sources {
			if source != want[destination] {
				t.Errorf("%d packets to %s came from %s, want %s", count, destination, source, want[destination])
			}
		}
	}
	if tally.Lost > 0 || len(tally.Sources) != 2 {
		t.Errorf("%d packets were lost, %d destinations answered", tally.Lost, len(tally.Sources))
	}
}

// only makes a PATH of these commands.
func only(t *testing.T, commands ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, command := range commands {
		path, err := exec.LookPath(command)
		must(t, err)
		must(t, os.Symlink(path, filepath.Join(dir, command)))
	}
	return "PATH=" + dir
}

func TestAutomaticBackend(t *testing.T) {
	everyCommand := "PATH=" + os.Getenv("PATH")
	iptables := []string{"iptables-nft", "iptables-nft-save", "iptables-nft-restore"}
	for _, test := range []struct {
		name     string
		commands []string // run before
		path     string
		code     int
		told     string // a regular expression
	}{
		{"nothing tells", nil, everyCommand, 0, `^IPv4: chain IP-MASQ-AGENT holds 5 rules; `},
		{
			"kube-proxy in nftables mode",
			[]string{"nft add table ip kube-proxy", "iptables-nft -t mangle -N KUBE-IPTABLES-HINT"},
			everyCommand, 0, `^IPv4: table ip-masq-guard-IP-MASQ-AGENT holds 3 rules; written because of table-missing\n$`,
		},
		{
			"kube-proxy in iptables mode",
			[]string{"iptables-nft -t nat -N KUBE-POSTROUTING"},
			everyCommand, 0, `^IPv4: chain IP-MASQ-AGENT holds 5 rules; `,
		},
		{"no iptables", nil, only(t, "nft"), 0, `^IPv4: table ip-masq-guard-IP-MASQ-AGENT holds 3 rules; `},
		{"no nft", nil, only(t, iptables...), 0, `^IPv4: chain IP-MASQ-AGENT holds 5 rules; `},
		{"neither", nil, only(t), 1, `^agent: choosing an iptables backend: looking for iptables-nft: (.|\n)*looking for nft: .*; install the package nftables\n$`},
	} {
		t.Run(test.name, func(t *testing.T) {
			host := netns.ForTest(t)
			for _, command := range test.commands {
				words := strings.Fields(command)
				host.Output(t, words[0], words[1:]...)
			}
			code, stdout, stderr := runAgent(t, host, []string{test.path}, "--once", "--backend=auto", "--config-path="+filepath.Join(t.TempDir(), "none"))
			told := stdout
			if code != 0 {
				told = stderr
			}
			if code != test.code || !regexp.MustCompile(test.told).MatchString(told) {
				t.Errorf("code %d, standard output %q, standard error %q; want %d and %q", code, stdout, stderr, test.code, test.told)
			}
		})
	}
}

func TestBackendReason(t *testing.T) {
	host := netns.ForTest(t)
	host.Output(t, "nft", "add", "table", "ip6", "kube-proxy")
	v := newVolume(t, "nonMasqueradeCIDRs: [10.1.0.0/16]\n")
	a := startAgent(t, host, "--config-path="+v.file(), "--backend=auto")
	if want := `"backend":"nftables","backendReason":"kube-proxy keeps its rules in table ip6 kube-proxy"`; !strings.Contains(a.log.String(), want) {
		t.Errorf("the log lacks %s", want)
	}
	a.stop(t)
}

func TestNativeWithoutNft(t *testing.T) {
	host := netns.ForTest(t)
	code, _, stderr := runAgent(t, host, []string{only(t)}, "--once", "--backend=nftables", "--config-path="+filepath.Join(t.TempDir(), "none"))
	if code != 1 || !strings.Contains(stderr, "agent: applying IPv4 rules: looking for nft: ") {
		t.Errorf("code %d, standard error %q", code, stderr)
	}
}

func TestNativeDryRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ip-masq-agent")
	must(t, os.WriteFile(file, []byte("nonMasqueradeCIDRs: [10.1.0.0/16]\n"), 0o600))
	stdout, stderr, err := call(t, "--dry-run", "--backend=nftables", "--config-path="+file)
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	if diff := cmp.Diff("# nft -f -\n"+nativeTable4("10.1.0.0/16, 169.254.0.0/16"), stdout); diff != "" {
		t.Errorf("printed differs (-want +got):\n%s", diff)
	}
}

// TestNativePlan: what is planned is what is done, and afterwards there is nothing to plan.
func TestNativePlan(t *testing.T) {
	host := netns.ForTest(t)
	file := filepath.Join(t.TempDir(), "ip-masq-agent")
	write := func(text string) { must(t, os.WriteFile(file, []byte(text), 0o600)) }
	run := func(args ...string) (stdout string, status int) {
		t.Helper()
		stdout, stderr, status := inNode(t, host, append(args, "--config-path="+file)...)
		if stderr != "" && status != 3 {
			t.Errorf("%v: %s", args, stderr)
		}
		return stdout, status
	}
	write("nonMasqueradeCIDRs: [10.1.0.0/16]\n")
	run("--once", "--iptables-backend=nft")
	run("--once", "--backend=nftables", "--masq-chain=FORMER")
	run("--once", "--iptables-backend=nft")
	host.Output(t, "nft", "add", "table", "ip", "ip-masq-guard-FORMER")

	stdout, status := run("plan", "--backend=nftables")
	for _, part := range []string{
		"+\tset spared {\n", "+\t\t\t10.1.0.0/16,\n", "-table ip-masq-guard-FORMER\n",
		"-:IP-MASQ-AGENT - [0:0]\n", "IPv4, nft: ", "IPv4, nftables: ",
	} {
		if !strings.Contains(stdout, part) {
			t.Errorf("the plan lacks %q", part)
		}
	}
	if status != 3 || t.Failed() {
		t.Errorf("status %d, want 3; plan:\n%s", status, stdout)
	}
	run("--once", "--backend=nftables")
	if stdout, status = run("plan", "--backend=nftables"); status != 0 || stdout != "" {
		t.Errorf("after carrying it out: status %d, plan:\n%s", status, stdout)
	}
	write("nonMasqueradeCIDRs: [10.2.0.0/16]\n")
	if stdout, status = run("plan", "--backend=nftables"); status != 3 || !strings.Contains(stdout, "-\t\t\t10.1.0.0/16,\n+\t\t\t10.2.0.0/16,\n") {
		t.Errorf("of another list: status %d, plan:\n%s", status, stdout)
	}
	if stdout, status = run("plan", "--iptables-backend=nft"); status != 3 || !strings.Contains(stdout, "-table ip-masq-guard-IP-MASQ-AGENT\n") {
		t.Errorf("back to iptables: status %d, plan:\n%s", status, stdout)
	}
}
