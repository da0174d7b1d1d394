package policy

import (
	"bytes"
	"context"
	"flag"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
)

//nolint:gochecknoglobals // flags of tests are made before the tests run
var rewrite = flag.Bool("update", false, "rewrite what is generated or formatted")

// regoFiles are the Rego files below a directory of this package, tests too.
func regoFiles(t *testing.T, directory string) []string {
	t.Helper()
	var names []string
	err := fs.WalkDir(os.DirFS("."), directory, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && path.Ext(name) == ".rego" {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func parseFiles(t *testing.T, names []string) map[string]*ast.Module {
	t.Helper()
	modules := map[string]*ast.Module{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if modules[name], err = parseModule(name, text); err != nil {
			t.Fatal(err)
		}
	}
	return modules
}

// TestRego is opa test, with the language and the schema that rules have in the webhook.
func TestRego(t *testing.T) {
	runner := tester.NewRunner().
		SetCompiler(ast.NewCompiler().WithCapabilities(capabilities()).WithStrict(true).
			WithRewriteTestRules(true).WithSchemas(schemaSet(decodedSchema()))).
		SetModules(parseFiles(t, regoFiles(t, "rules"))).
		SetDefaultRegoVersion(ast.RegoV1).
		RaiseBuiltinErrors(true)
	ctx := context.Background()
	store := inmem.New()
	count := 0
	err := storage.Txn(ctx, store, storage.TransactionParams{}, func(txn storage.Transaction) error {
		results, err := runner.SetStore(store).RunTests(ctx, txn)
		if err != nil {
			return err
		}
		for result := range results {
			if result == nil {
				continue
			}
			count++
			if !result.Pass() {
				t.Errorf("%s: %s %v", result.Location, result, result.Error)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if count == 0 {
		t.Fatal("no test ran")
	}
	t.Logf("%d tests", count)
}

// TestRegoFormat is opa fmt --fail.
func TestRegoFormat(t *testing.T) {
	for _, name := range append(regoFiles(t, "rules"), regoFiles(t, "testdata")...) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		formatted, err := format.SourceWithOpts(name, text, format.Opts{
			RegoVersion: ast.RegoV1, ParserOptions: &ast.ParserOptions{RegoVersion: ast.RegoV1},
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(formatted), string(text)); diff != "" && *rewrite {
			if err := os.WriteFile(name, formatted, 0o600); err != nil {
				t.Fatal(err)
			}
		} else if diff != "" {
			t.Errorf("%s is not what opa fmt makes of it (-want +got):\n%s", name, diff)
		}
		for i, line := range strings.Split(string(text), "\n") {
			if len(line) > 120 {
				t.Errorf("%s:%d: %d columns, more than 120", name, i+1, len(line))
			}
		}
	}
}

// TestEveryRuleIsTestedAndDocumented fails for a rule without tests of the three
// kinds, METADATA or a section in the documentation.
func TestEveryRuleIsTestedAndDocumented(t *testing.T) {
	docs, err := os.ReadFile("../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	modules := parseFiles(t, regoFiles(t, "rules"))
	ids := builtinIDs()
	if len(ids) < 17 {
		t.Errorf("%d rules, expected at least the 17 of the first version", len(ids))
	}
	for _, id := range ids {
		t.Run(id, func(t *testing.T) {
			name := "rules/" + id + ".rego"
			meta, err := metadataOf(modules[name])
			if err != nil {
				t.Fatal(err)
			}
			if meta.id != id {
				t.Errorf("METADATA says id %q", meta.id)
			}
			if meta.title == "" || meta.description == "" {
				t.Error("METADATA without title or description")
			}
			if want := docsURL + "#" + id; meta.docs != want {
				t.Errorf("METADATA links %q, want %q", meta.docs, want)
			}
			tests := modules["rules/"+id+"_test.rego"]
			if tests == nil {
				t.Fatal("no tests beside the rule")
			}
			for _, kind := range []string{"test_allow_", "test_deny_", "test_missing_"} {
				if !slices.ContainsFunc(tests.Rules, func(rule *ast.Rule) bool {
					return strings.HasPrefix(rule.Head.Name.String(), kind)
				}) {
					t.Errorf("no test %s…", kind)
				}
			}
			_, section, found := strings.Cut(string(docs), "\n## "+id+"\n")
			if !found {
				t.Fatalf("docs/rules.md has no heading ## %s", id)
			}
			section, _, _ = strings.Cut(section, "\n## ")
			if want := "Default action: **" + string(meta.action) + "**"; !strings.Contains(section, want) {
				t.Errorf("docs/rules.md does not say %q", want)
			}
			for _, want := range []string{"```", "Mend"} {
				if !strings.Contains(section, want) {
					t.Errorf("docs/rules.md: no %q in the section on %s", want, id)
				}
			}
		})
	}
	for _, id := range []string{ruleLoads, ruleEngine} {
		if !strings.Contains(string(docs), "\n## "+id+"\n") {
			t.Errorf("docs/rules.md has no heading ## %s", id)
		}
	}
}

// TestCapabilitiesFile keeps the file that stock tools read.
func TestCapabilitiesFile(t *testing.T) {
	if *rewrite {
		if err := os.WriteFile("capabilities.json", Capabilities(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("capabilities.json")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(Capabilities()), string(got)); diff != "" {
		t.Errorf("capabilities.json is out of date; run go test ./policy -args -update (-want +got):\n%s", diff)
	}
	if _, err := ast.LoadCapabilitiesJSON(bytes.NewReader(got)); err != nil {
		t.Error(err)
	}
}
