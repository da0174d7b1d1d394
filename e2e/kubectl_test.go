package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// kubectl is the real one, as one user has it: nothing of this machine's own
// configuration reaches it.
type kubectl struct {
	binary     string
	kubeconfig string
	home       string // with the cache of what the API server offers
	env        []string
	as         string // another user; empty: the administrator
}

// kubectl is the administrator's.
func (c *controlPlane) kubectl() kubectl {
	return kubectl{
		binary:     filepath.Join(c.binaries, "kubectl"),
		kubeconfig: c.admin,
		home:       filepath.Join(c.dir, "home"),
	}
}

// output is what a person sees of a command.
type output struct {
	stdout, stderr string
	exit           int
}

// String is for messages of failed tests.
func (o output) String() string {
	return fmt.Sprintf("exit %d\n--- stdout\n%s--- stderr\n%s", o.exit, o.stdout, o.stderr)
}

// kubectlLimit bounds one command; the API server's own limits are shorter.
const kubectlLimit = 30 * time.Second

// run executes one command. A command that could not be run, or took too long, has
// the exit code -1.
func (k kubectl) run(ctx context.Context, stdin string, args ...string) output {
	ctx, cancel := context.WithTimeout(ctx, kubectlLimit)
	defer cancel()
	if k.as != "" {
		args = append([]string{"--as=" + k.as}, args...)
	}
	cmd := exec.CommandContext(ctx, k.binary, args...)
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"KUBECONFIG=" + k.kubeconfig,
		"HOME=" + k.home,
		"TMPDIR=" + k.home, // for the files of kubectl edit and diff
		"LC_ALL=C",
	}, k.env...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second // an editor may keep the pipes open

	err := os.MkdirAll(k.home, 0o700)
	if err == nil {
		err = cmd.Run()
	}
	got := output{stdout: stdout.String(), stderr: stderr.String()}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got.exit = exit.ExitCode()
	} else if err != nil {
		got.exit = -1
		got.stderr += err.Error()
	}
	return got
}

// must runs a command that has to succeed; cleanups may use it too.
func (k kubectl) must(t *testing.T, stdin string, args ...string) output {
	t.Helper()
	got := k.run(context.WithoutCancel(t.Context()), stdin, args...)
	if got.exit != 0 {
		t.Fatalf("kubectl %s: %s", strings.Join(args, " "), got)
	}
	return got
}

// stored reads the ConfigMap that agents read, or the one of another namespace, from
// the API server; nil when there is none.
func (k kubectl) stored(t *testing.T, namespace string) *corev1.ConfigMap {
	t.Helper()
	got := k.must(t, "", "get", "configmap", configMap, "-n", namespace, "-o", "json", "--ignore-not-found")
	if got.stdout == "" {
		return nil
	}
	var stored corev1.ConfigMap
	if err := json.Unmarshal([]byte(got.stdout), &stored); err != nil {
		t.Fatalf("reading ConfigMap of %s: %v", namespace, err)
	}
	return &stored
}
