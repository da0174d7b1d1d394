package policy

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// guards tell of one set that it is empty without evaluating it: when each rule that
// adds to it begins with a condition that does not hold. OPA's own index of rules
// does that for equality, but not for "not input.derived.overlaps == []" and
// comparisons, with which rules begin here, so that what is missing is a violation.
// They are read off the rules themselves: what a condition says is said in Rego
// alone. A set without guards (nil) is always evaluated.
type guards []ruleGuard

// ruleGuard is the conditions that the body of one rule begins with.
type ruleGuard []condition

// condition is an expression of a rule: a comparison, or not and comparisons.
type condition struct {
	negated     bool
	comparisons []comparison
}

// comparison compares two values, each a constant or a part of the input.
type comparison struct {
	left, right ast.Value
	holds       func(left, right ast.Value) bool
}

// guardsOf reads the guards of the set that module defines under this name. Only
// built-in rules have them: their operators are known to be OPA's own.
func guardsOf(module *ast.Module, set string) guards {
	var all guards
	for _, rule := range module.Rules {
		if rule.Head.Ref().String() != set {
			continue
		}
		var guard ruleGuard
		for _, expr := range rule.Body {
			c, ok := conditionOf(expr)
			if !ok {
				break // what stands behind it counts only once this has been evaluated
			}
			guard = append(guard, c)
		}
		if len(guard) == 0 {
			return nil
		}
		all = append(all, guard)
	}
	return all
}

func conditionOf(expr *ast.Expr) (condition, bool) {
	c := condition{negated: expr.Negated}
	compared := ast.Body{expr}
	if not, ok := expr.Terms.(*ast.Not); ok {
		if expr.Negated {
			return condition{}, false
		}
		c.negated, compared = true, not.Body
	}
	if len(expr.With) > 0 {
		return condition{}, false
	}
	for _, one := range compared {
		read, ok := comparisonOf(one)
		if !ok || len(one.With) > 0 || one != expr && one.Negated {
			return condition{}, false
		}
		c.comparisons = append(c.comparisons, read)
	}
	return c, true
}

func comparisonOf(expr *ast.Expr) (comparison, bool) {
	operands := expr.Operands()
	if !expr.IsCall() || len(operands) != 2 || !isFixed(operands[0].Value) || !isFixed(operands[1].Value) {
		return comparison{}, false
	}
	holds := operator(expr.Operator().String())
	return comparison{operands[0].Value, operands[1].Value, holds}, holds != nil
}

// isFixed tells whether a value is a constant or a part of the input that is always
// the same one.
func isFixed(value ast.Value) bool {
	if ref, ok := value.(ast.Ref); ok {
		return ref.HasPrefix(ast.InputRootRef) && ref.IsGround() &&
			!slices.ContainsFunc(ref[1:], func(key *ast.Term) bool { _, text := key.Value.(ast.String); return !text })
	}
	return ast.IsConstant(value)
}

// operator is what the built-in function of this name tells, or nil. OPA compares in
// ast.Compare as well, values of different types too.
func operator(name string) func(left, right ast.Value) bool {
	switch name {
	case ast.Equal.Name:
		return func(left, right ast.Value) bool { return ast.Compare(left, right) == 0 }
	case ast.LessThanEq.Name:
		return func(left, right ast.Value) bool { return ast.Compare(left, right) <= 0 }
	case ast.GreaterThanEq.Name:
		return func(left, right ast.Value) bool { return ast.Compare(left, right) >= 0 }
	case ast.GreaterThan.Name:
		return func(left, right ast.Value) bool { return ast.Compare(left, right) > 0 }
	case ast.Member.Name:
		return func(left, right ast.Value) bool {
			set, ok := right.(ast.Set)
			return ok && set.Contains(ast.NewTerm(left))
		}
	}
	return nil
}

// empty tells whether the set is empty for certain.
func (g guards) empty(input ast.Value) bool {
	return len(g) > 0 && !slices.ContainsFunc(g, func(rule ruleGuard) bool { return !rule.fails(input) })
}

// fails tells whether the rule adds nothing for certain.
func (g ruleGuard) fails(input ast.Value) bool {
	return slices.ContainsFunc(g, func(c condition) bool { return c.fails(input) })
}

// fails tells whether the condition is known and does not hold. Of what the input
// lacks nothing is known here: evaluation decides.
func (c condition) fails(input ast.Value) bool {
	all := true
	for _, one := range c.comparisons {
		left, right := valueIn(input, one.left), valueIn(input, one.right)
		if left == nil || right == nil {
			return false
		}
		all = all && one.holds(left, right)
	}
	return all == c.negated
}

// valueIn is what value, a constant or a reference, is in this input; nil when the
// input lacks it.
func valueIn(input, value ast.Value) ast.Value {
	ref, ok := value.(ast.Ref)
	if !ok {
		return value
	}
	found, err := input.Find(ref[1:])
	if err != nil {
		return nil
	}
	return found
}
