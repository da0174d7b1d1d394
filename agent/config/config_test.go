package config_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

func mustParse(t *testing.T, text string) config.Config {
	t.Helper()
	c, problems := config.Parse([]byte(text))
	if isFatal(problems) {
		t.Fatalf("parsing %q: %v", text, problems)
	}
	return c
}

func TestAt(t *testing.T) {
	c := mustParse(t, "# head\nresyncInterval: 60s\nNonMasqueradeCIDRs:\n  - 10.0.0.0/8\n  - \"fd00::/8\"\n")
	tests := []struct {
		path string
		want config.Position
	}{
		{"resyncInterval", config.Position{Line: 2, Column: 1}},
		{"nonMasqueradeCIDRs", config.Position{Line: 3, Column: 1}},
		{"nonMasqueradeCIDRs[0]", config.Position{Line: 4, Column: 5}},
		{"nonMasqueradeCIDRs[1]", config.Position{Line: 5, Column: 5}},
		{"nonMasqueradeCIDRs[2]", config.Position{}},
		{"nonMasqueradeCIDRs[-1]", config.Position{}},
		{"nonMasqueradeCIDRs[01]", config.Position{}},
		{"nonMasqueradeCIDRs[1", config.Position{}},
		{"masqLinkLocal", config.Position{}},
		{"", config.Position{}},
	}
	for _, test := range tests {
		if got := c.At(test.path); got != test.want {
			t.Errorf("At(%q) = %v, want %v", test.path, got, test.want)
		}
	}
	if got := config.Default().At("resyncInterval"); got != (config.Position{}) {
		t.Errorf("At of the default = %v", got)
	}
}

