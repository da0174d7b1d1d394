package ipmasq.list_not_empty_test

import data.ipmasq.list_not_empty

_violation := {
	"rule": "list-not-empty",
	"path": "nonMasqueradeCIDRs",
	"msg": "the list is empty, so agents masquerade all traffic, that between pods too",
	"hint": "list the ranges of the cluster, or drop the key to have the default ranges",
}

test_allow_one_entry if {
	list_not_empty.deny == set() with input as {"config": {}, "derived": {"cidr_count": 1}}
}

test_allow_what_does_not_load if {
	list_not_empty.deny == set() with input as {"config": null, "derived": {"cidr_count": null}}
}

test_deny_empty_list if {
	list_not_empty.deny == {_violation} with input as {"config": {}, "derived": {"cidr_count": 0}}
}

# To Cilium a list that is absent is empty, so dropping the key mends nothing.
test_deny_empty_list_of_cilium if {
	violation := object.union(_violation, {"hint": "list the ranges of the cluster"})
	list_not_empty.deny == {violation} with input as {
		"config": {},
		"derived": {"cidr_count": 0},
		"params": {"consumer": "cilium"},
	}
}

test_deny_unknown_count if {
	list_not_empty.deny == {_violation} with input as {"config": {}, "derived": {"cidr_count": null}}
}

test_missing_count if {
	list_not_empty.deny == {_violation} with input as {"config": {}, "derived": {}}
}

test_missing_everything if {
	list_not_empty.deny == {_violation} with input as {}
}
