package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// Bounds of one command.
const (
	// lockWaitSeconds bounds the wait for the xtables lock, which kube-proxy takes
	// too; iptables-restore(8) -w counts whole seconds. Only legacy has the lock.
	lockWaitSeconds = 5
	commandTimeout  = lockWaitSeconds*time.Second + 25*time.Second // 16,384 rules take two
	outputDelay     = time.Second                                  // for the output of a killed command
	maxLine         = 64 << 10                                     // bytes; a rule has less than 4,096
	maxErrorText    = 4 << 10                                      // bytes
)

// ErrMissing is that there are no commands of a backend.
var ErrMissing = exec.ErrNotFound

// tools are the commands of one backend and family, as paths.
type tools struct{ main, restore, save string }

// plain names the command of a family without its backend.
func plain(family ruleset.Family) string {
	if family == ruleset.IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// find looks for iptables-nft or iptables-legacy, or else for a plain iptables that
// is of this backend. A distribution may have one of these alone.
func find(ctx context.Context, backend Backend, family ruleset.Family) (tools, error) {
	name := plain(family) + "-" + string(backend)
	found, missing := locate(name)
	if missing == nil {
		return found, nil
	}
	if found, err := locate(plain(family)); err == nil && version(ctx, found.main) == backend {
		return found, nil
	}
	return tools{}, fmt.Errorf("looking for %s: %w, and %s is not of this backend; install the package iptables",
		name, missing, plain(family))
}

func locate(name string) (tools, error) {
	var (
		found tools
		err   [3]error
	)
	found.main, err[0] = exec.LookPath(name)
	found.restore, err[1] = exec.LookPath(name + "-restore")
	found.save, err[2] = exec.LookPath(name + "-save")
	return found, errors.Join(err[:]...)
}

// version tells the backend of a command: "iptables v1.8.9 (nf_tables)". Before 1.8
// there was only legacy, and no name for it. It is empty for a command that fails.
func version(ctx context.Context, path string) Backend {
	switch text := banner(ctx, path); {
	case text == "":
		return ""
	case strings.Contains(text, "nf_tables"):
		return NFT
	default:
		return Legacy
	}
}

// banner is the first line that a command prints of its version, or empty.
func banner(ctx context.Context, path string) string {
	var first string
	err := run(ctx, command{path: path, args: []string{"--version"}, lines: func(line string) error {
		if first == "" {
			first = line
		}
		return nil
	}})
	if err != nil {
		return ""
	}
	return first
}

// restore runs one transaction.
func (t *table) restore(ctx context.Context, text string) error {
	if t.err != nil {
		return t.err
	}
	err := run(ctx, command{
		path: t.tools.restore, args: []string{"-w", strconv.Itoa(lockWaitSeconds), "--noflush"}, input: text,
	})
	if line := offending(err, text); line != "" {
		return fmt.Errorf("%w: the line is %q", err, line)
	}
	return err
}

// lineNumber finds the line that iptables-restore complains of: "Error occurred at
// line: 4", "iptables-restore: line 4 failed".
var lineNumber = regexp.MustCompile(`\bline:? (\d+)`)

func offending(err error, text string) string {
	failed := (*failure)(nil)
	if !errors.As(err, &failed) {
		return ""
	}
	match := lineNumber.FindStringSubmatch(failed.stderr)
	if match == nil {
		return ""
	}
	number, err := strconv.Atoi(match[1])
	lines := strings.Split(text, "\n")
	if err != nil || number < 1 || number > len(lines) {
		return ""
	}
	return lines[number-1]
}

// failure is a command that could not be run or ended badly.
type failure struct {
	command string
	stderr  string
	cause   error
}

func (f *failure) Error() string {
	if f.stderr == "" {
		return fmt.Sprintf("running %s: %v", f.command, f.cause)
	}
	return fmt.Sprintf("running %s: %v: %s", f.command, f.cause, f.stderr)
}

func (f *failure) Unwrap() error { return f.cause }

// command is one process: its input, and what takes its output line by line. An
// error of lines ends it.
type command struct {
	path  string
	args  []string
	input string
	lines func(line string) error
}

func run(ctx context.Context, c command) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	process := exec.CommandContext(ctx, c.path, c.args...) //nolint:gosec // the path is one of tools
	process.Env = append(os.Environ(), "LC_ALL=C")         // its messages are read
	process.WaitDelay = outputDelay
	process.Stdin = strings.NewReader(c.input)
	output := &lineWriter{take: c.lines}
	complaint := &boundedBuffer{}
	process.Stdout, process.Stderr = output, complaint

	err := process.Start()
	if err == nil {
		stop := watchLock(ctx, process.Process.Pid)
		err = process.Wait()
		stop()
	}
	switch {
	case output.err != nil:
		return output.err
	case ctx.Err() != nil:
		err = ctx.Err() // rather than "signal: killed"
	case err == nil:
		return nil
	}
	return &failure{command: process.String(), stderr: complaint.String(), cause: err}
}

// lineWriter hands on each line without its end.
type lineWriter struct {
	take    func(line string) error
	partial []byte
	err     error // why it takes no more
}

func (w *lineWriter) Write(p []byte) (int, error) {
	if w.take == nil {
		return len(p), nil
	}
	n := len(p)
	for w.err == nil {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			break
		}
		w.err = w.take(string(append(w.partial, p[:end]...)))
		w.partial, p = w.partial[:0], p[end+1:]
	}
	if w.err == nil && len(w.partial)+len(p) > maxLine {
		w.err = fmt.Errorf("reading the output of iptables: a line has more than %d bytes", maxLine)
	}
	if w.err != nil {
		return 0, w.err
	}
	w.partial = append(w.partial, p...)
	return n, nil
}

// boundedBuffer keeps the beginning of what is written to it.
type boundedBuffer struct{ kept bytes.Buffer }

func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.kept.Write(p[:min(len(p), maxErrorText-b.kept.Len())])
	return len(p), nil
}

// String is one line, without the advice that iptables gives to people at a terminal.
func (b *boundedBuffer) String() string {
	var told []string
	for line := range strings.Lines(b.kept.String()) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "Try `") {
			told = append(told, line)
		}
	}
	return strings.Join(told, "; ")
}
