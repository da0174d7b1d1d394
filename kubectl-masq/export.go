package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/winbridge"
)

// winBridgeOptions are the flags of export win-bridge.
type winBridgeOptions struct {
	file string
	checkOptions
	into  string
	force bool
}

const winBridgeExamples = `  # The CNI configuration of a Windows node, in place
  kubectl masq export win-bridge -f ip-masq-agent.yaml --into 10-azure.conflist --pod-cidrs 10.244.0.0/16

  # What it would become
  kubectl masq export win-bridge -f ip-masq-agent.yaml --into cni.conf -o -

  # The policy alone, to add to a configuration that has none
  kubectl masq export win-bridge -f ip-masq-agent.yaml`

const winBridgeHelp = `Write the list into the OutBoundNAT policies of a CNI configuration for Windows: win-bridge, sdnbridge,
azure-vnet, or a plugin that delegates to one of them. The list takes the place of ExceptionList (HNS version 1) or
Settings.Exceptions (version 2) in every such policy; all other bytes stay. Without --into the policy is printed.

The file is judged first, as check does; what would be refused is not written, but with --force.

Windows excepts IPv4 ranges alone: IPv6 ones are left out, and named. So are nodeOverrides: what is written is what
holds on a node without one.

Exit codes: 0 written, or right already; 1 the configuration is refused; 2 wrong usage, or files that cannot be
read, edited or written.`

func exportCommand(std streams) *cobra.Command {
	command := &cobra.Command{
		Use:   "export",
		Short: "Write the list in the form of another program",
		Args:  noSuchCommand,
		RunE: func(command *cobra.Command, _ []string) error {
			_ = command.Help() // writes to std.out, whose errors show at the next write
			return errors.New("a subcommand is missing: win-bridge")
		},
	}
	command.AddCommand(winBridgeCommand(std))
	return command
}

func winBridgeCommand(std streams) *cobra.Command {
	var opts winBridgeOptions
	command := &cobra.Command{
		Use:     "win-bridge -f FILE [--into CNI.conf]",
		Short:   "Write the list into a CNI configuration for Windows",
		Long:    winBridgeHelp,
		Example: winBridgeExamples,
		Args:    noArguments,
		RunE: func(command *cobra.Command, _ []string) error {
			return exportWinBridge(command.Context(), opts, command.Flags().Changed, std)
		},
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVarP(&opts.file, "file", "f", "", "manifest `file`; - reads standard input")
	flags.StringVar(&opts.into, "into", "", "CNI configuration `file`, .conf or .conflist, to edit; it is replaced in one step")
	flags.StringVarP(&opts.output, "output", "o", "", "`file` to write instead, - is standard output; the one of --into stays as it is")
	flags.BoolVar(&opts.force, "force", false, "write a configuration that the rules refuse, too")
	opts.readingOptions.add(flags)
	opts.rangeOptions.add(flags)
	flags.StringVar(&opts.params, "params", "", "params `file`, as the webhook has it")
	flags.StringArrayVar(&opts.policyDirs, "policy-dir", nil, "`directory` of custom rules; may be given more than once")
	opts.manifestOptions.add(flags)
	return command
}

// exportWinBridge judges the file, and carries its list into a CNI configuration.
func exportWinBridge(ctx context.Context, opts winBridgeOptions, given func(flag string) bool, std streams) error {
	if opts.into == "" && opts.output != "" && opts.output != "-" {
		return errors.New("-o without --into: name the CNI configuration that is to be edited")
	}
	if opts.file == "" {
		return errNoFile
	}
	judged, err := judge(ctx, opts.checkOptions, given, func() (verdicts, error) {
		input, err := opts.read(opts.file, std.in)
		return verdicts{documents: []*document{input}}, err
	})
	if err != nil {
		return err
	}
	input, decision := judged.documents[0], judged.decisions[0]
	if !decision.Allowed {
		if _, err = std.err.Write(textReport(input, decision, painter{})); err != nil {
			return fmt.Errorf("writing the report: %w", err)
		}
		if !opts.force {
			return errRefused
		}
	}
	params, err := readParams(opts.params)
	if err != nil {
		return err
	}
	// IPv6 ranges do not refuse a list for Windows: they are left out.
	agents := agentOptions{readingOptions: opts.readingOptions}
	agents.ipv6 = true
	treated, err := agents.treat(input, params, nil)
	if err != nil {
		return err
	}
	return writeWinBridge(treated.whole, opts, std)
}

// writeWinBridge carries a list into a CNI configuration, or prints it as a policy. Notes
// go to the standard error, where they are in nobody's way.
func writeWinBridge(c config.Config, opts winBridgeOptions, std streams) error {
	exceptions, ipv6 := winbridge.Exceptions(c)
	note := func(format string, values ...any) {
		_, _ = fmt.Fprintf(std.err, "note: "+format+"\n", values...) // the work is done all the same
	}
	if len(ipv6) > 0 {
		note("left out, as Windows excepts IPv4 ranges alone: %s", joined(ipv6))
	}
	if len(c.Overrides) > 0 {
		note("nodeOverrides are left out; this is what holds on a node without one")
	}
	if opts.into == "" {
		return say(std, winbridge.Policy(exceptions)+"\n")
	}

	var changes []winbridge.Change
	var err error
	wrote := true
	switch opts.output {
	case "":
		changes, wrote, err = winbridge.Update(opts.into, exceptions)
	default:
		changes, err = writeElsewhere(opts, exceptions, std)
	}
	if err != nil || opts.output == "-" {
		return err
	}
	target := cmp.Or(opts.output, opts.into)
	if !wrote {
		return say(std, target+": right already, nothing is written\n")
	}
	var report strings.Builder
	for _, change := range changes {
		fmt.Fprintf(&report, "%s: line %d, %s: %d ranges, %d before\n", target, change.Line, change.Path, len(change.After), len(change.Before))
	}
	return say(std, report.String())
}

// writeElsewhere leaves the file of --into as it is.
func writeElsewhere(opts winBridgeOptions, exceptions []netip.Prefix, std streams) ([]winbridge.Change, error) {
	text, err := winbridge.Read(opts.into)
	if err != nil {
		return nil, err
	}
	edited, changes, err := winbridge.Edit(text, exceptions)
	if err != nil {
		return nil, fmt.Errorf("editing %s: %w", opts.into, err)
	}
	if opts.output == "-" {
		return changes, say(std, string(edited))
	}
	if err := os.WriteFile(opts.output, edited, 0o644); err != nil { //nolint:gosec // CNI configurations are no secret
		return nil, fmt.Errorf("writing -o: %w", err)
	}
	return changes, nil
}

func say(std streams, text string) error {
	if _, err := io.WriteString(std.out, text); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return nil
}
