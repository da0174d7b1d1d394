//go:build !windows

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// expectation is the digest that somebody outside wants to see applied: the value of an
// annotation of the pod, which the kubelet mounts as a file. Its zero value
// expects nothing.
type expectation struct {
	digest string    // empty: nothing is expected
	since  time.Time // when the file was written
	err    error     // why it is not known what is expected
}

// maxExpected bounds what is read of the file, in bytes.
const maxExpected = 4 << 10

// sha256Text is a digest as sha256sum prints it.
var sha256Text = regexp.MustCompile(`^[0-9a-f]{64}$`)

// expect reads the file at path. No file, an empty one and no path expect nothing:
// without the annotation the kubelet writes an empty file.
func expect(path string) expectation {
	if path == "" {
		return expectation{}
	}
	text, since, err := readExpected(path)
	if errors.Is(err, fs.ErrNotExist) {
		return expectation{}
	}
	if err != nil {
		return expectation{err: fmt.Errorf("reading the expected digest: %w", err)}
	}
	value := strings.TrimSpace(text)
	if value == "" {
		return expectation{}
	}
	digest := strings.TrimPrefix(strings.ToLower(value), "sha256:")
	if !sha256Text.MatchString(digest) {
		return expectation{err: fmt.Errorf("reading the expected digest: %.80q in %s is no SHA-256; write its 64 hexadecimal digits", value, path)}
	}
	return expectation{digest: digest, since: since}
}

func readExpected(path string) (_ string, written time.Time, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // reading the file it is told to is its purpose
	if err != nil {
		return "", time.Time{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return "", time.Time{}, err
	}
	if !info.Mode().IsRegular() {
		return "", time.Time{}, fmt.Errorf("%s is no regular file but %s", path, info.Mode().Type())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxExpected))
	return string(text), info.ModTime(), err
}

// met tells why what was applied is not what is expected, or nil.
func (e expectation) met(applied *applied) error {
	switch {
	case e.err != nil:
		return e.err
	case e.digest == "":
		return nil
	case applied == nil:
		return fmt.Errorf("expected %s since %s, and nothing is applied yet", e.digest, instant(e.since))
	case applied.digest == e.digest:
		return nil
	}
	name := applied.digest
	if name == "" {
		name = "the defaults"
	}
	return fmt.Errorf("expected %s since %s, applied %s since %s; a mounted ConfigMap follows its object within 90 s",
		e.digest, instant(e.since), name, instant(applied.since))
}

// instant is how people are told a time.
func instant(t time.Time) string { return t.UTC().Format(time.RFC3339) }
