//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/pflag"

	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/nftables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// cleanupTimeout bounds a removal, the waits for the xtables lock included. It ends
// within a pod's usual grace of 30 seconds.
const cleanupTimeout = 20 * time.Second

// cleanupOptions are the flags of agent cleanup, as values.
type cleanupOptions struct {
	chain    string
	stateDir string
	wait     time.Duration
	linger   bool
	dryRun   bool
	help     bool
}

func (o *cleanupOptions) flagSet() *pflag.FlagSet {
	flags := pflag.NewFlagSet("cleanup", pflag.ContinueOnError)
	flags.StringVar(&o.chain, "masq-chain", defaultChain, "`name` of the chain, as the agent was given it")
	flags.StringVar(&o.stateDir, "state-dir", "", "`directory` as the agent was given it; its file with the last valid configuration is removed")
	flags.DurationVar(&o.wait, "wait", 0, "how long to wait for a running agent to stop, such as 30s")
	flags.BoolVar(&o.linger, "linger", false, "once nothing is left do not exit before SIGTERM or SIGINT, as a pod of a DaemonSet must not")
	flags.BoolVar(&o.dryRun, "dry-run", false, "print what would be removed; nothing is written")
	flags.BoolVarP(&o.help, "help", "h", false, "print this text and exit")
	return flags
}

const cleanupHelp = `Removes from this node what an agent with these flags has made, of both IP versions and in
every backend: the jumps to the chain, the chain with its rules, its ipsets, the table of
nftables, and the file with the last valid configuration. What the upstream ip-masq-agent or Azure's has left under that
name is the same, and goes too. Nothing else is touched: a chain that holds other rules, or
that rules of others go to, stays and is named. Each table changes in one transaction, and
doing it twice does no more than doing it once. What is removed is printed.

Pods whose addresses are unknown outside of the cluster cannot leave it any more, once the
rules are gone. Stop the agent first: where one with that chain runs, which would put the
rules back, nothing is removed. Other agents than this one are not noticed.

Usage:
  agent cleanup [flags]

Examples:
  # What is there of an agent? Nothing is written.
  agent cleanup --dry-run

  # Remove everything, the last valid configuration too.
  agent cleanup --state-dir=/var/lib/ip-masq-guard

  # The same while the agent is being stopped, and with another chain.
  agent cleanup --wait=1m --masq-chain=MY-MASQ

Flags:
%s
Exit status: 0 nothing is left; 1 something is left, and named; 2 wrong usage.
`

// cleanup removes what an agent has made, and prints it.
func cleanup(ctx context.Context, args []string, stdout, _ io.Writer) error {
	opts := cleanupOptions{}
	flags := opts.flagSet()
	if err := parseCommandFlags(flags, args); err != nil {
		return err
	}
	if opts.help {
		_, err := fmt.Fprintf(stdout, cleanupHelp, flags.FlagUsages())
		return err
	}
	if err := ruleset.CheckChain(opts.chain); err != nil {
		return usageError{fmt.Errorf("cleanup: --masq-chain: %w", err)}
	}
	if opts.linger && opts.dryRun {
		return usageError{errors.New("cleanup: --linger and --dry-run exclude each other")}
	}
	if opts.wait < 0 {
		return usageError{fmt.Errorf("cleanup: --wait=%s: a time to wait is not negative", opts.wait)}
	}
	if !opts.dryRun {
		if err := alone(ctx, opts.chain, opts.wait); err != nil {
			return err
		}
	}

	err := opts.clear(ctx, stdout)
	if err == nil && opts.linger {
		<-ctx.Done()
	}
	return err
}

// clear removes, or tells of, what is there.
func (o *cleanupOptions) clear(ctx context.Context, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	way, removed := removing(), "removed"
	files := (&store{dir: o.stateDir}).purge
	if o.dryRun {
		way, removed = looking(), "would remove"
		files = (&store{dir: o.stateDir}).files
	}
	nothing := true
	errs := []error{removeRules(ctx, o.chain, way, func(r iptables.Removal) {
		nothing = false
		tell(stdout, "%s, %s: %s\n", r.Family, r.Backend, removed)
		for _, line := range r.Lines {
			tell(stdout, "  %s\n", line)
		}
	})}
	found, err := files()
	for _, file := range found {
		tell(stdout, "%s %s\n", removed, file)
	}
	err = errors.Join(append(errs, err)...)
	if err == nil && nothing && len(found) == 0 {
		tell(stdout, "nothing of an agent is there\n")
	}
	return err
}

// way is one to clean up, or to tell what there is.
type way struct {
	rules func(context.Context, iptables.Backend, ruleset.Family, string) (iptables.Removal, error)
	sets  func(ruleset.Family, string) (iptables.Removal, error)
	table func(context.Context, ruleset.Family, string) ([]string, error) // the name of ours, if it is there
}

func removing() way { return way{iptables.Remove, iptables.RemoveSets, nftables.Open().Remove} }

func looking() way { return way{iptables.Remains, iptables.RemainingSets, nftables.Open().Remaining} }

// removeRules removes a chain from every nat table and then the sets that it asked, and
// the table of nftables, tells what went, and fails when something is left.
func removeRules(ctx context.Context, chain string, w way, told func(iptables.Removal)) error {
	var errs []error
	tell := func(removal iptables.Removal, err error) {
		if len(removal.Lines) > 0 {
			told(removal)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s, %s: %w", removal.Family, removal.Backend, err))
		}
		for _, left := range removal.Left {
			errs = append(errs, fmt.Errorf("%s, %s: %s", removal.Family, removal.Backend, left))
		}
	}
	for _, family := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
		for _, backend := range []iptables.Backend{iptables.NFT, iptables.Legacy} {
			tell(w.rules(ctx, backend, family, chain))
		}
		tell(w.sets(family, chain))
		names, err := w.table(ctx, family, chain)
		if errors.Is(err, iptables.ErrMissing) {
			err = nil // without nft no agent has made any
		}
		tell(removedTables(family, names), err)
	}
	return errors.Join(errs...)
}

// removeOnExit removes the rules of an agent that was told to stop.
func removeOnExit(ctx context.Context, chain string, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	err := removeRules(ctx, chain, removing(), func(r iptables.Removal) {
		log.InfoContext(ctx, "rules removed", "family", r.Family.String(), "backend", r.Backend, "lines", r.Lines)
	})
	if err != nil {
		return fmt.Errorf("removing the rules at the end: %w", err)
	}
	return nil
}
