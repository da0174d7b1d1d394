package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// agentProcess is the agent's binary as a daemon on a host of its own.
type agentProcess struct {
	host    *netns.Host
	command *exec.Cmd
	log     *logBuffer
	address string
}

// messages are the log's, in order.
func (l *logBuffer) messages(tb testing.TB) []string {
	tb.Helper()
	var messages []string
	for line := range strings.Lines(l.String()) {
		var entry struct{ Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			tb.Fatalf("no JSON in the log: %q", line)
		}
		messages = append(messages, entry.Msg)
	}
	return messages
}

func startAgent(tb testing.TB, host *netns.Host, args ...string) *agentProcess {
	tb.Helper()
	return startAgentAs(tb, host, func(*syscall.SysProcAttr) {}, args...)
}

func startAgentAs(tb testing.TB, host *netns.Host, as func(*syscall.SysProcAttr), args ...string) *agentProcess {
	tb.Helper()
	a := &agentProcess{host: host, log: &logBuffer{}}
	args = append([]string{"--metrics-bind-address=127.0.0.1:0"}, args...)
	a.command = host.Command(context.Background(), agentBinary(tb), args...)
	a.command.Stderr = a.log
	as(a.command.SysProcAttr)
	if err := host.Start(a.command); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("log of the agent:\n%s", a.log)
		}
		if a.command.ProcessState == nil {
			_ = a.command.Process.Kill()
			_ = a.command.Wait()
		}
	})
	address := regexp.MustCompile(`"msg":"serving metrics and health","address":"([^"]+)"`)
	eventually(tb, "the agent serves", func() string {
		match := address.FindStringSubmatch(a.log.String())
		if match == nil {
			return "its log: " + a.log.String()
		}
		a.address = match[1]
		return ""
	})
	return a
}

// get asks the agent over HTTP, from its own host.
func (a *agentProcess) get(tb testing.TB, path string) (code int, body string) {
	tb.Helper()
	err := a.host.Do(func() (err error) {
		// The socket has to be made by this very thread, so there is no http.Client.
		connection, err := net.DialTimeout("tcp", a.address, time.Second)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, connection.Close()) }()
		if err = connection.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		if _, err = fmt.Fprintf(connection, "GET %s HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n", path); err != nil {
			return err
		}
		answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(answer.Body)
		code, body = answer.StatusCode, string(text)
		return errors.Join(err, answer.Body.Close())
	})
	if err != nil {
		tb.Fatalf("asking the agent at %s for %s: %v", a.address, path, err)
	}
	return code, body
}

// stop ends the agent as the kubelet does.
func (a *agentProcess) stop(tb testing.TB) {
	tb.Helper()
	if err := a.command.Process.Signal(syscall.SIGTERM); err != nil {
		tb.Fatal(err)
	}
	if err := a.command.Wait(); err != nil {
		tb.Errorf("after SIGTERM: %v", err)
	}
}

// eventually waits until f has nothing to object.
func eventually(tb testing.TB, what string, f func() (objection string)) {
	tb.Helper()
	const patience, pause = 10 * time.Second, 20 * time.Millisecond
	objection := f()
	for deadline := time.Now().Add(patience); objection != ""; objection = f() {
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within %s:\n%s", what, patience, objection)
		}
		time.Sleep(pause)
	}
}

// backend is one set of iptables commands on one host.
type backend struct {
	name string
	host *netns.Host
}

func (b backend) iptables(tb testing.TB, args ...string) {
	tb.Helper()
	b.host.Output(tb, "iptables-"+b.name, append([]string{"-w", "-t", "nat"}, args...)...)
}

// restore makes one transaction.
func (b backend) restore(tb testing.TB, lines ...string) {
	tb.Helper()
	text := "*nat\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
	if _, err := b.host.Feed(tb.Context(), text, "iptables-"+b.name+"-restore", "-w", "--noflush"); err != nil {
		tb.Fatal(err)
	}
}

