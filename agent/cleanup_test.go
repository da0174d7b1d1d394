package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// inNode runs the agent's binary to its end on a host and returns all that it prints,
// and its exit status.
func inNode(tb testing.TB, host *netns.Host, args ...string) (stdout, stderr string, status int) {
	tb.Helper()
	var out, errs strings.Builder
	command := host.Command(tb.Context(), agentBinary(tb), args...)
	command.Stdout, command.Stderr = &out, &errs
	if err := host.Start(command); err != nil {
		tb.Fatal(err)
	}
	_ = command.Wait() // the status tells
	return out.String(), errs.String(), command.ProcessState.ExitCode()
}

// natTables are those of both families and backends; legacy ones are not made by it.
func natTables(tb testing.TB, host *netns.Host) map[string][]string {
	tb.Helper()
	tables := map[string][]string{}
	for command, names := range map[string]string{
		"iptables-nft-save": "", "ip6tables-nft-save": "",
		"iptables-legacy-save": "/proc/net/ip_tables_names", "ip6tables-legacy-save": "/proc/net/ip6_tables_names",
	} {
		if names != "" && !strings.Contains(host.Output(tb, "sh", "-c", "cat "+names+" 2>/dev/null || :"), "nat") {
			continue
		}
		for line := range strings.Lines(host.Output(tb, command, "-t", "nat")) {
			if strings.HasPrefix(line, "-A ") || strings.HasPrefix(line, ":") && strings.Contains(line, " - [") {
				tables[command] = append(tables[command], strings.TrimSpace(line))
			}
		}
	}
	return tables
}

