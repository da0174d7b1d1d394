package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// origin tells where the configuration in force comes from.
type origin string

const (
	fromFile      origin = "file"       // what the file holds now
	fromLastValid origin = "last-valid" // what the file held before it was refused
	fromDefaults  origin = "defaults"   // there is no file, or nothing valid was ever seen
)

// reading is what stood at the configuration path at one moment.
type reading struct {
	text    []byte
	missing bool
	failure string // why the file cannot be read; empty when it can

	files []fileReading // of a directory, which has no text of its own
}

func (r reading) equal(other reading) bool {
	return r.missing == other.missing && r.failure == other.failure && bytes.Equal(r.text, other.text) &&
		slices.EqualFunc(r.files, other.files, fileReading.equal)
}

// read reads the file at path, no more of it than the parser looks at.
func read(path string) reading {
	text, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return reading{missing: true}
	case err != nil:
		return reading{failure: err.Error()}
	}
	return reading{text: text}
}

func readFile(path string) (_ []byte, err error) {
	// Not blocking, since opening a named pipe would wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // reading the file it is told to is its purpose
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file but %s", path, info.Mode().Type())
	}
	return io.ReadAll(io.LimitReader(f, config.MaxBytes+1))
}

// verdict is what the agent, with its flags, makes of a reading.
type verdict struct {
	config   config.Config // of no use when refused
	problems []config.Problem
}

// judge reads text as the agent does that runs with these flags.
func judge(text []byte, flags config.Options) verdict {
	c, problems := config.Parse(text)
	if refused(problems) {
		return verdict{problems: problems}
	}
	c, more := c.For(flags)
	return verdict{config: c, problems: slices.Concat(problems, more)}
}

// judge is judge for a file that may be unreadable, and is not missing.
func (r reading) judge(flags config.Options) verdict {
	if r.failure == "" {
		return judge(r.text, flags)
	}
	return verdict{problems: []config.Problem{{
		Severity: config.Fatal,
		Message:  "the file cannot be read: " + r.failure,
		Remedy:   "mount a file that the agent may read, or none",
	}}}
}

func refused(problems []config.Problem) bool { return count(problems, config.Fatal) > 0 }

func count(problems []config.Problem, severity config.Severity) int {
	n := 0
	for _, p := range problems {
		if p.Severity == severity {
			n++
		}
	}
	return n
}
