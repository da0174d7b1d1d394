package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go4.org/netipx"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// fate is what becomes of a text in an agent.
type fate string

// The fates, the worst last.
const (
	loads   fate = "loads"
	refuses fate = "refuses" // what was in force stays; after a first start there is nothing
	crashes fate = "crashes" // the process ends, again and again
	breaks  fate = "breaks"  // it is accepted, iptables refuses the rules, and pods lose masquerading
)

func (f fate) rank() int { return slices.Index([]fate{loads, refuses, crashes, breaks}, f) }

// departure is what an agent makes of a problem that its reading of the text has.
type departure struct {
	fate    fate
	says    string // what happens, for people
	instead string // the message, with the offending text for %q; empty: that of the reading
}

// foreignAgent is an agent that reads the same ConfigMap.
type foreignAgent struct {
	name  string
	title string

	reads      config.Consumer // whose reading of the text comes nearest; the rest tells how it departs from it
	reserved   bool            // it runs with --nomasq-all-reserved-ranges where it is at home
	onFatal    departure       // any fatal problem
	departures map[config.Code]departure
	limit      int  // CIDRs that it takes, whatever the text says; 0: what the text says
	listless   bool // it has no default list once there is a file
	anyOrder   bool // its rules have another order at each pass
	directory  bool // it reads every key that begins with config.FilePrefix, and merges them; the limit is of each
}

// foreignAgents is the table of known differences. What is in it was seen in runs of
// these agents, or of their parsers, and tests hold it to what was recorded there.
func foreignAgents() []foreignAgent {
	const emptyChain = "it takes the range, and iptables then refuses the rules: the jump leads to an empty chain"
	const ends = "it ends, and again at each restart; rules stay, and nobody heals them"
	upstream := foreignAgent{
		name: "upstream", title: "ip-masq-agent", reads: config.Upstream,
		onFatal: departure{fate: refuses, says: "what was in force stays but is no longer healed, and a node that starts has no rules at all"},
		departures: map[config.Code]departure{
			config.CodeNullElement:     {fate: loads, says: "it puts the default range of the same position in its place"},
			config.CodeResyncTooShort:  {fate: loads, says: "it runs iptables without a pause, and holds its lock away from kube-proxy"},
			config.CodeIPv4Mapped:      {fate: breaks, says: emptyChain},
			config.CodeMaskLeadingZero: {fate: breaks, says: emptyChain},
		},
	}
	gke := upstream
	gke.name, gke.title, gke.reserved = "gke", "ip-masq-agent of GKE", true
	return []foreignAgent{
		upstream,
		gke,
		{
			name: "azure", title: "Azure ip-masq-agent-v2", reads: config.Cilium, // the same three keys
			onFatal: departure{fate: crashes, says: ends},
			departures: map[config.Code]departure{
				config.CodeIgnoredKey:      {fate: loads, instead: "%q is no key of this agent, which ignores it"},
				config.CodeNullElement:     {fate: crashes, says: ends, instead: "the element is empty"},
				config.CodeHostBits:        {fate: crashes, says: ends, instead: "%q has host bits set"},
				config.CodeIPv4Mapped:      {fate: breaks, says: "iptables refuses the rules, and " + ends, instead: "%q is an IPv4-mapped IPv6 range"},
				config.CodeMaskLeadingZero: {fate: breaks, says: "iptables refuses the rules, and " + ends},
			},
			limit: 64, listless: true, anyOrder: true, directory: true,
		},
		{
			name: "cilium", title: "Cilium's ipMasqAgent", reads: config.Cilium, reserved: true,
			onFatal: departure{fate: refuses, says: "what was in force stays"},
			departures: map[config.Code]departure{
				config.CodeHostBits: {fate: loads, says: "it cuts them off", instead: "%q has host bits set"},
			},
		},
	}
}

// portabilityOptions are the flags of portability.
type portabilityOptions struct {
	manifestOptions
	file string
	readingOptions
	agents []string
	output string
}

const portabilityExamples = `  # May this file move to GKE, AKS or Cilium?
  kubectl masq portability -f ip-masq-agent.yaml

  # One of them alone, for a pipeline
  kubectl masq portability --raw -f config.yaml --agents cilium -o json`

