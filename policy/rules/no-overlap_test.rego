package ipmasq.no_overlap_test

import data.ipmasq.no_overlap

_inner := {"cidr": "10.1.0.0/16", "family": "ipv4", "path": "nonMasqueradeCIDRs[1]", "line": 3}

_outer := {"cidr": "10.0.0.0/8", "family": "ipv4", "path": "nonMasqueradeCIDRs[0]", "line": 2}

_violation := {
	"rule": "no-overlap",
	"path": "nonMasqueradeCIDRs[1]",
	"text": "10.1.0.0/16",
	"msg": "10.1.0.0/16 lies inside 10.0.0.0/8 (nonMasqueradeCIDRs[0], line 2), so it has no effect",
	"hint": "drop the line \"- 10.1.0.0/16\"",
}

test_allow_disjoint if {
	no_overlap.deny == set() with input as {"derived": {"overlaps": []}}
}

test_deny_overlap if {
	no_overlap.deny == {_violation} with input as {"derived": {"overlaps": [object.union(_inner, {"within": _outer})]}}
}

test_deny_overlap_without_a_line if {
	outer := object.union(_outer, {"line": 0})
	no_overlap.deny == {object.union(_violation, {"msg": concat("", [
		"10.1.0.0/16 lies inside 10.0.0.0/8 (nonMasqueradeCIDRs[0]), ",
		"so it has no effect",
	])})} with input as {"derived": {"overlaps": [object.union(_inner, {"within": outer})]}}
}

test_missing_overlaps if {
	no_overlap.deny == {{
		"rule": "no-overlap",
		"path": "nonMasqueradeCIDRs",
		"msg": "input.derived.overlaps is missing, so the rule cannot tell which CIDRs overlap",
		"hint": "give the rule a complete input",
	}} with input as {"derived": {}}
}

test_missing_fields_of_an_overlap if {
	count(no_overlap.deny) == 1 with input as {"derived": {"overlaps": [{}]}}
}
