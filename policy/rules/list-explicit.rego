# METADATA
# title: The list is written out
# description: |
#   Without nonMasqueradeCIDRs agents take default ranges, and not all of them the
#   same: flags add the reserved ranges. A list that is written out means the same
#   everywhere.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#list-explicit
# custom:
#   id: list-explicit
#   action: warn
#   mend: write the list out; the warning has the lines
package ipmasq.list_explicit

warn contains v if {
	not input.derived.list_absent == false
	not _empty
	v := {
		"rule": "list-explicit",
		"path": "nonMasqueradeCIDRs",
		"msg": "the list is absent, so agents take their default ranges, and not every agent has the same",
		"hint": concat("\n", array.concat(["write it out:", "nonMasqueradeCIDRs:"], _lines)),
	}
}

# An empty value has a rule of its own.
_empty if {
	some problem in input.problems
	problem.code == "empty"
}

_lines := [$"- {range.cidr}" | some range in input.config.nonMasqueradeCIDRs]
