# METADATA
# title: Large changes go in steps
# description: |
#   One edit takes at most custom.smallSteps.addresses IPv4 addresses, and custom.smallSteps.networks
#   IPv6 networks of 64 bits, out of the list: a mistake then has an end.
package ipmasq.small_steps

import future.keywords.not

deny contains v if {
	not _small
	v := {
		"rule": "small-steps",
		"path": "nonMasqueradeCIDRs",
		"msg": $"{_count} would be masqueraded at once, more than {_most.addresses} and {_most.networks}",
		"hint": "take some of these ranges out now, and others when the first are known to work",
	}
}

# Facts hold at most 1024 prefixes: with as many there may be more. A limit that is
# missing is none that an edit can keep to, and neither is a difference that nobody knows.
_small if {
	count(_now) < 1024
	_addresses <= _most.addresses
	_networks <= _most.networks
}

# What does not load is denied without this rule.
_small if input.config == null

_most := input.params.custom.smallSteps

_now := input.derived.diff.now_masqueraded

_addresses := sum([_power(32 - _length(cidr)) | some cidr in _now; not contains(cidr, ":")])

# A part of a network counts as one.
_networks := sum([_power(max([64 - _length(cidr), 0])) | some cidr in _now; contains(cidr, ":")])

default _count := "nobody knows how many addresses"

_count := $"{_addresses} IPv4 addresses and {_networks} IPv6 networks" if _now

_length(cidr) := to_number(split(cidr, "/")[1])

_power(exponent) := product([2 | some _ in array.slice(numbers.range(1, 64), 0, exponent)])
