package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// readingOptions are the flags of the agents that decide what a configuration means, by
// the agents' own names.
type readingOptions struct{ reserved, ipv6, directory bool }

func (o *readingOptions) add(flags *pflag.FlagSet) {
	flags.BoolVar(&o.reserved, "nomasq-all-reserved-ranges", false, "the agents run with this flag")
	flags.BoolVar(&o.ipv6, "enable-ipv6", false, "the agents run with this flag")
	flags.BoolVar(&o.directory, "config-dir", false, "the agents run with this flag, and merge every key that begins with "+config.FilePrefix)
}

// into are params that state these flags too.
func (o readingOptions) into(params policy.Params) policy.Params {
	params.Agent.ReservedRanges = params.Agent.ReservedRanges || o.reserved
	params.Agent.IPv6 = params.Agent.IPv6 || o.ipv6
	params.ConfigDirectory = params.ConfigDirectory || o.directory
	return params
}

// agentOptions are those, and the flags that decide how a configuration treats traffic.
type agentOptions struct {
	readingOptions

	multicast           bool
	sources, interfaces []string
}

func (o *agentOptions) add(flags *pflag.FlagSet) {
	o.readingOptions.add(flags)
	flags.BoolVar(&o.multicast, "nomasq-multicast", false, "the agents run with this flag")
	flags.StringSliceVar(&o.sources, "source-cidrs", nil, "the agents run with this flag and these `CIDRs`")
	flags.StringSliceVar(&o.interfaces, "out-interfaces", nil, "the agents run with this flag and these `names`")
}

// treatment is what agents make of one configuration.
type treatment struct {
	document *document
	keys     map[string]string // of several files: the key of each; nil where there is one
	whole    config.Config     // with the overrides of all nodes
	flags    config.Options
	rules    ruleset.Options

	config   config.Config      // what holds on the nodes that this is about
	override *override          // why so; nil: none
	families []ruleset.Decision // IPv4, and IPv6 where the agents hold it
	anyNode  bool               // it is not known which node this is about: one that no override is for
}

// override is one of the configuration and where it stands.
type override struct {
	Path     string `json:"path"`
	Selector string `json:"selector"`
	Line     int    `json:"line"`
	Column   int    `json:"column"`
}

// treat reads a configuration as agents with these flags do, on a node with these labels;
// without labels, not even none, it is not known which node this is about. Params state
// flags as well. What the agents would refuse is an error with every reason.
func (o agentOptions) treat(document *document, params policy.Params, node map[string]string) (*treatment, error) {
	sources, err := ruleset.ParseSources(strings.Join(o.sources, ","))
	if err != nil {
		return nil, fmt.Errorf("--source-cidrs: %w", err)
	}
	interfaces, err := ruleset.ParseInterfaces(strings.Join(o.interfaces, ","))
	if err != nil {
		return nil, fmt.Errorf("--out-interfaces: %w", err)
	}
	params = o.into(params)
	t := &treatment{
		document: document,
		flags:    params.Consumer.Flags(params.Agent),
		rules:    ruleset.Options{Sources: sources, Interfaces: interfaces, SpareMulticast: o.multicast},
	}
	var problems []config.Problem
	if params.ConfigDirectory {
		problems, err = t.readFiles()
	} else {
		problems, err = t.readKey(params.Consumer)
	}
	if err != nil {
		return nil, err
	}
	if anyFatal(problems) {
		var errs []error
		for _, p := range problems {
			if p.Severity == config.Fatal {
				at := t.locate(config.Place{File: p.File, Position: config.Position{Line: p.Line, Column: p.Column}})
				message := p.Message
				if p.File != "" {
					message = p.File + ": " + message
				}
				errs = append(errs, fmt.Errorf("%s%s: %s", document.file, at.suffix(), printable(message)))
			}
		}
		if !t.flags.IPv6 && slices.ContainsFunc(problems, func(p config.Problem) bool { return p.Code == config.CodeIPv6Disabled }) {
			errs = append(errs, errors.New("if the agents run with --enable-ipv6, say so with this flag"))
		}
		return nil, fmt.Errorf("the configuration does not load; check tells how to mend it:\n%w", errors.Join(errs...))
	}
	on := t.on(node)
	on.anyNode = node == nil
	return on, nil
}

// readKey reads the one key that agents read.
func (t *treatment) readKey(consumer config.Consumer) ([]config.Problem, error) {
	text, ok := t.document.text(policy.ConfigKey)
	if !ok {
		more := ""
		if len(policy.FilesOf(t.document.configMap)) > 0 {
			more = "; those that run with --config-dir read others: say so with this flag"
		}
		return nil, fmt.Errorf("%s: the ConfigMap has no key %q, so agents have their defaults%s", t.document.file, policy.ConfigKey, more)
	}
	c, problems := consumer.Parse(text)
	if anyFatal(problems) {
		return problems, nil
	}
	c, more := c.For(t.flags)
	t.whole = c
	return append(problems, more...), nil
}

