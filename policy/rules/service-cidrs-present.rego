# METADATA
# title: Service ranges are spared
# description: |
#   Traffic to services is usually translated on the node before masquerading is
#   decided. Where services are routed, their range belongs in the list.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#service-cidrs-present
# custom:
#   id: service-cidrs-present
#   action: warn
#   mend: add the lines of the message, or drop the exception that it names
package ipmasq.service_cidrs_present

import data.ipmasq.lib
import future.keywords.not

deny contains v if {
	not input.derived.uncovered.service == []
	not input.derived.uncovered.service == null
	not lib.excepted(input.derived.uncovered.service)
	v := {
		"rule": "service-cidrs-present",
		"path": "nonMasqueradeCIDRs",
		"msg": _message,
		"hint": _hint,
	}
}

deny contains v if {
	not input.derived.uncovered.service == []
	some range in input.derived.uncovered.service
	v := {
		"rule": "service-cidrs-present",
		"path": range.exception.path,
		"text": range.exception.cidr,
		"msg": $"{range.exception.cidr} takes {lib.names("service", [range])} from the list: {_effect}",
		"hint": $"drop the line \"- {range.exception.cidr}\", or except less",
	}
}

default _message := "input.derived.uncovered.service is missing, so the rule cannot tell what the list lacks"

_message := $"the list does not cover {names}: {_effect}" if {
	names := lib.names("service", lib.lacking(input.derived.uncovered.service))
}

default _hint := "give the rule a complete input"

_hint := lib.remedy(lib.lacking(input.derived.uncovered.service))

_effect := "routed services would see the node's address"

# Without params nobody has said that ranges may be unknown.
deny contains v if {
	input.derived.uncovered.service == null
	not input.params.require_cluster_ranges == false
	v := _not_judged
}

warn contains v if {
	input.derived.uncovered.service == null
	input.params.require_cluster_ranges == false
	v := _not_judged
}

_not_judged := {
	"rule": "service-cidrs-present",
	"path": "nonMasqueradeCIDRs",
	"msg": "nobody knows the service ranges of this cluster, so nobody can tell whether the list covers them",
	"hint": "set the Helm value cluster.serviceCIDRs",
}
