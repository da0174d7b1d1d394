package netns

import (
	"errors"
	"net/netip"
	"os"
	"syscall"
	"testing"
)

// Require skips the test without the privilege to make a host, or fails it where
// REQUIRE_NETNS=1 says that the privilege should be there.
func Require(tb testing.TB) {
	tb.Helper()
	h, err := New()
	if err == nil {
		err = h.Close()
	}
	switch {
	case err == nil:
	case errors.Is(err, syscall.EPERM) && os.Getenv("REQUIRE_NETNS") != "1":
		tb.Skipf("no privilege for a network namespace; try 'unshare -rn go test': %v", err)
	default:
		tb.Fatal(err)
	}
}

// ForTest makes a host for one test, with its own xtables lock; it calls Require.
// The test cannot be parallel, since the lock is an environment variable.
func ForTest(tb testing.TB) *Host {
	tb.Helper()
	Require(tb)
	h, err := New()
	if err != nil {
		tb.Fatal(err)
	}
	closeAfter(tb, h.Close)
	tb.Setenv(LockVariable, h.LockFile())
	return h
}

// LabForTest makes a Lab for one test; the xtables lock is the node's.
func LabForTest(tb testing.TB, destinations ...netip.Addr) *Lab {
	tb.Helper()
	Require(tb)
	l, err := NewLab(destinations...)
	if err != nil {
		tb.Fatal(err)
	}
	closeAfter(tb, l.Close)
	tb.Setenv(LockVariable, l.Node.LockFile())
	return l
}

func closeAfter(tb testing.TB, closing func() error) {
	tb.Helper()
	tb.Cleanup(func() {
		if err := closing(); err != nil {
			tb.Errorf("cleaning up: %v", err)
		}
	})
}

// Output runs a command in the host and returns its standard output; a failure
// ends the test.
func (h *Host) Output(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := h.Run(tb.Context(), name, args...)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}
