//go:build !windows

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/pflag"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// planner tells what the kernel holds of ours, and what it would hold.
type planner interface {
	Plan(ctx context.Context, want ruleset.Ruleset) (have, wanted []string, err error)
}

// planOptions are the flags of agent plan: those of a running agent, and its own.
type planOptions struct {
	options

	output string
}

func addPlanFlags(flags *pflag.FlagSet, output *string) {
	flags.StringVarP(output, "output", "o", "diff", "diff or json")
}

const planHelp = `Reads the file and this node's kernel as an agent with these flags would, and prints what it
would change: a unified diff for each IP version and backend, in the words of iptables-save,
ipset and nft. Where nothing would change, nothing is printed. Nothing is written.

A file that is refused would leave the last valid configuration in force, which is in
--state-dir; without that nobody can tell from outside, since a running agent has it in memory.

Usage:
  agent plan [flags]

Examples:
  # What would an agent do that starts now, with the flags of the DaemonSet?
  agent plan --masq-chain=IP-MASQ-AGENT --enable-ipv6

  # What would this edit do?
  agent plan --config-path=./ip-masq-agent

  # For a program.
  agent plan -o json

Flags: every flag of a running agent, agent --help lists them, and
%s
Exit status: 0 nothing would change; 1 it cannot be told; 2 wrong usage; 3 something would
change.
`

func plan(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	opts := planOptions{}
	own := pflag.NewFlagSet("plan", pflag.ContinueOnError)
	addPlanFlags(own, &opts.output)
	parsed, err := parseWith(args, own)
	if err != nil {
		return err
	}
	opts.options = parsed
	switch {
	case opts.help:
		_, err = fmt.Fprintf(stdout, planHelp, own.FlagUsages())
		return err
	case opts.output != "diff" && opts.output != "json":
		return usageError{fmt.Errorf("plan: --output=%q: unknown format; write diff or json", opts.output)}
	}

	agent, err := planned(ctx, opts.options, stderr)
	if err != nil {
		return err
	}
	h, err := openBackend(ctx, opts.options)
	if err != nil {
		return err
	}
	changes := planResult{Source: agent.force.origin, Changes: []planChange{}}
	for _, family := range agent.families {
		some, err := planFamily(ctx, h, family.want, opts.source())
		if err != nil {
			return fmt.Errorf("planning %s: %w", family.version, err)
		}
		changes.Changes = append(changes.Changes, some...)
	}
	if err := changes.print(stdout, opts.output); err != nil {
		return fmt.Errorf("printing the plan: %w", err)
	}
	if len(changes.Changes) > 0 {
		return answerError{errors.New("an agent with these flags would change the kernel")}
	}
	return nil
}

// planned is an agent with these flags after its first look at the configuration: what
// it would have in force, and where that comes from.
func planned(ctx context.Context, opts options, stderr io.Writer) (*syncer, error) {
	opts.flushConntrack = false // nothing changes over
	log := slog.New(slog.DiscardHandler)
	s := newSyncer(opts, nil, log)
	s.labels.look(ctx, log)
	s.observe(ctx, opts.read())
	for _, p := range s.problems {
		tell(stderr, "agent: %s: %s: %s\n", opts.source(), p.Severity, p)
	}
	switch n := count(s.problems, config.Fatal); {
	case n > 0 && s.force.origin == fromDefaults:
		return nil, fmt.Errorf("%s is refused: %d fatal problem(s); what is in force instead cannot be told without the last valid configuration in --state-dir",
			opts.source(), n)
	case n > 0:
		tell(stderr, "agent: %s is refused, so the last valid configuration is in force\n", opts.source())
	case s.force.origin == fromDefaults:
		tell(stderr, "agent: %s: nothing is there, so the defaults are in force\n", opts.source())
	}
	return s, nil
}

// planFamily compares a family in the backend with the rules, and elsewhere with what a
// takeover would remove.
func planFamily(ctx context.Context, h holder, rules ruleset.Ruleset, source string) ([]planChange, error) {
	have, wanted, err := h.planner.Plan(ctx, rules)
	if err != nil {
		return nil, err
	}
	var changes []planChange
	note := func(in iptables.Backend, have, wanted []string) {
		name := fmt.Sprintf("%s, %s: ", rules.Family, in)
		if diff := unified(name+"in the kernel", name+"after "+source, have, wanted); diff != "" {
			changes = append(changes, planChange{rules.Family.String(), string(in), diff})
		}
	}
	note(h.name, have, wanted)
	for _, former := range h.former {
		removal, err := former.remains(ctx, rules.Family)
		if errors.Is(err, iptables.ErrMissing) {
			continue // nor would a takeover look there
		}
		if err != nil {
			return nil, err
		}
		note(former.where, removal.Lines, nil)
	}
	return changes, nil
}

// planResult is what agent plan -o json prints.
type planResult struct {
	Source  origin       `json:"source"`  // of the configuration: file, last-valid or defaults
	Changes []planChange `json:"changes"` // empty when nothing would change
}

// planChange is what would change of one family in one backend.
type planChange struct {
	Family  string `json:"family"`  // IPv4 or IPv6
	Backend string `json:"backend"` // nft, legacy, nftables or ipset
	Diff    string `json:"diff"`    // unified
}

func (r planResult) print(w io.Writer, format string) error {
	if format == "json" {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(r)
	}
	for _, change := range r.Changes {
		if _, err := io.WriteString(w, change.Diff); err != nil {
			return err
		}
	}
	return nil
}
