package policy

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// maxVolume bounds what one value of a rule, or the result of one function, may take,
// in bytes as volume counts them. The largest input that there is, twice 16384 CIDRs,
// is about half of it.
const maxVolume = 32 << 20

// Rough sizes in memory, in bytes.
const (
	nodeVolume  = 64 // of a term, with its place in a collection
	pieceVolume = 32 // of a piece of a text, beyond the text
)

// maxValueDepth bounds how deep a value may nest: reading it recurses.
const maxValueDepth = 10_000

// volume takes from left what value takes in memory, were nothing in it shared, and
// tells whether it fits. Rules share: x2 := [x1, x1] costs nothing, but writing out, or
// comparing, what thirty such lines make takes 2^30 steps, which nothing interrupts.
func volume(value ast.Value, left *int) bool { return volumeAt(value, left, 0) }

func volumeAt(value ast.Value, left *int, depth int) bool {
	*left -= nodeVolume
	switch value := value.(type) {
	case ast.String:
		*left -= len(value)
	case ast.Number:
		*left -= len(value)
	case *ast.Array:
		if depth > maxValueDepth {
			return false
		}
		return !value.Until(func(t *ast.Term) bool { return !volumeAt(t.Value, left, depth+1) })
	case ast.Set:
		if depth > maxValueDepth {
			return false
		}
		return !value.Until(func(t *ast.Term) bool { return !volumeAt(t.Value, left, depth+1) })
	case ast.Object:
		if depth > maxValueDepth {
			return false
		}
		return !value.Until(func(k, v *ast.Term) bool {
			return !volumeAt(k.Value, left, depth+1) || !volumeAt(v.Value, left, depth+1)
		})
	}
	return *left >= 0
}

// fits tells whether the result of a function, and what it needs on the way, stays
// within maxVolume.
type fits func(operands []*ast.Term) bool

// boundedBuiltins are the functions whose results can be much larger than what it took to
// write the call, and those that take everything in their arguments into their hands. The
// others look at one value, or stop when they are told to.
//
//nolint:gochecknoglobals // a constant in all but the language
var boundedBuiltins = map[string]fits{
	"array.concat": fitsSum, "array.flatten": fitsSum, "array.reverse": fitsSum,
	"base64.decode": fitsSum, "base64.encode": fitsSum, "hex.decode": fitsSum, "hex.encode": fitsSum,
	"concat":      fitsJoin,
	"json.filter": fitsSum, "json.marshal": fitsSum, "json.patch": fitsSum, "json.remove": fitsSum,
	"object.remove": fitsSum, "object.union": fitsSum, "object.union_n": fitsSum,
	"intersection": fitsSum, "union": fitsSum, "and": fitsSum, "or": fitsSum, "minus": fitsSum,
	"sort": fitsSum, "max": fitsSum, "min": fitsSum, "sum": fitsSum, "product": fitsSum,
	"internal.template_string": fitsSum, "internal.print": fitsSum,
	"lower": fitsSum, "upper": fitsSum, "strings.reverse": fitsSum, "substring": fitsSum,
	"trim": fitsSum, "trim_left": fitsSum, "trim_right": fitsSum, "trim_prefix": fitsSum, "trim_suffix": fitsSum, "trim_space": fitsSum,
	"strings.any_prefix_match": fitsSum, "strings.any_suffix_match": fitsSum,
	"time.format": fitsSum, "semver.compare": fitsSum,

	"split": fitsPieces, "strings.split_n": fitsPieces, "indexof_n": fitsPieces, "json.unmarshal": fitsPieces, "json.is_valid": fitsPieces,
	"regex.split": fitsPattern, "regex.find_n": fitsPattern, "regex.find_all_string_submatch_n": fitsPattern, "regex.match": fitsPattern,
	"regex.is_valid": fitsPattern, "glob.match": fitsGlob,

	"replace": fitsReplace, "regex.replace": fitsRegexReplace, "sprintf": fitsSprintf,
	"numbers.range": fitsRange, "numbers.range_step": fitsRangeStep,
}

// guardBuiltins puts the bounds before the functions, once for the process: OPA has one
// table of them. Nothing else about them changes.
//
//nolint:gochecknoglobals // as OPA's table is
var guardBuiltins = sync.OnceFunc(func() {
	for name, fit := range boundedBuiltins {
		call := topdown.GetBuiltin(name)
		topdown.RegisterBuiltinFunc(name, func(b topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
			if !fit(operands) || name == ast.InternalPrint.Name && !printFits(b.Context, operands) {
				bound := maxVolume
				if name == ast.InternalPrint.Name {
					bound = maxPrinted
				}
				// Halt ends the evaluation where errors of functions do not.
				return topdown.Halt{Err: &topdown.Error{
					Code: topdown.BuiltinErr, Location: b.Location,
					Message: fmt.Sprintf("%s: it would take more than %d MiB", strings.TrimPrefix(name, "internal."), bound>>20),
				}}
			}
			return call(b, operands, iter)
		})
	}
})

// printBudget is what the tests of one run may still print, in bytes as volume counts them.
type printBudget struct{ left atomic.Int64 }

type printBudgetKey struct{}

// maxPrinted bounds what all tests of a run print together.
const maxPrinted = 4 << 20

// withPrintBudget bounds what evaluations with the context it gives print.
func withPrintBudget(ctx context.Context) context.Context {
	budget := &printBudget{}
	budget.left.Store(maxPrinted)
	return context.WithValue(ctx, printBudgetKey{}, budget)
}

