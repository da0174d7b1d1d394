package policy

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// keepGenerated compares what stands between two markers of a document, and with -update
// writes it.
func keepGenerated(t *testing.T, file, marker, want string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+marker+": begin -->\n", "<!-- "+marker+": end -->\n"
	before, rest, found := strings.Cut(string(text), begin)
	got, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no markers %q", file, marker)
	}
	diff := gocmp.Diff(want, got)
	switch {
	case diff == "":
	case *rewrite:
		if err = os.WriteFile(file, []byte(before+begin+want+end+after), 0o600); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is out of date; run go test ./policy -args -update (-want +got):\n%s", file, diff)
	}
}

// row is one of a Markdown table.
func row(cells ...string) string {
	for i := range cells {
		cells[i] = strings.ReplaceAll(strings.Join(strings.Fields(cells[i]), " "), "|", `\|`)
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

// TestRulesTable keeps the table at the top of docs/rules.md: METADATA, in the order of
// the sections below it.
func TestRulesTable(t *testing.T) {
	const file = "../docs/rules.md"
	docs, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rules []metadata
	for name, module := range parseFiles(t, regoFiles(t, "rules")) {
		if isTest(name) || packageOf(module) == root+"."+libPackage {
			continue
		}
		meta, err := metadataOf(module)
		if err != nil {
			t.Fatal(err)
		}
		if meta.mend == "" {
			t.Errorf("%s: METADATA without mend", name)
		}
		rules = append(rules, meta)
	}
	if len(rules) != len(builtinIDs()) {
		t.Fatalf("%d rules of %d have METADATA", len(rules), len(builtinIDs()))
	}
	section := func(m metadata) int { return strings.Index(string(docs), "\n## "+m.id+"\n") }
	slices.SortFunc(rules, func(a, b metadata) int {
		return cmp.Or(cmp.Compare(section(a), section(b)), strings.Compare(a.id, b.id))
	})
	table := row("rule", "default", "what it wants", "why", "how to mend") + "|---|---|---|---|---|\n"
	for _, m := range rules {
		table += row(fmt.Sprintf("[%s](%s)", m.id, strings.TrimPrefix(m.docs, docsURL)), string(m.action), m.title, m.description, m.mend)
	}
	keepGenerated(t, file, "rules", table)
}

// TestInputTable keeps docs/rule-input.md: the schema, in its order.
func TestInputTable(t *testing.T) {
	var document yaml.Node // JSON is YAML, and nodes keep the order of keys
	if err := yaml.Unmarshal(Schema(), &document); err != nil {
		t.Fatal(err)
	}
	schema := document.Content[0]
	var b strings.Builder
	table := func(path string, of *yaml.Node) {
		b.WriteString("\n" + row("path", "type", "meaning") + "|---|---|---|\n")
		for _, line := range inputRows(t, path, of) {
			b.WriteString(line)
		}
	}
	table("input", schema)
	definitions := pairs(child(schema, "definitions"))
	for _, d := range definitions {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", d.key, scalar(d.value, "description"))
		table("", d.value)
	}
	if len(definitions) < 5 || strings.Count(b.String(), "\n") < 80 {
		t.Errorf("%d definitions in\n%s", len(definitions), b.String())
	}
	keepGenerated(t, "../docs/rule-input.md", "input", strings.TrimPrefix(b.String(), "\n"))
}

type pair struct {
	key   string
	value *yaml.Node
}

func pairs(mapping *yaml.Node) []pair {
	if mapping == nil {
		return nil
	}
	list := make([]pair, 0, len(mapping.Content)/2)
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		list = append(list, pair{mapping.Content[i].Value, mapping.Content[i+1]})
	}
	return list
}

func child(mapping *yaml.Node, key string) *yaml.Node {
	for _, p := range pairs(mapping) {
		if p.key == key {
			return p.value
		}
	}
	return nil
}

func scalar(mapping *yaml.Node, key string) string {
	if value := child(mapping, key); value != nil {
		return value.Value
	}
	return ""
}

// inputRows are the rows on the properties of a schema, and on theirs.
func inputRows(t *testing.T, path string, schema *yaml.Node) []string {
	t.Helper()
	var rows []string
	for _, p := range pairs(child(schema, "properties")) {
		own, inner, meaning := strings.TrimPrefix(path+"."+p.key, "."), p.value, scalar(p.value, "description")
		if choices := child(inner, "anyOf"); choices != nil { // the other one is null
			inner = choices.Content[0]
			meaning = strings.TrimSpace(scalar(inner, "description") + " " + meaning)
		}
		rows = append(rows, row("`"+own+"`", typeInWords(t, p.value), meaning))
		if items := child(inner, "items"); items != nil {
			inner, own = items, own+"[_]"
		}
		rows = append(rows, inputRows(t, own, inner)...)
	}
	return rows
}

// typeInWords is "list of cidr or null" with a link to what is described on its own.
func typeInWords(t *testing.T, schema *yaml.Node) string {
	t.Helper()
	if choices := child(schema, "anyOf"); choices != nil {
		var words []string
		for _, choice := range choices.Content {
			words = append(words, typeInWords(t, choice))
		}
		return strings.Join(words, " or ")
	}
	if ref := scalar(schema, "$ref"); ref != "" {
		name := strings.TrimPrefix(ref, "#/definitions/")
		return fmt.Sprintf("[%s](#%s)", name, name)
	}
	if values := child(schema, "enum"); values != nil {
		var words []string
		for _, value := range values.Content {
			words = append(words, "`"+value.Value+"`")
		}
		return strings.Join(words, ", ")
	}
	switch kind := scalar(schema, "type"); kind {
	case "array":
		return "list of " + typeInWords(t, child(schema, "items"))
	case "string", "integer", "number", "boolean", "object", "null":
		return kind
	default:
		t.Errorf("a schema of type %q at line %d is not handled", kind, schema.Line)
		return kind
	}
}
