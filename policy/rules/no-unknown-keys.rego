# METADATA
# title: Every key is known
# description: |
#   Agents ignore a key they do not know, and a known one in another case as well. So a
#   typing error like resyscInterval leaves a default in force, and nobody is told.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#no-unknown-keys
# custom:
#   id: no-unknown-keys
#   action: deny
#   mend: correct the key, or drop it
package ipmasq.no_unknown_keys

deny contains v if {
	not input.problems == []
	some v in _violations
}

_violations contains {
	"rule": "no-unknown-keys",
	"path": problem.path,
	"line": problem.line,
	"column": problem.column,
	"text": problem.text,
	"msg": problem.message,
	"hint": problem.remedy,
} if {
	some problem in input.problems
	not problem.severity == "fatal"
	problem.code in {"unknown-key", "key-case", "pasted-manifest"}
}

_violations contains {
	"rule": "no-unknown-keys",
	"path": "",
	"msg": "input.problems is missing, so the rule cannot tell how the text reads",
	"hint": "give the rule a complete input",
} if {
	not _listed
}

_listed if is_array(input.problems)
