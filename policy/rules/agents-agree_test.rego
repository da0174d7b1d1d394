package ipmasq.agents_agree_test

import data.ipmasq.agents_agree

_problem := {
	"code": "host-bits",
	"severity": "suspicious",
	"path": "nonMasqueradeCIDRs[0]",
	"line": 2,
	"column": 3,
	"text": "10.0.0.1/8",
	"message": "a message",
	"remedy": "a remedy",
}

_violation := {
	"rule": "agents-agree",
	"path": "nonMasqueradeCIDRs[0]",
	"line": 2,
	"column": 3,
	"text": "10.0.0.1/8",
	"msg": "a message",
	"hint": "a remedy",
}

test_allow_without_problems if {
	agents_agree.warn == set() with input as {"problems": []}
}

test_allow_problems_of_other_rules if {
	every code in ["empty", "unknown-key", "duplicate-key"] {
		agents_agree.warn == set() with input as {"problems": [object.union(_problem, {"code": code})]}
	}
}

# Fatal problems are denied whatever params say, so no rule repeats them.
test_allow_fatal_problems if {
	agents_agree.warn == set() with input as {"problems": [object.union(_problem, {"severity": "fatal"})]}
}

test_deny_each_code if {
	every code in ["ignored-key", "host-bits", "ipv4-mapped"] {
		agents_agree.warn == {_violation} with input.problems as [object.union(_problem, {"code": code})]
	}
}

test_missing_problems if {
	agents_agree.warn == {{
		"rule": "agents-agree",
		"path": "",
		"msg": "input.problems is missing, so the rule cannot tell how the text reads",
		"hint": "give the rule a complete input",
	}} with input as {}
}

test_missing_severity if {
	agents_agree.warn == {_violation} with input as {"problems": [object.remove(_problem, ["severity"])]}
}
