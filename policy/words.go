package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what an author is told. The API server cuts warnings itself, in the
// middle and without a word (its limits are 256 and 4,096 runes), so ours are kept
// before.
const (
	maxMessageBytes   = 2048
	maxMessageLines   = 20
	maxWarningRunes   = 256
	maxWarningsRunes  = 4096
	maxDetailLines    = 12
	maxDetailRunes    = 1024 // of one line
	warningsReserve   = 64   // of maxWarningsRunes, for telling how many are left out
	messageReserve    = 128  // of maxMessageBytes, for the lines after the findings
	ellipsis          = "…"
	replacementOfRune = ' '
)

// Field names the place for a status cause: `data["config"]:3 nonMasqueradeCIDRs[1]`.
// It names no line when the text has no such place, and of the object as a whole
// the field of the ConfigMap.
func (f Finding) Field() string {
	if f.Key == "" {
		if f.Path == "" {
			return "metadata.name"
		}
		return oneLine(f.Path)
	}
	field := "data["
	if f.Binary {
		field = "binaryData["
	}
	field += strconv.Quote(f.Key) + "]"
	if f.Position.Line > 0 {
		field += ":" + strconv.Itoa(f.Position.Line)
	}
	if f.Path != "" {
		field += " " + oneLine(f.Path)
	}
	return field
}

// Detail is the text of a status cause, which stands alone: offending text and why,
// remedy, rule, docs link. Lines after the first are indented, so that they stay
// with the first one where many causes are listed.
func (f Finding) Detail() string {
	hint := hintLines(f.Hint)
	var b strings.Builder
	if len(hint) <= 1 {
		b.WriteString(f.line(maxDetailRunes))
	} else {
		b.WriteString(Finding{Rule: f.Rule, Message: f.Message}.line(maxDetailRunes))
		for i, line := range hint {
			if i == maxDetailLines {
				fmt.Fprintf(&b, "\n  and %d more lines", len(hint)-i)
				break
			}
			b.WriteString("\n  " + cut(line, maxDetailRunes))
		}
	}
	if f.Docs != "" {
		b.WriteString("\n  docs: " + cut(oneLine(f.Docs), maxDetailRunes))
	}
	return b.String()
}

// line is Detail in one line of at most limit runes, without the docs link. The
// rule stays readable however long the rest is.
func (f Finding) line(limit int) string {
	s := oneLine(f.Message)
	if hint := hintLines(f.Hint); len(hint) > 0 {
		for i := range hint {
			hint[i] = strings.TrimSpace(hint[i])
		}
		s += "; " + strings.Join(hint, " ")
	}
	tail := " [" + cut(oneLine(f.Rule), limit/2) + "]"
	return cut(s, max(1, limit-utf8.RuneCountInString(tail))) + tail
}

// Message is the stand-alone text of a denial, first line a summary, at most 2 KiB;
// empty when d is allowed. Helm, Argo CD and kubectl create show nothing else.
func (d Decision) Message() string {
	if d.Allowed {
		return ""
	}
	denials := d.denials()
	var b strings.Builder
	b.WriteString(d.headline(len(denials)))
	shown := 0
	for _, f := range denials {
		line := "\n" + f.Field() + ": " + f.line(maxDetailRunes)
		room := maxMessageBytes - messageReserve - b.Len()
		if shown == 0 && len(line) > room {
			line = cutBytes(line, room) // one of them is always told
		}
		if shown == maxMessageLines || len(line) > room {
			break
		}
		b.WriteString(line)
		shown++
	}
	if left := len(denials) - shown; left > 0 {
		fmt.Fprintf(&b, "\nand %d more", left)
	}
	b.WriteString("\ndocs: " + docsURL)
	return b.String()
}

// Summary is Message in one line, for a client that shows only warnings; empty when
// d is allowed.
func (d Decision) Summary() string {
	if d.Allowed {
		return ""
	}
	denials := d.denials()
	s := d.headline(len(denials))
	if len(denials) > 0 {
		s += "; first: " + denials[0].sentence(maxWarningRunes-utf8.RuneCountInString(s)-len("; first: "))
	}
	return cut(s, maxWarningRunes)
}

