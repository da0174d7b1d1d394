package policy

// Field names the place for a status cause: `data["config"]:3 nonMasqueradeCIDRs[1]`.
func (f Finding) Field() string { panic("to be built") }

// Detail is the text of a status cause, which stands alone: offending text and why,
// remedy, rule, docs link. Lines after the first are indented.
func (f Finding) Detail() string { panic("to be built") }

// Message is the stand-alone text of a denial, first line a summary, at most 2 KiB;
// empty when d is allowed.
func (d Decision) Message() string { panic("to be built") }

// Warnings is what the API server can pass on as warnings: each one line without
// control characters, at most 256 characters, 4,096 in all: soft findings, and the
// effect of an accepted change.
func (d Decision) Warnings() []string { panic("to be built") }