func TestCleanup(t *testing.T) {
	host := netns.ForTest(t)
	for _, command := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
		host.Output(t, command, "-t", "nat", "-N", "KUBE-POSTROUTING")
		host.Output(t, command, "-t", "nat", "-A", "POSTROUTING", "-j", "KUBE-POSTROUTING")
	}
	alone := natTables(t, host)
	state := t.TempDir()
	args := []string{"--enable-ipv6", "--config-path=" + filepath.Join(t.TempDir(), "none"), "--iptables-backend=nft"}
	if _, stderr, status := inNode(t, host, append(args, "--once")...); status != 0 {
		t.Fatalf("applying: status %d, %s", status, stderr)
	}
	for _, command := range []string{"iptables", "ip6tables"} { // as an agent leaves it that is not told to take over
		held := host.Output(t, command+"-nft-save", "-t", "nat")
		for _, line := range natTables(t, host)[command+"-legacy-save"] {
			held = strings.ReplaceAll(held, "\n"+line+"\n", "\n")
		}
		if _, err := host.Feed(t.Context(), held, command+"-legacy-restore", "--noflush"); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"last-valid", "last-valid.tmp", "another"} {
		if err := os.WriteFile(filepath.Join(state, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	full := natTables(t, host)

	announced, stderr, status := inNode(t, host, "cleanup", "--dry-run", "--state-dir", state)
	if status != 0 || stderr != "" {
		t.Errorf("announcing: status %d, %s", status, stderr)
	}
	if diff := cmp.Diff(full, natTables(t, host)); diff != "" {
		t.Fatalf("announcing changed the tables (-before +after):\n%s", diff)
	}
	removed, stderr, status := inNode(t, host, "cleanup", "--state-dir", state)
	if status != 0 || stderr != "" {
		t.Errorf("removing: status %d, %s", status, stderr)
	}
	if diff := cmp.Diff(announced, strings.ReplaceAll(removed, "removed", "would remove")); diff != "" {
		t.Errorf("announced and removed differ (-announced +removed):\n%s", diff)
	}
	const ipv4 = `IPv4, nft: removed
  -A POSTROUTING -m comment --comment "ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom IP-MASQ-AGENT chain" -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT
  :IP-MASQ-AGENT - [0:0]
  -A IP-MASQ-AGENT -d 169.254.0.0/16 -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN
  -A IP-MASQ-AGENT -d 10.0.0.0/8 -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN
  -A IP-MASQ-AGENT -d 172.16.0.0/12 -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN
  -A IP-MASQ-AGENT -d 192.168.0.0/16 -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN
  -A IP-MASQ-AGENT -m comment --comment "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE --random-fully
`
	if got, _, _ := strings.Cut(removed, "IPv4, legacy: removed\n"); got != ipv4 {
		t.Errorf("printed differs (-want +got):\n%s", cmp.Diff(ipv4, got))
	}
	if diff := cmp.Diff(alone, natTables(t, host)); diff != "" {
		t.Errorf("what is left differs (-want +got):\n%s", diff)
	}
	entries, err := os.ReadDir(state)
	if err != nil || len(entries) != 1 || entries[0].Name() != "another" {
		t.Errorf("the state directory holds %v (%v), want another alone", entries, err)
	}

	stdout, stderr, status := inNode(t, host, "cleanup", "--state-dir", state)
	if stdout != "nothing of an agent is there\n" || stderr != "" || status != 0 {
		t.Errorf("the second time: status %d, %q, %q", status, stdout, stderr)
	}
}

// TestCleanupRemovesSets: both backends' chains ask the same ones, and a set of a run that
// ended early is asked by none.
func TestCleanupRemovesSets(t *testing.T) {
	host := netns.ForTest(t)
	host.Output(t, "ipset", "create", "KUBE-LOOP-BACK", "hash:ip")
	for _, backend := range backendNames() {
		args := []string{
			"--once", "--enable-ipv6", "--set-threshold=0", "--config-path=" + filepath.Join(t.TempDir(), "none"), "--iptables-backend=" + backend,
		}
		if _, stderr, status := inNode(t, host, args...); status != 0 {
			t.Fatalf("applying: status %d, %s", status, stderr)
		}
	}
	host.Output(t, "ipset", "create", "masq-guard-4+IP-MASQ-AGENT", "hash:net")
	sets := func() string { return host.Output(t, "ipset", "list", "-name") }
	const all = "KUBE-LOOP-BACK\nmasq-guard-4:IP-MASQ-AGENT\nmasq-guard-6:IP-MASQ-AGENT\nmasq-guard-4+IP-MASQ-AGENT\n"
	if got := sets(); got != all {
		t.Fatalf("the sets are\n%s, want\n%s", got, all)
	}
	stdout, stderr, status := inNode(t, host, "cleanup")
	if status != 0 || stderr != "" {
		t.Errorf("status %d, %s", status, stderr)
	}
	for _, want := range []string{
		"IPv4, ipset: removed\n  set masq-guard-4:IP-MASQ-AGENT\n  set masq-guard-4+IP-MASQ-AGENT\n",
		"IPv6, ipset: removed\n  set masq-guard-6:IP-MASQ-AGENT\n",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("printed\n%s\nwithout\n%s", stdout, want)
		}
	}
	if got := sets(); got != "KUBE-LOOP-BACK\n" {
		t.Errorf("left are\n%s", got)
	}
	if stdout, _, status := inNode(t, host, "cleanup"); stdout != "nothing of an agent is there\n" || status != 0 {
		t.Errorf("the second time: status %d, %q", status, stdout)
	}
}

func TestCleanupNamesWhatIsLeft(t *testing.T) {
	host := netns.ForTest(t)
	host.Output(t, "iptables-nft", "-t", "nat", "-N", "MASQ")
	host.Output(t, "iptables-nft", "-t", "nat", "-A", "MASQ", "-j", "ACCEPT")
	before := natTables(t, host)
	stdout, stderr, status := inNode(t, host, "cleanup", "--masq-chain=MASQ")
	const want = "agent: IPv4, nft: chain MASQ stays, since 1 of its 1 rules are none of an ip-masq-agent, such as \"-A MASQ -j ACCEPT\"\n"
	if stdout != "" || stderr != want || status != 1 {
		t.Errorf("status %d, %q, %q; want 1 and %q", status, stdout, stderr, want)
	}
	if diff := cmp.Diff(before, natTables(t, host)); diff != "" {
		t.Errorf("the tables changed (-before +after):\n%s", diff)
	}
}

func TestCommandUsage(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"unknown flag", []string{"cleanup", "--masq-chian=X"}, "cleanup: unknown flag: --masq-chian; agent cleanup --help lists the flags"},
		{"no flag", []string{"cleanup", "now"}, `cleanup: "now" is no flag; values of switches are written --flag=value; agent cleanup --help lists the flags`},
		{"lingering after nothing", []string{"cleanup", "--linger", "--dry-run"}, "cleanup: --linger and --dry-run exclude each other"},
		{"negative wait", []string{"cleanup", "--wait=-1s"}, "cleanup: --wait=-1s: a time to wait is not negative"},
		{"unknown format", []string{"plan", "-o=xml"}, `plan: --output="xml": unknown format; write diff or json`},
		{"unknown flag of plan", []string{"plan", "--masq-chian=X"}, "unknown flag: --masq-chian; --help lists the flags"},
		{"once and for ever", []string{"--once", "--cleanup-on-exit"}, `--cleanup-on-exit="true": with --once the rules are to stay; use one of the two`},
		{"built-in chain", []string{"cleanup", "--masq-chain=OUTPUT"}, `cleanup: --masq-chain: checking chain name "OUTPUT": ` +
			`iptables has a chain or target of its own by this name; choose another, such as IP-MASQ-AGENT`},
	} {
		t.Run(test.name, func(t *testing.T) {
			stdout, stderr, err := call(t, test.args...)
			if stdout+stderr != "" || err == nil || err.Error() != test.want || exitCode(err) != 2 {
				t.Errorf("printed %q, %q, error %v; want %q", stdout, stderr, err, test.want)
			}
		})
	}
}

