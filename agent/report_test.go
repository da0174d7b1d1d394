package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	others "github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// validator holds answers to the published schema.
func validator(t *testing.T) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(reportSchema))
	must(t, err)
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	must(t, compiler.AddResource("status.schema.json", document))
	schema, err := compiler.Compile("status.schema.json")
	must(t, err)
	return schema
}

// status asks /status, and holds the answer to the schema.
func (w *world) status(t *testing.T, schema *jsonschema.Schema) report {
	t.Helper()
	code, body := get(t, w, "/status")
	if code != http.StatusOK {
		t.Fatalf("/status: code %d: %s", code, body)
	}
	return parseReport(t, schema, body)
}

// parseReport reads an answer of /status, and holds it to the schema.
func parseReport(t *testing.T, schema *jsonschema.Schema, body string) report {
	t.Helper()
	answer, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
	must(t, err)
	if err := schema.Validate(answer); err != nil {
		t.Errorf("%v\n%s", err, body)
	}
	var r report
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.DisallowUnknownFields()
	must(t, decoder.Decode(&r))
	return r
}

func TestStatusTellsWhatIsInForce(t *testing.T) {
	schema := validator(t)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().UTC()
		after := func(d time.Duration) *time.Time {
			then := start.Add(d)
			return &then
		}
		opts := options{expectedDigest: filepath.Join(t.TempDir(), "expected")}
		opts.config.IPv6 = true
		w := newWorld(t, opts)
		w.syncer.about = about{
			node: "node-1", backend: "nft", backendReason: "--iptables-backend",
			backendVersion: "iptables v1.8.9 (nf_tables)", kernelVersion: "6.1.0",
		}
		const digestOfGood = "ad2f7ae24bbd6fd44e955c9818f56129470e1e403edf71f362876b1a379aad49"
		noDrift := map[ruleset.Drift]int{"chain-missing": 0, "chain-changed": 0, "jump-missing": 0, "jump-duplicate": 0, "set-missing": 0, "set-changed": 0, "chain-former": 0, "table-missing": 0}
		want := report{
			Version: 1, State: "not-in-force", Time: start, Node: "node-1",
			File:     reportFile{Path: w.file, State: "unread", Problems: []reportProblem{}},
			Backend:  reportBackend{Name: "nft", Reason: "--iptables-backend"},
			Families: []reportFamily{},
			Others:   reportOthers{Findings: []others.Finding{}, Partial: []string{}},
			Passes:   reportPasses{Next: start},
			Checks:   []reportCheck{{"rules", false, "not applied yet"}, {"file", true, ""}, {"digest", true, ""}},
		}
		told := func(title string) {
			t.Helper()
			got := w.status(t, schema)
			if got.Versions.Agent == "" || !strings.HasPrefix(got.Versions.Go, "go1.") {
				t.Errorf("%s: versions %+v", title, got.Versions)
			}
			want.Versions = reportVersions{got.Versions.Agent, got.Versions.Go, "iptables v1.8.9 (nf_tables)", "6.1.0"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: status differs (-want +got):\n%s", title, diff)
			}
		}
		told("before the first pass")

		w.holds(t, goodText)
		w.syncer.pass(t.Context())
		want.State = "in-force"
		want.Config = reportConfig{Digest: digestOfGood, Source: "file", Since: &start}
		want.Applied = &reportApplied{digestOfGood, start}
		want.File.State, want.File.Since = "loaded", &start
		want.Families = []reportFamily{
			{Family: "ipv4", Verified: true, VerifiedAt: &start, Rules: 4, Drift: noDrift},
			{Family: "ipv6", Verified: true, VerifiedAt: &start, Rules: 3, Drift: noDrift},
		}
		want.Passes = reportPasses{&start, start.Add(tick), 60}
		want.Checks[0] = reportCheck{"rules", true, ""}
		told("applied")

		time.Sleep(tick)
		w.kernel.flush()
		w.kernel.refuses(ruleset.IPv6, "locked")
		w.holds(t, badText)
		w.syncer.pass(t.Context())
		want.Time, want.State = *after(tick), "not-in-force"
		want.Config.Source, want.Config.Since = "last-valid", after(tick)
		want.File.State, want.File.Since, want.File.Fatal = "refused", after(tick), 1
		want.File.Problems = []reportProblem{{
			Severity: "fatal", Code: "host-bits", Path: "nonMasqueradeCIDRs[0]", Line: 1, Column: 22,
			Message: `"10.0.0.1/8" has host bits set`, Remedy: "write 10.0.0.0/8",
		}}
		want.Families[0].VerifiedAt = after(tick)
		want.Families[0].Drift = map[ruleset.Drift]int{"chain-missing": 0, "chain-changed": 1, "jump-missing": 0, "jump-duplicate": 0, "set-missing": 0, "set-changed": 0, "chain-former": 0, "table-missing": 0}
		want.Families[1].Verified, want.Families[1].Error = false, "applying IPv6 rules: locked"
		want.Passes = reportPasses{after(tick), after(tick).Add(time.Second), 60}
		want.Checks[0] = reportCheck{"rules", false, "applying IPv6 rules: locked"}
		want.Checks[1] = reportCheck{"file", false, `refused: line 1, nonMasqueradeCIDRs[0]: "10.0.0.1/8" has host bits set; write 10.0.0.0/8`}
		told("refused, drifted and failing")

		time.Sleep(time.Second)
		w.kernel.refuses(ruleset.IPv6, "")
		w.syncer.pass(t.Context())
		want.Time, want.State = *after(tick + time.Second), "degraded"
		want.Families[0].VerifiedAt, want.Families[1].VerifiedAt = &want.Time, &want.Time
		want.Families[1].Verified, want.Families[1].Error = true, ""
		want.Families[1].Drift = want.Families[0].Drift
		want.Passes = reportPasses{&want.Time, want.Time.Add(tick), 60}
		want.Checks[0] = reportCheck{"rules", true, ""}
		told("refused")

		other := strings.Repeat("0a", 32)
		must(t, os.WriteFile(opts.expectedDigest, []byte(other), 0o600))
		must(t, os.Chtimes(opts.expectedDigest, start, start))
		want.State = "not-in-force"
		want.Expected = &reportExpected{other, &start}
		want.Checks[2] = reportCheck{"digest", false, "expected " + other + " since 2000-01-01T00:00:00Z, applied " + digestOfGood +
			" since 2000-01-01T00:00:00Z; a mounted ConfigMap follows its object within 90 s"}
		told("another is expected")

		must(t, os.WriteFile(opts.expectedDigest, []byte("what?"), 0o600))
		want.Expected = &reportExpected{}
		want.Checks[2].Message = `reading the expected digest: "what?" in ` + opts.expectedDigest + " is no SHA-256; write its 64 hexadecimal digits"
		told("something else is expected")
	})
}

