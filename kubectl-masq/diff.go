package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go4.org/netipx"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// maxDifferences bounds what diff prints of one direction: a range minus an address is up
// to 127 prefixes.
const maxDifferences = 1024

// diffOptions are the flags of diff.
type diffOptions struct {
	manifestOptions
	rangeOptions
	agentOptions
	nodeOptions
	liveOptions
	params string
	output string
}

const diffExamples = `  # What would this change do to traffic?
  kubectl masq diff old.yaml new.yaml --pod-cidrs 10.244.0.0/16

  # Against what is stored now, with the ranges of the cluster
  kubectl masq diff --live new.yaml`

const diffHelp = `Tell which destinations change treatment from one configuration to another, as the fewest ranges that
cover them, and which ranges of the cluster they touch. Connections that are established keep the
treatment that they began with. Where one of them has nodeOverrides, --node or --node-labels tell which node is meant; without them
the answer is for nodes that no override is for, and says what else changes on which others.

Exit codes: 0 nothing changes for traffic; 1 something does; 2 wrong usage, or a configuration that agents would not load (as
diff(1) has them).

JSON output is one object:
  nowMasqueraded[], noLongerMasqueraded[]   prefix, addresses (a decimal number as text) and touches[]: kind, prefix and source
                                            of each range of the cluster that it overlaps
  omitted                                   how many prefixes are left out; at most 1024 of a kind are listed
  nodes[]                                   without --node and --node-labels, what changes on nodes that an override is for, where that
                                            is something else: selector, and the three above`

func diffCommand(std streams) *cobra.Command {
	var opts diffOptions
	command := &cobra.Command{
		Use:     "diff OLD NEW | diff --live NEW",
		Short:   "Tell which addresses change treatment between two configurations",
		Long:    diffHelp,
		Example: diffExamples,
		Args: func(_ *cobra.Command, args []string) error {
			if opts.live {
				return oneArgument("the new file, as --live has the old one")(nil, args)
			}
			if len(args) != 2 {
				return fmt.Errorf("two files are wanted, the old and the new one, and there are %d", len(args))
			}
			if args[0] == "-" && args[1] == "-" {
				return errors.New("both files are standard input; name one of them")
			}
			return nil
		},
		RunE: func(command *cobra.Command, args []string) error {
			return diff(command.Context(), opts, args, command.Flags().Changed, std)
		},
	}
	flags := command.Flags()
	flags.SortFlags = false
	opts.liveOptions.add(flags)
	addOutput(command, &opts.output, "text", "json")
	opts.rangeOptions.add(flags)
	opts.nodeOptions.add(flags)
	opts.agentOptions.add(flags)
	flags.StringVar(&opts.params, "params", "", "params `file`, as the webhook has it")
	opts.manifestOptions.add(flags)
	return command
}

// difference is the documented shape; fields may be added, but not changed.
type difference struct {
	NowMasqueraded      []changedPrefix `json:"nowMasqueraded"`
	NoLongerMasqueraded []changedPrefix `json:"noLongerMasqueraded"`
	Omitted             int             `json:"omitted"`

	Nodes []nodeDifference `json:"nodes"` // on nodes that an override is for
}

// nodeDifference is what changes on nodes with given labels.
type nodeDifference struct {
	Selector            string          `json:"selector"`
	NowMasqueraded      []changedPrefix `json:"nowMasqueraded"`
	NoLongerMasqueraded []changedPrefix `json:"noLongerMasqueraded"`
	Omitted             int             `json:"omitted"`
}

func (d difference) empty() bool { return len(d.NowMasqueraded)+len(d.NoLongerMasqueraded) == 0 }

type changedPrefix struct {
	Prefix    netip.Prefix `json:"prefix"`
	Addresses string       `json:"addresses"`
	Touches   []touched    `json:"touches"`
}

type touched struct {
	Kind   string       `json:"kind"`
	Prefix netip.Prefix `json:"prefix"`
	Source string       `json:"source"`
}

// diff compares two files, or with --live what is stored and one file.
func diff(ctx context.Context, opts diffOptions, files []string, given func(flag string) bool, std streams) error {
	if opts.output != "text" && opts.output != "json" {
		return fmt.Errorf("-o %q: want text or json", opts.output)
	}
	params, err := readParams(opts.params)
	if err != nil {
		return err
	}
	known, err := opts.readRanges(params, given)
	if err != nil {
		return err
	}
	node, err := opts.of(ctx, opts.liveOptions, given)
	if err != nil {
		return err
	}
	var documents []*document
	if opts.live {
		s, unreadable := opts.liveOptions.read(ctx, opts.namespace, opts.name, std.err)
		if unreadable != nil {
			return unreadable
		}
		documents, known = append(documents, s.document), known.and(s.ranges)
	}
	for _, file := range files {
		document, unreadable := opts.manifestOptions.read(file, std.in)
		if unreadable != nil {
			return unreadable
		}
		documents = append(documents, document)
	}
	var treatments [2]*treatment
	for i, document := range documents {
		if treatments[i], err = opts.treat(document, params, node); err != nil {
			return err
		}
	}
	report, err := compareNodes(treatments[0], treatments[1], known)
	if err != nil {
		return err
	}
	err = std.report(opts.output, report, report.text)
	if err == nil && (!report.empty() || len(report.Nodes) > 0) {
		return errRefused
	}
	return err
}

