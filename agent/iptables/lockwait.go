package iptables

import (
	"context"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// lockSample is how often a running command is looked at, and so how exact its wait for the
// lock is known. A command that does not wait is done before the first look, mostly.
const lockSample = 5 * time.Millisecond

// watchLock tells the Trace of ctx how long the process waits for the xtables lock, until
// the function that it returns is called.
//
// The wait is the command's own, and it tells nobody of it: iptables-legacy sleeps in
// flock(2). Taking the lock here first would count something else, twice the queueing, and
// holding it would keep the command out. But the kernel tells in which system call a
// process sleeps (proc_pid_syscall(5)), and iptables calls flock for this lock alone. Where
// it does not tell, no wait is counted.
func watchLock(ctx context.Context, pid int) (stop func()) {
	path := "/proc/" + strconv.Itoa(pid) + "/syscall"
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		ticker := time.NewTicker(lockSample)
		defer ticker.Stop()
		var waited time.Duration
		for last := time.Now(); ; {
			select {
			case <-done:
				if waited > 0 {
					ruleset.TraceOf(ctx).LockWait(waited)
				}
				return
			case now := <-ticker.C:
				if inFlock(path) {
					waited += now.Sub(last)
				}
				last = now
			}
		}
	})
	return func() {
		close(done)
		watching.Wait()
	}
}

// inFlock tells that a process sleeps in flock(2).
func inFlock(path string) bool {
	text, err := os.ReadFile(path) //nolint:gosec // of a process of ours
	if err != nil {
		return false
	}
	number, _, _ := strings.Cut(string(text), " ")
	return number == strconv.Itoa(unix.SYS_FLOCK)
}

// took tells the Trace of ctx how long it was until the function that it returns is called.
func took(ctx context.Context, phase ruleset.Phase) func() {
	began := time.Now()
	return func() { ruleset.TraceOf(ctx).Took(phase, time.Since(began)) }
}
