package ipmasq.config_not_empty_test

import data.ipmasq.config_not_empty

_violation := {
	"rule": "config-not-empty",
	"path": "",
	"msg": "the value holds no configuration, so agents silently take every default",
	"hint": concat("\n", [
		"write what you mean, the defaults are:",
		"nonMasqueradeCIDRs:",
		"- 10.0.0.0/8",
		"- 172.16.0.0/12",
		"- 192.168.0.0/16",
		"resyncInterval: 60s",
	]),
}

test_allow_without_problems if {
	config_not_empty.deny == set() with input as {"problems": []}
}

test_allow_other_problems if {
	config_not_empty.deny == set() with input as {"problems": [{"code": "unknown-key"}]}
}

test_deny_empty if {
	config_not_empty.deny == {_violation} with input as {"problems": [{"code": "empty"}]}
}

test_missing_problems if {
	config_not_empty.deny == {{
		"rule": "config-not-empty",
		"path": "",
		"msg": "input.problems is missing, so the rule cannot tell whether the value is empty",
		"hint": "give the rule a complete input",
	}} with input as {}
}