// saved is the nat table, without comments and the policies of built-in chains.
func (b backend) saved(tb testing.TB) []string {
	tb.Helper()
	var lines []string
	for line := range strings.Lines(b.host.Output(tb, "iptables-"+b.name+"-save", "-t", "nat")) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "-A ") || strings.HasPrefix(line, ":") && strings.Contains(line, " - [") {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

func (b backend) eventuallyHolds(tb testing.TB, what string, want []string) {
	tb.Helper()
	eventually(tb, what, func() string { return cmp.Diff(want, b.saved(tb)) })
}

// table is what the kernel holds of ours for these spared ranges, beside a rule of
// somebody else.
func table(cidrs ...string) []string {
	lines := []string{
		":IP-MASQ-AGENT - [0:0]",
		"-A POSTROUTING -s 192.0.2.1/32 -j RETURN",
		`-A POSTROUTING -m comment --comment "ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic ` +
			`to our custom IP-MASQ-AGENT chain" -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT`,
		`-A IP-MASQ-AGENT -m comment --comment "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)" ` +
			`-j MASQUERADE --random-fully`,
	}
	for _, cidr := range append([]string{"169.254.0.0/16"}, cidrs...) {
		lines = append(lines, "-A IP-MASQ-AGENT -d "+cidr+` -m comment --comment "ip-masq-agent: local traffic is not subject to `+
			`MASQUERADE" -j RETURN`)
	}
	slices.Sort(lines)
	return lines
}

// backendNames are those of --iptables-backend.
func backendNames() []string { return []string{"nft", "legacy"} }

// newBackend makes a host where somebody else has a rule already.
func newBackend(t *testing.T, name string) backend {
	t.Helper()
	b := backend{name, netns.ForTest(t)}
	b.iptables(t, "-A", "POSTROUTING", "-s", "192.0.2.1", "-j", "RETURN")
	return b
}

func TestDaemonHoldsTheFile(t *testing.T) {
	for _, name := range backendNames() {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, name)
			v := newVolume(t, "nonMasqueradeCIDRs: [10.1.0.0/16]\n")
			a := startAgent(t, b.host, "--config-path="+v.file(), "--iptables-backend="+b.name)
			b.eventuallyHolds(t, "the first file", table("10.1.0.0/16"))

			started := time.Now()
			v.swap(t, "nonMasqueradeCIDRs: [10.2.0.0/16, 10.3.0.0/16]\nresyncInterval: 1s\n")
			b.eventuallyHolds(t, "the second file", table("10.2.0.0/16", "10.3.0.0/16"))
			// Reading the table back takes its time too; the benchmark is exact.
			if took := time.Since(started); took > 800*time.Millisecond {
				t.Errorf("the change took %s, as if the agent had waited for its next tick", took)
			}
			want := table("10.2.0.0/16", "10.3.0.0/16")

			const jump = "-m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT"
			for _, drift := range []struct {
				name  string
				kind  string
				harms []string // one transaction, lines of iptables-restore
			}{
				{"flushed chain", "chain-changed", []string{"-F IP-MASQ-AGENT"}},
				{"foreign rule inside", "chain-changed", []string{"-I IP-MASQ-AGENT -d 198.51.100.0/24 -j RETURN"}},
				{"rules deleted", "chain-changed", []string{"-D IP-MASQ-AGENT 1", "-D IP-MASQ-AGENT 1"}},
				{"removed jump", "jump-missing", []string{"-D POSTROUTING 2"}},
				{"duplicate jump", "jump-duplicate", []string{"-A POSTROUTING " + jump}},
				{"removed chain", "chain-missing", []string{"-D POSTROUTING 2", "-F IP-MASQ-AGENT", "-X IP-MASQ-AGENT"}},
			} {
				before := driftCount(t, a, drift.kind)
				b.restore(t, drift.harms...)
				b.eventuallyHolds(t, drift.name, want)
				eventually(t, drift.name+" is counted", func() string {
					if driftCount(t, a, drift.kind) > before {
						return ""
					}
					return "drift_total has not grown"
				})
			}

			v.swap(t, "nonMasqueradeCIDRs: [10.2.0.1/16]\n")
			eventually(t, "the refusal", func() string {
				if code, body := a.get(t, "/readyz"); code == http.StatusOK {
					return body
				}
				return ""
			})
			if _, body := a.get(t, "/readyz"); !regexp.MustCompile(
				`^\[\+\] rules: ok\n\[-\] file: refused: line 1, nonMasqueradeCIDRs\[0\]: .*10\.2\.0\.1/16.*10\.2\.0\.0/16.*\n\[\+\] digest: ok\nin force: last-valid, `,
			).MatchString(body) {
				t.Errorf("/readyz with a bad file: %s", body)
			}
			if code, body := a.get(t, "/readyz?exclude=file"); code != http.StatusOK || !strings.Contains(body, "refused") {
				t.Errorf("/readyz?exclude=file with a bad file: code %d, %s", code, body)
			}
			code, stdout, stderr := runAgent(t, b.host, nil, "status", "--address="+a.address)
			if code != 3 || stderr != "" || !strings.HasPrefix(stdout, "state          degraded\n               file: refused: line 1, ") {
				t.Errorf("agent status with a bad file: exit code %d, standard error %q, standard output:\n%s", code, stderr, stdout)
			}
			if _, body := a.get(t, "/metrics"); !strings.Contains(body, "\nip_masq_guard_agent_config_file_refused 1\n") {
				t.Errorf("/metrics do not tell that the file is refused:\n%s", body)
			}
			b.iptables(t, "-F", "IP-MASQ-AGENT")
			b.eventuallyHolds(t, "healing under a bad file", want)

			v.swap(t, "nonMasqueradeCIDRs: [10.4.0.0/16]\n")
			b.eventuallyHolds(t, "the mended file", table("10.4.0.0/16"))
			eventually(t, "readiness", func() string {
				code, body := a.get(t, "/readyz")
				if code != http.StatusOK {
					return body
				}
				return ""
			})
			if code, stdout, _ := runAgent(t, b.host, nil, "status", "--address="+a.address, "-o", "json"); code != 0 {
				t.Errorf("agent status with a good file: exit code %d, %s", code, stdout)
			}
			if code, body := a.get(t, "/healthz"); code != http.StatusOK {
				t.Errorf("/healthz: code %d, %s", code, body)
			}

			a.stop(t)
			if diff := cmp.Diff(table("10.4.0.0/16"), b.saved(t)); diff != "" {
				t.Errorf("after SIGTERM the rules differ (-want +got):\n%s", diff)
			}
			if messages := a.log.messages(t); messages[len(messages)-1] != "agent stopped, its rules stay" {
				t.Errorf("last message %q", messages[len(messages)-1])
			}
		})
	}
}

