package ipmasq.masquerade_not_disabled_test

import data.ipmasq.masquerade_not_disabled

_derived(disabled) := {"derived": {"disables_masquerade": count(disabled) > 0, "disabled": disabled}}

test_allow_other_lists if {
	masquerade_not_disabled.deny == set() with input as _derived([])
}

test_deny_both_families if {
	masquerade_not_disabled.deny == {
		{
			"rule": "masquerade-not-disabled",
			"path": "nonMasqueradeCIDRs[0]",
			"msg": "the list covers 0.0.0.0/0, so no ipv4 traffic is masqueraded, that to the internet neither",
			"hint": "list only ranges that can answer to pod addresses",
		},
		{
			"rule": "masquerade-not-disabled",
			"path": "nonMasqueradeCIDRs",
			"msg": "the list covers ::/0, so no ipv6 traffic is masqueraded, that to the internet neither",
			"hint": "list only ranges that can answer to pod addresses",
		},
	} with input as _derived([
		{"family": "ipv4", "all": "0.0.0.0/0", "path": "nonMasqueradeCIDRs[0]"},
		{"family": "ipv6", "all": "::/0", "path": "nonMasqueradeCIDRs"},
	])
}

test_deny_in_spite_of_exceptions if {
	derived := {
		"disables_masquerade": true,
		"disabled": [{"family": "ipv4", "all": "0.0.0.0/0", "path": "nonMasqueradeCIDRs[0]"}],
		"cidr_count": 1,
		"entry_count": 2,
	}
	masquerade_not_disabled.deny == {{
		"rule": "masquerade-not-disabled",
		"path": "nonMasqueradeCIDRs[0]",
		"msg": "the list covers 0.0.0.0/0, so no ipv4 traffic is masqueraded but for the exceptions",
		"hint": "list only ranges that can answer to pod addresses",
	}} with input as {"derived": derived}
}

_unexplained := {
	"rule": "masquerade-not-disabled",
	"path": "nonMasqueradeCIDRs",
	"msg": "input.derived.disables_masquerade is not false, so masquerading may be off",
	"hint": "list only ranges that can answer to pod addresses",
}

test_missing_families if {
	masquerade_not_disabled.deny == {_unexplained} with input as {"derived": {"disables_masquerade": true}}
}

test_missing_derived if {
	masquerade_not_disabled.deny == {_unexplained} with input as {}
}
