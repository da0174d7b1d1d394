package iptables

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// suspects are names of chains that look as if an ip-masq-agent had made them.
type suspects []string

// take notes the chain of a line of iptables-save.
func (s *suspects) take(line string) {
	// Few lines hold this, and to split each into words would take long.
	if !strings.Contains(line, ruleset.CommentPrefix) {
		return
	}
	rule, isRule := strings.CutPrefix(line, "-A ")
	name, _, _ := strings.Cut(rule, " ")
	if !isRule || slices.Contains(*s, name) {
		return
	}
	rest := foreign.Words(line)
	if name == postrouting {
		target, ok := ruleset.JumpTarget(rest)
		if !ok || slices.Contains(*s, target) {
			return
		}
		name = target
	} else if !ruleset.IsAgentRule(rest) {
		return
	}
	*s = append(*s, name)
}

// findAll reads the chains that look like an agent's.
func (t *table) findAll(ctx context.Context) ([]agentChain, error) {
	var names suspects
	if err := t.lines(ctx, names.take); err != nil {
		return nil, fmt.Errorf("reading the nat table: %w", err)
	}
	return t.findLikely(ctx, names)
}

// findLikely reads these chains. One without a jump of an agent that holds rules of
// others is no agent's.
func (t *table) findLikely(ctx context.Context, names suspects) ([]agentChain, error) {
	if len(names) == 0 {
		return nil, nil
	}
	chains, err := t.findChains(ctx, names)
	return slices.DeleteFunc(chains, func(c agentChain) bool {
		return !c.exists || len(c.jumps) == 0 && len(c.unknown) > 0
	}), err
}

// takeOver makes the table hold want instead of the chains of other agents, in one
// transaction, so that there is one at every moment.
func (t *table) takeOver(ctx context.Context, want ruleset.Ruleset, drift []Drift, former []agentChain) error {
	commands := []string{"*nat"}
	if slices.Contains(drift, ChainMissing) || slices.Contains(drift, ChainChanged) {
		commands = append(append(commands, ":"+want.Chain+" - [0:0]"), want.Rules...)
	}
	if slices.Contains(drift, JumpMissing) {
		commands = append(commands, want.JumpRule())
	}
	names := make([]string, len(former))
	for i, c := range former {
		names[i] = c.name
		commands = append(commands, c.deletion()...)
	}
	if err := t.restore(ctx, strings.Join(commands, "\n")+"\nCOMMIT\n"); err != nil {
		return fmt.Errorf("taking over from chain %s: %w", strings.Join(names, ", "), err)
	}
	return nil
}

// formerSets are the sets of chains that go.
func formerSets(family ruleset.Family, former []agentChain) ([]string, error) {
	var sets []string
	for _, c := range former {
		if !c.goes() {
			continue
		}
		held, next := ruleset.SetNames(c.name, family)
		existing, err := existingSets(held, next)
		if err != nil {
			return nil, err
		}
		sets = append(sets, existing...)
	}
	return sets, nil
}
