package policy

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Bounds of what the compiler is given. It cannot be interrupted, and what it takes grows
// with the square or the third power of some of these, and exponentially with others;
// with these it takes about a second at most.
const (
	maxNesting    = 12         // of comprehensions, every and the like inside one another
	maxChain      = 500        // of rules that need one another
	maxExpansion  = 4096       // of a value, with everything that it refers to written out
	maxSquares    = 50_000_000 // of the number of expressions in a rule, over all rules
	elseWeight    = 16         // of else among these: the square of the chain counts so many times
	maxReferences = 1000       // of the parts of one reference
)

// checkComplexity tells which rules would keep the compiler busy for long.
func checkComplexity(modules map[string]*ast.Module) error {
	squares := 0
	var largest *ast.Rule
	most := 0
	x := newExpansions(modules)
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		for _, rule := range modules[name].Rules {
			if at := tooNested(rule, 0); at != nil {
				return ruleErrorf(at, "more than %d comprehensions or bodies inside one another; give parts of it a rule of their own", maxNesting)
			}
			if at := longReference(rule); at != nil {
				return ruleErrorf(at, "the reference has more than %d parts", maxReferences)
			}
			square := squareOf(rule)
			squares += square
			if square > most {
				most, largest = square, rule
			}
		}
	}
	if squares > maxSquares {
		return ruleErrorf(largest.Location, "the rules are too large to be compiled, most of all %s; give parts of it a rule of their own, or put what it lists into %s",
			largest.Head.Name, dataFile)
	}
	return x.check()
}

// tooNested is where bodies are more than maxNesting deep in one another, or nil.
func tooNested(x any, depth int) (at *ast.Location) {
	if depth > maxNesting {
		return locationOf(x)
	}
	top := true
	visitor := ast.NewGenericVisitor(func(inner any) bool {
		if at != nil {
			return true
		}
		if top {
			top = false
			return false
		}
		switch inner := inner.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.Every, *ast.Not:
			if at = tooNested(inner, depth+1); at != nil && at.Row == 0 {
				at = locationOf(x)
			}
			return true
		}
		return false
	})
	visitor.Walk(x)
	return at
}

func locationOf(x any) *ast.Location {
	switch x := x.(type) {
	case *ast.Rule:
		return x.Location
	case *ast.ArrayComprehension:
		return x.Term.Location
	case *ast.SetComprehension:
		return x.Term.Location
	case *ast.ObjectComprehension:
		return x.Key.Location
	case *ast.Every:
		return x.Location
	}
	return &ast.Location{}
}

func longReference(rule *ast.Rule) (at *ast.Location) {
	ast.WalkTerms(rule, func(term *ast.Term) bool {
		if ref, ok := term.Value.(ast.Ref); ok && len(ref) > maxReferences && at == nil {
			at = term.Location
		}
		return at != nil
	})
	return at
}

// squareOf is the square of the number of expressions in a rule and, with a weight, of
// its chain of else.
func squareOf(rule *ast.Rule) int {
	expressions, chain := 0, 0
	ast.WalkExprs(rule, func(*ast.Expr) bool {
		expressions++
		return false
	})
	for other := rule.Else; other != nil; other = other.Else {
		chain++
	}
	return expressions*expressions + elseWeight*chain*chain
}

// expansions counts what values are with everything that they refer to written out. Rules
// share: each of x1 := [x0, x0], x2 := [x1, x1] and so on is twice as large as the one
// before. The type checker writes them out, and evaluation does where they are variables.
type expansions struct {
	rules   map[string][]*ruleScope // by package and name, "ipmasq.team.name"
	imports map[*ast.Module]map[string]string
	scopes  []*ruleScope
	sizes   map[node]int
	chains  map[string]int
	failure error
}

// node is a variable of a rule, one among the parameters; or a rule as a whole, without scope.
type node struct {
	scope *ruleScope
	name  string
}

// ruleScope is a rule with what its variables are.
type ruleScope struct {
	module *ast.Module
	rule   *ast.Rule
	values map[string][]*ast.Term // what is assigned to each variable
	from   map[string][]passed    // what functions are called with
}

// passed is an argument of a call.
type passed struct {
	scope *ruleScope
	term  *ast.Term
}

