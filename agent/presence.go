//go:build !windows

package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// presence begins the name of a socket that every agent holds while it runs, followed
// by its chain and something of its own. It is an abstract one (unix(7)): it
// belongs to the network namespace whose rules the agent holds, wherever else its
// container lives, and is gone with the process, however that ends.
const presence = "@ip-masq-guard/agent/"

// present shows others in this network namespace that an agent with this chain runs,
// until the function that it returns is called.
func present(ctx context.Context, chain string) (absent func(), err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", presence+chain+"/"+rand.Text())
	if err != nil {
		return func() {}, fmt.Errorf("showing that an agent runs: %w", err)
	}
	return func() { _ = listener.Close() }, nil // its name goes with the process at the latest
}

// running tells whether an agent with this chain runs in this network namespace.
func running(chain string) (bool, error) {
	sockets, err := os.ReadFile("/proc/thread-self/net/unix")
	if err != nil {
		return false, fmt.Errorf("looking for a running agent: %w", err)
	}
	return strings.Contains(string(sockets), " "+presence+chain+"/"), nil
}

// alone waits until no agent with this chain runs here, and fails when one still does
// after patience.
func alone(ctx context.Context, chain string, patience time.Duration) error {
	const pause = 100 * time.Millisecond
	deadline := time.Now().Add(patience)
	for {
		switch runs, err := running(chain); {
		case err != nil:
			return err
		case !runs:
			return nil
		case !time.Now().Before(deadline):
			return fmt.Errorf("an agent with chain %s runs on this node and would put its rules back; "+
				"stop it first, or wait with --wait for it to stop", chain)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the agent to stop: %w", ctx.Err())
		case <-time.After(pause):
		}
	}
}
