//nolint:thelper // the functions of a sequence are tests, not helpers
package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// sequence is a conformance case with steps.
type sequence struct {
	run     func(t *testing.T, backend string)
	legacy  bool // it is about the legacy backend alone
	differs bool // docs/differences.md says how
}

func sequences() map[string]sequence {
	return map[string]sequence{
		"seq-bad-config-keeps-last-good": {run: badConfigKeepsLastGood, differs: true},
		"seq-delete-config":              {run: deleteConfig},
		"seq-drift-own-chain":            {run: driftInOwnChain},
		"seq-sigterm":                    {run: sigterm, differs: true},
		"seq-chain-rename":               {run: chainRename, differs: true},
		"seq-established-flow":           {run: establishedFlow},
		"seq-inbound-client-ip":          {run: inboundClient},
		"seq-xtables-lock-shared":        {run: lockShared, legacy: true},
		"seq-xtables-lock-not-mounted":   {run: lockNotMounted, legacy: true},
		"seq-gke-double-jump":            {run: gkeDoubleJump, differs: true},
		"seq-configmap-wrong-key":        {run: wrongKey},
	}
}

// TestConformanceSequences goes through the steps of the cases that have some.
func TestConformanceSequences(t *testing.T) {
	for _, test := range readConformance(t).Cases {
		if !test.isSequence() {
			continue
		}
		s, ok := sequences()[test.ID]
		if !ok {
			t.Errorf("%s has no test", test.ID)
			continue
		}
		backends := []string{"nft", "legacy"}
		if s.legacy {
			backends = []string{"legacy"}
		}
		for _, backend := range backends {
			t.Run(test.ID+" "+backend, func(t *testing.T) { s.run(t, backend) })
		}
	}
}

// chainText is what iptables-save prints of the default chain, jump first, when it
// spares these ranges beside link-local.
func chainText(ranges ...string) []string {
	lines := []string{
		`-A POSTROUTING -m comment --comment "ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic ` +
			`to our custom IP-MASQ-AGENT chain" -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT`,
	}
	for _, spared := range append([]string{"169.254.0.0/16"}, ranges...) {
		lines = append(lines, "-A IP-MASQ-AGENT -d "+spared+` -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN`)
	}
	return append(lines,
		`-A IP-MASQ-AGENT -m comment --comment "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE --random-fully`)
}

// renamed is a text for another chain than the default one.
func renamed(lines []string, chain string) []string {
	out := make([]string, len(lines))
	for i, line := range lines {
		out[i] = strings.ReplaceAll(line, "IP-MASQ-AGENT", chain)
	}
	return out
}

// holds waits until the IPv4 nat table holds these rules and no others.
func holds(t *testing.T, host *netns.Host, backend string, want []string) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		if diff := cmp.Diff(want, natRules(t, host, "iptables-"+backend)); diff != "" {
			return fmt.Errorf("the nat table differs (-want +got):\n%s", diff)
		}
		return nil
	})
}

// daemon is an agent that runs in a host, and its log.
type daemon struct {
	command *exec.Cmd
	path    string // of the file it reads

	mu  sync.Mutex
	log bytes.Buffer
}

// Write takes the log.
func (d *daemon) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.Write(p)
}

func (d *daemon) logged() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.String()
}

// startAgent starts an agent that reads a file with this text.
func startAgent(t *testing.T, host *netns.Host, backend, text string) *daemon {
	t.Helper()
	d := &daemon{path: filepath.Join(t.TempDir(), "ip-masq-agent")}
	d.write(t, text)
	d.command = host.Command(t.Context(), program(t, "agent"),
		"--config-path="+d.path, "--iptables-backend="+backend, "--metrics-bind-address=0")
	d.command.Stderr = d
	if err := host.Start(d.command); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if d.command.ProcessState == nil {
			_ = d.command.Process.Kill()
			_ = d.command.Wait()
		}
		if t.Failed() {
			t.Logf("the agent's log:\n%s", d.logged())
		}
	})
	return d
}

// write puts another text in the place of the file, by rename as kubelets do.
func (d *daemon) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(d.path+"~", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(d.path+"~", d.path); err != nil {
		t.Fatal(err)
	}
}

// once runs the agent until the file is in the kernel.
func once(t *testing.T, host *netns.Host, backend, text string, flags ...string) agentRun {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ip-masq-agent")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return runAgent(t, host, append([]string{"--once", "--config-path=" + path, "--iptables-backend=" + backend}, flags...)...)
}

