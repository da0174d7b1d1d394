package ruleset

import (
	"fmt"
	"slices"
	"strings"
)

// JumpTarget returns the chain to which a rule of POSTROUTING jumps in the words of
// an ip-masq-agent: this one, the upstream one or Azure's, whose comment has quotation marks
// of its own. The rule is given in the arguments of iptables-save, "-A" first.
func JumpTarget(rule []string) (chain string, ok bool) {
	chain = argument(rule, "-j")
	if chain == "" || argument(rule, "-A") != "POSTROUTING" {
		return "", false
	}
	if comment(rule) != fmt.Sprintf(jumpComment, chain) {
		return "", false
	}
	return chain, true
}

// IsAgentRule tells that a rule of a chain is one that an ip-masq-agent writes. The
// rule is given as for JumpTarget.
func IsAgentRule(rule []string) bool {
	target := argument(rule, "-j")
	return (target == "RETURN" || target == "MASQUERADE") && strings.HasPrefix(comment(rule), CommentPrefix)
}

// comment is that of a rule, without quotation marks around it.
func comment(rule []string) string {
	return strings.Trim(argument(rule, "--comment"), `"`)
}

// argument is what follows an option, or empty.
func argument(rule []string, option string) string {
	i := slices.Index(rule, option)
	if i < 0 || i+1 >= len(rule) {
		return ""
	}
	return rule[i+1]
}
