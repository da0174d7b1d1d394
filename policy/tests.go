package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// TestOptions are how RunTests runs.
type TestOptions struct {
	Run     *regexp.Regexp // names of tests to run; nil: all
	Cover   bool           // tell which lines of the rules the tests reach
	Timeout time.Duration  // of one test; 0: 5 s
}

// Outcome is how a test ended.
type Outcome string

// The outcomes.
const (
	TestPassed  Outcome = "passed"
	TestFailed  Outcome = "failed" // the test is false or undefined
	TestErrored Outcome = "error"  // a built-in function failed, or time was up
	TestSkipped Outcome = "skipped"
)

// TestResult is one test: a rule test_… of a *_test.rego file.
type TestResult struct {
	Name     string // "ipmasq.payments_test.test_deny_public"
	File     string
	Line     int
	Outcome  Outcome
	Detail   string // what it printed, and the error; may have several lines
	Duration time.Duration
}

// Coverage tells what of the rules, tests left aside, was evaluated.
type Coverage struct {
	Percent float64
	Missed  []LineRange // by file and line
}

// LineRange is some lines of a file, both ends included.
type LineRange struct {
	File        string
	First, Last int
}

const (
	defaultTestTimeout = 5 * time.Second
	maxOutputBytes     = 16 << 10 // of what one test printed
	maxNamed           = 4        // tests that an error names
)

// RunTests compiles custom rules with their tests, in the language and with the schema
// that rules have in the webhook, and runs the tests in the order of their files. An
// error tells why none could run, or not all of them.
func RunTests(ctx context.Context, sources []Source, options TestOptions) ([]TestResult, Coverage, error) {
	type ran struct {
		results  []TestResult
		coverage Coverage
	}
	guardBuiltins()
	all, err := attend(ctx, func(ctx context.Context) (ran, error) {
		results, coverage, err := compileAndRun(ctx, sources, options)
		return ran{results, coverage}, err
	})
	if err != nil {
		return nil, Coverage{}, fmt.Errorf("running tests: %w", err)
	}
	return all.results, all.coverage, nil
}

func compileAndRun(ctx context.Context, sources []Source, options TestOptions) ([]TestResult, Coverage, error) {
	builtin, err := builtinModules()
	if err != nil {
		return nil, Coverage{}, err
	}
	custom, err := customModules(sources, builtin)
	if err != nil {
		return nil, Coverage{}, err
	}
	tests, err := testModules(sources)
	if err != nil {
		return nil, Coverage{}, err
	}
	data, err := dataOf(sources)
	if err != nil {
		return nil, Coverage{}, err
	}
	modules := maps.Clone(custom)
	maps.Copy(modules, tests)
	if err = checkComplexity(modules); err != nil {
		return nil, Coverage{}, err
	}
	maps.Copy(modules, builtin)
	runner := tester.NewRunner().
		SetCompiler(ast.NewCompiler().WithCapabilities(capabilities()).WithStrict(true).
			WithRewriteTestRules(true).WithSchemas(schemaSet(decodedSchema())).WithEnablePrintStatements(true)).
		SetModules(modules).
		SetDefaultRegoVersion(ast.RegoV1).
		SetTimeout(cmp.Or(options.Timeout, defaultTestTimeout)).
		RaiseBuiltinErrors(true).
		CapturePrintOutput(true)
	if options.Run != nil {
		runner = runner.Filter(options.Run.String())
	}
	tracer := cover.New()
	if options.Cover {
		runner = runner.SetCoverageQueryTracer(tracer)
	}
	results, err := runTests(ctx, runner, data)
	if err != nil {
		return nil, Coverage{}, err
	}
	return results, coverageOf(tracer.Report(custom)), nil
}

// testModules parses the tests among sources. Their packages are free, but for those of
// the built-in rules, which customModules refuses for rules.
func testModules(sources []Source) (map[string]*ast.Module, error) {
	modules := map[string]*ast.Module{}
	var errs []error
	for _, source := range sources {
		if !isTest(source.Name) {
			continue
		}
		module, err := parseModule(source.Name, source.Text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		modules[source.Name] = module
	}
	return modules, errors.Join(errs...)
}

func runTests(ctx context.Context, runner *tester.Runner, data map[string]any) ([]TestResult, error) {
	var all []TestResult
	var stopped []string // names of tests that ran when ctx ended
	store := inmem.NewFromObject(data)
	err := storage.Txn(ctx, store, storage.TransactionParams{}, func(txn storage.Transaction) error {
		results, err := runner.SetStore(store).RunTests(withPrintBudget(ctx), txn)
		if err != nil {
			return explain(err)
		}
		for result := range results {
			if result == nil {
				continue
			}
			all = append(all, testResultOf(result))
			if topdown.IsCancel(result.Error) && ctx.Err() != nil && len(stopped) < maxNamed {
				stopped = append(stopped, all[len(all)-1].Name)
			}
		}
		return nil
	})
	if err == nil {
		err = context.Cause(ctx)
		if len(stopped) > 0 {
			slices.Sort(stopped)
			err = fmt.Errorf("%w; when it was stopped, there ran %s", err, strings.Join(stopped, ", "))
		}
	}
	slices.SortFunc(all, func(a, b TestResult) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Name, b.Name))
	})
	return all, err
}

func testResultOf(result *tester.Result) TestResult {
	r := TestResult{
		Name:     strings.TrimPrefix(result.Package, "data.") + "." + result.Name,
		Outcome:  TestPassed,
		Detail:   cutBytes(strings.TrimSpace(string(result.Output)), maxOutputBytes),
		Duration: result.Duration,
	}
	if result.Location != nil {
		r.File, r.Line = result.Location.File, result.Location.Row
	}
	switch {
	case result.Skip:
		r.Outcome = TestSkipped
	case result.Error != nil:
		r.Outcome = TestErrored
		r.Detail = strings.TrimSpace(r.Detail + "\n" + result.Error.Error())
	case result.Fail:
		r.Outcome = TestFailed
	}
	return r
}

func coverageOf(report cover.Report) Coverage {
	c := Coverage{Percent: report.Coverage}
	for _, file := range slices.Sorted(maps.Keys(report.Files)) {
		for _, missed := range report.Files[file].NotCovered {
			lines := LineRange{file, missed.Start.Row, missed.End.Row}
			if !slices.Contains(c.Missed, lines) { // as of two expressions on one line
				c.Missed = append(c.Missed, lines)
			}
		}
	}
	return c
}
