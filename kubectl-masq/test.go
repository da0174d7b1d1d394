package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// testOptions are the flags of test.
type testOptions struct {
	params    string
	run       string
	coverage  bool
	threshold float64
	output    string
}

const testExamples = `  kubectl masq test rules
  kubectl masq test rules --coverage --threshold 90
  kubectl masq test rules --run 'payments' -o junit > report.xml`

const testHelp = `Run the tests of custom rules, in the language and with the schema that rules have in the webhook: every rule
test_… of *_test.rego, and every testdata/*.yaml, which holds a configuration and what the rules find in it (below).
Without --run, each directory is also judged as the webhook judges a rule set: METADATA with a title, names, and an answer
for every sample write.

  config: |                      # the value of the ConfigMap's key
    nonMasqueradeCIDRs: [8.8.8.0/24]
  old: |                         # before the write; without it the ConfigMap is created
    nonMasqueradeCIDRs: [10.0.0.0/8]
  annotations: {ticket: NET-1}   # of the ConfigMap
  oldAnnotations: {}             # before the write
  user: jane@example.com         # who writes
  groups: [network]              # of the user
  cluster: {podCIDRs: [10.244.0.0/16]}
  time: 2026-03-04T05:06:07Z     # of the write
  expect:                        # every finding of the custom rules, and no other
    - {rule: payments/no-public, action: deny, path: "nonMasqueradeCIDRs[0]", message: a part of it}

Exit codes: 0 all passed; 1 some failed, or the coverage is below the threshold; 2 wrong usage, or rules that do not compile.

JSON output is one object:
  results[]                   name, file, line, outcome (passed, failed, error or skipped) and detail
  coverage                    percent, and missed[]: file, first and last line; null without --coverage and --threshold
junit is one test suite, with a test for each rule test_… and each file of testdata.`

func testCommand(std streams) *cobra.Command {
	var opts testOptions
	command := &cobra.Command{
		Use:     "test DIRECTORY...",
		Short:   "Run the tests of custom rules",
		Long:    testHelp,
		Example: testExamples,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("an argument is missing: a directory of rules")
			}
			return nil
		},
		RunE:              func(command *cobra.Command, args []string) error { return test(command.Context(), opts, args, std) },
		ValidArgsFunction: directories,
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVar(&opts.run, "run", "", "run the tests whose names match this `regexp`")
	flags.BoolVar(&opts.coverage, "coverage", false, "tell which lines of the rules the tests do not reach")
	flags.Float64Var(&opts.threshold, "threshold", 0, "least `percent` of coverage")
	addOutput(command, &opts.output, "text", "json", "junit")
	flags.StringVar(&opts.params, "params", "", "params `file` for testdata, as the webhook has it")
	return command
}

func test(ctx context.Context, opts testOptions, directories []string, std streams) error {
	if !slices.Contains([]string{"text", "json", "junit"}, opts.output) {
		return fmt.Errorf("-o %q: want text, json or junit", opts.output)
	}
	if opts.threshold < 0 || opts.threshold > 100 {
		return fmt.Errorf("--threshold %v: want 0 to 100", opts.threshold)
	}
	run, err := regexp.Compile(opts.run)
	if err != nil {
		return fmt.Errorf("--run: %w", err)
	}
	params, err := readParams(opts.params)
	if err != nil {
		return err
	}
	sources, err := policy.ReadSources(directories...)
	if err != nil {
		return err
	}
	if len(sources) == 0 {
		return fmt.Errorf("there are no rules in %s", strings.Join(directories, ", "))
	}
	cover := opts.coverage || opts.threshold > 0
	report := testReport{}
	var coverage policy.Coverage
	if report.results, coverage, err = policy.RunTests(ctx, sources, policy.TestOptions{Run: run, Cover: cover}); err != nil {
		return err
	}
	if cover {
		report.coverage = &coverage
	}
	engine, err := policy.New(ctx, params, sources)
	if err != nil {
		return err
	}
	if opts.run == "" {
		judged, err := asRuleSets(ctx, params, directories, std)
		if err != nil {
			return err
		}
		report.results = append(report.results, judged...)
	}
	for _, directory := range directories {
		results, err := runCases(ctx, engine, directory, run)
		if err != nil {
			return err
		}
		report.results = append(report.results, results...)
	}
	if err := report.write(opts.output, std); err != nil {
		return err
	}
	switch {
	case report.failed() > 0:
		return errRefused
	case cover && coverage.Percent < opts.threshold:
		_, _ = fmt.Fprintf(std.err, "kubectl-masq: coverage is %.1f %%, below %v %%\n", coverage.Percent, opts.threshold)
		return errRefused
	case len(report.results) == 0:
		return errors.New("no test ran")
	}
	return nil
}

