# METADATA
# title: No CIDR stands twice
# description: |
#   The second of two equal CIDRs has no effect, and who drops one of them sees no
#   change in traffic where they expect one.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#no-duplicate
# custom:
#   id: no-duplicate
#   action: deny
#   mend: drop one of the two lines
package ipmasq.no_duplicate

deny contains v if {
	not input.derived.duplicates == []
	some v in _violations
}

_violations contains v if some v in _found

_found contains {
	"rule": "no-duplicate",
	"path": duplicate.path,
	"text": duplicate.cidr,
	"msg": $"{duplicate.cidr} is listed already ({duplicate.first.path}, line {duplicate.first.line})",
	"hint": "drop this line",
} if {
	some duplicate in input.derived.duplicates
}

_violations contains {
	"rule": "no-duplicate",
	"path": "nonMasqueradeCIDRs",
	"msg": "input.derived.duplicates is missing, so the rule cannot tell which CIDRs are listed twice",
	"hint": "give the rule a complete input",
} if {
	count(_found) == 0
}
