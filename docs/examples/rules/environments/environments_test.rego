package ipmasq.environments_test

import data.ipmasq.environments

_bounds := {
	"production": {"ranges": 2, "shortest_prefix": 8, "resync_seconds": 60},
	"sandbox": {"ranges": 64, "shortest_prefix": 0, "resync_seconds": 3600},
}

_input(environment, cidrs, resync) := {
	"config": {
		"nonMasqueradeCIDRs": [{"cidr": cidr, "family": family, "path": $"nonMasqueradeCIDRs[{i}]"} |
			some i, cidr in cidrs
			family := {true: "ipv6", false: "ipv4"}[contains(cidr, ":")]
		],
		"resyncInterval": resync,
	},
	"params": {"custom": {"environment": environment}},
}

_wide := _input("production", ["10.0.0.0/8", "172.16.0.0/12", "8.0.0.0/7"], 90)

test_allow_within_bounds if {
	environments.deny == set() with input as _input("production", ["10.0.0.0/8", "fc00::/7"], 60)
		with data.environments as _bounds
}

test_allow_elsewhere if {
	elsewhere := object.union(_wide, {"params": {"custom": {"environment": "sandbox"}}})
	environments.deny == set() with input as elsewhere with data.environments as _bounds
}

test_deny_out_of_bounds if {
	environments.deny == {
		{
			"rule": "fewer-ranges",
			"path": "nonMasqueradeCIDRs",
			"msg": "3 ranges, more than the 2 of production",
			"hint": "list wider ranges",
		},
		{
			"rule": "narrower-ranges",
			"path": "nonMasqueradeCIDRs[2]",
			"msg": "8.0.0.0/7 is wider than the /8 of production",
			"hint": "list the parts that pods talk to",
		},
		{
			"rule": "faster-resync",
			"path": "resyncInterval",
			"msg": "90 s are more than the 60 s of production",
			"hint": "write a shorter interval",
		},
	} with input as _wide with data.environments as _bounds
}

test_deny_unknown_environment if {
	environments.deny == {{
		"rule": "environment-known",
		"path": "",
		"msg": "custom.environment of the params is prod, of which data.json has no bounds",
		"hint": "set it to one of production, sandbox",
	}} with input as _input("prod", [], 60) with data.environments as _bounds
}

test_missing_environment if {
	some v in environments.deny with input as {"config": null} with data.environments as _bounds
	startswith(v.msg, "custom.environment of the params is missing")
}