func TestCommandHelp(t *testing.T) {
	help, _, err := call(t, "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commands() {
		if !strings.Contains(help, "\n  agent "+c.name+" [flags] ") {
			t.Errorf("--help does not tell of %s:\n%s", c.name, help)
		}
		stdout, stderr, err := call(t, c.name, "--help")
		if err != nil || stderr != "" {
			t.Errorf("%s --help: error %v, %q", c.name, err, stderr)
		}
		for _, part := range []string{"\nUsage:\n  agent " + c.name + " [flags]\n", "\nExamples:\n", "\nExit status: 0 "} {
			if !strings.Contains(stdout, part) {
				t.Errorf("%s --help does not hold %q:\n%s", c.name, part, stdout)
			}
		}
	}
}

func TestCleanupOnExit(t *testing.T) {
	for _, name := range backendNames() {
		for _, test := range []struct {
			name    string
			signal  syscall.Signal
			cleans  bool
			status  int
			message string // the last one logged
		}{
			{"SIGTERM", syscall.SIGTERM, true, 0, "rules removed"},
			{"SIGINT", syscall.SIGINT, true, 0, "rules removed"},
			{"SIGKILL", syscall.SIGKILL, false, -1, "configuration applied"},
		} {
			t.Run(name+"/"+test.name, func(t *testing.T) {
				b := newBackend(t, name)
				alone := b.saved(t)
				v, state := newVolume(t, "nonMasqueradeCIDRs: [10.1.0.0/16]\n"), t.TempDir()
				a := startAgent(t, b.host, "--config-path="+v.file(), "--iptables-backend="+b.name, "--cleanup-on-exit", "--state-dir="+state)
				b.eventuallyHolds(t, "the rules", table("10.1.0.0/16"))
				eventually(t, "the configuration is kept, after it was announced", func() string {
					if _, err := os.Stat(filepath.Join(state, "last-valid")); err != nil {
						return err.Error()
					}
					return ""
				})
				eventually(t, "the configuration is kept", func() string {
					if _, err := os.Stat(filepath.Join(state, "last-valid")); err != nil {
						return err.Error()
					}
					return ""
				})
				must(t, a.command.Process.Signal(test.signal))
				_ = a.command.Wait() // the status tells
				if status := a.command.ProcessState.ExitCode(); status != test.status {
					t.Errorf("exit status %d, want %d", status, test.status)
				}
				want := alone
				if !test.cleans {
					want = table("10.1.0.0/16")
				}
				if diff := cmp.Diff(want, b.saved(t)); diff != "" {
					t.Errorf("the rules differ (-want +got):\n%s", diff)
				}
				messages := a.log.messages(t)
				if last := messages[len(messages)-1]; last != test.message {
					t.Errorf("the last message is %q, want %q", last, test.message)
				}
				if _, err := os.Stat(filepath.Join(state, "last-valid")); err != nil {
					t.Errorf("the last valid configuration is gone: %v", err)
				}
			})
		}
	}
}

func TestCleanupWaitsForTheAgent(t *testing.T) {
	b := newBackend(t, "nft")
	alone := b.saved(t)
	v := newVolume(t, "nonMasqueradeCIDRs: [10.1.0.0/16]\n")
	a := startAgent(t, b.host, "--config-path="+v.file(), "--iptables-backend=nft")
	b.eventuallyHolds(t, "the rules", table("10.1.0.0/16"))

	stdout, stderr, status := inNode(t, b.host, "cleanup")
	const refusal = "agent: an agent with chain IP-MASQ-AGENT runs on this node and would put its rules back; " +
		"stop it first, or wait with --wait for it to stop\n"
	if status != 1 || stdout != "" || stderr != refusal {
		t.Errorf("beside an agent: status %d, %q, %q; want %q", status, stdout, stderr, refusal)
	}
	if diff := cmp.Diff(table("10.1.0.0/16"), b.saved(t)); diff != "" {
		t.Errorf("beside an agent the rules changed (-want +got):\n%s", diff)
	}
	if _, stderr, status := inNode(t, b.host, "cleanup", "--masq-chain=IP-MASQ"); status != 0 {
		t.Errorf("beside an agent with another chain: status %d, %s", status, stderr)
	}

	stopping := b.host.Command(t.Context(), agentBinary(t), "cleanup", "--wait=1m")
	must(t, b.host.Start(stopping))
	if err := a.command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = a.command.Wait() // it was killed
	if err := stopping.Wait(); err != nil {
		t.Errorf("waiting for the agent: %v", err)
	}
	if diff := cmp.Diff(alone, b.saved(t)); diff != "" {
		t.Errorf("after the agent the rules differ (-want +got):\n%s", diff)
	}
}
