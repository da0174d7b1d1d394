package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"go.uber.org/goleak"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

func TestMain(m *testing.M) {
	debug.SetMemoryLimit(512 << 20) // so that what fills the memory costs the tests less
	goleak.VerifyTestMain(m)
}

// hostile is a source in a package of its own.
func hostile(team, rules string) Source {
	return Source{Name: team + ".rego", Text: []byte("package ipmasq." + team + "\n\n" + rules + "\n")}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		name    string
		sources []Source
		want    string
	}{
		{"the network", []Source{hostile("a", `deny contains "x" if http.send({"method": "get", "url": "http://127.0.0.1"}).status_code == 200`)}, "a.rego:3:22: http.send is disabled: decisions must not depend on the network"},
		{"name resolution", []Source{hostile("a", `deny contains "x" if count(net.lookup_ip_addr("localhost")) > 0`)}, "a.rego:3:28: net.lookup_ip_addr is disabled: decisions must not depend on the network"},
		{"the environment", []Source{hostile("a", `deny contains "x" if opa.runtime().env.HOME`)}, "a.rego:3:22: opa.runtime is disabled: decisions must not depend on the environment of the webhook"},
		{"the clock", []Source{hostile("a", `deny contains "x" if time.now_ns() > 0`)}, "a.rego:3:22: time.now_ns is disabled: decisions must be repeatable; read input.request.time"},
		{"chance", []Source{hostile("a", `deny contains "x" if rand.intn("x", 2) == 1`)}, "a.rego:3:22: rand.intn is disabled: decisions must be repeatable"},
		{"what ignores the deadline", []Source{hostile("a", `deny contains "x" if bits.lsh(1, 100000000) > 0`)}, "a.rego:3:22: bits.lsh is disabled: it ignores the deadline"},
		{"pairwise matches", []Source{hostile("a", `deny contains "x" if count(net.cidr_contains_matches(["10.0.0.0/8"], ["10.0.0.0/8"])) > 0`)}, "a.rego:3:28: net.cidr_contains_matches is disabled: it ignores the deadline; read input.derived.overlaps and input.derived.uncovered"},
		{"every address", []Source{hostile("a", `deny contains "x" if count(net.cidr_expand("10.0.0.0/8")) > 0`)}, "a.rego:3:28: net.cidr_expand is disabled: it lists every address of a range; use net.cidr_contains"},
		{"a function that is nowhere", []Source{hostile("a", `deny contains "x" if foo.bar(1)`)}, "a.rego:3:22: undefined function foo.bar"},
		{"syntax", []Source{hostile("a", `deny contains "x" if {`)}, "a.rego:4: unexpected eof token"},
		{"what is not in the input", []Source{hostile("a", `deny contains "x" if input.config.nonMasqueradeCIDR`)}, `a.rego:3:22: undefined ref: input.config.nonMasqueradeCIDR, want (one of): ["cidrLimit" "defaulted" "masqLinkLocal" "masqLinkLocalIPv6" "masqueradeCIDRs" "nonMasqueradeCIDRs" "resyncInterval"]`},
		{"what is not in a CIDR", []Source{hostile("a", `deny contains r.cidrs if some r in input.config.nonMasqueradeCIDRs`)}, `a.rego:3:15: undefined ref: r.cidrs, want (one of): ["cidr" "family" "line" "path"]`},
		{"unused variables", []Source{hostile("a", `deny contains "x" if { y := 1; input.config == null }`)}, "a.rego:3:24: assigned var y unused"},
		{"recursion", []Source{hostile("a", "deny contains \"x\" if left(1)\n\nright if left(2)\n\nleft(_) if right")}, "a.rego:5:1: rule data.ipmasq.a.right is recursive: data.ipmasq.a.right -> data.ipmasq.a.left -> data.ipmasq.a.right"},
		{"another tree", []Source{{"a.rego", []byte("package payments\n\ndeny contains \"x\" if true\n")}}, "a.rego:1:1: package payments is not below ipmasq; write package ipmasq.<team>"},
		{"the root", []Source{{"a.rego", []byte("package ipmasq\n\ndeny contains \"x\" if true\n")}}, "a.rego:1:1: package ipmasq is not below ipmasq; write package ipmasq.<team>"},
		{"a built-in rule", []Source{hostile("no_overlap", `deny contains "x" if true`)}, "no_overlap.rego:1:1: package ipmasq.no_overlap belongs to the built-in rules/no-overlap.rego"},
		{"below a built-in rule", []Source{hostile("no_overlap.more", `deny contains "x" if true`)}, "no_overlap.more.rego:1:1: package ipmasq.no_overlap.more belongs to the built-in rules/no-overlap.rego"},
		{"the library", []Source{hostile("lib", `deny contains "x" if true`)}, "lib.rego:1:1: package ipmasq.lib belongs to the built-in rules/lib/coverage.rego"},
		{"odd names", []Source{hostile(`a["b c"]`, `deny contains "x" if true`)}, `a["b c"].rego:1:1: package ipmasq.a["b c"]: "b c" is not made of letters, digits, _ and -`},
		{"no set", []Source{hostile("a", `denny contains "x" if true`)}, "a.rego:1:1: package ipmasq.a offers none of deny, warn and violation, and no other package reads it"},
		{"a value", []Source{hostile("a", `deny := true`)}, "a.rego:3:1: deny is not a set; write deny contains message if { … }"},
		{"an object", []Source{hostile("a", `deny["x"] := 1`)}, "a.rego:3:1: deny is not a set; write deny contains message if { … }"},
		{"a function", []Source{hostile("a", `warn(x) := x`)}, "a.rego:3:1: warn is not a set; write warn contains message if { … }"},
		{"a default", []Source{hostile("a", `default violation := 1`)}, "a.rego:3:1: violation is not a set; write violation contains message if { … }"},
		{"two of a name", []Source{hostile("a", `deny contains "x" if true`), hostile("a", `deny contains "y" if true`)}, "a.rego: two files have this name"},
		{"nothing", []Source{{"a.rego", nil}}, "a.rego: empty module"},
		{"a comment", []Source{{"a.rego", []byte("# nothing\n")}}, "a.rego: empty module"},
		{"a large file", []Source{{"a.rego", make([]byte, maxSourceBytes+1)}}, "a.rego: 1048577 bytes, more than 1048576"},
		{"deep nesting", []Source{hostile("a", `deny contains "x" if `+strings.Repeat("[1 | ", 25)+"1"+strings.Repeat("]", 25)+" == 1")}, "a.rego:3:83: more than 12 comprehensions or bodies inside one another; give parts of it a rule of their own"},
		{"deep brackets", []Source{hostile("a", `deny contains "x" if `+strings.Repeat("[", 200000)+"1"+strings.Repeat("]", 200000)+" == 1")}, "a.rego:3:50018: max parsing recursion depth exceeded"},
		{"a long chain", []Source{hostile("a", chainOf(5000, "r%d if r%d")+"r0 if input.request.name\n\ndeny contains \"x\" if r5000")}, "a.rego:3:1: r5000 needs a chain of more than 500 rules, each of which needs the next"},
		{"a long chain over packages", []Source{
			hostile("a", chainOf(300, "r%d if r%d")+"r0 if input.request.name"),
			hostile("b", "import data.ipmasq.a\n\n"+chainOf(300, "r%d if r%d")+"r0 if a.r300\n\ndeny contains \"x\" if r300"),
		}, "b.rego:5:1: r300 needs a chain of more than 500 rules, each of which needs the next"},
		{"a long rule", []Source{hostile("a", "deny contains \"x\" if {\n"+strings.Repeat("\tinput.request.name\n", 10000)+"}")}, "a.rego:3:1: the rules are too large to be compiled, most of all deny; give parts of it a rule of their own, or put what it lists into data.json"},
		{"many else", []Source{hostile("a", "f(x) := 1 if x == 0"+strings.Repeat(" else := 2 if x == 7", 5000)+"\n\ndeny contains \"x\" if f(3) == 4")}, "a.rego:3:1: the rules are too large to be compiled, most of all f; give parts of it a rule of their own, or put what it lists into data.json"},
		{"a long reference", []Source{hostile("a", `deny contains "x" if input.params.custom`+strings.Repeat(".a", 2000))}, "a.rego:3:22: the reference has more than 1000 parts"},
		{"doubling rules", []Source{hostile("a", chainOf(30, "x%d := [x%[2]d, x%[2]d]")+"x0 := [input.request.name]\n\ndeny contains \"x\" if x30 == [1]")}, "a.rego:20:8: the value has more than 4096 parts, with what it refers to written out; put what is large into data.json"},
		{"doubling variables", []Source{hostile("a", "deny contains \"x\" if {\n\tx0 := [input.request.name]\n"+chainOf(30, "\tx%d := {\"a\": x%[2]d, \"b\": x%[2]d}")+"\tx30 == [1]\n}")}, "a.rego:22:9: the value has more than 4096 parts, with what it refers to written out; put what is large into data.json"},
		{"doubling functions", []Source{hostile("a", chainOf(30, "x%d(y) := {x%[2]d(y), [x%[2]d(y)]}")+"x0(y) := y\n\ndeny contains \"x\" if x30(1) == [1]")}, "a.rego:20:11: the value has more than 4096 parts, with what it refers to written out; put what is large into data.json"},
		{"doubling arguments", []Source{hostile("a", chainOf(30, "x%d(y) := x%[2]d([y, y])")+"x0(y) := y\n\ndeny contains \"x\" if x30(1) == [1]")}, "a.rego:15:15: the value has more than 4096 parts, with what it refers to written out; put what is large into data.json"},
		{"doubling elements", []Source{hostile("a", "deny contains \"x\" if {\n\tx0 := [input.request.name]\n"+chainOf(30, "\tsome x%d in [[x%[2]d, x%[2]d]]")+"\tx30 == [1]\n}")}, "a.rego:22:15: the value has more than 4096 parts, with what it refers to written out; put what is large into data.json"},
		{"doubling patterns", []Source{hostile("a", "deny contains \"x\" if {\n\tx0 := [input.request.name]\n"+chainOf(30, "\t[x%d] := [[x%[2]d, x%[2]d]]")+"\tx30 == [1]\n}")}, "a.rego:22:12: the value has more than 4096 parts, with what it refers to written out; put what is large into data.json"},
		{"a number out of the world", []Source{{"data.json", []byte("{\"a\": 1,\n\"b\": [1e999999999]}")}}, "data.json:2: reading JSON: 1e999999999: invalid number: number too big"},
		{"a number in a rule", []Source{hostile("a", `deny contains "x" if 1e999999 * 1e999999 > 7`)}, "a.rego:3:22: number too big"},
		{"deep data", []Source{{"data.json", []byte(`{"a":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`)}}, "data.json:1: reading JSON: invalid character '[' exceeded max depth; write an object, whose keys rules read as data.<key>"},
		{"aliases of aliases", []Source{{"params.yaml", []byte(aliasBomb())}}, "params.yaml: reading params: line 2: custom: not a mapping with text keys: yaml: document contains excessive aliasing"},
		{"an alias of itself", []Source{{"params.yaml", []byte("custom: &r\n  a: *r\n")}}, "params.yaml: reading params: line 1: custom: not a mapping with text keys: yaml: anchor 'r' value contains itself"},
		{"deep params", []Source{{"params.yaml", []byte("custom:\n  a: " + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + "\n")}}, "params.yaml: reading params: yaml: line 2: exceeded max depth of 10000"},
		{"aliases in METADATA", []Source{{"a.rego", []byte("# METADATA\n# " + strings.ReplaceAll(strings.TrimSpace(aliasBomb()), "\n", "\n# ") + "\npackage ipmasq.a\n\ndeny contains \"x\" if input.request.name\n")}}, "a.rego:2:1: yaml: document contains excessive aliasing"},
		{"many files", make([]Source, maxSources+1), "1001 files of rules, more than 1000"},
		{"several at once", []Source{hostile("a", `deny := 1`), hostile("b", `deny := 2`)}, "a.rego:3:1: deny is not a set; write deny contains message if { … }\nb.rego:3:1: deny is not a set; write deny contains message if { … }"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(context.Background(), Params{}, c.sources)
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.HasPrefix(err.Error(), "compiling rules: "+c.want) {
				t.Errorf("error differs (-want +got):\n%s", cmp.Diff("compiling rules: "+c.want, err.Error()))
			}
		})
	}
}

