package policy

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
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

// ruleSection is a section of docs/rules.md on one rule, with its first example.
var ruleSection = regexp.MustCompile("(?ms)^## ([a-z][a-z0-9-]+)\n\nDefault action: \\*\\*(deny|warn)\\*\\*(.*?)```(\\w+)\n(.*?)^```$")

// TestRuleExamples judges the examples of docs/rules.md in the cluster that it names: each is
// found by the rule that it is an example for, with the action that the section tells.
func TestRuleExamples(t *testing.T) {
	text, err := os.ReadFile("../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	cluster := NewCluster(ranges("params", "192.168.0.0/24"), ranges("params", "10.244.0.0/16"), ranges("params", "10.96.0.0/12"))
	params := map[string]string{"agents-agree": "consumer: cilium"}
	judged := map[string]bool{}
	for _, section := range ruleSection.FindAllStringSubmatch(string(text), -1) {
		id, action, kind, example := section[1], section[2], section[4], section[5]
		request := update(example)
		switch {
		case kind == "console" && strings.HasPrefix(example, "$ kubectl delete "):
			request.Operation, request.Object = Delete, nil
		case kind != "yaml":
			continue
		case strings.HasPrefix(example, "rules:\n"): // of params: what breaks the bound is too long to show
			judged[id] = true
			if p, err := ParseParams([]byte(example)); err != nil || p.Rules[id] == (RuleParams{}) {
				t.Errorf("%s: the example has no params of it (%v):\n%s", id, err, example)
			}
			continue
		case strings.HasPrefix(example, "data:\n"):
			if err := yaml.Unmarshal([]byte(example), request.Object); err != nil {
				t.Fatal(err)
			}
		}
		judged[id] = true
		var found []string
		for _, f := range engine(t, params[id]).Decide(t.Context(), request, cluster).Findings {
			found = append(found, string(f.Action)+" "+f.Rule)
		}
		if !slices.Contains(found, action+" "+id) {
			t.Errorf("%s: the example is no example of it:\n%s\nfound %q", id, example, found)
		}
	}
	for _, id := range append(builtinIDs(), ruleLoads) {
		if !judged[id] {
			t.Errorf("%s has no example", id)
		}
	}
}

// TestRuleOfYourOwn compiles the rule at the end of docs/rules.md, which finds what it says.
func TestRuleOfYourOwn(t *testing.T) {
	text, err := os.ReadFile("../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```rego\n(.*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatal("docs/rules.md shows no rule")
	}
	e := engine(t, "", Source{Name: "own.rego", Text: block[1]})
	got := told(e.Decide(t.Context(), update("nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16, 198.51.0.0/16]\n"), smallCluster()))
	if want := "198.51.0.0/16 spares the partners, who know nodes only; leave 198.51.100.0/24 out [payments/partners-masqueraded]"; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
