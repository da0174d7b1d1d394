package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// maxSwaps bounds how often a directory is read anew because a volume was swapped
// meanwhile.
const maxSwaps = 3

// fileReading is what one file of a directory held.
type fileReading struct {
	name string
	reading
}

func (f fileReading) equal(other fileReading) bool {
	return f.name == other.name && f.reading.equal(other.reading)
}

// readDirectory reads the files of a directory, in the order of their names. All are of
// one version of a ConfigMap volume.
func readDirectory(dir string) reading {
	var now reading
	for range maxSwaps {
		before, _ := os.Readlink(filepath.Join(dir, volumeLink)) // empty: no such volume
		now = readFiles(dir)
		if after, _ := os.Readlink(filepath.Join(dir, volumeLink)); after == before {
			break
		}
	}
	return now
}

func readFiles(dir string) reading {
	names, err := filesOf(dir)
	if err != nil {
		return reading{failure: err.Error()}
	}
	var now reading
	for _, name := range names {
		one := read(filepath.Join(dir, name))
		if one.missing {
			continue
		}
		if now.files = append(now.files, fileReading{name, one}); len(now.files) > config.MaxFiles {
			break // one more, so that it is reported
		}
	}
	now.missing = len(now.files) == 0
	return now
}

// filesOf are the names that are read of a directory, sorted; none without one.
func filesOf(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), config.FilePrefix) {
			continue
		}
		if info, err := os.Stat(filepath.Join(dir, entry.Name())); err == nil && info.IsDir() {
			continue
		}
		names = append(names, entry.Name())
	}
	return names, nil
}
