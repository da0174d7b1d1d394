package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// process is a program of ours in the background. It leads its own process group,
// and the kernel kills it when this test binary ends, however that happens.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string        // standard output and error
	done chan struct{} // closed once it has ended and cmd.ProcessState is set
}

// starter runs each function it receives on one thread that lives as long as this
// binary. The kernel ties Pdeathsig to the thread that started the child, not to
// the process (prctl(2)), and threads of the Go runtime come and go.
//
//nolint:gochecknoglobals // the thread is the process's, so there is one.
var starter = func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
}()

// startProcess starts argv with a log file of its own in dir and nothing of this
// process's environment but PATH.
func startProcess(dir, name string, argv ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	defer func() { _ = out.Close() }() // the child has its own descriptor
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Dir = dir
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C"}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	started := make(chan error)
	starter <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // whoever cares looks at ProcessState
	}()
	return p, nil
}

// signal sends sig to the process alone.
func (p *process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("sending %s to %s: %w", sig, p.name, err)
	}
	return nil
}

// kill ends the process and everything it started, and waits for its end.
// kube-apiserver lingers on SIGTERM once etcd is gone; none of ours keeps anything
// that a SIGKILL could harm.
func (p *process) kill() {
	select {
	case <-p.done: // its process group may be another's by now
		return
	default:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// alive is an error once the process has ended.
func (p *process) alive() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended: %s\n%s", p.name, p.cmd.ProcessState, p.tail())
	default:
		return nil
	}
}

// tail is the end of the log.
func (p *process) tail() string {
	const most = 4 << 10
	log, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-most):])
}

// waitFor asks until check succeeds or the time is up, and returns its last error.
func waitFor(limit time.Duration, check func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return nil
		}
		if fatal := (permanentError{}); errors.As(err, &fatal) || time.Now().After(deadline) {
			return fmt.Errorf("waiting for at most %s: %w", limit, err)
		}
		time.Sleep(25 * time.Millisecond)
	}
}

// permanentError ends a waitFor at once: more time will not help.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// eventually fails the test when check does not succeed in time.
func eventually(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	if err := waitFor(limit, check); err != nil {
		t.Fatal(err)
	}
}

// freePorts returns TCP ports of the loopback address that nobody listens on.
func freePorts(n int) ([]uint16, error) {
	ports := make([]uint16, 0, n)
	listeners := make([]net.Listener, 0, n) // all are open at once, so that the ports differ
	defer func() {
		for _, listener := range listeners {
			_ = listener.Close()
		}
	}()
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("looking for a free port: %w", err)
		}
		listeners = append(listeners, listener)
		address, err := netip.ParseAddrPort(listener.Addr().String())
		if err != nil {
			return nil, fmt.Errorf("reading a free port: %w", err)
		}
		ports = append(ports, address.Port())
	}
	return ports, nil
}
