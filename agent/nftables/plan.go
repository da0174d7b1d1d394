package nftables

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// Plan reads what the table of a Ruleset holds, and tells what it would hold after Apply:
// both in the words of nft, but for one element a line. Nothing is written.
func (k *Kernel) Plan(ctx context.Context, want ruleset.Ruleset) (have, wanted []string, err error) {
	rendered, found, drift, err := k.inspect(ctx, want)
	if err != nil {
		return nil, nil, err
	}
	wanted = content{
		exists: true, shape: rendered.shape(), elements: map[string][]string{sparedSet: rangeTexts(rendered.Spared)},
	}.lines(rendered)
	if len(drift) == 0 {
		return wanted, wanted, nil // maybe in other words
	}
	return found.lines(rendered), wanted, nil
}

// lines are the table as nft prints it: its own lines, sets, and chains, the base chain
// first.
func (c content) lines(t Table) []string {
	if !c.exists {
		return nil
	}
	lines := []string{"table " + familyName(t.Family) + " " + t.Name + " {"}
	for _, line := range c.shape[""] {
		lines = append(lines, "\t"+line)
	}
	rank := func(block string) string {
		switch {
		case strings.HasPrefix(block, setPrefix):
			return "0" + block
		case block == chainPrefix+BaseChain:
			return "1"
		default:
			return "2" + block
		}
	}
	blocks := slices.SortedFunc(maps.Keys(c.shape), func(a, b string) int { return strings.Compare(rank(a), rank(b)) })
	for _, block := range blocks {
		if block == "" {
			continue
		}
		lines = append(lines, "\t"+block+" {")
		for _, line := range c.shape[block] {
			lines = append(lines, "\t\t"+line)
		}
		if set, ok := strings.CutPrefix(block, setPrefix); ok && len(c.elements[set]) > 0 {
			lines = append(lines, "\t\telements = {")
			for _, element := range c.elements[set] {
				lines = append(lines, "\t\t\t"+element+",")
			}
			lines = append(lines, "\t\t}")
		}
		lines = append(lines, "\t}")
	}
	return append(lines, "}")
}
