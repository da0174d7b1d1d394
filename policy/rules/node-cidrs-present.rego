# METADATA
# title: Node ranges are spared
# description: |
#   Traffic to nodes should keep its source address: what runs in the host network sees
#   pods, not nodes, and answers to kubelet and metrics stay attributable.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#node-cidrs-present
# custom:
#   id: node-cidrs-present
#   action: deny
#   mend: add the lines of the message, or the subnet that holds them
package ipmasq.node_cidrs_present

import data.ipmasq.lib
import future.keywords.not

deny contains v if {
	not input.derived.uncovered.node == []
	not input.derived.uncovered.node == null
	not lib.excepted(input.derived.uncovered.node)
	v := {
		"rule": "node-cidrs-present",
		"path": "nonMasqueradeCIDRs",
		"msg": _message,
		"hint": _hint,
	}
}

deny contains v if {
	not input.derived.uncovered.node == []
	some range in input.derived.uncovered.node
	v := {
		"rule": "node-cidrs-present",
		"path": range.exception.path,
		"text": range.exception.cidr,
		"msg": $"{range.exception.cidr} takes {lib.names("node", [range])} from the list: {_effect}",
		"hint": $"drop the line \"- {range.exception.cidr}\", or except less",
	}
}

default _message := "input.derived.uncovered.node is missing, so the rule cannot tell what the list lacks"

_message := $"the list does not cover {names}: {_effect}" if {
	names := lib.names("node", lib.lacking(input.derived.uncovered.node))
}

default _hint := "give the rule a complete input"

_hint := lib.remedy(lib.lacking(input.derived.uncovered.node))

_effect := "pods would be seen there with the address of their own node"

# Without params nobody has said that ranges may be unknown.
deny contains v if {
	input.derived.uncovered.node == null
	not input.params.require_cluster_ranges == false
	v := _not_judged
}

warn contains v if {
	input.derived.uncovered.node == null
	input.params.require_cluster_ranges == false
	v := _not_judged
}

_not_judged := {
	"rule": "node-cidrs-present",
	"path": "nonMasqueradeCIDRs",
	"msg": "nobody knows the node ranges of this cluster, so nobody can tell whether the list covers them",
	"hint": "set the Helm value cluster.nodeCIDRs",
}