// compareNodes tells what changes on the nodes that the treatments are about, and where
// that is not known also on those that an override of either is for.
func compareNodes(before, after *treatment, known ranges) (difference, error) {
	found, err := compare(before, after)
	if err != nil {
		return difference{}, err
	}
	report := found.report(known)
	if !after.anyNode {
		return report, nil
	}
	told := map[string]bool{}
	for _, o := range slices.Concat(after.whole.Overrides, before.whole.Overrides) {
		if told[o.Selector()] {
			continue
		}
		told[o.Selector()] = true
		there, err := compare(before.on(o.Labels()), after.on(o.Labels()))
		if err != nil {
			return difference{}, err
		}
		if there.equal(found) {
			continue
		}
		on := there.report(known)
		report.Nodes = append(report.Nodes, nodeDifference{o.Selector(), on.NowMasqueraded, on.NoLongerMasqueraded, on.Omitted})
	}
	return report, nil
}

// changes are the destinations that change treatment, IPv4 first.
type changes struct{ nowMasqueraded, noLonger []netipx.IPRange }

func (c changes) equal(other changes) bool {
	return slices.Equal(c.nowMasqueraded, other.nowMasqueraded) && slices.Equal(c.noLonger, other.noLonger)
}

// compare tells what changes from one configuration to the next for agents with the
// same flags.
func compare(before, after *treatment) (changes, error) {
	var all changes
	for i := range before.families {
		changed, err := ruleset.Compare(before.families[i], after.families[i])
		if err != nil {
			return changes{}, err
		}
		all.nowMasqueraded = append(all.nowMasqueraded, changed.NowMasqueraded.Ranges()...)
		all.noLonger = append(all.noLonger, changed.NoLongerMasqueraded.Ranges()...)
	}
	return all, nil
}

func (c changes) report(known ranges) difference {
	cluster := known.all()
	report := difference{Nodes: []nodeDifference{}}
	list := func(ranges []netipx.IPRange) []changedPrefix {
		prefixes, omitted := prefixesOf(ranges)
		report.Omitted += omitted
		all := make([]changedPrefix, 0, len(prefixes))
		for _, prefix := range prefixes {
			all = append(all, changedPrefix{prefix, addresses(prefix), touching(prefix, cluster)})
		}
		return all
	}
	report.NowMasqueraded = list(c.nowMasqueraded)
	report.NoLongerMasqueraded = list(c.noLonger)
	return report
}

// prefixesOf is the fewest prefixes for some ranges, and how many are left out.
func prefixesOf(ranges []netipx.IPRange) (prefixes []netip.Prefix, omitted int) {
	for _, r := range ranges {
		prefixes = r.AppendPrefixes(prefixes)
	}
	omitted = max(0, len(prefixes)-maxDifferences)
	return prefixes[:len(prefixes)-omitted], omitted
}

// addresses is how many there are in a prefix.
func addresses(prefix netip.Prefix) string {
	free := prefix.Addr().BitLen() - prefix.Bits()
	return new(big.Int).Lsh(big.NewInt(1), uint(free)).String()
}

func touching(prefix netip.Prefix, cluster []clusterRange) []touched {
	found := []touched{}
	for _, r := range cluster {
		if r.Prefix.Overlaps(prefix) {
			found = append(found, touched{r.kind, r.Prefix, r.Source})
		}
	}
	return slices.Compact(found)
}

// maxTouched bounds what the text says of one prefix; JSON says all.
const maxTouched = 3

func (d difference) text(p painter) string {
	const nothing = "nothing changes for traffic\n"
	if len(d.Nodes) == 0 {
		return cmp.Or(d.changes(p), nothing)
	}
	var b strings.Builder
	others := "on nodes that no override is for: "
	if d.empty() {
		b.WriteString(others + nothing)
	} else {
		b.WriteString(others + "\n" + d.changes(p))
	}
	for _, on := range d.Nodes {
		changed := difference{NowMasqueraded: on.NowMasqueraded, NoLongerMasqueraded: on.NoLongerMasqueraded, Omitted: on.Omitted}
		b.WriteString("\n" + p.paint(bold, "on nodes with "+on.Selector) + ": ")
		if changed.empty() {
			b.WriteString(nothing)
		} else {
			b.WriteString("\n" + changed.changes(p))
		}
	}
	return strings.ReplaceAll(b.String(), ": \n", ":\n")
}

// changes is empty where nothing changes.
func (d difference) changes(p painter) string {
	var b strings.Builder
	for _, direction := range []struct {
		title    string
		colour   string
		prefixes []changedPrefix
	}{
		{"now masqueraded: will see the node's address", yellow, d.NowMasqueraded},
		{"no longer masqueraded: will see the pod's own address", bold, d.NoLongerMasqueraded},
	} {
		if len(direction.prefixes) == 0 {
			continue
		}
		b.WriteString(p.paint(direction.colour, direction.title) + "\n")
		table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, changed := range direction.prefixes {
			var touches []string
			for i, t := range changed.Touches {
				if i == maxTouched {
					touches = append(touches, fmt.Sprintf("and %d more", len(changed.Touches)-maxTouched))
					break
				}
				touches = append(touches, fmt.Sprintf("%s range %s (%s)", t.Kind, t.Prefix, printable(t.Source)))
			}
			line := fmt.Sprintf("  %s\t%s\t%s", changed.Prefix, plural(thousands(changed.Addresses), "address", "addresses"), strings.Join(touches, ", "))
			_, _ = fmt.Fprintln(table, strings.TrimRight(line, "\t")) // a builder takes everything
		}
		_ = table.Flush()
	}
	if d.Omitted > 0 {
		fmt.Fprintf(&b, "and %d more ranges\n", d.Omitted)
	}
	return b.String()
}
