package twonode

import (
	"os"
	"testing"
)

// RequireVariable has tests on clusters with nodes run, and fail where they cannot.
// They need root, Debian's containerd and runc, and minutes.
const RequireVariable = "REQUIRE_NODES"

// Require skips a test that needs a cluster with nodes, unless RequireVariable is 1.
func Require(t *testing.T) {
	t.Helper()
	if os.Getenv(RequireVariable) != "1" {
		t.Skipf("brings up a cluster with nodes: `make twonode`, or %s=1, runs it", RequireVariable)
	}
}