// driftCount reads a counter of the agent's.
func driftCount(t *testing.T, a *agentProcess, kind string) int {
	t.Helper()
	_, body := a.get(t, "/metrics")
	match := regexp.MustCompile(`(?m)^ip_masq_guard_agent_drift_total\{family="ipv4",kind="` + kind + `"\} (\d+)$`).FindStringSubmatch(body)
	if match == nil {
		t.Fatalf("no drift_total of %s in:\n%s", kind, body)
	}
	n, err := strconv.Atoi(match[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRestartWritesNothing: replacing a chain would set its counters to zero.
func TestRestartWritesNothing(t *testing.T) {
	for _, name := range backendNames() {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, name)
			v := newVolume(t, "nonMasqueradeCIDRs: [10.1.0.0/16]\nresyncInterval: 1s\n")
			flags := []string{"--config-path=" + v.file(), "--iptables-backend=" + b.name}
			a := startAgent(t, b.host, flags...)
			b.eventuallyHolds(t, "the file", table("10.1.0.0/16"))
			a.stop(t)

			// The same rules, but as if 7 packets of 700 bytes had met each.
			counted := "*nat\n:IP-MASQ-AGENT - [0:0]\n"
			for line := range strings.Lines(b.host.Output(t, "iptables-"+b.name+"-save", "-t", "nat")) {
				if strings.HasPrefix(line, "-A IP-MASQ-AGENT ") {
					counted += "[7:700] " + line
				}
			}
			_, err := b.host.Feed(t.Context(), counted+"COMMIT\n", "iptables-"+b.name+"-restore", "--noflush", "--counters")
			if err != nil {
				t.Fatal(err)
			}
			counters := func() int {
				return strings.Count(b.host.Output(t, "iptables-"+b.name+"-save", "-t", "nat", "-c"), "[7:700] -A IP-MASQ-AGENT ")
			}
			if got := counters(); got != 3 {
				t.Fatalf("%d rules with counters, want 3", got)
			}

			a = startAgent(t, b.host, flags...)
			eventually(t, "three passes", func() string {
				_, body := a.get(t, "/metrics")
				if regexp.MustCompile(`ip_masq_guard_agent_sync_seconds_count\{result="success"\} [3-9]`).MatchString(body) {
					return ""
				}
				return body
			})
			if got := counters(); got != 3 {
				t.Errorf("%d rules kept their counters, want 3: the chain was written", got)
			}
			for _, message := range a.log.messages(t) {
				if strings.Contains(message, "drift") {
					t.Errorf("log: %s", message)
				}
			}
			a.stop(t)
		})
	}
}

