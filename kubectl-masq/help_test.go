package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// TestHelp wants of every command an example, what its exit codes mean, and which fields
// its JSON has.
func TestHelp(t *testing.T) {
	commands := 0
	var document strings.Builder
	document.WriteString(documentHead)
	var look func(command *cobra.Command)
	look = func(command *cobra.Command) {
		if name := command.Name(); name == "help" || name == "completion" {
			return // what cobra brings has its own help
		}
		for _, below := range command.Commands() {
			look(below)
		}
		if command.HasSubCommands() {
			return
		}
		commands++
		stdout, stderr, exit := masq(t, append(strings.Fields(command.CommandPath())[2:], "--help")...)
		if exit != 0 || stderr != "" || !strings.HasPrefix(stdout, command.Long) {
			t.Errorf("%s --help: exit %d: %s%s", command.CommandPath(), exit, stdout, stderr)
		}
		document.WriteString("\n## " + command.CommandPath() + "\n\n```\n" + stdout + "```\n")
		want := []string{"Exit codes: 0 ", "2 wrong usage", "Examples:\n"}
		if output := command.Flag("output"); output != nil && strings.Contains(output.Usage, "json") {
			want = append(want, "JSON output")
		}
		for _, part := range want {
			if !strings.Contains(stdout, part) {
				t.Errorf("%s --help does not have %q", command.CommandPath(), part)
			}
		}
		for line := range strings.Lines(stdout) {
			if len(line) > 200 {
				t.Errorf("%s --help: %d columns: %s", command.CommandPath(), len(line), line)
			}
		}
	}
	look(rootCommand(streams{out: &bytes.Buffer{}, err: &bytes.Buffer{}}))
	if commands != 14 {
		t.Errorf("%d commands", commands)
	}
	const file = "../docs/kubectl-masq.md"
	if *update {
		if err := os.WriteFile(file, []byte(document.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(document.String(), string(text)); diff != "" {
		t.Errorf("%s differs from the help, -update rewrites it (-want +got):\n%s", file, diff)
	}
}

const documentHead = `# kubectl masq

What ` + "`--help`" + ` of each command says: a test keeps this page so. Put ` + "`bin/kubectl-masq`" + ` on the PATH, and
` + "`bin/kubectl_complete-masq`" + ` beside it for the completion of ` + "`kubectl masq`" + `.

Exit codes mean the same everywhere: 0 approved, or nothing to tell; 1 violations, a configuration that does not load, a difference,
something odd; 2 wrong usage, or input that cannot be read. With 2 the standard error says why, and nothing on the standard output is to be
relied on. JSON goes to the standard output alone; its fields may become more, but none goes away or changes its meaning.
`

// TestJSONIsDocumented wants every field of what transcripts show in the help.
func TestJSONIsDocumented(t *testing.T) {
	for command, transcripts := range map[string][]string{
		"check":       {"refused-json", "several-json", "overrides-json"},
		"explain":     {"explain-json", "explain-overrides-json", "explain-files-json"},
		"diff":        {"diff-json", "diff-overrides-json"},
		"portability": {"portability-json", "portability-files-json"},
		"status":      {"status-json", "status-odd-json"},
		"replay":      {"replay-json"},
		"test":        {"test-json"},
		"eval":        {"eval-json"},
	} {
		help, _, _ := masq(t, command, "--help")
		_, help, _ = strings.Cut(help, "JSON output")
		help, _, _ = strings.Cut(help, "Usage:")
		words := strings.FieldsFunc(help, func(r rune) bool { return !unicode.IsLetter(r) && r != '_' })
		seen := map[string]bool{}
		var look func(value any)
		look = func(value any) {
			switch value := value.(type) {
			case map[string]any:
				for key, below := range value {
					if !seen[key] && !slices.Contains(words, key) {
						t.Errorf("%s --help does not tell of %q", command, key)
					}
					seen[key] = true
					look(below)
				}
			case []any:
				for _, below := range value {
					look(below)
				}
			}
		}
		for _, name := range transcripts {
			var value any
			readJSON(t, filepath.Join("testdata", name+".golden"), &value)
			look(value)
		}
		if len(seen) < 3 {
			t.Errorf("%s: %d fields", command, len(seen))
		}
	}
}

// TestAuthorTranscripts writes a rule and does with it what its author would, and compares
// what is printed with testdata/NAME.golden.
func TestAuthorTranscripts(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "decisions.log")
	if err := os.WriteFile(log, decisionLog(t), 0o600); err != nil {
		t.Fatal(err)
	}
	cni := filepath.Join(dir, "cni.conf")
	if err := os.WriteFile(cni, []byte(windowsCNI), 0o600); err != nil {
		t.Fatal(err)
	}
	volatile := regexp.MustCompile(`("revision": "|set|__local|query:)([0-9a-f]{64}|\d+)`)
	for _, tt := range []struct { // in this order
		name string
		args string
		exit int
	}{
		{name: "help", args: "--help"},
		{name: "version", args: "version"},
		{name: "new-rule", args: "new rule no-public --team payments --dir DIR/rules"},
		{name: "new-rule-again", args: "new rule no-public --team payments --dir DIR/rules", exit: 2},
		{name: "test", args: "test DIR/rules --coverage"},
		{name: "test-json", args: "test DIR/rules --coverage -o json"},
		{name: "test-none", args: "test DIR/rules --run nothing", exit: 2},
		{name: "eval", args: "eval payments --policy-dir DIR/rules -f testdata/moving.yaml"},
		{name: "eval-explain", args: "eval list-not-empty --explain -f testdata/moving.yaml"},
		{name: "eval-json", args: "eval payments --policy-dir DIR/rules -f testdata/moving.yaml -o json"},
		{name: "replay", args: "replay DIR/decisions.log --params testdata/relaxed.yaml", exit: 1},
		{name: "replay-json", args: "replay DIR/decisions.log --params testdata/relaxed.yaml -o json", exit: 1},
		{name: "replay-rules", args: "replay DIR/decisions.log --policy-dir DIR/rules"},
		{name: "export", args: "export win-bridge -f testdata/moving.yaml --into DIR/cni.conf " + known},
		{name: "export-again", args: "export win-bridge -f testdata/moving.yaml --into DIR/cni.conf " + known},
		{name: "export-policy", args: "export win-bridge -f testdata/moving.yaml " + known},
		{name: "export-refused", args: "export win-bridge -f testdata/refused.yaml --into DIR/cni.conf " + known, exit: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stdout, stderr, exit := masq(t, strings.Fields(strings.ReplaceAll(tt.args, "DIR", dir))...)
			if exit != tt.exit {
				t.Errorf("exit %d, want %d", exit, tt.exit)
			}
			got := stdout
			if stderr != "" {
				got += "--- standard error\n" + stderr
			}
			checkGolden(t, tt.name, volatile.ReplaceAllString(strings.ReplaceAll(got, dir, "DIR"), "${1}N"))
		})
	}
}
