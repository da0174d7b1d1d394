package ipmasq.small_steps_test

import data.ipmasq.small_steps

_input(cidrs) := {
	"config": {},
	"derived": {"diff": {"now_masqueraded": cidrs, "no_longer_masqueraded": []}},
	"params": {"custom": {"smallSteps": {"addresses": 65536, "networks": 256}}},
}

test_allow_up_to_the_limit if {
	every cidrs in [[], ["10.9.0.0/16"], ["10.9.0.0/17", "10.10.0.0/17"], ["fd00::/56"], ["fd00::1/128", "10.0.0.1/32"]] {
		small_steps.deny == set() with input as _input(cidrs)
	}
}

test_deny_more if {
	every cidrs in [["10.9.0.0/16", "10.10.0.0/32"], ["0.0.0.0/0"], ["fd00::/55"], ["::/0"]] {
		count(small_steps.deny) == 1 with input as _input(cidrs)
	}
}

test_deny_tells_how_many if {
	small_steps.deny == {{
		"rule": "small-steps",
		"path": "nonMasqueradeCIDRs",
		"msg": concat(" ", [
			"1114112 IPv4 addresses and 18446744073709551616 IPv6 networks would be masqueraded at once,",
			"more than 65536 and 256",
		]),
		"hint": "take some of these ranges out now, and others when the first are known to work",
	}} with input as _input(["172.16.0.0/12", "10.9.0.0/16", "::/0"])
}

test_deny_as_many_as_facts_hold if {
	cidrs := [$"10.{i / 256}.{i % 256}.0/32" | some i in numbers.range(1, 1024)]
	count(small_steps.deny) == 1 with input as _input(cidrs)
}

test_deny_what_nobody_knows if {
	some v in small_steps.deny with input as object.union(_input([]), {"derived": {"diff": null}})
	startswith(v.msg, "nobody knows how many addresses would")
}

test_missing_limit if {
	count(small_steps.deny) == 1 with input as object.remove(_input([]), ["params"])
}

test_missing_config if {
	small_steps.deny == set() with input as {"config": null}
}
