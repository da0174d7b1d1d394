package iptables

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
)

// maxRules bounds what is kept of a chain; one with more is not ours anyway: the
// parser takes 16,384 CIDRs.
const maxRules = 1 << 17

// content is what iptables-save prints of a chain and of the jumps to it.
type content struct {
	chain bool     // the chain exists
	rules []string // of the chain, "-A CHAIN ..."
	jumps []string // of POSTROUTING, those that go to the chain
	sets  setsSeen // of the chain; iptables-save does not tell

	former []agentChain // other chains of an ip-masq-agent
}

// read asks the kernel. On a busy node the table has tens of thousands of rules, so the
// others' are dropped as they come. One process reads the whole table at one moment;
// only where there seem to be chains of other agents it is read a second time, for them.
func (t *table) read(ctx context.Context, chain string) (content, error) {
	if t.err != nil {
		return content{}, t.err
	}
	var (
		found  content
		others suspects
	)
	declaration, ours, jump := ":"+chain+" ", "-A "+chain+" ", "-A "+postrouting+" "
	err := t.lines(ctx, func(line string) {
		switch {
		case strings.HasPrefix(line, declaration):
			found.chain = true
		case strings.HasPrefix(line, ours) && len(found.rules) < maxRules:
			found.rules = append(found.rules, line)
		case strings.HasPrefix(line, jump) && goesTo(line, chain) && len(found.jumps) < maxRules:
			found.jumps = append(found.jumps, line)
		default:
			others.take(line)
		}
	})
	if err != nil {
		return content{}, err
	}
	found.former, err = t.findLikely(ctx, others)
	return found, err
}

// lines hands on what iptables-save prints of the nat table.
func (t *table) lines(ctx context.Context, take func(line string)) error {
	return run(ctx, command{path: t.tools.save, args: []string{"-t", natTable}, lines: func(line string) error {
		if strings.HasPrefix(line, "# Table `nat' is incompatible") {
			// iptables-nft prints this for a table with rules from nft(8) that it
			// has no words for, and exits 0 without the rules.
			return fmt.Errorf("%s cannot show the nat table, which holds rules of another program in nft's own form; "+
				"move them to a table of another name ('nft list table ip nat' shows them)", t.tools.save)
		}
		take(line)
		return nil
	}})
}

// goesTo tells that the target of a rule is the chain, by a jump or a goto.
func goesTo(rule, chain string) bool {
	if !strings.Contains(rule, chain) {
		return false
	}
	all := foreign.Words(rule)
	for _, option := range []string{"-j", "-g"} {
		if i := slices.Index(all, option); i >= 0 && i+1 < len(all) && all[i+1] == chain {
			return true
		}
	}
	return false
}
