package config_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// FuzzParse compares the meaning with Cilium's own; this is what is said of it.
func TestParseForCilium(t *testing.T) {
	listOf := func(texts ...string) []netip.Prefix {
		var list []netip.Prefix
		for _, text := range texts {
			list = append(list, netip.MustParsePrefix(text))
		}
		return list
	}
	for _, c := range []struct {
		name     string
		text     string
		want     []netip.Prefix
		problems []config.Problem
	}{
		{
			name: "nothing to say", text: "nonMasqueradeCIDRs:\n- 10.0.0.0/8\nmasqLinkLocal: true\n",
			want: listOf("10.0.0.0/8"),
		},
		{
			name: "host bits", text: "nonMasqueradeCIDRs:\n- 198.15.5.92/24\n",
			want: listOf("198.15.5.0/24"),
			problems: []config.Problem{{
				Code: config.CodeHostBits, Severity: config.Suspicious, Path: "nonMasqueradeCIDRs[0]", Line: 2, Column: 3, Text: "198.15.5.92/24",
				Message: `"198.15.5.92/24" has host bits set, which Cilium cuts off; other agents refuse the whole text`,
				Remedy:  "write 198.15.5.0/24",
			}},
		},
		{
			name: "IPv4-mapped", text: "nonMasqueradeCIDRs:\n- ::ffff:10.0.0.0/104\n",
			want: listOf("::ffff:10.0.0.0/104"),
			problems: []config.Problem{{
				Code: config.CodeIPv4Mapped, Severity: config.Suspicious, Path: "nonMasqueradeCIDRs[0]", Line: 2, Column: 3, Text: "::ffff:10.0.0.0/104",
				Message: `"::ffff:10.0.0.0/104" is an IPv4-mapped IPv6 range, which Cilium takes, but no packet has such an address`,
				Remedy:  "write 10.0.0.0/8",
			}},
		},
		{
			name: "keys that it does not have", text: "nonMasqueradeCIDRs: [10.0.0.0/8]\nresyncInterval: 0s\ncidrLimit: 0\n",
			want: listOf("10.0.0.0/8"),
			problems: []config.Problem{
				{
					Code: config.CodeIgnoredKey, Severity: config.Suspicious, Path: "resyncInterval", Line: 2, Column: 1, Text: "resyncInterval",
					Message: `"resyncInterval" is no key of Cilium's, which ignores it`,
					Remedy:  "remove it, unless other agents read the text as well",
				},
				{
					Code: config.CodeIgnoredKey, Severity: config.Suspicious, Path: "cidrLimit", Line: 3, Column: 1, Text: "cidrLimit",
					Message: `"cidrLimit" is no key of Cilium's, which ignores it`,
					Remedy:  "remove it, unless other agents read the text as well",
				},
			},
		},
		{name: "no list", text: "masqLinkLocal: true\n"},
		{name: "comments alone", text: "# nothing\n"},
		{
			name: "an empty element", text: "nonMasqueradeCIDRs:\n-\n",
			problems: []config.Problem{{
				Code: config.CodeNullElement, Path: "nonMasqueradeCIDRs[0]", Line: 2, Column: 1, Text: "-",
				Message: "the element is empty, for which Cilium refuses the whole text",
				Remedy:  "remove the element, or write a CIDR",
			}},
		},
		{
			name: "escapes", text: `{"nonMasqueradeCIDRs": ["10.0.0.0\/8"]}`,
			problems: []config.Problem{{
				Code: config.CodeBadCIDR, Path: "nonMasqueradeCIDRs[0]", Line: 1, Column: 25, Text: `"10.0.0.0\/8"`,
				Message: `"10.0.0.0/8" is written with escapes, which Cilium does not read`,
				Remedy:  `write "10.0.0.0/8"`,
			}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, problems := config.Cilium.Parse([]byte(c.text))
			if diff := cmp.Diff(c.problems, problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.want, got.NonMasquerade, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("the list (-want +got):\n%s", diff)
			}
		})
	}
}

// As many ranges as Cilium's map holds, and one more.
func TestLimitOfCilium(t *testing.T) {
	list := func(n int) []byte {
		return []byte("nonMasqueradeCIDRs:\n" + strings.Repeat("- 10.0.0.0/8\n", n))
	}
	if got, problems := config.Cilium.Parse(list(config.MaxCIDRs)); len(problems) > 0 || len(got.NonMasquerade) != config.MaxCIDRs {
		t.Errorf("%d ranges, problems: %v", len(got.NonMasquerade), problems)
	}
	_, problems := config.Cilium.Parse(list(config.MaxCIDRs + 1))
	if len(problems) != 1 || problems[0].Code != config.CodeTooManyCIDRs {
		t.Errorf("problems of one more: %v", problems)
	}
}
