package policy

import (
	"net/netip"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"
)

// lookFunctions are the built-in functions that a look calls: what they give is bounded
// by what they are given, and so is their time, since nothing stops them.
//
//nolint:gochecknoglobals // a constant in all but the language
var lookFunctions = strings.Fields(`
	abs and array.concat array.reverse array.slice ceil concat contains count div endswith floor format_int
	indexof internal.member_2 internal.member_3 internal.template_string intersection
	is_array is_boolean is_null is_number is_object is_set is_string lower max min minus mul
	net.cidr_contains net.cidr_intersects net.cidr_is_valid numbers.range
	object.filter object.get object.keys object.remove object.union or plus product regex.match rem round sort
	split startswith strings.any_prefix_match strings.any_suffix_match substring sum
	time.add_date time.clock time.date time.diff time.parse_duration_ns time.parse_ns time.parse_rfc3339_ns time.weekday
	to_number trim trim_left trim_prefix trim_right trim_space trim_suffix type_name union upper
`)

// Bounds of what a look calls functions with, and of what it takes from them.
const (
	maxPlain   = 24   // characters of a number: those are certain to cost no more than others
	maxRange   = 1000 // numbers.range, product
	maxMade    = 4096 // bytes or members of a value that is made of others
	maxFolded  = 64   // members of a value that is kept with the rule, since its operands are constants
	maxMatched = 512  // bytes that a regular expression is matched against
	maxProgram = 500  // instructions of the expression
)

// comparisons by the name of their function. OPA compares in ast.Compare as well, values of
// different types too.
//
//nolint:gochecknoglobals // a constant in all but the language
var comparisons = map[string]func(order int) bool{
	ast.Equal.Name:         func(order int) bool { return order == 0 },
	ast.NotEqual.Name:      func(order int) bool { return order != 0 },
	ast.LessThan.Name:      func(order int) bool { return order < 0 },
	ast.LessThanEq.Name:    func(order int) bool { return order <= 0 },
	ast.GreaterThan.Name:   func(order int) bool { return order > 0 },
	ast.GreaterThanEq.Name: func(order int) bool { return order >= 0 },
}

// lookFunction is the built-in function of this name, or nil. The result is nil where it
// is unknown.
func lookFunction(name string) func(l *look, arguments []ast.Value) ast.Value {
	if holds, ok := comparisons[name]; ok {
		return func(l *look, arguments []ast.Value) ast.Value {
			if !l.weigh(arguments[0]) {
				return nil
			}
			return ast.Boolean(holds(ast.Compare(arguments[0], arguments[1])))
		}
	}
	called := topdown.GetBuiltin(name)
	if called == nil || !slices.Contains(lookFunctions, name) {
		return nil
	}
	asOPA := func(l *look, arguments []ast.Value) (result ast.Value) {
		terms := make([]*ast.Term, len(arguments))
		for i, argument := range arguments {
			terms[i] = ast.NewTerm(argument)
			if text, ok := argument.(ast.String); ok && len(text) > maxMade {
				l.unknown = true // some take the square of it
			}
			if !l.weigh(argument) || !l.spend(sizeOf(argument)) {
				return nil
			}
		}
		err := called(topdown.BuiltinContext{}, terms, func(t *ast.Term) error {
			result = t.Value
			return nil
		})
		if err != nil || !isModest(result) {
			l.unknown = true // OPA tells what is wrong
			return nil
		}
		return result
	}
	if quick := quickFunction(name); quick != nil {
		return func(l *look, arguments []ast.Value) ast.Value {
			if result := quick(l, arguments); result != nil || l.unknown {
				return result
			}
			return asOPA(l, arguments)
		}
	}
	return asOPA
}

