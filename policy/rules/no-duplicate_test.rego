package ipmasq.no_duplicate_test

import data.ipmasq.no_duplicate

_again := {"cidr": "10.0.0.0/8", "family": "ipv4", "path": "nonMasqueradeCIDRs[1]", "line": 3}

_first := {"cidr": "10.0.0.0/8", "family": "ipv4", "path": "nonMasqueradeCIDRs[0]", "line": 2}

test_allow_different if {
	no_duplicate.deny == set() with input as {"derived": {"duplicates": []}}
}

test_deny_duplicate if {
	no_duplicate.deny == {{
		"rule": "no-duplicate",
		"path": "nonMasqueradeCIDRs[1]",
		"text": "10.0.0.0/8",
		"msg": "10.0.0.0/8 is listed already (nonMasqueradeCIDRs[0], line 2)",
		"hint": "drop this line",
	}} with input as {"derived": {"duplicates": [object.union(_again, {"first": _first})]}}
}

test_missing_duplicates if {
	no_duplicate.deny == {{
		"rule": "no-duplicate",
		"path": "nonMasqueradeCIDRs",
		"msg": "input.derived.duplicates is missing, so the rule cannot tell which CIDRs are listed twice",
		"hint": "give the rule a complete input",
	}} with input as {"derived": {}}
}

test_missing_fields_of_a_duplicate if {
	count(no_duplicate.deny) == 1 with input as {"derived": {"duplicates": [{}]}}
}
