package ipmasq.ipv6_enabled_test

import data.ipmasq.ipv6_enabled

_range := {"cidr": "2001:db8::/32", "family": "ipv6", "path": "nonMasqueradeCIDRs[1]", "line": 3}

test_allow_ipv4 if {
	ipv6_enabled.deny == set() with input as {"derived": {"refused_ipv6": []}}
}

test_deny_ipv6 if {
	ipv6_enabled.deny == {{
		"rule": "ipv6-enabled",
		"path": "nonMasqueradeCIDRs[1]",
		"text": "2001:db8::/32",
		"msg": concat("", [
			"2001:db8::/32 is an IPv6 range, and agents without --enable-ipv6 ",
			"refuse the whole configuration for it",
		]),
		"hint": "drop the line, or set the Helm value agent.ipv6 to true",
	}} with input as {"derived": {"refused_ipv6": [_range]}}
}

test_missing_ranges if {
	ipv6_enabled.deny == {{
		"rule": "ipv6-enabled",
		"path": "nonMasqueradeCIDRs",
		"msg": "input.derived.refused_ipv6 is missing, so the rule cannot tell which ranges agents refuse",
		"hint": "give the rule a complete input",
	}} with input as {"derived": {}}
}

test_missing_fields_of_a_range if {
	count(ipv6_enabled.deny) == 1 with input as {"derived": {"refused_ipv6": [{}]}}
}
