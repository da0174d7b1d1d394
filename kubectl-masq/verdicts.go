package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// verdicts are what one call of check judged.
type verdicts struct {
	documents  []*document
	decisions  []policy.Decision // of each
	alone      bool              // one file was named, and it has one such ConfigMap
	passedOver int               // how many objects were not judged
}

func (v verdicts) allowed() bool {
	for _, decision := range v.decisions {
		if !decision.Allowed {
			return false
		}
	}
	return true
}

// title names a document where there may be several: a file has more than one only
// as objects, each with a line of its own.
func (d *document) title() string {
	if !d.several {
		return d.file
	}
	return d.file + ":" + strconv.Itoa(d.begin)
}

func (v verdicts) text(std streams) error {
	p := painter{std.colour}
	if v.alone {
		return tell(std.out, string(textReport(v.documents[0], v.decisions[0], p)))
	}
	var b bytes.Buffer
	for i, input := range v.documents {
		b.Write(textReport(input, v.decisions[i], p))
	}
	b.WriteString("\n" + v.summary() + "\n")
	return tell(std.out, b.String())
}

// summary is the verdict on all in one line.
func (v verdicts) summary() string {
	errors, warnings, refused := 0, 0, 0
	for _, decision := range v.decisions {
		e, w := count(decision)
		errors += e
		warnings += w
		if !decision.Allowed {
			refused++
		}
	}
	number := func(n int, one, many string) string { return plural(strconv.Itoa(n), one, many) }
	said := "all approved"
	if refused > 0 {
		said = fmt.Sprintf("%d refused", refused)
	}
	line := number(len(v.decisions), "configuration", "configurations") + " checked: " + said + counts(errors, warnings)
	if v.passedOver > 0 {
		line += "; " + number(v.passedOver, "other object", "other objects") + " passed over"
	}
	return line
}

// jsonVerdicts is the documented shape; fields may be added, but not changed.
type jsonVerdicts struct {
	Allowed    bool         `json:"allowed"`
	PassedOver int          `json:"passedOver"`
	Reports    []jsonReport `json:"reports"`
}

func (v verdicts) json(std streams) error {
	if v.alone {
		return writeValue(std.out, jsonReportOf(v.documents[0], v.decisions[0]))
	}
	all := jsonVerdicts{Allowed: v.allowed(), PassedOver: v.passedOver}
	for i, input := range v.documents {
		all.Reports = append(all.Reports, jsonReportOf(input, v.decisions[i]))
	}
	return writeValue(std.out, all)
}

// junit gives a test suite for each configuration, and in it a test for each finding:
// those that deny fail.
func (v verdicts) junit(std streams) error {
	all := junitSuites{Name: "kubectl masq check"}
	for i, input := range v.documents {
		suite := junitSuite{Name: printable(input.title())}
		for _, finding := range v.decisions[i].Findings {
			c := junitCase{Name: printable(finding.Rule), Class: suite.Name}
			at := printable(input.file) + input.locate(finding).suffix()
			told := printableLines(at + ": " + headline(finding) + remedy(finding))
			if finding.Action == policy.Deny {
				suite.Failures++
				c.Failure = &junitBad{Message: at + ": " + headline(finding), Type: printable(finding.Rule), Text: told}
			} else {
				c.Output = "warning: " + told
			}
			suite.Cases = append(suite.Cases, c)
		}
		if len(suite.Cases) == 0 {
			suite.Cases = []junitCase{{Name: "approved", Class: suite.Name}}
		}
		suite.Tests = len(suite.Cases)
		all.Tests += suite.Tests
		all.Failures += suite.Failures
		all.Suites = append(all.Suites, suite)
	}
	return writeXML(std, all)
}

// remedy is what follows the message of a finding: what to do, and where to read more.
func remedy(finding policy.Finding) string {
	text := ""
	if hint := strings.TrimSpace(finding.Hint); hint != "" {
		text = "\n" + hint
	}
	if finding.Docs != "" {
		text += "\n" + finding.Docs
	}
	return text
}

// github prints workflow commands of GitHub Actions, which mark lines of files, and
// a summary. Escapes are those of the toolkit, actions/toolkit packages/core/src/command.ts.
func (v verdicts) github(std streams) error {
	var b strings.Builder
	for i, input := range v.documents {
		for _, finding := range v.decisions[i].Findings {
			command := "warning"
			if finding.Action == policy.Deny {
				command = "error"
			}
			at := input.region(finding)
			fmt.Fprintf(&b, "::%s file=%s,line=%d,col=%d,title=%s::%s\n", command,
				workflowProperty(input.file), at.StartLine, at.StartColumn, workflowProperty("["+finding.Rule+"]"),
				workflowData(printableLines(headline(finding)+remedy(finding))))
		}
	}
	return tell(std.out, b.String()+v.summary()+"\n")
}

func workflowData(text string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(text)
}

func workflowProperty(text string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C").Replace(text)
}