// TestEveryBannedFunctionIsOut holds the list of reasons against the list of what is allowed,
// and both against what OPA has.
func TestEveryBannedFunctionIsOut(t *testing.T) {
	for _, b := range capabilities().Builtins {
		if b.IsNondeterministic() {
			t.Errorf("%s depends on more than its arguments", b.Name)
		}
		for _, banned := range bannedReasons {
			if b.Name == banned.name || strings.HasSuffix(banned.name, ".") && strings.HasPrefix(b.Name, banned.name) && b.Name != "crypto.sha256" {
				t.Errorf("%s is allowed and banned", b.Name)
			}
		}
	}
	if got, want := len(capabilities().Builtins), len(allowedBuiltins); got != want {
		t.Errorf("%d built-ins of %d that are listed: one of them has another name now", got, want)
	}
	if net := capabilities().AllowNet; net == nil || len(net) > 0 {
		t.Errorf("hosts %v are allowed", net)
	}
}

// TestEveryFunctionIsDecided holds what OPA has, and what capabilities.json allows, against
// the list of decisions.
func TestEveryFunctionIsDecided(t *testing.T) {
	list, err := os.ReadFile("testdata/builtins.txt")
	if err != nil {
		t.Fatal(err)
	}
	decided := map[string]string{}
	for line := range strings.Lines(string(list)) {
		if name, decision, _ := strings.Cut(strings.TrimSpace(line), " "); name != "#" {
			decided[name] = decision
		}
	}
	published, err := os.ReadFile("capabilities.json")
	if err != nil {
		t.Fatal(err)
	}
	allowed, err := ast.LoadCapabilitiesJSON(bytes.NewReader(published))
	if err != nil {
		t.Fatal(err)
	}
	now := map[string]string{}
	for _, b := range ast.CapabilitiesForThisVersion().Builtins {
		now[b.Name] = "refused"
	}
	for _, b := range allowed.Builtins {
		now[b.Name] = "free"
		if boundedBuiltins[b.Name] != nil {
			now[b.Name] = "bounded"
		}
	}
	if diff := cmp.Diff(decided, now); diff != "" {
		t.Errorf("functions differ from what testdata/builtins.txt decides (-decided +now):\n%s", diff)
	}
	for name := range boundedBuiltins {
		if now[name] != "bounded" || topdown.GetBuiltin(name) == nil {
			t.Errorf("%s is bounded, and rules do not have it", name)
		}
	}
}

