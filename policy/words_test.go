package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

func hostBits() Finding {
	return Finding{
		Rule: "config-loads", Action: Deny, Key: "config",
		Path: "nonMasqueradeCIDRs[1]", Position: config.Position{Line: 3, Column: 3},
		Text:    "198.15.5.92/24",
		Message: `"198.15.5.92/24" has host bits set`,
		Hint:    "write 198.15.5.0/24",
		Docs:    "https://example.com/rules.md#config-loads",
	}
}

func notCovered() Finding {
	return Finding{
		Rule: "pod-cidrs-present", Action: Deny, Key: "config",
		Path: "nonMasqueradeCIDRs", Position: config.Position{Line: 1, Column: 1},
		Message: "the list does not cover pod range 10.244.3.0/24 (Node worker-3)",
		Hint:    "add to nonMasqueradeCIDRs:\n- 10.244.3.0/24\n- 10.244.9.0/24\n",
		Docs:    "https://example.com/rules.md#pod-cidrs-present",
	}
}

func TestField(t *testing.T) {
	for _, c := range []struct {
		name    string
		finding Finding
		want    string
	}{
		{"a CIDR", hostBits(), `data["config"]:3 nonMasqueradeCIDRs[1]`},
		{"an absent key", Finding{Key: "config", Path: "nonMasqueradeCIDRs"}, `data["config"] nonMasqueradeCIDRs`},
		{"the text", Finding{Key: "config"}, `data["config"]`},
		{"a line of the text", Finding{Key: "config", Position: config.Position{Line: 7, Column: 2}}, `data["config"]:7`},
		{"binary data", Finding{Key: "config", Binary: true}, `binaryData["config"]`},
		{"another key", Finding{Key: "ip-masq-agent"}, `data["ip-masq-agent"]`},
		{"the object", Finding{}, "metadata.name"},
		{"a field of the object", Finding{Path: "data"}, "data"},
		{"a hostile path", Finding{Key: "config", Path: "a\nb\x1b[31m\u202ec"}, `data["config"] a b [31m c`},
		{"a hostile key", Finding{Key: "a\"\n"}, `data["a\"\n"]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, c.finding.Field()); diff != "" {
				t.Errorf("fields differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDetail(t *testing.T) {
	for _, c := range []struct {
		name    string
		finding Finding
		want    string
	}{
		{
			"one line", hostBits(),
			"\"198.15.5.92/24\" has host bits set; write 198.15.5.0/24 [config-loads]\n" +
				"  docs: https://example.com/rules.md#config-loads",
		},
		{
			"several lines", notCovered(),
			"the list does not cover pod range 10.244.3.0/24 (Node worker-3) [pod-cidrs-present]\n" +
				"  add to nonMasqueradeCIDRs:\n" +
				"  - 10.244.3.0/24\n" +
				"  - 10.244.9.0/24\n" +
				"  docs: https://example.com/rules.md#pod-cidrs-present",
		},
		{"no hint, no docs", Finding{Rule: "payments", Message: "no"}, "no [payments]"},
		{"hostile", Finding{Rule: "a\nb", Message: "x\ny\x00", Hint: "1\r\n\t2"}, "x y  [a b]\n  1\n   2"},
		{
			"a long hint",
			Finding{Rule: "r", Message: "m", Hint: strings.Repeat("x\n", 20)},
			"m [r]" + strings.Repeat("\n  x", 12) + "\n  and 8 more lines",
		},
		{
			"a long message",
			Finding{Rule: "r", Message: strings.Repeat("ü", 2000)},
			strings.Repeat("ü", 1019) + "… [r]",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, c.finding.Detail()); diff != "" {
				t.Errorf("details differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMessage(t *testing.T) {
	soft := Finding{Rule: "list-explicit", Action: Warn, Key: "config", Message: "soft"}
	var many []Finding
	for i := range 30 {
		many = append(many, Finding{Rule: "r", Action: Deny, Key: "config", Message: fmt.Sprintf("m%d", i)})
	}
	for _, c := range []struct {
		name     string
		decision Decision
		want     string
	}{
		{"allowed", Decision{Allowed: true, Findings: []Finding{soft}}, ""},
		{
			"two problems",
			Decision{
				Subject:  "ConfigMap kube-system/ip-masq-agent",
				Findings: []Finding{notCovered(), soft, hostBits()},
			},
			`2 problems in ConfigMap kube-system/ip-masq-agent; nothing was changed
data["config"]:1 nonMasqueradeCIDRs: the list does not cover pod range 10.244.3.0/24 (Node worker-3); ` +
				`add to nonMasqueradeCIDRs: - 10.244.3.0/24 - 10.244.9.0/24 [pod-cidrs-present]
data["config"]:3 nonMasqueradeCIDRs[1]: "198.15.5.92/24" has host bits set; write 198.15.5.0/24 [config-loads]
docs: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md`,
		},
		{
			"one problem, no subject",
			Decision{Findings: many[:1]},
			"1 problem; nothing was changed\ndata[\"config\"]: m0 [r]\n" +
				"docs: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md",
		},
		{
			"more than twenty",
			Decision{Findings: many},
			"30 problems; nothing was changed\n" +
				`data["config"]: m0 [r]
data["config"]: m1 [r]
data["config"]: m2 [r]
data["config"]: m3 [r]
data["config"]: m4 [r]
data["config"]: m5 [r]
data["config"]: m6 [r]
data["config"]: m7 [r]
data["config"]: m8 [r]
data["config"]: m9 [r]
data["config"]: m10 [r]
data["config"]: m11 [r]
data["config"]: m12 [r]
data["config"]: m13 [r]
data["config"]: m14 [r]
data["config"]: m15 [r]
data["config"]: m16 [r]
data["config"]: m17 [r]
data["config"]: m18 [r]
data["config"]: m19 [r]
and 10 more
docs: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md`,
		},
		{
			"no finding at all",
			Decision{},
			"0 problems; nothing was changed\n" +
				"docs: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, c.decision.Message()); diff != "" {
				t.Errorf("messages differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSummary(t *testing.T) {
	d := Decision{Subject: "ConfigMap kube-system/ip-masq-agent", Findings: []Finding{hostBits(), notCovered()}}
	want := `2 problems in ConfigMap kube-system/ip-masq-agent; nothing was changed; first: ` +
		`data["config"]:3 nonMasqueradeCIDRs[1]: "198.15.5.92/24" has host bits set; write 198.15.5.0/24 [config-loads]`
	if diff := cmp.Diff(want, d.Summary()); diff != "" {
		t.Errorf("summaries differ (-want +got):\n%s", diff)
	}
	if got := (Decision{Allowed: true}).Summary(); got != "" {
		t.Errorf("summary of what is allowed: %q", got)
	}
}

func TestWarnings(t *testing.T) {
	prefixes := func(texts ...string) (list []netip.Prefix) {
		for _, text := range texts {
			list = append(list, netip.MustParsePrefix(text))
		}
		return list
	}
	var many []netip.Prefix
	for i := range 100 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(2 * i)}), 32))
	}
	soft := Finding{Rule: "list-explicit", Action: Warn, Key: "config", Path: "nonMasqueradeCIDRs", Message: "soft", Hint: "a\nb"}
	for _, c := range []struct {
		name     string
		decision Decision
		want     []string
	}{
		{"nothing to say", Decision{Allowed: true, Effect: Effect{Known: true}}, nil},
		{
			"soft findings, then the effect",
			Decision{
				Allowed: true, Findings: []Finding{soft},
				Effect: Effect{
					Known: true, NowMasqueraded: prefixes("172.16.0.0/12"),
					NoLongerMasqueraded: prefixes("10.9.0.0/16", "fd00::/8"),
				},
			},
			[]string{
				`data["config"] nonMasqueradeCIDRs: soft; a b [list-explicit]`,
				"now masqueraded: 172.16.0.0/12",
				"no longer masqueraded: 10.9.0.0/16, fd00::/8",
			},
		},
		{
			"denied: no effect, since there is none",
			Decision{
				Findings: []Finding{hostBits(), soft},
				Effect:   Effect{Known: true, NowMasqueraded: prefixes("172.16.0.0/12")},
			},
			[]string{`data["config"] nonMasqueradeCIDRs: soft; a b [list-explicit]`},
		},
		{
			"many prefixes",
			Decision{Allowed: true, Effect: Effect{Known: true, NowMasqueraded: many, NowOmitted: 1000}},
			[]string{
				"now masqueraded: 203.0.113.0/32, 203.0.113.2/32, 203.0.113.4/32, 203.0.113.6/32, 203.0.113.8/32, " +
					"203.0.113.10/32, 203.0.113.12/32, 203.0.113.14/32, 203.0.113.16/32, 203.0.113.18/32, " +
					"203.0.113.20/32, 203.0.113.22/32, 203.0.113.24/32 and 1087 more",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, c.decision.Warnings()); diff != "" {
				t.Errorf("warnings differ (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWordsAreBounded says whatever a rule may say and looks at the bounds.
func TestWordsAreBounded(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.SampledFrom([]string{
		"x", "ü", "\n", "\r", "\x00", "\u202e", "\u2028", "%s", "世界", "\xff", strings.Repeat("long ", 100),
	})), func(parts []string) string { return strings.Join(parts, "") }))
	finding := rapid.Custom(func(t *rapid.T) Finding {
		return Finding{
			Rule: text.Draw(t, "rule"), Action: rapid.SampledFrom([]Action{Deny, Warn}).Draw(t, "action"),
			Key: text.Draw(t, "key"), Path: text.Draw(t, "path"),
			Message: text.Draw(t, "message"), Hint: text.Draw(t, "hint"), Docs: text.Draw(t, "docs"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		d := Decision{
			Subject:  text.Draw(t, "subject"),
			Findings: rapid.SliceOfN(finding, 0, 60).Draw(t, "findings"),
		}
		if message := d.Message(); len(message) > 2048 || !utf8.ValidString(message) {
			t.Fatalf("message of %d bytes, valid %t", len(message), utf8.ValidString(message))
		}
		total := 0
		for _, warning := range append(d.Warnings(), d.Summary()) {
			runes := utf8.RuneCountInString(warning)
			if runes > 256 {
				t.Fatalf("warning of %d runes", runes)
			}
			if strings.ContainsFunc(warning, unicode.IsControl) {
				t.Fatalf("control characters: %q", warning)
			}
			total += runes
		}
		if total > 4096+256 {
			t.Fatalf("warnings of %d runes", total)
		}
		for _, f := range d.Findings {
			if strings.ContainsFunc(f.Field(), unicode.IsControl) {
				t.Fatalf("control characters: %q", f.Field())
			}
			for i, line := range strings.Split(f.Detail(), "\n") {
				if i > 0 && !strings.HasPrefix(line, "  ") {
					t.Fatalf("line %d is not indented: %q", i, line)
				}
				if strings.ContainsFunc(line, unicode.IsControl) {
					t.Fatalf("control characters: %q", line)
				}
			}
		}
	})
}
