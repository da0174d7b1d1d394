package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// What tests leave behind is removed here, as os.Exit runs no deferred calls.
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		theBinary.remove()
		os.Exit(code) //nolint:forbidigo // goleak leaves the exit to its cleanup
	}))
}

// binary is the agent as it is released, built when a test first asks.
type binary struct {
	once sync.Once
	dir  string
	err  error
	log  []byte
}

//nolint:gochecknoglobals // built once for all tests
var theBinary binary

// agentBinary is the path of the agent, built as `make build` does.
func agentBinary(tb testing.TB) string {
	tb.Helper()
	theBinary.once.Do(theBinary.build)
	if theBinary.err != nil {
		tb.Fatalf("building the agent: %v\n%s", theBinary.err, theBinary.log)
	}
	return theBinary.path()
}

func (b *binary) path() string { return filepath.Join(b.dir, "agent") }

func (b *binary) build() {
	if b.dir, b.err = os.MkdirTemp("", "ip-masq-guard-agent-"); b.err != nil {
		return
	}
	command := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=v9.8.7-test", "-o", b.path(), ".")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	b.log, b.err = command.CombinedOutput()
}

func (b *binary) remove() {
	if b.dir != "" {
		_ = os.RemoveAll(b.dir)
	}
}

// call runs the agent's run in this process.
func call(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = run(t.Context(), args, &out, &errs)
	return out.String(), errs.String(), err
}

func TestVersion(t *testing.T) {
	out, err := exec.Command(agentBinary(t), "--version").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(out), "ip-masq-guard agent v9.8.7-test\n"; got != want {
		t.Errorf("--version prints %q, want %q", got, want)
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	stdout, stderr, err := call(t, "--help")
	if err != nil || stderr != "" {
		t.Fatalf("--help: error %v, standard error %q", err, stderr)
	}
	for _, flag := range []string{
		"--masq-chain name ", "--nomasq-all-reserved-ranges ", "--enable-ipv6 ", "--random-fully ", "--to-ports ports ",
		"--config-path file ", "--state-dir directory ", "--once ", "--dry-run ", "--iptables-backend string ",
		"--metrics-bind-address address ", "--log-level string ", "--version ", "--help ",
	} {
		if !strings.Contains(stdout, flag) {
			t.Errorf("--help does not tell %s:\n%s", flag, stdout)
		}
	}
	if strings.Contains(stdout, "logtostderr") {
		t.Error("--help tells flags that do nothing")
	}
}
