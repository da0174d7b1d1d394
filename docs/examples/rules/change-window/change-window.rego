# METADATA
# title: Traffic changes in the change window only
# description: |
#   What changes for traffic changes while those who can mend it are at work. Edits that
#   change nothing for traffic are free at any time.
package ipmasq.change_window

import future.keywords.not

deny contains v if {
	_changes_traffic
	not _open
	v := {
		"rule": "change-window",
		"path": "",
		"msg": $"{input.request.time} is outside of the change window, {_words}",
		"hint": "wait, or have somebody who may bypass the rules do so",
	}
}

_changes_traffic if count(input.derived.diff.now_masqueraded) > 0

_changes_traffic if count(input.derived.diff.no_longer_masqueraded) > 0

# Nobody knows what changes where the text before, or this one, does not load.
_changes_traffic if input.derived.diff == null

# A window that is missing or misspelt is never open.
_open if {
	at := [time.parse_rfc3339_ns(input.request.time), _window.zone]
	time.weekday(at) in _window.days
	hour := time.clock(at)[0]
	hour >= _window.from
	hour < _window.to
}

_window := input.params.custom.changeWindow

default _words := "which custom.changeWindow of the params does not tell"

_words := $"{concat(", ", _window.days)}, {_window.from}:00 to {_window.to}:00, {_window.zone}" if _window
