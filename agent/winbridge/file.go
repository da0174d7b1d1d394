package winbridge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
)

// Update edits the CNI configuration at path in place. It is replaced in one step, with
// its mode kept, and only where something changes, so that no reader meets half of it.
func Update(path string, exceptions []netip.Prefix) (changes []Change, wrote bool, err error) {
	text, err := Read(path)
	if err != nil {
		return nil, false, err
	}
	edited, changes, err := Edit(text, exceptions)
	if err != nil {
		return nil, false, fmt.Errorf("editing %s: %w", path, err)
	}
	if bytes.Equal(edited, text) {
		return changes, false, nil
	}
	if err := replace(path, edited); err != nil {
		return changes, false, fmt.Errorf("writing %s: %w", path, err)
	}
	return changes, true, nil
}

// Read reads a CNI configuration.
func Read(path string) ([]byte, error) {
	file, err := os.Open(path) //nolint:gosec // the caller names it
	if err != nil {
		return nil, fmt.Errorf("reading the CNI configuration: %w", err)
	}
	defer file.Close() //nolint:errcheck // read only: nothing can be lost
	text, err := io.ReadAll(io.LimitReader(file, MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return text, nil
}

// replace puts text in the place of the file that path leads to. Plugins read every file
// of their directory that ends in .conf, .conflist or .json; the temporary one does not.
func replace(path string, text []byte) (err error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temporary.Name()))
		}
	}()
	_, err = temporary.Write(text)
	if err == nil {
		err = temporary.Chmod(info.Mode().Perm())
	}
	if err == nil {
		err = temporary.Sync()
	}
	if err = errors.Join(err, temporary.Close()); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), target)
}
