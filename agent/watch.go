package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
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
	path, dir string
	changes   chan struct{} // holds at most one: a change not yet looked at
	log       *slog.Logger

	notify  *fsnotify.Watcher // nil while there is none
	dirInfo os.FileInfo       // the folder that notify watches
	info    os.FileInfo       // the file when last looked at; nil when missing
	problem string            // why there is no notify, once logged
}

// newWatcher begins to watch: no change after its return goes unnoticed once run is
// called.
func newWatcher(ctx context.Context, path string, log *slog.Logger) *watcher {
	w := &watcher{path: path, dir: filepath.Dir(path), changes: make(chan struct{}, 1), log: log}
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
	return event.Name == w.dir || name == volumeLink || name == filepath.Base(w.path)
}

func (w *watcher) changed() {
	select {
	case w.changes <- struct{}{}:
	default: // one is waiting already
	}
}

// look tells whether the file is another one than before, or was written.
func (w *watcher) look() bool {
	info, err := os.Stat(w.path)
	if err != nil {
		info = nil
	}
	before := w.info
	w.info = info
	if before == nil || info == nil {
		return (before == nil) != (info == nil)
	}
	return !os.SameFile(before, info) || !before.ModTime().Equal(info.ModTime()) ||
		before.Size() != info.Size() || before.Mode() != info.Mode()
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
