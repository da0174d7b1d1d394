# METADATA
# title: The ConfigMap is not deleted
# description: |
#   Without the ConfigMap agents go back to their defaults on every node, within a
#   minute and without a word.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#no-delete
# custom:
#   id: no-delete
#   action: deny
#   mend: edit it instead; to remove the agents, uninstall their chart
package ipmasq.no_delete

import future.keywords.not

deny contains v if {
	not input.request.operation in {"CREATE", "UPDATE"}
	v := {
		"rule": "no-delete",
		"key": "",
		"path": "metadata.name",
		"msg": $"without the ConfigMap every node goes back to the default ranges{_effect}",
		"hint": "edit it instead; to remove the agents, uninstall their chart",
	}
}

default _effect := ""

_effect := $" (now masqueraded: {concat(", ", array.slice(prefixes, 0, 5))})" if {
	prefixes := input.derived.diff.now_masqueraded
	count(prefixes) > 0
}
