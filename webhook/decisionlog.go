package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// decisionsWaiting bounds the decisions that wait to be written. A full one may hold two
// objects of 1 MiB.
const decisionsWaiting = 64

// decided is a decision and what it was on.
type decided struct {
	request  policy.Request
	cluster  *policy.Cluster
	decision policy.Decision
	bypass   *policy.LogBypass // nil: nobody asked for one
	elapsed  time.Duration
}

// decisionLog writes decisions as JSON lines. It neither delays nor fails one: what it
// cannot write it drops and counts. It is a manager.Runnable.
type decisionLog struct {
	out     io.Writer
	full    bool // with the texts of configurations
	waiting chan decided
	dropped prometheus.Counter
	log     *slog.Logger
}

func newDecisionLog(opts options, stdout io.Writer, own *metrics, log *slog.Logger) (*decisionLog, error) {
	l := &decisionLog{out: stdout, full: opts.decisions.full, waiting: make(chan decided, decisionsWaiting), dropped: own.unlogged, log: log}
	if opts.decisions.to != "stdout" {
		file, err := openRotated(opts.decisions.to, int64(opts.decisions.size)<<20, opts.decisions.kept)
		if err != nil {
			return nil, fmt.Errorf("opening --decision-log: %w", err)
		}
		l.out = file
	}
	return l, nil
}

// record hands a decision over, or drops it. Of a nil log it does nothing.
func (l *decisionLog) record(d decided) {
	if l == nil {
		return
	}
	select {
	case l.waiting <- d:
	default:
		l.dropped.Inc()
	}
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every replica decides.
func (*decisionLog) NeedLeaderElection() bool { return false }

// Start writes until ctx ends, and then what is waiting.
func (l *decisionLog) Start(ctx context.Context) error {
	for {
		select {
		case d := <-l.waiting:
			l.write(ctx, d)
			continue
		case <-ctx.Done():
		}
		select {
		case d := <-l.waiting:
			l.write(ctx, d)
		default:
			if file, ok := l.out.(*rotated); ok {
				return file.Close()
			}
			return nil
		}
	}
}

func (l *decisionLog) write(ctx context.Context, d decided) {
	line, err := l.line(d)
	if err == nil {
		_, err = l.out.Write(line)
	}
	if err != nil {
		l.dropped.Inc()
		l.log.LogAttrs(ctx, slog.LevelError, "decision not logged", slog.String("id", d.decision.ID), slog.String("err", err.Error()))
	}
}

func (l *decisionLog) line(d decided) ([]byte, error) {
	entry, err := policy.NewLogEntry(d.request, d.cluster, d.decision)
	if err != nil {
		return nil, err
	}
	entry.Labels = map[string]string{"app": "ip-masq-guard", "version": version}
	entry.Metrics["timer_server_handler_ns"] = d.elapsed.Nanoseconds()
	entry.Result.Bypass = d.bypass
	entry.Result.Bypassed = d.bypass != nil && d.bypass.Refused == ""
	if !l.full {
		entry = entry.Masked()
	}
	line, err := json.Marshal(entry)
	if err != nil {
		return nil, fmt.Errorf("encoding a decision: %w", err)
	}
	return append(line, '\n'), nil
}

// rotated is a file that is renamed to PATH.1 before it has more than max bytes; of those
// the newest are kept. It is not for concurrent use.
type rotated struct {
	path string
	max  int64 // bytes
	kept int
	file *os.File // nil after a rotation that failed
	size int64
}

func openRotated(path string, most int64, kept int) (*rotated, error) {
	r := &rotated{path: path, max: most, kept: kept}
	return r, r.open()
}

func (r *rotated) open() error {
	file, err := os.OpenFile(r.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close() // the first error tells more
		return err
	}
	r.file, r.size = file, info.Size()
	return nil
}

// Write writes one line whole, into a new file where the present one has no room for it.
func (r *rotated) Write(line []byte) (int, error) {
	if r.file != nil && r.size > 0 && r.size+int64(len(line)) > r.max {
		if err := r.rotate(); err != nil {
			return 0, fmt.Errorf("rotating %s: %w", r.path, err)
		}
	}
	if r.file == nil {
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	n, err := r.file.Write(line)
	r.size += int64(n)
	return n, err
}

func (r *rotated) rotate() error {
	err := r.file.Close()
	r.file = nil
	if err != nil {
		return err
	}
	name := func(i int) string { return fmt.Sprintf("%s.%d", r.path, i) }
	for i := r.kept; i > 0; i-- {
		from := r.path
		if i > 1 {
			from = name(i - 1)
		}
		if err := os.Rename(from, name(i)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	if r.kept == 0 {
		return os.Remove(r.path)
	}
	return nil
}

// Close closes the file.
func (r *rotated) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}
