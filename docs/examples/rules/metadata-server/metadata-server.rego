# METADATA
# title: The metadata server sees pods
# description: |
#   What answers at 169.254.169.254 tells pods apart by their addresses. Masqueraded, every
#   pod looks like its node, and gets the credentials of the node.
package ipmasq.metadata_server

deny contains v if {
	input.config.masqLinkLocal == true
	not _spared
	v := {
		"rule": "metadata-server-spared",
		"path": "masqLinkLocal",
		"msg": "masqLinkLocal masquerades traffic to 169.254.169.254",
		"hint": "drop the key, or add 169.254.169.254/32 to nonMasqueradeCIDRs",
	}
}

deny contains v if {
	some range in input.config.masqueradeCIDRs
	_holds(range)
	not _spared_within(range)
	v := {
		"rule": "metadata-server-spared",
		"path": range.path,
		"msg": $"{range.cidr} masquerades traffic to 169.254.169.254",
		"hint": "leave the exception out, or add 169.254.169.254/32 to nonMasqueradeCIDRs",
	}
}

_spared if {
	some range in input.config.nonMasqueradeCIDRs
	_holds(range)
}

# The longest prefix decides.
_spared_within(exception) if {
	some range in input.config.nonMasqueradeCIDRs
	_holds(range)
	_length(range) > _length(exception)
}

# Unless masqLinkLocal is set, agents spare 169.254.0.0/16 as if it were listed.
_spared_within(exception) if {
	input.config.masqLinkLocal == false
	_length(exception) < 16
}

_holds(range) if net.cidr_contains(range.cidr, "169.254.169.254/32")

_length(range) := to_number(split(range.cidr, "/")[1])