// TestStatusTellsTheWorstProblems: of many, with how many there are.
func TestStatusTellsTheWorstProblems(t *testing.T) {
	schema := validator(t)
	w := newWorld(t, options{})
	w.holds(t, "odd: 1\nresyscInterval: 1s\nnonMasqueradeCIDRs:\n"+strings.Repeat("- 10.0.0.1/8\n", 30))
	w.syncer.pass(t.Context())
	got := w.status(t, schema).File
	if got.Fatal != 30 || got.Suspicious != 2 || len(got.Problems) != 20 || got.Problems[0].Severity != "fatal" || got.Problems[0].Line != 4 {
		t.Errorf("%+v", got)
	}
}

func TestStatusTellsTheSizeOfSets(t *testing.T) {
	opts := options{}
	opts.rules.Sets, opts.rules.SetThreshold = true, 1
	w := newWorld(t, opts)
	w.holds(t, "nonMasqueradeCIDRs: [10.1.0.0/16, 10.2.0.0/16]\n")
	w.syncer.pass(t.Context())
	// Link-local is in the set too. A rule asks it, one masquerades, and there is the jump.
	if got := w.status(t, validator(t)).Families[0]; got.Rules != 3 || got.SetEntries != 3 {
		t.Errorf("%d rules, %d entries; want 3 and 3", got.Rules, got.SetEntries)
	}
	if _, body := get(t, w, "/metrics"); !strings.Contains(body, "\n"+`ip_masq_guard_agent_set_entries{family="ipv4"} 3`+"\n") {
		t.Error("the metric is wrong")
	}
}

