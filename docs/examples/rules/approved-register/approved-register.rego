# METADATA
# title: Only ranges from the register
# description: |
#   The network team keeps data.register. A range that is in none of its entries may be
#   given to somebody else tomorrow.
package ipmasq.register

import future.keywords.not

deny contains v if {
	some range in input.config.nonMasqueradeCIDRs
	not _approved(range.cidr)
	v := {
		"rule": "approved-range",
		"path": range.path,
		"msg": $"{range.cidr} lies in no range of the register",
		"hint": $"have it registered, or list one of {concat(", ", _approved_ranges)}",
	}
}

_approved(cidr) if {
	some entry in data.register.ranges
	net.cidr_contains(entry.cidr, cidr)
}

_approved_ranges contains entry.cidr if some entry in data.register.ranges
