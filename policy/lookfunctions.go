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

// lookFunction is the built-in function of this name for these operands, or nil. The
// result is nil where it is unknown.
func lookFunction(name string, operands []*ast.Term) func(l *look, arguments []ast.Value) ast.Value {
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
	if quick := quickFunction(name, operands); quick != nil {
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
func quickFunction(name string, operands []*ast.Term) func(l *look, arguments []ast.Value) ast.Value {
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
	case ast.NetCIDRContains.Name, ast.NetCIDRIntersects.Name:
		prefixes := prefixesOfOperands(operands)
		return func(l *look, arguments []ast.Value) ast.Value {
			a, b := prefixes(l, arguments)
			holds, known := a.compare(name, b)
			if !known {
				return nil
			}
			return ast.Boolean(holds)
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

// compare is net.cidr_contains or net.cidr_intersects, where it is known.
func (a *parsed) compare(name string, b *parsed) (holds, known bool) {
	if name == ast.NetCIDRIntersects.Name {
		return a.prefix.Overlaps(b.prefix), a.cidr && b.cidr
	}
	return a.prefix.Bits() <= b.prefix.Bits() && a.prefix.Contains(b.prefix.Addr()), a.cidr && b.prefix.IsValid()
}

// cidrTest compares a variable, or a field of it, with a constant.
type cidrTest struct {
	name     string // of the function
	slot     int    // of the variable
	field    string // empty: the variable itself
	constant parsed
	first    bool // the constant is the first operand
}

// cidrTestOf is what a call of two operands tests, or nil where it is something else.
func (s *scope) cidrTestOf(name string, operands []*ast.Term) *cidrTest {
	if name != ast.NetCIDRContains.Name && name != ast.NetCIDRIntersects.Name || len(operands) != 2 {
		return nil
	}
	for i, operand := range operands {
		text, constant := operand.Value.(ast.String)
		variable, ok := operands[1-i].Value.(ast.Var)
		slot, bound := s.slots[variable]
		if !constant || !ok || !bound {
			continue
		}
		t := &cidrTest{name: name, slot: slot, constant: parsePrefix(text), first: i == 0}
		if from, ok := s.root().fields[slot]; ok {
			t.slot, t.field = from.slot, from.field
		}
		return t
	}
	return nil
}

func (t *cidrTest) holds(variable *parsed) (holds, known bool) {
	if t.first {
		return t.constant.compare(t.name, variable)
	}
	return variable.compare(t.name, &t.constant)
}

func parsePrefix(text ast.String) parsed {
	p := parsed{text: text}
	if prefix, err := netip.ParsePrefix(string(text)); err == nil {
		p.prefix, p.cidr = prefix.Masked(), true
	} else if address, err := netip.ParseAddr(string(text)); err == nil && address.Zone() == "" {
		p.prefix = netip.PrefixFrom(address, address.BitLen())
	}
	if p.prefix.Addr().Is4In6() {
		p.prefix, p.cidr = netip.Prefix{}, false
	}
	return p
}

// prefix parses a value. It remembers the last one for each operand: many rules ask for
// the same element one after the other.
func (l *look) prefix(v ast.Value, operand int) *parsed {
	last := &l.parsed[operand]
	text, ok := v.(ast.String)
	if !ok {
		text = ""
	}
	if last.text != text {
		*last = parsePrefix(text)
	}
	return last
}

// prefixesOfOperands parses two arguments, and what is constant of them only once.
func prefixesOfOperands(operands []*ast.Term) func(l *look, arguments []ast.Value) (a, b *parsed) {
	var constant [2]*parsed
	for i, operand := range operands[:min(len(operands), len(constant))] {
		if text, ok := operand.Value.(ast.String); ok {
			known := parsePrefix(text)
			constant[i] = &known
		}
	}
	return func(l *look, arguments []ast.Value) (a, b *parsed) {
		if a = constant[0]; a == nil {
			a = l.prefix(arguments[0], 0)
		}
		if b = constant[1]; b == nil {
			b = l.prefix(arguments[1], 1)
		}
		return a, b
	}
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
