package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// maxInput bounds a manifest: a ConfigMap has at most 1 MiB, and a file may hold
// other objects.
const maxInput = 16 << 20

// checkOptions are the flags of check.
type checkOptions struct {
	manifestOptions
	rangeOptions
	readingOptions
	files      []string
	params     string
	policyDirs []string
	output     string
}

// manifestOptions tell what an input file holds.
type manifestOptions struct {
	raw       bool
	name      string
	namespace string
}

func (o *manifestOptions) add(flags *pflag.FlagSet) {
	flags.BoolVar(&o.raw, "raw", false, "the file is the bare configuration, not a manifest")
	flags.StringVar(&o.name, "name", "ip-masq-agent", "`name` of the ConfigMap")
	flags.StringVarP(&o.namespace, "namespace", "n", "kube-system", "`namespace` of the ConfigMap")
}

// rangeOptions state the cluster's ranges.
type rangeOptions struct{ node, pod, service []string }

func (o *rangeOptions) add(flags *pflag.FlagSet) {
	flags.StringSliceVar(&o.node, "node-cidrs", nil, "`CIDRs` of the cluster's nodes, with commas between")
	flags.StringSliceVar(&o.pod, "pod-cidrs", nil, "`CIDRs` of its pods")
	flags.StringSliceVar(&o.service, "service-cidrs", nil, "`CIDRs` of its services")
}

const checkExamples = `  # A manifest, with the ranges of the cluster it is for
  kubectl masq check -f ip-masq-agent.yaml --node-cidrs 192.168.0.0/24 --pod-cidrs 10.244.0.0/16 --service-cidrs 10.96.0.0/12

  # What is stored now
  kubectl get configmap ip-masq-agent -n kube-system -o yaml | kubectl masq check -f - --params params.yaml

  # The bare configuration, as the agent reads it from its file
  kubectl masq check --raw -f /etc/config/ip-masq-agent -o json

  # All that a chart renders, and every manifest below a directory
  helm template charts/network | kubectl masq check -
  kubectl masq check clusters/ base/ip-masq-agent.yaml -o github`

const checkHelp = `Check every ip-masq-agent ConfigMap (--namespace, --name) in manifests, and tell what the webhook would tell of
it. Other objects are passed over. Of a directory, every *.yaml, *.yml and *.json below it is read, but for directories
whose names begin with a dot.

Exit codes: 0 approved, warnings allowed; 1 violations, or a configuration that does not load;
2 wrong usage, or input, params or rules that cannot be read: then nothing is judged. No such ConfigMap anywhere is 2 as well.

JSON output of one file with one such ConfigMap is one object:
  file, line                  what was checked, and where in it the ConfigMap begins (0: the file is the bare configuration)
  allowed, revision           the verdict, and the digest over rules and params
  findings[]                  rule, action (deny or warn), key, path, line and column in the file (0: no such place),
                              text, message, hint, docs; exact is false where only the begin of the value is known,
                              and valueLine and valueColumn then count inside the value; failed: the rule itself failed
  effect                      against the agents' defaults: known, nowMasqueraded[], noLongerMasqueraded[], omitted
  nodeEffects[]               where it is another on nodes that overrides are for: selector, and what effect has; absent without any
Of several, or of a directory, it is one object with allowed, passedOver (how many other objects) and reports[], each as above.

sarif is SARIF 2.1.0, as GitHub's code scanning takes it; github prints workflow commands, which mark the lines of a pull
request; junit has a test suite for each configuration.`

