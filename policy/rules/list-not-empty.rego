# METADATA
# title: The list has an entry
# description: |
#   A null or empty list is not an absent one: it spares nothing, so agents
#   masquerade the traffic between pods, nodes and services as well. To Cilium an absent
#   list is an empty one.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#list-not-empty
# custom:
#   id: list-not-empty
#   action: deny
#   mend: list the ranges of the cluster, or drop the key to have the defaults
package ipmasq.list_not_empty

import future.keywords.not

deny contains v if {
	not input.derived.cidr_count > 0
	not _unloadable
	v := {
		"rule": "list-not-empty",
		"path": "nonMasqueradeCIDRs",
		"msg": "the list is empty, so agents masquerade all traffic, that between pods too",
		"hint": _hint,
	}
}

default _hint := "list the ranges of the cluster, or drop the key to have the default ranges"

_hint := "list the ranges of the cluster" if input.params.consumer == "cilium"

_unloadable if input.config == null
