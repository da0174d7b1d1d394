# METADATA
# title: Exceptions except something
# description: |
#   masqueradeCIDRs takes ranges out of wider ones that are spared. One that lies in no
#   spared range, or inside another exception, has no effect: its author most likely
#   meant another range, or took the key for the opposite of what it is.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#exceptions-inside-spared
# custom:
#   id: exceptions-inside-spared
#   action: deny
#   mend: drop the exception, or write the range you mean
package ipmasq.exceptions_inside_spared

deny contains v if {
	not input.problems == []
	some v in _violations
}

_violations contains {
	"rule": "exceptions-inside-spared",
	"path": problem.path,
	"line": problem.line,
	"column": problem.column,
	"text": problem.text,
	"msg": problem.message,
	"hint": problem.remedy,
} if {
	some problem in input.problems
	not problem.severity == "fatal"
	problem.code == "ineffective-exception"
}

_violations contains {
	"rule": "exceptions-inside-spared",
	"path": "",
	"msg": "input.problems is missing, so the rule cannot tell which exceptions have no effect",
	"hint": "give the rule a complete input",
} if {
	not _listed
}

_listed if is_array(input.problems)
