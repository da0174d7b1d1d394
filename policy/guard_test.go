package policy

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"pgregory.net/rapid"
)

// TestGuardsSpareAGoodWrite asks no rule about a write that none minds.
func TestGuardsSpareAGoodWrite(t *testing.T) {
	e := engine(t, "")
	input := documentOf(t, e, update(goodText), smallCluster(), nil).value()
	for _, entry := range e.entries {
		if !entry.guards.empty(input) {
			t.Errorf("%s is asked", entry.query)
		}
	}
}

// TestGuardsAgreeWithRego decides with and without guards.
func TestGuardsAgreeWithRego(t *testing.T) {
	for _, params := range []string{"", "requireClusterRanges: true\nagent: {ipv6: true}\nrules: {cidr-limit: {max: 1}}"} {
		e := engine(t, params)
		bare := engine(t, params)
		for i := range bare.entries {
			bare.entries[i].guards = nil
		}
		for _, cluster := range []*Cluster{smallCluster(), NewCluster(nil, nil, nil), NewCluster([]Range{}, nil, []Range{})} {
			for _, req := range requests() {
				want, got := bare.Decide(t.Context(), req, cluster), e.Decide(t.Context(), req, cluster)
				if diff := cmp.Diff(told(want), told(got)); diff != "" {
					t.Errorf("%s: findings differ (-without guards +with):\n%s", req.Operation, diff)
				}
			}
		}
	}
}

// TestGuardsNeverHide gives rules inputs that no write makes: whatever the input
// holds or lacks where guards look, a set that they call empty is empty.
func TestGuardsNeverHide(t *testing.T) {
	e := engine(t, "")
	bare, err := ast.InterfaceToValue(jsonOf(t, documentOf(t, e, update(goodText), smallCluster(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	var refs []ast.Ref
	for _, entry := range e.entries {
		for _, rule := range entry.guards {
			for _, c := range rule {
				for _, compared := range c.comparisons {
					for _, value := range []ast.Value{compared.left, compared.right} {
						if ref, ok := value.(ast.Ref); ok && !slices.ContainsFunc(refs, func(r ast.Ref) bool { return r.Equal(ref) }) {
							refs = append(refs, ref)
						}
					}
				}
			}
		}
	}
	if len(refs) < 10 {
		t.Fatalf("guards look at no more than %v", refs)
	}
	values := []string{"", `null`, `true`, `false`, `0`, `1`, `-1`, `60`, `1e9`, `"x"`, `"CREATE"`, `"DELETE"`, `[]`, `[null]`, `[{}]`, `{}`, `{"max": 1}`}
	hidden := 0
	rapid.Check(t, func(t *rapid.T) {
		input := bare
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			ref := rapid.SampledFrom(refs).Draw(t, "ref")
			path := ref[1 : 1+rapid.IntRange(1, len(ref)-1).Draw(t, "length")]
			input = replaced(input, path, rapid.SampledFrom(values).Draw(t, "value"))
		}
		sets, errs, err := e.watchdog.evaluate(context.Background(), evaluation{query: &e.all, input: input, now: time.Now(), limit: time.Minute})
		if err != nil || len(sets) != len(e.entries) {
			t.Fatalf("%d sets, %v, %v", len(sets), errs, err)
		}
		for i, entry := range e.entries {
			set, _ := sets[i].(ast.Set)
			if !entry.guards.empty(input) {
				continue
			}
			hidden++
			if set.Len() != 0 {
				t.Errorf("guards hide %s, which says %s of %s", entry.query, set, input)
			}
		}
	})
	if hidden == 0 {
		t.Error("guards spared nothing")
	}
}

// replaced is object with value, as JSON, at path; an empty value drops what is there.
func replaced(object ast.Value, path ast.Ref, value string) ast.Value {
	from, ok := object.(ast.Object)
	if !ok {
		return object
	}
	var items [][2]*ast.Term
	from.Foreach(func(k, v *ast.Term) {
		switch {
		case !k.Equal(path[0]):
		case len(path) > 1:
			v = ast.NewTerm(replaced(v.Value, path[1:], value))
		case value == "":
			return
		default:
			v = ast.MustParseTerm(value)
		}
		items = append(items, ast.Item(k, v))
	})
	return ast.NewObject(items...)
}

// TestGuardsOf reads what counts and nothing else.
func TestGuardsOf(t *testing.T) {
	tests := []struct {
		name  string
		rules string
		input string
		empty bool
	}{
		{name: "not equal", rules: `deny contains 1 if { not input.a == [] }`, input: `{"a": []}`, empty: true},
		{name: "not equal holds", rules: `deny contains 1 if { not input.a == [] }`, input: `{"a": [1]}`},
		{name: "not equal of what is missing", rules: `deny contains 1 if { not input.a == [] }`, input: `{}`},
		{name: "equal", rules: `deny contains 1 if { input.a == null }`, input: `{"a": 1}`, empty: true},
		{name: "equal holds", rules: `deny contains 1 if { input.a == null }`, input: `{"a": null}`},
		{name: "not below", rules: `deny contains 1 if { not input.a <= input.b }`, input: `{"a": 1, "b": 1}`, empty: true},
		{name: "not below holds", rules: `deny contains 1 if { not input.a <= input.b }`, input: `{"a": 2, "b": 1}`},
		{name: "not in", rules: `deny contains 1 if { not input.a in {"x", "y"} }`, input: `{"a": "y"}`, empty: true},
		{name: "not in holds", rules: `deny contains 1 if { not input.a in {"x", "y"} }`, input: `{"a": "z"}`},
		{name: "not both", rules: `deny contains 1 if { not { input.a >= 1; input.a <= 3 } }`, input: `{"a": 3}`, empty: true},
		{name: "not both holds", rules: `deny contains 1 if { not { input.a >= 1; input.a <= 3 } }`, input: `{"a": 4}`},
		{name: "not and not", rules: `deny contains 1 if { not { not input.a == 1 } }`, input: `{"a": 1}`},
		{name: "the second condition", rules: `deny contains 1 if { not input.a == []; input.b == 1 }`, input: `{"b": 2}`, empty: true},
		{name: "behind something else", rules: `deny contains 1 if { some x in [1]; input.b == x; input.b == 1 }`, input: `{"b": 2}`},
		{name: "each rule", rules: "deny contains 1 if { input.a == 1 }\ndeny contains 2 if { input.a == 2 }", input: `{"a": 3}`, empty: true},
		{name: "a rule without a condition", rules: "deny contains 1 if { input.a == 1 }\ndeny contains 2", input: `{"a": 3}`},
		{name: "another set", rules: "deny contains 1 if { input.a == 1 }\nwarn contains 2", input: `{"a": 3}`, empty: true},
		{name: "another input", rules: `deny contains 1 if { input.a == 1 with input as {"a": 1} }`, input: `{"a": 3}`},
		{name: "a variable", rules: `deny contains 1 if { input.a[_] == 1 }`, input: `{"a": [2]}`},
		{name: "what another rule says", rules: "deny contains 1 if { not data.x == 1 }", input: `{"a": [2]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			module, err := ast.ParseModuleWithOpts("x.rego", strings.Join([]string{"package x", "import future.keywords.not", tt.rules}, "\n"),
				ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities()})
			if err != nil {
				t.Fatal(err)
			}
			if got := guardsOf(module, "deny").empty(ast.MustParseTerm(tt.input).Value); got != tt.empty {
				t.Errorf("empty is %t, want %t", got, tt.empty)
			}
		})
	}
}