// TestEveryOtherFunctionIsRefused calls each function that OPA has and rules have not, and
// reads why it is refused.
func TestEveryOtherFunctionIsRefused(t *testing.T) {
	refused := 0
	for _, b := range ast.CapabilitiesForThisVersion().Builtins {
		if slices.Contains(allowedBuiltins, b.Name) || strings.HasPrefix(b.Name, "internal.") {
			continue // the latter have no name in Rego
		}
		refused++
		arguments := strings.TrimSuffix(strings.Repeat("input.request.name, ", len(b.Decl.FuncArgs().Args)), ", ")
		module, err := parseModule("a.rego", fmt.Appendf(nil, "package ipmasq.a\n\ndeny contains \"x\" if %s(%s) == 1\n", b.Name, arguments))
		if err == nil {
			compiler := ast.NewCompiler().WithCapabilities(capabilities()).WithStrict(true)
			if compiler.Compile(map[string]*ast.Module{"a.rego": module}); compiler.Failed() {
				err = explain(compiler.Errors)
			}
		}
		if want := "a.rego:3:22: " + b.Name + " is disabled: "; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", b.Name, err)
		}
	}
	if refused < 50 {
		t.Errorf("%d functions are refused, want 50 or more", refused)
	}
}

// chainOf is count lines, each of a number and the one below it.
func chainOf(count int, format string) string {
	var b strings.Builder
	for i := count; i > 0; i-- {
		fmt.Fprintf(&b, format+"\n", i, i-1)
	}
	return b.String()
}

