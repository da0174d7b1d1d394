package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// schemas are what schema prints, by what they are of; the first is printed unless another
// is asked for.
func schemas() []struct {
	of, title string
	text      func() []byte
} {
	return []struct {
		of, title string
		text      func() []byte
	}{
		{"input", "the input of rules, version 1, as opa check --schema reads it", policy.Schema},
		{"config", "the configuration, the value of data.config in the ConfigMap, for editors", config.Schema},
	}
}

const schemaExamples = `  kubectl masq schema input > input.json && opa check --strict --schema input.json rules/

  # An editor with the YAML language server checks config.yaml while it is written, if its first line is
  # # yaml-language-server: $schema=config.schema.json
  kubectl masq schema config > config.schema.json`

func schemaCommand(std streams) *cobra.Command {
	var help strings.Builder
	help.WriteString("Print a JSON Schema:\n\n")
	names := make([]string, 0, len(schemas()))
	completions := make([]cobra.Completion, 0, len(schemas()))
	for _, schema := range schemas() {
		fmt.Fprintf(&help, "  %-8s %s\n", schema.of, schema.title)
		names = append(names, schema.of)
		completions = append(completions, cobra.CompletionWithDesc(schema.of, schema.title))
	}
	help.WriteString("\nWithout a word it is that of the input.\n\nExit codes: 0 printed; 2 wrong usage.")
	return &cobra.Command{
		Use:       "schema [" + strings.Join(names, "|") + "]",
		Short:     "Print the JSON Schema of the rules' input, or of the configuration",
		Long:      help.String(),
		Example:   schemaExamples,
		ValidArgs: completions,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("one schema is printed at a time; %q is too much", args[1])
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			of := append(args, names[0])[0]
			for _, schema := range schemas() {
				if schema.of == of {
					return tell(std.out, string(schema.text()))
				}
			}
			return fmt.Errorf("there is no schema of %q: want %s", of, strings.Join(names, " or "))
		},
	}
}

func capabilitiesCommand(std streams) *cobra.Command {
	return &cobra.Command{
		Use:   "capabilities",
		Short: "Print the language that rules are written in",
		Long: `Print the language that rules are written in, as opa check --capabilities and opa test --capabilities
read it: functions that reach the network, read the clock or cannot be stopped in time are left out.

Exit codes: 0 printed; 2 wrong usage.`,
		Example: "  kubectl masq capabilities > capabilities.json && opa test --capabilities capabilities.json rules/",
		Args:    noArguments,
		RunE:    func(*cobra.Command, []string) error { return tell(std.out, string(policy.Capabilities())) },
	}
}

const newRuleHelp = `Write a rule to begin with: NAME.rego, its tests NAME_test.rego, and a configuration with what the rule
finds in it, testdata/NAME.yaml. All three work as they are: kubectl masq test tries them. Two of them in one directory
find the same until one is changed.

Exit codes: 0 written; 2 wrong usage, or a file that is there already: then nothing is written.`

func newCommand(std streams) *cobra.Command {
	var team, directory string
	rule := &cobra.Command{
		Use:               "rule NAME",
		Short:             "Write a rule with its tests",
		Long:              newRuleHelp,
		Example:           "  kubectl masq new rule no-public --team payments --dir rules && kubectl masq test rules",
		ValidArgsFunction: cobra.NoFileCompletions,
		Args:              oneArgument("a name such as no-public"),
		RunE: func(_ *cobra.Command, args []string) error {
			return newRule(args[0], team, directory, std)
		},
	}
	rule.Flags().StringVar(&team, "team", "", "`name` of the package below ipmasq; findings are called TEAM/NAME")
	rule.Flags().StringVar(&directory, "dir", ".", "`directory` to write to, made where it is missing")
	_ = rule.MarkFlagDirname("dir") // fails only without such a flag
	command := &cobra.Command{
		Use: "new", Short: "Write something to begin with", Args: noSuchCommand,
		RunE: func(command *cobra.Command, _ []string) error {
			_ = command.Help() // writes to std.out, whose errors show at the next write
			return errors.New("what is to be written is missing: rule")
		},
	}
	command.AddCommand(rule)
	return command
}

var (
	ruleName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	teamName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
)

// metadataOfTeam stands in one file of a package.
const metadataOfTeam = `# METADATA
# title: No public ranges
# description: Say here why, for those who are denied.
`

