package ipmasq.link_local_consistent_test

import data.ipmasq.link_local_consistent

_conflict := {
	"key": "masqLinkLocal",
	"range": "169.254.0.0/16",
	"cidr": "169.254.0.0/16",
	"path": "nonMasqueradeCIDRs[1]",
}

test_allow_agreement if {
	link_local_consistent.deny == set() with input as {"derived": {"link_local": []}}
}

test_deny_contradiction if {
	link_local_consistent.deny == {{
		"rule": "link-local-consistent",
		"path": "masqLinkLocal",
		"msg": concat("", [
			"masqLinkLocal asks to masquerade 169.254.0.0/16, ",
			"but 169.254.0.0/16 (nonMasqueradeCIDRs[1]) spares it, and the list wins",
		]),
		"hint": "drop masqLinkLocal, or make the list spare less",
	}} with input as {"derived": {"link_local": [_conflict]}}
}

test_deny_contradiction_by_several if {
	link_local_consistent.deny == {{
		"rule": "link-local-consistent",
		"path": "masqLinkLocal",
		"msg": "masqLinkLocal asks to masquerade 169.254.0.0/16, but the list spares it, and the list wins",
		"hint": "drop masqLinkLocal, or make the list spare less",
	}} with input as {"derived": {"link_local": [object.union(_conflict, {"cidr": "", "path": "nonMasqueradeCIDRs"})]}}
}

test_missing_derived if {
	link_local_consistent.deny == {{
		"rule": "link-local-consistent",
		"path": "",
		"msg": "input.derived.link_local is missing, so the rule cannot tell whether keys and list agree",
		"hint": "give the rule a complete input",
	}} with input as {}
}

test_missing_fields_of_a_conflict if {
	count(link_local_consistent.deny) == 1 with input as {"derived": {"link_local": [{}]}}
}
