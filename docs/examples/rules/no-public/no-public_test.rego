package ipmasq.internet_test

import data.ipmasq.internet

_input(cidr) := {
	"config": {"nonMasqueradeCIDRs": [{"cidr": cidr, "path": "nonMasqueradeCIDRs[0]"}]},
	"params": {"custom": {"ownPublicCIDRs": ["203.0.113.0/24"]}},
}

test_allow_private if {
	every cidr in ["10.1.0.0/16", "100.64.0.0/10", "172.31.0.0/16", "fd00::/8"] {
		internet.deny == set() with input as _input(cidr)
	}
}

test_allow_our_own if {
	internet.deny == set() with input as _input("203.0.113.128/25")
}

test_deny_public if {
	internet.deny == {{
		"rule": "no-public",
		"path": "nonMasqueradeCIDRs[0]",
		"msg": "8.8.8.0/24 is not private, so its owner cannot answer to a pod",
		"hint": "leave it out; addresses that are yours in spite of that belong in custom.ownPublicCIDRs of the params",
	}} with input as _input("8.8.8.0/24")
}

# A range that is private in part is public in part.
test_deny_wider_than_private if {
	every cidr in ["172.0.0.0/8", "0.0.0.0/0", "::/0", "203.0.112.0/23"] {
		count(internet.deny) == 1 with input as _input(cidr)
	}
}

test_missing_params if {
	count(internet.deny) == 1 with input as object.remove(_input("203.0.113.0/24"), ["params"])
}

test_missing_config if {
	internet.deny == set() with input as {"config": null}
}