const portabilityHelp = `Tell what other agents make of a configuration, against this project's agent: upstream's ip-masq-agent, GKE's
(which runs with --nomasq-all-reserved-ranges), Azure's ip-masq-agent-v2 and Cilium's ipMasqAgent. What is told of them was
seen when they, or their parsers, were given such files.

Azure's agent reads every key that begins with ip-masq, and merges them, as this project's does with --config-dir; the others read one
key. Where the ConfigMap has several such keys, and --config-dir is given or the key config is missing, each of the others is told of for
each key.

Exit codes: 0 all of them load it and treat traffic the same; 1 one does not; 2 wrong usage or unreadable input.

JSON output is one object:
  loads                       whether this project's agent loads it
  agents[]                    agent and title; fate: loads, refuses (what was in force stays), crashes, or breaks (iptables refuses
                              the rules), and consequence, what that means; same: it loads and treats traffic as this project's agent does;
                              spared[]: what it does not masquerade, null where that is not known;
                              nowMasqueraded[], noLongerMasqueraded[]: what a move to it changes;
                              keys[]: those that it reads;
                              remarks[]: code, key, path, line and column in the file (0: not one place), and message`

func portabilityCommand(std streams) *cobra.Command {
	var opts portabilityOptions
	command := &cobra.Command{
		Use:     "portability -f FILE",
		Short:   "Tell what other agents make of a configuration",
		Long:    portabilityHelp,
		Example: portabilityExamples,
		Args:    noArguments,
		RunE:    func(*cobra.Command, []string) error { return portability(opts, std) },
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVarP(&opts.file, "file", "f", "", "manifest `file`; - reads standard input")
	addOutput(command, &opts.output, "text", "json")
	flags.StringSliceVar(&opts.agents, "agents", nil, "these `agents` alone: upstream, gke, azure, cilium")
	opts.readingOptions.add(flags)
	opts.manifestOptions.add(flags)
	var names []string
	for _, agent := range foreignAgents() {
		names = append(names, agent.name)
	}
	completeFlag(command, "agents", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
	return command
}

// portabilityReport is the documented shape; fields may be added, but not changed.
type portabilityReport struct {
	Loads  bool         `json:"loads"`
	Agents []agentsView `json:"agents"`
}

// agentsView is what one agent makes of the text, or texts.
type agentsView struct {
	Agent               string         `json:"agent"`
	Title               string         `json:"title"`
	Keys                []string       `json:"keys"`
	Fate                fate           `json:"fate"`
	Consequence         string         `json:"consequence"`
	Same                bool           `json:"same"`
	Spared              []netip.Prefix `json:"spared"`
	NowMasqueraded      []netip.Prefix `json:"nowMasqueraded"`
	NoLongerMasqueraded []netip.Prefix `json:"noLongerMasqueraded"`
	Remarks             []remark       `json:"remarks"`

	families []ruleset.Decision // nil: not known
}

type remark struct {
	Code    config.Code `json:"code"`
	Key     string      `json:"key"`
	Path    string      `json:"path"`
	Line    int         `json:"line"`
	Column  int         `json:"column"`
	Message string      `json:"message"`
}

func portability(opts portabilityOptions, std streams) error {
	if opts.file == "" {
		return errNoFile
	}
	if opts.output != "text" && opts.output != "json" {
		return fmt.Errorf("-o %q: want text or json", opts.output)
	}
	asked := foreignAgents()
	for _, name := range opts.agents {
		if !slices.ContainsFunc(asked, func(a foreignAgent) bool { return a.name == name }) {
			return fmt.Errorf("--agents %q: want upstream, gke, azure or cilium", name)
		}
	}
	if opts.agents != nil {
		asked = slices.DeleteFunc(asked, func(a foreignAgent) bool { return !slices.Contains(opts.agents, a.name) })
	}
	document, err := opts.read(opts.file, std.in)
	if err != nil {
		return err
	}
	report, err := port(document, asked, opts)
	if err != nil {
		return err
	}
	err = std.report(opts.output, report, func(p painter) string { return report.text(document, p) })
	differs := func(v agentsView) bool { return !v.Same }
	if err == nil && slices.ContainsFunc(report.Agents, differs) {
		return errRefused
	}
	return err
}

// port tells what each of the agents makes of the ConfigMap.
func port(document *document, asked []foreignAgent, opts portabilityOptions) (portabilityReport, error) {
	keys := policy.FilesOf(document.configMap)
	if len(keys) == 0 {
		return portabilityReport{}, fmt.Errorf("%s: the ConfigMap has no key that an agent reads, %q or one that begins with %s", document.file, policy.ConfigKey, config.FilePrefix)
	}
	var merged []config.File // as an agent has them that reads a directory
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		text, _ := document.text(keys[name])
		merged = append(merged, config.File{Name: name, Text: text})
	}
	var alone []config.File // as the others have them, one of these
	read, ok := document.text(policy.ConfigKey)
	directory := opts.directory || !ok
	if directory {
		alone = merged
	} else {
		alone = []config.File{{Name: policy.ConfigKey, Text: read}}
	}
	keys[policy.ConfigKey] = policy.ConfigKey

	flags := config.Options{ReservedRanges: opts.reserved, IPv6: opts.ipv6}
	own, problems := readAs(config.Agent, alone, flags)
	report := portabilityReport{Loads: !anyFatal(problems), Agents: []agentsView{}}
	var ours []ruleset.Decision
	if report.Loads {
		ours = decisionsOf(own, flags.IPv6)
	}
	for _, agent := range asked {
		reads := [][]config.File{merged}
		if !agent.directory {
			reads = slices.Collect(slices.Chunk(alone, 1))
		}
		for _, files := range reads {
			view, err := agent.view(files, flags, ours)
			if err != nil {
				return portabilityReport{}, err
			}
			for i, name := range view.Keys {
				view.Keys[i] = keys[name]
			}
			for i := range view.Remarks {
				r := &view.Remarks[i]
				if r.Key = keys[r.Key]; r.Line > 0 {
					_, binary := document.configMap.BinaryData[r.Key]
					at := document.locate(policy.Finding{Key: r.Key, Binary: binary, Path: r.Path, Position: config.Position{Line: r.Line, Column: r.Column}})
					r.Line, r.Column = at.line, at.column
				}
			}
			report.Agents = append(report.Agents, view)
		}
	}
	return report, nil
}

// readAs is what a consumer with these flags makes of a text, or of several that it merges.
func readAs(consumer config.Consumer, files []config.File, flags config.Options) (config.Config, []config.Problem) {
	var parts []config.Part
	var problems []config.Problem
	for _, file := range files {
		c, found := consumer.Parse(file.Text)
		if !anyFatal(found) {
			effective, more := c.For(flags)
			if found = append(found, more...); len(files) == 1 {
				c = effective
			}
		}
		for i := range found {
			found[i].File = file.Name
		}
		parts, problems = append(parts, config.Part{Name: file.Name, Config: c}), append(problems, found...)
	}
	if anyFatal(problems) || len(parts) == 1 {
		return parts[0].Config, problems
	}
	merged, more := config.Merge(parts, flags)
	for _, p := range more {
		if p.Code == config.CodeFilesDisagree || p.Severity == config.Fatal {
			problems = append(problems, p)
		}
	}
	return merged, problems
}

// decisionsOf is what is done with IPv4, and with IPv6 where agents hold it.
func decisionsOf(c config.Config, ipv6 bool) []ruleset.Decision { //nolint:revive // how many families there are
	decisions := []ruleset.Decision{ruleset.Decide(c, ruleset.IPv4, ruleset.Options{})}
	if ipv6 {
		decisions = append(decisions, ruleset.Decide(c, ruleset.IPv6, ruleset.Options{}))
	}
	return decisions
}

// view is what the agent makes of a text, or of several that it merges, with our agents'
// flags. Ours is what our agent does, nil where it refuses the text. Keys are the names of
// the files.
func (a foreignAgent) view(files []config.File, flags config.Options, ours []ruleset.Decision) (agentsView, error) {
	v := agentsView{
		Agent: a.name, Title: a.title, Fate: loads, Remarks: []remark{},
		NowMasqueraded: []netip.Prefix{}, NoLongerMasqueraded: []netip.Prefix{},
	}
	for _, file := range files {
		v.Keys = append(v.Keys, file.Name)
	}
	theirs := config.Options{ReservedRanges: a.reserved || flags.ReservedRanges, IPv6: flags.IPv6, Foreign: true}
	if a.name == "cilium" {
		theirs = a.reads.Flags(theirs)
	}
	c, problems := readAs(a.reads, files, theirs)
	known := !anyFatal(problems)
	for _, p := range problems {
		d, departs := a.departures[p.Code]
		switch {
		case p.Code == config.CodeNullElement && departs && !a.defaultAt(p.Path, theirs):
			d = a.onFatal
		case departs:
		case p.Severity == config.Fatal:
			d = a.onFatal
		default:
			d = departure{fate: loads}
		}
		message := p.Message
		if d.instead != "" {
			message = strings.Replace(d.instead, "%q", strconv.Quote(p.Text), 1)
		}
		v.add(d, remark{Code: p.Code, Key: p.File, Path: p.Path, Line: p.Line, Column: p.Column, Message: message})
	}
	if known && a.listless && c.ListAbsent() {
		c.NonMasquerade = nil
	}
	for _, file := range files {
		if !known || a.limit == 0 {
			break
		}
		one, _ := readAs(a.reads, []config.File{file}, theirs)
		if n := len(one.NonMasquerade); n > a.limit {
			at := one.At(config.KeyNonMasqueradeCIDRs)
			v.add(a.onFatal, remark{
				Code: config.CodeCIDRLimit, Key: file.Name, Path: config.KeyNonMasqueradeCIDRs, Line: at.Line, Column: at.Column,
				Message: fmt.Sprintf("%d CIDRs, and its limit is %d, whatever cidrLimit says", n, a.limit),
			})
		}
	}
	if a.anyOrder && v.Fate == loads && len(c.NonMasquerade) > 1 {
		v.add(departure{fate: loads}, remark{Message: "its rules have another order at each pass, with the same meaning"})
	}
	if !known || v.Fate != loads {
		return v, nil
	}
	v.families = decisionsOf(c, flags.IPv6)
	return v, v.compareTo(ours)
}

// add takes what an agent says of the text, and the worst fate of all.
func (v *agentsView) add(d departure, r remark) {
	switch {
	case d.fate.rank() > v.Fate.rank():
		v.Fate, v.Consequence = d.fate, d.says
	case d.fate == loads && d.says != "":
		r.Message += "; " + d.says
	}
	v.Remarks = append(v.Remarks, r)
}

// defaultAt tells whether the default list has an element at the position of a path: Go's
// decoder leaves what is there where the text has null.
func (a foreignAgent) defaultAt(path string, flags config.Options) bool {
	defaults, _ := config.Default().For(config.Options{ReservedRanges: flags.ReservedRanges, IPv6: true})
	index, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(path, config.KeyNonMasqueradeCIDRs+"["), "]"))
	return err == nil && index < len(defaults.NonMasquerade)
}

