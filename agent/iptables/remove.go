package iptables

import (
	"context"
	"fmt"
	"strings"

	"github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// removeAttempts bounds how often a removal begins anew when the table changes
// between reading and writing.
const removeAttempts = 3

// Removal is what a removal takes out of one nat table, and what it leaves.
type Removal struct {
	Backend Backend
	Family  ruleset.Family
	Lines   []string // what goes, as iptables-save prints it: jumps, then the chain and its rules
	Chains  []string // the chains among them
	Left    []string // why something of that name stays, a sentence each
}

// Remains reads what Remove would take out of a nat table; nothing is written. A
// legacy table that nobody has made stays so.
func Remains(ctx context.Context, backend Backend, family ruleset.Family, chain string) (Removal, error) {
	t, err := openPresent(ctx, backend, family)
	if err != nil || t == nil {
		return Removal{Backend: backend, Family: family}, err
	}
	found, err := t.findNamed(ctx, chain)
	return removal(backend, family, found), err
}

// Remove takes a chain and the jumps to it out of a nat table, in one transaction, if
// an ip-masq-agent has made them: this one, or another that writes the same rules. A
// chain that holds other rules, or that rules of others go to, stays as it is, without the
// jump, and is told in Left.
func Remove(ctx context.Context, backend Backend, family ruleset.Family, chain string) (Removal, error) {
	return remove(ctx, backend, family, func(t *table) ([]agentChain, error) { return t.findNamed(ctx, chain) })
}

// RemoveAll is Remove for every chain that looks like an ip-masq-agent's, whatever its
// name.
func RemoveAll(ctx context.Context, backend Backend, family ruleset.Family) (Removal, error) {
	return remove(ctx, backend, family, func(t *table) ([]agentChain, error) { return t.findAll(ctx) })
}

func remove(ctx context.Context, backend Backend, family ruleset.Family, find func(*table) ([]agentChain, error)) (Removal, error) {
	done := Removal{Backend: backend, Family: family}
	t, err := openPresent(ctx, backend, family)
	if err != nil || t == nil {
		return done, err
	}
	var failure error
	for range removeAttempts {
		found, err := find(t)
		if err != nil {
			return done, err
		}
		now := removal(backend, family, found)
		done.Left = now.Left
		if len(now.Lines) == 0 {
			return done, nil
		}
		commands := []string{"*nat"}
		for _, c := range found {
			commands = append(commands, c.deletion()...)
		}
		if failure = t.restore(ctx, strings.Join(commands, "\n")+"\nCOMMIT\n"); failure == nil {
			done.Lines, done.Chains = now.Lines, now.Chains
		}
	}
	if failure != nil {
		return done, fmt.Errorf("removing chains: %w", failure)
	}
	return done, fmt.Errorf("removing chains: they are back after each of %d removals; stop the agent that writes them", removeAttempts)
}

// openPresent opens a nat table for a look, and is nil where there is none.
func openPresent(ctx context.Context, backend Backend, family ruleset.Family) (*table, error) {
	if backend == Legacy && !legacyHas(family, natTable) {
		return nil, nil //nolint:nilnil // no table is no failure
	}
	found, err := find(ctx, backend, family)
	if err != nil {
		return nil, err
	}
	return &table{tools: found}, nil
}

// agentChain is what a nat table holds of the chain of an ip-masq-agent.
type agentChain struct {
	name       string
	exists     bool
	jumps      []string // the jumps of POSTROUTING in the words of an agent
	rules      []string // of the chain
	unknown    []string // those of rules that no agent writes
	references []string // rules of others that go to the chain
}

// findNamed reads the chain with everything that goes to it.
func (t *table) findNamed(ctx context.Context, name string) ([]agentChain, error) {
	return t.findChains(ctx, []string{name})
}

func (t *table) findChains(ctx context.Context, names []string) ([]agentChain, error) {
	chains := make([]agentChain, len(names))
	for i, name := range names {
		chains[i].name = name
	}
	err := t.lines(ctx, func(line string) {
		for i := range chains {
			chains[i].take(line)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("reading the nat table: %w", err)
	}
	return chains, nil
}

// take notes a line of iptables-save.
func (c *agentChain) take(line string) {
	switch {
	case strings.HasPrefix(line, ":"+c.name+" "):
		c.exists = true
	case strings.HasPrefix(line, "-A "+c.name+" ") && len(c.rules) < maxRules:
		c.rules = append(c.rules, line)
		if !ruleset.IsAgentRule(foreign.Words(line)) {
			c.unknown = append(c.unknown, line)
		}
	case goesTo(line, c.name):
		if target, ok := ruleset.JumpTarget(foreign.Words(line)); ok && target == c.name {
			c.jumps = append(c.jumps, line)
		} else {
			c.references = append(c.references, line)
		}
	}
}

// goes tells that the chain can be removed.
func (c agentChain) goes() bool {
	return c.exists && len(c.unknown) == 0 && len(c.references) == 0
}

// goesSomehow tells that the chain or a jump to it can be removed.
func (c agentChain) goesSomehow() bool { return c.goes() || len(c.jumps) > 0 }

// removal tells what goes and why the rest stays.
func removal(backend Backend, family ruleset.Family, chains []agentChain) Removal {
	r := Removal{Backend: backend, Family: family}
	for _, c := range chains {
		r.Lines = append(r.Lines, c.jumps...)
		if c.goes() {
			r.Lines = append(append(r.Lines, ":"+c.name+" - [0:0]"), c.rules...)
			r.Chains = append(r.Chains, c.name)
			continue
		}
		if n := len(c.unknown); n > 0 {
			r.Left = append(r.Left, fmt.Sprintf("chain %s stays, since %d of its %d rules are none of an ip-masq-agent, such as %q",
				c.name, n, len(c.rules), c.unknown[0]))
		}
		if n := len(c.references); n > 0 {
			r.Left = append(r.Left, fmt.Sprintf("chain %s stays, since rules of others go to it: %d, such as %q", c.name, n, c.references[0]))
		}
	}
	return r
}

// deletion are the commands, for iptables-restore, that take away what goes. A rule
// is named by its words, since others change its number.
func (c agentChain) deletion() []string {
	var commands []string
	for _, jump := range c.jumps {
		commands = append(commands, "-D "+strings.TrimPrefix(jump, "-A "))
	}
	if c.goes() {
		commands = append(commands, "-F "+c.name, "-X "+c.name)
	}
	return commands
}
