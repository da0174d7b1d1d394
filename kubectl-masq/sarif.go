package main

import (
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// sarifLog is a log of SARIF 2.1.0 (OASIS), with what GitHub's code scanning asks for.
type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool       sarifTool     `json:"tool"`
	ColumnKind string        `json:"columnKind"`
	Results    []sarifResult `json:"results"`
}

type sarifTool struct {
	Driver sarifDriver `json:"driver"`
}

type sarifDriver struct {
	Name           string      `json:"name"`
	Version        string      `json:"version"`
	InformationURI string      `json:"informationUri"`
	Rules          []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID               string             `json:"id"`
	ShortDescription sarifText          `json:"shortDescription"`
	FullDescription  sarifText          `json:"fullDescription"`
	Help             sarifText          `json:"help"`
	HelpURI          string             `json:"helpUri,omitempty"`
	Configuration    sarifConfiguration `json:"defaultConfiguration"`
}

type sarifConfiguration struct {
	Level string `json:"level"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifResult struct {
	RuleID    string          `json:"ruleId"`
	RuleIndex int             `json:"ruleIndex"`
	Level     string          `json:"level"`
	Message   sarifText       `json:"message"`
	Locations []sarifLocation `json:"locations"`
}

type sarifLocation struct {
	Physical sarifPhysical `json:"physicalLocation"`
}

type sarifPhysical struct {
	Artifact sarifArtifact `json:"artifactLocation"`
	Region   sarifRegion   `json:"region"`
}

type sarifArtifact struct {
	URI string `json:"uri"`
}

// sarifRegion counts from 1, columns in UTF-16 code units.
type sarifRegion struct {
	StartLine   int `json:"startLine"`
	StartColumn int `json:"startColumn"`
	EndColumn   int `json:"endColumn,omitempty"`
}

// projectURL is where the tool is described.
const projectURL = "https://github.com/ip-masq-guard/ip-masq-guard"

func (v verdicts) sarif(std streams) error {
	run := sarifRun{
		Tool:       sarifTool{sarifDriver{Name: "kubectl-masq", Version: version, InformationURI: projectURL, Rules: []sarifRule{}}},
		ColumnKind: "utf16CodeUnits",
		Results:    []sarifResult{},
	}
	titles := policy.Titles()
	for i, input := range v.documents {
		for _, finding := range v.decisions[i].Findings {
			level := "warning"
			if finding.Action == policy.Deny {
				level = "error"
			}
			index := slices.IndexFunc(run.Tool.Driver.Rules, func(r sarifRule) bool { return r.ID == finding.Rule })
			if index < 0 {
				index = len(run.Tool.Driver.Rules)
				title := titles[finding.Rule]
				if title == "" {
					title = finding.Rule
				}
				run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{
					ID: finding.Rule, HelpURI: webPage(finding.Docs), Configuration: sarifConfiguration{level},
					ShortDescription: sarifText{title}, FullDescription: sarifText{title}, Help: sarifText{strings.TrimSpace("What it wants: " + title + "\n" + finding.Docs)},
				})
			}
			run.Results = append(run.Results, sarifResult{
				RuleID: finding.Rule, RuleIndex: index, Level: level,
				Message: sarifText{printableLines(headline(finding) + remedy(finding))},
				Locations: []sarifLocation{{sarifPhysical{
					Artifact: sarifArtifact{artifactURI(input.file)}, Region: input.region(finding),
				}}},
			})
		}
	}
	return writeValue(std.out, sarifLog{
		Schema:  "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
		Version: "2.1.0", Runs: []sarifRun{run},
	})
}

// region is where in the file a finding points to. What points nowhere points to the
// first line, since both formats that take a region want one.
func (d *document) region(finding policy.Finding) sarifRegion {
	at := d.locate(finding)
	if at.line < 1 || at.line > len(d.lines) {
		return sarifRegion{StartLine: 1, StartColumn: 1}
	}
	line := d.lines[at.line-1]
	begin := min(max(at.column, 1)-1, len(line))
	region := sarifRegion{StartLine: at.line, StartColumn: units(line[:begin]) + 1}
	if !at.inside && finding.Position.Line > 0 {
		region.EndColumn = region.StartColumn + max(units(offending(finding, line[begin:])), 1)
	}
	return region
}

// units is the length of text in UTF-16 code units.
func units(text string) int { return len(utf16.Encode([]rune(text))) }

// artifactURI is a relative reference for a relative path, and file: for another one.
func artifactURI(path string) string {
	if path == "<stdin>" {
		path = "stdin"
	}
	slashed := filepath.ToSlash(path)
	if filepath.IsAbs(path) {
		if !strings.HasPrefix(slashed, "/") {
			slashed = "/" + slashed // C:/…
		}
		return (&url.URL{Scheme: "file", Path: slashed}).String()
	}
	return (&url.URL{Path: strings.TrimPrefix(slashed, "./")}).String()
}

// webPage is a link if it is one that may stand in a report, or else empty: custom rules
// may state anything.
func webPage(link string) string {
	parsed, err := url.Parse(link)
	if err != nil || parsed.Scheme != "https" && parsed.Scheme != "http" {
		return ""
	}
	return link
}