// asRuleSets tells, as failed tests, what the webhook would refuse each directory for as a rule
// set beside the others, and on standard error what it would warn of.
func asRuleSets(ctx context.Context, params policy.Params, directories []string, std streams) ([]policy.TestResult, error) {
	var results []policy.TestResult
	for i, directory := range directories {
		set, err := policy.ReadSources(directory)
		if err != nil {
			return nil, err
		}
		beside, err := policy.ReadSources(slices.Delete(slices.Clone(directories), i, i+1)...)
		if err != nil {
			return nil, err
		}
		vetting := policy.Vetting{Params: params, Beside: beside, Cluster: policy.SampleCluster()}
		_, complaints := vetting.VetUntested(ctx, set)
		for _, c := range complaints {
			if c.Action != policy.Deny {
				_, _ = fmt.Fprintf(std.err, "kubectl-masq: warning: %s\n", printable(c.String())) // an error shows at the next write
				continue
			}
			detail := c.Message
			if c.Hint != "" {
				detail += "\n" + c.Hint
			}
			results = append(results, policy.TestResult{
				Name: "as a rule set", File: cmp.Or(c.File, directory), Line: max(c.Line, 1), Outcome: policy.TestFailed, Detail: detail,
			})
		}
	}
	return results, nil
}

// testCase is a file of testdata.
type testCase struct {
	Config         *string           `yaml:"config"`
	Old            *string           `yaml:"old"`
	Annotations    map[string]string `yaml:"annotations"`
	OldAnnotations map[string]string `yaml:"oldAnnotations"`
	User           string            `yaml:"user"`
	Groups         []string          `yaml:"groups"`
	Cluster        struct {
		Node    []string `yaml:"nodeCIDRs"`
		Pod     []string `yaml:"podCIDRs"`
		Service []string `yaml:"serviceCIDRs"`
	} `yaml:"cluster"`
	Time   time.Time         `yaml:"time"`
	Expect []expectedFinding `yaml:"expect"`
}

type expectedFinding struct {
	Rule    string        `yaml:"rule"`
	Action  policy.Action `yaml:"action"`
	Path    string        `yaml:"path"`
	Message string        `yaml:"message"` // a part of it
}

func (x expectedFinding) matches(f policy.Finding) bool {
	return x.Rule == f.Rule && (x.Action == "" || x.Action == f.Action) && (x.Path == "" || x.Path == f.Path) && strings.Contains(f.Message, x.Message)
}

func (x expectedFinding) String() string {
	text := string(x.Action) + " " + x.Rule
	if x.Path != "" {
		text += " at " + x.Path
	}
	if x.Message != "" {
		text += fmt.Sprintf(" with %q", x.Message)
	}
	return strings.TrimSpace(text)
}

// runCases judges the configurations of testdata below a directory.
func runCases(ctx context.Context, engine *policy.Engine, directory string, run *regexp.Regexp) ([]policy.TestResult, error) {
	var results []policy.TestResult
	err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Base(filepath.Dir(path)) != "testdata" || filepath.Ext(path) != ".yaml" || !run.MatchString(path) {
			return err
		}
		text, err := os.ReadFile(path) //nolint:gosec // the user names the directory
		if err != nil {
			return err
		}
		began := time.Now()
		result := policy.TestResult{Name: strings.TrimSuffix(filepath.Base(path), ".yaml"), File: path, Line: 1, Outcome: policy.TestPassed}
		differences, err := runCase(ctx, engine, text)
		switch {
		case err != nil:
			result.Outcome, result.Detail = policy.TestErrored, err.Error()
		case len(differences) > 0:
			result.Outcome, result.Detail = policy.TestFailed, strings.Join(differences, "\n")
		}
		result.Duration = time.Since(began)
		results = append(results, result)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading testdata: %w", err)
	}
	return results, nil
}

