package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"pgregory.net/rapid"
)

// TestGuardsSpareAGoodWrite asks no rule about a write that none minds.
func TestGuardsSpareAGoodWrite(t *testing.T) {
	e := engine(t, "")
	l := newLook(documentOf(t, e, update(goodText), smallCluster(), nil).value(), e.look, time.Minute)
	for _, entry := range e.entries {
		if !entry.guards.empty(l) {
			t.Errorf("%s is asked", entry.query)
		}
	}
}

// guardedEngines have the built-in rules, the worked ones, and some of every form that
// the reader of guards understands.
func guardedEngines(t *testing.T) map[string]*Engine {
	t.Helper()
	engines := map[string]*Engine{"built in": engine(t, "")}
	for name, params := range map[string]string{
		"strict": "requireClusterRanges: true\nagent: {ipv6: true}\nrules: {cidr-limit: {max: 1}}",
	} {
		engines[name] = engine(t, params)
	}
	worked, err := filepath.Glob("../docs/examples/rules/*/*")
	if err != nil {
		t.Fatal(err)
	}
	var sources []Source
	for _, name := range worked {
		var text []byte
		if text, err = os.ReadFile(name); errors.Is(err, syscall.EISDIR) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, Source{Name: name, Text: text})
	}
	if engines["worked"], err = New(t.Context(), Params{}, sources); err != nil {
		t.Fatal(err)
	}
	engines["forms"] = formsEngine(t)
	return engines
}

// TestGuardsAgreeWithRego decides with and without guards.
func TestGuardsAgreeWithRego(t *testing.T) {
	for name, e := range guardedEngines(t) {
		bare := &Engine{
			params: e.params, revision: e.revision, entries: slices.Clone(e.entries), all: e.all, look: e.look,
			input: e.input, reads: e.reads, defaults: e.defaults, watchdog: e.watchdog, limits: e.limits,
		}
		for i := range bare.entries {
			bare.entries[i].guards = nil
		}
		for _, cluster := range []*Cluster{smallCluster(), NewCluster(nil, nil, nil), NewCluster([]Range{}, nil, []Range{})} {
			for range 2 { // once with what is remembered of elements
				for _, req := range requests() {
					want, got := bare.Decide(t.Context(), req, cluster), e.Decide(t.Context(), req, cluster)
					if diff := cmp.Diff(told(want), told(got)); diff != "" {
						t.Errorf("%s: %s: findings differ (-without guards +with):\n%s", name, req.Operation, diff)
					}
				}
			}
		}
	}
}

// TestGuardsNeverHide gives rules inputs that no write makes: whatever the input
// holds or lacks where rules look, a set that guards call empty is empty, and nothing
// fails in it.
func TestGuardsNeverHide(t *testing.T) {
	for name, e := range guardedEngines(t) {
		t.Run(name, func(t *testing.T) { guardsNeverHide(t, e) })
	}
}

