# METADATA
# title: Pod ranges are spared
# description: |
#   Traffic to pods must keep its source address: a pod range that the list lacks makes
#   firewalls and network policies drop traffic within the cluster.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#pod-cidrs-present
# custom:
#   id: pod-cidrs-present
#   action: deny
#   mend: add the lines of the message, or drop the exception that it names
package ipmasq.pod_cidrs_present

import data.ipmasq.lib
import future.keywords.not

deny contains v if {
	not input.derived.uncovered.pod == []
	not input.derived.uncovered.pod == null
	not lib.excepted(input.derived.uncovered.pod)
	v := {
		"rule": "pod-cidrs-present",
		"path": "nonMasqueradeCIDRs",
		"msg": _message,
		"hint": _hint,
	}
}

deny contains v if {
	not input.derived.uncovered.pod == []
	some range in input.derived.uncovered.pod
	v := {
		"rule": "pod-cidrs-present",
		"path": range.exception.path,
		"text": range.exception.cidr,
		"msg": $"{range.exception.cidr} takes {lib.names("pod", [range])} from the list: {_effect}",
		"hint": $"drop the line \"- {range.exception.cidr}\", or except less",
	}
}

default _message := "input.derived.uncovered.pod is missing, so the rule cannot tell what the list lacks"

_message := $"the list does not cover {names}: {_effect}" if {
	names := lib.names("pod", lib.lacking(input.derived.uncovered.pod))
}

default _hint := "give the rule a complete input"

_hint := lib.remedy(lib.lacking(input.derived.uncovered.pod))

_effect := "pods would be seen there with the address of their node, and dropped by firewalls"

# Without params nobody has said that ranges may be unknown.
deny contains v if {
	input.derived.uncovered.pod == null
	not input.params.require_cluster_ranges == false
	v := _not_judged
}

warn contains v if {
	input.derived.uncovered.pod == null
	input.params.require_cluster_ranges == false
	v := _not_judged
}

_not_judged := {
	"rule": "pod-cidrs-present",
	"path": "nonMasqueradeCIDRs",
	"msg": "nobody knows the pod ranges of this cluster, so nobody can tell whether the list covers them",
	"hint": "set the Helm value cluster.podCIDRs",
}