// runCase tells how findings differ from those that a case expects.
func runCase(ctx context.Context, engine *policy.Engine, text []byte) ([]string, error) {
	c, err := parseCase(text)
	if err != nil {
		return nil, err
	}
	cluster, err := c.cluster()
	if err != nil {
		return nil, err
	}
	return compareFindings(engine.Decide(ctx, c.request(), cluster), c.Expect), nil
}

func parseCase(text []byte) (testCase, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	var c testCase
	if err := decoder.Decode(&c); err != nil {
		return testCase{}, fmt.Errorf("reading the case: %w", err)
	}
	if c.Config == nil && c.Old == nil {
		return testCase{}, errors.New("reading the case: it has neither config nor old")
	}
	return c, nil
}

// request is the write that a case is about.
func (c testCase) request() policy.Request {
	request := policy.Request{Operation: policy.Update, Namespace: "kube-system", Name: "ip-masq-agent", User: c.User, Groups: c.Groups, Time: c.Time}
	if request.Time.IsZero() {
		request.Time = time.Now()
	}
	object := func(value *string, annotations map[string]string) *corev1.ConfigMap {
		if value == nil {
			return nil
		}
		return &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: request.Namespace, Name: request.Name, Annotations: annotations},
			Data:       map[string]string{policy.ConfigKey: *value},
		}
	}
	request.Object, request.Old = object(c.Config, c.Annotations), object(c.Old, c.OldAnnotations)
	switch {
	case request.Object == nil:
		request.Operation = policy.Delete
	case request.Old == nil:
		request.Operation = policy.Create
	}
	return request
}

// cluster is the one that a case is in.
func (c testCase) cluster() (*policy.Cluster, error) {
	var kinds [3][]policy.Range
	for i, texts := range [][]string{c.Cluster.Node, c.Cluster.Pod, c.Cluster.Service} {
		prefixes, err := parsePrefixes(texts)
		if err != nil {
			return nil, fmt.Errorf("reading the case: cluster: %w", err)
		}
		kinds[i] = policy.RangesFrom(append([]netip.Prefix{}, prefixes...), "test")
	}
	return policy.NewCluster(kinds[0], kinds[1], kinds[2]), nil
}

func compareFindings(decision policy.Decision, expected []expectedFinding) []string {
	var differences []string
	left := slices.Clone(expected)
	for _, f := range decision.Findings {
		if !f.Custom() {
			continue
		}
		if i := slices.IndexFunc(left, func(x expectedFinding) bool { return x.matches(f) }); i >= 0 {
			left = slices.Delete(left, i, i+1)
			continue
		}
		differences = append(differences, fmt.Sprintf("not expected: %s %s at %s: %s", f.Action, f.Rule, f.Path, f.Message))
	}
	for _, x := range left {
		differences = append(differences, "missing: "+x.String())
	}
	return differences
}

// testReport is what all tests gave.
type testReport struct {
	results  []policy.TestResult
	coverage *policy.Coverage // nil: not asked for
}

func (r testReport) failed() int {
	n := 0
	for _, result := range r.results {
		if result.Outcome == policy.TestFailed || result.Outcome == policy.TestErrored {
			n++
		}
	}
	return n
}

func (r testReport) write(format string, std streams) error {
	switch format {
	case "json":
		return writeValue(std.out, r.json())
	case "junit":
		return r.junit(std)
	}
	return tell(std.out, r.text(painter{std.colour}))
}

