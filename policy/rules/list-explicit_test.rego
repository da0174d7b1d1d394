package ipmasq.list_explicit_test

import data.ipmasq.list_explicit

_defaults := [
	{"cidr": "10.0.0.0/8", "family": "ipv4", "path": "nonMasqueradeCIDRs[0]", "line": 0},
	{"cidr": "172.16.0.0/12", "family": "ipv4", "path": "nonMasqueradeCIDRs[1]", "line": 0},
]

_violation := {
	"rule": "list-explicit",
	"path": "nonMasqueradeCIDRs",
	"msg": "the list is absent, so agents take their default ranges, and not every agent has the same",
	"hint": concat("\n", ["write it out:", "nonMasqueradeCIDRs:", "- 10.0.0.0/8", "- 172.16.0.0/12"]),
}

test_allow_explicit_list if {
	list_explicit.warn == set() with input as {"derived": {"list_absent": false}, "problems": []}
}

test_allow_empty_text if {
	list_explicit.warn == set() with input as {"derived": {"list_absent": true}, "problems": [{"code": "empty"}]}
}

test_deny_absent_list if {
	list_explicit.warn == {_violation} with input as {
		"config": {"nonMasqueradeCIDRs": _defaults},
		"derived": {"list_absent": true},
		"problems": [{"code": "unknown-key"}],
	}
}

test_missing_derived if {
	list_explicit.warn == {object.union(
		_violation,
		{"hint": concat("\n", ["write it out:", "nonMasqueradeCIDRs:"])},
	)} with input as {}
}
