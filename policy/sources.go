package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Bounds on what a directory of custom rules may hold; a mounted ConfigMap has at
// most 1 MiB.
const (
	maxSourceBytes = 1 << 20
	maxSources     = 1000
	maxSourceDepth = 16 // also ends a ring of symbolic links
)

// IsSource tells whether a file of this name has a part in rules; see Source.
func IsSource(name string) bool {
	return strings.HasSuffix(name, ".rego") || isData(name) || isParams(name)
}

// ReadSources reads the *.rego, data.json and params.yaml files in each directory and the directories
// below it, tests too, in the order of their names. Symbolic links are followed; names that begin with a
// dot are not read, which leaves out the ..data of a mounted ConfigMap, whose files
// are links into it.
func ReadSources(directories ...string) ([]Source, error) {
	var sources []Source
	for _, directory := range directories {
		found, err := readSources(nil, directory, 0)
		if err != nil {
			return nil, fmt.Errorf("reading custom rules: %w", err)
		}
		sources = append(sources, found...)
	}
	return sources, nil
}

func readSources(sources []Source, directory string, depth int) ([]Source, error) {
	if depth > maxSourceDepth {
		return nil, fmt.Errorf("%s is more than %d directories deep", directory, maxSourceDepth)
	}
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		name := filepath.Join(directory, entry.Name())
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		switch {
		case info.IsDir():
			if sources, err = readSources(sources, name, depth+1); err != nil {
				return nil, err
			}
		case !IsSource(name):
		case info.Size() > maxSourceBytes:
			return nil, fmt.Errorf("%s has %d bytes, more than %d", name, info.Size(), maxSourceBytes)
		case len(sources) == maxSources:
			return nil, fmt.Errorf("%s holds more than %d files", directory, maxSources)
		default:
			text, err := os.ReadFile(name) //nolint:gosec // the owner of the rules names the directory
			if err != nil {
				return nil, err
			}
			sources = append(sources, Source{Name: name, Text: text})
		}
	}
	return sources, nil
}