// TestStatusIsDegradedWhereOthersUndoIt: the kernel holds the rules, and that is of no use.
func TestStatusIsDegradedWhereOthersUndoIt(t *testing.T) {
	for verdict, want := range map[others.Verdict]state{
		"undoes": "degraded", "shadows-us": "in-force", "unknown": "in-force", "duplicate": "in-force", "harmless": "in-force",
	} {
		w := newWorld(t, options{})
		w.holds(t, goodText)
		w.syncer.pass(t.Context())
		w.syncer.masqueraders.latest.Store(&surveyed{report: others.Report{Findings: []others.Finding{
			{Family: "ipv4", Backend: "nft", Position: "after", Verdict: verdict, Sources: []string{}, Ranges: []string{}},
		}}})
		if got := w.status(t, validator(t)).State; got != want {
			t.Errorf("%s: %s, want %s", verdict, got, want)
		}
		if code, _ := get(t, w, "/readyz"); code != http.StatusOK {
			t.Errorf("%s: /readyz answers %d: it tells of our own rules", verdict, code)
		}
	}
}

// TestStatusSchemaRefuses: else an answer that holds to it would prove nothing.
func TestStatusSchemaRefuses(t *testing.T) {
	schema := validator(t)
	w := newWorld(t, options{})
	w.syncer.pass(t.Context())
	_, body := get(t, w, "/status")
	for _, test := range []struct{ name, old, new string }{
		{"nothing changed", "", ""},
		{"another version", `"version": 1`, `"version": 2`},
		{"an unknown field", `"node":`, `"knot": "", "node":`},
		{"a missing field", `"node": "",`, ``},
		{"a number below zero", `"fatal": 0`, `"fatal": -1`},
		{"a source that there is not", `"source": "defaults"`, `"source": "elsewhere"`},
		{"a time that is none", `"next": "2`, `"next": "x2`},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(strings.Replace(body, test.old, test.new, 1))))
			must(t, err)
			if refused := schema.Validate(answer) != nil; refused != (test.old != "") {
				t.Errorf("refused: %v", refused)
			}
		})
	}
}

// schemaNode is what of a JSON Schema tells the names of fields.
type schemaNode struct {
	Ref        string                `json:"$ref"`
	AnyOf      []schemaNode          `json:"anyOf"`
	Properties map[string]schemaNode `json:"properties"`
	Items      *schemaNode           `json:"items"`
	Defs       map[string]schemaNode `json:"$defs"`
}

// fields are the paths of everything that a schema describes: "families[].rules".
func (n schemaNode) fields(defs map[string]schemaNode, path string) []string {
	var found []string
	if n.Ref != "" {
		found = append(found, defs[strings.TrimPrefix(n.Ref, "#/$defs/")].fields(defs, path)...)
	}
	for _, choice := range n.AnyOf {
		found = append(found, choice.fields(defs, path)...)
	}
	if n.Items != nil {
		found = append(found, n.Items.fields(defs, path+"[]")...)
	}
	for name, property := range n.Properties {
		name = strings.TrimPrefix(path+"."+name, ".")
		found = append(append(found, name), property.fields(defs, name)...)
	}
	return found
}

func TestReferenceNamesEveryStatusField(t *testing.T) {
	var root schemaNode
	must(t, json.Unmarshal([]byte(reportSchema), &root))
	fields := root.fields(root.Defs, "")
	if !slices.Contains(fields, "families[].rules") || !slices.Contains(fields, "expected.since") {
		t.Fatalf("the schema is not understood: %q", fields)
	}
	for i, field := range fields {
		fields[i] = "`" + field + "`"
	}
	documented(t, "Status", fields)
}
