# METADATA
# title: Public ranges are never spared
# description: |
#   Whoever owns a public address answers to the sender that they see. A pod's address
#   means nothing to them, so the answer never arrives.
package ipmasq.internet

import future.keywords.not

deny contains v if {
	some range in input.config.nonMasqueradeCIDRs
	not _private(range.cidr)
	v := {
		"rule": "no-public",
		"path": range.path,
		"msg": $"{range.cidr} is not private, so its owner cannot answer to a pod",
		"hint": "leave it out; addresses that are yours in spite of that belong in custom.ownPublicCIDRs of the params",
	}
}

_private(cidr) if {
	some private in [
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", # RFC 1918
		"100.64.0.0/10", # RFC 6598
		"169.254.0.0/16", "fe80::/10", # link-local
		"fc00::/7", # RFC 4193
	]
	net.cidr_contains(private, cidr)
}

_private(cidr) if {
	some own in input.params.custom.ownPublicCIDRs
	net.cidr_contains(own, cidr)
}
