package twonode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is a program in the background. It leads a process group; the end of the
// cluster's init ends it in any case.
type process struct {
	name    string
	command *exec.Cmd
	log     string        // file of its standard output and error
	done    chan struct{} // closed once it has ended
}

// run is how a command gets to its place: exec.Cmd.Start, or the start in a host.
type run func(*exec.Cmd) error

// start starts argv, which appends to a log file of its own in dir.
func start(dir, name string, by run, argv ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	defer func() { _ = out.Close() }()             // the child has its own descriptor
	p.command = exec.Command(argv[0], argv[1:]...) //nolint:noctx // it runs until it is killed
	p.command.Dir = dir
	p.command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C"}
	p.command.Stdout, p.command.Stderr = out, out
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := by(p.command); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		defer close(p.done)
		_ = p.command.Wait() // whoever cares looks at ProcessState
	}()
	return p, nil
}

// kill ends the process and its group with SIGKILL, and waits for its end.
// kube-apiserver would linger on SIGTERM once etcd is gone.
func (p *process) kill() {
	select {
	case <-p.done: // its process group may be another's by now
		return
	default:
	}
	_ = syscall.Kill(-p.command.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// alive is an error once the process has ended.
func (p *process) alive() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended: %s\n%s", p.name, p.command.ProcessState, p.tail())
	default:
		return nil
	}
}

// tail is the end of the log.
func (p *process) tail() string {
	const most = 4 << 10 // bytes
	log, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-most):])
}

// Wait asks until check succeeds or the time is up, and returns its last error.
func Wait(ctx context.Context, limit time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if ended := (endedError{}); errors.As(err, &ended) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for at most %s: %w", limit, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// endedError ends a Wait at once: more time will not help.
type endedError struct{ error }

func (e endedError) Unwrap() error { return e.error }

// output runs a command to its end and returns its standard output. An error holds
// the standard error.
func output(command *exec.Cmd, stdin string) (string, error) {
	var stdout, stderr bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(stdin), &stdout, &stderr
	command.WaitDelay = 2 * time.Second // a grandchild may keep the pipes open
	if err := command.Run(); err != nil {
		return stdout.String(), fmt.Errorf("running %s: %w: %s",
			strings.Join(command.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
