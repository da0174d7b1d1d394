package ipmasq.cidr_limit_test

import data.ipmasq.cidr_limit

_violation := {
	"rule": "cidr-limit",
	"path": "nonMasqueradeCIDRs",
	"msg": "65 CIDRs, more than 64: each one slows new connections on every node",
	"hint": "list wider ranges instead of many narrow ones",
}

_input(count) := {
	"derived": {"entry_count": count},
	"params": {"rules": {"cidr-limit": {"max": 64}}},
}

test_allow_at_the_limit if {
	cidr_limit.deny == set() with input as _input(64)
}

test_allow_what_does_not_load if {
	cidr_limit.deny == set() with input as _input(null)
}

test_deny_above_the_limit if {
	cidr_limit.deny == {_violation} with input as _input(65)
}

test_missing_limit if {
	cidr_limit.deny == {object.union(
		_violation,
		{"msg": "1 CIDRs, more than <undefined>: each one slows new connections on every node"},
	)} with input as {"derived": {"entry_count": 1}}
}

test_missing_count if {
	count(cidr_limit.deny) == 1 with input as {"params": {"rules": {"cidr-limit": {"max": 64}}}}
}
