# METADATA
# title: Other agents read it alike
# description: |
#   What the consumer of this cluster takes, but no other agent takes or reads in the
#   same way: host bits that Cilium cuts off, keys that it ignores. It loads; it is only
#   that the text means something else the day another agent reads it.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#agents-agree
# custom:
#   id: agents-agree
#   action: warn
#   mend: write each CIDR without host bits, and drop the keys that Cilium ignores
package ipmasq.agents_agree

warn contains v if {
	not input.problems == []
	some v in _violations
}

_violations contains {
	"rule": "agents-agree",
	"path": problem.path,
	"line": problem.line,
	"column": problem.column,
	"text": problem.text,
	"msg": problem.message,
	"hint": problem.remedy,
} if {
	some problem in input.problems
	not problem.severity == "fatal"
	problem.code in {"ignored-key", "host-bits", "ipv4-mapped"}
}

_violations contains {
	"rule": "agents-agree",
	"path": "",
	"msg": "input.problems is missing, so the rule cannot tell how the text reads",
	"hint": "give the rule a complete input",
} if {
	not _listed
}

_listed if is_array(input.problems)