func newExpansions(modules map[string]*ast.Module) *expansions {
	x := &expansions{rules: map[string][]*ruleScope{}, imports: map[*ast.Module]map[string]string{}, sizes: map[node]int{}, chains: map[string]int{}}
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		module := modules[name]
		x.imports[module] = map[string]string{}
		for _, i := range module.Imports {
			if ref, ok := i.Path.Value.(ast.Ref); ok && ref.HasPrefix(ast.DefaultRootRef) {
				x.imports[module][string(i.Name())] = dotted(ref[1:])
			}
		}
		for _, rule := range module.Rules {
			for each := rule; each != nil; each = each.Else {
				scope := &ruleScope{module: module, rule: each, values: map[string][]*ast.Term{}, from: map[string][]passed{}}
				x.scopes = append(x.scopes, scope)
				x.rules[ruleName(module, each)] = append(x.rules[ruleName(module, each)], scope)
			}
		}
	}
	for _, scope := range x.scopes {
		scope.assign()
	}
	for _, scope := range x.scopes {
		x.pass(scope)
	}
	return x
}

func ruleName(module *ast.Module, rule *ast.Rule) string {
	return packageOf(module) + "." + dotted(rule.Head.Ref()[:1])
}

// dotted is a reference as packageOf writes it, up to its first variable.
func dotted(ref ast.Ref) string {
	parts := make([]string, 0, len(ref))
	for i, term := range ref {
		part, ok := term.Value.(ast.String)
		if name, isVar := term.Value.(ast.Var); isVar && i == 0 {
			part, ok = ast.String(name), true
		}
		if !ok {
			break
		}
		parts = append(parts, string(part))
	}
	return strings.Join(parts, ".")
}

// assign notes what the variables of a rule are. What stands on one side of an equation
// may be any part of the other side.
func (s *ruleScope) assign() {
	note := func(pattern, value *ast.Term) {
		ast.WalkVars(pattern, func(name ast.Var) bool {
			s.values[string(name)] = append(s.values[string(name)], value)
			return false
		})
	}
	visit := func(x any) bool {
		switch x := x.(type) {
		case *ast.Rule:
			return x != s.rule // else has a scope of its own
		case *ast.Expr:
			if operands := x.Operands(); len(operands) == 2 && (x.IsAssignment() || x.IsEquality()) {
				note(operands[0], operands[1])
				if x.IsEquality() {
					note(operands[1], operands[0])
				}
			}
		case *ast.SomeDecl:
			for _, symbol := range x.Symbols {
				if call, ok := symbol.Value.(ast.Call); ok && len(call) > 2 { // some key, value in collection
					for _, declared := range call[1 : len(call)-1] {
						note(declared, call[len(call)-1])
					}
				}
			}
		case *ast.Every:
			note(x.Value, x.Domain)
		}
		return false
	}
	ast.NewGenericVisitor(visit).Walk(s.rule)
}

// pass notes what the functions that a rule calls are called with.
func (x *expansions) pass(s *ruleScope) {
	call := func(operator *ast.Term, arguments []*ast.Term) {
		ref, ok := operator.Value.(ast.Ref)
		if !ok {
			return
		}
		for _, called := range x.rules[x.resolve(s.module, ref)] {
			for i, parameter := range called.rule.Head.Args {
				if i >= len(arguments) {
					break
				}
				ast.WalkVars(parameter, func(name ast.Var) bool {
					called.from[string(name)] = append(called.from[string(name)], passed{s, arguments[i]})
					return false
				})
			}
		}
	}
	ast.NewGenericVisitor(func(inner any) bool {
		switch inner := inner.(type) {
		case *ast.Rule:
			return inner != s.rule
		case *ast.Expr:
			if inner.IsCall() {
				call(inner.OperatorTerm(), inner.Operands())
			}
		case ast.Call:
			call(inner[0], inner[1:])
		}
		return false
	}).Walk(s.rule)
}

// resolve is the name of the rule that a reference may be to.
func (x *expansions) resolve(module *ast.Module, ref ast.Ref) string {
	name, ok := ref[0].Value.(ast.Var)
	if !ok {
		return ""
	}
	full := packageOf(module) + "." + string(name)
	switch imported, ok := x.imports[module][string(name)]; {
	case ref.HasPrefix(ast.DefaultRootRef):
		full = dotted(ref[1:])
	case ok:
		full = imported
		if rest := dotted(ref[1:]); rest != "" {
			full += "." + rest
		}
	}
	for full != "" && x.rules[full] == nil { // what follows the name of the rule is inside its value
		full = full[:max(0, strings.LastIndexByte(full, '.'))]
	}
	return full
}

