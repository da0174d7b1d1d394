package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

func TestReadDirectory(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"ip-masq-b": "b", "ip-masq-a": "a", "ip-masq": "c", "config": "x", ".ip-masq-hidden": "x", "a-ip-masq": "x",
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	must(t, os.Mkdir(filepath.Join(dir, "ip-masq-directory"), 0o700))
	must(t, os.Symlink("gone", filepath.Join(dir, "ip-masq-dangling")))
	want := reading{files: []fileReading{
		{"ip-masq", reading{text: []byte("c")}}, {"ip-masq-a", reading{text: []byte("a")}}, {"ip-masq-b", reading{text: []byte("b")}},
	}}
	if got := readDirectory(dir); !got.equal(want) {
		t.Errorf("read %+v, want %+v", got, want)
	}
	for _, empty := range []string{filepath.Join(dir, "none"), filepath.Join(dir, "ip-masq-directory")} {
		if got := readDirectory(empty); !got.equal(reading{missing: true}) {
			t.Errorf("read %+v in %s, want nothing", got, empty)
		}
	}
	if got := readDirectory(filepath.Join(dir, "config")); got.failure == "" {
		t.Errorf("read %+v of a file, want a failure", got)
	}
}

// directory is a configuration of several files in a world.
type directory struct {
	*world

	dir string
}

func newDirectory(t *testing.T, opts options) directory {
	t.Helper()
	if opts.configDir == "" {
		opts.configDir = t.TempDir()
	}
	return directory{newWorld(t, opts), opts.configDir}
}

// has makes a file of the directory hold text; the empty one removes it.
func (d directory) has(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(d.dir, name)
	if text == "" {
		must(t, os.Remove(path))
		return
	}
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

func TestDirectory(t *testing.T) {
	const (
		both    = "IPv4 169.254.0.0/16 10.1.0.0/16 10.2.0.0/16"
		applied = "configuration applied source=file"
		kept    = "configuration applied source=last-valid"
	)
	problem := func(path, line string) string {
		return "problem in the configuration file severity=fatal path=" + path + " line=" + line
	}
	synctest.Test(t, func(t *testing.T) {
		d := newDirectory(t, options{stateDir: t.TempDir()})
		for _, step := range []struct {
			name   string
			does   func()
			writes []string
			logs   []string
			state  fileState
		}{
			{"no file", func() {}, []string{byDefault}, []string{
				"no configuration file, so the defaults are in force", "configuration applied source=defaults",
			}, fileMissing},
			{"one file", func() { d.has(t, "ip-masq-a", goodText) }, []string{good}, []string{applied}, fileLoaded},
			{"two files", func() { d.has(t, "ip-masq-b", otherText) }, []string{both}, []string{applied}, fileLoaded},
			{"the same again", func() {}, nil, nil, fileLoaded},
			{"one turns bad", func() { d.has(t, "ip-masq-b", badText) }, nil, []string{
				"configuration file refused inForce=last-valid", problem("nonMasqueradeCIDRs[0]", "1"), kept,
			}, fileRefused},
			{"the other one changes meanwhile", func() { d.has(t, "ip-masq-a", suspiciousText) }, []string{"IPv4 169.254.0.0/16 10.3.0.0/16 10.2.0.0/16"}, []string{
				"configuration file refused inForce=last-valid",
				"problem in the configuration file severity=suspicious path=resyscInterval line=2",
				problem("nonMasqueradeCIDRs[0]", "1"), kept,
			}, fileRefused},
			{"the bad one goes", func() { d.has(t, "ip-masq-b", "") }, []string{suspicious}, []string{
				"problem in the configuration file severity=suspicious path=resyscInterval line=2", applied,
			}, fileLoaded},
			{"a new one is bad", func() { d.has(t, "ip-masq-c", otherBadText) }, nil, []string{
				"configuration file refused, and nothing of it is in force",
				"problem in the configuration file severity=suspicious path=resyscInterval line=2",
				problem("nonMasqueradeCIDRs", "1"), kept,
			}, fileRefused},
			{"and is mended", func() { d.has(t, "ip-masq-c", "masqueradeCIDRs: [10.3.3.0/24]\nresyncInterval: 60s\n") }, []string{suspicious}, []string{
				"problem in the configuration file severity=suspicious path=resyscInterval line=2", applied,
			}, fileLoaded},
			{"all go", func() { d.has(t, "ip-masq-a", ""); d.has(t, "ip-masq-c", "") }, []string{byDefault}, []string{
				"no configuration file, so the defaults are in force", "configuration applied source=defaults",
			}, fileMissing},
		} {
			step.does()
			d.syncer.pass(t.Context())
			if diff := cmp.Diff(step.writes, d.wrote()); diff != "" {
				t.Errorf("%s: writes (-want +got):\n%s", step.name, diff)
			}
			if diff := cmp.Diff(step.logs, d.logged(t)); diff != "" {
				t.Errorf("%s: log (-want +got):\n%s", step.name, diff)
			}
			if got := d.syncer.status.Load().file.state; got != step.state {
				t.Errorf("%s: the file is %s, want %s", step.name, got, step.state)
			}
		}
	})
}

// TestDirectoryAfterRestart starts with a bad file beside a good one.
func TestDirectoryAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := options{stateDir: t.TempDir(), configDir: t.TempDir()}
		d := newDirectory(t, opts)
		d.has(t, "ip-masq-a", goodText)
		d.has(t, "ip-masq-b", otherText)
		d.has(t, "ip-masq-c", quickText)
		d.syncer.pass(t.Context())
		d.has(t, "ip-masq-c", "")
		d.syncer.pass(t.Context())
		names, err := filepath.Glob(filepath.Join(opts.stateDir, "*"))
		if want := []string{filepath.Join(opts.stateDir, "last-valid.ip-masq-a"), filepath.Join(opts.stateDir, "last-valid.ip-masq-b")}; err != nil || !slices.Equal(names, want) {
			t.Errorf("the state is %v, %v; want %v", names, err, want)
		}

		d = newDirectory(t, opts)
		d.has(t, "ip-masq-b", badText)
		d.syncer.pass(t.Context())
		if got, want := d.wrote(), []string{"IPv4 169.254.0.0/16 10.1.0.0/16 10.2.0.0/16"}; !slices.Equal(got, want) {
			t.Errorf("after a restart the kernel holds %v, want %v", got, want)
		}
		unreadable := opts
		unreadable.configDir = filepath.Join(opts.configDir, "ip-masq-a") // a file
		d = newDirectory(t, unreadable)
		d.syncer.pass(t.Context())
		if got, want := d.wrote(), []string{"IPv4 169.254.0.0/16 10.1.0.0/16 10.2.0.0/16"}; !slices.Equal(got, want) {
			t.Errorf("with a directory that cannot be read the kernel holds %v, want %v", got, want)
		}
		removed, err := (&store{dir: opts.stateDir}).purge()
		if left, _ := os.ReadDir(opts.stateDir); err != nil || len(removed) != 2 || len(left) > 0 {
			t.Errorf("cleanup removes %v, %v, and leaves %v", removed, err, left)
		}
	})
}

