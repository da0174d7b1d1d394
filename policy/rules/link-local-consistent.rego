# METADATA
# title: Keys and list agree on link-local addresses
# description: |
#   masqLinkLocal asks to masquerade 169.254.0.0/16, masqLinkLocalIPv6 fe80::/10. A
#   list that spares the same addresses wins, so the key has no effect.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#link-local-consistent
# custom:
#   id: link-local-consistent
#   action: deny
#   mend: drop the key, or make the list spare less
package ipmasq.link_local_consistent

deny contains v if {
	not input.derived.link_local == []
	some v in _violations
}

_violations contains v if some v in _found

_found contains {
	"rule": "link-local-consistent",
	"path": conflict.key,
	"msg": $"{conflict.key} asks to masquerade {conflict.range}, but {_what(conflict)} spares it, and the list wins",
	"hint": $"drop {conflict.key}, or make the list spare less",
} if {
	some conflict in input.derived.link_local
}

_violations contains {
	"rule": "link-local-consistent",
	"path": "",
	"msg": "input.derived.link_local is missing, so the rule cannot tell whether keys and list agree",
	"hint": "give the rule a complete input",
} if {
	count(_found) == 0
}

_what(conflict) := $"{conflict.cidr} ({conflict.path})" if conflict.cidr != ""

_what(conflict) := "the list" if conflict.cidr == ""
