package e2e

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// completionLimit bounds the wait for what a shell shows.
const completionLimit = 30 * time.Second

// completionEnv is that of somebody who has kubectl, the plugin and its completion on the
// PATH, as the README has it.
func completionEnv(t *testing.T) []string {
	t.Helper()
	wrapper, err := filepath.Abs("../kubectl-masq/kubectl_complete-masq")
	if err != nil {
		t.Fatal(err)
	}
	path := []string{controlPlaneBinaries(t), filepath.Dir(program(t, "kubectl-masq")), filepath.Dir(wrapper), os.Getenv("PATH")}
	return []string{"PATH=" + strings.Join(path, string(os.PathListSeparator)), "HOME=" + t.TempDir(), "KUBECONFIG=/dev/null", "LC_ALL=C", "TERM=vt100", "COLUMNS=200"}
}

// needCommand is the path of a command that `make deps` installs.
func needCommand(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("REQUIRE_CLUSTER") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return path
}

// TestKubectlCompletes asks kubectl as the script of each shell does.
func TestKubectlCompletes(t *testing.T) {
	env := completionEnv(t)
	for _, tt := range []struct {
		name string
		args []string
		want []string // the last is the directive: 4 no files, 16 directories
	}{
		{name: "commands", args: []string{"ch"}, want: []string{"check\tTell what the webhook would tell of manifests", ":4"}},
		{name: "commands below", args: []string{"new", ""}, want: []string{"rule\tWrite a rule with its tests", ":4"}},
		{name: "flags", args: []string{"explain", "--node"}, want: []string{
			"--node-labels\t`labels` of the node that is asked about, for nodeOverrides: pool=edge,zone=a; empty: it has none",
			"--node\t`name` of the node that is asked about; with --live, which has its labels",
			"--node-cidrs\t`CIDRs` of the cluster's nodes, with commas between", ":4",
		}},
		{name: "formats", args: []string{"check", "-o", ""}, want: []string{"text", "json", "sarif", "github", "junit", ":4"}},
		{name: "agents", args: []string{"portability", "--agents", ""}, want: []string{"upstream", "gke", "azure", "cilium", ":4"}},
		{name: "schemas", args: []string{"schema", "c"}, want: []string{"config\tthe configuration, the value of data.config in the ConfigMap, for editors", ":4"}},
		{name: "rules", args: []string{"eval", "resync"}, want: []string{"resync-bounds\tThe resync interval is within bounds", ":4"}},
		{name: "directories", args: []string{"test", ""}, want: []string{":16"}},
		{name: "files", args: []string{"check", "-f", ""}, want: []string{":0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kubectl := exec.CommandContext(t.Context(), filepath.Join(controlPlaneBinaries(t), "kubectl"), append([]string{"__complete", "masq"}, tt.args...)...)
			kubectl.Env = env
			out, err := kubectl.Output()
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if diff := cmp.Diff(tt.want, lines); diff != "" {
				t.Errorf("completions differ (-want +got):\n%s", diff)
			}
		})
	}
}

// terminal is a shell on a terminal of its own.
type terminal struct {
	input io.Writer
	mu    sync.Mutex
	shown bytes.Buffer
}

// Write takes what the terminal shows.
func (s *terminal) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.Write(p)
}

// escapes steer terminals.
var escapes = regexp.MustCompile("\x1b(\\[[0-9;?]*[A-Za-z]|[=>]|\\][^\a]*\a|\\([A-Z])|[\a\r]|.\b")

func (s *terminal) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.ReplaceAll(escapes.ReplaceAllString(s.shown.String(), ""), "\x00", "") // zsh pads with it
}

// types sends a text, and waits until the terminal shows another one.
func (s *terminal) types(t *testing.T, text, want string) {
	t.Helper()
	before := len(s.text())
	if _, err := io.WriteString(s.input, text); err != nil {
		t.Fatal(err)
	}
	shown := func() string { now := s.text(); return now[min(before, len(now)):] }
	for deadline := time.Now().Add(completionLimit); !strings.Contains(shown(), want); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q typed, and no %q shown but %q", text, want, shown())
		}
	}
}

// openTerminal starts a shell on a terminal, which script(1) makes.
func openTerminal(t *testing.T, env []string, shell string) *terminal {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*completionLimit)
	command := exec.CommandContext(ctx, needCommand(t, "script"), "-qec", shell, "/dev/null")
	command.Env = env
	s := &terminal{}
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.input, command.Stdout, command.Stderr = input, s, s
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = io.WriteString(input, "\x03\nexit\n")
		_ = input.Close()
		_ = command.Wait() // the shell's last command was interrupted
		cancel()
	})
	return s
}

// TestShellsComplete presses the key TAB in real shells, with the scripts that kubectl and
// the plugin print for them.
func TestShellsComplete(t *testing.T) {
	env := completionEnv(t)
	const tab, kill = "\t", "\x15"
	for _, tt := range []struct{ name, shell, setup string }{
		{
			name: "bash", shell: "bash --norc --noprofile -i",
			setup: "PS1='$ '; source /usr/share/bash-completion/bash_completion; source <(kubectl completion bash); source <(kubectl-masq completion bash)",
		},
		{
			name: "zsh", shell: "zsh -f -i",
			setup: "PS1='$ '; autoload -Uz compinit; compinit -u -D; source <(kubectl completion zsh); source <(kubectl-masq completion zsh)",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			needCommand(t, tt.name)
			s := openTerminal(t, env, tt.shell)
			s.types(t, tt.setup+"; echo set''up\n", "setup\n")
			s.types(t, "kubectl masq ch"+tab, "kubectl masq check ")
			s.types(t, kill+"kubectl masq check -o js"+tab, "-o json ")
			s.types(t, kill+"kubectl masq explain --node-l"+tab, "--node-labels")
			s.types(t, kill+"kubectl-masq port"+tab, "kubectl-masq portability ")
		})
	}
	t.Run("fish", func(t *testing.T) {
		for line, want := range map[string]string{
			"kubectl masq ch":         "check\tTell what the webhook would tell of manifests\n",
			"kubectl-masq schema con": "config\tthe configuration, the value of data.config in the ConfigMap, for editors\n",
		} {
			name, _, _ := strings.Cut(line, " ")
			fish := exec.CommandContext(t.Context(), needCommand(t, "fish"), "--no-config", "-c", name+" completion fish | source; complete -C '"+line+"'")
			fish.Env = env
			out, err := fish.CombinedOutput()
			if err != nil || string(out) != want {
				t.Errorf("%s: %v: %q, want %q", line, err, out, want)
			}
		}
	})
}
