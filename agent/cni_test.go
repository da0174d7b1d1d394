package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// cniWith is a CNI configuration with this list.
func cniWith(list string) string {
	return "{\r\n  \"type\": \"win-bridge\",\r\n  \"policies\": [\r\n    {\"Name\": \"EndpointPolicy\", \"Value\": " +
		"{\"Type\": \"OutBoundNAT\", \"ExceptionList\": [" + list + "]}}\r\n  ]\r\n}\r\n"
}

// cniWorld is a Windows node, as far as the agent sees of one: files.
type cniWorld struct {
	dir    string
	log    *logBuffer
	keeper *cniKeeper
}

func newCNIWorld(t *testing.T) *cniWorld {
	t.Helper()
	w := &cniWorld{dir: t.TempDir(), log: &logBuffer{}}
	w.write(t, "cni.conf", cniWith(`"10.96.0.0/12"`))
	w.restart()
	return w
}

// restart forgets what is in memory.
func (w *cniWorld) restart() {
	opts := cniOptions{
		inputs: inputs{path: w.path("ip-masq-agent"), labels: w.path("labels")}, stateDir: w.path("state"), cniPath: w.path("cni.conf"),
	}
	opts.config.IPv6 = true
	w.keeper = newCNIKeeper(opts, slog.New(slog.NewJSONHandler(w.log, nil)))
}

func (w *cniWorld) path(name string) string { return filepath.Join(w.dir, name) }

func (w *cniWorld) write(t *testing.T, name, text string) {
	t.Helper()
	must(t, os.WriteFile(w.path(name), []byte(text), 0o600))
}

// holds checks the list of the CNI configuration, and that all else is as it was.
func (w *cniWorld) holds(t *testing.T, when, list string) {
	t.Helper()
	text, err := os.ReadFile(w.path("cni.conf"))
	must(t, err)
	if diff := cmp.Diff(cniWith(list), string(text)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

func TestCNIFollowsTheFile(t *testing.T) {
	const minute = time.Minute
	w := newCNIWorld(t)
	pass := func(when, list string, next time.Duration) {
		t.Helper()
		if got := w.keeper.pass(t.Context()); got != next {
			t.Errorf("%s: the next pass comes in %s, want %s", when, got, next)
		}
		w.holds(t, when, list)
	}
	pass("no file", `"169.254.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"`, minute)

	w.write(t, "ip-masq-agent", "nonMasqueradeCIDRs: [10.1.0.0/16, 'fd00::/8']\nresyncInterval: 30s\nnodeOverrides:\n"+
		"- matchLabels: {os: windows}\n  nonMasqueradeCIDRs: [10.7.0.0/16]\n")
	pass("a file", `"169.254.0.0/16", "10.1.0.0/16"`, 30*time.Second)

	w.write(t, "labels", "os=\"windows\"\n")
	pass("labels of an override", `"169.254.0.0/16", "10.7.0.0/16"`, 30*time.Second)

	w.write(t, "cni.conf", cniWith(`"0.0.0.0/0"`))
	pass("drift", `"169.254.0.0/16", "10.7.0.0/16"`, 30*time.Second)

	w.write(t, "ip-masq-agent", "nonMasqueradeCIDRs: [10.2.0.1/16]\n")
	pass("a bad file", `"169.254.0.0/16", "10.7.0.0/16"`, 30*time.Second)
	w.write(t, "cni.conf", cniWith(``))
	pass("drift under a bad file", `"169.254.0.0/16", "10.7.0.0/16"`, 30*time.Second)

	w.restart()
	pass("a bad file after a restart", `"169.254.0.0/16", "10.7.0.0/16"`, 30*time.Second)

	must(t, os.Remove(w.path("cni.conf")))
	for _, next := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		if got := w.keeper.pass(t.Context()); got != next {
			t.Errorf("no CNI configuration: the next pass comes in %s, want %s", got, next)
		}
	}
	w.write(t, "cni.conf", cniWith(``))
	pass("a new CNI configuration", `"169.254.0.0/16", "10.7.0.0/16"`, 30*time.Second)

	must(t, os.Remove(w.path("ip-masq-agent")))
	pass("the file is gone", `"169.254.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"`, minute)

	if diff := cmp.Diff([]string{
		"no file of node labels, so no override is in force",
		"no configuration file, so the defaults are in force", "configuration applied",
		"configuration applied", "configuration applied",
		"drift healed: something else had changed the CNI configuration",
		"problem in the configuration file", "configuration file refused",
		"drift healed: something else had changed the CNI configuration",
		"problem in the configuration file", "configuration file refused", "configuration applied",
		"CNI configuration does not hold the list",
		"drift healed: something else had changed the CNI configuration",
		"no configuration file, so the defaults are in force", "configuration applied",
	}, w.log.messages(t)); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// TestCNIHealsOnTheTick: nobody tells of a change of the CNI configuration.
func TestCNIHealsOnTheTick(t *testing.T) {
	w := newCNIWorld(t)
	w.write(t, "ip-masq-agent", "nonMasqueradeCIDRs: [10.1.0.0/16]\nresyncInterval: 5s\n")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { w.keeper.run(ctx, nil) })
		time.Sleep(time.Second)
		w.holds(t, "the first pass", `"169.254.0.0/16", "10.1.0.0/16"`)
		w.write(t, "cni.conf", cniWith(`"0.0.0.0/0"`))
		time.Sleep(3 * time.Second)
		w.holds(t, "before the tick", `"0.0.0.0/0"`)
		time.Sleep(2 * time.Second)
		w.holds(t, "after the tick", `"169.254.0.0/16", "10.1.0.0/16"`)
		cancel()
		running.Wait()
	})
}