// compareTo tells what a move from our agent changes.
func (v *agentsView) compareTo(ours []ruleset.Decision) error {
	v.Spared = []netip.Prefix{}
	v.Same = ours != nil
	list := func(set *netipx.IPSet) []netip.Prefix { return append([]netip.Prefix{}, set.Prefixes()...) }
	for i, theirs := range v.families {
		spared, err := theirs.SparedSet()
		if err != nil {
			return err
		}
		v.Spared = append(v.Spared, list(spared)...)
		if ours == nil {
			continue
		}
		changed, err := ruleset.Compare(ours[i], theirs)
		if err != nil {
			return err
		}
		v.NowMasqueraded = append(v.NowMasqueraded, list(changed.NowMasqueraded)...)
		v.NoLongerMasqueraded = append(v.NoLongerMasqueraded, list(changed.NoLongerMasqueraded)...)
	}
	v.Same = v.Same && len(v.NowMasqueraded)+len(v.NoLongerMasqueraded) == 0
	return nil
}

// maxListed bounds the ranges in one line of text; JSON has all.
const maxListed = 6

func (r portabilityReport) text(document *document, p painter) string {
	var b strings.Builder
	if !r.Loads {
		b.WriteString("This project's agent does not load it; check tells why.\n")
	}
	some := func(ranges []netip.Prefix) string {
		if len(ranges) > maxListed {
			return joined(ranges[:maxListed]) + fmt.Sprintf(" and %d more", len(ranges)-maxListed)
		}
		return joined(ranges)
	}
	several := slices.ContainsFunc(r.Agents, func(v agentsView) bool { return len(v.Keys) > 1 || v.Keys[0] != r.Agents[0].Keys[0] })
	for _, v := range r.Agents {
		said, colour := "loads, and treats traffic the same", bold
		switch {
		case v.Fate != loads:
			said, colour = string(v.Fate)+": "+v.Consequence, red
		case v.Spared == nil:
			said, colour = "loads, with another meaning", yellow
		case !r.Loads:
			said, colour = "loads", yellow
		case !v.Same:
			said, colour = "loads, and treats traffic otherwise", yellow
		}
		title := v.Title
		if several {
			word := ", key "
			if len(v.Keys) > 1 {
				word = ", keys "
			}
			title += word + printable(strings.Join(v.Keys, " and "))
		}
		fmt.Fprintf(&b, "%s: %s\n", p.paint(bold, title), p.paint(colour, said))
		if len(v.NowMasqueraded) > 0 {
			b.WriteString("  masqueraded there alone: " + some(v.NowMasqueraded) + "\n")
		}
		if len(v.NoLongerMasqueraded) > 0 {
			b.WriteString("  spared there alone: " + some(v.NoLongerMasqueraded) + "\n")
		}
		for _, remark := range v.Remarks {
			b.WriteString("  ")
			if remark.Line > 0 {
				b.WriteString(printable(document.file) + place{line: remark.Line, column: remark.Column}.suffix() + ": ")
			}
			b.WriteString(printable(remark.Message) + "\n")
		}
	}
	return b.String()
}
