package twonode_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
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

// An upgrade and a rollback leave the gate shut and the rules in place, though they
// replace every pod.
func TestUpgradeAndRollback(t *testing.T) {
	p := need(t)
	n := p.Nodes()[0]
	before := p.counted(t, n)
	for _, step := range []struct {
		name string
		args []string
		want string // the agents' log level
	}{
		{"upgrade", []string{"upgrade", release, chart, "--reuse-values", "--set", "agent.logLevel=debug,webhook.logLevel=debug,agent.maxUnavailable=100%"}, "debug"},
		{"rollback", []string{"rollback", release, "1"}, "info"},
	} {
		begin := time.Now()
		if err := p.run(t.Context(), append(step.args, "--namespace", namespace, "--wait", "--timeout", "2m")...); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s took %s", step.name, time.Since(begin).Round(100*time.Millisecond))
		if err := p.refuses(t.Context()); err != nil {
			t.Errorf("after the %s %v", step.name, err)
		}
		if args := p.kubectl(t, "", "get", "pods", "-n", "kube-system", "-l", "app.kubernetes.io/component=agent",
			"-o", "jsonpath={.items[*].spec.containers[0].args}"); strings.Count(args, "--log-level="+step.want) != len(p.Nodes()) {
			t.Errorf("after the %s agents run with %s", step.name, args)
		}
		notRewritten(t, n, before)
	}
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
	out, err := p.combined(t.Context(), configMapOf(cilium), "apply", "-f", "-")
	if err != nil {
		t.Fatal(err)
	}
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

func (p *product) upgrade(t *testing.T, args ...string) {
	t.Helper()
	if err := p.run(t.Context(), slices.Concat([]string{"upgrade", release, chart, "--reset-values", "--namespace", namespace}, args,
		[]string{"--wait", "--timeout", "2m"})...); err != nil {
		t.Fatal(err)
	}
}

// After an uninstall nothing of ours is left in the API, and the ConfigMap may be
// written by anybody; rules stay on nodes until they are told otherwise.
func TestUninstall(t *testing.T) {
	p := need(t)
	p.upgrade(t, "--set", "agent.ipv6=true,agent.maxUnavailable=100%")
	p.restore(t)
	if err := p.run(t.Context(), "uninstall", release, "--namespace", namespace, "--wait", "--timeout", "2m"); err != nil {
		t.Fatal(err)
	}
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
	p.kubectl(t, configMapOf("anything goes"), "apply", "-f", "-")
	for _, n := range p.Nodes() {
		if err := holds(n, save4, approved4...)(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
