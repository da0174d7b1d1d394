# METADATA
# title: The configuration says something
# description: |
#   An empty or comment-only value is no error for agents: they take every default,
#   which is rarely what its author meant.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#config-not-empty
# custom:
#   id: config-not-empty
#   action: deny
#   mend: write what you mean, the defaults too
package ipmasq.config_not_empty

deny contains v if {
	not input.problems == []
	some v in _violations
}

_violations contains {
	"rule": "config-not-empty",
	"path": "",
	"msg": "the value holds no configuration, so agents silently take every default",
	"hint": $"write what you mean, the defaults are:\n{_defaults}",
} if {
	some problem in input.problems
	problem.code == "empty"
}

_violations contains {
	"rule": "config-not-empty",
	"path": "",
	"msg": "input.problems is missing, so the rule cannot tell whether the value is empty",
	"hint": "give the rule a complete input",
} if {
	not _listed
}

_defaults := concat("\n", [
	"nonMasqueradeCIDRs:",
	"- 10.0.0.0/8",
	"- 172.16.0.0/12",
	"- 192.168.0.0/16",
	"resyncInterval: 60s",
])

_listed if is_array(input.problems)
