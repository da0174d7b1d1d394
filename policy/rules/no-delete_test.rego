package ipmasq.no_delete_test

import data.ipmasq.no_delete

_violation := {
	"rule": "no-delete",
	"key": "",
	"path": "metadata.name",
	"msg": "without the ConfigMap every node goes back to the default ranges",
	"hint": "edit it instead; to remove the agents, uninstall their chart",
}

test_allow_other_operations if {
	every operation in ["CREATE", "UPDATE"] {
		no_delete.deny == set() with input as {"request": {"operation": operation}}
	}
}

test_deny_delete if {
	no_delete.deny == {_violation} with input as {"request": {"operation": "DELETE"}}
}

test_deny_delete_with_its_effect if {
	no_delete.deny == {object.union(_violation, {"msg": concat("", [
		"without the ConfigMap every node goes back to the default ranges ",
		"(now masqueraded: 100.64.0.0/10, 203.0.113.0/24)",
	])})} with input as {
		"request": {"operation": "DELETE"},
		"derived": {"diff": {"now_masqueraded": ["100.64.0.0/10", "203.0.113.0/24"]}},
	}
}

test_missing_operation if {
	no_delete.deny == {_violation} with input as {}
}
