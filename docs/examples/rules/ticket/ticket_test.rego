package ipmasq.ticket_test

import data.ipmasq.ticket

_config(cidr, line) := {
	"nonMasqueradeCIDRs": [{"cidr": cidr, "line": line}],
	"masqueradeCIDRs": [],
	"resyncInterval": 60,
	"defaulted": [],
}

_input(operation, annotations, old_annotations) := {
	"request": {"operation": operation, "annotations": annotations, "old_annotations": old_annotations},
	"config": _config("10.0.0.0/8", 2),
	"old": _config("10.0.0.0/9", 2),
}

_rules := {v.rule | some v in ticket.deny}

test_allow_a_new_ticket if {
	ticket.deny == set() with input as _input("UPDATE", {"example.com/ticket": "NET-2"}, {"example.com/ticket": "NET-1"})
}

test_allow_a_first_ticket if {
	ticket.deny == set() with input as _input("CREATE", {"example.com/ticket": "NET-1"}, {})
}

test_allow_what_means_the_same if {
	same := object.union(_input("UPDATE", {}, {}), {"old": _config("10.0.0.0/8", 7)})
	ticket.deny == set() with input as same
}

test_allow_deletion if {
	ticket.deny == set() with input as object.union(_input("DELETE", {}, {}), {"config": null})
}

test_deny_no_ticket if {
	every value in ["soon", "NET-", "net-1", "NET-1 and more", ""] {
		_rules == {"ticket"} with input as _input("CREATE", {"example.com/ticket": value}, {})
	}
}

test_deny_the_last_ticket if {
	ticket.deny == {{
		"rule": "ticket-of-its-own",
		"path": "metadata.annotations",
		"msg": "NET-1 is the ticket of the last change",
		"hint": "set example.com/ticket to the ticket that asks for this one",
	}} with input as _input("UPDATE", {"example.com/ticket": "NET-1"}, {"example.com/ticket": "NET-1"})
}

test_missing_ticket if {
	ticket.deny == {{
		"rule": "ticket",
		"path": "metadata.annotations",
		"msg": "the annotation example.com/ticket is missing, which is no ticket",
		"hint": "set it to the ticket that asks for this change, as in NET-1234",
	}} with input as _input("UPDATE", {}, {})
}

test_missing_old if {
	_rules == {"ticket"} with input as object.union(_input("UPDATE", {}, {}), {"old": null})
}
