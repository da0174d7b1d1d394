# METADATA
# title: The resync interval is within bounds
# description: |
#   Agents rebuild their rules at this interval. A very short one keeps every node
#   busy with iptables; a very long one leaves damage by others in place for as long.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#resync-bounds
# custom:
#   id: resync-bounds
#   action: deny
#   mend: write a value within the bounds; 60s is the default
package ipmasq.resync_bounds

import future.keywords.not

deny contains v if {
	not {
		input.config.resyncInterval >= input.params.rules["resync-bounds"].min
		input.config.resyncInterval <= input.params.rules["resync-bounds"].max
	}
	not input.config == null
	some v in _violations
}

_violations contains {
	"rule": "resync-bounds",
	"path": "resyncInterval",
	"msg": $"{input.config.resyncInterval}s is below {_bounds.min}s: every node would be busy rebuilding rules",
	"hint": $"write resyncInterval: {_bounds.min}s or more",
} if {
	not input.config.resyncInterval >= _bounds.min
}

_violations contains {
	"rule": "resync-bounds",
	"path": "resyncInterval",
	"msg": $"{input.config.resyncInterval}s is above {_bounds.max}s: damaged rules would stay for as long",
	"hint": $"write resyncInterval: {_bounds.max}s or less",
} if {
	not input.config.resyncInterval <= _bounds.max
}

_bounds := input.params.rules["resync-bounds"]