func TestProblemString(t *testing.T) {
	tests := []struct {
		name    string
		problem config.Problem
		want    string
	}{
		{
			"everything",
			config.Problem{Path: "nonMasqueradeCIDRs[1]", Line: 3, Column: 5, Message: `"10.0.0.1/8" has host bits set`, Remedy: "write 10.0.0.0/8"},
			`line 3, nonMasqueradeCIDRs[1]: "10.0.0.1/8" has host bits set; write 10.0.0.0/8`,
		},
		{"message alone", config.Problem{Message: "the text is empty"}, "the text is empty"},
		{"no path", config.Problem{Line: 2, Message: "bad"}, "line 2, bad"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := test.problem.String(); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestFor(t *testing.T) {
	reserved := prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24",
		"192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4")
	absent := []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval"}
	tests := []struct {
		name     string
		text     string
		options  config.Options
		want     config.Config
		problems []config.Problem
	}{
		{
			name:    "reserved ranges take the place of an absent list",
			text:    "cidrLimit: 11\n",
			options: config.Options{ReservedRanges: true},
			want:    config.Config{NonMasquerade: reserved, Resync: time.Minute, CIDRLimit: 11, Defaulted: absent},
		},
		{
			name:    "but not of an empty one",
			text:    "nonMasqueradeCIDRs: []\n",
			options: config.Options{ReservedRanges: true},
			want:    config.Config{Resync: time.Minute, CIDRLimit: 64, Defaulted: []string{"masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"}},
		},
		{
			name:    "reserved ranges over the limit",
			text:    "# limit\ncidrLimit: 10\n",
			options: config.Options{ReservedRanges: true, IPv6: true},
			want:    config.Config{NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"), Resync: time.Minute, CIDRLimit: 10, Defaulted: absent},
			problems: []config.Problem{{
				Code: config.CodeCIDRLimit, Severity: config.Fatal, Path: "cidrLimit", Line: 2, Column: 1,
				Message: "the default list, which applies, has 11 CIDRs, more than cidrLimit, which is 10",
				Remedy:  "remove cidrLimit, which is 64 then",
			}},
		},
		{
			name:    "IPv6 allowed",
			text:    "nonMasqueradeCIDRs: [\"fd00::/8\"]\ncidrLimit: 1\n",
			options: config.Options{IPv6: true},
			want:    config.Config{NonMasquerade: prefixes("fd00::/8"), Resync: time.Minute, CIDRLimit: 1, Defaulted: []string{"masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval"}},
		},
		{
			name: "every IPv6 range without IPv6",
			text: "nonMasqueradeCIDRs:\n- FD00::/8\n- 10.0.0.0/8\n- ::/0\ncidrLimit: 3\n",
			want: config.Config{NonMasquerade: prefixes("fd00::/8", "10.0.0.0/8", "::/0"), Resync: time.Minute, CIDRLimit: 3, Defaulted: []string{"masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval"}},
			problems: []config.Problem{
				{
					Code: config.CodeIPv6Disabled, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[0]", Line: 2, Column: 3, Text: "fd00::/8",
					Message: `"fd00::/8" is an IPv6 range, but the agent runs without IPv6, so it refuses the whole text`,
					Remedy:  "remove it, or start the agents with --enable-ipv6",
				},
				{
					Code: config.CodeIPv6Disabled, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[2]", Line: 4, Column: 3, Text: "::/0",
					Message: `"::/0" is an IPv6 range, but the agent runs without IPv6, so it refuses the whole text`,
					Remedy:  "remove it, or start the agents with --enable-ipv6",
				},
			},
		},
		{
			name: "exceptions without effect",
			text: "nonMasqueradeCIDRs: [10.0.0.0/8, 10.1.2.0/24]\nmasqueradeCIDRs:\n- 10.1.0.0/16\n- 10.1.2.128/25\n- 10.1.3.0/24\n" +
				"- 11.0.0.0/8\n- 10.1.0.0/16\n- 169.254.9.0/24\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "10.1.2.0/24"),
				Masquerade:    prefixes("10.1.0.0/16", "10.1.2.128/25", "10.1.3.0/24", "11.0.0.0/8", "10.1.0.0/16", "169.254.9.0/24"),
				Resync:        time.Minute, CIDRLimit: 64, Defaulted: []string{"masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeIneffective, Severity: config.Suspicious, Path: "masqueradeCIDRs[2]", Line: 5, Column: 3, Text: "10.1.3.0/24",
					Message: `"10.1.3.0/24" lies inside the exception 10.1.0.0/16 (masqueradeCIDRs[0]), so it has no effect`,
					Remedy:  "remove it",
				},
				{
					Code: config.CodeIneffective, Severity: config.Suspicious, Path: "masqueradeCIDRs[3]", Line: 6, Column: 3, Text: "11.0.0.0/8",
					Message: `"11.0.0.0/8" lies in no range that is spared, so it is masqueraded anyway`,
					Remedy:  "remove it",
				},
			},
		},
		{
			name:    "an exception that has an effect with reserved ranges alone",
			text:    "masqueradeCIDRs: [100.65.0.0/16]\n",
			options: config.Options{ReservedRanges: true},
			want: config.Config{
				NonMasquerade: reserved, Masquerade: prefixes("100.65.0.0/16"),
				Resync: time.Minute, CIDRLimit: 64, Defaulted: append(absent[:4:4], "cidrLimit"),
			},
		},
		{
			name:    "an exception for a reserved range",
			text:    "masqueradeCIDRs: [100.64.0.0/10]\n",
			options: config.Options{ReservedRanges: true},
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"), Masquerade: prefixes("100.64.0.0/10"),
				Resync: time.Minute, CIDRLimit: 64, Defaulted: append(absent[:4:4], "cidrLimit"),
			},
			problems: []config.Problem{
				{
					Code: config.CodeContradiction, Severity: config.Fatal, Path: "masqueradeCIDRs[0]", Line: 1, Column: 19, Text: "100.64.0.0/10",
					Message: `"100.64.0.0/10" is a default range of nonMasqueradeCIDRs, which the text does not have`,
					Remedy:  "write nonMasqueradeCIDRs without it instead",
				},
			},
		},
		{
			name: "an IPv6 exception without IPv6",
			text: "nonMasqueradeCIDRs: [0.0.0.0/0]\nmasqueradeCIDRs: [10.0.0.0/8, \"fd00::/8\"]\n",
			want: config.Config{
				NonMasquerade: prefixes("0.0.0.0/0"), Masquerade: prefixes("10.0.0.0/8", "fd00::/8"),
				Resync: time.Minute, CIDRLimit: 64, Defaulted: []string{"masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeIPv6Disabled, Severity: config.Fatal, Path: "masqueradeCIDRs[1]", Line: 2, Column: 31, Text: "fd00::/8",
					Message: `"fd00::/8" is an IPv6 range, but the agent runs without IPv6, so it refuses the whole text`,
					Remedy:  "remove it, or start the agents with --enable-ipv6",
				},
			},
		},
		{
			name:    "exceptions for agents that do not know them",
			text:    "nonMasqueradeCIDRs: [10.0.0.0/8]\nmasqueradeCIDRs: [10.1.0.0/16, \"fd00::/8\"]\n",
			options: config.Options{Foreign: true},
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8"),
				Resync:        time.Minute, CIDRLimit: 64, Defaulted: []string{"masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeUnknownKey, Severity: config.Suspicious, Path: "masqueradeCIDRs", Line: 2, Column: 1, Text: "masqueradeCIDRs",
					Message: `"masqueradeCIDRs" is a key of the ip-masq-guard agent alone, so the agents here ignore it`,
					Remedy:  "remove it",
				},
			},
		},
		{
			name: "link-local of IPv6 without IPv6", // it has no effect, and upstream accepts it
			text: "masqLinkLocalIPv6: true\ncidrLimit: 3\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"), MasqueradeLinkLocalIPv6: true,
				Resync: time.Minute, CIDRLimit: 3, Defaulted: []string{"nonMasqueradeCIDRs", "masqLinkLocal", "resyncInterval"},
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := mustParse(t, test.text)
			before := meaningOf(c)
			got, problems := c.For(test.options)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("configuration (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.problems, problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if after := meaningOf(c); after != before {
				t.Errorf("For changed its receiver: %s", after)
			}
		})
	}
}

