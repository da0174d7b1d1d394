package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// explainOptions are the flags of explain.
type explainOptions struct {
	manifestOptions
	rangeOptions
	agentOptions
	nodeOptions
	liveOptions
	file         string
	params       string
	from         string
	outInterface string
	output       string
}

const explainExamples = `  # Does a pod reach the database with its own address?
  kubectl masq explain 192.168.3.4 -f ip-masq-agent.yaml

  # The bare configuration, as the agent reads it from its file
  kubectl masq explain 192.168.3.4 --raw -f /etc/config/ip-masq-agent

  # What is stored now, for agents that hold IPv6 too, with the ranges of the cluster
  kubectl masq explain fd00::1 --live --enable-ipv6

  # On one node, where the configuration has nodeOverrides
  kubectl masq explain 192.168.3.4 --live --node worker-7
  kubectl masq explain 192.168.3.4 -f ip-masq-agent.yaml --node-labels pool=edge,zone=a`

const explainHelp = `Tell whether new connections of pods to an address are masqueraded under a configuration, with which
source address they arrive, and which line decides it. Where the configuration has nodeOverrides, --node or --node-labels tell
which node is meant; without them the answer is for nodes that no override is for, and says which nodes have another.

Exit codes: 0 explained; 2 wrong usage, or a configuration that agents would not load.

JSON output is one object:
  address, verdict            the second is masqueraded, not-masqueraded or depends (on --from, --out-interface)
  source                      whose address the destination sees: node, pod, or empty where it depends
  reason                      in words
  decidedBy                   key, path, prefix, line and column in the file (0: not in the file); null where no range holds the address
  alsoWithin[]                the other ranges around the address, longest first, in the same shape
  override                    which of nodeOverrides holds on the node: path, selector, line and column; null: none
  nodes[]                     without --node and --node-labels, the answer on nodes that an override is for: override, verdict, source,
                              reason, decidedBy
  notes[]                     what else bears on it`

func explainCommand(std streams) *cobra.Command {
	var opts explainOptions
	command := &cobra.Command{
		Use:               "explain ADDRESS -f FILE|--live",
		Short:             "Tell whether traffic to an address is masqueraded, and by which line",
		Long:              explainHelp,
		Example:           explainExamples,
		ValidArgsFunction: cobra.NoFileCompletions,
		Args:              oneArgument("an address, such as 192.168.3.4"),
		RunE: func(command *cobra.Command, args []string) error {
			return explain(command.Context(), opts, args[0], command.Flags().Changed, std)
		},
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVarP(&opts.file, "file", "f", "", "manifest `file`; - reads standard input")
	opts.liveOptions.add(flags)
	addOutput(command, &opts.output, "text", "json")
	flags.StringVar(&opts.from, "from", "", "`address` of the pod, where the agents run with --source-cidrs")
	flags.StringVar(&opts.outInterface, "out-interface", "", "`name` of the interface that it leaves by, where they run with --out-interfaces")
	opts.nodeOptions.add(flags)
	opts.agentOptions.add(flags)
	opts.rangeOptions.add(flags)
	flags.StringVar(&opts.params, "params", "", "params `file`, as the webhook has it")
	opts.manifestOptions.add(flags)
	return command
}

// oneArgument is cobra.ExactArgs(1) that says what is missing.
func oneArgument(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return fmt.Errorf("an argument is missing: %s", what)
		case len(args) > 1:
			return fmt.Errorf("one argument is wanted, %s; %q is too much", what, args[1])
		}
		return nil
	}
}

// explanation is the documented shape; fields may be added, but not changed.
type explanation struct {
	Address    netip.Addr `json:"address"`
	Verdict    verdict    `json:"verdict"`
	Source     string     `json:"source"`
	Reason     string     `json:"reason"`
	DecidedBy  *origin    `json:"decidedBy"`
	AlsoWithin []origin   `json:"alsoWithin"`
	Override   *override  `json:"override"`
	Nodes      []onNodes  `json:"nodes"`
	Notes      []string   `json:"notes"`

	overridden bool // there are overrides, and none is for the node
}

// onNodes is the explanation on nodes that an override is for.
type onNodes struct {
	Override  override `json:"override"`
	Verdict   verdict  `json:"verdict"`
	Source    string   `json:"source"`
	Reason    string   `json:"reason"`
	DecidedBy *origin  `json:"decidedBy"`
}

type verdict string

const (
	masqueraded    verdict = "masqueraded"
	notMasqueraded verdict = "not-masqueraded"
	depends        verdict = "depends"
)

// origin is a range of the configuration and where it stands.
type origin struct {
	Key    string       `json:"key"`
	Path   string       `json:"path"`
	Prefix netip.Prefix `json:"prefix"`
	Line   int          `json:"line"`
	Column int          `json:"column"`

	except bool   // it is masqueraded
	words  string // the path, and of several files which one it is in
}