func (r testReport) text(p painter) string {
	var b strings.Builder
	skipped := 0
	for _, result := range r.results {
		switch result.Outcome {
		case policy.TestPassed:
			continue
		case policy.TestSkipped:
			skipped++
			continue
		case policy.TestFailed, policy.TestErrored:
		}
		fmt.Fprintf(&b, "%s %s: %s\n", p.paint(bold, fmt.Sprintf("%s:%d:", printable(result.File), result.Line)), p.paint(red, string(result.Outcome)), printable(result.Name))
		for line := range strings.Lines(result.Detail) {
			b.WriteString("  " + printable(strings.TrimRight(line, "\n")) + "\n")
		}
	}
	if r.coverage != nil {
		for _, missed := range r.coverage.Missed {
			fmt.Fprintf(&b, "%s:%d: not reached by a test", printable(missed.File), missed.First)
			if missed.Last > missed.First {
				fmt.Fprintf(&b, ", up to line %d", missed.Last)
			}
			b.WriteString("\n")
		}
	}
	fmt.Fprintf(&b, "%d passed", len(r.results)-r.failed()-skipped)
	if n := r.failed(); n > 0 {
		fmt.Fprintf(&b, ", %d failed", n)
	}
	if skipped > 0 {
		fmt.Fprintf(&b, ", %d skipped", skipped)
	}
	if r.coverage != nil {
		fmt.Fprintf(&b, ", coverage %.1f %%", r.coverage.Percent)
	}
	b.WriteString("\n")
	return b.String()
}

// jsonTestReport is the documented shape; fields may be added, but not changed.
type jsonTestReport struct {
	Results  []jsonTestResult `json:"results"`
	Coverage *jsonCoverage    `json:"coverage"`
}

type jsonTestResult struct {
	Name    string         `json:"name"`
	File    string         `json:"file"`
	Line    int            `json:"line"`
	Outcome policy.Outcome `json:"outcome"`
	Detail  string         `json:"detail"`
}

type jsonCoverage struct {
	Percent float64      `json:"percent"`
	Missed  []jsonMissed `json:"missed"`
}

type jsonMissed struct {
	File  string `json:"file"`
	First int    `json:"first"`
	Last  int    `json:"last"`
}

func (r testReport) json() jsonTestReport {
	report := jsonTestReport{Results: []jsonTestResult{}}
	for _, result := range r.results {
		report.Results = append(report.Results, jsonTestResult{result.Name, result.File, result.Line, result.Outcome, result.Detail})
	}
	if r.coverage != nil {
		report.Coverage = &jsonCoverage{Percent: r.coverage.Percent, Missed: []jsonMissed{}}
		for _, missed := range r.coverage.Missed {
			report.Coverage.Missed = append(report.Coverage.Missed, jsonMissed(missed))
		}
	}
	return report
}

// The XML that CI systems read of JUnit's reports.
type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	XMLName  xml.Name    `xml:"testsuite"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name    string    `xml:"name,attr"`
	Class   string    `xml:"classname,attr"`
	Seconds string    `xml:"time,attr,omitempty"`
	Failure *junitBad `xml:"failure"`
	Error   *junitBad `xml:"error"`
	Skipped *struct{} `xml:"skipped"`
	Output  string    `xml:"system-out,omitempty"`
}

type junitBad struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr"`
	Text    string `xml:",chardata"`
}

func (r testReport) junit(std streams) error {
	suite := junitSuite{Name: "kubectl masq test", Tests: len(r.results)}
	for _, result := range r.results {
		c := junitCase{Name: printable(result.Name), Class: printable(result.File), Seconds: strconv.FormatFloat(result.Duration.Seconds(), 'f', 3, 64)}
		bad := &junitBad{
			Message: fmt.Sprintf("%s:%d: %s", printable(result.File), result.Line, result.Outcome), Type: string(result.Outcome), Text: printableLines(result.Detail),
		}
		switch result.Outcome {
		case policy.TestFailed:
			suite.Failures++
			c.Failure = bad
		case policy.TestErrored:
			suite.Errors++
			c.Error = bad
		case policy.TestSkipped:
			suite.Skipped++
			c.Skipped = &struct{}{}
		case policy.TestPassed:
		}
		suite.Cases = append(suite.Cases, c)
	}
	return writeXML(std, suite)
}

func writeXML(std streams, value any) error {
	text, err := xml.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the report: %w", err)
	}
	return tell(std.out, xml.Header+string(text)+"\n")
}

// printableLines is printable for text of several lines.
func printableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n")
}