func TestFormat(t *testing.T) {
	tests := []struct {
		name   string
		config config.Config
		want   string
	}{
		{"defaults", config.Default(), "{}\n"},
		{
			"every key",
			config.Config{NonMasquerade: prefixes("10.0.0.0/8", "::/0"), MasqueradeLinkLocal: true, Resync: time.Hour, CIDRLimit: 2},
			"nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n  - ::/0\nmasqLinkLocal: true\nmasqLinkLocalIPv6: false\nresyncInterval: 1h\ncidrLimit: 2\n",
		},
		{
			"empty list",
			config.Config{Resync: 90*time.Second + time.Millisecond, CIDRLimit: 0, Defaulted: []string{"masqLinkLocal", "masqLinkLocalIPv6"}},
			"nonMasqueradeCIDRs: []\nresyncInterval: 1m30.001s\ncidrLimit: 0\n",
		},
		{
			"exceptions",
			config.Config{
				NonMasquerade: prefixes("10.0.0.0/8"), Masquerade: prefixes("10.1.0.0/16", "10.2.0.0/16"), Resync: time.Minute, CIDRLimit: 64,
				Defaulted: []string{"masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"},
			},
			"nonMasqueradeCIDRs:\n  - 10.0.0.0/8\nmasqueradeCIDRs:\n  - 10.1.0.0/16\n  - 10.2.0.0/16\n",
		},
		{
			"one key",
			config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"), Resync: 70 * time.Minute, CIDRLimit: 64,
				Defaulted: []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "cidrLimit"},
			},
			"resyncInterval: 1h10m\n",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text := test.config.Format()
			if diff := cmp.Diff(test.want, string(text)); diff != "" {
				t.Errorf("text (-want +got):\n%s", diff)
			}
			again, problems := config.Parse(text)
			if len(problems) > 0 {
				t.Errorf("parsing it again: %v", problems)
			}
			if diff := cmp.Diff(test.config, again); diff != "" {
				t.Errorf("parsed again (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTooManyProblems looks at what is left of more problems than are listed.
func TestTooManyProblems(t *testing.T) {
	keys := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString("x" + strings.Repeat("x", i%50) + strings.Repeat("y", i/50) + ": 1\n")
		}
		return b.String()
	}
	last := func(text string) (config.Problem, int) {
		_, problems := config.Parse([]byte(text))
		checkProblems(t, text, problems)
		return problems[len(problems)-1], len(problems)
	}
	p, n := last(keys(1000))
	if n != 1000 || p.Code != config.CodeUnknownKey {
		t.Errorf("%d problems, the last is %v", n, p)
	}
	p, n = last(keys(1005))
	if n != 1001 || p.Code != config.CodeTooManyProblems || p.Severity != config.Suspicious || p.Message != "5 more problems are not listed" {
		t.Errorf("%d problems, the last is %v", n, p)
	}
	// z is met last: the severity of what is not listed counts.
	p, n = last(keys(1005) + "z: .nan\n")
	if n != 1001 || p.Code != config.CodeTooManyProblems {
		t.Errorf("%d problems, the last is %v", n, p)
	}
	if c, problems := config.Parse([]byte(keys(1005) + "resyncInterval: 60\n")); !isFatal(problems) || !c.Equal(config.Config{}) {
		t.Errorf("a fatal problem is lost behind others: %+v", c)
	}
}

// TestCodesTested fails for a Code that no test names.
func TestCodesTested(t *testing.T) {
	source, err := os.ReadFile("code.go")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, file := range files {
		if file == "fuzz_test.go" {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(text)
	}
	codes := regexp.MustCompile(`(Code\w+) +Code += "([a-z0-9-]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(codes) < 30 {
		t.Errorf("found only %d codes", len(codes))
	}
	for _, code := range codes {
		if !regexp.MustCompile(`config\.` + code[1] + `\b|(fatal|suspicious) ` + code[2] + ` `).MatchString(tests.String()) {
			t.Errorf("no test has a problem with %s", code[1])
		}
	}
}