func mustOnce(t *testing.T, host *netns.Host, backend, text string, flags ...string) {
	t.Helper()
	if got := once(t, host, backend, text, flags...); got.exit != 0 {
		t.Fatalf("exit %d: %s", got.exit, got.stderr)
	}
}

// badConfigKeepsLastGood: upstream keeps the rules too, but stops healing them.
func badConfigKeepsLastGood(t *testing.T, backend string) {
	host := netns.ForTest(t)
	d := startAgent(t, host, backend, "nonMasqueradeCIDRs: [10.5.0.0/16]\nresyncInterval: 1s\n")
	holds(t, host, backend, chainText("10.5.0.0/16"))
	d.write(t, "nonMasqueradeCIDRs: [10.5.0.1/16]\nresyncInterval: 1s\n")
	eventually(t, 10*time.Second, func() error {
		if !strings.Contains(d.logged(), "10.5.0.1/16") {
			return errors.New("the agent does not tell of the bad file")
		}
		return nil
	})
	holds(t, host, backend, chainText("10.5.0.0/16"))
	host.Output(t, "iptables-"+backend, "-w", "5", "-t", "nat", "-F", "IP-MASQ-AGENT")
	holds(t, host, backend, chainText("10.5.0.0/16"))
	d.write(t, "nonMasqueradeCIDRs: [10.6.0.0/16]\n")
	holds(t, host, backend, chainText("10.6.0.0/16"))
}

