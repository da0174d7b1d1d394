package policy

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const titled = "# METADATA\n# title: Nothing public\n"

const noPublic = titled + `package ipmasq.payments

deny contains v if {
	some range in input.config.nonMasqueradeCIDRs
	not startswith(range.cidr, "10.")
	v := {"msg": $"{range.cidr} is public", "path": range.path, "rule": "no-public"}
}
`

const noPublicTest = `package ipmasq.payments_test

import data.ipmasq.payments

test_deny_public if {
	payments.deny != set() with input as {"config": {"nonMasqueradeCIDRs": [{"cidr": "8.8.8.0/24", "path": "x"}]}}
}
`

func TestVet(t *testing.T) {
	live := update("nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n")
	live.Old = live.Object
	for _, c := range []struct {
		name   string
		params string
		beside []Source
		set    map[string]string
		want   []string // action and complaint
	}{
		{
			name: "a good one, that would deny what is stored",
			set:  map[string]string{"pay/rules.rego": noPublic, "pay/rules_test.rego": noPublicTest},
			want: []string{`warn this would deny the configuration that is stored now: 192.168.0.0/16 is public [payments/no-public]; its next edit has to mend that as well`},
		},
		{
			name:   "params may deny that",
			params: "ruleSets: {liveDenied: deny}",
			set:    map[string]string{"pay/rules.rego": noPublic, "pay/rules_test.rego": noPublicTest},
			want:   []string{`deny this would deny the configuration that is stored now: 192.168.0.0/16 is public [payments/no-public]; its next edit has to mend that as well`},
		},
		{
			name: "syntax",
			set:  map[string]string{"pay/rules.rego": titled + "package ipmasq.payments\n\ndeny contains if {\n"},
			want: []string{
				`deny pay/rules.rego:5:15: unexpected if keyword: "deny contains if {"`,
				`deny pay/rules.rego:5:15: unexpected if keyword: expected rule key term (e.g., deny contains <VALUE> { ... }): "deny contains if {"`,
				`deny pay/rules.rego:6: unexpected eof token`,
			},
		},
		{
			name: "types and banned functions, all at once",
			set: map[string]string{"pay/rules.rego": titled + "package ipmasq.payments\n\ndeny contains \"a\" if input.config.nonMasqueradeCIDR == []\n\n" +
				"deny contains \"b\" if http.send({}).status == 200\n"},
			want: []string{
				`deny pay/rules.rego:7:22: http.send is disabled: decisions must not depend on the network: "deny contains \"b\" if http.send({}).status == 200"`,
			},
		},
		{
			name: "a field that the input does not have",
			set:  map[string]string{"pay/rules.rego": titled + "package ipmasq.payments\n\ndeny contains \"a\" if input.config.nonMasqueradeCIDR == []\n"},
			want: []string{
				`deny pay/rules.rego:5:22: undefined ref: input.config.nonMasqueradeCIDR, want (one of): ["cidrLimit" "defaulted" "masqLinkLocal" "masqLinkLocalIPv6" "masqueradeCIDRs" "nonMasqueradeCIDRs" "resyncInterval"]; did you mean nonMasqueradeCIDRs?: "deny contains \"a\" if input.config.nonMasqueradeCIDR == []"`,
			},
		},
		{
			name: "conventions",
			set:  map[string]string{"pay/rules.rego": "package ipmasq.payments\n\ndeny contains {\"msg\": \"a\", \"rule\": \"NoPublic\"} if input.config == {}\n"},
			want: []string{
				`warn the set has no tests; add a key NAME_test.rego; kubectl masq new rule writes one to begin with`,
				`deny pay/rules.rego:1:1: package ipmasq.payments has no METADATA with a title, which tells those who are denied what it is about: "package ipmasq.payments"; write above package: # METADATA, # title: What the rule wants`,
				`deny pay/rules.rego:3:15: the rule id "NoPublic" is not made of small letters, digits and hyphens: "deny contains {\"msg\": \"a\", \"rule\": \"NoPublic\"} if input.config == {}"; write it as no-public-ranges is written; params name rules by it`,
			},
		},
		{
			name: "a test that fails",
			set:  map[string]string{"pay/rules.rego": noPublic, "pay/rules_test.rego": strings.ReplaceAll(noPublicTest, "8.8.8.0/24", "10.0.0.0/24")},
			want: []string{
				`warn this would deny the configuration that is stored now: 192.168.0.0/16 is public [payments/no-public]; its next edit has to mend that as well`,
				`deny pay/rules_test.rego:5: the test ipmasq.payments_test.test_deny_public fails: "test_deny_public if {"; mend the rule or the test; kubectl masq test runs it`,
			},
		},
		{
			name:   "a rule that fails on a sample",
			params: "ruleSets: {untested: off}",
			set: map[string]string{"pay/rules.rego": titled + "package ipmasq.payments\n\n" +
				"warn contains v if {\n\tsome range in input.config.nonMasqueradeCIDRs\n\tv := 1 + count(range.path)\n}\n"},
			want: []string{
				`deny pay/rules.rego:5:1: the rule fails on the sample empty and 7 more: it gave a number; a violation is a text or an object with msg: "warn contains v if {"; a rule has an answer for every write; test for what may be missing, and for its type`,
			},
		},
		{
			name:   "an expression that fails on samples, which is told once, and not of what is stored too",
			params: "ruleSets: {untested: off}",
			set: map[string]string{"pay/rules.rego": titled + "package ipmasq.payments\n\n" +
				"deny contains \"x\" if {\n\tsome range in input.config.nonMasqueradeCIDRs\n\tnet.cidr_contains(range, \"10.0.0.0/8\")\n}\n"},
			want: []string{
				`deny pay/rules.rego:7:2: the rule fails on the sample empty and 7 more: net.cidr_contains: operand 1 must be string but got object: "net.cidr_contains(range, \"10.0.0.0/8\")"; a rule has an answer for every write; test for what may be missing, and for its type`,
			},
		},
		{
			name: "rules of before version 1",
			set:  map[string]string{"pay/rules.rego": titled + "package ipmasq.payments\n\nviolation[{\"msg\": msg}] {\n\tmsg := \"x\"\n}\n"},
			want: []string{
				"deny pay/rules.rego:5:1: `if` keyword is required before rule body; rules are Rego version 1: opa fmt --v0-v1 --write makes it of older files: \"violation[{\\\"msg\\\": msg}] {\"",
				"deny pay/rules.rego:5:1: `contains` keyword is required for partial set rules; write deny contains v if { … }: \"violation[{\\\"msg\\\": msg}] {\"",
			},
		},
		{
			name: "an argument of another type",
			set:  map[string]string{"pay/rules.rego": titled + "package ipmasq.payments\n\ndeny contains sprintf(\"%d\", count(input.problems)) if input.problems != []\n"},
			want: []string{
				`deny pay/rules.rego:5:15: sprintf: invalid argument(s), have: (string, number), want: (format: string, values: array[any]): "deny contains sprintf(\"%d\", count(input.problems)) if input.problems != []"`,
			},
		},
		{
			name: "types that never match",
			set:  map[string]string{"pay/rules.rego": titled + "package ipmasq.payments\n\ndeny contains \"a\" if input.request.user == 7\n"},
			want: []string{
				`deny pay/rules.rego:5:22: match error, left : string, right : number: "deny contains \"a\" if input.request.user == 7"`,
			},
		},
		{
			name: "METADATA that is no YAML",
			set:  map[string]string{"pay/rules.rego": "# METADATA\n# title: Public: never\npackage ipmasq.payments\n\ndeny contains \"x\" if input.problems != []\n"},
			want: []string{
				`deny pay/rules.rego:2:1: yaml: mapping values are not allowed in this context; the comments below # METADATA are YAML, where a text with a colon stands in quotes: "# title: Public: never"`,
			},
		},
		{
			name:   "data",
			params: "ruleSets: {untested: off}",
			beside: []Source{{Name: "other/data.json", Text: []byte(`{"register": []}`)}},
			set: map[string]string{
				"pay/data.json": "{\n\"register\": [\"10.0.0.0/8\"], \"ipmasq\": {}}", "more/data.json": "{\n\"a\": }",
				"pay/rules.rego": titled + "package ipmasq.payments\n\nwarn contains \"x\" if count(data.register) == 0\n",
			},
			want: []string{
				`deny more/data.json:2: reading JSON: invalid character '}' looking for beginning of value; write an object, whose keys rules read as data.<key>: "\"a\": }"`,
				`deny pay/data.json: the key "ipmasq" is taken by the rules themselves; choose another`,
				`deny pay/data.json: the key "register" is in other/data.json already; choose another`,
			},
		},
		{
			name:   "data that no file has, and a rule that no package has",
			params: "ruleSets: {untested: off}",
			beside: []Source{
				{Name: "other/data.json", Text: []byte(`{"register": {"ranges": []}}`)},
				{Name: "other/rules.rego", Text: []byte(titled + "package ipmasq.shared\n\nprivate := {\"10.0.0.0/8\"}\n\nwarn contains \"x\" if count(private) == 0\n")},
			},
			set: map[string]string{"pay/rules.rego": titled + "package ipmasq.payments\n\nimport data.ipmasq.shared\n\n" +
				"warn contains \"a\" if input.config.cidrLimit in data.regster.ranges\n\nwarn contains \"b\" if \"x\" in shared.privat\n\n" +
				"warn contains \"c\" if data.none[_] == input.config.cidrLimit\n\n" +
				"warn contains \"d\" if {\n\tsome r in data.register.maybe\n\tsome key in [\"register\"]\n\tr in data[key].ranges\n\t\"1.0.0.0/8\" in shared.private\n}\n"},
			want: []string{
				`deny pay/rules.rego:7:53: undefined ref: data.regster.ranges: no data.json has the key "regster"; did you mean register?: "warn contains \"a\" if input.config.cidrLimit in data.regster.ranges"`,
				`deny pay/rules.rego:9:36: undefined ref: data.ipmasq.shared.privat: no package has such a rule: "warn contains \"b\" if \"x\" in shared.privat"`,
				`deny pay/rules.rego:11:27: undefined ref: data.none: no data.json has the key "none": "warn contains \"c\" if data.none[_] == input.config.cidrLimit"`,
			},
		},
		{
			name:   "params for rules of others",
			params: "ruleSets: {untested: off}",
			beside: []Source{{Name: "other/rules.rego", Text: []byte(titled + "package ipmasq.billing\n\nwarn contains \"x\" if input.config == {}\n")}},
			set: map[string]string{
				"pay/rules.rego": titled + "package ipmasq.payments.eu\n\nwarn contains \"y\" if input.config == {}\n",
				"pay/params.yaml": "rules:\n  billing/x: {action: off}\n  billing/*: {action: off}\n  payments/eu/y: {action: off}\n  payments/*: {action: deny}\n" +
					"exceptions:\n- {rule: billing/y, path: cidrLimit, reason: x, until: 2027-01-01}\n",
			},
			want: []string{
				`deny pay/params.yaml: rules: no package beside this file offers the rule "billing/*"; write package/rule, or package/*`,
				`deny pay/params.yaml: rules: no package beside this file offers the rule "billing/x"; write package/rule, or package/*`,
				`deny pay/params.yaml: exceptions[0]: no package beside this file offers the rule "billing/y"; write package/rule, or package/*`,
			},
		},
		{
			name:   "a package of another set",
			params: "ruleSets: {untested: off}",
			beside: []Source{{Name: "other/rules.rego", Text: []byte("package ipmasq.payments\n\nwarn contains \"x\" if input.config == {}\n")}},
			set:    map[string]string{"pay/rules.rego": titled + "package ipmasq.payments\n\nwarn contains \"y\" if input.config == {}\n"},
			want: []string{
				`deny pay/rules.rego:3:1: package ipmasq.payments is that of other/rules.rego already: "package ipmasq.payments"; choose a package of your own: what both define would be one rule, that either could change`,
			},
		},
		{
			name:   "a package inside another set's",
			params: "ruleSets: {untested: off}",
			beside: []Source{{Name: "other/rules.rego", Text: []byte("package ipmasq.payments\n\nwarn contains \"x\" if input.config == {}\n")}},
			set: map[string]string{
				"pay/rules.rego": titled + "package ipmasq.payments.eu\n\nwarn contains \"y\" if input.config == {}\n",
				"pay/more.rego":  titled + "package ipmasq.payments_eu\n\nwarn contains \"y\" if input.config == {}\n",
			},
			want: []string{
				`deny pay/rules.rego:3:1: package ipmasq.payments.eu and ipmasq.payments of other/rules.rego are one inside the other: "package ipmasq.payments.eu"; choose a package of your own: what both define would be one rule, that either could change`,
			},
		},
		{
			name:   "an id twice in one package, and in two",
			params: "ruleSets: {untested: off}",
			set: map[string]string{
				"pay/a.rego": titled + "package ipmasq.payments\n\nwarn contains {\"msg\": \"a\", \"rule\": \"same\"} if input.config == {}\n",
				"pay/b.rego": "package ipmasq.payments\n\nwarn contains {\"msg\": \"b\", \"rule\": \"same\"} if input.config == {}\n",
				"pay/c.rego": titled + "package ipmasq.billing\n\nwarn contains {\"msg\": \"c\", \"rule\": \"same\"} if input.config == {}\n",
			},
			want: []string{
				`warn pay/b.rego:3:15: the rule id "same" is that of pay/a.rego:5 as well: "warn contains {\"msg\": \"b\", \"rule\": \"same\"} if input.config == {}"; an action or exception in params would mean both; give each its own, unless they are one rule`,
			},
		},
		{
			name:   "params that name a rule which goes",
			params: "rules: {payments/no-public: {action: warn}}",
			set:    map[string]string{"pay/rules.rego": strings.ReplaceAll(noPublic, "ipmasq.payments", "ipmasq.billing")},
			want:   []string{`deny params: no custom rule "payments/no-public": no package offers it; write package/rule, or package/*`},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			params, err := ParseParams([]byte(c.params))
			if err != nil {
				t.Fatal(err)
			}
			var set []Source
			for name, text := range c.set {
				set = append(set, Source{Name: name, Text: []byte(text)})
			}
			v := Vetting{Params: params, Beside: c.beside, Live: &live, Cluster: smallCluster()}
			_, complaints := v.Vet(context.Background(), set)
			var got []string
			for _, complaint := range complaints {
				got = append(got, string(complaint.Action)+" "+complaint.String())
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("complaints differ (-want +got):\n%s", diff)
			}
		})
	}
}