// aliasBomb is 10^10 values, and the lines of a mapping.
func aliasBomb() string {
	bomb := "custom:\n  a0: &a0 [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
	for i := range 9 {
		bomb += fmt.Sprintf("  a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	return bomb
}

const goodText = "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n"

// misdeed is what a rule can do once it runs; NAME is deny, violation or warn.
type misdeed struct {
	name  string
	rules string
	want  string // of the message
}

func misbehaviour() []misdeed {
	return []misdeed{
		{
			"an endless comprehension", `NAME contains "x" if count([1 | some i in numbers.range(1, 200000); some j in numbers.range(1, 200000); i < j]) == 0`,
			"the rule at a.rego:3 failed: it did not end in time (1s)",
		},
		{
			"an endless walk", `NAME contains "x" if count([1 | walk(input, _); walk(input, _); walk(input, _); walk(input, _)]) == 0`,
			"the rule at a.rego:3 failed: it did not end in time (1s)",
		},
		{
			"an endless list", `NAME contains "x" if count(numbers.range(1, 100000000000)) == 0`,
			"the rule at a.rego:3 failed: a.rego:3: eval_builtin_error: numbers.range: it would take more than 32 MiB",
		},
		{
			"a text that doubles", "NAME contains \"x\" if count(s40) == 0\n\n" + chainOf(40, "s%d := concat(\"\", [s%[2]d, s%[2]d])") + "s0 := input.request.name",
			"the rule at a.rego:3 failed: a.rego:23: eval_builtin_error: concat: it would take more than 32 MiB",
		},
		{
			"a text written again and again", `NAME contains "x" if count(sprintf(concat("", ["%[1]s" | some _ in numbers.range(1, 3000)]), [concat("", [$"{i}" | some i in numbers.range(1, 10000)])])) == 0`,
			"the rule at a.rego:3 failed: a.rego:3: eval_builtin_error: sprintf: it would take more than 32 MiB",
		},
		{
			"a pattern of many wildcards", `NAME contains "x" if glob.match("*{1,2}*{3,4}*{5,6}*{a,b}", [], concat("", [$"{i}" | some i in numbers.range(1, 100)]))`,
			"the rule at a.rego:3 failed: a.rego:3: eval_builtin_error: glob.match: it would take more than 32 MiB",
		},
		{
			"a value that doubles", "NAME contains {\"msg\": \"x\", \"details\": x25}\n\n" + chainOf(25, "x%d := [x%[2]d | some _ in [1, 2]]") + "x0 := [input.request.name]",
			"the rule at a.rego:3 failed: what it gives is larger than 32 MiB",
		},
		{
			"a stack that grows", "NAME contains \"x\" if f40(1) == 1\n\n" + chainOf(40, "f%d(x) := f%[2]d(x * 2) + f%[2]d((x * 2) + 1)") + "f0(x) := x if x >= 0",
			"the rule at a.rego:3 failed: it needs more memory than there is",
		},
		{
			"two values of one rule", "NAME contains \"x\" if one == 3\n\none := 1 if input.request.name\n\none := 2 if input.request.namespace",
			"the rule at a.rego:3 failed: a.rego:7: eval_conflict_error: rule data.ipmasq.a.one produced conflicting values:",
		},
		{
			"two values of one function", "NAME contains \"x\" if f(input.request.name) == 3\n\nf(x) := 1 if x != \"\"\n\nf(x) := 2 if x != \"a\"",
			"the rule at a.rego:3 failed: a.rego:7: eval_conflict_error: function data.ipmasq.a.f produced conflicting values for the same inputs:",
		},
		{
			"an error in a function", `NAME contains "x" if net.cidr_contains("bad", input.request.name)`,
			"the rule at a.rego:3 failed: a.rego:3: eval_builtin_error: net.cidr_contains: invalid CIDR address: bad",
		},
		{
			"an error that a negation hides", "NAME contains \"x\" if not _fine\n\n_fine if net.cidr_contains(\"bad\", input.request.name)",
			"the rule at a.rego:3 failed: a.rego:5: eval_builtin_error: net.cidr_contains: invalid CIDR address: bad",
		},
		{
			"many errors", `NAME contains "x" if { some i in numbers.range(1, 50); to_number(sprintf("x%d", [i])) == 1 }`,
			"the rule at a.rego:3 failed: a.rego:3: eval_builtin_error: to_number: strconv.ParseFloat: parsing \"x1\": invalid syntax (and 49 more errors)",
		},
		{
			"a number", `NAME contains 7 if input.request.name`,
			"the rule at a.rego:3 failed: it gave a number; a violation is a text or an object with msg",
		},
		{
			"a set", `NAME contains {"a"} if input.request.name`,
			"the rule at a.rego:3 failed: it gave a set; a violation is a text or an object with msg",
		},
		{
			"no message", `NAME contains {"hint": "x"} if input.request.name`,
			"the rule at a.rego:3 failed: it gave a violation without msg",
		},
		{
			"an empty message", `NAME contains " " if input.request.name`,
			"the rule at a.rego:3 failed: it gave a violation without a message",
		},
		{
			"a message that is none", `NAME contains {"msg": ["x"]} if input.request.name`,
			"the rule at a.rego:3 failed: it gave a violation whose msg is no text",
		},
		{
			"a path that is none", `NAME contains {"msg": "x", "path": 3} if input.request.name`,
			"the rule at a.rego:3 failed: it gave a violation whose path is no text",
		},
		{
			"a function named like a built-in one", "NAME contains 7 if count(\"x\") == 3\n\ncount(_) := 3",
			"the rule at a.rego:3 failed: it gave a number; a violation is a text or an object with msg",
		},
		{
			"a flood", `NAME contains $"{i}" if some i in numbers.range(1, 5000)`,
			"the rule at a.rego:3 failed: it found 5000 violations, of which 1000 are shown",
		},
	}
}

// TestMisbehaviour lets a rule do each of these and looks at two things: the finding
// names it, as a denial or warning as the rule is; and the built-in rules and
// another team's rule speak all the same.
func TestMisbehaviour(t *testing.T) {
	neighbour := hostile("b", `deny contains "still here" if input.request.user == "alice"`)
	for _, name := range []string{"deny", "warn", "violation"} {
		action := Deny
		if name == "warn" {
			action = Warn
		}
		for _, c := range misbehaviour() {
			endless := strings.Contains(c.want, "in time")
			if endless && name == "violation" || strings.Contains(c.want, "more memory") && name != "deny" {
				continue // the same as deny, and slow
			}
			t.Run(name+"/"+c.name, func(t *testing.T) {
				rule := hostile("a", strings.ReplaceAll(c.rules, "NAME", name))
				e := engine(t, "", rule, neighbour)
				if endless {
					// Less for all and more for each than in the webhook: the rule costs the test less,
					// and the others have their answer ready on a busy machine, too.
					e.limits = limits{all: 100 * time.Millisecond, each: time.Second, total: time.Minute}
				}
				d := e.Decide(context.Background(), update("nonMasqueradeCIDRs: [10.0.0.0/8, 10.0.0.0/8]\n"), smallCluster())
				failures := 0
				for _, f := range d.Findings {
					if f.Rule == "a" && f.Action != action {
						t.Errorf("%s is a %s", f.Message, f.Action)
					}
					if !f.Failed {
						continue
					}
					failures++
					if f.Rule != "a" || !strings.HasPrefix(f.Message, c.want) {
						t.Errorf("finding differs (-want +got):\n%s", cmp.Diff("a "+c.want, f.Rule+" "+f.Message))
					}
				}
				if failures != 1 {
					t.Errorf("%d failures", failures)
				}
				for _, other := range []string{"[no-duplicate]", "[node-cidrs-present]", "still here [b]"} {
					if !strings.Contains(told(d), other) {
						t.Errorf("%s is silent beside the failure:\n%s", other, told(d))
					}
				}
				if endless {
					return
				}
				alone := engine(t, "", rule).Decide(context.Background(), update(goodText), smallCluster())
				if alone.Allowed != (action == Warn) {
					t.Errorf("allowed: %t", alone.Allowed)
				}
			})
		}
	}
}

// TestGiantMessages bounds what a rule of a megabyte a message, and many of them, leaves in
// an answer.
func TestGiantMessages(t *testing.T) {
	rule := hostile("a", `deny contains sprintf("%d %s", [i, concat("", [x | some j in numbers.range(1, 100000); x := sprintf("%07d---", [j])])]) if some i in numbers.range(1, 3)`)
	e := engine(t, "", rule, hostile("b", `deny contains "still here" if input.request.user == "alice"`))
	e.limits = limits{all: time.Minute, each: time.Minute, total: time.Minute}
	d := e.Decide(context.Background(), update(goodText), smallCluster())
	if d.Allowed {
		t.Error("allowed")
	}
	if message := d.Message(); len(message) > 2048 || message == "" {
		t.Errorf("message of %d bytes", len(message))
	}
	if !slices.ContainsFunc(d.Findings, func(f Finding) bool { return f.Message == "still here" }) {
		t.Error("the other rule is silent")
	}
}

// TestManyEndlessRules bounds the whole.
func TestManyEndlessRules(t *testing.T) {
	var sources []Source
	for i := range 30 {
		sources = append(sources, hostile(fmt.Sprintf("t%d", i), `deny contains "x" if count([1 | some i in numbers.range(1, 200000); some j in numbers.range(1, 200000); i < j]) == 0`))
	}
	e := promptEngine(t, "", sources...)
	start := time.Now()
	d := e.Decide(context.Background(), update(goodText), smallCluster())
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("it took %s", took)
	}
	asked, unasked := 0, 0
	for _, f := range d.Findings {
		switch {
		case !strings.HasPrefix(f.Rule, "t"): // one of the built-in rules, on a busy machine
		case strings.Contains(f.Message, "did not end in time"):
			asked++
		case strings.Contains(f.Message, "used up the time"):
			unasked++
		default:
			t.Errorf("%s: %s", f.Rule, f.Message)
		}
	}
	if d.Allowed || asked == 0 || unasked == 0 || asked+unasked != 30 {
		t.Errorf("allowed: %t, %d late, %d not asked", d.Allowed, asked, unasked)
	}
}

// TestDeepRules runs a rule whose evaluation recurses once per line. A deeper one
// does not come to run: what the compiler needs grows with the square of it.
func TestDeepRules(t *testing.T) {
	var b strings.Builder
	b.WriteString("deny contains \"x\" if {\n")
	for range 3000 {
		b.WriteString("\tinput.request.name\n")
	}
	b.WriteString("}\n")
	d := engine(t, "", hostile("deep", b.String())).Decide(context.Background(), update(goodText), smallCluster())
	if d.Allowed || len(d.Findings) != 1 || d.Findings[0].Rule != "deep" {
		t.Errorf("%s", told(d))
	}
}

// TestHostileTexts sends what authors of texts may try; none may take long or allow.
func TestHostileTexts(t *testing.T) {
	var list, bad strings.Builder
	list.WriteString("nonMasqueradeCIDRs:\n")
	bad.WriteString("nonMasqueradeCIDRs:\n")
	for i := range 100000 {
		fmt.Fprintf(&list, "- 10.%d.%d.%d/32\n", i>>16&255, i>>8&255, i&255)
		bad.WriteString("- x\n")
	}
	for _, c := range []struct{ name, text string }{
		{"brackets", strings.Repeat("[", 1<<20)},
		{"braces", strings.Repeat("{a: ", 1<<18)},
		{"alias bomb", "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n" +
			"d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n" +
			"g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nnonMasqueradeCIDRs: *g\n"},
		{"100,000 CIDRs", list.String()},
		{"100,000 problems", bad.String()},
		{"100,000 keys", strings.Repeat("a:\n", 100000)},
		{"NUL", "nonMasqueradeCIDRs: [\x00]"},
		{"no UTF-8", "nonMasqueradeCIDRs: [\xff]"},
		{"words that break lines", "\"a\\n\\r\\x1b[2J\\u2028b\": 1\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := engine(t, "")
			start := time.Now()
			d := e.Decide(context.Background(), update(c.text), smallCluster())
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
			if d.Allowed {
				t.Error("allowed")
			}
			if message := d.Message(); len(message) > 2048 || message == "" {
				t.Errorf("message of %d bytes", len(message))
			}
		})
	}
}

