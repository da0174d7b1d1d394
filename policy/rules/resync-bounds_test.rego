package ipmasq.resync_bounds_test

import data.ipmasq.resync_bounds

_input(seconds) := {
	"config": {"resyncInterval": seconds},
	"params": {"rules": {"resync-bounds": {"min": 5, "max": 3600}}},
}

test_allow_within_bounds if {
	every seconds in [5, 60, 3600] {
		resync_bounds.deny == set() with input as _input(seconds)
	}
}

test_allow_what_does_not_load if {
	resync_bounds.deny == set() with input as object.union(_input(60), {"config": null})
}

test_deny_too_short if {
	resync_bounds.deny == {{
		"rule": "resync-bounds",
		"path": "resyncInterval",
		"msg": "4.5s is below 5s: every node would be busy rebuilding rules",
		"hint": "write resyncInterval: 5s or more",
	}} with input as _input(4.5)
}

test_deny_too_long if {
	resync_bounds.deny == {{
		"rule": "resync-bounds",
		"path": "resyncInterval",
		"msg": "3601s is above 3600s: damaged rules would stay for as long",
		"hint": "write resyncInterval: 3600s or less",
	}} with input as _input(3601)
}

test_missing_interval if {
	resync_bounds.deny == {
		{
			"rule": "resync-bounds",
			"path": "resyncInterval",
			"msg": "<undefined>s is below 5s: every node would be busy rebuilding rules",
			"hint": "write resyncInterval: 5s or more",
		},
		{
			"rule": "resync-bounds",
			"path": "resyncInterval",
			"msg": "<undefined>s is above 3600s: damaged rules would stay for as long",
			"hint": "write resyncInterval: 3600s or less",
		},
	} with input as object.union(_input(60), {"config": false}) with input.config as {"cidrLimit": 64}
}

test_missing_bounds if {
	count(resync_bounds.deny) == 2 with input as {"config": {"resyncInterval": 60}}
}