// TestVetAfterKubectlEdit lets an edit through that kubectl has taken the comments from.
func TestVetAfterKubectlEdit(t *testing.T) {
	v := Vetting{Before: []Source{{Name: "pay/rules.rego", Text: []byte(noPublic)}}}
	_, complaints := v.Vet(context.Background(), []Source{
		{Name: "pay/rules.rego", Text: []byte(strings.TrimPrefix(noPublic, titled))}, {Name: "pay/rules_test.rego", Text: []byte(noPublicTest)},
	})
	if len(complaints) != 1 || complaints[0].Action != Warn || !strings.Contains(complaints[0].Hint, "kubectl edit drops comment lines") {
		t.Errorf("complaints: %v", complaints)
	}
}

// TestVetSparesWhatIsDenied does not blame a set for what is denied without it.
func TestVetSparesWhatIsDenied(t *testing.T) {
	live := update("nonMasqueradeCIDRs: [0.0.0.0/0]\n")
	v := Vetting{Live: &live, Cluster: smallCluster(), InForce: engine(t, "")}
	_, complaints := v.Vet(context.Background(), []Source{
		{Name: "rules.rego", Text: []byte(noPublic)}, {Name: "rules_test.rego", Text: []byte(noPublicTest)},
	})
	if len(complaints) > 0 {
		t.Errorf("complaints: %v", complaints)
	}
}

