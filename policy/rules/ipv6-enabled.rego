# METADATA
# title: IPv6 ranges only where agents handle IPv6
# description: |
#   An agent without --enable-ipv6 refuses a text with an IPv6 range as a whole: not
#   even its IPv4 ranges take effect.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#ipv6-enabled
# custom:
#   id: ipv6-enabled
#   action: deny
#   mend: drop the IPv6 range, or run the agents with --enable-ipv6
package ipmasq.ipv6_enabled

deny contains v if {
	not input.derived.refused_ipv6 == []
	some v in _violations
}

_violations contains v if some v in _found

_found contains {
	"rule": "ipv6-enabled",
	"path": range.path,
	"text": range.cidr,
	"msg": $"{range.cidr} is an IPv6 range, and agents without --enable-ipv6 refuse the whole configuration for it",
	"hint": "drop the line, or set the Helm value agent.ipv6 to true",
} if {
	some range in input.derived.refused_ipv6
}

_violations contains {
	"rule": "ipv6-enabled",
	"path": "nonMasqueradeCIDRs",
	"msg": "input.derived.refused_ipv6 is missing, so the rule cannot tell which ranges agents refuse",
	"hint": "give the rule a complete input",
} if {
	count(_found) == 0
}
