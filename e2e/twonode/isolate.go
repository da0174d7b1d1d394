// Package twonode brings up a real Kubernetes cluster with several nodes on one
// machine, as root, without a registry, a virtual machine or Docker: etcd, the control
// plane, and for each node containerd, kubelet and kube-proxy in namespaces of its
// own. Everything is a descendant of one process that is init of its own PID
// namespace, so that a SIGKILL of it, or of whoever started it, leaves no process, no
// mount and no network interface; what else there is, cgroups and one folder, its
// parent removes, or the next start.
package twonode

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Environment of the processes that are started from the program's own file.
const (
	folderVariable = "IPMASQ_TWONODE_FOLDER" // set for init: where it writes
	nodeVariable   = "IPMASQ_TWONODE_NODE"   // set for the init of a node: its name
	sweepVariable  = "IPMASQ_TWONODE_SWEEP"  // set for the sweeper: the folder to remove
)

// prefix begins the names of folders and cgroups of a cluster.
const prefix = "ip-masq-guard-twonode-"

// Place is where a cluster can be started.
type Place struct {
	Folder string       // for files; gone when Run returns
	Door   net.Listener // on the loopback address of the machine, outside of the cluster's network
}

// Run is the main of a program that uses this package: it calls inside, in a child
// process, where namespaces for processes, mounts and the network are those of the
// cluster, and returns the exit code of that child after it has cleaned up. SIGTERM
// ends it with code 0.
//
// Run has to be the first thing that a program does; it also serves as init of a node.
func Run(inside func(Place) int) (code int) {
	if name := os.Getenv(nodeVariable); name != "" {
		return nodeMain(name, os.Getenv(folderVariable))
	}
	if folder := os.Getenv(sweepVariable); folder != "" {
		return sweep(folder)
	}
	if folder := os.Getenv(folderVariable); folder != "" {
		place, err := settle(folder)
		if err != nil {
			fmt.Fprintln(os.Stderr, "twonode:", err)
			return 1
		}
		return inside(place)
	}
	code, err := isolate()
	if err != nil {
		fmt.Fprintln(os.Stderr, "twonode:", err)
		code = max(code, 1)
	}
	return code
}

// isolate runs this program again in new namespaces and cleans up after it.
func isolate() (code int, err error) {
	removeStale()
	door, err := openDoor()
	if err != nil {
		return 1, err
	}
	defer func() { _ = door.Close() }()
	folder, lock, err := newFolder()
	if err != nil {
		return 1, err
	}
	defer func() { _ = lock.Close() }()
	clean, err := startSweeper(folder)
	if err != nil {
		return 1, errors.Join(err, os.RemoveAll(folder))
	}
	defer func() { err = errors.Join(err, clean()) }()

	command := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:noctx // it ends by the signals below
	command.Args[0] = os.Args[0]
	command.Env = append(os.Environ(), folderVariable+"="+folder)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.ExtraFiles = []*os.File{door}
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	// The kernel ties Pdeathsig to the thread that starts the child (prctl(2)).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err = command.Start(); err != nil {
		return 1, fmt.Errorf("starting in new namespaces (this needs root): %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	select {
	case err = <-ended:
	case s := <-signals:
		// Nothing in there keeps anything that a SIGKILL could harm, and with
		// init every process of the namespace ends before Wait returns.
		err = errors.Join(fmt.Errorf("ending on %s", s), command.Process.Kill())
		<-ended //nolint:errcheck // it was killed, so its error says nothing
		if s == syscall.SIGTERM {
			return 0, nil
		}
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// startSweeper starts the process that removes what the kernel does not: it begins
// when clean is called, or when this process ends, however that happens.
func startSweeper(folder string) (clean func() error, err error) {
	alive, end, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting the sweeper: %w", err)
	}
	defer func() { _ = alive.Close() }()
	command := exec.Command("/proc/self/exe") //nolint:noctx // it ends by itself
	command.Env = append(os.Environ(), sweepVariable+"="+folder)
	command.Stdin, command.Stderr = alive, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // out of reach of a terminal's signals
	if err := command.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the sweeper: %w", err), end.Close())
	}
	return func() error {
		return errors.Join(end.Close(), command.Wait())
	}, nil
}

