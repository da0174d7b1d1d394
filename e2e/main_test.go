package e2e

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

//nolint:gochecknoglobals // a flag of the test binary
var update = flag.Bool("update", false, "rewrite the golden files of testdata from what happened")

// TestMain makes this binary serve kubectl as its editor too, and ends what the
// tests shared: neither a process nor a folder outlives them.
func TestMain(m *testing.M) {
	if script := os.Getenv(editorScriptVariable); script != "" {
		if err := editBuffer(script, os.Getenv(editorRecordVariable), os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "editor:", err)
			os.Exit(1) //nolint:forbidigo // this is the editor's main
		}
		return
	}
	code := m.Run()
	theGuard.stop()
	theControlPlane.stop()
	theBinaries.remove()
	os.Exit(code) //nolint:forbidigo // this is the tests' main
}