// unread are the keys that agents with --config-dir would read besides.
func (t *treatment) unread() []string {
	if t.keys != nil {
		return nil
	}
	var keys []string
	for _, key := range policy.FilesOf(t.document.configMap) {
		if key != policy.ConfigKey {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// readFiles reads every key that agents with --config-dir do.
func (t *treatment) readFiles() ([]config.Problem, error) {
	t.keys = policy.FilesOf(t.document.configMap)
	if len(t.keys) == 0 {
		return nil, fmt.Errorf("%s: the ConfigMap has no key that begins with %s, so agents with --config-dir have their defaults", t.document.file, config.FilePrefix)
	}
	var parts []config.Part
	var problems []config.Problem
	for _, file := range slices.Sorted(maps.Keys(t.keys)) {
		text, _ := t.document.text(t.keys[file])
		part, more := config.ParseFile(config.File{Name: file, Text: text}, t.flags)
		parts, problems = append(parts, part), append(problems, more...)
	}
	if anyFatal(problems) {
		return problems, nil
	}
	merged, more := config.Merge(parts, t.flags)
	t.whole = merged
	return append(problems, more...), nil
}

// on is the treatment on nodes with these labels.
func (t *treatment) on(labels map[string]string) *treatment {
	effective, index := t.whole.On(labels)
	now := *t
	now.config, now.override, now.families, now.anyNode = effective, nil, nil, false
	if index >= 0 {
		from := t.whole.Place(index)
		at := t.locate(from)
		now.override = &override{Path: from.Path, Selector: t.whole.Overrides[index].Selector(), Line: at.line, Column: at.column}
	}
	families := []ruleset.Family{ruleset.IPv4}
	if t.flags.IPv6 {
		families = append(families, ruleset.IPv6)
	}
	for _, family := range families {
		now.families = append(now.families, ruleset.Decide(effective, family, t.rules))
	}
	return &now
}

// elsewhere is the treatment by each of the overrides, where it is not known which node
// this is about.
func (t *treatment) elsewhere() []*treatment {
	if !t.anyNode {
		return nil
	}
	var all []*treatment
	told := map[string]bool{}
	for _, o := range t.whole.Overrides {
		if selector := o.Selector(); !told[selector] {
			told[selector] = true
			all = append(all, t.on(o.Labels()))
		}
	}
	return all
}

// locate is where in the document a place of the configuration is; one that the text does
// not have is nowhere.
func (t *treatment) locate(from config.Place) place {
	if from.Line == 0 {
		return place{}
	}
	key := t.key(from)
	_, binary := t.document.configMap.BinaryData[key]
	return t.document.locate(policy.Finding{Key: key, Binary: binary, Path: from.Path, Position: from.Position})
}

// key is the one that a place of the configuration is in.
func (t *treatment) key(from config.Place) string {
	if t.keys == nil {
		return policy.ConfigKey
	}
	return t.keys[from.File]
}

func anyFatal(problems []config.Problem) bool {
	return slices.ContainsFunc(problems, func(p config.Problem) bool { return p.Severity == config.Fatal })
}

// family is what agents do with traffic to an address, and false where they leave its
// family alone.
func (t *treatment) family(address netip.Addr) (ruleset.Decision, bool) {
	for _, d := range t.families {
		if (d.Family == ruleset.IPv4) == address.Is4() {
			return d, true
		}
	}
	return ruleset.Decision{}, false
}

// clusterRange is a range of the cluster and what is said of it.
type clusterRange struct {
	policy.Range
	kind string // "node", "pod" or "service"
}

func (r ranges) all() []clusterRange {
	var all []clusterRange
	for _, kind := range []struct {
		name   string
		ranges []policy.Range
	}{{"node", r.node}, {"pod", r.pod}, {"service", r.service}} {
		for _, one := range kind.ranges {
			all = append(all, clusterRange{one, kind.name})
		}
	}
	return all
}

// tell writes a report for people.
func tell(out io.Writer, text string) error {
	if _, err := io.WriteString(out, text); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// report writes what a command has found, as JSON or as text.
func (s streams) report(output string, found any, text func(painter) string) error {
	if output == "json" {
		return writeValue(s.out, found)
	}
	return tell(s.out, text(painter{s.colour}))
}

// writeValue writes one JSON value.
func writeValue(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// plural is "1 address" or "5 addresses".
func plural(count, one, many string) string {
	if count == "1" {
		return count + " " + one
	}
	return count + " " + many
}

// thousands groups the digits of a number: "1,048,576".
func thousands(number string) string {
	var groups []string
	for len(number) > 3 {
		groups = append(groups, number[len(number)-3:])
		number = number[:len(number)-3]
	}
	groups = append(groups, number)
	slices.Reverse(groups)
	return strings.Join(groups, ",")
}