func explain(ctx context.Context, opts explainOptions, argument string, given func(flag string) bool, std streams) error {
	address, err := netip.ParseAddr(argument)
	if err != nil || address.Zone() != "" {
		return fmt.Errorf("%q is not an IP address; write one such as 192.168.3.4 or fd00::1", argument)
	}
	address = address.Unmap()
	if opts.output != "text" && opts.output != "json" {
		return fmt.Errorf("-o %q: want text or json", opts.output)
	}
	from := netip.Addr{}
	if opts.from != "" {
		if from, err = netip.ParseAddr(opts.from); err != nil || from.Unmap().Is4() != address.Is4() {
			return fmt.Errorf("--from %q is not an address of the family of %s", opts.from, address)
		}
		from = from.Unmap()
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
	document, known, err := opts.one(ctx, opts.manifestOptions, opts.file, known, std)
	if err != nil {
		return err
	}
	treatment, err := opts.treat(document, params, node)
	if err != nil {
		return err
	}
	explained := treatment.explain(address, from, opts.outInterface)
	for _, other := range treatment.elsewhere() {
		there := other.explain(address, from, opts.outInterface)
		explained.Nodes = append(explained.Nodes, onNodes{*other.override, there.Verdict, there.Source, there.Reason, there.DecidedBy})
	}
	explained.Notes = append(explained.Notes, notesOf(address, known)...)
	if keys := treatment.unread(); len(keys) > 0 {
		explained.Notes = append(explained.Notes, "not read: "+strings.Join(keys, ", ")+"; agents that run with --config-dir read it: say so with this flag")
	}
	return std.report(opts.output, explained, func(p painter) string { return explained.text(document.file, p) })
}

// explain tells what happens to a packet to address. An invalid from is not known,
// and so is an empty outInterface.
func (t *treatment) explain(address, from netip.Addr, outInterface string) explanation {
	e := explanation{
		Address: address, AlsoWithin: []origin{}, Override: t.override, Nodes: []onNodes{}, Notes: []string{},
		overridden: !t.anyNode && t.override == nil && len(t.whole.Overrides) > 0,
	}
	decision, held := t.family(address)
	if !held {
		return e.decide(notMasqueraded, "the agents run without --enable-ipv6 and leave IPv6 alone")
	}
	around := t.around(address)
	if len(around) > 0 {
		e.DecidedBy, e.AlsoWithin = &around[0], around[1:]
	}
	switch by := e.DecidedBy; {
	case by != nil && !by.except:
		return e.decide(notMasqueraded, fmt.Sprintf("%s spares %s", t.what(by), by.Prefix))
	case len(t.rules.Sources) > 0 && len(decision.Sources) == 0:
		return e.decide(notMasqueraded, "--source-cidrs has no range of its family")
	case len(decision.Sources) > 0 && !from.IsValid():
		return e.decide(depends, "masqueraded from "+joined(decision.Sources)+" alone; --from tells of one source")
	case !decision.Masquerades(from, address, firstOf(decision.Interfaces)):
		return e.decide(notMasqueraded, fmt.Sprintf("%s is not in --source-cidrs", from))
	case len(decision.Interfaces) > 0 && outInterface == "":
		return e.decide(depends, "masqueraded where it leaves by "+strings.Join(decision.Interfaces, " or ")+"; --out-interface tells of one")
	case !decision.Masquerades(from, address, outInterface):
		return e.decide(notMasqueraded, outInterface+" is not in --out-interfaces")
	case by != nil:
		return e.decide(masqueraded, fmt.Sprintf("%s masquerades %s", by.words, by.Prefix))
	}
	return e.decide(masqueraded, "no range of the list holds it")
}

func (e explanation) decide(v verdict, reason string) explanation {
	e.Verdict, e.Reason = v, reason
	switch v {
	case masqueraded:
		e.Source = "node"
	case notMasqueraded:
		e.Source = "pod"
	case depends:
	}
	return e
}

// what names a range in words, and tells what the file does not.
func (t *treatment) what(by *origin) string {
	switch {
	case strings.HasSuffix(by.Path, config.KeyMasqLinkLocal) || strings.HasSuffix(by.Path, config.KeyMasqLinkLocalIPv6):
		return by.words + ", which is false,"
	case strings.HasPrefix(by.Path, config.KeyNonMasqueradeCIDRs) && t.config.ListAbsent():
		return "the default list, as the file has no " + config.KeyNonMasqueradeCIDRs + ","
	}
	return by.words
}

// around are the ranges that hold an address, the deciding one first: the longest, and
// of equal ones the exception.
func (t *treatment) around(address netip.Addr) []origin {
	found := []origin{}
	add := func(from config.Place, prefix netip.Prefix, except bool) {
		if !prefix.Contains(address) {
			return
		}
		at, key := t.locate(from), ""
		if from.Line > 0 {
			key = t.key(from)
		}
		found = append(found, origin{
			Key: key, Path: from.Path, Prefix: prefix, Line: at.line, Column: at.column, except: except, words: from.String(),
		})
	}
	for i, prefix := range t.config.NonMasquerade {
		add(t.config.Element(config.KeyNonMasqueradeCIDRs, i), prefix, false)
	}
	for i, prefix := range t.config.Masquerade {
		add(t.config.Element(config.KeyMasqueradeCIDRs, i), prefix, true)
	}
	if !t.config.MasqueradeLinkLocal {
		add(t.config.Key(config.KeyMasqLinkLocal), config.LinkLocalIPv4, false)
	}
	if !t.config.MasqueradeLinkLocalIPv6 {
		add(t.config.Key(config.KeyMasqLinkLocalIPv6), config.LinkLocalIPv6, false)
	}
	if t.rules.SpareMulticast {
		add(config.Place{Path: "--nomasq-multicast"}, ruleset.MulticastIPv4, false)
		add(config.Place{Path: "--nomasq-multicast"}, ruleset.MulticastIPv6, false)
	}
	slices.SortStableFunc(found, func(a, b origin) int {
		if a.Prefix == b.Prefix && a.except != b.except {
			if a.except {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.Prefix.Bits(), a.Prefix.Bits())
	})
	return found
}

// firstOf is an interface that the agents masquerade on.
func firstOf(interfaces []string) string {
	if len(interfaces) == 0 {
		return ""
	}
	return interfaces[0]
}

func joined[T fmt.Stringer](values []T) string {
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i] = value.String()
	}
	return strings.Join(texts, ", ")
}

