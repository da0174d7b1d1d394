package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// stateFile in the state directory has one line, stateHeader and the SHA-256 of the
// rest, and then the text of the last valid configuration as it was read. It
// holds a text and no rules: flags, which may differ after a restart, are applied to
// it when it is loaded.
const (
	stateFile   = "last-valid"
	stateHeader = "ip-masq-guard last valid configuration, version 1, sha256 "
)

// store keeps the text of the last valid configuration over restarts. Its zero
// value keeps nothing.
type store struct {
	dir  string
	file string // of several files the one whose text it is; empty: of the only one
	kept string // digest of the text that the file holds, or nothing; empty when that is not known
}

// nothing stands for the digest of the text of no file.
const nothing = "nothing"

// name is that of the file in the state directory.
func (s *store) name() string {
	if s.file == "" {
		return stateFile
	}
	return stateFile + "." + s.file
}

// several are the files whose texts are kept, sorted.
func (s *store) several() ([]string, error) {
	if s.dir == "" {
		return nil, nil
	}
	present, err := filepath.Glob(filepath.Join(s.dir, stateFile+"."+config.FilePrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("looking for the last valid configuration: %w", err)
	}
	var files []string
	for _, path := range present {
		if file := strings.TrimPrefix(filepath.Base(path), stateFile+"."); !strings.HasSuffix(file, temporary) {
			files = append(files, file)
		}
	}
	return files, nil
}

// forget removes the texts of several files that are gone.
func (s *store) forget(gone func(file string) bool) error {
	files, err := s.several()
	errs := []error{err}
	for _, file := range files {
		if gone(file) {
			errs = append(errs, (&store{dir: s.dir, file: file}).clear())
		}
	}
	return errors.Join(errs...)
}

// load returns the text that was kept, and fs.ErrNotExist when there is none.
func (s *store) load() ([]byte, error) {
	if s.dir == "" {
		return nil, fs.ErrNotExist
	}
	text, err := readState(filepath.Join(s.dir, s.name()))
	if err != nil {
		return nil, fmt.Errorf("loading the last valid configuration: %w", err)
	}
	s.kept = config.Digest(text)
	return text, nil
}

func readState(path string) (_ []byte, err error) {
	f, err := os.Open(path) //nolint:gosec // reading the folder it is told to is its purpose
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	const most = len(stateHeader) + 64 + 1 + config.MaxBytes // 64: a SHA-256 in hexadecimal
	content, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err != nil {
		return nil, err
	}
	header, text, _ := bytes.Cut(content, []byte("\n"))
	sum, ours := bytes.CutPrefix(header, []byte(stateHeader))
	switch {
	case len(content) > most:
		return nil, fmt.Errorf("%s is corrupt: longer than %d bytes", path, most)
	case !ours:
		return nil, fmt.Errorf("%s is corrupt: it does not begin with %q", path, stateHeader)
	case string(sum) != config.Digest(text):
		return nil, fmt.Errorf("%s is corrupt: the checksum of its text is %s, not %s", path, config.Digest(text), sum)
	}
	return text, nil
}

// save keeps text; what is kept already is not written again. The file is replaced
// as a whole, so that a crash leaves either text behind.
func (s *store) save(text []byte) error {
	sum := config.Digest(text)
	if s.dir == "" || s.kept == sum {
		return nil
	}
	content := append([]byte(stateHeader+sum+"\n"), text...)
	if err := replace(s.dir, s.name(), content); err != nil {
		return fmt.Errorf("saving the last valid configuration: %w", err)
	}
	s.kept = sum
	return nil
}

// clear makes the store keep nothing.
func (s *store) clear() error {
	if s.dir == "" || s.kept == nothing {
		return nil
	}
	err := os.Remove(filepath.Join(s.dir, s.name()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the last valid configuration: %w", err)
	}
	s.kept = nothing
	return nil
}

// files are those of the store that are there, with what a crash may leave.
func (s *store) files() ([]string, error) {
	if s.dir == "" {
		return nil, nil
	}
	var present []string
	several, err := filepath.Glob(filepath.Join(s.dir, stateFile+"."+config.FilePrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("looking for the last valid configuration: %w", err)
	}
	for _, path := range append([]string{filepath.Join(s.dir, stateFile), filepath.Join(s.dir, stateFile+temporary)}, several...) {
		_, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return present, fmt.Errorf("looking for the last valid configuration: %w", err)
		}
		present = append(present, path)
	}
	return present, nil
}

// purge removes the files of the store and returns their names. The directory stays:
// it may be a mount, or have been there before.
func (s *store) purge() ([]string, error) {
	var removed []string
	present, err := s.files()
	for _, path := range present {
		if gone := os.Remove(path); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("removing the last valid configuration: %w", gone))
			continue
		}
		removed = append(removed, path)
	}
	return removed, err
}

// temporary ends the name of a file that is being written.
const temporary = ".tmp"

// replace writes a file by rename, durably: first its content reaches the disk,
// then its name.
func replace(dir, name string, content []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, name)
	unfinished := path + temporary // what a crash leaves is overwritten the next time
	if err := writeSynced(unfinished, content); err != nil {
		return err
	}
	if err := os.Rename(unfinished, path); err != nil {
		return err
	}
	return syncDir(dir)
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // in the folder it is told to use
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}