// TestData lets a rule read a register.
func TestData(t *testing.T) {
	e := engine(t, "", Source{Name: "a/data.json", Text: []byte(`{"register": ["10.0.0.0/8"]}`)}, Source{Name: "a/a.rego", Text: []byte(titled + `package ipmasq.register

deny contains $"{range.cidr} is not registered" if {
	some range in input.config.nonMasqueradeCIDRs
	not range.cidr in data.register
}
`)})
	request := update("nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n")
	if got, want := told(e.Decide(context.Background(), request, smallCluster())), "deny data[\"config\"]: 192.168.0.0/16 is not registered [register]\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if other := engine(t, "", Source{Name: "a/data.json", Text: []byte(`{"register": []}`)}); other.Revision() == e.Revision() {
		t.Error("the revision does not tell of data")
	}
}

func TestRunTests(t *testing.T) {
	sources := []Source{
		{Name: "rules.rego", Text: []byte(noPublic)},
		{Name: "rules_test.rego", Text: []byte(noPublicTest + "\ntest_allow_private if {\n\tprint(\"looking\")\n\tcount(payments.deny) == 1 with input as {\"config\": {\"nonMasqueradeCIDRs\": []}}\n}\n\ntodo_test_later if false\n")},
	}
	results, coverage, err := RunTests(context.Background(), sources, TestOptions{Cover: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range results {
		results[i].Duration = 0
	}
	want := []TestResult{
		{Name: "ipmasq.payments_test.test_deny_public", File: "rules_test.rego", Line: 5, Outcome: TestPassed},
		{Name: "ipmasq.payments_test.test_allow_private", File: "rules_test.rego", Line: 9, Outcome: TestFailed, Detail: "looking"},
		{Name: "ipmasq.payments_test.todo_test_later", File: "rules_test.rego", Line: 14, Outcome: TestSkipped},
	}
	if diff := cmp.Diff(want, results); diff != "" {
		t.Errorf("results differ (-want +got):\n%s", diff)
	}
	if coverage.Percent != 100 || len(coverage.Missed) != 0 {
		t.Errorf("coverage: %+v", coverage)
	}
	_, coverage, err = RunTests(context.Background(), sources[:1], TestOptions{Cover: true})
	if err != nil || coverage.Percent != 0 || len(coverage.Missed) == 0 {
		t.Errorf("coverage without tests: %+v, %v", coverage, err)
	}
}

// TestSampleInputs keeps the files that stock tools read.
func TestSampleInputs(t *testing.T) {
	samples := Samples()
	if len(samples) < 10 {
		t.Errorf("%d samples", len(samples))
	}
	for _, sample := range samples {
		got, err := SampleInput(context.Background(), sample)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("samples", sample.Name+".input.json")
		if *rewrite {
			if err = os.WriteFile(file, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s is out of date; run go test ./policy -args -update (-want +got):\n%s", file, diff)
		}
	}
}