// TestCNIFollowsAVolume: with the real watcher, as a ConfigMap volume changes.
func TestCNIFollowsAVolume(t *testing.T) {
	w := newCNIWorld(t)
	v := newVolume(t, "nonMasqueradeCIDRs: [10.1.0.0/16]\nresyncInterval: 1h\n")
	w.keeper.opts.inputs = inputs{path: v.file()}
	ctx, cancel := context.WithCancel(t.Context())
	watch := newWatcher(ctx, w.keeper.opts.inputs, slog.New(slog.DiscardHandler))
	var running sync.WaitGroup
	running.Go(func() { watch.run(ctx) })
	running.Go(func() { w.keeper.run(ctx, watch.changes) })
	follows := func(list string) {
		t.Helper()
		eventually(t, "the list "+list, func() string {
			text, err := os.ReadFile(w.path("cni.conf"))
			must(t, err)
			return cmp.Diff(cniWith(list), string(text))
		})
	}
	follows(`"169.254.0.0/16", "10.1.0.0/16"`)
	v.swap(t, "nonMasqueradeCIDRs: [10.2.0.0/16]\n")
	follows(`"169.254.0.0/16", "10.2.0.0/16"`)
	cancel()
	running.Wait()
}

// TestCNIFlagsAreDocumented compares the page on Windows with the program.
func TestCNIFlagsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/windows.md")
	must(t, err)
	var told, flags []string
	for _, row := range regexp.MustCompile("(?m)^\\| `--([a-z-]+)`").FindAllStringSubmatch(string(text), -1) {
		told = append(told, row[1])
	}
	cniFlags(&cniOptions{}, new(string)).VisitAll(func(f *pflag.Flag) { flags = append(flags, f.Name) })
	if diff := cmp.Diff(flags, told); diff != "" {
		t.Errorf("flags (-program +page):\n%s", diff)
	}
}

func TestCNIFlags(t *testing.T) {
	tests := []struct {
		name string
		args string
		want string // a part of the error; empty: none
	}{
		{"all", `--cni-config=C:\k\cni.conf --config-path=c --node-labels-file=l --state-dir=s --nomasq-all-reserved-ranges --log-level=debug`, ""},
		{"one dash", "-cni-config x", ""},
		{"nothing", "", "--cni-config is missing"},
		{"not a flag", "--cni-config=x y", `"y" is no flag`},
		{"not a level", "--cni-config=x --log-level=loud", "unknown level"},
		{"a flag of Linux", "--cni-config=x --masq-chain=Y", "unknown flag: --masq-chain"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseCNIFlags(strings.Fields(test.args))
			if usage := (usageError{}); test.want == "" && err != nil || test.want != "" && !errors.As(err, &usage) {
				t.Fatalf("error %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

// TestWindowsBuild: the programs for Windows compile and pass vet, and nothing of
// iptables, nftables or netlink is in them.
func TestWindowsBuild(t *testing.T) {
	windows := func(args ...string) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), "go", args...)
		command.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
		command.Dir = ".."
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	windows("build", "-o", t.TempDir()+"/", "./agent", "./kubectl-masq")
	// Tests are for Linux, and vet would look at them too.
	for _, directory := range []string{"agent", "agent/winbridge", "kubectl-masq"} {
		files := windows("list", "-f", `{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}} {{end}}`, "./"+directory)
		windows(append([]string{"vet"}, strings.Fields(files)...)...)
	}
	if found := regexp.MustCompile(`(?m)^.*(iptables|netlink|agent/nftables|knftables|agent/notify).*$`).
		FindAllString(windows("list", "-deps", "./agent"), -1); found != nil {
		t.Errorf("the agent for Windows holds %q", found)
	}
}
