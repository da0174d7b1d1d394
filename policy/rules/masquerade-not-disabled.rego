# METADATA
# title: Masquerading stays on
# description: |
#   A list that covers every address of a family switches masquerading off: pods
#   leave the cluster with addresses that nobody outside can answer to. Where pod
#   ranges are routed outside, set the action of this rule to off. Exceptions do not
#   count: what they leave masqueraded is hardly ever all that has to be.
# related_resources:
#   - ref: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#masquerade-not-disabled
# custom:
#   id: masquerade-not-disabled
#   action: deny
#   mend: list only ranges that can answer to pod addresses
package ipmasq.masquerade_not_disabled

deny contains v if {
	not input.derived.disables_masquerade == false
	some v in _violations
}

_violations contains {
	"rule": "masquerade-not-disabled",
	"path": disabled.path,
	"msg": $"the list covers {disabled.all}, so no {disabled.family} traffic is masqueraded{_but}",
	"hint": _hint,
} if {
	some disabled in input.derived.disabled
}

_violations contains {
	"rule": "masquerade-not-disabled",
	"path": "nonMasqueradeCIDRs",
	"msg": "input.derived.disables_masquerade is not false, so masquerading may be off",
	"hint": _hint,
} if {
	not _explained
}

_hint := "list only ranges that can answer to pod addresses"

default _but := ", that to the internet neither"

_but := " but for the exceptions" if input.derived.entry_count > input.derived.cidr_count

_explained if count(input.derived.disabled) > 0