// sweep waits for the end of its standard input and then removes cgroups and folder.
func sweep(folder string) int {
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := remove(folder); err != nil {
		fmt.Fprintln(os.Stderr, "twonode:", err)
		return 1
	}
	return 0
}

// removeLimit bounds the wait for the last processes to be gone.
const removeLimit = 15 * time.Second

func remove(folder string) error {
	deadline := time.Now().Add(removeLimit)
	for {
		err := errors.Join(removeCgroups(filepath.Base(folder)), os.RemoveAll(folder))
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// newFolder makes the cluster's folder. Its lock is held as long as this process
// lives, whatever becomes of it: a folder without one is stale.
func newFolder() (string, *os.File, error) {
	parent, err := filepath.EvalSymlinks(os.TempDir())
	if err != nil {
		return "", nil, fmt.Errorf("looking for the folder of temporary files: %w", err)
	}
	if parent == "/var" || strings.HasPrefix(parent, "/var/") || strings.HasPrefix(parent, "/run") {
		// Nodes have a /var and a /run of their own.
		return "", nil, fmt.Errorf("making a folder in %s: nodes could not see it; set TMPDIR to another place", parent)
	}
	folder, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return "", nil, fmt.Errorf("making a folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		return "", nil, fmt.Errorf("making a lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return "", nil, fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	return folder, lock, nil
}

// removeStale removes what a run has left whose first process was killed. Nothing of
// that is in use, so what cannot be removed is of no consequence to this run.
func removeStale() {
	folders, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	for _, folder := range folders {
		lock, err := os.Open(filepath.Join(folder, "lock"))
		if err != nil {
			continue // about to be made, or another's
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = remove(folder)
		}
		_ = lock.Close()
	}
}

// openDoor listens on the machine's loopback address.
func openDoor() (*os.File, error) {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("opening a port for the cluster: %w", err)
	}
	defer func() { _ = listener.Close() }() // the file is a descriptor of its own
	return listener.File()
}

// settle makes the new namespaces fit to live in: no mount reaches the machine, and
// /proc shows this namespace's processes.
func settle(folder string) (Place, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return Place{}, fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return Place{}, fmt.Errorf("mounting /proc: %w", err)
	}
	file := os.NewFile(3, "door")
	door, err := net.FileListener(file)
	if err != nil {
		return Place{}, fmt.Errorf("inheriting the port: %w", err)
	}
	return Place{Folder: folder, Door: door}, file.Close()
}

// cgroupRoot is where Debian and systemd mount the hierarchies.
const cgroupRoot = "/sys/fs/cgroup"

// hierarchies are those of cgroup v1 that a kubelet wants.
//
//nolint:gochecknoglobals // a constant in all but the language
var hierarchies = []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"}

// makeCgroup makes a cgroup in each hierarchy. A cpuset starts without processors and
// memory, so it is given its parent's.
func makeCgroup(name string) error {
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		return errors.New("making cgroups: this machine has cgroup v2 alone, and the nodes are built for v1")
	}
	for _, hierarchy := range hierarchies {
		parent := filepath.Join(cgroupRoot, hierarchy)
		dir := filepath.Join(parent, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making cgroup %s: %w", dir, err)
		}
		if hierarchy != "cpuset" {
			continue
		}
		at := parent
		for part := range strings.SplitSeq(name, "/") {
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				value, err := os.ReadFile(filepath.Join(at, file))
				if err == nil {
					err = os.WriteFile(filepath.Join(at, part, file), value, 0o600)
				}
				if err != nil {
					return fmt.Errorf("filling cgroup %s: %w", dir, err)
				}
			}
			at = filepath.Join(at, part)
		}
	}
	return nil
}

// removeCgroups removes a cgroup and all below it from every hierarchy.
func removeCgroups(name string) error {
	var errs []error
	for _, hierarchy := range append([]string{"unified"}, hierarchies...) { // runc makes one there too
		if err := removeTree(filepath.Join(cgroupRoot, hierarchy, name)); err != nil {
			errs = append(errs, fmt.Errorf("removing cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

// removeTree removes folders, the innermost first. The files in a cgroup's folder go
// with it.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(dir)
}
