package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// sarifSchema is OASIS' own.
func sarifSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := os.ReadFile("testdata/sarif/sarif-schema-2.1.0.json")
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat() // uri and uri-reference
	if err = compiler.AddResource("sarif.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("sarif.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// reported are inputs of check that reports of other formats are made of: approved,
// refused, several, and such as try to break out of a format.
func reported(t *testing.T) map[string][]string {
	t.Helper()
	hostile := filepath.Join(t.TempDir(), "a%b c#?&<]]>\u202e\x1b\"'.yaml")
	text := "nonMasqueradeCIDRs:\n  - \"10.0.0.0/8\\n]]>\\e[31m\\0</failure>\"\n  - 𝄞10.0.0.1/8\u202e\n\"a\\x7f\": 1\n"
	if err := os.WriteFile(hostile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	rules := strings.Fields("--policy-dir testdata/rules")
	ranges := strings.Fields(known)
	return map[string][]string{
		"approved": slices.Concat([]string{"testdata/approved.yaml"}, ranges),
		"warned":   {"testdata/approved.yaml"},
		"refused":  slices.Concat([]string{"testdata/refused.yaml"}, ranges),
		"custom":   slices.Concat([]string{"testdata/approved.yaml"}, rules, ranges),
		"binary":   slices.Concat([]string{"testdata/binary.yaml"}, ranges),
		"several":  slices.Concat([]string{"testdata/clusters", "testdata/quoted.yaml"}, ranges),
		"hostile":  slices.Concat([]string{"--raw", hostile}, ranges),
	}
}

// TestSARIFIsOfItsSchema holds reports to the schema of OASIS, and that to what is none.
func TestSARIFIsOfItsSchema(t *testing.T) {
	schema := sarifSchema(t)
	for name, args := range reported(t) {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, exit := masq(t, append([]string{"check", "-o", "sarif"}, args...)...)
			if exit > 1 {
				t.Fatalf("exit %d: %s", exit, stderr)
			}
			report, err := jsonschema.UnmarshalJSON(strings.NewReader(stdout))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(report); err != nil {
				t.Errorf("%v\n%s", err, stdout)
			}
			var log sarifLog
			if err := json.Unmarshal([]byte(stdout), &log); err != nil {
				t.Fatal(err)
			}
			for _, result := range log.Runs[0].Results { // the schema knows nothing of references
				if rules := log.Runs[0].Tool.Driver.Rules; result.RuleIndex >= len(rules) || rules[result.RuleIndex].ID != result.RuleID {
					t.Errorf("%s is not rule %d of the report", result.RuleID, result.RuleIndex)
				}
			}
		})
	}
	for name, report := range map[string]string{
		"no runs":          `{"version": "2.1.0"}`,
		"another version":  `{"version": "2.2.0", "runs": []}`,
		"an unknown key":   `{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}, "result": []}]}`,
		"a level":          `{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}, "results": [{"message": {"text": "x"}, "level": "deny"}]}]}`,
		"the first column": `{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}, "results": [{"message": {"text": "x"}, "locations": [{"physicalLocation": {"region": {"startLine": 0}}}]}]}]}`,
		"no address":       `{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x", "informationUri": "a b"}}}]}`,
	} {
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(report))
		if err != nil {
			t.Fatal(err)
		}
		if schema.Validate(value) == nil {
			t.Errorf("the schema takes %s", name)
		}
	}
}

// junitElements is the shape of JUnit's reports that CI systems read: the children and the
// attributes that elements may have, those with a star being necessary.
//
//nolint:gochecknoglobals // a constant in all but the language
var junitElements = map[string]struct{ children, attributes string }{
	"":           {"testsuites testsuite", ""},
	"testsuites": {"testsuite", "name tests failures errors time"},
	"testsuite":  {"properties testcase system-out system-err", "name* tests* failures* errors* skipped time timestamp hostname id package"},
	"testcase":   {"skipped error failure system-out system-err", "name* classname* time assertions"},
	"failure":    {"", "message type*"},
	"error":      {"", "message type*"},
	"skipped":    {"", "message"},
	"system-out": {"", ""},
}

// checkJUnit tells how a report departs from that shape, or from its own counts.
func checkJUnit(text string) error {
	type element struct {
		name   string
		counts map[string]int
		stated map[string]string
	}
	open := []element{{}}
	decoder := xml.NewDecoder(strings.NewReader(text))
	for {
		token, err := decoder.Token()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		parent := &open[len(open)-1]
		switch token := token.(type) {
		case xml.StartElement:
			name := token.Name.Local
			if !slices.Contains(strings.Fields(junitElements[parent.name].children), name) {
				return fmt.Errorf("<%s> inside of <%s>", name, parent.name)
			}
			stated := map[string]string{}
			allowed := strings.Fields(junitElements[name].attributes)
			for _, attribute := range token.Attr {
				if key := attribute.Name.Local; !slices.Contains(allowed, key) && !slices.Contains(allowed, key+"*") {
					return fmt.Errorf("<%s> with the attribute %s", name, key)
				}
				stated[attribute.Name.Local] = attribute.Value
			}
			for _, key := range allowed {
				if needed, must := strings.CutSuffix(key, "*"); must && stated[needed] == "" {
					return fmt.Errorf("<%s> without %s", name, needed)
				}
			}
			if _, err := strconv.ParseFloat(stated["time"], 64); stated["time"] != "" && err != nil {
				return err
			}
			open = append(open, element{name, map[string]int{}, stated})
		case xml.EndElement:
			done := *parent
			open = open[:len(open)-1]
			for attribute, child := range map[string]string{"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"} {
				if said, ok := done.stated[attribute]; ok && said != strconv.Itoa(done.counts[child]) {
					return fmt.Errorf("<%s> says %s %s, and has %d", done.name, said, attribute, done.counts[child])
				}
			}
			above := &open[len(open)-1]
			if above.counts != nil {
				above.counts[done.name]++
				for child, n := range done.counts {
					above.counts[child] += n
				}
			}
		case xml.CharData:
			if strings.TrimSpace(string(token)) != "" && junitElements[parent.name].children != "" {
				return fmt.Errorf("text inside of <%s>: %q", parent.name, token)
			}
		}
	}
}

// TestJUnitIsOfItsShape holds reports to what CI systems read, and that to what is none.
func TestJUnitIsOfItsShape(t *testing.T) {
	commands := map[string][]string{"rules": {"test", brokenRules(t)}}
	for name, args := range reported(t) {
		commands[name] = append([]string{"check"}, args...)
	}
	for name, args := range commands {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, exit := masq(t, append(args, "-o", "junit")...)
			if exit > 1 {
				t.Fatalf("exit %d: %s", exit, stderr)
			}
			if err := checkJUnit(stdout); err != nil {
				t.Errorf("%v\n%s", err, stdout)
			}
		})
	}
	for name, report := range map[string]string{
		"another root":       `<tests/>`,
		"unknown element":    `<testsuites><testsuite name="a" tests="1" failures="0" errors="0"><test/></testsuite></testsuites>`,
		"no class":           `<testsuite name="a" tests="1" failures="0" errors="0"><testcase name="b"/></testsuite>`,
		"a wrong count":      `<testsuite name="a" tests="2" failures="0" errors="0"><testcase name="b" classname="c"/></testsuite>`,
		"a failure too many": `<testsuites failures="0"><testsuite name="a" tests="1" failures="1" errors="0"><testcase name="b" classname="c"><failure type="d"/></testcase></testsuite></testsuites>`,
		"no XML":             `<testsuites>`,
	} {
		if checkJUnit(report) == nil {
			t.Errorf("the shape takes %s", name)
		}
	}
}
