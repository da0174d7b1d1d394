package twonode_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// These tests change or end the installation, so they come last.

// refuses is a check that a bad write is refused by a decision.
func (p *product) refuses(ctx context.Context) error {
	_, err := p.Kubectl(ctx, configMapOf(strings.Replace(approved, "10.0.0.0/8", "10.0.0.0/33", 1)), "apply", "--dry-run=server", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), "[config-loads]") {
		return fmt.Errorf("a bad write met: %w", err)
	}
	return nil
}

// An upgrade from the release before and the rollback to it keep values, certificates
// and rules, and fail no write, though they replace every pod. The programs of the
// release before are stood in for by these: it is the charts that differ.
func TestUpgradeAndRollback(t *testing.T) {
	p := need(t)
	n := p.Nodes()[0]
	p.must(t, "uninstall", release, "--namespace", namespace, "--wait", "--timeout", "2m")
	const before, now = "v0.1.0", "v0.2.0"
	for _, n := range p.Nodes() {
		for _, program := range []string{"webhook", "agent"} {
			name := "ghcr.io/ip-masq-guard/" + program + ":"
			if err := n.NameImage(t.Context(), name+now, name+before); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.must(t, "install", release, previous, "--namespace", namespace,
		"--set", "agent.ipv6=true,agent.maxUnavailable=100%,webhook.logLevel=debug", "--wait", "--timeout", "2m")
	rules := p.counted(t, n)
	values := func() string {
		return p.helmSays(t, "get", "values", release, "--namespace", namespace, "--output=json")
	}
	wanted := values()
	client := p.client(t)
	certificates := p.certificates(t, client)

	// Texts that mean the same: agents have no reason to write rules.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	count, begin := &tally{}, time.Now()
	var writing sync.WaitGroup
	writing.Go(func() { count.write(ctx, client, begin, approved, approved+"# again\n") })
	for _, step := range []struct {
		name    string
		args    []string
		version string
	}{
		{"upgrade", []string{"upgrade", release, chart, "--reset-then-reuse-values"}, now},
		{"rollback", []string{"rollback", release, "1"}, before},
		{"upgrade after the rollback", []string{"upgrade", release, chart, "--reset-then-reuse-values"}, now},
	} {
		start := time.Now()
		p.must(t, append(step.args, "--namespace", namespace, "--wait", "--timeout", "2m")...)
		t.Logf("%s took %s", step.name, time.Since(start).Round(100*time.Millisecond))
		if err := p.refuses(t.Context()); err != nil {
			t.Errorf("after the %s %v", step.name, err)
		}
		if got := values(); got != wanted {
			t.Errorf("after the %s the values are %s, want %s", step.name, got, wanted)
		}
		after := p.certificates(t, client)
		if after.leaf != certificates.leaf || after.authority != certificates.authority {
			t.Errorf("after the %s: %s, before: %s", step.name, after, certificates)
		}
		eventually(t, time.Minute, func(ctx context.Context) error { return p.runs(ctx, step.version) })
		notRewritten(t, n, rules)
	}
	cancel()
	writing.Wait()
	count.report(t, time.Since(begin))
	if len(count.failed) > 0 {
		t.Errorf("valid writes failed: %v", count.failed)
	}
	p.restore(t)
}

// runs is an error as long as a pod of ours is of another version.
func (p *product) runs(ctx context.Context, version string) error {
	out, err := p.Kubectl(ctx, "", "get", "pods", "-A", "-l", "app.kubernetes.io/instance="+release+",app.kubernetes.io/component in (agent,webhook)",
		"-o", `jsonpath={range .items[*]}{.spec.containers[0].image}{"\n"}{end}`)
	if err != nil {
		return err
	}
	images := strings.Fields(out)
	if want := len(p.Nodes()) + 2; len(images) != want {
		return fmt.Errorf("%d pods run, want %d", len(images), want)
	}
	for _, image := range images {
		if !strings.HasSuffix(image, ":"+version) {
			return fmt.Errorf("a pod runs %s, want %s", image, version)
		}
	}
	return nil
}

// What a node of GKE comes with, in the order of iptables-restore.
const gkeRules = `*nat
:IP-MASQ - [0:0]
-A POSTROUTING -m comment --comment "ip-masq: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom IP-MASQ chain" -m addrtype ! --dst-type LOCAL -j IP-MASQ
-A IP-MASQ -d 169.254.0.0/16 -m comment --comment "ip-masq: local traffic is not subject to MASQUERADE" -j RETURN
-A IP-MASQ -d 10.0.0.0/8 -m comment --comment "ip-masq: RFC 1918 reserved range is not subject to MASQUERADE" -j RETURN
-A IP-MASQ -d 240.0.0.0/4 -m comment --comment "ip-masq: RFC 5735 reserved range is not subject to MASQUERADE" -j RETURN
-A IP-MASQ -m comment --comment "ip-masq: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE
COMMIT
`

// With the preset for GKE the agents take over the chain that its nodes come with:
// one jump leads to it, and what it holds is what the ConfigMap says.
func TestPresetGKE(t *testing.T) {
	p := need(t)
	n := p.Nodes()[0]
	command := n.Command(t.Context(), "iptables-restore", "--noflush")
	command.Stdin = strings.NewReader(gkeRules)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	p.upgrade(t, "--values", chart+"/values-gke.yaml", "--set", "agent.ipv6=true,agent.maxUnavailable=100%")
	eventually(t, time.Minute, func(ctx context.Context) error {
		nat, err := n.Run(ctx, "iptables-save", "-t", "nat")
		if err != nil {
			return err
		}
		var jumps, rules []string
		for line := range strings.Lines(nat) {
			switch {
			case strings.HasSuffix(line, "-j IP-MASQ\n"):
				jumps = append(jumps, line)
			case strings.HasPrefix(line, "-A IP-MASQ "):
				rules = append(rules, line)
			}
		}
		all := strings.Join(rules, "")
		if len(jumps) != 1 || len(rules) != 4 || !strings.Contains(all, "-d 192.168.0.0/16 ") || strings.Contains(all, "240.0.0.0/4") {
			return fmt.Errorf("jumps to the chain:\n%sand its rules:\n%s", strings.Join(jumps, ""), all)
		}
		return nil
	})
	if err := p.refuses(t.Context()); err != nil {
		t.Error(err)
	}
}

// With the preset for Cilium no agent of ours is on any node, and the webhook approves
// what Cilium makes of a configuration.
func TestPresetCilium(t *testing.T) {
	p := need(t)
	p.upgrade(t, "--values", chart+"/values-cilium.yaml")
	eventually(t, time.Minute, func(ctx context.Context) error {
		out, err := p.Kubectl(ctx, "", "get", "daemonsets,pods", "-A", "-l", "app.kubernetes.io/component=agent", "-o", "name")
		if err == nil && out != "" {
			err = fmt.Errorf("there still is %s", out)
		}
		return err
	})
	cilium := `nonMasqueradeCIDRs:
- 10.0.0.1/8
- fd00:10::/32
masqLinkLocal: true
masqLinkLocalIPv6: true
resyncInterval: 5min
`
	// A replica of before the upgrade goes on for its last ten seconds where the API
	// server still has a connection to it.
	var out string
	eventually(t, 20*time.Second, func(ctx context.Context) (err error) {
		if out, err = p.combined(ctx, configMapOf(cilium), "apply", "-f", "-"); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	for _, want := range []string{`"10.0.0.1/8" has host bits set, which Cilium cuts off`, `"resyncInterval" is no key of Cilium's`} {
		if !strings.Contains(out, want) {
			t.Errorf("no warning that %s:\n%s", want, out)
		}
	}
	if err := p.refuses(t.Context()); err != nil {
		t.Error(err)
	}
	if err := p.run(t.Context(), "test", release, "--namespace", namespace); err != nil {
		t.Error(err)
	}
	if _, err := p.Kubectl(t.Context(), configMapOf("masqLinkLocal: true\n"), "apply", "--dry-run=server", "-f", "-"); err == nil || !strings.Contains(err.Error(), "[list-not-empty]") {
		t.Errorf("a configuration without a list met: %v", err)
	}
}

// combined runs kubectl and returns all that it prints: warnings are on standard error.
func (p *product) combined(ctx context.Context, stdin string, args ...string) (string, error) {
	command := p.KubectlCommand(ctx, args...)
	command.Stdin = strings.NewReader(stdin)
	out, err := command.CombinedOutput()
	return string(out), err
}

// must executes helm, which has to succeed.
func (p *product) must(t *testing.T, args ...string) {
	t.Helper()
	if err := p.run(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
}

func (p *product) upgrade(t *testing.T, args ...string) {
	t.Helper()
	p.must(t, slices.Concat([]string{"upgrade", release, chart, "--reset-values", "--namespace", namespace}, args,
		[]string{"--wait", "--timeout", "2m"})...)
}

// After an uninstall nothing of ours is left in the API, and the ConfigMap may be
// written by anybody; rules stay on nodes until they are told otherwise.
func TestUninstall(t *testing.T) {
	p := need(t)
	p.upgrade(t, "--set", "agent.ipv6=true,agent.maxUnavailable=100%")
	p.restore(t)
	p.must(t, "uninstall", release, "--namespace", namespace, "--wait", "--timeout", "2m")
	p.nothingLeft(t)
	p.kubectl(t, configMapOf("anything goes"), "apply", "-f", "-")
	for _, n := range p.Nodes() {
		if err := holds(n, save4, approved4...)(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// When asked to, an uninstall takes the rules and the state from every node as well, and
// leaves nothing of what does that. It is the command that docs/operations.md tells, which
// does not wait for the agents.
func TestUninstallCleansNodes(t *testing.T) {
	p := need(t)
	p.kubectl(t, configMapOf(approved), "apply", "-f", "-")
	p.must(t, "install", release, chart, "--namespace", namespace, "--set", "agent.ipv6=true,agent.cleanupOnUninstall=true", "--wait", "--timeout", "2m")
	const state = "/var/lib/ip-masq-guard"
	for _, n := range p.Nodes() {
		eventually(t, time.Minute, holds(n, save4, approved4...))
		if out, err := n.Run(t.Context(), "ls", state); err != nil || out == "" {
			t.Errorf("%s has no state to remove: %q (%v)", n.Name, out, err)
		}
	}
	begin := time.Now()
	p.must(t, "uninstall", release, "--namespace", namespace)
	t.Logf("uninstalled after %s", time.Since(begin).Round(100*time.Millisecond))
	for _, n := range p.Nodes() {
		for _, save := range []string{"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"} {
			if nat, err := n.Run(t.Context(), save, "-t", "nat"); err != nil || strings.Contains(nat, masqChain) {
				t.Errorf("%s of %s (%v):\n%s", save, n.Name, err, nat)
			}
		}
		if out, err := n.Run(t.Context(), "ls", state); err != nil || out != "" {
			t.Errorf("the state of %s: %q (%v)", n.Name, out, err)
		}
	}
	p.nothingLeft(t)
}

// What the README says of the installation, and docs/operations.md of the upgrade and the
// end, is done word for word.
func TestDocumentedCommands(t *testing.T) {
	p := need(t)
	p.kubectl(t, configMapOf("nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\nresyncInterval: 5s\n"), "apply", "-f", "-")
	p.documented(t, "README.md", "## Install", 0)
	for _, n := range p.Nodes() {
		eventually(t, time.Minute, holds(n, save4, approved4...))
	}
	if err := p.refuses(t.Context()); err != nil {
		t.Error(err)
	}
	p.documented(t, "docs/operations.md", "### Upgrade", 0)
	p.documented(t, "docs/operations.md", "### Uninstall", 1)
	for _, n := range p.Nodes() {
		if nat, err := n.Run(t.Context(), save4, "-t", "nat"); err != nil || strings.Contains(nat, masqChain) {
			t.Errorf("%s (%v):\n%s", n.Name, err, nat)
		}
	}
	p.nothingLeft(t)
}

// documented runs the commands of a section of a document, in its code block of this
// number, as somebody would in a checkout.
func (p *product) documented(t *testing.T, file, heading string, block int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n"+heading+"\n")
	if !found {
		t.Fatalf("%s has no %s", file, heading)
	}
	blocks := strings.Split(section, "\n```")
	if len(blocks) < 2*block+2 || !strings.HasPrefix(blocks[2*block+1], "\nhelm ") {
		t.Fatalf("%s, %s: code block %d is not of helm", file, heading, block)
	}
	commands := blocks[2*block+1]
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "sh", "-eux", "-c", commands)
	shell.Dir = root
	shell.Env = append(os.Environ(), "KUBECONFIG="+p.Admin, "HOME="+place.Folder, "PATH="+filepath.Dir(p.helm)+":"+os.Getenv("PATH"))
	if out, err := shell.CombinedOutput(); err != nil {
		t.Fatalf("%s, %s: %v\n%s", file, heading, err, out)
	}
}

// nothingLeft fails the test for what the API has of ours after an uninstall.
func (p *product) nothingLeft(t *testing.T) {
	t.Helper()
	kinds := strings.Fields(p.kubectl(t, "", "api-resources", "--verbs=list", "-o", "name"))
	kinds = slices.DeleteFunc(kinds, func(kind string) bool { return strings.HasPrefix(kind, "events") })
	eventually(t, time.Minute, func(ctx context.Context) error {
		out, err := p.Kubectl(ctx, "", "get", strings.Join(kinds, ","), "-A", "-l", "app.kubernetes.io/part-of=ip-masq-guard", "-o", "name", "--ignore-not-found")
		if err == nil && out != "" {
			err = fmt.Errorf("what is left:\n%s", out)
		}
		return err
	})
	// Nobody labels these: they are found by the name.
	for _, kind := range []string{"validatingwebhookconfigurations", "clusterroles", "clusterrolebindings"} {
		if out := p.kubectl(t, "", "get", kind, "-o", "name"); strings.Contains(out, release) {
			t.Errorf("what is left:\n%s", out)
		}
	}
}