// TestStuckEvaluations gives up what does not stop, and refuses when too much of it
// is around.
func TestStuckEvaluations(t *testing.T) {
	w := newWatchdog()
	for range maxEvaluations {
		w.slots <- struct{}{} // each one of these would be an evaluation that was given up
	}
	// Rules need not be asked about a good text where guards understand them.
	e := promptEngine(t, "", hostile("team", `deny contains "x" if input.request.user == "mallory" with input.request.dryRun as true`))
	e.watchdog = w
	d := e.Decide(context.Background(), update(goodText), smallCluster())
	want := `deny metadata.name: the write could not be judged: too many evaluations are running; ` +
		`try again; if it stays, tell those who run the webhook [policy-decides]` + "\n"
	if diff := cmp.Diff(want, told(d)); diff != "" || d.Allowed {
		t.Errorf("allowed: %t, findings differ (-want +got):\n%s", d.Allowed, diff)
	}
	for range maxEvaluations {
		<-w.slots
	}
	e.limits.all = time.Minute
	if d := e.Decide(context.Background(), update(goodText), smallCluster()); !d.Allowed {
		t.Errorf("denied with free slots:\n%s", told(d))
	}
}

// TestWatchdogLeavesBehind evaluates what does not look at the cancellation, which the
// language of rules does not have.
func TestWatchdogLeavesBehind(t *testing.T) {
	compiler := ast.NewCompiler()
	compiler.Compile(map[string]*ast.Module{"stuck.rego": ast.MustParseModule(`package stuck

result := count(net.cidr_contains_matches(input, input))
`)})
	q, err := prepare(context.Background(), compiler, []string{"data.stuck.result"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var cidrs []*ast.Term
	for i := range 1500 {
		cidrs = append(cidrs, ast.StringTerm(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)))
	}
	w := newWatchdog()
	start := time.Now()
	_, _, err = w.evaluate(context.Background(), evaluation{
		query: &q, input: ast.NewArray(cidrs...), now: time.Now(), limit: 100 * time.Millisecond,
	})
	took := time.Since(start)
	if !errors.Is(err, errLate) {
		t.Fatalf("error %v after %s", err, took)
	}
	held := len(w.slots)
	for len(w.slots) > 0 {
		time.Sleep(time.Millisecond) // it does end, or the test would leak it
	}
	if total := time.Since(start); held != 1 || took > total/2 {
		t.Errorf("given up after %s of %s, %d evaluations held", took, total, held)
	}
}

// TestStuckRuleIsNotAskedAgain lets a rule compare for long what shares its parts, which
// nothing interrupts: others go on, and it is out until it has stopped.
func TestStuckRuleIsNotAskedAgain(t *testing.T) {
	lines := 24
	if raceDetector {
		lines = 22
	}
	values := "\tx0 := [input.request.name]\n\ty0 := [input.request.name]\n"
	for i := range lines {
		values += fmt.Sprintf("\tx%d := [x%d | some _ in [1, 2]]\n\ty%d := [y%d | some _ in [1, 2]]\n", i+1, i, i+1, i)
	}
	e := engine(t, "", hostile("a", fmt.Sprintf("deny contains \"x\" if {\n%s\tx%d in [y%d]\n}", values, lines, lines)),
		hostile("b", `deny contains "still here" if input.request.user == "alice"`))
	e.limits = limits{all: 20 * time.Millisecond, each: 20 * time.Millisecond, total: time.Minute}
	for _, want := range []string{
		"the rule at a.rego:3 failed: it did not end in time (20ms)",
		"the rule at a.rego:3 failed: it was told to stop earlier and has not, so it is not asked",
	} {
		d := e.Decide(context.Background(), update(goodText), smallCluster())
		if failed := slices.IndexFunc(d.Findings, func(f Finding) bool { return f.Rule == "a" }); failed < 0 || d.Findings[failed].Message != want {
			t.Errorf("findings lack %q:\n%s", want, told(d))
		}
	}
	for i := range e.entries {
		for e.entries[i].behind.Load() > 0 {
			time.Sleep(time.Millisecond) // it does end, or the test would leak it
		}
	}
	e.limits = limits{all: time.Minute, each: time.Minute, total: time.Minute}
	d := e.Decide(context.Background(), update(goodText), smallCluster())
	for _, want := range []string{"x [a]", "still here [b]"} {
		if !strings.Contains(told(d), want) {
			t.Errorf("%s is silent once it has stopped:\n%s", want, told(d))
		}
	}
}

// TestNoGrowth decides many times and looks at what is left of it.
func TestNoGrowth(t *testing.T) {
	e := engine(t, "", hostile("a", `warn contains "x" if net.cidr_contains("bad", input.request.name)`))
	cluster := smallCluster()
	decide := func(n int) uint64 {
		for range n {
			e.Decide(context.Background(), update(goodText), cluster)
		}
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := decide(100)
	goroutines := runtime.NumGoroutine()
	if after := decide(400); after > before+2<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
	if after := runtime.NumGoroutine(); after > goroutines+2 {
		t.Errorf("%d goroutines, then %d", goroutines, after)
	}
}

// FuzzDecide judges any text: what is allowed loads in the agents.
func FuzzDecide(f *testing.F) {
	for _, text := range awkwardTexts() {
		f.Add(text)
	}
	f.Add(goodText)
	f.Add("nonMasqueradeCIDRs: [\"fd00::/8\"]\nmasqLinkLocal: on\nresyncInterval: 1h\n")
	custom, err := os.ReadFile("testdata/custom/payments.rego")
	if err != nil {
		f.Fatal(err)
	}
	off := Params{Rules: map[string]RuleParams{}}
	for _, id := range builtinIDs() {
		off.Rules[id] = RuleParams{Action: Off}
	}
	var engines []*Engine
	for _, params := range []Params{{}, off} {
		e, err := New(context.Background(), params, []Source{{"payments.rego", custom}})
		if err != nil {
			f.Fatal(err)
		}
		e.limits = limits{all: time.Minute, each: time.Minute, total: time.Minute}
		engines = append(engines, e)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, e := range engines {
			d := e.Decide(context.Background(), update(text), smallCluster())
			loaded, problems := config.Parse([]byte(text))
			if !slices.ContainsFunc(problems, isFatal) {
				_, more := loaded.For(e.params.Agent)
				problems = append(problems, more...)
			}
			if d.Allowed && slices.ContainsFunc(problems, isFatal) {
				t.Errorf("allowed, and agents refuse it: %v", problems)
			}
			for _, finding := range d.Findings {
				if finding.Failed {
					t.Errorf("a rule failed: %s: %s", finding.Rule, finding.Message)
				}
			}
			if d.Allowed != (d.Message() == "") {
				t.Errorf("allowed: %t, message %q", d.Allowed, d.Message())
			}
		}
	})
}
