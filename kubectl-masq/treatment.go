package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// agentOptions are the flags of the agents that decide how a configuration treats
// traffic, by the agents' own names.
type agentOptions struct {
	reserved, ipv6, multicast bool
	sources, interfaces       []string
}

func (o *agentOptions) add(flags *pflag.FlagSet) {
	flags.BoolVar(&o.reserved, "nomasq-all-reserved-ranges", false, "the agents run with this flag")
	flags.BoolVar(&o.ipv6, "enable-ipv6", false, "the agents run with this flag")
	flags.BoolVar(&o.multicast, "nomasq-multicast", false, "the agents run with this flag")
	flags.StringSliceVar(&o.sources, "source-cidrs", nil, "the agents run with this flag and these `CIDRs`")
	flags.StringSliceVar(&o.interfaces, "out-interfaces", nil, "the agents run with this flag and these `names`")
}

// treatment is what agents make of one configuration.
type treatment struct {
	document *document
	config   config.Config
	flags    config.Options
	rules    ruleset.Options
	families []ruleset.Decision // IPv4, and IPv6 where the agents hold it
}

// treat reads a configuration as agents with these flags do. Params state flags as
// well. What the agents would refuse is an error with every reason.
func (o agentOptions) treat(document *document, params policy.Params) (*treatment, error) {
	sources, err := parsePrefixes(o.sources)
	if err != nil {
		return nil, fmt.Errorf("--source-cidrs: %w", err)
	}
	flags := params.Consumer.Flags(config.Options{
		ReservedRanges: o.reserved || params.Agent.ReservedRanges,
		IPv6:           o.ipv6 || params.Agent.IPv6,
	})
	text, ok := document.configMap.Data[policy.ConfigKey]
	if !ok {
		return nil, fmt.Errorf("%s: the ConfigMap has no key %q in data, so agents have their defaults", document.file, policy.ConfigKey)
	}
	c, problems := params.Consumer.Parse([]byte(text))
	if !anyFatal(problems) {
		var more []config.Problem
		c, more = c.For(flags)
		problems = append(problems, more...)
	}
	if anyFatal(problems) {
		var errs []error
		for _, p := range problems {
			if p.Severity == config.Fatal {
				at := document.locate(policy.Finding{Key: policy.ConfigKey, Position: config.Position{Line: p.Line, Column: p.Column}})
				errs = append(errs, fmt.Errorf("%s%s: %s", document.file, at.suffix(), printable(p.Message)))
			}
		}
		return nil, fmt.Errorf("the configuration does not load; check tells how to mend it:\n%w", errors.Join(errs...))
	}
	t := &treatment{
		document: document, config: c, flags: flags,
		rules: ruleset.Options{Sources: sources, Interfaces: o.interfaces, SpareMulticast: o.multicast},
	}
	families := []ruleset.Family{ruleset.IPv4}
	if flags.IPv6 {
		families = append(families, ruleset.IPv6)
	}
	for _, family := range families {
		t.families = append(t.families, ruleset.Decide(c, family, t.rules))
	}
	return t, nil
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