func TestRestartWithBadFile(t *testing.T) {
	b := newBackend(t, "nft")
	v := newVolume(t, "nonMasqueradeCIDRs: [10.1.0.0/16]\n")
	flags := []string{"--config-path=" + v.file(), "--iptables-backend=nft", "--state-dir=" + filepath.Join(t.TempDir(), "state")}
	a := startAgent(t, b.host, flags...)
	b.eventuallyHolds(t, "the file", table("10.1.0.0/16"))
	a.stop(t)

	v.swap(t, "nonMasqueradeCIDRs: 10.1.0.0/16\n")
	b.iptables(t, "-F", "IP-MASQ-AGENT") // as after a reboot
	a = startAgent(t, b.host, flags...)
	b.eventuallyHolds(t, "the last valid configuration", table("10.1.0.0/16"))
	a.stop(t)

	b.iptables(t, "-F", "IP-MASQ-AGENT")
	a = startAgent(t, b.host, flags[:2]...)
	b.eventuallyHolds(t, "the defaults, without a state", table("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
	a.stop(t)
}

// TestBothFamilies leaves the choice of the backend to the agent, too.
func TestBothFamilies(t *testing.T) {
	b := newBackend(t, "nft")
	v := newVolume(t, "nonMasqueradeCIDRs: [10.1.0.0/16, 'fd00::/8']\n")
	a := startAgent(t, b.host, "--config-path="+v.file(), "--enable-ipv6")
	if want := `"backend":"nft","backendReason":"nft holds 1 rules in mangle and nat, legacy 0"`; !strings.Contains(a.log.String(), want) {
		t.Errorf("the log lacks %s", want)
	}
	b.eventuallyHolds(t, "IPv4", table("10.1.0.0/16"))
	eventually(t, "IPv6", func() string {
		saved := b.host.Output(t, "ip6tables-nft-save", "-t", "nat")
		for _, rule := range []string{"-A IP-MASQ-AGENT -d fe80::/10 ", "-A IP-MASQ-AGENT -d fd00::/8 "} {
			if !strings.Contains(saved, rule) {
				return saved
			}
		}
		return ""
	})
	a.stop(t)
}

// runAgent runs the agent to its end.
func runAgent(t *testing.T, host *netns.Host, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	command := host.Command(t.Context(), agentBinary(t), args...)
	command.Env = append(command.Env, env...)
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	if err := host.Start(command); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return command.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ip-masq-agent")
	for _, name := range backendNames() {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, name)
			for _, test := range []struct {
				name, text     string
				code           int
				stdout, stderr string // regular expressions
				table          []string
			}{
				{
					"refused", "nonMasqueradeCIDRs:\n- 10.2.0.1/16\n- 10.3.0.0/16\nresyscInterval: 1s\n", 1, `^$`,
					`^agent: \S+/ip-masq-agent: fatal: line 2, nonMasqueradeCIDRs\[0\]: .*10\.2\.0\.0/16.*\n` +
						`agent: \S+/ip-masq-agent: suspicious: line 4, resyscInterval: .*resyncInterval.*\n` +
						`agent: \S+/ip-masq-agent is refused: 1 fatal problem\(s\); the kernel is untouched\n$`,
					[]string{"-A POSTROUTING -s 192.0.2.1/32 -j RETURN"},
				},
				{
					"applied", "nonMasqueradeCIDRs: [10.2.0.0/16]\n", 0,
					`^IPv4: chain IP-MASQ-AGENT holds 3 rules; written because of chain-missing, jump-missing\n$`, `^$`, table("10.2.0.0/16"),
				},
				{
					"applied again", "nonMasqueradeCIDRs: [10.2.0.0/16]\n", 0,
					`^IPv4: chain IP-MASQ-AGENT holds 3 rules; nothing was written\n$`, `^$`, table("10.2.0.0/16"),
				},
			} {
				must(t, os.WriteFile(file, []byte(test.text), 0o600))
				code, stdout, stderr := runAgent(t, b.host, nil, "--once", "--config-path="+file, "--iptables-backend="+b.name)
				if code != test.code {
					t.Errorf("%s: exit code %d, want %d", test.name, code, test.code)
				}
				if !regexp.MustCompile(test.stdout).MatchString(stdout) {
					t.Errorf("%s: standard output %q, want %q", test.name, stdout, test.stdout)
				}
				if !regexp.MustCompile(test.stderr).MatchString(stderr) {
					t.Errorf("%s: standard error %q, want %q", test.name, stderr, test.stderr)
				}
				if diff := cmp.Diff(test.table, b.saved(t)); diff != "" {
					t.Errorf("%s: table differs (-want +got):\n%s", test.name, diff)
				}
			}
		})
	}
}