// TestDigestOfSeveral pins what people compute with: sha256sum ip-masq* | sha256sum.
func TestDigestOfSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirectory(t, options{})
		d.has(t, "ip-masq-b", otherText)
		d.has(t, "ip-masq-a", goodText)
		d.syncer.pass(t.Context())
		const want = "9befb6c1b498d8f9ccd54ee356b76f29ef58593b90d636471e98068ee636a065"
		if got := d.syncer.status.Load().inForce.digest; got != want {
			t.Errorf("digest %s, want %s", got, want)
		}
	})
}

func TestDirectoryOnce(t *testing.T) {
	dir := t.TempDir()
	var stdout, stderr bytes.Buffer
	opts := options{configDir: dir}
	opts.rules.Chain = "IP-MASQ-AGENT"
	must(t, dryRun(opts, &stdout, &stderr))
	if want := "agent: " + dir + ": no file whose name begins with ip-masq, so the defaults are in force\n"; stderr.String() != want {
		t.Errorf("standard error %q, want %q", &stderr, want)
	}
	must(t, os.WriteFile(filepath.Join(dir, "ip-masq-b"), []byte(goodText), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "ip-masq-a"), []byte(otherText), 0o600))
	stdout.Reset()
	must(t, dryRun(opts, &stdout, &stderr))
	if a, b := strings.Index(stdout.String(), "-d 10.2.0.0/16"), strings.Index(stdout.String(), "-d 10.1.0.0/16"); a < 0 || b < a {
		t.Errorf("the files are not merged in the order of their names:\n%s", &stdout)
	}
	must(t, os.WriteFile(filepath.Join(dir, "ip-masq-c"), []byte(badText), 0o600))
	stderr.Reset()
	err := dryRun(opts, &stdout, &stderr)
	if err == nil || !strings.Contains(err.Error(), "is refused: 1 fatal problem(s)") || !strings.Contains(stderr.String(), "fatal: ip-masq-c: line 1, nonMasqueradeCIDRs[0]") {
		t.Errorf("error %v, standard error:\n%s", err, &stderr)
	}
}

func TestWatcherOfADirectory(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	w := newWatcher(ctx, inputs{several: dir}, slog.New(slog.DiscardHandler))
	var running sync.WaitGroup
	running.Go(func() { w.run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	file := filepath.Join(dir, "ip-masq-a")
	must(t, os.WriteFile(file, []byte("{}"), 0o600))
	w.tells(t, atOnce)
	must(t, os.Remove(file))
	w.tells(t, atOnce)
}
