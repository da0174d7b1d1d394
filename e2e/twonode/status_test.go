package twonode_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// kubectl masq status --live asks every pod by way of the API server.
func TestStatus(t *testing.T) {
	p := need(t)
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, "kubectl-masq"), "./kubectl-masq")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the plugin: %v\n%s", err, out)
	}
	status := func(args ...string) (string, error) {
		command := p.KubectlCommand(t.Context(), append([]string{"masq", "status", "--live"}, args...)...)
		command.Env = append(command.Env, "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := command.CombinedOutput()
		return string(out), err
	}
	p.restore(t)
	var said string
	eventually(t, followLimit, func(context.Context) (err error) {
		if said, err = status("--all"); err != nil {
			return fmt.Errorf("%w\n%s", err, said)
		}
		return nil
	})
	for _, want := range []string{"stored configuration ", ": approved\n", "webhook " + namespace + "/", " nodes, 0 odd\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
	for _, n := range p.Nodes() {
		if !strings.Contains(said, n.Name+": in-force, file ") {
			t.Errorf("nothing of %s:\n%s", n.Name, said)
		}
	}

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