func TestOnceWhereTheKernelRefuses(t *testing.T) {
	host := netns.ForTest(t)
	file := filepath.Join(t.TempDir(), "none")
	code, stdout, stderr := runAgent(t, host, []string{"PATH=" + t.TempDir()},
		"--once", "--config-path="+file, "--iptables-backend=nft", "--enable-ipv6")
	if code != 1 || stdout != "" {
		t.Errorf("exit code %d, standard output %q; want 1 and nothing", code, stdout)
	}
	for _, want := range []string{
		"agent: " + file + ": no such file, so the defaults are in force\n",
		"agent: applying IPv4 rules: ", "agent: applying IPv6 rules: ",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("standard error lacks %q:\n%s", want, stderr)
		}
	}
}

// TestDryRunNeedsNothing: neither commands nor privilege.
func TestDryRunNeedsNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ip-masq-agent")
	must(t, os.WriteFile(file, []byte("nonMasqueradeCIDRs: [10.2.0.0/16, 'fd00::/8']\n"), 0o600))
	command := exec.Command(agentBinary(t), "--dry-run", "--enable-ipv6", "--config-path="+file)
	command.Env = []string{"PATH="}
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	if err := command.Run(); err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	const spare, rest = `-m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN`,
		`-m comment --comment "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE --random-fully`
	const jump = `-m comment --comment 'ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom ` +
		`IP-MASQ-AGENT chain' -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT`
	want := `# iptables-restore --wait --noflush
*nat
:IP-MASQ-AGENT - [0:0]
-A IP-MASQ-AGENT -d 169.254.0.0/16 ` + spare + `
-A IP-MASQ-AGENT -d 10.2.0.0/16 ` + spare + `
-A IP-MASQ-AGENT ` + rest + `
COMMIT
# iptables --wait --table nat --append POSTROUTING ` + jump + `
# ip6tables-restore --wait --noflush
*nat
:IP-MASQ-AGENT - [0:0]
-A IP-MASQ-AGENT -d fe80::/10 ` + spare + `
-A IP-MASQ-AGENT -d fd00::/8 ` + spare + `
-A IP-MASQ-AGENT ` + rest + `
COMMIT
# ip6tables --wait --table nat --append POSTROUTING ` + jump + `
`
	if diff := cmp.Diff(want, out.String()); diff != "" || errs.Len() > 0 {
		t.Errorf("standard error %q, output differs (-want +got):\n%s", errs.String(), diff)
	}

	must(t, os.WriteFile(file, []byte("nonMasqueradeCIDRs: [10.2.0.1/16]\n"), 0o600))
	stdout, stderr, err := call(t, "--dry-run", "--config-path="+file)
	if err == nil || exitCode(err) != 1 || stdout != "" || !strings.Contains(stderr, "fatal: line 1, nonMasqueradeCIDRs[0]: ") {
		t.Errorf("a refused file: error %v, output %q, standard error %q", err, stdout, stderr)
	}
}

