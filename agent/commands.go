//go:build !windows

package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// command is a first word that makes the agent do one thing and exit. Without any,
// it runs.
type command struct {
	name    string
	summary string
	run     func(ctx context.Context, args []string, stdout, stderr io.Writer) error
}

func commands() []command {
	return []command{
		{"status", "tell what the agent of this node has in force", askStatus},
		{"plan", "print what an agent with these flags would change in this kernel", plan},
		{"cleanup", "remove the agent's rules from this node", cleanup},
	}
}

// commandOf returns the command that the arguments begin with.
func commandOf(args []string) (command, bool) {
	if len(args) > 0 {
		for _, c := range commands() {
			if c.name == args[0] {
				return c, true
			}
		}
	}
	return command{}, false
}

// parseCommandFlags reads the flags of a command. A usageError names it.
func parseCommandFlags(flags *pflag.FlagSet, args []string) error {
	flags.Usage = func() {}
	flags.SortFlags = false
	wrong := func(err error) error {
		return usageError{fmt.Errorf("%s: %w; agent %s --help lists the flags", flags.Name(), err, flags.Name())}
	}
	if err := flags.Parse(twoDashes(args)); err != nil {
		return wrong(err)
	}
	if extra := flags.Args(); len(extra) > 0 {
		return wrong(fmt.Errorf("%q is no flag; values of switches are written --flag=value", extra[0]))
	}
	return nil
}

func commandNames() string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return strings.Join(names, ", ")
}
