# METADATA
# title: The configuration is in data.config
# description: |
#   Agents mount the key config as their file. In binaryData it is the same file but no
#   text that people can review; under another name it is not there at all. A key that
#   begins with ip-masq is taken for a configuration by agents that read a whole directory.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#config-key-present
# custom:
#   id: config-key-present
#   action: deny
#   mend: put the text into the key config of data, and drop other keys that begin with ip-masq
package ipmasq.config_key_present

import future.keywords.not

deny contains v if {
	not input.object.config_alone == true
	some v in _violations
}

warn contains v if {
	not input.object.config_alone == true
	some field in ["data", "binaryData"]
	some key in _keys[field]
	not _configuration(key)
	not _shadows(key)
	not key == input.object.likely_key
	v := {
		"rule": "config-key-present",
		"key": key,
		"path": "",
		"msg": $"no agent reads the key \"{key}\"",
		"hint": "drop it",
	}
}

_violations contains {
	"rule": "config-key-present",
	"key": "",
	"path": "data",
	"msg": "there is no key \"config\", so agents find no configuration",
	"hint": "put the configuration under data.config",
} if {
	_absent
	not is_string(input.object.likely_key)
}

_violations contains {
	"rule": "config-key-present",
	"key": input.object.likely_key,
	"path": "",
	"msg": $"there is no key \"config\", so agents find no configuration; \"{input.object.likely_key}\" looks like it",
	"hint": $"rename the key \"{input.object.likely_key}\" to \"config\"",
} if {
	_absent
	is_string(input.object.likely_key)
}

_violations contains {
	"rule": "config-key-present",
	"key": key,
	"path": "",
	"msg": "the configuration is in binaryData: agents read it there too, but nobody can review it",
	"hint": $"move it to data.{key} as plain text",
} if {
	some key in _keys.binaryData
	_configuration(key)
}

_violations contains {
	"rule": "config-key-present",
	"key": key,
	"path": "",
	"msg": $"agents that read a whole directory take the key \"{key}\" for a configuration beside \"config\"",
	"hint": "drop it, and keep one configuration",
} if {
	some field in ["data", "binaryData"]
	some key in _keys[field]
	not key == input.object.likely_key
	_shadows(key)
}

_violations contains {
	"rule": "config-key-present",
	"key": "",
	"path": "data",
	"msg": "input.object is missing, so the rule cannot tell where the configuration is",
	"hint": "give the rule a complete input",
} if {
	not _complete
	not _deleted
}

_keys := {"data": input.object.data_keys, "binaryData": input.object.binary_keys}

_complete if {
	is_array(input.object.data_keys)
	is_array(input.object.binary_keys)
}

_absent if {
	_complete
	count([key | some keys in _keys; some key in keys; _configuration(key)]) == 0
}

# Agents with --config-dir read each of these as a file.
_configuration(key) if key == "config"

_configuration(key) if {
	input.params.config_directory == true
	startswith(key, "ip-masq")
}

_shadows(key) if {
	startswith(lower(key), "ip-masq")
	not _configuration(key)
}

_deleted if input.request.operation == "DELETE"
