package ipmasq.two_person_test

import data.ipmasq.two_person

_input(user, annotations, old_annotations) := {
	"request": {
		"operation": "UPDATE",
		"namespace": "kube-system",
		"name": "ip-masq-agent",
		"user": user,
		"annotations": annotations,
		"old_annotations": old_annotations,
	},
	"config": {},
	"derived": {"diff": {"now_masqueraded": ["172.16.0.0/12"], "no_longer_masqueraded": ["10.9.0.0/16"]}},
}

_by_bob := {
	"example.com/approved-by": "bob",
	"example.com/approved-change": "masquerade 172.16.0.0/12, spare 10.9.0.0/16",
}

_nothing_changes := {"derived": {"diff": {"now_masqueraded": [], "no_longer_masqueraded": []}}}

_rules := {v.rule | some v in two_person.deny}

test_allow_approved_by_another if {
	two_person.deny == set() with input as _input("alice", _by_bob, _by_bob)
}

test_allow_giving_an_approval if {
	two_person.deny == set() with input as object.union(_input("bob", _by_bob, {}), _nothing_changes)
}

test_allow_withdrawing_an_approval if {
	two_person.deny == set() with input as object.union(_input("alice", {}, _by_bob), _nothing_changes)
}

test_allow_creation if {
	two_person.deny == set() with input as object.union(_input("alice", {}, {}), {"request": {"operation": "CREATE"}})
}

test_deny_without_approval if {
	two_person.deny == {{
		"rule": "colleague-approves",
		"path": "",
		"msg": "no colleague has approved: masquerade 172.16.0.0/12, spare 10.9.0.0/16",
		"hint": concat("", [
			"who agrees runs: kubectl annotate --overwrite configmap ip-masq-agent -n kube-system ",
			"example.com/approved-by=THEIR-USER-NAME ",
			"'example.com/approved-change=masquerade 172.16.0.0/12, spare 10.9.0.0/16'",
		]),
	}} with input as _input("alice", {}, {})
}

test_deny_ones_own_approval if {
	_rules == {"colleague-approves"} with input as _input("bob", _by_bob, _by_bob)
}

test_deny_approval_in_the_same_edit if {
	_rules == {"colleague-approves"} with input as _input("bob", _by_bob, {})
}

test_deny_approval_of_something_else if {
	other := object.union(_by_bob, {"example.com/approved-change": "masquerade 172.16.0.0/12"})
	some v in two_person.deny with input as _input("alice", other, other)
	v.msg == "no colleague has approved: spare 10.9.0.0/16"
}

test_deny_approval_in_anothers_name if {
	two_person.deny == {{
		"rule": "approves-for-oneself",
		"path": "metadata.annotations",
		"msg": "an approval by alice says that somebody else has given it",
		"hint": "write example.com/approved-by: alice",
	}} with input as object.union(_input("alice", _by_bob, {}), _nothing_changes)
}

# Whose approval it is stays, and what for does not.
test_deny_widening_anothers_approval if {
	widened := object.union(_by_bob, {"example.com/approved-change": "masquerade 10.0.0.0/8"})
	_rules == {"approves-for-oneself"} with input as object.union(_input("alice", widened, _by_bob), _nothing_changes)
}

test_deny_what_nobody_knows if {
	unknown := object.union(_input("alice", _by_bob, _by_bob), {"derived": {"diff": null}})
	_rules == {"colleague-approves"} with input as unknown
}

# An approval without a name is nobody's.
test_missing_approver if {
	nameless := object.remove(_by_bob, ["example.com/approved-by"])
	_rules == {"colleague-approves"} with input as _input("alice", nameless, nameless)
}
