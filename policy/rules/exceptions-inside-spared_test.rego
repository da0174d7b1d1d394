package ipmasq.exceptions_inside_spared_test

import data.ipmasq.exceptions_inside_spared

_problem := {
	"code": "ineffective-exception",
	"severity": "suspicious",
	"path": "masqueradeCIDRs[0]",
	"line": 3,
	"column": 1,
	"text": "masqueradeCIDRs[0]",
	"message": "a message",
	"remedy": "a remedy",
}

_violation := {
	"rule": "exceptions-inside-spared",
	"path": "masqueradeCIDRs[0]",
	"line": 3,
	"column": 1,
	"text": "masqueradeCIDRs[0]",
	"msg": "a message",
	"hint": "a remedy",
}

test_allow_without_problems if {
	exceptions_inside_spared.deny == set() with input as {"problems": []}
}

test_allow_problems_of_other_rules if {
	every code in ["empty", "unknown-key", "yaml11-bool"] {
		exceptions_inside_spared.deny == set() with input as {"problems": [object.union(_problem, {"code": code})]}
	}
}

# Fatal problems are denied whatever params say, so no rule repeats them.
test_allow_fatal_problems if {
	exceptions_inside_spared.deny == set() with input as {"problems": [object.union(_problem, {"severity": "fatal"})]}
}

test_deny_without_effect if {
	exceptions_inside_spared.deny == {_violation} with input.problems as [_problem]
}

test_deny_every_place if {
	other := object.union(_problem, {"path": "b", "line": 4})
	violations := {_violation, object.union(_violation, {"path": "b", "line": 4})}
	exceptions_inside_spared.deny == violations with input as {"problems": [_problem, other]}
}

test_missing_problems if {
	exceptions_inside_spared.deny == {{
		"rule": "exceptions-inside-spared",
		"path": "",
		"msg": "input.problems is missing, so the rule cannot tell which exceptions have no effect",
		"hint": "give the rule a complete input",
	}} with input as {}
}

test_missing_severity if {
	exceptions_inside_spared.deny == {_violation} with input as {"problems": [object.remove(_problem, ["severity"])]}
}