// sentence is the place and line, of at most limit runes where that is possible.
func (f Finding) sentence(limit int) string {
	place := cut(f.Field(), limit/2) + ": "
	return place + f.line(limit-utf8.RuneCountInString(place))
}

// headline says how many problems there are and that nothing happened.
func (d Decision) headline(count int) string {
	s := strconv.Itoa(count) + " problems"
	if count == 1 {
		s = "1 problem"
	}
	if d.Subject != "" {
		s += " in " + cut(oneLine(d.Subject), maxWarningRunes/2)
	}
	return s + "; nothing was changed"
}

func (d Decision) denials() []Finding {
	var denials []Finding
	for _, f := range d.Findings {
		if f.Action == Deny {
			denials = append(denials, f)
		}
	}
	return denials
}

// Warnings is what the API server can pass on as warnings: each one line without
// control characters, at most 256 characters, 4,096 in all: soft findings, and the
// effect of an accepted change. The last one tells how many did not fit.
func (d Decision) Warnings() []string {
	var all []string
	for _, f := range d.Findings {
		if f.Action == Warn {
			all = append(all, f.sentence(maxWarningRunes))
		}
	}
	if d.Allowed && d.Effect.Known {
		all = appendEffect(all, "now masqueraded", d.Effect.NowMasqueraded, d.Effect.NowOmitted)
		all = appendEffect(all, "no longer masqueraded", d.Effect.NoLongerMasqueraded, d.Effect.NoLongerOmitted)
		for _, on := range d.NodeEffects {
			where := "on nodes with " + cut(oneLine(on.Selector), maxWarningRunes/2) + ": "
			if len(on.NowMasqueraded)+len(on.NoLongerMasqueraded) == 0 {
				all = append(all, where+"nothing changes")
			}
			all = appendEffect(all, where+"now masqueraded", on.NowMasqueraded, on.NowOmitted)
			all = appendEffect(all, where+"no longer masqueraded", on.NoLongerMasqueraded, on.NoLongerOmitted)
		}
	}
	var warnings []string
	total := 0
	for i, warning := range all {
		warning = cut(oneLine(warning), maxWarningRunes)
		total += utf8.RuneCountInString(warning)
		if total > maxWarningsRunes-warningsReserve {
			return append(warnings, fmt.Sprintf("and %d more warnings", len(all)-i))
		}
		warnings = append(warnings, warning)
	}
	return warnings
}

// WarningLine is text as the API server can pass it on as one warning.
func WarningLine(text string) string { return cut(oneLine(text), maxWarningRunes) }

// Bounded is text of several lines as it fits a denial's message.
func Bounded(text string) string { return cutBytes(text, maxMessageBytes) }

// appendEffect adds one line that lists as many prefixes as fit.
func appendEffect(warnings []string, what string, prefixes []netip.Prefix, omitted int) []string {
	if len(prefixes) == 0 {
		return warnings
	}
	const reserve = len(" and 1000000 more")
	line := what + ": "
	for i, prefix := range prefixes {
		text := prefix.String()
		if i > 0 {
			text = ", " + text
		}
		if len(line)+len(text) > maxWarningRunes-reserve {
			omitted += len(prefixes) - i
			break
		}
		line += text
	}
	if omitted > 0 {
		line += fmt.Sprintf(" and %d more", omitted)
	}
	return append(warnings, line)
}

// hintLines splits a hint; indentation inside is kept, since it may be YAML.
func hintLines(hint string) []string {
	hint = strings.Trim(hint, "\r\n")
	if strings.TrimSpace(hint) == "" {
		return nil
	}
	lines := strings.Split(hint, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(oneLine(lines[i]), " ")
	}
	return lines
}

// oneLine makes text harmless for a line: what comes from an author or a rule may
// neither break it nor hide or reorder what follows (bidirectional controls).
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
			return replacementOfRune
		}
		return r
	}, s)
}

// cut shortens s to at most limit runes and shows that it did.
func cut(s string, limit int) string {
	if len(s) <= limit || utf8.RuneCountInString(s) <= limit {
		return s
	}
	runes := 0
	for i := range s {
		if runes == limit-1 {
			return s[:i] + ellipsis
		}
		runes++
	}
	return s
}

// cutBytes shortens s to at most limit bytes, between runes.
func cutBytes(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	end := limit - len(ellipsis)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}
