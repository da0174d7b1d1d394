package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// transcript is one command as a person has it on the screen.
func transcript(args []string, got output) string {
	return fmt.Sprintf("$ kubectl %s\n=== stdout\n%s=== stderr\n%s=== exit %d\n",
		strings.Join(args, " "), got.stdout, got.stderr, got.exit)
}

// What no two runs have in common.
var (
	tempFile = regexp.MustCompile(`/[^\s"]*/(kubectl-edit-|LIVE-|MERGED-)\d+`)
	identity = regexp.MustCompile(`(?m)^([ +-]*(?:creationTimestamp|resourceVersion|uid): ).*$`)
)

// golden compares what a person has seen, byte for byte, with
// testdata/transcripts/TEST/CASE.txt.
func golden(t *testing.T, got string) {
	t.Helper()
	got = tempFile.ReplaceAllString(got, "/tmp/${1}1")
	got = identity.ReplaceAllString(got, "${1}SOME")
	path := filepath.Join("testdata", "transcripts", t.Name()+".txt")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got), -update rewrites it:\n%s", path, diff)
	}
}
