package ipmasq.no_ambiguous_yaml_test

import data.ipmasq.no_ambiguous_yaml

_problem := {
	"code": "duplicate-key",
	"severity": "suspicious",
	"path": "resyscInterval",
	"line": 3,
	"column": 1,
	"text": "resyscInterval",
	"message": "a message",
	"remedy": "a remedy",
}

_violation := {
	"rule": "no-ambiguous-yaml",
	"path": "resyscInterval",
	"line": 3,
	"column": 1,
	"text": "resyscInterval",
	"msg": "a message",
	"hint": "a remedy",
}

test_allow_without_problems if {
	no_ambiguous_yaml.deny == set() with input as {"problems": []}
}

test_allow_problems_of_other_rules if {
	every code in [
		"empty",
		"unknown-key",
		"key-case",
		"pasted-manifest",
		"ignored-key",
		"host-bits",
		"ipv4-mapped",
	] {
		no_ambiguous_yaml.deny == set() with input as {"problems": [object.union(_problem, {"code": code})]}
	}
}

# Fatal problems are denied whatever params say, so no rule repeats them.
test_allow_fatal_problems if {
	no_ambiguous_yaml.deny == set() with input as {"problems": [object.union(_problem, {"severity": "fatal"})]}
}

test_deny_each_code if {
	every code in [
		"duplicate-key",
		"second-document",
		"yaml11-bool",
		"octal-number",
		"trailing-space",
		"null-value",
		"a-new-one",
	] {
		no_ambiguous_yaml.deny == {_violation} with input.problems as [object.union(_problem, {"code": code})]
	}
}

test_deny_every_place if {
	other := object.union(_problem, {"path": "b", "line": 4})
	violations := {_violation, object.union(_violation, {"path": "b", "line": 4})}
	no_ambiguous_yaml.deny == violations with input as {"problems": [_problem, other]}
}

test_missing_problems if {
	no_ambiguous_yaml.deny == {{
		"rule": "no-ambiguous-yaml",
		"path": "",
		"msg": "input.problems is missing, so the rule cannot tell how the text reads",
		"hint": "give the rule a complete input",
	}} with input as {}
}

test_missing_severity if {
	no_ambiguous_yaml.deny == {_violation} with input as {"problems": [object.remove(_problem, ["severity"])]}
}