func guardsNeverHide(t *testing.T, e *Engine) {
	t.Helper()
	bare, err := ast.InterfaceToValue(jsonOf(t, documentOf(t, e, update(goodText), smallCluster(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	refs := map[string]ast.Ref{}
	for _, module := range e.all.compiler.Modules {
		ast.WalkRefs(module, func(ref ast.Ref) bool {
			if ground := ref.ConstantPrefix(); ref.HasPrefix(ast.InputRootRef) && len(ground) > 1 && !ground.HasPrefix(paramsRef) {
				refs[ground.String()] = ground
			}
			return false
		})
	}
	if len(refs) < 10 {
		t.Fatalf("rules look at no more than %v", refs)
	}
	names := slices.Sorted(maps.Keys(refs))
	values := []string{
		"", `null`, `true`, `false`, `0`, `1`, `-1`, `60`, `1e9`, `"x"`, `"CREATE"`, `"DELETE"`, `[]`, `[null]`, `[{}]`, `{}`, `{"max": 1}`,
		`["10.0.0.0/8"]`, `["10.0.0.0/8", "x", 1, "0.0.0.0/0"]`, `{"a": {"cidr": "10.0.0.0/8"}}`,
		`[{"cidr": "10.0.0.0/8", "family": "ipv4", "path": "a", "line": 1}]`,
		`[{"cidr": "203.0.113.0/24", "family": "ipv4", "path": "a", "line": 1}, {"cidr": "fd00::/8", "family": "ipv6", "path": "b", "line": 2}]`,
		`[{"cidr": "203.0.113.7/32", "line": 1}, {"cidr": 7}, {"cidr": "x"}]`, `[{"cidr": null}, "10.0.0.0/8"]`, `[{"cidr": "10.0.0.0/8", "line": 99}]`,
	}
	hidden, found := 0, 0
	check := func(t rapid.TB, input ast.Value) {
		l := newLook(input, e.look, time.Minute)
		for i, entry := range e.entries {
			if !entry.guards.empty(l) {
				found++
				continue
			}
			hidden++
			sets, _, err := e.watchdog.evaluate(context.Background(), evaluation{
				query: e.all.only(i), input: input, now: time.Now(), limit: time.Minute, strict: true,
			})
			if err != nil || len(sets) != 1 {
				t.Fatalf("guards hide that %s fails: %v, %s", entry.query, err, input)
			}
			if set, _ := sets[0].(ast.Set); set.Len() != 0 {
				t.Fatalf("guards hide %s, which says %s of %s", entry.query, set, input)
			}
		}
	}
	for _, name := range names {
		for _, value := range values {
			check(t, replaced(bare, refs[name][1:], value))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		input := bare
		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			ref := refs[rapid.SampledFrom(names).Draw(t, "ref")]
			path := ref[1 : 1+rapid.IntRange(1, len(ref)-1).Draw(t, "length")]
			input = replaced(input, path, rapid.SampledFrom(values).Draw(t, "value"))
		}
		check(t, input)
	})
	if hidden == 0 || found == 0 {
		t.Errorf("guards spared %d and left %d", hidden, found)
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

// forms are rules in every form that the reader of guards knows, and in some that it does
// not. What is in them has neither to make sense nor to be found anything by.
//
//nolint:gochecknoglobals // a table for two tests
var forms = []struct {
	name    string
	rules   string
	foreign bool   // the set is always evaluated
	walks   string // what the one rule reads of the elements that it walks
}{
	{name: "equal", rules: `deny contains 1 if input.request.operation == "DELETE"`},
	{name: "not equal", rules: `deny contains 1 if { not input.derived.overlaps == [] }`},
	{name: "not in", rules: `deny contains 1 if { not input.request.operation in {"CREATE", "UPDATE"} }`},
	{name: "not both", rules: `deny contains 1 if { not { input.config.resyncInterval >= 1; input.config.resyncInterval <= 100 } }`},
	{name: "denied twice", rules: `deny contains 1 if { not { not input.config.resyncInterval == 60 } }`},
	{name: "two rules", rules: "deny contains 1 if input.request.user == \"x\"\ndeny contains 2 if input.request.user == \"y\""},
	{name: "always", rules: "deny contains 1 if input.request.user == \"x\"\ndeny contains 2"},
	{name: "with", rules: `deny contains 1 if { input.a == 1 with input as {"a": 1} }`, foreign: true},
	{name: "behind with", rules: `deny contains 1 if { input.request.user == "x"; input.a == 1 with input as {"a": 1} }`},
	{name: "every element", rules: `deny contains range.path if { some range in input.config.nonMasqueradeCIDRs; net.cidr_contains(range.cidr, "203.0.113.7/32") }`, walks: "cidr"},
	{name: "two fields", rules: `deny contains range.path if { some range in input.config.nonMasqueradeCIDRs; range.family == "ipv6"; startswith(range.cidr, "2001:") }`, walks: "cidr family"},
	{name: "in a reference", rules: `deny contains 1 if input.config.nonMasqueradeCIDRs[_].cidr == "203.0.113.0/24"`, walks: "cidr"},
	{name: "as an operand", rules: `deny contains 1 if net.cidr_contains("203.0.113.0/24", input.config.nonMasqueradeCIDRs[_].cidr)`, walks: "cidr"},
	{name: "beside the input", rules: `deny contains 1 if { input.request.user == input.config.nonMasqueradeCIDRs[_].cidr }`},
	{name: "the index", rules: `deny contains i if { some i, range in input.config.nonMasqueradeCIDRs; i > 3; range.cidr != "x" }`},
	{name: "behind the index", rules: `deny contains i if { some i, range in input.config.nonMasqueradeCIDRs; range.cidr != "x"; i > 3 }`, walks: "cidr"},
	{name: "conditions before", rules: `deny contains 1 if { input.request.operation == "CREATE"; some range in input.config.nonMasqueradeCIDRs; range.line > 2 }`, walks: "line"},
	{name: "a value before", rules: `deny contains 1 if { user := input.request.user; some range in input.config.nonMasqueradeCIDRs; range.cidr != "x"; range.path == user }`, walks: "cidr"},
	{name: "the whole element", rules: `deny contains 1 if { some range in input.config.nonMasqueradeCIDRs; range != {"cidr": "x"} }`, walks: "*"},
	{name: "strings", rules: `deny contains 1 if { some cidr in input.derived.diff.now_masqueraded; not startswith(cidr, "10.") }`, walks: "*"},
	{name: "a function", rules: "deny contains 1 if { some range in input.config.nonMasqueradeCIDRs; _wide(range) }\n_wide(x) if to_number(split(x.cidr, \"/\")[1]) < 9", walks: "cidr"},
	{name: "a function of many", rules: "deny contains 1 if { some range in input.config.nonMasqueradeCIDRs; _kind(range.cidr) == \"b\" }\n_kind(x) := \"a\" if startswith(x, \"10.\")\n_kind(x) := \"b\" if startswith(x, \"203.\")", walks: "cidr"},
	{name: "a function with else", rules: "deny contains 1 if { some range in input.config.nonMasqueradeCIDRs; _kind(range.cidr) == \"c\" }\n_kind(x) := \"a\" if { startswith(x, \"10.\") } else := \"c\" if { startswith(x, \"203.\") } else := \"d\"", walks: "cidr"},
	{name: "functions that disagree", rules: "deny contains 1 if { some range in input.config.nonMasqueradeCIDRs; _kind(range.cidr) == \"c\" }\n_kind(x) := \"a\" if startswith(x, \"10.\")\n_kind(x) := \"b\" if endswith(x, \"/8\")", walks: "cidr"},
	{name: "a function of the input", rules: "deny contains 1 if { some range in input.config.nonMasqueradeCIDRs; _mine(range.cidr) }\n_mine(x) if { startswith(x, \"203.\"); input.request.user == \"x\" }"},
	{name: "a function of constants", rules: "deny contains 1 if { some range in input.config.nonMasqueradeCIDRs; _is(range.family, \"y\") }\n_is(\"ipv6\", \"y\") := true\n_is(\"ipv4\", \"z\") := true", walks: "family"},
	{name: "a function of constants alone", rules: "deny contains 1 if _is(\"x\")\n_is(name) if input.request.user == name"},
	{name: "a function of the same", rules: "deny contains 1 if not _same(input.request.user, input.request.name)\n_same(x, x)", foreign: true},
	{name: "a variable on both sides", rules: `deny contains 1 if { not _itself }` + "\n_itself if { some x; x = input.derived.diff.now_masqueraded[x] }"},
	{name: "an index on both sides", rules: `deny contains 1 if { some i; input.config.nonMasqueradeCIDRs[i].line = i }`},
	{name: "a default function", rules: "deny contains 1 if { some range in input.config.nonMasqueradeCIDRs; not _is(range.family) }\ndefault _is(_) := true\n_is(x) := false if x == \"ipv6\""},
	{name: "another function of the element", rules: "deny contains 1 if { some range in input.config.nonMasqueradeCIDRs; _one(range); _two(range) }\n_one(x) if x.family == \"ipv4\"\n_two(y) if y.line > 3", walks: "family line"},
	{name: "a rule", rules: "deny contains 1 if not _small\n_small if count(input.config.nonMasqueradeCIDRs) < 5"},
	{name: "a rule with a default", rules: "deny contains 1 if _limit < count(input.config.nonMasqueradeCIDRs)\ndefault _limit := 3\n_limit := 1 if input.request.operation == \"CREATE\""},
	{name: "rules that disagree", rules: "deny contains 1 if _limit == 7\n_limit := 3 if input.request.operation == \"UPDATE\"\n_limit := 4 if input.request.user == \"alice\""},
	{name: "a set", rules: "deny contains x if { some x in _names; x == \"203.0.113.0/24\" }\n_names contains range.cidr if some range in input.config.nonMasqueradeCIDRs"},
	{name: "a set and the element", rules: "deny contains x.cidr if { some x in input.config.masqueradeCIDRs; not x.cidr in _names }\n_names contains range.cidr if some range in input.config.nonMasqueradeCIDRs"},
	{name: "an object of rules", rules: "deny contains x if { some x in _by[\"ipv6\"]; x != \"\" }\n_by[family] contains range.cidr if { some range in input.config.nonMasqueradeCIDRs; family := range.family }", foreign: true},
	{name: "a rule of a package", rules: "deny contains 1 if data.ipmasq.forms_other.yes"},
	{name: "every", rules: `deny contains 1 if { count(input.config.nonMasqueradeCIDRs) > 0; every range in input.config.nonMasqueradeCIDRs { range.family == "ipv6" } }`},
	{name: "every with a key", rules: `deny contains 1 if { every i, range in input.config.nonMasqueradeCIDRs { range.line > i } }`},
	{name: "a set comprehension", rules: `deny contains 1 if { count({range.family | some range in input.config.nonMasqueradeCIDRs}) > 1 }`},
	{name: "an array comprehension", rules: `deny contains 1 if { wide := [range | some range in input.config.nonMasqueradeCIDRs; endswith(range.cidr, "/8")]; count(wide) > 1 }`, walks: "cidr"},
	{name: "an object comprehension", rules: `deny contains 1 if { lines := {range.cidr: range.line | some range in input.config.nonMasqueradeCIDRs}; lines["203.0.113.0/24"] > 1 }`},
	{name: "a comprehension that disagrees", rules: `deny contains 1 if { lines := {range.family: range.line | some range in input.config.nonMasqueradeCIDRs}; lines.ipv4 > 50 }`},
	{name: "a comprehension of the element", rules: `deny contains 1 if { some range in input.config.nonMasqueradeCIDRs; parts := [part | some part in split(range.cidr, "/"); part == "8"]; parts == ["8"] }`, walks: "cidr"},
	{name: "nested lists", rules: `deny contains 1 if { some a in input.config.nonMasqueradeCIDRs; some b in input.config.masqueradeCIDRs; net.cidr_contains(b.cidr, a.cidr) }`},
	{name: "data", rules: `deny contains 1 if { some range in input.config.nonMasqueradeCIDRs; not range.cidr in data.register }`, walks: "cidr"},
	{name: "data below the element", rules: `deny contains 1 if { some range in input.config.nonMasqueradeCIDRs; data.limits[range.family].lines < range.line }`, walks: "family line"},
	{name: "params", rules: `deny contains 1 if { some range in input.config.nonMasqueradeCIDRs; some own in input.params.custom.own; net.cidr_contains(own, range.cidr) }`, walks: "cidr"},
	{name: "params first", rules: `deny contains 1 if { some own in input.params.custom.own; some range in input.config.nonMasqueradeCIDRs; net.cidr_contains(own, range.cidr) }`},
	{name: "the input as a whole", rules: `deny contains 1 if { count(input) > 100 }`},
	{name: "the names of the input", rules: `deny contains name if { some name, part in input; name == "x"; part == 1 }`, walks: ""},
	{name: "a pattern", rules: `deny contains 1 if { ["203.0.113.0", length] = split(input.config.nonMasqueradeCIDRs[_].cidr, "/"); length == "24" }`},
	{name: "an error of a function", rules: `deny contains 1 if { some range in input.config.nonMasqueradeCIDRs; net.cidr_contains("x", range.cidr) }`, walks: "cidr"},
	{name: "text that grows", rules: `deny contains 1 if { input.request.user == "x"; concat("", ["a", "b"]) == "c" }`},
	{name: "numbers that grow", rules: `deny contains 1 if { input.config.resyncInterval < 1e9 }`},
	{name: "a long number of text", rules: `deny contains 1 if { to_number(input.request.user) < 7 }`},
	{name: "arithmetic", rules: `deny contains 1 if { input.config.resyncInterval + 7 - 3 > 100 }`},
	{name: "one of several that fails", rules: `deny contains 1 if { not { some range in input.config.nonMasqueradeCIDRs; to_number(split(range.cidr, "/")[1]) > 0 } }`, walks: "cidr"},
	{name: "a rule that fails beside an empty list", rules: "deny contains 1 if { _first[input.request.name] == input.derived.overlaps[_].cidr }\n_first contains x if { x := substring(input.request.user, -1, 1) }"},
	{name: "params beside the element", rules: `deny contains 1 if { input.params.custom.own[0] == input.config.nonMasqueradeCIDRs[_].cidr }`},
	{name: "every of no list", rules: `deny contains 1 if { not { every x in input.request.annotations.a { x != 1 } } }`},
	{name: "every of data", rules: `deny contains 1 if { some range in input.config.nonMasqueradeCIDRs; not { every x in data.limits[range.family].lines { x > 1 } } }`, walks: "family"},
	{name: "data by the text of an index", rules: `deny contains 1 if { data.register[input.request.user] != "" }`},
	{name: "data by a constant text", rules: `deny contains 1 if { not data.register["1"]; input.request.user != "" }`},
	{name: "sets", rules: `deny contains 1 if { count({"a", "b"} - {input.request.user}) < 2 }`},
	{name: "times", rules: `deny contains 1 if { time.weekday(time.parse_rfc3339_ns(input.request.time)) in {"Saturday", "Sunday"} }`},
	{name: "a costly expression", rules: `deny contains 1 if { regex.match("(x{500}y){2}", input.request.user) }`},
	{name: "a variable expression", rules: `deny contains 1 if { regex.match(input.request.name, input.request.user) }`},
	{name: "a chain", rules: `deny contains 1 if { concat("/", [input.request.namespace, input.request.name]) == "x/x" }`},
	{name: "a template compared", rules: `deny contains 1 if { $"{input.request.namespace}/{input.request.name}" == "x/x" }`},
	{name: "objects", rules: `deny contains 1 if { object.union(input.request.annotations, {"a": 1}).a == 2 }`},
	{name: "a range of numbers", rules: `deny contains 1 if { product([2 | some _ in numbers.range(1, count(input.config.nonMasqueradeCIDRs))]) > 16 }`},
	{name: "a long range of numbers", rules: `deny contains 1 if { count(numbers.range(1, 5000)) == 0 }`},
	{name: "a product that grows", rules: "deny contains 1 if _d < 7\n_a := 99999999999 * 99999999999\n_b := _a * _a\n_c := _b * _b\n_d := _c * _c"},
	{name: "text that doubles", rules: "deny contains 1 if _d == \"\"\n_a := concat(\"0123456789012345678901234567890123456789\", [x | some i in numbers.range(1, 100); x := [\"a\", \"b\"][i % 2]])\n_b := concat(_a, [_a, _a])\n_d := concat(_b, [_b, _b])"},
	{name: "arrays that double", rules: "deny contains 1 if count(_d) == 0\n_a := numbers.range(1, 900)\n_b := array.concat(_a, _a)\n_c := array.concat(_b, _b)\n_d := array.concat(_c, _c)"},
	{name: "nests that double", rules: "deny contains 1 if count(_d) == 0\n_a := [x | some x in numbers.range(1, 100)]\n_b := [_a, _a, _a, _a]\n_c := [_b, _b, _b, _b]\n_d := [_c, _c, _c, _c]"},
	{name: "division", rules: `deny contains 1 if { 100 / (count(input.config.nonMasqueradeCIDRs) - 3) > 70 }`},
	{name: "a regular expression", rules: `deny contains 1 if { regex.match("^x", input.request.user) }`},
	{name: "object.get", rules: `deny contains 1 if { object.get(input.request.annotations, "a", "b") != "b" }`},
	{name: "a template", rules: `deny contains $"{input.request.user} may not" if { input.request.user == "x" }`},
}

func formsEngine(t *testing.T) *Engine {
	t.Helper()
	var sources []Source
	for i, form := range forms {
		rules := strings.Join([]string{fmt.Sprintf("package ipmasq.forms%d", i), "import future.keywords.not", form.rules}, "\n")
		sources = append(sources, Source{Name: form.name + ".rego", Text: []byte(rules)})
	}
	sources = append(sources,
		Source{Name: "other.rego", Text: []byte("package ipmasq.forms_other\nyes if input.request.fieldManager == \"x\"\n")},
		Source{Name: "data.json", Text: []byte(`{"register": ["10.0.0.0/8", "192.168.0.0/16"], "limits": {"ipv4": {"lines": 4}, "ipv6": {"lines": 1}}}`)},
		Source{Name: "params.yaml", Text: []byte("custom: {own: [203.0.113.0/25, \"2001:db8::/32\"]}\n")})
	e, err := New(t.Context(), Params{}, sources)
	if err != nil {
		t.Fatal(err)
	}
	e.limits = limits{all: time.Minute, each: time.Minute, total: time.Minute}
	return e
}

// TestGuardsRead understands what it should, so that the tests above are about something.
func TestGuardsRead(t *testing.T) {
	e := formsEngine(t)
	for i, form := range forms {
		t.Run(form.name, func(t *testing.T) {
			n := slices.IndexFunc(e.entries, func(one entry) bool { return one.query == fmt.Sprintf("data.ipmasq.forms%d.deny", i) })
			if n < 0 {
				t.Fatal("there is no such set")
			}
			guards := e.entries[n].guards
			if got := guards == nil; got != form.foreign {
				t.Fatalf("foreign: %t, want %t", got, form.foreign)
			}
			if form.foreign || len(guards.rules) > 1 {
				return
			}
			walks := ""
			for _, w := range guards.rules[0].walks {
				walks = strings.Join(slices.Sorted(maps.Keys(w.reads.fields)), " ")
				if w.among.whole {
					walks = "*"
				}
			}
			if walks != form.walks {
				t.Errorf("reads %q of each element, want %q", walks, form.walks)
			}
		})
	}
}

// TestGuardsLate leaves the rest to OPA when there is no time.
func TestGuardsLate(t *testing.T) {
	e := formsEngine(t)
	input := documentOf(t, e, update(goodText), smallCluster(), nil).value()
	l := newLook(input, e.look, -time.Second)
	l.steps = stepsBetween - 1 // the clock is looked at with the first step
	for _, entry := range e.entries {
		if entry.guards.empty(l) {
			t.Errorf("%s is not asked", entry.query)
		}
	}
	if d := e.Decide(t.Context(), update(goodText), smallCluster()); len(d.Findings) == 0 {
		t.Error("nothing was found: the test has no rules that are broken")
	}
}

// TestGuardsBounded leaves to OPA what makes or takes too much, and that alone.
func TestGuardsBounded(t *testing.T) {
	e, err := New(t.Context(), Params{}, []Source{
		{Name: "a.rego", Text: []byte("package ipmasq.a\n" +
			`deny contains 1 if { all := [a | some a in numbers.range(1, 257); some _ in numbers.range(1, 257)]; count(all) == 1 }`)},
		{Name: "b.rego", Text: []byte("package ipmasq.b\ndeny contains 1 if f30(1) == 1\n" +
			chainOf(30, "f%d(x) := f%[2]d(x + 1) + f%[2]d(x + 2)") + "f0(x) := x if x >= 0")},
		{Name: "c.rego", Text: []byte("package ipmasq.c\ndeny contains 1 if input.request.user == \"x\"")},
		{Name: "d.rego", Text: []byte("package ipmasq.d\ndeny contains 1 if indexof(data.long, \"y\") == 7")},
		{Name: "e.rego", Text: []byte("package ipmasq.e\ndeny contains 1 if product(data.many) == 7")},
		{Name: "data.json", Text: []byte(`{"long": "` + strings.Repeat("é", 9000) + `", "many": [2` + strings.Repeat(", 2", 1000) + `]}`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	l := newLook(ast.NewObject(), e.look, time.Minute)
	var empty []string
	for _, entry := range e.entries {
		if !entry.builtin && entry.guards.empty(l) {
			empty = append(empty, entry.rule)
		}
	}
	if diff := cmp.Diff([]string{"c"}, empty); diff != "" || l.late {
		t.Errorf("late: %t, empty sets differ (-want +got):\n%s", l.late, diff)
	}
}

// TestGuardsForget decides alike while what is remembered is dropped again and again, and
// from several sides at once.
func TestGuardsForget(t *testing.T) {
	e := formsEngine(t)
	var want []string
	for _, req := range requests() {
		want = append(want, told(e.Decide(t.Context(), req, smallCluster())))
	}
	budgets := 0
	for _, entry := range e.entries {
		if entry.guards == nil {
			continue
		}
		for _, g := range entry.guards.rules {
			for _, w := range g.walks {
				w.among.budget.left = 100
				budgets++
			}
		}
	}
	if budgets < 10 {
		t.Fatalf("%d walks", budgets)
	}
	var deciding sync.WaitGroup
	for range 4 {
		deciding.Go(func() {
			for range 5 {
				for i, req := range requests() {
					if diff := cmp.Diff(want[i], told(e.Decide(context.Background(), req, smallCluster()))); diff != "" {
						t.Errorf("findings differ (-before +now):\n%s", diff)
					}
				}
			}
		})
	}
	deciding.Wait()
}

// TestElementsKeys tells elements apart that rules tell apart.
func TestElementsKeys(t *testing.T) {
	values := []string{
		`"a"`, `["a"]`, `{"a"}`, `{"cidr": "a"}`, `{"cidr": ["a"]}`, `{"cidr": "a", "line": 1}`, `{"cidr": "a", "line": "1"}`, `{"line": 1}`,
		`{"cidr": "", "line": ""}`, `{"cidr": null}`, `{"cidr": "null"}`, `{}`, `null`, `1`, `"1"`, `{"cidr": "a\u0001\u0001b"}`, `{"cidr": "a", "line": "b"}`,
	}
	for _, e := range []*elements{{whole: true}, {fields: []*ast.Term{ast.StringTerm("cidr"), ast.StringTerm("line")}}} {
		seen := map[string]string{}
		for _, value := range values {
			key := string(e.key(nil, ast.MustParseTerm(value).Value))
			if other, ok := seen[key]; ok {
				t.Errorf("whole %t: %s and %s are one", e.whole, other, value)
			}
			seen[key] = value
		}
	}
}

// TestQuickFunctions gives what OPA gives, or nothing.
func TestQuickFunctions(t *testing.T) {
	names := []string{"net.cidr_contains", "net.cidr_intersects", "startswith", "endswith", "contains"}
	operands := []string{
		"10.0.0.0/8", "10.1.2.3/8", "10.1.2.3", "10.1.2.3/32", "0.0.0.0/0", "::/0", "::1", "fd00::/8", "fd00::1%eth0", "fd00::/08", "10.0.0.0/08",
		"::ffff:10.0.0.0/104", "::ffff:10.1.2.3", "::ffff:0:0/96", "::/80", "::/96", "2001:db8::/32", "2001:db8:1::/48", "1.2.3", "10.0.0.0/33", "x", "",
		"010.0.0.0/8", "192.168.0.0/16", "192.168.255.255",
	}
	known := 0
	for _, name := range names {
		quick, opa := quickFunction(name, nil), topdown.GetBuiltin(name)
		for _, a := range operands {
			for _, b := range operands {
				l := newLook(ast.NullValue, lookSize{}, time.Minute)
				got := quick(l, []ast.Value{ast.String(a), ast.String(b)})
				if got == nil {
					continue
				}
				known++
				var want ast.Value
				err := opa(topdown.BuiltinContext{}, []*ast.Term{ast.StringTerm(a), ast.StringTerm(b)}, func(t *ast.Term) error {
					want = t.Value
					return nil
				})
				if err != nil || want.Compare(got) != 0 {
					t.Errorf("%s(%q, %q) is %v, want %v, %v", name, a, b, got, want, err)
				}
			}
		}
	}
	if known < 1000 {
		t.Errorf("only %d results are known", known)
	}
}
