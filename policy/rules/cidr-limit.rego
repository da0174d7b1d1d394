# METADATA
# title: The list is not too long
# description: |
#   Each CIDR, an exception too, is a rule that every new connection walks through on
#   every node. The bound is params.rules["cidr-limit"].max; cidrLimit in the text is the author's own.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#cidr-limit
# custom:
#   id: cidr-limit
#   action: deny
#   mend: list wider ranges instead of many narrow ones
package ipmasq.cidr_limit

import future.keywords.not

deny contains v if {
	not input.derived.entry_count <= input.params.rules["cidr-limit"].max
	v := {
		"rule": "cidr-limit",
		"path": "nonMasqueradeCIDRs",
		"msg": $"{input.derived.entry_count} CIDRs, more than {_limit.max}: each one slows new connections on every node",
		"hint": "list wider ranges instead of many narrow ones",
	}
}

_limit := input.params.rules["cidr-limit"]
