package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// volume is a directory as the kubelet's AtomicWriter keeps it: the file is a link
// into ..data, which is a link to a folder of its own per version.
type volume struct {
	dir      string
	versions int
}

func newVolume(tb testing.TB, text string) *volume {
	tb.Helper()
	v := &volume{dir: tb.TempDir()}
	v.swap(tb, text)
	if err := os.Symlink(filepath.Join("..data", "ip-masq-agent"), v.file()); err != nil {
		tb.Fatal(err)
	}
	return v
}

func (v *volume) file() string { return filepath.Join(v.dir, "ip-masq-agent") }

// swap brings the file up to date as the kubelet does, in one rename.
func (v *volume) swap(tb testing.TB, text string) {
	tb.Helper()
	v.versions++
	version := "..version_" + strconv.Itoa(v.versions)
	link, staged := filepath.Join(v.dir, "..data"), filepath.Join(v.dir, "..data_tmp")
	previous, _ := os.Readlink(link) // none at first
	if err := os.Mkdir(filepath.Join(v.dir, version), 0o700); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.dir, version, "ip-masq-agent"), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Symlink(version, staged); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(staged, link); err != nil {
		tb.Fatal(err)
	}
	if previous != "" {
		if err := os.RemoveAll(filepath.Join(v.dir, previous)); err != nil {
			tb.Fatal(err)
		}
	}
}

// watched runs a watcher for one test.
func watched(t *testing.T, path string) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := newWatcher(ctx, inputs{path: path}, slog.New(slog.DiscardHandler))
	var running sync.WaitGroup
	running.Go(func() { w.run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return w
}

// tells waits for a notification. More may follow, since one change gives several
// events.
func (w *watcher) tells(t *testing.T, within time.Duration) {
	t.Helper()
	select {
	case <-w.changes:
	case <-time.After(within):
		t.Fatalf("no notification within %s", within)
	}
	w.settle()
}

// settle takes what still comes of the same change.
func (w *watcher) settle() {
	for {
		select {
		case <-w.changes:
		case <-time.After(100 * time.Millisecond):
			return
		}
	}
}

const (
	atOnce  = 500 * time.Millisecond // by inotify; a poll may come sooner by chance only
	byAPoll = 5 * time.Second
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWatcherTellsChanges(t *testing.T) {
	t.Run("swap of a volume", func(t *testing.T) {
		v := newVolume(t, "{}")
		w := watched(t, v.file())
		for range 3 {
			v.swap(t, "{}")
			w.tells(t, atOnce)
		}
	})
	t.Run("writes, renames and removals of the file", func(t *testing.T) {
		dir := t.TempDir()
		file := filepath.Join(dir, "ip-masq-agent")
		w := watched(t, file)
		must(t, os.WriteFile(file, []byte("{}"), 0o600))
		w.tells(t, atOnce)
		must(t, os.WriteFile(file, []byte("{ }"), 0o600))
		w.tells(t, atOnce)
		must(t, os.WriteFile(file+".new", []byte("[]"), 0o600))
		must(t, os.Rename(file+".new", file))
		w.tells(t, atOnce)
		must(t, os.Chmod(file, 0o400))
		w.tells(t, atOnce)
		must(t, os.Remove(file))
		w.tells(t, atOnce)
	})
	t.Run("the directory comes later", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "later")
		file := filepath.Join(dir, "ip-masq-agent")
		w := watched(t, file)
		must(t, os.Mkdir(dir, 0o700))
		must(t, os.WriteFile(file, []byte("{}"), 0o600))
		w.tells(t, byAPoll)
		must(t, os.WriteFile(file, []byte("{ }"), 0o600))
		w.tells(t, atOnce)
	})
	t.Run("the directory is replaced", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "config")
		file := filepath.Join(dir, "ip-masq-agent")
		must(t, os.Mkdir(dir, 0o700))
		w := watched(t, file)
		must(t, os.Rename(dir, dir+".old"))
		w.tells(t, atOnce)
		must(t, os.Mkdir(dir, 0o700))
		must(t, os.WriteFile(file, []byte("{}"), 0o600))
		w.tells(t, byAPoll)
		must(t, os.WriteFile(file, []byte("{ }"), 0o600))
		w.tells(t, atOnce)
		must(t, os.RemoveAll(dir))
		w.tells(t, atOnce)
	})
	t.Run("a link to the directory turns elsewhere", func(t *testing.T) {
		parent := t.TempDir()
		link := filepath.Join(parent, "config")
		for _, version := range []string{"one", "two"} {
			must(t, os.Mkdir(filepath.Join(parent, version), 0o700))
			must(t, os.WriteFile(filepath.Join(parent, version, "ip-masq-agent"), []byte(version), 0o600))
		}
		must(t, os.Symlink("one", link))
		w := watched(t, filepath.Join(link, "ip-masq-agent"))
		must(t, os.Symlink("two", link+".new"))
		must(t, os.Rename(link+".new", link))
		w.tells(t, byAPoll)
		must(t, os.WriteFile(filepath.Join(parent, "two", "ip-masq-agent"), []byte("{}"), 0o600))
		w.tells(t, atOnce)
	})
}

func TestWatcherIsQuietOtherwise(t *testing.T) {
	v := newVolume(t, "{}")
	w := watched(t, v.file())
	must(t, os.WriteFile(filepath.Join(v.dir, "neighbour"), []byte("{}"), 0o600))
	must(t, os.Mkdir(filepath.Join(v.dir, "..version_next"), 0o700))
	select {
	case <-w.changes:
		t.Error("a notification without a change of the file")
	case <-time.After(2500 * time.Millisecond): // two polls
	}
}

func TestWatcherLooksAtLabels(t *testing.T) {
	v, labels := newVolume(t, "{}"), filepath.Join(t.TempDir(), "labels")
	ctx, cancel := context.WithCancel(t.Context())
	w := newWatcher(ctx, inputs{path: v.file(), labels: labels}, slog.New(slog.DiscardHandler))
	var running sync.WaitGroup
	running.Go(func() { w.run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	must(t, os.WriteFile(labels, []byte("pool=edge\n"), 0o600))
	w.tells(t, byAPoll)
	must(t, os.Remove(labels))
	w.tells(t, byAPoll)
}
