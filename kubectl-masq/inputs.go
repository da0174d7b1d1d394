package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxFiles bounds what one call reads of directories.
const maxFiles = 10_000

// readAll reads the ConfigMaps out of files and directories; "-" is standard input.
// Every file that cannot be read is told at once, and without one ConfigMap there is
// nothing to judge.
func (o manifestOptions) readAll(paths []string, stdin io.Reader) (verdicts, error) {
	files, alone, err := expand(paths)
	if err != nil {
		return verdicts{}, err
	}
	all := verdicts{alone: alone}
	var others []string
	var wrong []error
	for _, path := range files {
		name, text, err := readInput(path, stdin)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		if o.raw {
			all.documents = append(all.documents, rawDocument(name, text, o.namespace, o.name))
			continue
		}
		found, err := findConfigMaps(name, text, o.namespace, o.name)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		for _, one := range found.found {
			one.several = len(found.found) > 1
		}
		all.documents = append(all.documents, found.found...)
		all.passedOver += found.passed
		for _, other := range found.others {
			if len(files) > 1 {
				other += " of " + name
			}
			others = append(others, other)
		}
		all.alone = alone && len(found.found) == 1
	}
	if len(wrong) > 0 {
		return verdicts{}, errors.Join(wrong...)
	}
	if len(all.documents) == 0 {
		where := fmt.Sprintf("the %d files have", len(files))
		if len(files) == 1 {
			where = nameOf(files[0]) + " has"
		}
		return verdicts{}, noneFound(where, o.namespace, o.name, others)
	}
	return all, nil
}

// nameOf is what messages call a file.
func nameOf(path string) string {
	if path == "-" {
		return "<stdin>"
	}
	return path
}

// expand puts the manifests below directories in their place, and tells whether there
// is nothing but one file.
func expand(paths []string) (files []string, alone bool, err error) {
	alone = len(paths) == 1
	for i, path := range paths {
		if path == "-" && slices.Contains(paths[:i], "-") {
			return nil, false, errors.New("standard input is named twice")
		}
		if info, err := os.Stat(path); path == "-" || err != nil || !info.IsDir() {
			files = append(files, path) // reading it tells what is wrong
			continue
		}
		alone = false
		below, err := manifestsBelow(path)
		if err != nil {
			return nil, false, err
		}
		files = append(files, below...)
		if len(files) > maxFiles {
			return nil, false, fmt.Errorf("there are more than %d files: name fewer directories", maxFiles)
		}
	}
	return files, alone, nil
}

// manifestsBelow are the manifests of a directory and those below it, in order of their
// names. A link to a file is one, a link to a directory is not followed.
func manifestsBelow(directory string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != directory && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir // .git and the like; in a mounted ConfigMap the files stand beside it
		case entry.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(path))):
			return nil
		}
		if info, err := os.Stat(path); err != nil || info.Mode().IsRegular() {
			files = append(files, path) // reading it tells what is wrong
		}
		if len(files) > maxFiles {
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for manifests: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no *.yaml, *.yml or *.json file", directory)
	}
	return files, nil
}
