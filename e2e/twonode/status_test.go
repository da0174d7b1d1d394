package twonode_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files") //nolint:gochecknoglobals // a flag of the test binary

// What no two runs have in common, but for the hash of the text that is stored.
var (
	podName  = regexp.MustCompile(`(/ip-masq-guard(?:-agent)?)(?:-[0-9a-f]{6,10})?-[0-9a-z]{5}\b`)
	revision = regexp.MustCompile(`(revision"?:? "?)[0-9a-f]{12,64}`)
	moment   = regexp.MustCompile(`20\d\d-\d\d-\d\dT[0-9:.]+Z`)

	// Other tests add nodes; what is odd is counted over all of them.
	addedNode  = regexp.MustCompile(`(?m)^node-[3-9]: .*\n|,\n    \{\n      "node": "node-[3-9]",(?s:.*?)\n    \}`)
	nodesCount = regexp.MustCompile(`(?m)(^|"nodes": )\d+( nodes, |,$)`)
)

// golden compares what a person has seen with testdata/NAME.txt.
func golden(t *testing.T, name, got string) {
	t.Helper()
	got = podName.ReplaceAllString(got, "$1-SOME")
	got = revision.ReplaceAllString(got, "${1}SOME")
	got = moment.ReplaceAllString(got, "SOME-TIME")
	got = addedNode.ReplaceAllString(got, "")
	got = nodesCount.ReplaceAllString(got, "${1}SOME${2}")
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got), -update rewrites it:\n%s", path, diff)
	}
}

// statusOf gives a function that runs kubectl masq status --live.
func (p *product) statusOf(t *testing.T) func(args ...string) (string, error) {
	t.Helper()
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, "kubectl-masq"), "./kubectl-masq")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the plugin: %v\n%s", err, out)
	}
	return func(args ...string) (string, error) {
		command := p.KubectlCommand(t.Context(), append([]string{"masq", "status", "--live"}, args...)...)
		command.Env = append(command.Env, "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := command.CombinedOutput()
		return string(out), err
	}
}

// kubectl masq status --live asks every pod by way of the API server.
func TestStatus(t *testing.T) {
	p := need(t)
	status := p.statusOf(t)
	p.restore(t)
	var said string
	eventually(t, followLimit, func(context.Context) (err error) {
		if said, err = status("--all"); err != nil {
			return fmt.Errorf("%w\n%s", err, said)
		}
		return nil
	})
	golden(t, "status-all", said)
	described, err := status("--all", "-o", "json")
	if err != nil {
		t.Errorf("as JSON: %v\n%s", err, described)
	}
	golden(t, "status-all-json", described)

	// A kubelet that is away does not tell its agent what is stored now.
	away := p.Nodes()[0]
	away.StopKubelet()
	t.Cleanup(func() { p.restore(t) })
	p.kubectl(t, configMapOf(strings.Replace(approved, "192.168.0.0/16", "192.168.0.0/17", 1)), "apply", "-f", "-")
	t.Cleanup(func() {
		if err := away.StartKubelet(); err != nil {
			t.Error(err)
		}
	})
	// The other nodes follow one by one.
	eventually(t, followLimit, func(context.Context) error {
		now, err := status()
		if err == nil || !strings.Contains(now, "\n"+away.Name+": another configuration than the stored one\n") || !strings.Contains(now, ", 1 odd\n") {
			return fmt.Errorf("with one kubelet away it does not fail (%t) for that node alone:\n%s", err != nil, now)
		}
		return nil
	})
}

// Agents that merge several keys, and that have the labels of their pods, hold what is
// stored, by a digest of their own.
func TestStatusOfSeveralKeys(t *testing.T) {
	p := need(t)
	status := p.statusOf(t)
	const values = "agent.ipv6=true,agent.maxUnavailable=100%"
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := p.run(ctx, "upgrade", release, chart, "--reset-values", "--namespace", namespace, "--set", values, "--wait", "--timeout", "2m"); err != nil {
			t.Error(err)
		}
		p.restore(t)
	})
	p.upgrade(t, "--set", values+",configMap.directory=true,agent.nodeLabels=pod")
	several := `apiVersion: v1
kind: ConfigMap
metadata: {name: ip-masq-agent, namespace: kube-system}
data:
  ip-masq-agent: |
    nonMasqueradeCIDRs: [10.0.0.0/8, "fd00:10::/32"]
    nodeOverrides:
    - matchLabels: {app.kubernetes.io/component: agent}
      masqueradeCIDRs: [10.200.0.0/16]
  ip-masq-agent-reconciled: |
    nonMasqueradeCIDRs: [192.168.0.0/16]
`
	// A replica of before the upgrade goes on for its last ten seconds where the API
	// server still has a connection to it, and wants the key config.
	eventually(t, time.Minute, func(ctx context.Context) error {
		_, err := p.Kubectl(ctx, several, "apply", "-f", "-")
		return err
	})
	var said string
	eventually(t, 2*followLimit, func(context.Context) (err error) {
		if said, err = status("--all"); err != nil {
			return fmt.Errorf("%w\n%s", err, said)
		}
		return nil
	})
	golden(t, "status-several-keys", said)
}
