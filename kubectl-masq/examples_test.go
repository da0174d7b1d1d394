package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

const (
	writingRules = "../docs/writing-rules.md"
	examples     = "../docs/examples/rules"
)

// workedRules are the folders of examples by their names.
func workedRules(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(examples)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if len(names) < 8 {
		t.Fatalf("%d worked rules, expected eight: %v", len(names), names)
	}
	return names
}

func sourcesOf(t *testing.T, directory string) []policy.Source {
	t.Helper()
	sources, err := policy.ReadSources(directory)
	if err != nil {
		t.Fatal(err)
	}
	return sources
}

// TestWorkedRules does with each worked rule what its reader is told to: it passes its own
// tests, which reach every line, and comes into force beside all others without a word.
func TestWorkedRules(t *testing.T) {
	all := sourcesOf(t, examples)
	for _, name := range workedRules(t) {
		t.Run(name, func(t *testing.T) {
			directory := filepath.Join(examples, name)
			if stdout, stderr, exit := masq(t, "test", directory, "--coverage", "--threshold", "100"); exit != 0 {
				t.Errorf("exit %d: %s%s", exit, stdout, stderr)
			}
			if cases, err := filepath.Glob(filepath.Join(directory, "testdata", "*.yaml")); err != nil || len(cases) == 0 {
				t.Errorf("no configuration in testdata: %v", err)
			}
			own := sourcesOf(t, directory)
			beside := slices.DeleteFunc(slices.Clone(all), func(s policy.Source) bool {
				return strings.HasPrefix(s.Name, directory+string(filepath.Separator))
			})
			_, complaints := policy.Vetting{Beside: beside, Cluster: policy.SampleCluster()}.Vet(t.Context(), own)
			for _, complaint := range complaints {
				t.Errorf("%s: %s", complaint.Action, complaint)
			}
			for _, source := range own {
				checkFormat(t, source)
			}
		})
	}
}

// checkFormat is opa fmt --fail, with lines that a document can show.
func checkFormat(t *testing.T, source policy.Source) {
	t.Helper()
	if !strings.HasSuffix(source.Name, ".rego") {
		return
	}
	formatted, err := format.SourceWithOpts(source.Name, source.Text, format.Opts{
		RegoVersion: ast.RegoV1, ParserOptions: &ast.ParserOptions{RegoVersion: ast.RegoV1},
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(formatted), string(source.Text)); diff != "" {
		t.Errorf("%s is not what opa fmt makes of it (-want +got):\n%s", source.Name, diff)
	}
	for i, line := range strings.Split(string(source.Text), "\n") {
		if len(line) > 120 {
			t.Errorf("%s:%d: %d columns, more than 120", source.Name, i+1, len(line))
		}
	}
}

// codeBlock is a block of the document that shows a file.
var codeBlock = regexp.MustCompile("(?s)<!-- (examples/\\S+) -->\n```(\\w+)\n(.*?)```\n")

// TestWritingRulesShowsFiles keeps the blocks of the document what the files are, and misses none
// but the tests, to which it links.
func TestWritingRulesShowsFiles(t *testing.T) {
	shown := map[string]bool{}
	keepDocument(t, func(text []byte) []byte {
		return codeBlock.ReplaceAllFunc(text, func(block []byte) []byte {
			parts := codeBlock.FindSubmatch(block)
			name := string(parts[1])
			file, err := os.ReadFile(filepath.Join("../docs", name))
			if err != nil {
				t.Fatal(err)
			}
			shown[name] = true
			return slices.Concat([]byte("<!-- "+name+" -->\n```"), parts[2], []byte("\n"), file, []byte("```\n"))
		})
	})
	text, err := os.ReadFile(writingRules)
	if err != nil {
		t.Fatal(err)
	}
	err = fs.WalkDir(os.DirFS("../docs"), "examples/rules", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if strings.HasSuffix(name, "_test.rego") {
			if !strings.Contains(string(text), "("+name+")") {
				t.Errorf("%s has no link to %s", writingRules, name)
			}
		} else if !shown[name] {
			t.Errorf("%s does not show %s", writingRules, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// consoleBlock is what somebody types, each line after a $, and reads.
var consoleBlock = regexp.MustCompile("(?s)```console\n(.*?)```\n")

// TestWritingRulesTranscript types what the document says, in its order, and reads what it
// shows.
func TestWritingRulesTranscript(t *testing.T) {
	typed := 0
	keepDocument(t, func(text []byte) []byte {
		t.Chdir(t.TempDir())
		return consoleBlock.ReplaceAllFunc(text, func(block []byte) []byte {
			var b bytes.Buffer
			b.WriteString("```console\n")
			for line := range strings.Lines(string(block)) {
				if command, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "$ "); ok {
					typed++
					b.WriteString(line + typeLine(t, command))
				}
			}
			b.WriteString("```\n")
			return b.Bytes()
		})
	})
	if typed < 5 {
		t.Errorf("%d commands in %s", typed, writingRules)
	}
}

// typeLine runs one line of a transcript and gives all that it prints.
func typeLine(t *testing.T, line string) string {
	t.Helper()
	if args, ok := strings.CutPrefix(line, "kubectl masq "); ok {
		stdout, stderr, _ := masq(t, strings.Fields(args)...)
		return stdout + stderr
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// keepDocument compares the document with what it should be, and with -update writes it.
func keepDocument(t *testing.T, of func([]byte) []byte) {
	t.Helper()
	path, err := filepath.Abs(writingRules)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := of(text)
	diff := cmp.Diff(string(want), string(text))
	switch {
	case diff == "":
	case *update:
		if err = os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is out of date; run go test ./kubectl-masq -args -update (-want +got):\n%s", writingRules, diff)
	}
}