func printFits(ctx context.Context, operands []*ast.Term) bool {
	budget, ok := ctx.Value(printBudgetKey{}).(*printBudget)
	if !ok {
		return true // nobody reads it
	}
	left := maxVolume
	for _, operand := range operands {
		volume(operand.Value, &left)
	}
	return budget.left.Add(int64(left-maxVolume)) >= 0
}

// fitsSum is for what makes, or looks at, something as large as its arguments.
func fitsSum(operands []*ast.Term) bool {
	left := maxVolume
	for _, operand := range operands {
		if !volume(operand.Value, &left) {
			return false
		}
	}
	return true
}

// fitsJoin is for concat, which writes its first argument between all of the second.
func fitsJoin(operands []*ast.Term) bool {
	delimiter := len(textOfTerm(operands[0]))
	count := 0
	switch list := operands[1].Value.(type) {
	case *ast.Array:
		count = list.Len()
	case ast.Set:
		count = list.Len()
	}
	return fitsSum(operands) && (delimiter == 0 || count < maxVolume/delimiter)
}

// fitsPieces is for what can make a value of every second character.
func fitsPieces(operands []*ast.Term) bool {
	return len(textOfTerm(operands[0])) <= maxVolume/pieceVolume && fitsSum(operands)
}

// maxPattern bounds patterns, whose programs can be a thousand times as large.
const maxPattern = 4 << 10

// fitsPattern is for what takes a pattern; wherever it stands, the longest text that is
// looked at is as long as for fitsPieces.
func fitsPattern(operands []*ast.Term) bool {
	for i, operand := range operands {
		if text := textOfTerm(operand); i == 0 && len(text) > maxPattern || len(text) > maxVolume/pieceVolume {
			return false
		}
	}
	return true
}

// fitsGlob is for glob.match(pattern, delimiters, text), which tries every place of the text
// for every wildcard, and remembers them.
func fitsGlob(operands []*ast.Term) bool {
	const mostPlaces = 1 << 20
	pattern, text := textOfTerm(operands[0]), textOfTerm(operands[2])
	places := 1
	for range strings.Count(strings.ReplaceAll(pattern, "**", "*"), "*") {
		if places *= max(1, len(text)); places > mostPlaces {
			return false
		}
	}
	return len(pattern) <= maxPattern && len(text) <= mostPlaces
}

// fitsReplace is for replace(text, old, new).
func fitsReplace(operands []*ast.Term) bool {
	text, before, after := textOfTerm(operands[0]), textOfTerm(operands[1]), textOfTerm(operands[2])
	times := strings.Count(text, before)
	return len(text) <= maxVolume && (len(after) == 0 || times <= (maxVolume-len(text))/len(after))
}

// fitsRegexReplace is for regex.replace(text, pattern, value): every $0 in value is the
// match, and all matches together are the text.
func fitsRegexReplace(operands []*ast.Term) bool {
	text, pattern, value := textOfTerm(operands[0]), textOfTerm(operands[1]), textOfTerm(operands[2])
	return len(pattern) <= maxPattern && len(text) <= maxVolume/pieceVolume && (len(text)+1) <= maxVolume/(len(value)+1)
}

// fitsSprintf is for sprintf: a verb may be wide, and each may write any argument.
func fitsSprintf(operands []*ast.Term) bool {
	const widest = 1_000_000 // fmt takes no wider field
	left := maxVolume
	if !volume(operands[1].Value, &left) {
		return false
	}
	arguments := maxVolume - left
	format := textOfTerm(operands[0])
	if strings.Contains(format, "[") { // an argument by its number, again and again
		arguments *= max(1, strings.Count(format, "%"))
	}
	verbs := strings.Split(format, "%")
	wide := 0
	for _, verb := range verbs[1:] {
		flags := strings.TrimLeft(verb, "+-# 0")
		width := flags[:len(flags)-len(strings.TrimLeft(flags, "0123456789.[]*"))]
		if strings.Contains(width, "*") || len(width) > 3 {
			wide += 2 * widest // width and precision
		}
	}
	return len(format) <= maxVolume && arguments <= maxVolume && wide+arguments+len(format) <= maxVolume
}

// fitsRange is for numbers.range(from, to).
func fitsRange(operands []*ast.Term) bool {
	return fitsSteps(operands[0], operands[1], ast.InternedTerm(1))
}

// fitsRangeStep is for numbers.range_step(from, to, step).
func fitsRangeStep(operands []*ast.Term) bool {
	return fitsSteps(operands[0], operands[1], operands[2])
}

// fitsSteps takes a number that is no small integer for one that is far away; that of a
// step which the function refuses does not matter.
func fitsSteps(from, to, step *ast.Term) bool {
	first, ok := intOfTerm(from)
	last, also := intOfTerm(to)
	by, stepOK := intOfTerm(step)
	if !ok || !also || !stepOK {
		return false
	}
	distance := uint64(max(first, last)) - uint64(min(first, last)) //nolint:gosec // as two's complements, too
	return by <= 0 || distance/uint64(by) < maxVolume/nodeVolume
}

func textOfTerm(term *ast.Term) string {
	text, _ := term.Value.(ast.String)
	return string(text)
}

func intOfTerm(term *ast.Term) (int64, bool) {
	number, ok := term.Value.(ast.Number)
	if !ok {
		return 0, true // not ours to refuse
	}
	return number.Int64()
}
