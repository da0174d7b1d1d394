package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// docsURL is where docs/rules.md is read; each rule is a heading there.
const docsURL = "https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md"

// Rule ids of findings that no rule file makes.
const (
	// ruleLoads denies a text that no agent loads, whatever params say: what is
	// admitted loads.
	ruleLoads = "config-loads"
	// ruleEngine denies what could not be decided at all.
	ruleEngine = "policy-decides"
	// ruleIPv6Enabled is a rule file that says what ruleLoads says of IPv6 CIDRs.
	ruleIPv6Enabled = "ipv6-enabled"
)

// docsOf is the URL of the page on a built-in rule.
func docsOf(rule string) string { return docsURL + "#" + rule }

// sortFindings orders findings as an author reads the text: by line, then path,
// then rule. Those without a line come first.
func sortFindings(findings []Finding) {
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(a.Position.Line, b.Position.Line),
			comparePaths(a.Path, b.Path),
			cmp.Compare(a.Rule, b.Rule),
			cmp.Compare(a.Message, b.Message),
		)
	})
}

// comparePaths orders "list[9]" before "list[10]".
func comparePaths(a, b string) int {
	for a != "" && b != "" {
		if isDigit(a[0]) && isDigit(b[0]) {
			na, nb := digits(a), digits(b)
			if c := cmp.Or(cmp.Compare(len(na), len(nb)), cmp.Compare(na, nb)); c != 0 {
				return c
			}
			a, b = a[len(na):], b[len(nb):]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func digits(s string) string {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return s[:i]
		}
	}
	return s
}

// loadFindings are the denials of a text that does not load, and of one with more
// problems than anybody lists: rules would judge only a part of those.
func loadFindings(t text) []Finding {
	var findings []Finding
	for _, p := range t.problems {
		if p.Severity != config.Fatal && p.Code != config.CodeTooManyProblems {
			continue
		}
		findings = append(findings, Finding{
			Rule:     ruleLoads,
			Action:   Deny,
			Key:      ConfigKey,
			Binary:   t.binary,
			Path:     pathOf(p),
			Position: config.Position{Line: p.Line, Column: p.Column},
			Text:     p.Text,
			Message:  p.Message,
			Hint:     p.Remedy,
			Docs:     docsOf(ruleLoads),
			code:     p.Code,
		})
	}
	return findings
}

// pathOf is where a problem is: of several files with the file before the path.
func pathOf(p config.Problem) string {
	if p.File == "" {
		return p.Path
	}
	return p.File + ": " + p.Path
}

// Bounds of what one rule may say; the rest is told as a number.
const (
	maxFindings  = 1000 // of one set
	maxTextRunes = 4096 // of one text in it
	maxIDRunes   = 128  // of the id that a violation gives itself
)

// findings reads the set that an entry gave.
func (e *entry) findings(value ast.Value, d *document) []Finding {
	set, ok := value.(ast.Set)
	if !ok {
		return []Finding{e.failed("it is not a set")}
	}
	if set.Len() == 0 {
		return nil
	}
	var findings []Finding
	for i, term := range set.Slice() {
		if i == maxFindings {
			findings = append(findings, e.failed(fmt.Sprintf("it found %d violations, of which %d are shown", set.Len(), i)))
			break
		}
		findings = append(findings, e.finding(term.Value, d))
	}
	return findings
}

// finding reads one violation: a message, or an object with one.
func (e *entry) finding(value ast.Value, d *document) Finding {
	f := Finding{Rule: e.rule, Action: e.action, Docs: e.docs, Key: ConfigKey, fixed: e.fixed, custom: !e.builtin}
	switch value := value.(type) {
	case ast.String:
		f.Message = cut(string(value), maxTextRunes)
	case ast.Object:
		if failure := e.fill(&f, value); failure != "" {
			return e.failed(failure)
		}
	default:
		return e.failed("it gave a " + ast.ValueName(value) + "; a violation is a text or an object with msg")
	}
	if strings.TrimSpace(f.Message) == "" {
		return e.failed("it gave a violation without a message")
	}
	f.Message = cut(oneLine(f.Message), maxTextRunes)
	if f.Key == ConfigKey {
		f.Binary = d.new.binary
		if f.Position.Line == 0 && d.new.loads {
			f.Position = d.new.config.At(f.Path)
		}
	} else if d.request.Object != nil {
		_, f.Binary = d.request.Object.BinaryData[f.Key]
	}
	return f
}

// fill takes the fields of a violation; it tells what is wrong with them.
func (e *entry) fill(f *Finding, violation ast.Object) (failure string) {
	var rule string
	for _, field := range []struct {
		key    string
		target *string
	}{
		{"msg", &f.Message},
		{"path", &f.Path},
		{"hint", &f.Hint},
		{"text", &f.Text},
		{"key", &f.Key},
		{"rule", &rule},
	} {
		switch value := lookup(violation, field.key).(type) {
		case nil:
			if field.key == "msg" {
				return "it gave a violation without msg"
			}
		case ast.String:
			*field.target = cut(string(value), maxTextRunes)
		default:
			return fmt.Sprintf("it gave a violation whose %s is no text", field.key)
		}
	}
	for key, target := range map[string]*int{"line": &f.Position.Line, "column": &f.Position.Column} {
		if number, ok := lookup(violation, key).(ast.Number); ok {
			*target, _ = number.Int()
		}
	}
	if details := lookup(violation, "details"); details != nil {
		f.Details, _ = ast.JSON(details) // ground values always have a JSON form
	}
	if !e.builtin && rule != "" {
		f.Rule += "/" + cut(oneLine(rule), maxIDRunes) // below the package: it cannot pass for a built-in rule
	}
	return ""
}

func lookup(object ast.Object, key string) ast.Value {
	term := object.Get(ast.InternedTerm(key))
	if term == nil {
		return nil
	}
	return term.Value
}

// failed is the finding on a rule that gave no proper answer. It falls the way the
// rule falls: who relies on a denial must not lose it to a mistake, and who asked
// for a warning must not get a denial.
func (e *entry) failed(why string) Finding {
	return Finding{
		Rule:    e.rule,
		Action:  e.action,
		Docs:    e.docs,
		Failed:  true,
		fixed:   e.fixed,
		custom:  !e.builtin,
		failing: &failure{e.place, why},
		Message: cut(oneLine(fmt.Sprintf("the rule at %s failed: %s", placeOf(e.place), why)), maxTextRunes),
		Hint:    "the write is not to blame; tell those who maintain the rule",
	}
}

// failedBy is the finding on a rule whose evaluation ended in errors.
func (e *entry) failedBy(errs []topdown.Error) Finding {
	why := errs[0].Error()
	if len(errs) > 1 {
		why += fmt.Sprintf(" (and %d more errors)", len(errs)-1)
	}
	f := e.failed(why)
	if errs[0].Location != nil {
		f.failing = &failure{errs[0].Location, errs[0].Message}
	}
	return f
}

// withoutEchoes drops denials of a text that does not load where a rule says the
// same of the same place with more to go by.
func withoutEchoes(findings []Finding) []Finding {
	said := map[string]bool{}
	for _, f := range findings {
		if f.Rule == ruleIPv6Enabled && f.Action == Deny && !f.Failed {
			said[f.Path] = true
		}
	}
	if len(said) == 0 {
		return findings
	}
	return slices.DeleteFunc(findings, func(f Finding) bool {
		return f.Rule == ruleLoads && f.code == config.CodeIPv6Disabled && said[f.Path]
	})
}