func checkCommand(std streams) *cobra.Command {
	var opts checkOptions
	command := &cobra.Command{
		Use:     "check [-f] FILE|DIRECTORY...",
		Short:   "Tell what the webhook would tell of manifests",
		Long:    checkHelp,
		Example: checkExamples,
		Args:    cobra.ArbitraryArgs,
		RunE: func(command *cobra.Command, args []string) error {
			opts.files = append(opts.files, args...)
			return check(command.Context(), opts, command.Flags().Changed, std)
		},
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringArrayVarP(&opts.files, "file", "f", nil, "manifest `file`, or directory of them; - reads standard input; may be given more than once")
	addOutput(command, &opts.output, "text", "json", "sarif", "github", "junit")
	opts.rangeOptions.add(flags)
	opts.readingOptions.add(flags)
	flags.StringVar(&opts.params, "params", "", "params `file`, as the webhook has it")
	flags.StringArrayVar(&opts.policyDirs, "policy-dir", nil, "`directory` of custom rules; may be given more than once")
	opts.manifestOptions.add(flags)
	return command
}

// check judges ConfigMaps and reports on them. A refusal is errRefused; every
// other error means that there was no verdict.
func check(ctx context.Context, opts checkOptions, given func(flag string) bool, std streams) error {
	write, ok := map[string]func(verdicts, streams) error{
		"text":   verdicts.text,
		"json":   verdicts.json,
		"sarif":  verdicts.sarif,
		"github": verdicts.github,
		"junit":  verdicts.junit,
	}[opts.output]
	if !ok {
		return fmt.Errorf("-o %q: want text, json, sarif, github or junit", opts.output)
	}
	if len(opts.files) == 0 {
		return errNoFile
	}
	judged, err := judge(ctx, opts, given, func() (verdicts, error) { return opts.readAll(opts.files, std.in) })
	if err != nil {
		return err
	}
	if err := write(judged, std); err != nil {
		return err
	}
	if !judged.allowed() {
		return errRefused
	}
	return nil
}

// errNoFile is for commands that read a file.
var errNoFile = errors.New("-f is missing: name a manifest, or - for standard input")

// judge decides on the ConfigMaps that read gives as the webhook would.
func judge(ctx context.Context, opts checkOptions, given func(flag string) bool, read func() (verdicts, error)) (verdicts, error) {
	params, err := readParams(opts.params)
	if err != nil {
		return verdicts{}, err
	}
	known, err := opts.readRanges(params, given)
	if err != nil {
		return verdicts{}, err
	}
	sources, err := readRules(opts.policyDirs)
	if err != nil {
		return verdicts{}, err
	}
	all, err := read()
	if err != nil {
		return verdicts{}, err
	}
	engine, err := policy.New(ctx, opts.into(params), sources)
	if err != nil {
		return verdicts{}, err
	}
	cluster := policy.NewCluster(known.node, known.pod, known.service)
	for _, input := range all.documents {
		decision := engine.Decide(ctx, policy.Request{
			Operation: policy.Create,
			Namespace: input.configMap.Namespace,
			Name:      input.configMap.Name,
			Time:      time.Now(),
			Object:    input.configMap,
		}, cluster)
		nameFlags(decision.Findings, known)
		all.decisions = append(all.decisions, decision)
	}
	return all, nil
}

func readParams(file string) (policy.Params, error) {
	if file == "" {
		return policy.Params{}, nil
	}
	text, err := os.ReadFile(file) //nolint:gosec // the user names it
	if err != nil {
		return policy.Params{}, fmt.Errorf("reading --params: %w", err)
	}
	params, err := policy.ParseParams(text)
	if err != nil {
		return policy.Params{}, fmt.Errorf("--params %s: %w", file, err)
	}
	return params, nil
}

// readRules reads custom rules. A directory without any is a mistake: what it should have
// refused would be approved.
func readRules(directories []string) ([]policy.Source, error) {
	for _, directory := range directories {
		if own, err := policy.ReadSources(directory); err == nil && len(own) == 0 {
			return nil, fmt.Errorf("--policy-dir: there are no rules in %s", directory)
		}
	}
	return policy.ReadSources(directories...)
}

// ranges are the cluster's ranges by kind; nil is unknown.
type ranges struct{ node, pod, service []policy.Range }

// readRanges joins the ranges of the params and of the flags.
func (o rangeOptions) readRanges(params policy.Params, given func(flag string) bool) (ranges, error) {
	var wrong []error
	join := func(flag string, stated []netip.Prefix, texts []string) []policy.Range {
		known := policy.RangesFrom(stated, "params")
		if !given(flag) {
			return known
		}
		prefixes, err := parsePrefixes(texts)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("--%s: %w", flag, err))
		}
		return append(policy.RangesFrom(prefixes, "--"+flag), known...)
	}
	known := ranges{
		node:    join("node-cidrs", params.Cluster.Node, o.node),
		pod:     join("pod-cidrs", params.Cluster.Pod, o.pod),
		service: join("service-cidrs", params.Cluster.Service, o.service),
	}
	return known, errors.Join(wrong...)
}

// nameFlags adds to what the webhook says of unknown ranges, and of agents without IPv6,
// how to state here what is so.
func nameFlags(findings []policy.Finding, known ranges) {
	unknown := map[string]string{}
	for _, kind := range []struct {
		rule, flag string
		ranges     []policy.Range
	}{
		{"node-cidrs-present", "--node-cidrs", known.node},
		{"pod-cidrs-present", "--pod-cidrs", known.pod},
		{"service-cidrs-present", "--service-cidrs", known.service},
	} {
		if kind.ranges == nil {
			unknown[kind.rule] = kind.flag
		}
	}
	for i := range findings {
		if flag, ok := unknown[findings[i].Rule]; ok && findings[i].Hint != "" {
			findings[i].Hint += "; here, state them with " + flag
		}
		if findings[i].Rule == "ipv6-enabled" && strings.Contains(findings[i].Hint, "agent.ipv6") {
			findings[i].Hint += "; here, say --enable-ipv6"
		}
	}
}

func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	prefixes := make([]netip.Prefix, 0, len(texts))
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q is not a CIDR", text)
		case prefix != prefix.Masked():
			return nil, fmt.Errorf("%q has host bits set; write %s", text, prefix.Masked())
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes, nil
}

// read reads the ConfigMap out of the file at path; "-" is standard input.
func (o manifestOptions) read(path string, stdin io.Reader) (*document, error) {
	name, text, err := readInput(path, stdin)
	if err != nil {
		return nil, err
	}
	if o.raw {
		return rawDocument(name, text, o.namespace, o.name), nil
	}
	return findConfigMap(name, text, o.namespace, o.name)
}

// readInput reads a file of the user's and tells its name; "-" is standard input.
func readInput(path string, stdin io.Reader) (name string, text []byte, err error) {
	name, reader := "<stdin>", stdin
	if path != "-" {
		file, missing := os.Open(path) //nolint:gosec // the user names it
		if missing != nil {
			return "", nil, fmt.Errorf("reading the manifest: %w", missing)
		}
		defer file.Close() //nolint:errcheck // read only: nothing can be lost
		name, reader = path, file
	}
	if text, err = io.ReadAll(io.LimitReader(reader, maxInput+1)); err != nil {
		return "", nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(text) > maxInput {
		return "", nil, fmt.Errorf("%s has more than %d bytes", name, maxInput)
	}
	return name, text, nil
}
