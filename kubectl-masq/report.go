package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// Escape sequences of ECMA-48, Select Graphic Rendition.
const (
	red    = "\x1b[1;31m"
	yellow = "\x1b[1;33m"
	bold   = "\x1b[1m"
	plain  = "\x1b[0m"
)

// maxExcerpt bounds what is shown of a line, in runes.
const maxExcerpt = 100

// painter colours text for a terminal, or leaves it alone.
type painter struct{ colour bool }

func (p painter) paint(code, text string) string {
	if !p.colour {
		return text
	}
	return code + text + plain
}

// textReport reports as a compiler does.
func textReport(input *document, decision policy.Decision, p painter) []byte {
	var b bytes.Buffer
	errors, warnings := count(decision)
	for _, finding := range decision.Findings {
		kind := p.paint(yellow, "warning")
		if finding.Action == policy.Deny {
			kind = p.paint(red, "error")
		}
		at := input.locate(finding)
		fmt.Fprintf(&b, "%s %s[%s]: %s\n", p.paint(bold, printable(input.file)+at.suffix()+":"), kind, printable(finding.Rule), headline(finding))
		writeExcerpt(&b, input, finding, at, p)
		for i, line := range strings.Split(strings.TrimSpace(finding.Hint), "\n") {
			switch {
			case line == "":
			case i == 0:
				b.WriteString("  help: " + printable(line) + "\n")
			default:
				b.WriteString("        " + printable(line) + "\n")
			}
		}
		if finding.Docs != "" {
			b.WriteString("  docs: " + printable(finding.Docs) + "\n")
		}
		b.WriteString("\n")
	}
	said := "approved"
	if !decision.Allowed {
		said = "refused"
	}
	b.WriteString(printable(input.title()) + ": " + said + counts(errors, warnings) + "\n")
	return b.Bytes()
}

// count tells how many findings deny and how many warn.
func count(decision policy.Decision) (errors, warnings int) {
	for _, finding := range decision.Findings {
		if finding.Action == policy.Deny {
			errors++
		} else {
			warnings++
		}
	}
	return errors, warnings
}

// headline is the message; a finding that points nowhere says what it is about.
func headline(finding policy.Finding) string {
	message := printable(finding.Message)
	if finding.Position.Line == 0 {
		return printable(finding.Field()) + ": " + message
	}
	return message
}

// writeExcerpt shows the line and puts carets under the offending text.
func writeExcerpt(b *bytes.Buffer, input *document, finding policy.Finding, at place, p painter) {
	lines, shown := input.lines, at
	if at.inside {
		// The file holds the value with escapes, folded or as base64, so the value's
		// own lines are shown.
		lines, shown = splitLines([]byte(input.value(finding))), place{line: finding.Position.Line, column: finding.Position.Column}
		fmt.Fprintf(b, "  note: line %d, column %d inside the value of %s", shown.line, shown.column, printable(finding.Key))
		if !finding.Binary {
			fmt.Fprintf(b, "; written as a block (%s: |), places are those of the file", printable(finding.Key))
		}
		b.WriteString("\n")
	}
	if shown.line < 1 || shown.line > len(lines) || finding.Position.Line == 0 {
		return
	}
	line, column := lines[shown.line-1], max(shown.column, 1)-1
	if column > len(line) {
		return
	}
	before, after := line[:column], line[column:]
	width := utf8.RuneCountInString(offending(finding, after))
	if runes := []rune(before); len(runes) > maxExcerpt/2 {
		before = "…" + string(runes[len(runes)-maxExcerpt/2:])
	}
	if runes := []rune(after); len(runes) > maxExcerpt/2 {
		after = string(runes[:maxExcerpt/2]) + "…"
		width = min(width, maxExcerpt/2)
	}
	number := fmt.Sprintf("%4d", shown.line)
	fmt.Fprintf(b, "%s | %s\n", number, printable(before+after))
	fmt.Fprintf(b, "%s | %s%s\n", strings.Repeat(" ", len(number)), blank(before), p.paint(red, strings.Repeat("^", width)))
}

// offending is what of rest, the line from the place of a finding on, the finding is
// about: its text, the key that its path is, or else one word.
func offending(finding policy.Finding, rest string) string {
	for _, text := range []string{finding.Text, finding.Path} {
		if text != "" && strings.HasPrefix(rest, text) {
			return text
		}
	}
	if end := strings.IndexAny(rest, " \t,]}"); end > 0 {
		return rest[:end]
	}
	if rest == "" || strings.ContainsAny(rest[:1], " \t,]}") {
		return " " // one caret
	}
	return rest
}