func deleteConfig(t *testing.T, backend string) {
	host := netns.ForTest(t)
	d := startAgent(t, host, backend, "nonMasqueradeCIDRs: [10.5.0.0/16]\nresyncInterval: 1s\n")
	holds(t, host, backend, chainText("10.5.0.0/16"))
	if err := os.Remove(d.path); err != nil {
		t.Fatal(err)
	}
	holds(t, host, backend, chainText("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
}

func driftInOwnChain(t *testing.T, backend string) {
	host := netns.ForTest(t)
	startAgent(t, host, backend, "nonMasqueradeCIDRs: [10.5.0.0/16]\nresyncInterval: 1s\n")
	holds(t, host, backend, chainText("10.5.0.0/16"))
	iptables := func(args ...string) {
		t.Helper()
		host.Output(t, "iptables-"+backend, append([]string{"-w", "5", "-t", "nat"}, args...)...)
	}
	iptables("-D", "IP-MASQ-AGENT", "2")
	iptables("-I", "IP-MASQ-AGENT", "1", "-d", "9.9.9.9", "-j", "RETURN")
	iptables("-F", "POSTROUTING")
	holds(t, host, backend, chainText("10.5.0.0/16"))
}

// sigterm: upstream dies of the signal, ours ends well. Both leave the rules.
func sigterm(t *testing.T, backend string) {
	host := netns.ForTest(t)
	d := startAgent(t, host, backend, "nonMasqueradeCIDRs: [10.5.0.0/16]\n")
	holds(t, host, backend, chainText("10.5.0.0/16"))
	if err := d.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := d.command.Wait(); err != nil {
		t.Errorf("the agent ended with %v, want exit 0", err)
	}
	holds(t, host, backend, chainText("10.5.0.0/16"))
}

func chainRename(t *testing.T, backend string) {
	host := netns.ForTest(t)
	const text = "nonMasqueradeCIDRs: [10.5.0.0/16]\n"
	mustOnce(t, host, backend, text)
	mustOnce(t, host, backend, text, "--masq-chain=IP-MASQ")
	want := renamed(chainText("10.5.0.0/16"), "IP-MASQ")
	if diff := cmp.Diff(want, natRules(t, host, "iptables-"+backend)); diff != "" {
		t.Errorf("the rules differ (-want +got):\n%s", diff)
	}
}

func establishedFlow(t *testing.T, backend string) {
	destination := netip.MustParseAddr("203.0.113.5")
	lab := netns.LabForTest(t, destination)
	mustOnce(t, lab.Node, backend, "nonMasqueradeCIDRs: [10.0.0.0/8]\n")

	var flow net.Conn
	if err := lab.Pod.Do(func() (err error) {
		flow, err = net.Dial("udp", lab.At(destination).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = flow.Close() }()
	sees := func(want netip.Addr) {
		t.Helper()
		eventually(t, 5*time.Second, func() error {
			seen, err := askAgain(flow)
			if err == nil && seen.Addr() != want {
				t.Errorf("the server saw %s, want %s", seen.Addr(), want)
			}
			return err
		})
	}
	sees(netns.NodeIPv4)
	mustOnce(t, lab.Node, backend, "nonMasqueradeCIDRs: [10.0.0.0/8, 203.0.113.0/24]\n")
	sees(netns.NodeIPv4)
	seen, err := lab.Pod.Ask(t.Context(), "udp", lab.At(destination))
	if err != nil {
		t.Fatal(err)
	}
	if seen.Addr() != netns.PodIPv4 {
		t.Errorf("of a new flow the server saw %s, want %s", seen.Addr(), netns.PodIPv4)
	}
}

// askAgain asks an Echo in the same flow as before.
func askAgain(flow net.Conn) (netip.AddrPort, error) {
	if _, err := flow.Write([]byte("?")); err != nil {
		return netip.AddrPort{}, err
	}
	if err := flow.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return netip.AddrPort{}, err
	}
	answer := make([]byte, 128)
	n, err := flow.Read(answer)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(string(answer[:n]))
}

// inboundClient: with an empty list a pod does not see who asks it from outside.
func inboundClient(t *testing.T, backend string) {
	lab := netns.LabForTest(t)
	mustOnce(t, lab.Node, backend, "nonMasqueradeCIDRs:\nmasqLinkLocal: true\n")
	pod := netip.AddrPortFrom(netns.PodIPv4, 7)
	echo, err := lab.Pod.Echo(pod)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = echo.Close() }()
	seen, err := lab.Server.Ask(t.Context(), "tcp", pod)
	if err != nil {
		t.Fatal(err)
	}
	if want := netip.MustParseAddr("10.244.1.1"); seen.Addr() != want {
		t.Errorf("the pod saw %s, want its node's %s", seen.Addr(), want)
	}
}

// holdLock takes an xtables lock until release is called.
func holdLock(t *testing.T, path string) (release func()) {
	t.Helper()
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { _ = lock.Close() }
}

func lockShared(t *testing.T, backend string) {
	host := netns.ForTest(t)
	const text = "nonMasqueradeCIDRs: [10.5.0.0/16]\n"
	release := holdLock(t, host.LockFile())
	got := once(t, host, backend, text)
	if got.exit != 1 || !strings.Contains(got.stderr, "xtables lock") {
		t.Errorf("exit %d, want 1; standard error: %s", got.exit, got.stderr)
	}
	if rules := natRules(t, host, "iptables-"+backend); len(rules) > 0 {
		t.Errorf("the nat table holds %q", rules)
	}
	release()
	mustOnce(t, host, backend, text)
	holds(t, host, backend, chainText("10.5.0.0/16"))
}

func lockNotMounted(t *testing.T, backend string) {
	host := netns.ForTest(t)
	defer holdLock(t, filepath.Join(t.TempDir(), "lock-of-another-root"))()
	mustOnce(t, host, backend, "nonMasqueradeCIDRs: [10.5.0.0/16]\n")
	holds(t, host, backend, chainText("10.5.0.0/16"))
}

// gkeDoubleJump: upstream leaves GKE's jump beside its own, ours takes its place.
func gkeDoubleJump(t *testing.T, backend string) {
	host := netns.ForTest(t)
	precondition := []string{
		"*nat", ":IP-MASQ - [0:0]",
		`-A POSTROUTING -m comment --comment "ip-masq: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom IP-MASQ chain" ` +
			`-m addrtype ! --dst-type LOCAL -j IP-MASQ`,
	}
	for _, cidr := range []string{
		"169.254.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24",
		"192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	} {
		precondition = append(precondition, "-A IP-MASQ -d "+cidr+" -j RETURN")
	}
	precondition = append(precondition, "-A IP-MASQ -j MASQUERADE", "COMMIT", "")
	if _, err := host.Feed(t.Context(), strings.Join(precondition, "\n"), "iptables-"+backend+"-restore", "-w", "5"); err != nil {
		t.Fatal(err)
	}
	mustOnce(t, host, backend, "nonMasqueradeCIDRs: [10.0.0.0/8]\n", "--masq-chain=IP-MASQ")
	holds(t, host, backend, renamed(chainText("10.0.0.0/8"), "IP-MASQ"))
}

// wrongKey: a kubelet projects no file when the ConfigMap has no key config.
func wrongKey(t *testing.T, backend string) {
	host := netns.ForTest(t)
	missing := filepath.Join(t.TempDir(), "ip-masq-agent")
	got := runAgent(t, host, "--once", "--config-path="+missing, "--iptables-backend="+backend)
	if got.exit != 0 || !strings.Contains(got.stderr, "the defaults are in force") {
		t.Errorf("exit %d, standard error %q", got.exit, got.stderr)
	}
	holds(t, host, backend, chainText("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
}
