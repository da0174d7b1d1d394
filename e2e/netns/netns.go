// Package netns makes throw-away hosts: network namespaces that belong to this
// process, joined by veth pairs, with servers that tell which source address they
// saw. A host lives as long as a descriptor of this process or one of its own
// processes; nothing is mounted, and nothing of the machine's own network is
// touched. It needs root or a user namespace.
package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// LockVariable makes iptables-legacy take another lock than /run/xtables.lock,
// which is shared with the machine (iptables 1.8.3 and newer).
const LockVariable = "XTABLES_LOCKFILE"

// killDelay bounds the wait for the output of a killed command, which a child of
// its own may keep open.
const killDelay = 2 * time.Second

// Host is one network namespace. Its methods may be used from several goroutines.
type Host struct {
	ns    vnetns.NsHandle
	link  *netlink.Handle
	lock  int          // descriptor of the file behind LockFile
	flows atomic.Int32 // questions asked
}

// New makes a host with nothing in it but loopback, which is up.
func New() (*Host, error) {
	h, err := create(unshare)
	if err != nil {
		return nil, fmt.Errorf("creating a network namespace: %w", err)
	}
	return h, nil
}

// Here is the host that this process runs in. It is meant for a process that has been
// started in a network namespace of its own: loopback is set up there, and what else a
// Host's methods do stays.
func Here() (*Host, error) {
	h, err := create(vnetns.Get)
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace of this process: %w", err)
	}
	return h, nil
}

// create makes the host of the namespace that open returns.
func create(open func() (vnetns.NsHandle, error)) (_ *Host, err error) {
	h := &Host{ns: vnetns.None(), lock: -1}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	if h.ns, err = open(); err != nil {
		return nil, err
	}
	// The lock is a file without a name, so that nothing is left behind however
	// this process ends.
	if h.lock, err = unix.MemfdCreate("xtables.lock", unix.MFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("creating the lock file: %w", err)
	}
	if h.link, err = netlink.NewHandleAt(h.ns, unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	// Without duplicate address detection (RFC 4862 section 5.4) every IPv6 address
	// is good at once. That matters for link-local ones too: a router asks for its
	// neighbours with them, and would drop packets until they are good.
	if err = h.sysctl("net/ipv6/conf/default/accept_dad", "0"); err != nil {
		return nil, err
	}
	return h, h.up("lo")
}

func (h *Host) sysctl(name, value string) error {
	return h.Do(func() error {
		// /proc/sys/net is that of the thread, unlike /proc/net.
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
			return fmt.Errorf("setting %s=%s: %w", name, value, err)
		}
		return nil
	})
}

// unshare returns a new namespace; the calling thread is back in its own one.
func unshare() (vnetns.NsHandle, error) {
	created := vnetns.None()
	err := elsewhere(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() (err error) {
		created, err = vnetns.Get()
		return err
	})
	return created, err
}

// elsewhere runs f on a locked thread that has entered another namespace, and then
// goes back. A thread that cannot go back is never used again.
func elsewhere(enter, f func() error) (err error) {
	runtime.LockOSThread()
	home, err := vnetns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("opening the thread's namespace: %w", err)
	}
	if err = enter(); err != nil {
		runtime.UnlockOSThread()
		return errors.Join(err, home.Close())
	}
	defer func() {
		back := vnetns.Set(home)
		if back == nil {
			runtime.UnlockOSThread()
		}
		err = errors.Join(err, back, home.Close())
	}()
	return f()
}

// Close gives the host up. Processes that still run in it keep the namespace until
// they end.
func (h *Host) Close() error {
	if h.link != nil {
		h.link.Close()
		h.link = nil
	}
	var errs []error
	if h.lock >= 0 {
		errs = append(errs, unix.Close(h.lock))
		h.lock = -1
	}
	if h.ns.IsOpen() {
		errs = append(errs, h.ns.Close())
	}
	return errors.Join(errs...)
}

// Do runs f in the host: sockets that it opens and commands that it starts belong
// there. Goroutines that f starts do not. Within f, /proc/net shows the namespace of
// the process; /proc/thread-self/net shows the host.
//
// Where f runs iptables-legacy, LockVariable has to be LockFile.
func (h *Host) Do(f func() error) error {
	return elsewhere(func() error {
		if err := vnetns.Set(h.ns); err != nil {
			return fmt.Errorf("entering the namespace: %w", err)
		}
		return nil
	}, f)
}

// LockFile is the path of the host's own xtables lock, good for children of this
// process too.
func (h *Host) LockFile() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.lock)
}

// Command prepares a command for Start. It is killed when ctx ends, with the processes
// that it has started, and when this process does.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, name, args...) //nolint:gosec // running what it is given is its purpose
	command.Env = append(os.Environ(), "LC_ALL=C", LockVariable+"="+h.LockFile())
	command.WaitDelay = killDelay
	// The signal comes when the starting thread ends; the runtime keeps threads,
	// but for those that elsewhere gives up.
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	return command
}

// Start starts a command in the host; the caller waits for it.
func (h *Host) Start(command *exec.Cmd) error {
	return h.Do(command.Start)
}

// Run runs a command in the host and returns its standard output. An error holds
// the standard error.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	return h.Feed(ctx, "", name, args...)
}

// Feed is Run with a standard input.
func (h *Host) Feed(ctx context.Context, input, name string, args ...string) (string, error) {
	command := h.Command(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(input), &stdout, &stderr
	err := h.Start(command)
	if err == nil {
		err = command.Wait()
	}
	if err != nil {
		return stdout.String(), fmt.Errorf("running %s: %w: %s", command, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
