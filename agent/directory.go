//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// keptFile is the last valid text of one file.
type keptFile struct {
	part  config.Part
	text  []byte
	store store
}

// observeDirectory is observe for several files. Each is judged by itself: for one that
// is refused, its own last valid text counts, and the others are in force as they are.
func (s *syncer) observeDirectory(ctx context.Context, now reading) {
	s.seen = &now
	s.problems = nil
	switch {
	case now.failure != "":
		s.problems = now.judge(s.opts.config).problems
		s.refuseAll(ctx)
		return
	case now.missing:
		s.log.InfoContext(ctx, "no configuration file, so the defaults are in force", "config", s.opts.configDir, "prefix", config.FilePrefix)
		s.parts = nil
		s.enforce(s.defaults())
		s.metrics.judged(nil)
		return
	}
	parts := map[string]keptFile{}
	var inOrder []config.Part
	from := fromFile
	for _, file := range now.files {
		part, problems := file.part(s.opts.config)
		s.problems = append(s.problems, problems...)
		kept := keptFile{part, file.text, s.storeOf(file.name)}
		if refused(problems) {
			from = fromLastValid
			var ok bool
			if kept, ok = s.lastValid(ctx, file.name); !ok {
				s.log.ErrorContext(ctx, "configuration file refused, and nothing of it is in force", "config", s.opts.configDir, "file", file.name, "digest", config.Digest(file.text))
				continue
			}
			s.log.ErrorContext(ctx, "configuration file refused", "config", s.opts.configDir, "file", file.name, "digest", config.Digest(file.text),
				"inForce", fromLastValid, "inForceDigest", config.Digest(kept.text))
		}
		parts[file.name] = kept
		inOrder = append(inOrder, kept.part)
	}
	merged, more := config.Merge(inOrder, s.opts.config)
	s.problems = append(s.problems, more...)
	s.metrics.judged(s.problems)
	s.logProblems(ctx, s.problems)
	if refused(more) {
		from = fromLastValid
	}
	s.parts = parts
	if len(inOrder) == 0 {
		s.enforce(s.defaults())
		return
	}
	s.enforce(inForce{inForceName: inForceName{digest: s.digestOf(inOrder), origin: from}, whole: merged})
}

// refuseAll keeps what is in force when the directory cannot be read; at the start that is
// what was kept.
func (s *syncer) refuseAll(ctx context.Context) {
	if s.force.origin == "" {
		s.enforce(s.fallbackFiles(ctx))
	}
	if s.force.origin == fromFile {
		s.force.origin = fromLastValid
	}
	s.metrics.judged(s.problems)
	s.log.ErrorContext(ctx, "configuration directory cannot be read", "config", s.opts.configDir, "inForce", s.force.origin)
	s.logProblems(ctx, s.problems)
}

// fallbackFiles is fallback for several files.
func (s *syncer) fallbackFiles(ctx context.Context) inForce {
	names, err := s.store.several()
	if err != nil {
		s.log.WarnContext(ctx, "last valid configuration ignored", "error", err)
	}
	parts := map[string]keptFile{}
	var inOrder []config.Part
	for _, name := range names {
		if kept, ok := s.lastValid(ctx, name); ok {
			parts[name], inOrder = kept, append(inOrder, kept.part)
		}
	}
	if s.parts = parts; len(parts) == 0 {
		return s.defaults()
	}
	merged, _ := config.Merge(inOrder, s.opts.config)
	return inForce{inForceName: inForceName{digest: s.digestOf(inOrder), origin: fromLastValid}, whole: merged}
}

// part reads one of the files.
func (f fileReading) part(flags config.Options) (config.Part, []config.Problem) {
	if f.failure != "" {
		problems := f.judge(flags).problems
		problems[0].File = f.name
		return config.Part{}, problems
	}
	return config.ParseFile(config.File{Name: f.name, Text: f.text}, flags)
}

func (s *syncer) storeOf(name string) store {
	if kept, ok := s.parts[name]; ok {
		return kept.store
	}
	return store{dir: s.opts.stateDir, file: name}
}

// lastValid is the last valid text of a file, of this run or of an earlier one.
func (s *syncer) lastValid(ctx context.Context, name string) (keptFile, bool) {
	if kept, ok := s.parts[name]; ok {
		return kept, true
	}
	kept := keptFile{store: s.storeOf(name)}
	text, err := kept.store.load()
	if errors.Is(err, fs.ErrNotExist) {
		return keptFile{}, false
	}
	if err != nil {
		s.log.WarnContext(ctx, "last valid configuration ignored", "file", name, "error", err)
		return keptFile{}, false
	}
	part, problems := config.ParseFile(config.File{Name: name, Text: text}, s.opts.config)
	if refused(problems) {
		s.log.WarnContext(ctx, "last valid configuration ignored, these flags refuse it", "file", name, "digest", config.Digest(text))
		s.logProblems(ctx, problems)
		return keptFile{}, false
	}
	kept.part, kept.text = part, text
	return kept, true
}

// keptFiles is kept for several files.
func (s *syncer) keptFiles() (_ config.Config, ok bool) {
	names, err := s.store.several()
	if err != nil {
		return config.Config{}, false
	}
	var parts []config.Part
	for _, name := range names {
		one := store{dir: s.opts.stateDir, file: name}
		text, err := one.load()
		if err != nil {
			continue
		}
		if part, problems := config.ParseFile(config.File{Name: name, Text: text}, s.opts.config); !refused(problems) {
			parts = append(parts, part)
		}
	}
	merged, _ := config.Merge(parts, s.opts.config)
	return merged, len(parts) > 0
}

// digestOf names the texts of several files.
func (s *syncer) digestOf(parts []config.Part) string {
	files := make([]config.File, len(parts))
	for i, part := range parts {
		files[i] = config.File{Name: part.Name, Text: s.parts[part.Name].text}
	}
	return config.DigestFiles(files)
}

// rememberFiles keeps the last valid text of each file, and forgets those of files that
// are gone.
func (s *syncer) rememberFiles() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s.parts)) {
		kept := s.parts[name]
		errs = append(errs, kept.store.save(kept.text))
		s.parts[name] = kept
	}
	if s.seen.failure != "" {
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, s.store.forget(func(name string) bool {
		return !slices.ContainsFunc(s.seen.files, func(f fileReading) bool { return f.name == name })
	}))...)
}

// loadDirectory is load for several files: any that is refused fails.
func loadDirectory(opts options, tellProblem func(config.Problem)) (_ config.Config, missing bool, err error) {
	now := readDirectory(opts.configDir)
	if now.failure != "" {
		return config.Config{}, false, fmt.Errorf("reading %s: %s", opts.configDir, now.failure)
	}
	var problems []config.Problem
	var parts []config.Part
	for _, file := range now.files {
		part, more := file.part(opts.config)
		problems, parts = append(problems, more...), append(parts, part)
	}
	if refused(problems) {
		parts = nil
	}
	merged, more := config.Merge(parts, opts.config)
	problems = append(problems, more...)
	for _, p := range problems {
		tellProblem(p)
	}
	if n := count(problems, config.Fatal); n > 0 {
		return config.Config{}, false, fmt.Errorf("%s is refused: %d fatal problem(s); the kernel is untouched", opts.configDir, n)
	}
	return merged, now.missing, nil
}