// quickFunction is what the function of this name gives for what nearly everybody calls it
// with, in a fraction of the time; nil where OPA is to be asked.
func quickFunction(name string) func(l *look, arguments []ast.Value) ast.Value {
	texts := func(holds func(s, part string) bool) func(*look, []ast.Value) ast.Value {
		return func(_ *look, arguments []ast.Value) ast.Value {
			s, ok := arguments[0].(ast.String)
			part, both := arguments[1].(ast.String)
			if !ok || !both || len(s) > maxMade {
				return nil
			}
			return ast.Boolean(holds(string(s), string(part)))
		}
	}
	switch name {
	case ast.StartsWith.Name:
		return texts(strings.HasPrefix)
	case ast.EndsWith.Name:
		return texts(strings.HasSuffix)
	case ast.Contains.Name:
		return texts(strings.Contains)
	case ast.Count.Name:
		return func(_ *look, arguments []ast.Value) ast.Value {
			switch arguments[0].(type) {
			case *ast.Array, ast.Set, ast.Object:
				return ast.InternedTerm(sizeOf(arguments[0])).Value
			}
			return nil
		}
	case ast.NetCIDRContains.Name:
		return func(l *look, arguments []ast.Value) ast.Value {
			in, of := l.prefix(arguments[0], 0), l.prefix(arguments[1], 1)
			if !in.cidr || !of.prefix.IsValid() {
				return nil
			}
			return ast.Boolean(in.prefix.Bits() <= of.prefix.Bits() && in.prefix.Contains(of.prefix.Addr()))
		}
	case ast.NetCIDRIntersects.Name:
		return func(l *look, arguments []ast.Value) ast.Value {
			a, b := l.prefix(arguments[0], 0), l.prefix(arguments[1], 1)
			if !a.cidr || !b.cidr {
				return nil
			}
			return ast.Boolean(a.prefix.Overlaps(b.prefix))
		}
	case ast.Product.Name:
		return func(l *look, arguments []ast.Value) ast.Value {
			l.unknown = l.unknown || sizeOf(arguments[0]) > maxRange // it grows with each
			return nil
		}
	case ast.NumbersRange.Name:
		return func(l *look, arguments []ast.Value) ast.Value {
			from, err := builtins.IntOperand(arguments[0], 1)
			to, both := builtins.IntOperand(arguments[1], 2)
			l.unknown = l.unknown || err != nil || both != nil || max(from, -from, to, -to) > maxRange
			return nil
		}
	}
	return nil
}

// matcher is regex.match with a constant expression, or nil where that is none or a
// costly one.
func matcher(pattern ast.Value) func(l *look, arguments []ast.Value) ast.Value {
	text, ok := pattern.(ast.String)
	if !ok {
		return nil
	}
	parsed, err := syntax.Parse(string(text), syntax.Perl)
	if err != nil {
		return nil
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(program.Inst) > maxProgram {
		return nil
	}
	expression, err := regexp.Compile(string(text))
	if err != nil {
		return nil
	}
	return func(l *look, arguments []ast.Value) ast.Value {
		subject, ok := arguments[1].(ast.String)
		if !ok || len(subject) > maxMatched {
			l.unknown = true
			return nil
		}
		return ast.Boolean(l.spend(len(subject)) && expression.MatchString(string(subject)))
	}
}

// parsed is a CIDR or an address as the prefix that holds it alone; the zero prefix for
// what net.cidr_contains may read otherwise.
type parsed struct {
	text   ast.String
	prefix netip.Prefix
	cidr   bool
}

// prefix parses a value. It remembers the last one for each operand: many rules ask for
// the same element one after the other.
func (l *look) prefix(v ast.Value, operand int) parsed {
	text, ok := v.(ast.String)
	if last := &l.parsed[operand]; ok && last.text != text {
		*last = parsed{text: text}
		if prefix, err := netip.ParsePrefix(string(text)); err == nil {
			last.prefix, last.cidr = prefix.Masked(), true
		} else if address, err := netip.ParseAddr(string(text)); err == nil && address.Zone() == "" {
			last.prefix = netip.PrefixFrom(address, address.BitLen())
		}
		if last.prefix.Addr().Is4In6() {
			last.prefix, last.cidr = netip.Prefix{}, false
		}
	}
	if !ok {
		return parsed{}
	}
	return l.parsed[operand]
}

// weigh looks at the clock more often where collections are compared or given to a
// function: one step can take as long as data.json is large.
func (l *look) weigh(v ast.Value) bool {
	if isCollection(v) {
		l.steps += stepsBetween / 8
	}
	return l.spend(0)
}

// sizeOf is about how many steps a value costs a function that reads all of it.
func sizeOf(v ast.Value) int {
	switch v := v.(type) {
	case ast.String:
		return len(v) / 64
	case *ast.Array:
		return v.Len()
	case ast.Set:
		return v.Len()
	case ast.Object:
		return v.Len()
	}
	return 0
}

// isModest tells that a value made by a function is small enough to make others of.
func isModest(v ast.Value) bool {
	switch v := v.(type) {
	case ast.Number:
		return isPlain(v)
	case ast.String:
		return len(v) <= maxMade
	}
	return sizeOf(v) <= maxMade
}

// isPlain tells that no number in v is long or has an exponent: those of a few characters
// can take a second to compare, and OPA is stopped then.
func isPlain(v ast.Value) bool {
	if number, ok := v.(ast.Number); ok {
		return len(number) <= maxPlain && !strings.ContainsAny(string(number), "eE")
	}
	return !iterate(v, func(key, value ast.Value) bool { return !isPlain(key) || !isPlain(value) })
}
