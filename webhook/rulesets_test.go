package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// teamRules is a set whose one rule denies every write with this message.
func teamRules(team, message string) ruleSet {
	return ruleSet{"rules.rego": fmt.Sprintf("# METADATA\n# title: The rule of %[1]s\npackage ipmasq.%[1]s\n\ndeny contains %[2]q if input.request.name != \"\"\n", team, message)}
}

func newTestWatch(tb testing.TB) *ruleWatch {
	tb.Helper()
	engine, err := policy.New(tb.Context(), policy.Params{}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return newRuleWatch(policy.Params{}, nil, engine, ruleStore{}, newMetrics("test", engine.Revision()), slog.New(slog.DiscardHandler))
}

// TestChoose breaks some of several sets: each of the others decides.
func TestChoose(t *testing.T) {
	broken := ruleSet{"rules.rego": "package ipmasq.broken\n\ndeny contains if\n"}
	banned := ruleSet{"rules.rego": "package ipmasq.banned\n\ndeny contains \"x\" if http.send({}).status == 200\n"}
	tests := []struct {
		name       string
		sets, good map[string]ruleSet
		states     map[string]string
		says       []string // in the denial of any write
	}{
		{name: "none", states: map[string]string{}},
		{
			name:   "three good ones",
			sets:   map[string]ruleSet{"a": teamRules("a", "said by a"), "b": teamRules("b", "said by b"), "c": teamRules("c", "said by c")},
			states: map[string]string{"a": "in-force", "b": "in-force", "c": "in-force"},
			says:   []string{"said by a [a]", "said by b [b]", "said by c [c]"},
		},
		{
			name:   "the first is broken",
			sets:   map[string]ruleSet{"a": broken, "b": teamRules("b", "said by b"), "c": teamRules("c", "said by c")},
			states: map[string]string{"a": "left-out", "b": "in-force", "c": "in-force"},
			says:   []string{"said by b [b]", "said by c [c]"},
		},
		{
			name:   "one that was good, and one that never was",
			sets:   map[string]ruleSet{"a": teamRules("a", "said by a"), "b": broken, "c": banned},
			good:   map[string]ruleSet{"a": teamRules("a", "said by a before"), "b": teamRules("b", "said by b before")},
			states: map[string]string{"a": "in-force", "b": "last-good", "c": "left-out"},
			says:   []string{"said by a [a]", "said by b before [b]"},
		},
		{
			name:   "a new set clashes with an older one behind it",
			sets:   map[string]ruleSet{"a": {"data.json": `{"register": [1]}`}, "b": teamRules("b", "said by b"), "c": {"data.json": `{"register": [2]}`}},
			good:   map[string]ruleSet{"c": {"data.json": `{"register": [2]}`}},
			states: map[string]string{"a": "left-out", "b": "in-force", "c": "in-force"},
			says:   []string{"said by b [b]"},
		},
		{
			name: "one needs another behind it",
			sets: map[string]ruleSet{
				"a": {"rules.rego": "package ipmasq.a\n\nimport data.ipmasq.z\n\ndeny contains \"said by a\" if z.always(input.request.name)\n"},
				"b": broken,
				"z": {"rules.rego": "package ipmasq.z\n\nalways(name) if name != \"\"\n\ndeny contains \"said by z\" if always(\"x\")\n"},
			},
			states: map[string]string{"a": "in-force", "b": "left-out", "z": "in-force"},
			says:   []string{"said by a [a]", "said by z [z]"},
		},
		{
			name:   "all are broken",
			sets:   map[string]ruleSet{"a": broken, "b": banned},
			states: map[string]string{"a": "left-out", "b": "left-out"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newTestWatch(t)
			engine, statuses, chosen := w.choose(t.Context(), test.sets, test.good)
			states := map[string]string{}
			for _, s := range statuses {
				states[s.Name] = s.State
				if _, isChosen := chosen[s.Name]; isChosen == (s.State == setLeftOut) {
					t.Errorf("%s is %s, chosen: %t", s.Name, s.State, isChosen)
				}
				if (len(s.Errors) > 0) == (s.State == setInForce) {
					t.Errorf("%s is %s with the errors %q", s.Name, s.State, s.Errors)
				}
			}
			if diff := cmp.Diff(test.states, states); diff != "" {
				t.Errorf("states differ (-want +got):\n%s", diff)
			}
			req := policy.Request{Operation: policy.Update, Namespace: "kube-system", Name: "ip-masq-agent"}
			var says []string
			for _, f := range engine.Decide(t.Context(), req, policy.NewCluster(nil, nil, nil)).Findings {
				if f.Failed {
					t.Errorf("%s failed: %s", f.Rule, f.Message)
				}
				if strings.HasPrefix(f.Message, "said by") {
					says = append(says, f.Message+" ["+f.Rule+"]")
				}
			}
			slices.Sort(says)
			if diff := cmp.Diff(test.says, says); diff != "" {
				t.Errorf("denials differ (-want +got):\n%s", diff)
			}
		})
	}
}

// TestChooseOneOfMany leaves one broken set of sixteen out, wherever it stands.
func TestChooseOneOfMany(t *testing.T) {
	for _, at := range []int{0, 7, 15} {
		sets := map[string]ruleSet{}
		for i := range 16 {
			name := fmt.Sprintf("team%02d", i)
			sets[name] = teamRules(name, "said by "+name)
		}
		bad := fmt.Sprintf("team%02d", at)
		sets[bad] = ruleSet{"rules.rego": "package ipmasq." + bad + "\n\ndeny := true\n"}
		_, statuses, chosen := newTestWatch(t).choose(t.Context(), sets, nil)
		for _, s := range statuses {
			if (s.State == setLeftOut) != (s.Name == bad) {
				t.Errorf("with %s broken %s is %s: %q", bad, s.Name, s.State, s.Errors)
			}
		}
		if len(chosen) != 15 {
			t.Errorf("%d sets are chosen", len(chosen))
		}
	}
}

// TestPack keeps sets as they are over a restart.
func TestPack(t *testing.T) {
	for _, sets := range []map[string]ruleSet{
		{},
		{"a": {}},
		{"a": teamRules("a", "said by a"), "b": {"data.json": "{}", "odd\n\"key": "\x00 \u2028"}},
	} {
		packed, err := pack(sets)
		if err != nil {
			t.Fatal(err)
		}
		got, err := unpack(packed)
		if diff := cmp.Diff(sets, got); err != nil || diff != "" {
			t.Errorf("error %v, sets differ (-want +got):\n%s", err, diff)
		}
	}
}

// TestUnpackRefuses what somebody else wrote, or cut off, without filling the memory.
func TestUnpackRefuses(t *testing.T) {
	compressed := func(text []byte) []byte {
		var packed bytes.Buffer
		writer := gzip.NewWriter(&packed)
		if _, err := writer.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := writer.Close(); err != nil {
			t.Fatal(err)
		}
		return packed.Bytes()
	}
	whole, err := pack(map[string]ruleSet{"a": teamRules("a", "said by a")})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		packed []byte
		want   string
	}{
		{"no gzip", []byte("{}"), "decompressing rule sets: "},
		{"no JSON", compressed([]byte("rules")), "decoding rule sets: "},
		{"another shape", compressed([]byte(`["a"]`)), "decoding rule sets: "},
		{"cut off", whole[:len(whole)-20], "decoding rule sets: "},
		{"without its checksum", whole[:len(whole)-8], "decompressing rule sets: "},
		{"with another checksum", slices.Concat(whole[:len(whole)-8], make([]byte, 8)), "decompressing rule sets: "},
		{"a bomb", compressed(append([]byte(`{"a":{"b":"`), make([]byte, maxKeptBytes+1)...)), "decoding rule sets: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			if sets, err := unpack(test.packed); err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("sets %v, error %v", sets, err)
			}
		})
	}
	if sets, err := unpack(nil); sets != nil || err != nil {
		t.Errorf("of nothing: %v, %v", sets, err)
	}
}
