# METADATA
# title: A ticket for every change
# description: |
#   Who changes what happens to traffic names the ticket in the annotation
#   example.com/ticket, and each change has a ticket of its own.
package ipmasq.ticket

import future.keywords.not

deny contains v if {
	_writes_another_text
	not regex.match(`^[A-Z]+-[0-9]+$`, _ticket)
	v := {
		"rule": "ticket",
		"path": "metadata.annotations",
		"msg": $"the annotation example.com/ticket is {_ticket}, which is no ticket",
		"hint": "set it to the ticket that asks for this change, as in NET-1234",
	}
}

deny contains v if {
	_writes_another_text
	input.request.operation == "UPDATE"
	_ticket == input.request.old_annotations["example.com/ticket"]
	v := {
		"rule": "ticket-of-its-own",
		"path": "metadata.annotations",
		"msg": $"{_ticket} is the ticket of the last change",
		"hint": "set example.com/ticket to the ticket that asks for this one",
	}
}

default _ticket := "missing"

_ticket := input.request.annotations["example.com/ticket"]

# Deletion is for no-delete to judge.
_writes_another_text if {
	input.request.operation in {"CREATE", "UPDATE"}
	not _same
}

_same if {
	is_object(input.config)
	is_object(input.old)
	_meaning(input.config) == _meaning(input.old)
}

# Lines are where a range stands, not what it means.
_meaning(config) := object.union(
	object.remove(config, ["defaulted", "nonMasqueradeCIDRs", "masqueradeCIDRs"]),
	{
		"spared": {range.cidr | some range in config.nonMasqueradeCIDRs},
		"excepted": {range.cidr | some range in config.masqueradeCIDRs},
	},
)