// TestMemory: the agent rests on every node.
func TestMemory(t *testing.T) {
	const most = 12 << 10 // KiB
	for _, way := range ways() {
		t.Run(way[0], func(t *testing.T) {
			host := netns.ForTest(t)
			v := newVolume(t, manyCIDRs(1))
			a := startAgent(t, host, append(way, "--config-path="+v.file())...)
			for i := range 5 {
				v.swap(t, manyCIDRs(i))
				time.Sleep(300 * time.Millisecond)
				a.get(t, "/metrics")
				a.get(t, "/readyz")
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

// memory is the agent's resident memory in KiB, its program included.
func (a *agentProcess) memory(tb testing.TB) int {
	tb.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.command.Process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	match := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if match == nil {
		tb.Fatalf("no VmRSS in %s", status)
	}
	n, err := strconv.Atoi(string(match[1]))
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// manyCIDRs is a file of 64 CIDRs, which generation tells apart.
func manyCIDRs(generation int) string {
	var b strings.Builder
	b.WriteString("nonMasqueradeCIDRs:\n")
	for i := range 63 {
		fmt.Fprintf(&b, "- 10.%d.0.0/16\n", i)
	}
	fmt.Fprintf(&b, "- %s\n", generationCIDR(generation))
	return b.String()
}

func generationCIDR(generation int) string {
	return fmt.Sprintf("10.%d.%d.0/24", 128+generation/256%128, generation%256)
}

// BenchmarkFileToKernel measures from the swap of ..data until iptables-save shows
// the change, with 64 CIDRs.
func BenchmarkFileToKernel(b *testing.B) {
	for _, name := range backendNames() {
		b.Run(name, func(b *testing.B) {
			host := netns.ForTest(b)
			v := newVolume(b, manyCIDRs(0))
			a := startAgent(b, host, "--config-path="+v.file(), "--iptables-backend="+name)
			shown := func(generation int) func() string {
				rule := "-A IP-MASQ-AGENT -d " + generationCIDR(generation) + " "
				return func() string {
					if saved := host.Output(b, "iptables-"+name+"-save", "-t", "nat"); !strings.Contains(saved, rule) {
						return saved
					}
					return ""
				}
			}
			eventually(b, "the first file", shown(0))
			var took []time.Duration
			for generation := 1; b.Loop(); generation++ {
				visible := shown(generation)
				started := time.Now()
				v.swap(b, manyCIDRs(generation))
				for visible() != "" {
					if time.Since(started) > 10*time.Second {
						b.Fatal("the change does not arrive")
					}
				}
				took = append(took, time.Since(started))
			}
			slices.Sort(took)
			percentile := func(p int) float64 { return took[(len(took)-1)*p/100].Seconds() * 1000 }
			b.ReportMetric(percentile(50), "p50-ms")
			b.ReportMetric(percentile(99), "p99-ms")
			a.get(b, "/metrics")
			b.ReportMetric(float64(a.memory(b)), "RSS-KiB")
			a.stop(b)
		})
	}
}

// TestChangeOfBackend: what an agent has left in the other backend goes once the rules
// are in force; a rule of somebody else there stays.
func TestChangeOfBackend(t *testing.T) {
	for _, name := range backendNames() {
		t.Run("to "+name, func(t *testing.T) {
			b := newBackend(t, name)
			former := backend{"legacy", b.host}
			if name == "legacy" {
				former.name = "nft"
			}
			former.iptables(t, "-A", "POSTROUTING", "-s", "192.0.2.2", "-j", "RETURN")
			alone := former.saved(t)
			text := "*nat\n:MASQ - [0:0]\n" + strings.Join([]string{
				`-A POSTROUTING -m comment --comment "\"ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic ` +
					`to our custom MASQ chain\"" -m addrtype ! --dst-type LOCAL -j MASQ`,
				`-A MASQ -m comment --comment "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE`,
			}, "\n") + "\nCOMMIT\n"
			leave := func() {
				if _, err := b.host.Feed(t.Context(), text, "iptables-"+former.name+"-restore", "--noflush"); err != nil {
					t.Fatal(err)
				}
			}

			leave()
			v := newVolume(t, "nonMasqueradeCIDRs: [10.1.0.0/16]\n")
			a := startAgent(t, b.host, "--config-path="+v.file(), "--iptables-backend="+name)
			b.eventuallyHolds(t, "the rules", table("10.1.0.0/16"))
			former.eventuallyHolds(t, "the other backend", alone)
			a.stop(t)
			if messages := a.log.messages(t); !slices.Contains(messages, "rules of a former agent removed") {
				t.Errorf("log: %q", messages)
			}

			leave()
			stdout, stderr, status := inNode(t, b.host, "--once", "--config-path="+v.file(), "--iptables-backend="+name)
			if want := "IPv4: 3 lines of a former agent removed from the backend " + former.name + "\n"; !strings.HasPrefix(stdout, want) || status != 0 {
				t.Errorf("--once: status %d, %q, %q; want it to begin with %q", status, stdout, stderr, want)
			}
			if diff := cmp.Diff(alone, former.saved(t)); diff != "" {
				t.Errorf("the other backend differs (-want +got):\n%s", diff)
			}
		})
	}
}
