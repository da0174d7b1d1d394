package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// pollInterval is how often the file is looked at by name. Notifications are
// faster, but the kernel gives none when a folder is mounted over, a link outside the
// folder turns elsewhere, or the node has no inotify instance left.
const pollInterval = time.Second

// volumeLink is what a ConfigMap volume swaps to bring all its files up to date at
// once (AtomicWriter of the kubelet).
const volumeLink = "..data"

// watcher tells when the configuration may have changed. It watches the folder, as
// the file itself is replaced rather than written; the folder may be missing, come
// later, or be replaced.
type watcher struct {
	inputs

	dir     string
	changes chan struct{} // holds at most one: a change not yet looked at
	log     *slog.Logger

	notify  *fsnotify.Watcher // nil while there is none
	dirInfo os.FileInfo       // the folder that notify watches
	infos   []os.FileInfo     // the files when last looked at; nil for one that is missing
	problem string            // why there is no notify, once logged
}

// inputs are what an agent reads.
type inputs struct {
	path    string // the configuration; of no use with dir
	several string // the directory of several files; may be empty
	labels  string // the file of node labels, which is looked at by name only; may be empty
}

// folder is what is watched by notifications.
func (w inputs) folder() string {
	if w.several != "" {
		return w.several
	}
	return filepath.Dir(w.path)
}

// files are the names that may hold something.
func (w inputs) files() []string {
	names := []string{w.path}
	if w.several != "" {
		inside, err := filesOf(w.several) // what cannot be listed holds nothing
		if names = nil; err == nil {
			for _, name := range inside {
				names = append(names, filepath.Join(w.several, name))
			}
		}
	}
	if w.labels != "" {
		names = append(names, w.labels)
	}
	return names
}

// holds tells whether a name in the folder may be the configuration's.
func (w inputs) holds(name string) bool {
	if w.several != "" {
		return strings.HasPrefix(name, config.FilePrefix)
	}
	return name == filepath.Base(w.path)
}

// newWatcher begins to watch: no change after its return goes unnoticed once run is
// called.
func newWatcher(ctx context.Context, what inputs, log *slog.Logger) *watcher {
	w := &watcher{inputs: what, dir: what.folder(), changes: make(chan struct{}, 1), log: log}
	w.look()
	w.watch(ctx)
	return w
}

// run watches until ctx ends.
func (w *watcher) run(ctx context.Context) {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	defer w.unwatch()
	for {
		var events <-chan fsnotify.Event
		var failures <-chan error
		if w.notify != nil {
			events, failures = w.notify.Events, w.notify.Errors
		}
		select {
		case <-ctx.Done():
			return
		case event := <-events:
			if !w.concerns(event) {
				continue
			}
			w.look()
			w.changed()
			if event.Name == w.dir { // moved or removed
				w.unwatch()
				w.watch(ctx)
			}
		case err := <-failures: // the queue overflowed: events are lost
			w.log.DebugContext(ctx, "notifications lost", "error", err)
			w.look()
			w.changed()
		case <-poll.C:
			w.watch(ctx)
			if w.look() {
				w.changed()
			}
		}
	}
}

func (w *watcher) concerns(event fsnotify.Event) bool {
	name := filepath.Base(event.Name)
	return event.Name == w.dir || name == volumeLink || w.holds(name)
}

func (w *watcher) changed() {
	select {
	case w.changes <- struct{}{}:
	default: // one is waiting already
	}
}

// look tells whether a file is another one than before, or was written.
func (w *watcher) look() bool {
	var infos []os.FileInfo
	for _, name := range w.files() {
		info, err := os.Stat(name)
		if err != nil {
			info = nil
		}
		infos = append(infos, info)
	}
	before := w.infos
	w.infos = infos
	return !slices.EqualFunc(before, infos, sameFile)
}

func sameFile(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return (a == nil) == (b == nil)
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && a.Mode() == b.Mode()
}

// watch makes notify watch the folder that now has the name, if it can.
func (w *watcher) watch(ctx context.Context) {
	now, err := os.Stat(w.dir)
	if err == nil && w.notify != nil && os.SameFile(now, w.dirInfo) {
		return
	}
	renewed := w.notify != nil
	w.unwatch()
	if err == nil {
		err = w.start(now)
	}
	switch {
	case err == nil:
		// What happened before the watch began gave no notification.
		if renewed || w.problem != "" {
			w.changed()
		}
		if w.problem != "" {
			w.log.InfoContext(ctx, "watching the configuration directory again", "directory", w.dir)
		}
		w.problem = ""
	case w.problem != err.Error():
		w.problem = err.Error()
		level := slog.LevelWarn
		if errors.Is(err, fs.ErrNotExist) {
			level = slog.LevelInfo // an optional volume, or one that is yet to come
		}
		w.log.Log(ctx, level, "configuration directory cannot be watched, looking at the file once a second", "error", err)
	}
}

func (w *watcher) start(dir os.FileInfo) error {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("creating an inotify instance: %w", err)
	}
	if err := notify.Add(w.dir); err != nil {
		return errors.Join(fmt.Errorf("watching %s: %w", w.dir, err), notify.Close())
	}
	w.notify, w.dirInfo = notify, dir
	return nil
}

func (w *watcher) unwatch() {
	if w.notify != nil {
		_ = w.notify.Close() // nothing is lost with it
		w.notify = nil
	}
}
