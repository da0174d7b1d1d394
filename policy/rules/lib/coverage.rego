# METADATA
# title: Words for ranges that a list lacks
# description: |
#   What the rules on pod, node and service ranges share.
package ipmasq.lib

# METADATA
# description: The first ranges with their sources, and how many more there are.
names(kind, ranges) := $"{kind} range {_name(ranges[0])}" if count(ranges) == 1

names(kind, ranges) := $"{kind} ranges {concat(", ", first)}{_more(ranges, 3)}" if {
	count(ranges) > 1
	first := [_name(range) | some range in array.slice(ranges, 0, 3)]
}

# METADATA
# description: The ranges that the list itself lacks.
lacking(ranges) := [range | some range in ranges; not range.exception]

# METADATA
# description: The list has all of the ranges, and exceptions take them from it.
excepted(ranges) if {
	is_array(ranges)
	every range in ranges {
		range.exception
	}
}

# METADATA
# description: The lines to add, ready to paste; of an absent list also its defaults.
remedy(ranges) := concat("\n", array.concat(_head, [$"- {range.cidr}" | some range in first])) if {
	count(ranges) <= _shown
	first := ranges
}

remedy(ranges) := concat("\n", array.concat(lines, [$"and {count(ranges) - _shown} more; one wider range may do"])) if {
	count(ranges) > _shown
	lines := array.concat(_head, [$"- {range.cidr}" | some range in array.slice(ranges, 0, _shown)])
}

_shown := 8

# The defaults go when the key comes, so they are part of what to add.
_head := array.concat(
	["add the list, with the default ranges:", "nonMasqueradeCIDRs:"],
	[$"- {range.cidr}" | some range in input.config.nonMasqueradeCIDRs],
) if {
	input.derived.list_absent == true
}

_head := ["add to nonMasqueradeCIDRs:"] if not input.derived.list_absent == true

_name(range) := $"{range.cidr} ({range.source})" if range.source != ""

_name(range) := range.cidr if range.source == ""

_more(ranges, shown) := $" and {count(ranges) - shown} more" if count(ranges) > shown

_more(ranges, shown) := "" if count(ranges) <= shown
