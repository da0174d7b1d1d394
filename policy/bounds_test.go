package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

// TestFits looks at both sides of each bound, without the functions themselves.
func TestFits(t *testing.T) {
	type terms = []*ast.Term
	text := func(length int) *ast.Term { return ast.StringTerm(strings.Repeat("a", length)) }
	list := func(length int) *ast.Term { return ast.ArrayTerm(slices.Repeat(terms{ast.InternedTerm(1)}, length)...) }
	term := ast.MustParseTerm
	for _, test := range []struct {
		name    string
		builtin string
		small   terms // operands that fit
		large   terms // and that do not
	}{
		{"a text", "upper", terms{text(32<<20 - 64)}, terms{text(32 << 20)}},
		{"a list", "json.marshal", terms{list(500_000)}, terms{list(530_000)}},
		{"two lists", "array.concat", terms{list(250_000), list(250_000)}, terms{list(270_000), list(270_000)}},
		{"a join", "concat", terms{text(1000), list(1000)}, terms{text(1000), list(40_000)}},
		{"pieces", "split", terms{text(1 << 20), ast.StringTerm("")}, terms{text(1<<20 + 1), ast.StringTerm("")}},
		{"a pattern", "regex.match", terms{text(4 << 10), text(1 << 20)}, terms{text(4<<10 + 1), ast.StringTerm("x")}},
		{"what a pattern looks at", "regex.match", terms{ast.StringTerm("x"), text(1 << 20)}, terms{ast.StringTerm("x"), text(1<<20 + 1)}},
		{"wildcards", "glob.match", terms{ast.StringTerm("*.*.*"), term("[]"), text(100)}, terms{ast.StringTerm("*.*.*"), term("[]"), text(110)}},
		{"double wildcards", "glob.match", terms{ast.StringTerm("**.**"), term("[]"), text(1000)}, terms{ast.StringTerm("**.**.**"), term("[]"), text(1000)}},
		{"a replacement", "replace", terms{text(1000), ast.StringTerm("a"), text(30_000)}, terms{text(1000), ast.StringTerm("a"), text(40_000)}},
		{"a replacement of nothing", "replace", terms{text(1000), ast.StringTerm(""), text(30_000)}, terms{text(1000), ast.StringTerm(""), text(40_000)}},
		{"a replacement that removes", "replace", terms{text(20 << 20), ast.StringTerm("a"), ast.StringTerm("")}, terms{text(40 << 20), ast.StringTerm("a"), ast.StringTerm("")}},
		{"a replacement by pattern", "regex.replace", terms{text(1000), ast.StringTerm("a"), text(30_000)}, terms{text(1000), ast.StringTerm("a"), text(40_000)}},
		{"a format", "sprintf", terms{ast.StringTerm("%s"), ast.ArrayTerm(text(30 << 20))}, terms{ast.StringTerm("%s"), ast.ArrayTerm(text(33 << 20))}},
		{"a format that repeats", "sprintf", terms{ast.StringTerm("%[1]s%[1]s"), ast.ArrayTerm(text(15 << 20))}, terms{ast.StringTerm("%[1]s%[1]s"), ast.ArrayTerm(text(17 << 20))}},
		{"a wide format", "sprintf", terms{ast.StringTerm(strings.Repeat("%0999999d", 16)), term("[1]")}, terms{ast.StringTerm(strings.Repeat("%0999999d", 17)), term("[1]")}},
		{"a width among the arguments", "sprintf", terms{ast.StringTerm(strings.Repeat("%*d", 16)), term("[1]")}, terms{ast.StringTerm(strings.Repeat("%*d", 17)), term("[1]")}},
		{"a range", "numbers.range", terms{term("1"), term("524288")}, terms{term("1"), term("524289")}},
		{"a range downwards", "numbers.range", terms{term("524288"), term("1")}, terms{term("9223372036854775807"), term("-9223372036854775808")}},
		{"a range of large numbers", "numbers.range", terms{term("9223372036854775806"), term("9223372036854775807")}, terms{term("1"), term("1e30")}},
		{"a range in steps", "numbers.range_step", terms{term("1"), term("1000000"), term("2")}, terms{term("1"), term("1000000"), term("1")}},
		{"a range in no steps", "numbers.range_step", terms{term("1"), term("1000000000"), term("0")}, terms{term("1"), term("1000000000"), term("1")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			fit := boundedBuiltins[test.builtin]
			for want, operands := range map[bool]terms{true: test.small, false: test.large} {
				if got := fit(operands); got != want {
					t.Errorf("%t, want %t", got, want)
				}
			}
		})
	}
}

// TestVolume measures what shares its parts as if it did not, without going through it.
func TestVolume(t *testing.T) {
	shared := ast.MustParseTerm(`["x"]`)
	for range 60 {
		shared = ast.ArrayTerm(shared, shared)
	}
	deep := ast.MustParseTerm("[]")
	for range maxValueDepth + 1 {
		deep = ast.ArrayTerm(deep)
	}
	for _, test := range []struct {
		name  string
		value *ast.Term
		takes int // -1: too much
	}{
		{"a text", ast.MustParseTerm(`"abc"`), 67},
		{"null", ast.MustParseTerm(`null`), 64},
		{"an object", ast.MustParseTerm(`{"a": [1, {2}]}`), 64 + 65 + 64 + 65 + 64 + 65},
		{"2^60 texts", shared, -1},
		{"a deep one", deep, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			left := maxVolume
			fits := volume(test.value.Value, &left)
			if fits != (test.takes >= 0) || fits && maxVolume-left != test.takes {
				t.Errorf("fits: %t, takes %d, want %d", fits, maxVolume-left, test.takes)
			}
		})
	}
}
