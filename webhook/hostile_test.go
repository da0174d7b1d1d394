package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// faultySets fail only when they run: each compiles, and passes its tests and every sample.
// What is wrong with them shows for the user mallory.
func faultySets() map[string]struct{ rule, says string } {
	return map[string]struct{ rule, says string }{
		"errs": {
			`deny contains "x" if { input.request.user == "mallory"; net.cidr_contains("bad", input.request.name) }`,
			"the rule at errs/rules.rego:5 failed: errs/rules.rego:5: eval_builtin_error: net.cidr_contains: invalid CIDR address: bad",
		},
		"conflicts": {
			"deny contains \"x\" if one == 3\n\none := 1 if input.request.user != \"\"\n\none := 2 if input.request.user == \"mallory\"",
			"the rule at conflicts/rules.rego:5 failed: conflicts/rules.rego:9: eval_conflict_error: rule data.ipmasq.conflicts.one produced conflicting values:",
		},
		"late": {
			`deny contains "x" if { input.request.user == "mallory"; some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i + j < 0 }`,
			"the rule at late/rules.rego:5 failed: it did not end in time (100ms)",
		},
		"large": {
			`deny contains concat("", [x | some _ in numbers.range(1, 2000); x := s]) if { input.request.user == "mallory" }` + "\n\n" +
				`s := concat("", [x | some _ in numbers.range(1, 2000); x := "0123456789"])`,
			"the rule at large/rules.rego:5 failed: large/rules.rego:5: eval_builtin_error: concat: it would take more than 32 MiB",
		},
		"mute": {
			`deny contains {"hint": "x"} if input.request.user == "mallory"`,
			"the rule at mute/rules.rego:5 failed: it gave a violation without msg",
		},
	}
}

// TestFaultySetsAreAlone puts sets in force that fail at a write, after they passed when
// they were written: the finding names each, and built-in rules and another set speak.
func TestFaultySetsAreAlone(t *testing.T) {
	w := newTestWatch(t)
	sets := map[string]ruleSet{"sound": teamRules("sound", "said by sound")}
	for name, faulty := range faultySets() {
		sets[name] = ruleSet{"rules.rego": fmt.Sprintf("# METADATA\n# title: The rule of %[1]s\npackage ipmasq.%[1]s\n\n%[2]s\n", name, faulty.rule)}
		vetting := policy.Vetting{Cluster: policy.NewCluster(nil, nil, nil)}
		if _, complaints := vetting.Vet(t.Context(), sets[name].sources(name)); policy.Denied(complaints) {
			t.Fatalf("%s is refused when it is written: %v", name, complaints)
		}
	}
	put(t, w, sets)

	var log bytes.Buffer
	h := newHandler(w)
	h.guard().log = slog.New(slog.NewJSONHandler(&log, nil))
	ask := func(user string) []string {
		recorder := httptest.NewRecorder()
		h.ServeHTTP(recorder, post(t.Context(), "/validate", review(`"userInfo":{"username":"`+user+`"},`+ours)))
		answer := answerOf(t, recorder)
		if answer.Allowed || answer.Result.Code != http.StatusUnprocessableEntity {
			t.Fatalf("allowed: %t, %+v", answer.Allowed, answer.Result)
		}
		var messages []string
		for _, cause := range answer.Result.Details.Causes {
			messages = append(messages, cause.Message)
		}
		return messages
	}
	says := func(messages []string, what string) bool {
		return slices.ContainsFunc(messages, func(m string) bool { return strings.Contains(m, what) })
	}
	always := []string{"said by sound", "config-not-empty"}
	for user, faults := range map[string]bool{"alice": false, "mallory": true} {
		messages := ask(user)
		for _, what := range always {
			if !says(messages, what) {
				t.Errorf("%s: nobody says %q: %q", user, what, messages)
			}
		}
		for name, faulty := range faultySets() {
			if says(messages, faulty.says) != faults {
				t.Errorf("%s: the fault of %s is told: %t; %q", user, name, !faults, messages)
			}
			if faults && !strings.Contains(log.String(), `"msg":"rule failed","id":"`) || faults && !strings.Contains(log.String(), `"rule":"`+name+`"`) {
				t.Errorf("the log does not name %s:\n%s", name, &log)
			}
		}
	}

	// Without them all is as it was.
	maps.DeleteFunc(sets, func(name string, _ ruleSet) bool { return name != "sound" })
	put(t, w, sets)
	messages := ask("mallory")
	if !says(messages, "said by sound") || says(messages, "failed") {
		t.Errorf("once they are gone: %q", messages)
	}
}

// put puts sets in force as the watch does when it hears of them.
func put(t *testing.T, w *ruleWatch, sets map[string]ruleSet) {
	t.Helper()
	engine, statuses, chosen := w.choose(t.Context(), sets, *w.inForce.Load())
	for _, s := range statuses {
		if s.State != setInForce {
			t.Fatalf("%s is %s: %q", s.Name, s.State, s.Errors)
		}
	}
	w.engine.Store(engine)
	w.inForce.Store(&chosen)
}

// TestRulesThatNameThemselves bounds what the ids that violations give themselves do to
// metrics.
func TestRulesThatNameThemselves(t *testing.T) {
	w := newTestWatch(t)
	put(t, w, map[string]ruleSet{"many": {"rules.rego": `# METADATA
# title: One id for every range
package ipmasq.many

deny contains {"msg": "x", "rule": id} if {
	some i in numbers.range(1, 300)
	id := $"{input.request.user}-{i}"
}

deny contains {"msg": "no text", "rule": base64.decode("//8=")} if input.request.name

deny contains {"msg": "long", "rule": concat("", [x | some _ in numbers.range(1, 1000); x := "long"])} if input.request.name
`}})
	h := newHandler(w)
	for i := range 5 {
		recorder := httptest.NewRecorder()
		h.ServeHTTP(recorder, post(t.Context(), "/validate", review(fmt.Sprintf(`"userInfo":{"username":"user%d"},`, i)+ours)))
		answerOf(t, recorder)
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(h.metrics); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series, longest, above := 0, 0, false
	for _, family := range families {
		if family.GetName() != "ip_masq_guard_findings_total" {
			continue
		}
		series = len(family.GetMetric())
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				longest = max(longest, len(label.GetValue()))
				above = above || label.GetValue() == "many"
			}
		}
	}
	if series < maxCustomLabels || series > maxCustomLabels+20 || longest > 200 || !above {
		t.Errorf("%d series, the longest label has %d bytes, those above the bound are told: %t", series, longest, above)
	}
	if diff := cmp.Diff(maxCustomLabels, len(h.metrics.custom)); diff != "" {
		t.Errorf("ids that are kept differ (-want +got):\n%s", diff)
	}
}
