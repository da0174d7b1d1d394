package ipmasq.pod_cidrs_present_test

import data.ipmasq.pod_cidrs_present

_uncovered(ranges) := {"derived": {"list_absent": false, "uncovered": {"pod": ranges}}}

_effect := "pods would be seen there with the address of their node, and dropped by firewalls"

_not_judged := {
	"rule": "pod-cidrs-present",
	"path": "nonMasqueradeCIDRs",
	"msg": "nobody knows the pod ranges of this cluster, so nobody can tell whether the list covers them",
	"hint": "set the Helm value cluster.podCIDRs",
}

test_allow_covered if {
	pod_cidrs_present.deny == set() with input as _uncovered([])
	pod_cidrs_present.warn == set() with input as _uncovered([])
}

test_deny_one_range if {
	pod_cidrs_present.deny == {{
		"rule": "pod-cidrs-present",
		"path": "nonMasqueradeCIDRs",
		"msg": $"the list does not cover pod range 10.244.3.0/24 (Node worker-3): {_effect}",
		"hint": "add to nonMasqueradeCIDRs:\n- 10.244.3.0/24",
	}} with input as _uncovered([{"cidr": "10.244.3.0/24", "source": "Node worker-3"}])
}

_excepted := {
	"cidr": "10.244.3.0/24",
	"source": "Node worker-3",
	"exception": {"cidr": "10.244.0.0/16", "family": "ipv4", "path": "masqueradeCIDRs[1]", "line": 7},
}

_taken := {
	"rule": "pod-cidrs-present",
	"path": "masqueradeCIDRs[1]",
	"text": "10.244.0.0/16",
	"msg": $"10.244.0.0/16 takes pod range 10.244.3.0/24 (Node worker-3) from the list: {_effect}",
	"hint": "drop the line \"- 10.244.0.0/16\", or except less",
}

test_deny_excepted_range if {
	pod_cidrs_present.deny == {_taken} with input as _uncovered([_excepted])
}

test_deny_lacking_and_excepted_ranges if {
	lacking := {"cidr": "10.244.9.0/24", "source": ""}
	lack := {
		"rule": "pod-cidrs-present",
		"path": "nonMasqueradeCIDRs",
		"msg": $"the list does not cover pod range 10.244.9.0/24: {_effect}",
		"hint": "add to nonMasqueradeCIDRs:\n- 10.244.9.0/24",
	}
	pod_cidrs_present.deny == {_taken, lack} with input as _uncovered([lacking, _excepted])
}

test_deny_absent_list if {
	pod_cidrs_present.deny == {{
		"rule": "pod-cidrs-present",
		"path": "nonMasqueradeCIDRs",
		"msg": $"the list does not cover pod range 100.64.0.0/10: {_effect}",
		"hint": "add the list, with the default ranges:\nnonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 100.64.0.0/10",
	}} with input as {
		"config": {"nonMasqueradeCIDRs": [{"cidr": "10.0.0.0/8"}]},
		"derived": {"list_absent": true, "uncovered": {"pod": [{"cidr": "100.64.0.0/10", "source": ""}]}},
	}
}

test_deny_many_ranges if {
	ranges := [{"cidr": $"10.244.{i}.0/24", "source": $"Node {i}"} | some i in numbers.range(0, 9)]
	pod_cidrs_present.deny == {{
		"rule": "pod-cidrs-present",
		"path": "nonMasqueradeCIDRs",
		"msg": concat("", [
			"the list does not cover pod ranges 10.244.0.0/24 (Node 0), 10.244.1.0/24 (Node 1), ",
			$"10.244.2.0/24 (Node 2) and 7 more: {_effect}",
		]),
		"hint": concat("\n", [
			"add to nonMasqueradeCIDRs:",
			"- 10.244.0.0/24",
			"- 10.244.1.0/24",
			"- 10.244.2.0/24",
			"- 10.244.3.0/24",
			"- 10.244.4.0/24",
			"- 10.244.5.0/24",
			"- 10.244.6.0/24",
			"- 10.244.7.0/24",
			"and 2 more; one wider range may do",
		]),
	}} with input as _uncovered(ranges)
}

test_deny_unknown_ranges_where_required if {
	required := object.union(_uncovered(null), {"params": {"require_cluster_ranges": true}})
	pod_cidrs_present.deny == {_not_judged} with input as required
	pod_cidrs_present.warn == set() with input as required
}

test_deny_unknown_ranges_softly if {
	lenient := object.union(_uncovered(null), {"params": {"require_cluster_ranges": false}})
	pod_cidrs_present.deny == set() with input as lenient
	pod_cidrs_present.warn == {_not_judged} with input as lenient
}

test_missing_params if {
	pod_cidrs_present.deny == {_not_judged} with input as _uncovered(null)
}

test_missing_ranges if {
	pod_cidrs_present.deny == {{
		"rule": "pod-cidrs-present",
		"path": "nonMasqueradeCIDRs",
		"msg": "input.derived.uncovered.pod is missing, so the rule cannot tell what the list lacks",
		"hint": "give the rule a complete input",
	}} with input as {}
}
