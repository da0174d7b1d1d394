package ipmasq.change_window_test

import data.ipmasq.change_window

_window := {"zone": "Europe/Berlin", "days": ["Monday", "Tuesday"], "from": 9, "to": 16}

_input(at, diff) := {
	"request": {"time": at},
	"derived": {"diff": diff},
	"params": {"custom": {"changeWindow": _window}},
}

_nothing := {"now_masqueraded": [], "no_longer_masqueraded": []}

_masquerades := {"now_masqueraded": ["172.16.0.0/12"], "no_longer_masqueraded": []}

_spares := {"now_masqueraded": [], "no_longer_masqueraded": ["10.9.0.0/16"]}

# 2026-03-02 is a Monday; Berlin is an hour ahead of UTC, from 29 March on two.
test_allow_inside if {
	every at in ["2026-03-02T08:00:00Z", "2026-03-03T14:59:59Z", "2026-03-30T07:00:00Z"] {
		change_window.deny == set() with input as _input(at, _masquerades)
	}
}

test_deny_outside if {
	every at in ["2026-03-02T07:59:59Z", "2026-03-03T15:00:00Z", "2026-03-04T10:00:00Z", "2026-03-30T06:59:59Z"] {
		every diff in [_masquerades, _spares, null] {
			count(change_window.deny) == 1 with input as _input(at, diff)
		}
	}
}

test_deny_tells_the_window if {
	change_window.deny == {{
		"rule": "change-window",
		"path": "",
		"msg": concat(" ", [
			"2026-03-04T10:00:00Z is outside of the change window,",
			"Monday, Tuesday, 9:00 to 16:00, Europe/Berlin",
		]),
		"hint": "wait, or have somebody who may bypass the rules do so",
	}} with input as _input("2026-03-04T10:00:00Z", _spares)
}

test_allow_what_changes_nothing if {
	change_window.deny == set() with input as _input("2026-03-04T10:00:00Z", _nothing)
}

test_missing_window if {
	some v in change_window.deny with input as object.remove(_input("2026-03-02T08:00:00Z", _spares), ["params"])
	endswith(v.msg, "which custom.changeWindow of the params does not tell")
}