// skeleton are the files of a new rule by their suffix; RULE and TEAM stand for the names, and
// VARIABLE for RULE with _ where it has hyphens.
//
//nolint:gochecknoglobals // a constant in all but the language
var skeleton = []struct{ path, text string }{
	{"RULE.rego", metadataOfTeam + `package ipmasq.TEAM

# Each range of the list that lies outside of the private ones. Mend the condition, the
# message and the hint; input is what kubectl masq schema describes.
deny contains v if {
	some range in input.config.nonMasqueradeCIDRs
	not _private(range.cidr)
	v := {
		"rule": "RULE",
		"path": range.path,
		"msg": $"{range.cidr} is a public range",
		"hint": "spare private ranges only",
	}
}

_private(cidr) if {
	some private in ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]
	net.cidr_contains(private, cidr)
}
`},
	{"RULE_test.rego", `package ipmasq.TEAM_VARIABLE_test

import data.ipmasq.TEAM

_config(cidr) := {"config": {"nonMasqueradeCIDRs": [{"cidr": cidr, "path": "nonMasqueradeCIDRs[0]"}]}}

test_allow_private if {
	TEAM.deny == set() with input as _config("10.1.0.0/16")
}

test_deny_public if {
	some v in TEAM.deny with input as _config("8.8.8.0/24")
	v.path == "nonMasqueradeCIDRs[0]"
}

# A text that does not load has no configuration, and is denied anyway.
test_missing_config if {
	TEAM.deny == set() with input as {"config": null}
}
`},
	{"testdata/RULE.yaml", `# A configuration, and what the rules of this folder find in it: nothing less and nothing more.
config: |
  nonMasqueradeCIDRs:
    - 10.0.0.0/8
    - 8.8.8.0/24
expect:
  - {rule: TEAM/RULE, action: deny, path: "nonMasqueradeCIDRs[1]", message: public range}
`},
}

