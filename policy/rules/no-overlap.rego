# METADATA
# title: No CIDR lies inside another
# description: |
#   A CIDR inside a wider one has no effect. It suggests one, though: who drops the
#   wider entry later changes more than they see, and each entry costs an iptables rule.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#no-overlap
# custom:
#   id: no-overlap
#   action: deny
#   mend: drop the narrower line, or the wider one if the narrower is what you meant
package ipmasq.no_overlap

deny contains v if {
	not input.derived.overlaps == []
	some v in _violations
}

_violations contains v if some v in _found

_found contains {
	"rule": "no-overlap",
	"path": overlap.path,
	"text": overlap.cidr,
	"msg": $"{overlap.cidr} lies inside {overlap.within.cidr} ({_place(overlap.within)}), so it has no effect",
	"hint": $"drop the line \"- {overlap.cidr}\"",
} if {
	some overlap in input.derived.overlaps
}

_violations contains {
	"rule": "no-overlap",
	"path": "nonMasqueradeCIDRs",
	"msg": "input.derived.overlaps is missing, so the rule cannot tell which CIDRs overlap",
	"hint": "give the rule a complete input",
} if {
	count(_found) == 0
}

_place(range) := $"{range.path}, line {range.line}" if range.line > 0

_place(range) := range.path if range.line == 0