// check looks at each rule.
func (x *expansions) check() error {
	for _, s := range x.scopes {
		if x.chain(ruleName(s.module, s.rule)) > maxChain {
			return ruleErrorf(s.rule.Location, "%s needs a chain of more than %d rules, each of which needs the next", s.rule.Head.Name, maxChain)
		}
	}
	for _, s := range x.scopes {
		ast.NewGenericVisitor(func(inner any) bool {
			switch inner := inner.(type) {
			case *ast.Rule:
				return inner != s.rule
			case *ast.Term:
				x.size(s, inner)
				return x.failure != nil
			}
			return false
		}).Walk(s.rule)
		if x.failure != nil {
			return x.failure
		}
	}
	return nil
}

// chain is how many rules a rule needs one behind the other.
func (x *expansions) chain(name string) int {
	if length, ok := x.chains[name]; ok {
		return length
	}
	x.chains[name] = 0 // of a ring, which the compiler refuses
	longest := 0
	for _, s := range x.rules[name] {
		refs := func(ref ast.Ref) bool {
			if other := x.resolve(s.module, ref); other != "" && other != name {
				longest = max(longest, x.chain(other))
			}
			return false
		}
		ast.WalkRefs(s.rule, refs)
		ast.WalkVars(s.rule, func(v ast.Var) bool { return refs(ast.Ref{ast.NewTerm(v)}) })
	}
	x.chains[name] = longest + 1
	return longest + 1
}

// size is how much a term is written out. What refers to nothing does not count: it stands
// there already.
func (x *expansions) size(s *ruleScope, term *ast.Term) int {
	sum := 0
	add := func(element *ast.Term) { sum = min(sum+x.size(s, element), maxExpansion+1) }
	switch value := term.Value.(type) {
	case ast.Var:
		return x.sizeOf(node{s, string(value)})
	case ast.Ref:
		return x.sizeOf(x.nodeOf(s, value))
	case ast.Call:
		if ref, ok := value[0].Value.(ast.Ref); ok {
			return x.sizeOf(x.nodeOf(s, ref))
		}
		return 1
	case *ast.Array:
		value.Foreach(add)
	case ast.Set:
		value.Foreach(add)
	case ast.Object:
		value.Foreach(func(k, v *ast.Term) {
			add(k)
			add(v)
		})
	case *ast.ArrayComprehension:
		add(value.Term)
	case *ast.SetComprehension:
		add(value.Term)
	case *ast.ObjectComprehension:
		add(value.Key)
		add(value.Value)
	default:
		return 0
	}
	if sum > maxExpansion && x.failure == nil {
		x.failure = ruleErrorf(term.Location, "the value has more than %d parts, with what it refers to written out; put what is large into %s", maxExpansion, dataFile)
	}
	return sum
}

// nodeOf is what a reference begins with: a variable of the rule, or another rule.
func (x *expansions) nodeOf(s *ruleScope, ref ast.Ref) node {
	if name, ok := ref[0].Value.(ast.Var); ok && (s.values[string(name)] != nil || s.from[string(name)] != nil) {
		return node{s, string(name)}
	}
	return node{nil, x.resolve(s.module, ref)}
}

func (x *expansions) sizeOf(n node) int {
	if size, ok := x.sizes[n]; ok {
		return size
	}
	x.sizes[n] = 1 // of a ring, which the compiler refuses, or of y = x and x = y
	size := 1
	switch {
	case n.scope == nil:
		for _, s := range x.rules[n.name] {
			for _, part := range []*ast.Term{s.rule.Head.Key, s.rule.Head.Value} {
				if part != nil {
					size = max(size, x.size(s, part))
				}
			}
		}
	case n.scope.values[n.name] == nil && n.scope.from[n.name] == nil: // a rule of the package, or a variable that an index gives
		if name := x.resolve(n.scope.module, ast.Ref{ast.VarTerm(n.name)}); name != "" {
			size = x.sizeOf(node{nil, name})
		}
	default:
		for _, value := range n.scope.values[n.name] {
			size = max(size, x.size(n.scope, value))
		}
		for _, argument := range n.scope.from[n.name] {
			size = max(size, x.size(argument.scope, argument.term))
		}
	}
	x.sizes[n] = cmp.Or(size, 1)
	return x.sizes[n]
}
