package twonode_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/twonode"
)

//nolint:gochecknoglobals // set before any test runs
var place twonode.Place

func TestMain(m *testing.M) {
	if os.Getenv(twonode.RequireVariable) != "1" {
		os.Exit(m.Run()) //nolint:forbidigo // every test says why it is skipped
	}
	os.Exit(twonode.Run(func(p twonode.Place) int { //nolint:forbidigo // this is the tests' main
		place = p
		return m.Run()
	}))
}

const (
	root      = "../.."
	chart     = root + "/charts/ip-masq-guard"
	previous  = root + "/e2e/testdata/ip-masq-guard-0.1.0.tgz" // the chart before
	release   = "ip-masq-guard"
	namespace = "ip-masq-guard"
	configMap = "ip-masq-agent"
	masqChain = "IP-MASQ-AGENT"
)

// installLimit is what the whole way from nothing to an installed product may take.
const installLimit = 4 * time.Minute

// product is the cluster with the chart installed, the same for all tests. A test
// leaves it as it finds it, but for nodes that it adds.
type product struct {
	*twonode.Cluster
	images []string
	helm   string
}

//nolint:gochecknoglobals // one for all tests of this binary
var theProduct = sync.OnceValues(install)

// need returns the installed product.
func need(t *testing.T) *product {
	t.Helper()
	twonode.Require(t)
	p, err := theProduct()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.evidence())
		}
	})
	return p
}

// install brings everything up, and prints what it took.
func install() (*product, error) {
	ctx, cancel := context.WithTimeout(context.Background(), installLimit)
	defer cancel()
	begin := time.Now()
	cluster, images, err := twonode.Up(ctx, place.Folder, twonode.Sources{
		Build:  filepath.Join(root, "e2e", "cluster", "build.sh"),
		Root:   root,
		Images: os.Getenv("IPMASQ_IMAGES"),
		Bin:    os.Getenv("IPMASQ_BIN"),
	}, "node-1", "node-2")
	if err != nil {
		return nil, err
	}
	up := time.Now()
	out, err := exec.CommandContext(ctx, filepath.Join(root, "e2e", "helm", "build.sh"), "--print").Output()
	if err != nil {
		return nil, fmt.Errorf("looking for helm: %w", err)
	}
	p := &product{Cluster: cluster, images: images, helm: filepath.Join(strings.TrimSpace(string(out)), "helm")}
	if _, err := p.Kubectl(ctx, configMapOf(approved), "apply", "-f", "-"); err != nil {
		return nil, err
	}
	if err := p.run(ctx, "install", release, chart, "--namespace", namespace, "--create-namespace",
		"--set", "agent.ipv6=true", "--wait", "--timeout", "2m"); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, p.evidence())
	}
	fmt.Fprintf(os.Stderr, "two nodes Ready after %s, chart installed after %s\n",
		up.Sub(begin).Round(100*time.Millisecond), time.Since(begin).Round(100*time.Millisecond))
	return p, nil
}

// evidence is what the message of a failed test needs: the state of the pods, what they
// logged, and what the programs of the cluster did.
func (p *product) evidence() string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var b strings.Builder
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--field-selector", "type=Warning"},
		{"logs", "-n", namespace, "-l", "app.kubernetes.io/component=webhook", "--tail=20", "--prefix"},
		{"logs", "-n", "kube-system", "-l", "app.kubernetes.io/component=agent", "--tail=20", "--prefix"},
	} {
		out, err := p.Kubectl(ctx, "", args...)
		fmt.Fprintf(&b, "--- kubectl %s (%v)\n%s", strings.Join(args, " "), err, out)
	}
	return b.String() + p.Logs()
}

// run executes helm.
func (p *product) run(ctx context.Context, args ...string) error {
	command := exec.CommandContext(ctx, p.helm, args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+p.Admin, "HOME="+place.Folder)
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("running helm %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// helmSays executes helm and returns what it prints.
func (p *product) helmSays(t *testing.T, args ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), p.helm, args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+p.Admin, "HOME="+place.Folder)
	out, err := command.Output()
	if err != nil {
		t.Fatalf("helm %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

// kubectl runs a command that has to succeed, and returns its standard output.
func (p *product) kubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	out, err := p.Kubectl(ctx, stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// eventually fails the test when check does not succeed in time; it returns the time
// that it took.
func eventually(t *testing.T, limit time.Duration, check func(context.Context) error) time.Duration {
	t.Helper()
	begin := time.Now()
	if err := twonode.Wait(t.Context(), limit, check); err != nil {
		t.Fatal(err)
	}
	return time.Since(begin).Round(10 * time.Millisecond)
}

// approved spares nodes, pods and services of the cluster, and is healed often.
const approved = `nonMasqueradeCIDRs:
- 10.0.0.0/8
- 192.168.0.0/16
- fd00:10::/32
resyncInterval: 5s
`

// configMapOf is the manifest of the ConfigMap with this text.
func configMapOf(config string) string {
	return `apiVersion: v1
kind: ConfigMap
metadata: {name: ` + configMap + `, namespace: kube-system}
data:
  config: |
    ` + strings.TrimRight(strings.ReplaceAll(config, "\n", "\n    "), " ")
}

// natChain reads a node's rules of our chain, with their counters.
func natChain(ctx context.Context, n *twonode.Node, save string) ([]string, error) {
	out, err := n.Run(ctx, save, "-c", "-t", "nat")
	if err != nil {
		return nil, err
	}
	var rules []string
	for line := range strings.Lines(out) {
		if strings.Contains(line, "-A "+masqChain+" ") {
			rules = append(rules, strings.TrimSpace(line))
		}
	}
	return rules, nil
}

// holds is a check that a node spares these ranges and no others, in this order, and
// masquerades the rest.
func holds(n *twonode.Node, save string, cidrs ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		rules, err := natChain(ctx, n, save)
		if err != nil {
			return err
		}
		var got []string
		masquerade := false
		for _, rule := range rules {
			fields := strings.Fields(rule)
			for i, field := range fields {
				switch {
				case field == "-d" && strings.HasSuffix(rule, "-j RETURN"):
					got = append(got, fields[i+1])
				case field == "MASQUERADE":
					masquerade = true
				}
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(cidrs) || !masquerade {
			return fmt.Errorf("%s of %s spares %v, masquerades the rest: %t; want %v", save, n.Name, got, masquerade, cidrs)
		}
		return nil
	}
}
