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
	root := &cobra.Command{
		Use:           "kubectl-masq",
		Short:         "Check ip-masq-agent configurations before they reach a cluster",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl masq"},
		Args:          cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			_ = command.Help() // writes to std.out, whose errors show at the next write
			return errors.New("a subcommand is missing")
		},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	root.SetArgs(args)
	root.AddCommand(checkCommand(std), explainCommand(std), diffCommand(std), mapCommand(std), exportCommand(std), portabilityCommand(std), statusCommand(std), replayCommand(std),
		testCommand(std), newCommand(std), evalCommand(std), schemaCommand(std), capabilitiesCommand(std), versionCommand(std))
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

func versionCommand(std streams) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
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
