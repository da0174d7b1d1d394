# METADATA
# title: Bounds of the environment
# description: |
#   data.environments has the bounds of each environment, and custom.environment of the
#   params says which one a cluster is: the rules are the same everywhere.
package ipmasq.environments

import future.keywords.not

deny contains v if {
	not _bounds
	v := {
		"rule": "environment-known",
		"path": "",
		"msg": $"custom.environment of the params is {_environment}, of which data.json has no bounds",
		"hint": $"set it to one of {concat(", ", object.keys(data.environments))}",
	}
}

deny contains v if {
	count(input.config.nonMasqueradeCIDRs) > _bounds.ranges
	v := {
		"rule": "fewer-ranges",
		"path": "nonMasqueradeCIDRs",
		"msg": $"{count(input.config.nonMasqueradeCIDRs)} ranges, more than the {_bounds.ranges} of {_environment}",
		"hint": "list wider ranges",
	}
}

deny contains v if {
	some range in input.config.nonMasqueradeCIDRs
	range.family == "ipv4"
	to_number(split(range.cidr, "/")[1]) < _bounds.shortest_prefix
	v := {
		"rule": "narrower-ranges",
		"path": range.path,
		"msg": $"{range.cidr} is wider than the /{_bounds.shortest_prefix} of {_environment}",
		"hint": "list the parts that pods talk to",
	}
}

deny contains v if {
	input.config.resyncInterval > _bounds.resync_seconds
	v := {
		"rule": "faster-resync",
		"path": "resyncInterval",
		"msg": $"{input.config.resyncInterval} s are more than the {_bounds.resync_seconds} s of {_environment}",
		"hint": "write a shorter interval",
	}
}

_bounds := data.environments[_environment]

default _environment := "missing"

_environment := input.params.custom.environment
