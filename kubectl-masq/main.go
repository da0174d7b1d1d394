// Package main is kubectl-masq, a kubectl plugin that tells offline what the
// webhook would tell: the same findings in the same words, since both take them
// from policy. It talks to a cluster only where a command is asked about one.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = "dev"

// Exit codes of every subcommand.
const (
	exitApproved = 0
	exitRefused  = 1
	exitUnusable = 2 // wrong usage, or input that cannot be read
)

const rootHelp = `Check ip-masq-agent configurations before they reach a cluster, and tell what they do to traffic. Files are enough: only a command
with --live asks a cluster.

Exit codes, of which each command tells what they mean for it: 0 approved, or nothing to tell; 1 violations, a configuration that does
not load, a difference, something odd; 2 wrong usage, or input that cannot be read.`

const rootExamples = `  # What the webhook would say
  kubectl masq check -f ip-masq-agent.yaml --pod-cidrs 10.244.0.0/16

  # What it does to traffic
  kubectl masq explain 192.168.3.4 -f ip-masq-agent.yaml
  kubectl masq diff --live ip-masq-agent.yaml

  # What is in force
  kubectl masq status --live`

// errRefused ends a command whose report says already what is wrong.
var errRefused = errors.New("refused")

// streams are the program's files.
type streams struct {
	in       io.Reader
	out, err io.Writer
	colour   bool // out is a terminal that shows colours
}

func main() {
	os.Exit(run(context.Background(), os.Args[1:], streams{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, colour: showsColours(os.Stdout),
	}))
}

// run executes the command line and returns the exit code.
func run(ctx context.Context, args []string, std streams) int {
	root := rootCommand(std)
	root.SetArgs(args)
	switch err := root.ExecuteContext(ctx); {
	case err == nil:
		return exitApproved
	case errors.Is(err, errRefused):
		return exitRefused
	default:
		_, _ = fmt.Fprintln(std.err, "kubectl-masq:", err) // the exit code says it too
		return exitUnusable
	}
}

func rootCommand(std streams) *cobra.Command {
	root := &cobra.Command{
		Use:           "kubectl-masq",
		Short:         "Check ip-masq-agent configurations before they reach a cluster",
		Long:          rootHelp,
		Example:       rootExamples,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl masq"},
		Args:          noSuchCommand,
		RunE: func(command *cobra.Command, _ []string) error {
			_ = command.Help() // writes to std.out, whose errors show at the next write
			return errors.New("a subcommand is missing")
		},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	for _, group := range []struct {
		title    string
		commands []*cobra.Command
	}{
		{"Configurations:", []*cobra.Command{
			checkCommand(std), explainCommand(std), diffCommand(std), mapCommand(std), portabilityCommand(std), exportCommand(std),
		}},
		{"Clusters:", []*cobra.Command{statusCommand(std)}},
		{"Rules:", []*cobra.Command{
			newCommand(std), testCommand(std), evalCommand(std), replayCommand(std), schemaCommand(std), capabilitiesCommand(std),
		}},
	} {
		root.AddGroup(&cobra.Group{ID: group.title, Title: group.title})
		for _, command := range group.commands {
			command.GroupID = group.title
			root.AddCommand(command)
		}
	}
	root.AddCommand(versionCommand(std))
	finishBuiltins(root)
	completeFlags(root)
	return root
}

// noArguments is cobra.NoArgs in words for a command that has none below it.
func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("no argument is wanted; %q is too much", args[0])
	}
	return nil
}

// finishBuiltins makes cobra's own commands fail where they have nothing to do.
func finishBuiltins(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, command := range root.Commands() {
		switch command.Name() {
		case "help":
			command.Run, command.RunE = nil, func(_ *cobra.Command, args []string) error {
				of, rest, err := root.Find(args)
				if err != nil {
					return err
				}
				if len(rest) > 0 {
					return noSuchCommand(of, rest)
				}
				of.InitDefaultHelpFlag()
				return of.Help()
			}
		case "completion":
			command.Args = noSuchCommand
			command.RunE = func(command *cobra.Command, _ []string) error {
				_ = command.Help() // writes to std.out, whose errors show at the next write
				return errors.New("the shell is missing: bash, fish, powershell or zsh")
			}
		}
	}
}

// noSuchCommand is cobra.NoArgs that tells which command was meant.
func noSuchCommand(command *cobra.Command, args []string) error {
	err := cobra.NoArgs(command, args)
	if err == nil {
		return nil
	}
	if command.SuggestionsMinimumDistance == 0 {
		command.SuggestionsMinimumDistance = 2 // as cobra has it
	}
	if meant := command.SuggestionsFor(args[0]); len(meant) > 0 {
		return fmt.Errorf("%w; did you mean %s?", err, strings.Join(meant, " or "))
	}
	return err
}

func versionCommand(std streams) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Example: "  kubectl masq version",
		Short:   "Print the version",
		Long:    "Print the version. Exit codes: 0 printed; 2 wrong usage.",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(std.out, version)
			return err
		},
	}
}

// showsColours tells whether a file is a terminal that wants colours
// (https://no-color.org).
func showsColours(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
