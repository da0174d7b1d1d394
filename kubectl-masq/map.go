package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/ip-masq-guard/ip-masq-guard/kubectl-masq/addressmap"
)

// mapOptions are the flags of map.
type mapOptions struct {
	manifestOptions
	rangeOptions
	agentOptions
	nodeOptions
	liveOptions
	file   string
	old    string
	within string
	params string
	output string
}

const mapExamples = `  # The whole IPv4 space in the terminal
  kubectl masq map -f ip-masq-agent.yaml --pod-cidrs 10.244.0.0/16

  # Before and after side by side, for a review
  kubectl masq map --old old.yaml -f new.yaml --within 10.0.0.0/8 -o svg > review.svg

  # What is stored now, and what a file would make of it
  kubectl masq map --live -f new.yaml`

const mapHelp = `Draw the IPv4 address space: what is masqueraded, what is not, and where the cluster's ranges lie. The space
is drawn along a Hilbert curve, on which every prefix is a square or a domino and neighbours stay near.
IPv6 is not drawn. Where the configuration has nodeOverrides, --node or --node-labels tell which node is drawn; without them it is one
that no override is for.

Exit codes: 0 drawn; 2 wrong usage, or a configuration that agents would not load.`

func mapCommand(std streams) *cobra.Command {
	var opts mapOptions
	command := &cobra.Command{
		Use:     "map -f FILE|--live",
		Short:   "Draw what is masqueraded and what is not",
		Long:    mapHelp,
		Example: mapExamples,
		Args:    noArguments,
		RunE: func(command *cobra.Command, _ []string) error {
			return draw(command.Context(), opts, command.Flags().Changed, std)
		},
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVarP(&opts.file, "file", "f", "", "manifest `file`; - reads standard input")
	flags.StringVar(&opts.old, "old", "", "manifest `file` to draw beside it, with the differences marked")
	flags.StringVar(&opts.within, "within", addressmap.Everywhere.String(), "draw this `CIDR` alone")
	opts.liveOptions.add(flags)
	addOutput(command, &opts.output, "text", "svg")
	opts.rangeOptions.add(flags)
	opts.nodeOptions.add(flags)
	opts.agentOptions.add(flags)
	flags.StringVar(&opts.params, "params", "", "params `file`, as the webhook has it")
	opts.manifestOptions.add(flags)
	return command
}

func draw(ctx context.Context, opts mapOptions, given func(flag string) bool, std streams) error {
	if opts.live && opts.old != "" {
		return errors.New("--old and --live exclude each other")
	}
	if opts.file == "-" && opts.old == "-" {
		return errors.New("both files are standard input; name one of them")
	}
	if opts.output != "text" && opts.output != "svg" {
		return fmt.Errorf("-o %q: want text or svg", opts.output)
	}
	within, err := netip.ParsePrefix(opts.within)
	if err != nil {
		return fmt.Errorf("--within %q is not a CIDR", opts.within)
	}
	if err = addressmap.CheckWithin(within); err != nil {
		return fmt.Errorf("--within: %w", err)
	}
	pictures, err := opts.pictures(ctx, within, given, std)
	if err != nil {
		return err
	}
	if opts.output == "svg" {
		return tell(std.out, string(addressmap.SVG(pictures...)))
	}
	for i, picture := range pictures {
		text := string(addressmap.Text(picture))
		if i > 0 {
			text = "\n" + text
		}
		if err := tell(std.out, text); err != nil {
			return err
		}
	}
	return nil
}

// pictures are that of the file, and before it that of the old one where there is one.
func (o mapOptions) pictures(ctx context.Context, within netip.Prefix, given func(flag string) bool, std streams) ([]addressmap.Picture, error) {
	params, err := readParams(o.params)
	if err != nil {
		return nil, err
	}
	known, err := o.readRanges(params, given)
	if err != nil {
		return nil, err
	}
	node, err := o.of(ctx, o.liveOptions, given)
	if err != nil {
		return nil, err
	}
	var documents []*document
	if o.live && o.file != "" { // the file is what comes
		s, unreadable := o.liveOptions.read(ctx, o.namespace, o.name, std.err)
		if unreadable != nil {
			return nil, unreadable
		}
		documents, known, o.live = append(documents, s.document), known.and(s.ranges), false
	}
	if o.old != "" {
		document, unreadable := o.manifestOptions.read(o.old, std.in)
		if unreadable != nil {
			return nil, unreadable
		}
		documents = append(documents, document)
	}
	drawnFile, known, err := o.one(ctx, o.manifestOptions, o.file, known, std)
	if err != nil {
		return nil, err
	}
	documents = append(documents, drawnFile)
	var treatments []*treatment
	var pictures []addressmap.Picture
	for _, document := range documents {
		t, err := o.treat(document, params, node)
		if err != nil {
			return nil, err
		}
		title := document.file
		if t.override != nil {
			title += ", " + t.override.Path + " (" + t.override.Selector + ")"
		}
		if n := len(t.whole.Overrides); n > 0 && t.anyNode {
			_, _ = fmt.Fprintf(std.err, "note: %s has %s; drawn are nodes that none is for; --node-labels draws others\n", // the work is done all the same
				document.file, plural(strconv.Itoa(n), "override for nodes", "overrides for nodes"))
		}
		set, err := t.families[0].SparedSet()
		if err != nil {
			return nil, err
		}
		treatments = append(treatments, t)
		pictures = append(pictures, addressmap.Picture{
			Title: printable(title), Within: within, Spared: set.Prefixes(), Ranges: drawn(known),
		})
	}
	if len(treatments) == 2 {
		changed, err := compare(treatments[0], treatments[1])
		if err != nil {
			return nil, err
		}
		for _, r := range changed.nowMasqueraded {
			pictures[1].Changed.NowMasqueraded = r.AppendPrefixes(pictures[1].Changed.NowMasqueraded)
		}
		for _, r := range changed.noLonger {
			pictures[1].Changed.NoLongerMasqueraded = r.AppendPrefixes(pictures[1].Changed.NoLongerMasqueraded)
		}
	}
	return pictures, nil
}

// drawn are the cluster's ranges for a picture.
func drawn(known ranges) []addressmap.Range {
	kinds := []string{addressmap.Node: "node", addressmap.Pod: "pod", addressmap.Service: "service"}
	var all []addressmap.Range
	for _, r := range known.all() {
		all = append(all, addressmap.Range{Prefix: r.Prefix, Kind: addressmap.Kind(slices.Index(kinds, r.kind))})
	}
	return all
}
