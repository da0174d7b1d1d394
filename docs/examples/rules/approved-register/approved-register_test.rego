package ipmasq.register_test

import data.ipmasq.register

_register := {"ranges": [{"cidr": "10.0.0.0/8"}, {"cidr": "fd00:10::/32"}]}

_input(cidr) := {"config": {"nonMasqueradeCIDRs": [{"cidr": cidr, "path": "nonMasqueradeCIDRs[0]"}]}}

test_allow_inside_an_entry if {
	every cidr in ["10.0.0.0/8", "10.7.0.0/16", "fd00:10:7::/48"] {
		register.deny == set() with input as _input(cidr) with data.register as _register
	}
}

test_deny_another_range if {
	register.deny == {{
		"rule": "approved-range",
		"path": "nonMasqueradeCIDRs[0]",
		"msg": "172.16.0.0/12 lies in no range of the register",
		"hint": "have it registered, or list one of 10.0.0.0/8, fd00:10::/32",
	}} with input as _input("172.16.0.0/12") with data.register as _register
}

# 10.0.0.0/7 holds an entry of the register, and 11.0.0.0/8 besides.
test_deny_wider_than_an_entry if {
	count(register.deny) == 1 with input as _input("10.0.0.0/7") with data.register as _register
}

# An empty register approves nothing.
test_missing_register if {
	count(register.deny) == 1 with input as _input("10.7.0.0/16") with data.register as {}
}

test_missing_config if {
	register.deny == set() with input as {"config": null} with data.register as _register
}