// newRule writes the skeleton. It overwrites nothing.
func newRule(name, team, directory string, std streams) error {
	switch {
	case !ruleName.MatchString(name):
		return fmt.Errorf("%q is no name of a rule; write small letters, digits and hyphens, as in no-public", name)
	case team == "":
		return errors.New("--team is missing: the package below ipmasq, as in payments")
	case !teamName.MatchString(team):
		return fmt.Errorf("--team %q: write small letters, digits and _, a letter first", team)
	}
	variable := strings.ReplaceAll(name, "-", "_")
	replaced := []string{"RULE", name, "TEAM", team, "VARIABLE", variable}
	further, err := hasPackage(directory, team)
	if err != nil {
		return err
	}
	if further { // what both files defined would be one
		replaced = append(replaced, metadataOfTeam, "", "_private(", "_"+variable+"_private(")
	}
	names := strings.NewReplacer(replaced...)
	for _, file := range skeleton {
		path := filepath.Join(directory, names.Replace(file.path))
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s is there already, so nothing was written", path)
		}
	}
	for _, file := range skeleton {
		path := filepath.Join(directory, names.Replace(file.path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // rules are no secret
			return fmt.Errorf("making a directory: %w", err)
		}
		if err := os.WriteFile(path, []byte(names.Replace(file.text)), 0o644); err != nil { //nolint:gosec // as above
			return fmt.Errorf("writing a rule: %w", err)
		}
		if err := tell(std.out, "wrote "+printable(path)+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// hasPackage tells whether a file in a directory is of the package of a team.
func hasPackage(directory, team string) (bool, error) {
	if _, err := os.Stat(directory); os.IsNotExist(err) {
		return false, nil
	}
	sources, err := policy.ReadSources(directory)
	if err != nil {
		return false, err
	}
	declared := regexp.MustCompile(`(?m)^package ipmasq\.` + regexp.QuoteMeta(team) + `\s*$`)
	return slices.ContainsFunc(sources, func(s policy.Source) bool { return declared.Match(s.Text) }), nil
}

// evalOptions are the flags of eval.
type evalOptions struct {
	manifestOptions
	rangeOptions
	readingOptions
	file       string
	params     string
	policyDirs []string
	testCase   string
	explain    bool
	output     string
}

const evalHelp = `Evaluate one rule on a configuration and print what it gives; --explain prints each step of it. A file of testdata
(--case) may have what a manifest has not: the text before the write, who writes, and when.

Exit codes: 0 evaluated; 2 wrong usage, or input, params or rules that cannot be read.

JSON output is one object:
  results[]                   set (ipmasq.TEAM.deny, and the like), place (file and line where it begins), result (in Rego's notation) and
                              steps (lines of text; empty without --explain)`

// evaluation is the documented shape; fields may be added, but not changed.
type evaluation struct {
	Results []setResult `json:"results"`
}

type setResult struct {
	Set    string `json:"set"`
	Place  string `json:"place"`
	Result string `json:"result"`
	Steps  string `json:"steps"`
}

func evalCommand(std streams) *cobra.Command {
	var opts evalOptions
	command := &cobra.Command{
		Use:   "eval RULE -f FILE|--case FILE",
		Short: "Evaluate one rule, step by step",
		Long:  evalHelp,
		Example: `  kubectl masq eval payments --policy-dir rules -f ip-masq-agent.yaml --explain
  kubectl masq eval payments --policy-dir rules --case rules/testdata/no-public.yaml --explain`,
		ValidArgsFunction: ruleNames,
		Args:              oneArgument("a rule, or the package of custom rules"),
		RunE: func(command *cobra.Command, args []string) error {
			return eval(command, opts, args[0], std)
		},
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVarP(&opts.file, "file", "f", "", "manifest `file`; - reads standard input")
	flags.StringVar(&opts.testCase, "case", "", "`file` of testdata, as kubectl masq test reads it, instead of -f")
	addOutput(command, &opts.output, "text", "json")
	flags.BoolVar(&opts.explain, "explain", false, "print each step")
	flags.StringArrayVar(&opts.policyDirs, "policy-dir", nil, "`directory` of custom rules; may be given more than once")
	flags.StringVar(&opts.params, "params", "", "params `file`, as the webhook has it")
	opts.rangeOptions.add(flags)
	opts.readingOptions.add(flags)
	opts.manifestOptions.add(flags)
	return command
}

func eval(command *cobra.Command, opts evalOptions, rule string, std streams) error {
	if opts.output != "text" && opts.output != "json" {
		return fmt.Errorf("-o %q: want text or json", opts.output)
	}
	params, err := readParams(opts.params)
	if err != nil {
		return err
	}
	params = opts.into(params)
	sources, err := readRules(opts.policyDirs)
	if err != nil {
		return err
	}
	request, cluster, err := opts.write(params, command.Flags().Changed, std.in)
	if err != nil {
		return err
	}
	if request.Object != nil && !params.ConfigDirectory {
		text, _ := (&document{configMap: request.Object}).text(policy.ConfigKey)
		if _, problems := params.Consumer.Parse(text); anyFatal(problems) {
			_, _ = fmt.Fprintln(std.err, "note: the configuration does not load, so input.config is null; check tells why") // the work is done all the same
		}
	}
	engine, err := policy.New(command.Context(), params, sources)
	if err != nil {
		return err
	}
	traces, err := engine.Trace(command.Context(), request, cluster, rule)
	if err != nil {
		return err
	}
	report := evaluation{Results: []setResult{}}
	for _, trace := range traces {
		result := setResult{Set: trace.Set, Place: trace.Place, Result: trace.Result}
		if opts.explain {
			result.Steps = trace.Steps
		}
		report.Results = append(report.Results, result)
	}
	if opts.output == "json" {
		return writeValue(std.out, report)
	}
	for _, result := range report.Results {
		text := fmt.Sprintf("%s (%s) = %s\n", result.Set, result.Place, result.Result)
		if opts.explain {
			text += result.Steps + "\n"
		}
		if err := tell(std.out, text); err != nil {
			return err
		}
	}
	return nil
}

// write is what the rule is asked about: that of a case, or the creation of a manifest's
// ConfigMap.
func (o evalOptions) write(params policy.Params, changed func(flag string) bool, in io.Reader) (policy.Request, *policy.Cluster, error) {
	switch {
	case o.file == "" && o.testCase == "":
		return policy.Request{}, nil, errors.New("-f is missing: name a manifest, or - for standard input; or a case with --case")
	case o.file != "" && o.testCase != "":
		return policy.Request{}, nil, errors.New("-f and --case exclude each other")
	case o.testCase != "":
		text, err := os.ReadFile(o.testCase)
		if err != nil {
			return policy.Request{}, nil, err
		}
		c, err := parseCase(text)
		if err != nil {
			return policy.Request{}, nil, err
		}
		cluster, err := c.cluster()
		return c.request(), cluster, err
	}
	known, err := o.readRanges(params, changed)
	if err != nil {
		return policy.Request{}, nil, err
	}
	document, err := o.read(o.file, in)
	if err != nil {
		return policy.Request{}, nil, err
	}
	return policy.Request{
		Operation: policy.Create, Namespace: document.configMap.Namespace, Name: document.configMap.Name, Time: time.Now(), Object: document.configMap,
	}, policy.NewCluster(known.node, known.pod, known.service), nil
}
