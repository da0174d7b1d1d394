# METADATA
# title: The text has one meaning
# description: |
#   Duplicate keys, a second document, yes and on as booleans, numbers with a leading
#   zero and the like: agents load them, but readers, YAML versions and agents differ
#   on what they mean.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#no-ambiguous-yaml
# custom:
#   id: no-ambiguous-yaml
#   action: deny
#   mend: write what the remedy in the message says
package ipmasq.no_ambiguous_yaml

deny contains v if {
	not input.problems == []
	some v in _violations
}

_violations contains {
	"rule": "no-ambiguous-yaml",
	"path": problem.path,
	"line": problem.line,
	"column": problem.column,
	"text": problem.text,
	"msg": problem.message,
	"hint": problem.remedy,
} if {
	some problem in input.problems
	not problem.severity == "fatal"
	not _elsewhere(problem)
}

_violations contains {
	"rule": "no-ambiguous-yaml",
	"path": "",
	"msg": "input.problems is missing, so the rule cannot tell how the text reads",
	"hint": "give the rule a complete input",
} if {
	not _listed
}

# What is new among the problems belongs here, so that none goes unjudged.
_elsewhere(problem) if problem.code in {
	"empty", "unknown-key", "key-case", "pasted-manifest", "ineffective-exception",
}

_elsewhere(problem) if problem.code in {"ignored-key", "host-bits", "ipv4-mapped"}

_listed if is_array(input.problems)