// suffix is what follows a file's name: ":LINE:COLUMN", or nothing.
func (p place) suffix() string {
	if p.line == 0 {
		return ""
	}
	return fmt.Sprintf(":%d:%d", p.line, max(p.column, 1))
}

// counts are how many errors and warnings there are: ", 1 error and 2 warnings".
func counts(errors, warnings int) string {
	var all []string
	for _, kind := range []struct {
		count int
		name  string
	}{{errors, "error"}, {warnings, "warning"}} {
		switch {
		case kind.count == 1:
			all = append(all, "1 "+kind.name)
		case kind.count > 1:
			all = append(all, fmt.Sprintf("%d %ss", kind.count, kind.name))
		}
	}
	if len(all) == 0 {
		return ""
	}
	return ", " + strings.Join(all, " and ")
}

// printable makes text harmless for a terminal: no escape sequences, nothing that
// reorders what follows. Each rune stays one rune, and tabs stay.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)) {
			return ' '
		}
		return r
	}, text)
}

// blank is as wide as text.
func blank(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, text)
}

// jsonReport is the documented shape; fields may be added, but not changed.
type jsonReport struct {
	File     string        `json:"file"`
	Line     int           `json:"line"`
	Allowed  bool          `json:"allowed"`
	Revision string        `json:"revision"`
	Findings []jsonFinding `json:"findings"`
	Effect   jsonEffect    `json:"effect"`

	NodeEffects []jsonNodeEffect `json:"nodeEffects,omitempty"` // on nodes that overrides are for
}

type jsonFinding struct {
	Rule        string        `json:"rule"`
	Action      policy.Action `json:"action"`
	Key         string        `json:"key"`
	Path        string        `json:"path"`
	Line        int           `json:"line"`
	Column      int           `json:"column"`
	Exact       bool          `json:"exact"`
	ValueLine   int           `json:"valueLine"`
	ValueColumn int           `json:"valueColumn"`
	Text        string        `json:"text"`
	Message     string        `json:"message"`
	Hint        string        `json:"hint"`
	Docs        string        `json:"docs"`
	Failed      bool          `json:"failed"`
}

type jsonEffect struct {
	Known               bool           `json:"known"`
	NowMasqueraded      []netip.Prefix `json:"nowMasqueraded"`
	NoLongerMasqueraded []netip.Prefix `json:"noLongerMasqueraded"`
	Omitted             int            `json:"omitted"`
}

type jsonNodeEffect struct {
	Selector string `json:"selector"`
	jsonEffect
}

func jsonEffectOf(effect policy.Effect) jsonEffect {
	return jsonEffect{
		Known:               effect.Known,
		NowMasqueraded:      append([]netip.Prefix{}, effect.NowMasqueraded...),
		NoLongerMasqueraded: append([]netip.Prefix{}, effect.NoLongerMasqueraded...),
		Omitted:             effect.NowOmitted + effect.NoLongerOmitted,
	}
}

// jsonReportOf is what JSON output tells of one ConfigMap.
func jsonReportOf(input *document, decision policy.Decision) jsonReport {
	report := jsonReport{
		File:     input.file,
		Line:     input.begin,
		Allowed:  decision.Allowed,
		Revision: decision.Revision,
		Findings: []jsonFinding{}, // never null
		Effect:   jsonEffectOf(decision.Effect),
	}
	for _, on := range decision.NodeEffects {
		report.NodeEffects = append(report.NodeEffects, jsonNodeEffect{on.Selector, jsonEffectOf(on.Effect)})
	}
	for _, finding := range decision.Findings {
		at := input.locate(finding)
		report.Findings = append(report.Findings, jsonFinding{
			Rule:        finding.Rule,
			Action:      finding.Action,
			Key:         finding.Key,
			Path:        finding.Path,
			Line:        at.line,
			Column:      at.column,
			Exact:       !at.inside,
			ValueLine:   finding.Position.Line,
			ValueColumn: finding.Position.Column,
			Text:        finding.Text,
			Message:     finding.Message,
			Hint:        finding.Hint,
			Docs:        finding.Docs,
			Failed:      finding.Failed,
		})
	}
	return report
}
