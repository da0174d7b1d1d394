package ipmasq.config_key_present_test

import data.ipmasq.config_key_present

_input(text, binary, likely) := {
	"request": {"operation": "UPDATE"},
	"object": {
		"data_keys": text,
		"binary_keys": binary,
		"likely_key": likely,
		"config_alone": [text, binary] == [["config"], []],
	},
}

test_allow_config_alone if {
	config_key_present.deny == set() with input as _input(["config"], [], null)
	config_key_present.warn == set() with input as _input(["config"], [], null)
}

test_allow_deletion if {
	config_key_present.deny == set() with input as {"request": {"operation": "DELETE"}, "object": null}
	config_key_present.warn == set() with input as {"request": {"operation": "DELETE"}, "object": null}
}

test_deny_absent_key if {
	config_key_present.deny == {{
		"rule": "config-key-present",
		"key": "",
		"path": "data",
		"msg": "there is no key \"config\", so agents find no configuration",
		"hint": "put the configuration under data.config",
	}} with input as _input([], [], null)
}

test_deny_misnamed_key if {
	config_key_present.deny == {{
		"rule": "config-key-present",
		"key": "ip-masq-agent",
		"path": "",
		"msg": "there is no key \"config\", so agents find no configuration; \"ip-masq-agent\" looks like it",
		"hint": "rename the key \"ip-masq-agent\" to \"config\"",
	}} with input as _input(["ip-masq-agent"], [], "ip-masq-agent")
	config_key_present.warn == set() with input as _input(["ip-masq-agent"], [], "ip-masq-agent")
}

test_deny_binary_key if {
	config_key_present.deny == {{
		"rule": "config-key-present",
		"key": "config",
		"path": "",
		"msg": "the configuration is in binaryData: agents read it there too, but nobody can review it",
		"hint": "move it to data.config as plain text",
	}} with input as _input([], ["config"], null)
}

test_deny_shadowing_key if {
	every keys in [[["config", "ip-masq-agent-config"], []], [["config"], ["ip-masq-agent-config"]]] {
		config_key_present.deny == {{
			"rule": "config-key-present",
			"key": "ip-masq-agent-config",
			"path": "",
			"msg": concat("", [
				"agents that read a whole directory take the key \"ip-masq-agent-config\" ",
				"for a configuration beside \"config\"",
			]),
			"hint": "drop it, and keep one configuration",
		}} with input as _input(keys[0], keys[1], null)
	}
}

test_deny_extra_key_softly if {
	config_key_present.deny == set() with input as _input(["config", "notes"], [], null)
	config_key_present.warn == {{
		"rule": "config-key-present",
		"key": "notes",
		"path": "",
		"msg": "no agent reads the key \"notes\"",
		"hint": "drop it",
	}} with input as _input(["config", "notes"], [], null)
}

test_missing_object if {
	config_key_present.deny == {{
		"rule": "config-key-present",
		"key": "",
		"path": "data",
		"msg": "input.object is missing, so the rule cannot tell where the configuration is",
		"hint": "give the rule a complete input",
	}} with input as {"request": {"operation": "UPDATE"}}
}

test_missing_everything if {
	count(config_key_present.deny) == 1 with input as {}
}

test_missing_binary_keys if {
	count(config_key_present.deny) == 1 with input as {"object": {"data_keys": ["config"]}}
}

test_missing_likely_key if {
	count(config_key_present.deny) > 0 with input as {"object": {"data_keys": [], "binary_keys": []}}
}

_several(texts, binary) := {
	"object": {"config_alone": false, "data_keys": texts, "binary_keys": binary, "likely_key": null},
	"params": {"config_directory": true},
}

test_allow_several_files_where_agents_read_a_directory if {
	config_key_present.deny == set() with input as _several(["ip-masq-agent", "ip-masq-agent-reconciled"], [])
	config_key_present.warn == set() with input as _several(["ip-masq-agent", "ip-masq-agent-reconciled"], [])
}

test_deny_several_files_in_binary_data if {
	config_key_present.deny == {{
		"rule": "config-key-present",
		"key": "ip-masq-b",
		"path": "",
		"msg": "the configuration is in binaryData: agents read it there too, but nobody can review it",
		"hint": "move it to data.ip-masq-b as plain text",
	}} with input as _several(["ip-masq-a"], ["ip-masq-b"])
}
