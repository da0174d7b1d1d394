package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"pgregory.net/rapid"
)

// TestGuardsOfRandomRules writes rules of the constructs that guards understand, and of
// some that they do not, and gives them inputs: what guards call empty is empty in OPA,
// and nothing fails in it.
func TestGuardsOfRandomRules(t *testing.T) {
	var empty, asked, refused int
	w := newWatchdog()
	rapid.Check(t, func(t *rapid.T) {
		sources := (&author{t: t}).write()
		modules := map[string]*ast.Module{}
		for name, text := range sources {
			module, err := parseModule(name, []byte(text))
			if err != nil {
				t.Skipf("the author writes no Rego: %v\n%s", err, text)
			}
			modules[name] = module
		}
		compiler := ast.NewCompiler().WithCapabilities(capabilities())
		if compiler.Compile(modules); compiler.Failed() {
			refused++
			return // values that no comparison can be about, mostly
		}
		var data map[string]any
		if err := json.Unmarshal([]byte(`{"register": ["10.0.0.0/8", "a", 1, null, {"cidr": "a", "line": 1}],
			"limits": {"ipv4": {"cidr": "10.0.0.0/8", "line": 1}, "a": 0, "1": [1, 2]}}`), &data); err != nil {
			t.Fatal(err)
		}
		q, err := prepare(context.Background(), compiler, []string{"data.ipmasq.x.deny"}, data)
		if err != nil {
			t.Fatal(err)
		}
		all, err := q.data(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		params := ast.MustParseTerm(`{"custom": {"own": ["a", "10.0.0.0/8", 1], "max": 1}}`).Value
		r := newReader(compiler.Modules, all, params)
		g := r.guards("data.ipmasq.x.deny")
		for range 12 {
			input := randomInput(t, params)
			l := newLook(input, r.size(), time.Minute)
			if !g.empty(l) {
				asked++
				continue
			}
			empty++
			sets, _, err := w.evaluate(context.Background(), evaluation{query: &q, input: input, now: time.Now(), limit: time.Minute, strict: true})
			if err != nil && strings.Contains(err.Error(), "requires evaluation") {
				continue // OPA indexes comprehensions before it knows their outer variables
			}
			if err != nil || len(sets) != 1 || sets[0].Compare(ast.NewSet()) != 0 {
				t.Fatalf("guards hide %v, %v\n%s\nof %s", sets, err, sources, input)
			}
		}
	})
	t.Logf("%d empty, %d asked, %d sets of rules refused", empty, asked, refused)
	if all := empty + asked; empty < all/10 || asked < all/10 || refused > all/5 {
		t.Errorf("%d empty, %d asked, %d sets of rules refused: the test is about too little", empty, asked, refused)
	}
}

// randomInput has some of what rules look at, or something else in its place.
func randomInput(t *rapid.T, params ast.Value) ast.Value {
	pick := func(texts ...string) string { return rapid.SampledFrom(texts).Draw(t, "value") }
	scalar := func() string {
		return pick(`"a"`, `"a"`, `"b"`, `"10.0.0.0/8"`, `"10.1.0.0/16"`, `"203.0.113.7"`, `"1"`, `0`, `1`, `1.0`, `1e0`, `-1`, `2`, `true`, `false`, `null`, `""`)
	}
	element := func() string {
		if rapid.IntRange(0, 5).Draw(t, "odd") == 0 {
			return pick(`[]`, `["a", 1]`, `{}`, `[{"cidr": "a"}]`, scalar())
		}
		var fields []string
		for _, name := range []string{"cidr", "family", "line", "parts"} {
			switch {
			case rapid.IntRange(0, 6).Draw(t, "hole") == 0:
			case name == "parts" && rapid.Bool().Draw(t, "list"):
				fields = append(fields, fmt.Sprintf(`%q: [%s, %s]`, name, scalar(), scalar()))
			default:
				fields = append(fields, fmt.Sprintf("%q: %s", name, scalar()))
			}
		}
		return "{" + strings.Join(fields, ", ") + "}"
	}
	list := func() string {
		if rapid.IntRange(0, 9).Draw(t, "odd") == 0 {
			return pick(`{"a": {"cidr": "a"}, "1": 1, "b": false}`, `{}`, element())
		}
		elements := make([]string, rapid.IntRange(0, 3).Draw(t, "length"))
		for i := range elements {
			elements[i] = element()
		}
		return "[" + strings.Join(elements, ", ") + "]"
	}
	object := func(fields ...string) string {
		var kept []string
		for i := 0; i < len(fields); i += 2 {
			if rapid.IntRange(0, 12).Draw(t, "hole") > 0 {
				kept = append(kept, fmt.Sprintf("%q: %s", fields[i], fields[i+1]))
			}
		}
		return "{" + strings.Join(kept, ", ") + "}"
	}
	text := object(
		"request", object("user", scalar(), "operation", scalar(), "annotations", object("a", scalar(), "b", scalar()), "groups", list()),
		"config", object("nonMasqueradeCIDRs", list(), "masqueradeCIDRs", list(), "resyncInterval", scalar()),
		"old", pick("null", object("nonMasqueradeCIDRs", list())),
	)
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var parts map[string]any
	if err := decoder.Decode(&parts); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	parts["params"] = params
	if rapid.Bool().Draw(t, "lazily") {
		return ast.LazyObject(parts)
	}
	return ast.MustInterfaceToValue(parts)
}

// author writes rules at random.
type author struct {
	t     *rapid.T
	vars  []string // that have a value
	named int
	rules []string // values of what is written already
	calls []string // functions of one argument that are written already
	pairs []string // and of two
	depth int
}

func (a *author) pick(texts ...string) string { return rapid.SampledFrom(texts).Draw(a.t, "pick") }

func (a *author) dice(sides int) int { return rapid.IntRange(0, sides-1).Draw(a.t, "dice") }

// write gives two files of a package and one of another.
func (a *author) write() map[string]string {
	const head = "import future.keywords.not\nimport data.limits as of\nimport input.config as c\n"
	files := map[string]string{
		"a.rego": "package ipmasq.x\n" + head,
		"b.rego": "package ipmasq.x\n" + head,
		"y.rego": "package ipmasq.y\n" + head,
	}
	add := func(file, format string, parts ...any) { files[file] += fmt.Sprintf(format, parts...) + "\n" }
	for i := range a.dice(5) {
		file := a.pick("a.rego", "b.rego", "y.rego")
		name := fmt.Sprintf("r%d", i)
		full := "data.ipmasq.x." + name
		if file == "y.rego" {
			full = "data.ipmasq.y." + name
		}
		again := map[string]string{"a.rego": "b.rego", "b.rego": "a.rego", "y.rego": "y.rego"}[file]
		switch kind := a.dice(10); kind {
		case 0, 1: // a value, or two of them
			if a.dice(2) == 0 {
				add(file, "default %s := %s", name, a.literal())
			}
			add(file, "%s := %s if {\n%s}", name, a.literal(), a.block(nil))
			if a.dice(2) == 0 {
				add(again, "%s := %s if {\n%s}", name, a.literal(), a.block(nil))
			}
			a.rules = append(a.rules, full)
		case 2:
			body := a.block(nil)
			add(file, "%s := %s if {\n%s} else := %s if {\n%s} else := %s", name, a.value(), body, a.literal(), a.block(nil), a.literal())
			a.rules = append(a.rules, full)
		case 3, 4: // a set
			for range 1 + a.dice(2) {
				a.vars = nil
				body := a.body()
				add(file, "%s contains %s if {\n%s}", name, a.value(), body)
				file = again
			}
			a.vars = nil
			a.rules = append(a.rules, full)
		case 5: // an object of rules
			add(file, "%s.a := %s if {\n%s}", name, a.literal(), a.block(nil))
			add(again, "%s.b := %s if {\n%s}", name, a.literal(), a.block(nil))
			a.rules = append(a.rules, full+".a", full+".b", full)
		case 6: // functions of two
			add(file, "%s(x, y) := %s if {\n%s}", name, a.pick("x", "y", "1", "true", "[x, y]"), a.block([]string{"x", "y"}))
			if a.dice(2) == 0 {
				add(again, "%s(%s, y) := %s if {\n%s}", name, a.literal(), a.pick("y", "1", "false"), a.block([]string{"y"}))
			}
			a.pairs = append(a.pairs, full)
		default:
			add(file, "%s(x) := %s if {\n%s}%s", name, a.pick("x", "1", "true", "false", `"a"`, "x.cidr"), a.block([]string{"x"}),
				a.pick("", " else := 1", " else := false", " else := x"))
			if a.dice(3) == 0 {
				add(again, "%s(%s) := %s", name, a.pick("x", "_", a.literal()), a.pick("1", "true", "false"))
			}
			a.calls = append(a.calls, full)
		}
	}
	for range 1 + a.dice(2) {
		body := a.block(nil)
		add(a.pick("a.rego", "b.rego"), "deny contains 1 if {\n%s}", body)
	}
	return files
}

// block is a body of its own, with these variables.
func (a *author) block(vars []string) string {
	outer := a.vars
	a.vars = vars
	body := a.body()
	a.vars = outer
	return body
}

// inner is a body inside of another one.
func (a *author) inner(vars ...string) string {
	outer := a.vars
	a.vars = append(append([]string{}, outer...), vars...)
	body := strings.ReplaceAll(strings.TrimSpace(a.body()), "\n", "; ")
	a.vars = outer
	return body
}

func (a *author) body() string {
	a.depth++
	text := ""
	for range 1 + a.dice(max(2, 5-a.depth)) {
		text += a.condition() + "\n"
	}
	a.depth--
	return text
}

func (a *author) fresh() string {
	a.named++
	return fmt.Sprintf("v%d", a.named)
}

func (a *author) condition() string {
	kinds := 14
	if a.depth > 3 {
		kinds = 9
	}
	switch a.dice(kinds) {
	case 0, 1:
		list, name := a.list(), a.fresh()
		a.vars = append(a.vars, name)
		if a.dice(3) == 0 {
			key := a.fresh()
			a.vars = append(a.vars, key)
			return fmt.Sprintf("some %s, %s in %s", key, name, list)
		}
		return fmt.Sprintf("some %s in %s", name, list)
	case 2:
		value, name := a.value(), a.fresh()
		a.vars = append(a.vars, name)
		return fmt.Sprintf("%s := %s", name, value)
	case 3, 4:
		return fmt.Sprintf("%s %s %s", a.value(), a.pick("==", "==", "!=", "<", ">=", "="), a.value())
	case 5:
		return fmt.Sprintf("%s in %s", a.value(), a.list())
	case 6:
		list, name := a.list(), a.fresh()
		value := a.value()
		a.vars = append(a.vars, name)
		return fmt.Sprintf("some %s; %s[%s]%s %s %s", name, a.ref(list), name, a.pick("", ".cidr", ".line"), a.pick("==", "!=", "=", "<"), a.pick(value, name))
	case 7:
		return a.call()
	case 8:
		return a.value()
	case 9:
		condition := a.pick(a.value(), a.call(), fmt.Sprintf("%s == %s", a.value(), a.value()), fmt.Sprintf("%s in %s", a.value(), a.list()))
		if strings.HasPrefix(condition, "{") {
			condition = "1 == " + a.value()
		}
		return "not " + condition
	case 10, 11:
		return fmt.Sprintf("not { %s }", a.inner())
	case 12:
		list, name, key := a.list(), a.fresh(), a.fresh()
		if a.dice(2) == 0 {
			return fmt.Sprintf("every %s in %s { %s != 7; %s }", name, list, name, a.inner(name))
		}
		return fmt.Sprintf("every %s, %s in %s { [%[1]s, %s] != 7; %s }", key, name, list, name, a.inner(name, key))
	default:
		if a.dice(4) == 0 {
			return fmt.Sprintf(`input.request.user == %s with input.request.user as "a"`, a.value())
		}
		return fmt.Sprintf("%s == %s", a.value(), a.value())
	}
}

func (a *author) literal() string {
	return a.pick(`0`, `1`, `1`, `1.0`, `-1`, `2`, `"a"`, `"a"`, `"b"`, `"1"`, `"10.0.0.0/8"`, `""`, `true`, `false`, `null`, `[]`, `[1, "a"]`, `{"a"}`, `{1, 1.0, "a"}`,
		`{"cidr": "a", "line": 1}`, `{}`, `set()`, `1000000000000000000000000000`)
}

// list is what is iterated over.
func (a *author) list() string {
	switch a.dice(6) {
	case 0:
		return a.value()
	case 1:
		return a.pick("data.register", "data.limits", "input.params.custom.own", "input.request.groups", "input.request.annotations", "input.config", `{"a", 1, null}`, `["a", 1, "10.0.0.0/8"]`)
	default:
		return a.pick("input.config.nonMasqueradeCIDRs", "input.config.nonMasqueradeCIDRs", "input.config.masqueradeCIDRs", "input.old.nonMasqueradeCIDRs")
	}
}

// ref is a value that can be followed by an index.
func (a *author) ref(value string) string {
	if strings.Trim(value[:1], `abcdefghijklmnopqrstuvwxyz`) == "" && !strings.ContainsAny(value, ` "+`) && value != "true" && value != "false" && value != "null" && !strings.HasPrefix(value, "set(") {
		return value
	}
	return "input.config.nonMasqueradeCIDRs"
}

func (a *author) value() string {
	a.depth++
	defer func() { a.depth-- }()
	known := append([]string{"input.request.user"}, a.vars...)
	kinds := 14
	if a.depth > 4 {
		kinds = 8
	}
	switch a.dice(kinds) {
	case 0:
		return a.literal()
	case 1, 2:
		return a.pick(known...)
	case 3, 4:
		if len(a.vars) > 0 {
			return a.pick(a.vars...) + a.pick(".cidr", ".cidr", ".line", ".family", ".parts", ".parts[_]", ".parts[0]", "[0]", "[_]", "[_].cidr", "[1]", "."+"line")
		}
		return a.pick("input.request.operation", "input.config.resyncInterval")
	case 5:
		return a.pick("input.request.operation", "input.config.resyncInterval", "input.request.annotations.a", "input.params.custom.max", "data.limits.ipv4.line",
			"input.config.nonMasqueradeCIDRs[0].cidr", "input.config.nonMasqueradeCIDRs[_].cidr", "input.config.nonMasqueradeCIDRs[_].parts[_]", "input.config.masqueradeCIDRs[_]",
			"input.request.groups[_]", "data.register[_]", "data.limits[_].cidr", "input.params.custom.own[_]", "input.config.masqueradeCIDRs[-1]", "input.old", "input.config[_]")
	case 6:
		if len(a.rules) > 0 {
			return a.pick(a.rules...) + a.pick("", "", "", "[_]", "[0]", ".cidr", `["a"]`, "[1.0]", "[false]", "[input.request.groups[_]]", "["+a.pick(known...)+"]")
		}
		return a.pick("data.limits", "data.register") + "[" + a.pick(known...) + "]"
	case 7:
		return "input.config.nonMasqueradeCIDRs[" + a.pick(append(a.vars, "0", "_")...) + "]" + a.pick("", ".cidr", ".line")
	case 8, 9:
		return a.call()
	case 10:
		return a.pick(fmt.Sprintf("[%s, %s]", a.value(), a.value()), fmt.Sprintf("{%s}", a.value()), fmt.Sprintf("{%s: %s}", a.pick(known...), a.value()),
			fmt.Sprintf(`{"cidr": %s}`, a.value()), fmt.Sprintf("[{%s}]", a.pick(known...)))
	case 11:
		outer := a.vars
		body := strings.ReplaceAll(strings.TrimSpace(a.body()), "\n", "; ")
		value := a.value()
		key := a.pick(append([]string{`"a"`}, a.vars...)...)
		a.vars = outer
		return a.pick(fmt.Sprintf("[%s | %s]", value, body), fmt.Sprintf("{%s | %s}", value, body), fmt.Sprintf("{%s: %s | %s}", key, value, body))
	case 12:
		return a.pick(`$"{input.request.user}/{input.config.resyncInterval}"`, "c.resyncInterval", "c.nonMasqueradeCIDRs[_].cidr", "of.a", "input.request")
	default:
		return a.value()
	}
}

func (a *author) call() string {
	switch a.dice(6) {
	case 0, 1:
		if len(a.calls) > 0 {
			return fmt.Sprintf("%s(%s)", a.pick(a.calls...), a.value())
		}
	case 2:
		if len(a.pairs) > 0 {
			return fmt.Sprintf("%s(%s, %s)", a.pick(a.pairs...), a.value(), a.value())
		}
	}
	switch a.dice(6) {
	case 0:
		return fmt.Sprintf("%s(%s)", a.pick("count", "max", "sort", "to_number", "upper", "type_name", "is_string", "sum", "object.keys", "is_object", "abs"), a.value())
	case 1:
		return fmt.Sprintf("%s(%s, %s)", a.pick("startswith", "contains", "endswith"), a.value(), a.pick(`"a"`, `"10."`, a.value()))
	case 2:
		return fmt.Sprintf("net.cidr_contains(%s, %s)", a.pick(`"10.0.0.0/8"`, a.value()), a.value())
	case 3:
		return fmt.Sprintf("object.get(%s, %s, %s)", a.value(), a.pick(`"cidr"`, `"a"`, "1", `["a", 0]`), a.literal())
	case 4:
		return fmt.Sprintf("split(%s, \"/\")", a.value())
	default:
		return fmt.Sprintf("%s %s %s", a.pick("1", a.value()), a.pick("+", "-", "*"), a.pick("1", a.value()))
	}
}
