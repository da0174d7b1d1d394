package main

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	err := os.WriteFile(path("file"), []byte("masqLinkLocal: true\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("huge"), bytes.Repeat([]byte("#"), 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("gone", path("dangling")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, path string
		want       reading
	}{
		{"a file", path("file"), reading{text: []byte("masqLinkLocal: true\n")}},
		{"no file", path("none"), reading{missing: true}},
		{"no directory", path("none/none"), reading{missing: true}},
		{"a dangling link", path("dangling"), reading{missing: true}},
		{"a directory", dir, reading{failure: dir + " is no regular file but d---------"}},
		{"a pipe without a writer", path("pipe"), reading{failure: path("pipe") + " is no regular file but p---------"}},
		{"below a file", path("file/x"), reading{failure: "open " + path("file/x") + ": not a directory"}},
		{"a huge file is cut where the parser refuses it", path("huge"), reading{text: bytes.Repeat([]byte("#"), 1<<20+1)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := read(test.path)
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(reading{})); diff != "" {
				t.Errorf("reading differs (-want +got):\n%s", diff)
			}
		})
	}
}