// notesOf tells what the cluster's ranges say of an address, and what no agent decides.
func notesOf(address netip.Addr, known ranges) []string {
	notes := []string{}
	for _, r := range known.all() {
		if !r.Prefix.Contains(address) {
			continue
		}
		note := fmt.Sprintf("in the %s range %s (%s)", r.kind, r.Prefix, r.Source)
		if r.kind == "service" {
			note += ": kube-proxy puts the address of a pod in its place first, and that address decides"
		}
		notes = append(notes, note)
	}
	switch {
	case address.IsLoopback():
		notes = append(notes, "a loopback address: it never leaves the pod")
	case address.IsMulticast():
		notes = append(notes, "a multicast address")
	}
	return notes
}

// text is the explanation for people.
func (e explanation) text(file string, p painter) string {
	var b strings.Builder
	said := map[verdict]string{
		masqueraded:    "masqueraded: it sees the node's address",
		notMasqueraded: "not masqueraded: it sees the pod's own address",
		depends:        "masqueraded or not, that depends",
	}
	where := func(line, column int) string {
		if line == 0 {
			return ""
		}
		return " (" + printable(file) + place{line: line, column: column}.suffix() + ")"
	}
	because := func(reason string, by *origin) string {
		if by == nil {
			return "because " + reason + "\n"
		}
		return "because " + reason + where(by.Line, by.Column) + "\n"
	}
	fmt.Fprintf(&b, "%s: %s\n  %s", p.paint(bold, e.Address.String()), said[e.Verdict], because(e.Reason, e.DecidedBy))
	switch {
	case e.Override != nil:
		fmt.Fprintf(&b, "  on this node %s holds, for nodes with %s%s\n", e.Override.Path, e.Override.Selector, where(e.Override.Line, e.Override.Column))
	case e.overridden:
		b.WriteString("  none of nodeOverrides is for this node\n")
	}
	for i := range e.AlsoWithin {
		o := &e.AlsoWithin[i]
		length := "a shorter prefix"
		if o.Prefix.Bits() == e.DecidedBy.Prefix.Bits() {
			length = "the same prefix"
		}
		fmt.Fprintf(&b, "  also within %s, %s of %s%s\n", o.Prefix, length, o.words, where(o.Line, o.Column))
	}
	var same []string
	for _, on := range e.Nodes {
		if on.Verdict == e.Verdict {
			same = append(same, on.Override.Selector)
			continue
		}
		fmt.Fprintf(&b, "  %s: %s\n    %s", p.paint(yellow, "on nodes with "+on.Override.Selector), said[on.Verdict], because(on.Reason, on.DecidedBy))
	}
	if n := len(same); n > maxListed {
		same = append(same[:maxListed], strconv.Itoa(n-maxListed)+" more")
	}
	if len(same) > 0 {
		b.WriteString("  the same on nodes with " + strings.Join(same, " or ") + "\n")
	}
	for _, note := range e.Notes {
		b.WriteString("  note: " + printable(note) + "\n")
	}
	return b.String()
}
