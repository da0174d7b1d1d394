# METADATA
# title: A colleague approves what changes for traffic
# description: |
#   Two annotations of the ConfigMap hold an approval: example.com/approved-by, who gave
#   it, and example.com/approved-change, for what. Nobody writes another's name there, and
#   nobody uses their own approval.
package ipmasq.two_person

import future.keywords.not

deny contains v if {
	input.request.operation in {"UPDATE", "DELETE"}
	missing := _changes - _approved
	count(missing) > 0
	v := {
		"rule": "colleague-approves",
		"path": "",
		"msg": $"no colleague has approved: {concat(", ", missing)}",
		"hint": concat("", [
			"who agrees runs: kubectl annotate --overwrite configmap ", input.request.name, " -n ", input.request.namespace,
			" example.com/approved-by=THEIR-USER-NAME 'example.com/approved-change=", concat(", ", _changes), "'",
		]),
	}
}

# An approval is in the name of the user who writes it: this is what makes it one.
deny contains v if {
	_approval(input.request.annotations) != _approval(input.request.old_annotations)
	not _approval(input.request.annotations) == [null, null] # withdrawn
	not input.request.annotations["example.com/approved-by"] == input.request.user
	v := {
		"rule": "approves-for-oneself",
		"path": "metadata.annotations",
		"msg": $"an approval by {input.request.user} says that somebody else has given it",
		"hint": $"write example.com/approved-by: {input.request.user}",
	}
}

_approval(annotations) := [
	object.get(annotations, "example.com/approved-by", null),
	object.get(annotations, "example.com/approved-change", null),
]

# What counts is the approval that was there before this write.
default _approved := set()

_approved := {change | some change in split(input.request.old_annotations["example.com/approved-change"], ", ")} if {
	input.request.old_annotations["example.com/approved-by"] != input.request.user
}

_changes contains $"masquerade {cidr}" if some cidr in input.derived.diff.now_masqueraded

_changes contains $"spare {cidr}" if some cidr in input.derived.diff.no_longer_masqueraded

_changes contains "mend what does not load" if {
	input.config != null
	input.derived.diff == null
}
