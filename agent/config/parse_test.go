package config_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

func prefixes(cidrs ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, cidr := range cidrs {
		list = append(list, netip.MustParsePrefix(cidr))
	}
	return list
}

func TestParse(t *testing.T) {
	tests := []struct {
		name     string
		text     string
		want     config.Config
		problems []config.Problem
	}{
		{
			name: "every key",
			text: "nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- FD00:ABCD::/32\nmasqLinkLocal: true\nmasqLinkLocalIPv6: true\nresyncInterval: 1h30m\ncidrLimit: 2\n",
			want: config.Config{
				NonMasquerade:           prefixes("10.0.0.0/8", "fd00:abcd::/32"),
				MasqueradeLinkLocal:     true,
				MasqueradeLinkLocalIPv6: true,
				Resync:                  90 * time.Minute,
				CIDRLimit:               2,
			},
		},
		{
			name: "JSON",
			text: "\n\t{\"nonMasqueradeCIDRs\": [\"10.0.0.0/8\", \"10.0.0.0\\/8\"], \"masqLinkLocal\": true, \"resyncInterval\": \"5s\"}\n",
			want: config.Config{
				NonMasquerade:       prefixes("10.0.0.0/8", "10.0.0.0/8"),
				MasqueradeLinkLocal: true,
				Resync:              5 * time.Second,
				CIDRLimit:           64,
				Defaulted:           []string{"masqLinkLocalIPv6", "cidrLimit"},
			},
		},
		{
			name: "defaults by intention",
			text: "{}\n",
			want: config.Default(),
		},
		{
			name: "flow style, comments, quotes, directives",
			text: "%YAML 1.1\n--- # a\n\"nonMasqueradeCIDRs\": [ 10.0.0.0/8, # b\n '::/0' ]\n? resyncInterval\n: >-\n  30s\n...\n# c\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "::/0"),
				Resync:        30 * time.Second,
				CIDRLimit:     64,
				Defaulted:     []string{"masqLinkLocal", "masqLinkLocalIPv6", "cidrLimit"},
			},
		},
		{
			name: "exceptions",
			text: "nonMasqueradeCIDRs: [10.0.0.0/8, \"fd00::/8\"]\nmasqueradeCIDRs:\n- 10.9.0.0/16\n- FD00:1::/32\ncidrLimit: 4\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "fd00::/8"),
				Masquerade:    prefixes("10.9.0.0/16", "fd00:1::/32"),
				Resync:        time.Minute,
				CIDRLimit:     4,
				Defaulted:     []string{"masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval"},
			},
		},
		{
			name: "exceptions to the default list",
			text: "masqueradeCIDRs: [10.9.0.0/16]\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				Masquerade:    prefixes("10.9.0.0/16"),
				Resync:        time.Minute,
				CIDRLimit:     64,
				Defaulted:     []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"},
			},
		},
		{
			name: "no exceptions",
			text: "nonMasqueradeCIDRs: [10.0.0.0/8]\nmasqueradeCIDRs: []\ncidrLimit: 1\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8"), Resync: time.Minute, CIDRLimit: 1,
				Defaulted: []string{"masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval"},
			},
		},
		{
			name: "mistakes in exceptions",
			text: "nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 10.1.0.0/16\nmasqueradeCIDRs:\n- 10.1.0.0/16\n- 10.2.0.1/16\n-\n- 5\n- \"10.0.0.0/8\"\n",
			problems: []config.Problem{
				{
					Code: config.CodeContradiction, Severity: config.Fatal, Path: "masqueradeCIDRs[0]", Line: 5, Column: 3, Text: "10.1.0.0/16",
					Message: `"10.1.0.0/16" is in both lists: nonMasqueradeCIDRs[1] in line 3 spares it`,
					Remedy:  "keep it in one of the two lists",
				},
				{
					Code: config.CodeHostBits, Severity: config.Fatal, Path: "masqueradeCIDRs[1]", Line: 6, Column: 3, Text: "10.2.0.1/16",
					Message: `"10.2.0.1/16" has host bits set`,
					Remedy:  "write 10.2.0.0/16",
				},
				{
					Code: config.CodeNullElement, Severity: config.Fatal, Path: "masqueradeCIDRs[2]", Line: 7, Column: 1, Text: "-",
					Message: "the element is empty; the upstream agent would put a default range in its place",
					Remedy:  "remove the element, or write a CIDR",
				},
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "masqueradeCIDRs[3]", Line: 8, Column: 3, Text: "5",
					Message: `"5" is a number, not a CIDR`,
					Remedy:  "write a CIDR such as 10.0.0.0/8",
				},
				{
					Code: config.CodeContradiction, Severity: config.Fatal, Path: "masqueradeCIDRs[4]", Line: 9, Column: 3, Text: `"10.0.0.0/8"`,
					Message: `"10.0.0.0/8" is in both lists: nonMasqueradeCIDRs[0] in line 2 spares it`,
					Remedy:  "keep it in one of the two lists",
				},
			},
		},
		{
			name: "an exception for a default range",
			text: "masqueradeCIDRs:\n- 172.16.0.0/12\n",
			problems: []config.Problem{
				{
					Code: config.CodeContradiction, Severity: config.Fatal, Path: "masqueradeCIDRs[0]", Line: 2, Column: 3, Text: "172.16.0.0/12",
					Message: `"172.16.0.0/12" is a default range of nonMasqueradeCIDRs, which the text does not have`,
					Remedy:  "write nonMasqueradeCIDRs without it instead",
				},
			},
		},
		{
			name: "exceptions over the limit",
			text: "nonMasqueradeCIDRs: [10.0.0.0/8]\nmasqueradeCIDRs: [10.1.0.0/16]\ncidrLimit: 1\n",
			problems: []config.Problem{
				{
					Code: config.CodeCIDRLimit, Severity: config.Fatal, Path: "nonMasqueradeCIDRs", Line: 1, Column: 1, Text: "nonMasqueradeCIDRs",
					Message: "the list and its exceptions have 2 CIDRs, more than cidrLimit, which is 1",
					Remedy:  "remove cidrLimit, which is 64 then",
				},
			},
		},
		{
			name: "exceptions over the limit with the default list",
			text: "cidrLimit: 3\nmasqueradeCIDRs: [10.1.0.0/16]\n",
			problems: []config.Problem{
				{
					Code: config.CodeCIDRLimit, Severity: config.Fatal, Path: "masqueradeCIDRs", Line: 2, Column: 1, Text: "masqueradeCIDRs",
					Message: "the default list, which applies, and its exceptions have 4 CIDRs, more than cidrLimit, which is 3",
					Remedy:  "remove cidrLimit, which is 64 then",
				},
			},
		},
		{
			name: "misspelt exceptions",
			text: "masqueradeCIDR: [10.1.0.0/16]\nmasquaradeCIDRs: []\nMASQUERADECIDRS: []\n",
			want: config.Default(),
			problems: []config.Problem{
				{
					Code: config.CodeUnknownKey, Severity: config.Suspicious, Path: "masqueradeCIDR", Line: 1, Column: 1, Text: "masqueradeCIDR",
					Message: `"masqueradeCIDR" is not a key of the configuration, so agents ignore it`,
					Remedy:  "did you mean masqueradeCIDRs?",
				},
				{
					Code: config.CodeUnknownKey, Severity: config.Suspicious, Path: "masquaradeCIDRs", Line: 2, Column: 1, Text: "masquaradeCIDRs",
					Message: `"masquaradeCIDRs" is not a key of the configuration, so agents ignore it`,
					Remedy:  "did you mean masqueradeCIDRs?",
				},
				{
					Code: config.CodeKeyCase, Severity: config.Suspicious, Path: "masqueradeCIDRs", Line: 3, Column: 1, Text: "MASQUERADECIDRS",
					Message: `"MASQUERADECIDRS" works only because agents ignore case`,
					Remedy:  "write masqueradeCIDRs",
				},
			},
		},
		{
			name: "documentation example with host bits",
			text: "nonMasqueradeCIDRs:\n  - 198.15.5.92/24\n  - 10.0.0.0/8\nmasqLinkLocal: false\nresyncInterval: 60s\n",
			problems: []config.Problem{
				{
					Code: config.CodeHostBits, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[0]", Line: 2, Column: 5, Text: "198.15.5.92/24",
					Message: `"198.15.5.92/24" has host bits set`,
					Remedy:  "write 198.15.5.0/24",
				},
			},
		},
		{
			name: "every mistake in one list",
			text: "nonMasqueradeCIDRs:\n- 10.0.0.1\n- 10.0.0.0\n- 10.0.0.0/255.0.0.0\n- 10.0.0.0/0.255.255.255\n- 10.0.0.0/33\n- fd00::/129\n- 010.0.0.0/8\n- 300.0.0.0/8\n- 10.0/16\n- 10.1.*.*\n- fe80::%eth0/64\n- 10.0.0.0-10.0.0.255\n- 10.0.0.3-10.0.0.9\n- example.com\n- ''\n- ' 10.0.0.0/8'\n- \"10.0.0.0/8\u00a0\"\n- '10.0.0.0/8, 172.16.0.0/12'\n- '!10.0.0.0/8'\n- -10.0.0.0/8\n- 10.0.0.0\\8\n- 10.0.0.0/08\n- ::ffff:10.0.0.0/104\n- gg::/8\n",
			problems: []config.Problem{
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[0]", Line: 2, Column: 3, Text: "10.0.0.1",
					Message: `"10.0.0.1" has no prefix length`,
					Remedy:  "write 10.0.0.1/32",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[1]", Line: 3, Column: 3, Text: "10.0.0.0",
					Message: `"10.0.0.0" has no prefix length`,
					Remedy:  "write 10.0.0.0/32, or 10.0.0.0/8 if the network is meant",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[2]", Line: 4, Column: 3, Text: "10.0.0.0/255.0.0.0",
					Message: `"10.0.0.0/255.0.0.0" has a netmask instead of a prefix length`,
					Remedy:  "write 10.0.0.0/8",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[3]", Line: 5, Column: 3, Text: "10.0.0.0/0.255.255.255",
					Message: `"10.0.0.0/0.255.255.255" has a netmask instead of a prefix length`,
					Remedy:  "write 10.0.0.0/8",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[4]", Line: 6, Column: 3, Text: "10.0.0.0/33",
					Message: `"10.0.0.0/33" has an impossible prefix length`,
					Remedy:  "give an IPv4 range a length of 0 to 32",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[5]", Line: 7, Column: 3, Text: "fd00::/129",
					Message: `"fd00::/129" has an impossible prefix length`,
					Remedy:  "give an IPv6 range a length of 0 to 128",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[6]", Line: 8, Column: 3, Text: "010.0.0.0/8",
					Message: `"010.0.0.0/8" has an octet with a leading zero, which some programs read as octal`,
					Remedy:  "write 10.0.0.0/8",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[7]", Line: 9, Column: 3, Text: "300.0.0.0/8",
					Message: `"300.0.0.0/8" has an octet above 255`,
					Remedy:  "write octets of 0 to 255",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[8]", Line: 10, Column: 3, Text: "10.0/16",
					Message: `"10.0/16" has fewer than four octets`,
					Remedy:  "write 10.0.0.0/16",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[9]", Line: 11, Column: 3, Text: "10.1.*.*",
					Message: `"10.1.*.*" has a wildcard, not a prefix length`,
					Remedy:  "write 10.1.0.0/16",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[10]", Line: 12, Column: 3, Text: "fe80::%eth0/64",
					Message: `"fe80::%eth0/64" has a zone, which a range cannot have`,
					Remedy:  "write fe80::/64",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[11]", Line: 13, Column: 3, Text: "10.0.0.0-10.0.0.255",
					Message: `"10.0.0.0-10.0.0.255" is a range, not a CIDR`,
					Remedy:  "write 10.0.0.0/24",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[12]", Line: 14, Column: 3, Text: "10.0.0.3-10.0.0.9",
					Message: `"10.0.0.3-10.0.0.9" is a range, not a CIDR`,
					Remedy:  "write 10.0.0.3/32, 10.0.0.4/30, 10.0.0.8/31",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[13]", Line: 15, Column: 3, Text: "example.com",
					Message: `"example.com" is a name, not a CIDR`,
					Remedy:  "write the range of its addresses, such as 10.0.0.0/8",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[14]", Line: 16, Column: 3, Text: "''",
					Message: "the value is empty",
					Remedy:  "write a CIDR such as 10.0.0.0/8, or remove the element",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[15]", Line: 17, Column: 3, Text: "' 10.0.0.0/8'",
					Message: `" 10.0.0.0/8" has characters around the CIDR that do not belong to it`,
					Remedy:  "write 10.0.0.0/8",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[16]", Line: 18, Column: 3, Text: "\"10.0.0.0/8\u00a0\"",
					Message: `"10.0.0.0/8\u00a0" has characters around the CIDR that do not belong to it`,
					Remedy:  "write 10.0.0.0/8",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[17]", Line: 19, Column: 3, Text: "'10.0.0.0/8, 172.16.0.0/12'",
					Message: `"10.0.0.0/8, 172.16.0.0/12" holds several CIDRs`,
					Remedy:  "write each as an element of its own: 10.0.0.0/8, 172.16.0.0/12",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[18]", Line: 20, Column: 3, Text: "'!10.0.0.0/8'",
					Message: `"!10.0.0.0/8" is not a CIDR: no agent knows !`,
					Remedy:  "list exceptions under masqueradeCIDRs, without !",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[19]", Line: 21, Column: 3, Text: "-10.0.0.0/8",
					Message: `"-10.0.0.0/8" has characters around the CIDR that do not belong to it`,
					Remedy:  "write 10.0.0.0/8",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[20]", Line: 22, Column: 3, Text: "10.0.0.0\\8",
					Message: `"10.0.0.0\\8" is not a CIDR`,
					Remedy:  "write 10.0.0.0/8",
				},
				{
					Code: config.CodeMaskLeadingZero, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[21]", Line: 23, Column: 3, Text: "10.0.0.0/08",
					Message: `"10.0.0.0/08" has a prefix length with a leading zero, which iptables refuses`,
					Remedy:  "write 10.0.0.0/8",
				},
				{
					Code: config.CodeIPv4Mapped, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[22]", Line: 24, Column: 3, Text: "::ffff:10.0.0.0/104",
					Message: `"::ffff:10.0.0.0/104" is an IPv4-mapped IPv6 range, which iptables refuses`,
					Remedy:  "write 10.0.0.0/8",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[23]", Line: 25, Column: 3, Text: "gg::/8",
					Message: `"gg::/8" is not a CIDR`,
					Remedy:  "write a CIDR such as 10.0.0.0/8 or fd00::/8",
				},
			},
		},
		{
			name: "empty elements",
			text: "nonMasqueradeCIDRs:\n-\n- 1.2.3.0/24\n- ~\n",
			problems: []config.Problem{
				{
					Code: config.CodeNullElement, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[0]", Line: 2, Column: 1, Text: "-",
					Message: "the element is empty; the upstream agent would put a default range in its place",
					Remedy:  "remove the element, or write a CIDR",
				},
				{
					Code: config.CodeNullElement, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[2]", Line: 4, Column: 3, Text: "~",
					Message: "the element is empty; the upstream agent would put a default range in its place",
					Remedy:  "remove the element, or write a CIDR",
				},
			},
		},
		{
			name: "elements of other types",
			text: "nonMasqueradeCIDRs:\n- 5\n- yes\n- [10.0.0.0/8]\n- 10.0.0.0/8:\n",
			problems: []config.Problem{
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[0]", Line: 2, Column: 3, Text: "5",
					Message: `"5" is a number, not a CIDR`,
					Remedy:  "write a CIDR such as 10.0.0.0/8",
				},
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[1]", Line: 3, Column: 3, Text: "yes",
					Message: `"yes" is a boolean, not a CIDR`,
					Remedy:  "write a CIDR such as 10.0.0.0/8",
				},
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[2]", Line: 4, Column: 3, Text: "[10.0.0.0/8]",
					Message: "the value is a list, not a CIDR",
					Remedy:  "write the CIDRs in one list, without a list inside",
				},
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[3]", Line: 5, Column: 3, Text: "10.0.0.0/8:",
					Message: "the value is a mapping, not a CIDR",
					Remedy:  "write 10.0.0.0/8",
				},
			},
		},
		{
			name: "text instead of a list",
			text: "nonMasqueradeCIDRs: 10.0.0.0/8, fd00::/8\n",
			problems: []config.Problem{
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "nonMasqueradeCIDRs", Line: 1, Column: 21, Text: "10.0.0.0/8, fd00::/8",
					Message: `"10.0.0.0/8, fd00::/8" is text, not a list of CIDRs`,
					Remedy:  `write nonMasqueradeCIDRs: [10.0.0.0/8, "fd00::/8"]`,
				},
			},
		},
		{
			name: "mapping instead of a list",
			text: "nonMasqueradeCIDRs:\n  10.0.0.0/8:\n  172.16.0.0/12:\n",
			problems: []config.Problem{
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "nonMasqueradeCIDRs", Line: 2, Column: 3, Text: "10.0.0.0/8:",
					Message: "the value is a mapping, not a list of CIDRs",
					Remedy:  "write nonMasqueradeCIDRs: [10.0.0.0/8, 172.16.0.0/12]",
				},
			},
		},
		{
			name: "dashes without blanks",
			text: "nonMasqueradeCIDRs:\n -10.0.0.0/8\n -172.16.0.0/12\n",
			problems: []config.Problem{
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "nonMasqueradeCIDRs", Line: 2, Column: 2, Text: "-10.0.0.0/8",
					Message: `"-10.0.0.0/8 -172.16.0.0/12" is text, not a list of CIDRs`,
					Remedy:  "write nonMasqueradeCIDRs: [10.0.0.0/8, 172.16.0.0/12]",
				},
			},
		},
		{
			name: "elements indented differently",
			text: "nonMasqueradeCIDRs:\n - 10.0.0.0/8\n  - 172.16.0.0/12\n",
			problems: []config.Problem{
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[0]", Line: 2, Column: 4, Text: "10.0.0.0/8",
					Message: `"10.0.0.0/8 - 172.16.0.0/12" holds several CIDRs`,
					Remedy:  "write each as an element of its own: 10.0.0.0/8, 172.16.0.0/12",
				},
			},
		},
		{
			name: "over the limit",
			text: "cidrLimit: 1\nnonMasqueradeCIDRs: [10.0.0.0/8, 172.16.0.0/12]\n",
			problems: []config.Problem{
				{
					Code: config.CodeCIDRLimit, Severity: config.Fatal, Path: "nonMasqueradeCIDRs", Line: 2, Column: 1, Text: "nonMasqueradeCIDRs",
					Message: "the list has 2 CIDRs, more than cidrLimit, which is 1",
					Remedy:  "remove cidrLimit, which is 64 then",
				},
			},
		},
		{
			name: "default list over the limit",
			text: "cidrLimit: 2\n",
			problems: []config.Problem{
				{
					Code: config.CodeCIDRLimit, Severity: config.Fatal, Path: "cidrLimit", Line: 1, Column: 1, Text: "cidrLimit",
					Message: "the default list, which applies, has 3 CIDRs, more than cidrLimit, which is 2",
					Remedy:  "remove cidrLimit, which is 64 then",
				},
			},
		},
		{
			name: "negative limit",
			text: "cidrLimit: -1\nnonMasqueradeCIDRs: []\n",
			problems: []config.Problem{
				{
					Code: config.CodeCIDRLimit, Severity: config.Fatal, Path: "nonMasqueradeCIDRs", Line: 2, Column: 1, Text: "nonMasqueradeCIDRs",
					Message: "the list has 0 CIDRs, more than cidrLimit, which is -1",
					Remedy:  "remove cidrLimit, which is 64 then",
				},
			},
		},
		{
			name: "limit in quotes",
			text: "cidrLimit: \"100\"\n",
			problems: []config.Problem{
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "cidrLimit", Line: 1, Column: 12, Text: "\"100\"",
					Message: `"100" is text, not a whole number`,
					Remedy:  "write 100, without quotes",
				},
			},
		},
		{
			name: "limit with a fraction",
			text: "cidrLimit: 1.5\n",
			problems: []config.Problem{
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "cidrLimit", Line: 1, Column: 12, Text: "1.5",
					Message: `"1.5" is not a whole number`,
					Remedy:  "write a whole number, such as 64",
				},
			},
		},
		{
			name: "octal limit",
			text: "cidrLimit: 010\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				Resync:        time.Minute,
				CIDRLimit:     8,
				Defaulted:     []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeOctalNumber, Severity: config.Suspicious, Path: "cidrLimit", Line: 1, Column: 12, Text: "010",
					Message: `"010" is 8: agents read a number with a leading zero as octal if they can`,
					Remedy:  "write 8",
				},
			},
		},
		{
			name: "limit that is not octal",
			text: "cidrLimit: 08\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				Resync:        time.Minute,
				CIDRLimit:     8,
				Defaulted:     []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeOctalNumber, Severity: config.Suspicious, Path: "cidrLimit", Line: 1, Column: 12, Text: "08",
					Message: `"08" is 8: agents read a number with a leading zero as octal if they can`,
					Remedy:  "write 8",
				},
			},
		},
		{
			name: "limit with an exponent",
			text: "cidrLimit: 1e2\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				Resync:        time.Minute,
				CIDRLimit:     100,
				Defaulted:     []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval"},
			},
		},
		{
			name: "limit with an exponent in JSON",
			text: "{\"cidrLimit\": 1e2}\n",
			problems: []config.Problem{
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "cidrLimit", Line: 1, Column: 15, Text: "1e2",
					Message: `"1e2" is not a whole number`,
					Remedy:  "write a whole number, such as 64",
				},
			},
		},
		{
			name: "YAML 1.1 booleans",
			text: "masqLinkLocal: yes\nmasqLinkLocalIPv6: Off\n",
			want: config.Config{
				NonMasquerade:       prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				MasqueradeLinkLocal: true,
				Resync:              time.Minute,
				CIDRLimit:           64,
				Defaulted:           []string{"nonMasqueradeCIDRs", "resyncInterval", "cidrLimit"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeYAML11Bool, Severity: config.Suspicious, Path: "masqLinkLocal", Line: 1, Column: 16, Text: "yes",
					Message: `"yes" is true here, but text to newer YAML loaders`,
					Remedy:  "write true",
				},
				{
					Code: config.CodeYAML11Bool, Severity: config.Suspicious, Path: "masqLinkLocalIPv6", Line: 2, Column: 20, Text: "Off",
					Message: `"Off" is false here, but text to newer YAML loaders`,
					Remedy:  "write false",
				},
			},
		},
		{
			name: "booleans of other types",
			text: "masqLinkLocal: \"true\"\nmasqLinkLocalIPv6: 0\n",
			problems: []config.Problem{
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "masqLinkLocal", Line: 1, Column: 16, Text: "\"true\"",
					Message: `"true" is text, not a boolean`,
					Remedy:  "write true, without quotes",
				},
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "masqLinkLocalIPv6", Line: 2, Column: 20, Text: "0",
					Message: `"0" is a number, not a boolean`,
					Remedy:  "write false",
				},
			},
		},
		{
			name: "interval without a unit",
			text: "resyncInterval: 60\n",
			problems: []config.Problem{
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "resyncInterval", Line: 1, Column: 17, Text: "60",
					Message: `"60" is a number, not a duration with a unit`,
					Remedy:  "write 60s",
				},
			},
		},
		{
			name: "interval with a long unit",
			text: "resyncInterval: 5min\n",
			problems: []config.Problem{
				{
					Code: config.CodeBadDuration, Severity: config.Fatal, Path: "resyncInterval", Line: 1, Column: 17, Text: "5min",
					Message: `"5min" is not a duration: the units are s, m and h`,
					Remedy:  "write 5m",
				},
			},
		},
		{
			name: "interval in days",
			text: "resyncInterval: 1d\n",
			problems: []config.Problem{
				{
					Code: config.CodeBadDuration, Severity: config.Fatal, Path: "resyncInterval", Line: 1, Column: 17, Text: "1d",
					Message: `"1d" is not a duration: the units are s, m and h`,
					Remedy:  "write 24h",
				},
			},
		},
		{
			name: "interval with half a unit",
			text: "resyncInterval: 1h30\n",
			problems: []config.Problem{
				{
					Code: config.CodeBadDuration, Severity: config.Fatal, Path: "resyncInterval", Line: 1, Column: 17, Text: "1h30",
					Message: `"1h30" is not a duration: the units are s, m and h`,
					Remedy:  "write 1h30m",
				},
			},
		},
		{
			name: "interval in quotes without a unit",
			text: "{\"resyncInterval\": \"60\"}",
			problems: []config.Problem{
				{
					Code: config.CodeBadDuration, Severity: config.Fatal, Path: "resyncInterval", Line: 1, Column: 20, Text: "\"60\"",
					Message: `"60" has no unit`,
					Remedy:  `write "60s"`,
				},
			},
		},
		{
			name: "empty interval",
			text: "resyncInterval: \"\"\n",
			problems: []config.Problem{
				{
					Code: config.CodeBadDuration, Severity: config.Fatal, Path: "resyncInterval", Line: 1, Column: 17, Text: "\"\"",
					Message: "the value is empty",
					Remedy:  "write 60s",
				},
			},
		},
		{
			name: "interval without a value",
			text: "resyncInterval:\n",
			problems: []config.Problem{
				{
					Code: config.CodeBadDuration, Severity: config.Fatal, Path: "resyncInterval", Line: 1, Column: 1, Text: "resyncInterval",
					Message: `"resyncInterval" has no value`,
					Remedy:  "write resyncInterval: 60s, or remove the key",
				},
			},
		},
		{
			name: "interval of zero",
			text: "resyncInterval: 0s\n",
			problems: []config.Problem{
				{
					Code: config.CodeResyncTooShort, Severity: config.Fatal, Path: "resyncInterval", Line: 1, Column: 17, Text: "0s",
					Message: `"0s" is below one second, so agents would rewrite the rules without a pause`,
					Remedy:  "write 60s",
				},
			},
		},
		{
			name: "keys without values",
			text: "nonMasqueradeCIDRs:\nmasqLinkLocal:\ncidrLimit: ~\n",
			want: config.Config{
				NonMasquerade: prefixes(),
				Resync:        time.Minute,
				CIDRLimit:     64,
				Defaulted:     []string{"masqLinkLocalIPv6", "resyncInterval"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeNullValue, Severity: config.Suspicious, Path: "masqLinkLocal", Line: 2, Column: 1, Text: "masqLinkLocal",
					Message: `"masqLinkLocal" has no value, so false stays in force`,
					Remedy:  "write masqLinkLocal: false, or remove the key",
				},
				{
					Code: config.CodeNullValue, Severity: config.Suspicious, Path: "cidrLimit", Line: 3, Column: 1, Text: "cidrLimit",
					Message: `"cidrLimit" has no value, so 64 stays in force`,
					Remedy:  "write cidrLimit: 64, or remove the key",
				},
			},
		},
		{
			name: "misspelt key",
			text: "resyscInterval: 60s\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				Resync:        time.Minute,
				CIDRLimit:     64,
				Defaulted:     []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeUnknownKey, Severity: config.Suspicious, Path: "resyscInterval", Line: 1, Column: 1, Text: "resyscInterval",
					Message: `"resyscInterval" is not a key of the configuration, so agents ignore it`,
					Remedy:  "did you mean resyncInterval?",
				},
			},
		},
		{
			name: "flag as a key",
			text: "enableIPv6: true\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				Resync:        time.Minute,
				CIDRLimit:     64,
				Defaulted:     []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeUnknownKey, Severity: config.Suspicious, Path: "enableIPv6", Line: 1, Column: 1, Text: "enableIPv6",
					Message: `"enableIPv6" is not a key of the configuration, so agents ignore it`,
					Remedy:  "remove it; --enable-ipv6 is a flag of the agent, not a key",
				},
			},
		},
		{
			name: "key in another case",
			text: "nonmasqueradecidrs: [10.1.0.0/16]\n",
			want: config.Config{
				NonMasquerade: prefixes("10.1.0.0/16"),
				Resync:        time.Minute,
				CIDRLimit:     64,
				Defaulted:     []string{"masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeKeyCase, Severity: config.Suspicious, Path: "nonMasqueradeCIDRs", Line: 1, Column: 1, Text: "nonmasqueradecidrs",
					Message: `"nonmasqueradecidrs" works only because agents ignore case`,
					Remedy:  "write nonMasqueradeCIDRs",
				},
			},
		},
		{
			name: "key twice",
			text: "cidrLimit: x\ncidrLimit: 6\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				Resync:        time.Minute,
				CIDRLimit:     6,
				Defaulted:     []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeDuplicateKey, Severity: config.Suspicious, Path: "cidrLimit", Line: 1, Column: 1, Text: "cidrLimit",
					Message: `"cidrLimit" is set again in line 2, which wins`,
					Remedy:  "keep one of the two",
				},
			},
		},
		{
			name: "key in two cases",
			text: "nonmasqueradecidrs: [1.2.3.0/24]\nnonMasqueradeCIDRs: [1.2.4.0/24]\n",
			want: config.Config{
				NonMasquerade: prefixes("1.2.3.0/24"),
				Resync:        time.Minute,
				CIDRLimit:     64,
				Defaulted:     []string{"masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeKeyCase, Severity: config.Suspicious, Path: "nonMasqueradeCIDRs", Line: 1, Column: 1, Text: "nonmasqueradecidrs",
					Message: `"nonmasqueradecidrs" works only because agents ignore case`,
					Remedy:  "write nonMasqueradeCIDRs",
				},
				{
					Code: config.CodeDuplicateKey, Severity: config.Suspicious, Path: "nonMasqueradeCIDRs", Line: 2, Column: 1, Text: "nonMasqueradeCIDRs",
					Message: `"nonMasqueradeCIDRs" is set again in line 1, which wins`,
					Remedy:  "keep one of the two",
				},
			},
		},
		{
			name: "key in two cases in JSON",
			text: "{\"nonmasqueradecidrs\": [\"1.2.3.0/24\"],\n \"nonMasqueradeCIDRs\": [\"1.2.4.0/24\"]}\n",
			want: config.Config{
				NonMasquerade: prefixes("1.2.4.0/24"),
				Resync:        time.Minute,
				CIDRLimit:     64,
				Defaulted:     []string{"masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeKeyCase, Severity: config.Suspicious, Path: "nonMasqueradeCIDRs", Line: 1, Column: 2, Text: "\"nonmasqueradecidrs\"",
					Message: `"nonmasqueradecidrs" works only because agents ignore case`,
					Remedy:  "write nonMasqueradeCIDRs",
				},
				{
					Code: config.CodeDuplicateKey, Severity: config.Suspicious, Path: "nonMasqueradeCIDRs", Line: 1, Column: 2, Text: "\"nonmasqueradecidrs\"",
					Message: `"nonmasqueradecidrs" is set again in line 2, which wins`,
					Remedy:  "keep one of the two",
				},
			},
		},
		{
			name: "whole manifest",
			text: "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: ip-masq-agent\ndata:\n  config: |\n    cidrLimit: 5\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				Resync:        time.Minute,
				CIDRLimit:     64,
				Defaulted:     []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"},
			},
			problems: []config.Problem{
				{
					Code: config.CodePastedManifest, Severity: config.Suspicious, Path: "kind", Line: 2, Column: 1, Text: "kind",
					Message: "a whole ConfigMap stands inside the value, so agents ignore it",
					Remedy:  "put what stands under config: alone here, without its indentation",
				},
			},
		},
		{
			name: "nested config",
			text: "config:\n  nonMasqueradeCIDRs:\n  - 10.5.0.0/16\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				Resync:        time.Minute,
				CIDRLimit:     64,
				Defaulted:     []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"},
			},
			problems: []config.Problem{
				{
					Code: config.CodePastedManifest, Severity: config.Suspicious, Path: "config", Line: 1, Column: 1, Text: "config",
					Message: "the keys stand under config:, so agents ignore them",
					Remedy:  "put what stands under config: alone here, without its indentation",
				},
			},
		},
		{
			name: "nested config as text",
			text: "config: |\n  cidrLimit: 5\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				Resync:        time.Minute,
				CIDRLimit:     64,
				Defaulted:     []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"},
			},
			problems: []config.Problem{
				{
					Code: config.CodePastedManifest, Severity: config.Suspicious, Path: "config", Line: 1, Column: 1, Text: "config",
					Message: "the keys stand under config:, so agents ignore them",
					Remedy:  "put what stands under config: alone here, without its indentation",
				},
			},
		},
		{
			name: "empty",
			text: "",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				Resync:        time.Minute,
				CIDRLimit:     64,
				Defaulted:     []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeEmpty, Severity: config.Suspicious,
					Message: "the text is empty, so every default applies",
					Remedy:  "write the keys that you want, or {} if you want the defaults",
				},
			},
		},
		{
			name: "comments only",
			text: "# nothing\n---\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				Resync:        time.Minute,
				CIDRLimit:     64,
				Defaulted:     []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeEmpty, Severity: config.Suspicious,
					Message: "the text is empty, so every default applies",
					Remedy:  "write the keys that you want, or {} if you want the defaults",
				},
			},
		},
		{
			name: "list without a key",
			text: "- 10.0.0.0/8\n",
			problems: []config.Problem{
				{
					Code: config.CodeNotAMapping, Severity: config.Fatal, Line: 1, Column: 1, Text: "- 10.0.0.0/8",
					Message: `"- 10.0.0.0/8" begins a list, but the text has to be keys with values`,
					Remedy:  "write nonMasqueradeCIDRs: above the list",
				},
			},
		},
		{
			name: "key without a colon",
			text: "nonMasqueradeCIDRs\n- 10.0.0.0/8\n",
			problems: []config.Problem{
				{
					Code: config.CodeNotAMapping, Severity: config.Fatal, Line: 1, Column: 1, Text: "nonMasqueradeCIDRs",
					Message: `"nonMasqueradeCIDRs" is no key with a value`,
					Remedy:  "write nonMasqueradeCIDRs:",
				},
			},
		},
		{
			name: "second document",
			text: "cidrLimit: 5\n---\ncidrLimit: 6\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				Resync:        time.Minute,
				CIDRLimit:     5,
				Defaulted:     []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeSecondDocument, Severity: config.Suspicious, Line: 2, Column: 1, Text: "---",
					Message: `agents read the first YAML document only and ignore everything from "---" on`,
					Remedy:  "remove the other documents",
				},
			},
		},
		{
			name: "key left of the first",
			text: "  resyncInterval: 30s\nmasqLinkLocal: true\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				Resync:        30 * time.Second,
				CIDRLimit:     64,
				Defaulted:     []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "cidrLimit"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeSecondDocument, Severity: config.Suspicious, Line: 2, Column: 1, Text: "masqLinkLocal: true",
					Message: `agents end the configuration where a line is indented less than its first key, and ignore everything from "masqLinkLocal: true" on`,
					Remedy:  "start all keys in the first column",
				},
			},
		},
		{
			name: "blanks at line ends",
			text: "cidrLimit: 5 \nmasqLinkLocal: true\t\n  \n",
			want: config.Config{
				NonMasquerade:       prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				MasqueradeLinkLocal: true,
				Resync:              time.Minute,
				CIDRLimit:           5,
				Defaulted:           []string{"nonMasqueradeCIDRs", "masqLinkLocalIPv6", "resyncInterval"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeTrailingSpace, Severity: config.Suspicious, Line: 1, Column: 13, Text: " ",
					Message: `the line ends in " ", as do lines 2, 3; kubectl edit then shows the whole text as one quoted line`,
					Remedy:  "remove the blanks at line ends",
				},
			},
		},
		{
			name: "BOM and CRLF",
			text: "\ufeffcidrLimit: 5\r\nnonMasqueradeCIDRs:\r\n- 10.0.0.1/8\r\n",
			problems: []config.Problem{
				{
					Code: config.CodeHostBits, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[0]", Line: 3, Column: 3, Text: "10.0.0.1/8",
					Message: `"10.0.0.1/8" has host bits set`,
					Remedy:  "write 10.0.0.0/8",
				},
			},
		},
		{
			name: "columns count bytes",
			text: "x: [ü, ü] # ü\nnonMasqueradeCIDRs: [\"ü\", 10.0.0.1/8]\n",
			problems: []config.Problem{
				{
					Code: config.CodeUnknownKey, Severity: config.Suspicious, Path: "x", Line: 1, Column: 1, Text: "x",
					Message: `"x" is not a key of the configuration, so agents ignore it`,
					Remedy:  "remove it; the keys are nonMasqueradeCIDRs, masqLinkLocal, masqLinkLocalIPv6, resyncInterval, cidrLimit, masqueradeCIDRs, nodeOverrides",
				},
				{
					Code: config.CodeBadCIDR, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[0]", Line: 2, Column: 22, Text: "\"ü\"",
					Message: `"ü" is a name, not a CIDR`,
					Remedy:  "write the range of its addresses, such as 10.0.0.0/8",
				},
				{
					Code: config.CodeHostBits, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[1]", Line: 2, Column: 28, Text: "10.0.0.1/8",
					Message: `"10.0.0.1/8" has host bits set`,
					Remedy:  "write 10.0.0.0/8",
				},
			},
		},
		{
			name: "merge after a key",
			text: "base: &base {cidrLimit: 5}\ncidrLimit: 6\n<<: *base\n",
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
				Resync:        time.Minute,
				CIDRLimit:     5,
				Defaulted:     []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval"},
			},
			problems: []config.Problem{
				{
					Code: config.CodeUnknownKey, Severity: config.Suspicious, Path: "base", Line: 1, Column: 1, Text: "base",
					Message: `"base" is not a key of the configuration, so agents ignore it`,
					Remedy:  "remove it; the keys are nonMasqueradeCIDRs, masqLinkLocal, masqLinkLocalIPv6, resyncInterval, cidrLimit, masqueradeCIDRs, nodeOverrides",
				},
				{
					Code: config.CodeDuplicateKey, Severity: config.Suspicious, Path: "cidrLimit", Line: 2, Column: 1, Text: "cidrLimit",
					Message: `"cidrLimit" is set again in line 1, which wins`,
					Remedy:  "keep one of the two",
				},
			},
		},
		{
			name: "anchor",
			text: "nonMasqueradeCIDRs: &list\n- &a 10.0.0.1/8\n- *a\n",
			problems: []config.Problem{
				{
					Code: config.CodeHostBits, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[0]", Line: 2, Column: 6, Text: "10.0.0.1/8",
					Message: `"10.0.0.1/8" has host bits set`,
					Remedy:  "write 10.0.0.0/8",
				},
				{
					Code: config.CodeHostBits, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[1]", Line: 2, Column: 6, Text: "10.0.0.1/8",
					Message: `"10.0.0.1/8" has host bits set`,
					Remedy:  "write 10.0.0.0/8",
				},
			},
		},
		{
			name: "alias inside itself",
			text: "a: &a [*a]\n",
			problems: []config.Problem{
				{
					Code: config.CodeAliases, Severity: config.Fatal, Path: "a", Line: 1, Column: 8, Text: "*a]",
					Message: `"*a" is part of what it stands for`,
					Remedy:  "write nonMasqueradeCIDRs as a plain list",
				},
			},
		},
		{
			name: "unknown tag",
			text: "nonMasqueradeCIDRs:\n- !cidr 10.0.0.0/8\n",
			problems: []config.Problem{
				{
					Code: config.CodeTag, Severity: config.Fatal, Path: "nonMasqueradeCIDRs", Line: 2, Column: 3, Text: "!cidr",
					Message: `the tag "!cidr" does not fit "10.0.0.0/8" here`,
					Remedy:  "remove the tag",
				},
			},
		},
		{
			name: "infinite number",
			text: "x: .inf\n",
			problems: []config.Problem{
				{
					Code: config.CodeUnknownKey, Severity: config.Suspicious, Path: "x", Line: 1, Column: 1, Text: "x",
					Message: `"x" is not a key of the configuration, so agents ignore it`,
					Remedy:  "remove it; the keys are nonMasqueradeCIDRs, masqLinkLocal, masqLinkLocalIPv6, resyncInterval, cidrLimit, masqueradeCIDRs, nodeOverrides",
				},
				{
					Code: config.CodeNotFinite, Severity: config.Fatal, Path: "x", Line: 1, Column: 4, Text: ".inf",
					Message: `".inf" is no number that JSON can express`,
					Remedy:  "write a number, or put it in quotes",
				},
			},
		},
		{
			name: "not UTF-8",
			text: "cidrLimit: 5\n# \xfc\n",
			problems: []config.Problem{
				{
					Code: config.CodeEncoding, Severity: config.Fatal, Line: 2, Column: 3,

					Message: "the byte 0xfc is not UTF-8",
					Remedy:  "save the text as UTF-8",
				},
			},
		},
		{
			name: "control character",
			text: "cidrLimit: 5\n# \x1b\n",
			problems: []config.Problem{
				{
					Code: config.CodeControlCharacter, Severity: config.Fatal, Line: 2, Column: 3, Text: "\x1b",
					Message: "the control character U+001B is not allowed",
					Remedy:  "remove it",
				},
			},
		},
		{
			name: "tab for indentation",
			text: "nonMasqueradeCIDRs:\n\t- 10.0.0.0/8\n",
			problems: []config.Problem{
				{
					Code: config.CodeTab, Severity: config.Fatal, Line: 2, Column: 1, Text: "\t",
					Message: `"- 10.0.0.0/8" is indented with a tab`,
					Remedy:  "indent with blanks",
				},
			},
		},
		{
			name: "tab before a comment",
			text: "cidrLimit: 5\n\t# five\n",
			problems: []config.Problem{
				{
					Code: config.CodeTab, Severity: config.Fatal, Line: 2, Column: 1, Text: "\t",
					Message: `"# five" is indented with a tab`,
					Remedy:  "indent with blanks",
				},
			},
		},
		{
			name: "non-breaking blank after a dash",
			text: "nonMasqueradeCIDRs:\n-\u00a010.5.0.0/16\n",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 2, Column: 2, Text: "\u00a0",
					Message: `"-\u00a010.5.0.0/16" has the invisible character '\u00a0', which is no blank`,
					Remedy:  "put a blank in its place",
				},
			},
		},
		{
			name: "key without a colon among others",
			text: "nonMasqueradeCIDRs:\n- 10.0.0.0/8\nmasqLinkLocal true\nresyncInterval: 60s\n",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 3, Column: 1, Text: "masqLinkLocal true",
					Message: `"masqLinkLocal true" is neither a key with a value nor an element of a list`,
					Remedy:  "write masqLinkLocal: true",
				},
			},
		},
		{
			name: "colon without a blank",
			text: "nonMasqueradeCIDRs:\n- 10.0.0.0/8\nmasqLinkLocal:true\nresyncInterval: 60s\n",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 3, Column: 1, Text: "masqLinkLocal:true",
					Message: `"masqLinkLocal:true" is neither a key with a value nor an element of a list`,
					Remedy:  "write masqLinkLocal: true",
				},
			},
		},
		{
			name: "dash without a blank among others",
			text: "nonMasqueradeCIDRs:\n- 10.0.0.0/8\n-172.16.0.0/12\nresyncInterval: 60s\n",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 3, Column: 1, Text: "-172.16.0.0/12",
					Message: `"-172.16.0.0/12" is neither a key with a value nor an element of a list`,
					Remedy:  "write - 172.16.0.0/12",
				},
			},
		},
		{
			name: "element not aligned",
			text: "nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n - 172.16.0.0/12\nresyncInterval: 60s\n",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 3, Column: 2, Text: "- 172.16.0.0/12",
					Message: `"- 172.16.0.0/12" is not aligned with the list above it`,
					Remedy:  "indent all elements of a list alike",
				},
			},
		},
		{
			name: "key under a value",
			text: "cidrLimit: 5\n  masqLinkLocal: true\n",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 2, Column: 3, Text: "masqLinkLocal: true",
					Message: `"masqLinkLocal: true" is indented under the value of another key`,
					Remedy:  "start the key in the first column",
				},
			},
		},
		{
			name: "bracket not closed",
			text: "cidrLimit: 5\nnonMasqueradeCIDRs: [10.0.0.0/8, 172.16.0.0/12\nresyncInterval: 60s\n",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 2, Column: 1, Text: "nonMasqueradeCIDRs: [10.0.0.0/8, 172.16.0.0/12",
					Message: `"nonMasqueradeCIDRs: [10.0.0.0/8, 172.16.0.0/12" lacks a comma or the closing ]`,
					Remedy:  "close the bracket with ]",
				},
			},
		},
		{
			name: "quote not closed",
			text: "nonMasqueradeCIDRs:\n- \"10.0.0.0/8\n- 172.16.0.0/12\n",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 2, Column: 1, Text: "- \"10.0.0.0/8",
					Message: `"- \"10.0.0.0/8" opens a quote that is not closed`,
					Remedy:  "close the quote",
				},
			},
		},
		{
			name: "unknown alias",
			text: "nonMasqueradeCIDRs:\n- *office\n",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 2, Column: 1, Text: "- *office",
					Message: `"- *office" has an alias without an anchor`,
					Remedy:  "write the value itself instead of the alias",
				},
			},
		},
		{
			name: "stars for dashes",
			text: "nonMasqueradeCIDRs:\n* 10.0.0.0/8\n",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 2, Column: 1, Text: "* 10.0.0.0/8",
					Message: `"* 10.0.0.0/8" has a * or & without a name behind it`,
					Remedy:  "write - before an element of a list; put a value that starts with * or & in quotes",
				},
			},
		},
		{
			name: "merge conflict",
			text: "cidrLimit: 5\n<<<<<<< HEAD\nresyncInterval: 60s\n=======\nresyncInterval: 5m\n>>>>>>> theirs\n",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 2, Column: 1, Text: "<<<<<<< HEAD",
					Message: `"<<<<<<< HEAD" is left from a merge conflict`,
					Remedy:  "keep one of the two versions, without the marks",
				},
			},
		},
		{
			name: "template",
			text: "nonMasqueradeCIDRs: {{ .Values.cidrs }}\n",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 1, Column: 22, Text: "{ .Values.cidrs }}",
					Message: `"{ .Values.cidrs }}" is part of a template that has not been filled in`,
					Remedy:  "fill in the template first",
				},
			},
		},
		{
			name: "comma at the end in JSON",
			text: "{\"nonMasqueradeCIDRs\": [\n  \"10.5.0.0/16\",\n]}",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 2, Column: 16, Text: ",",
					Message: `"," stands before the closing ]`,
					Remedy:  "remove the comma",
				},
			},
		},
		{
			name: "comma missing in JSON",
			text: "{\"nonMasqueradeCIDRs\": [\"10.0.0.0/8\" \"172.16.0.0/12\"]}",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 1, Column: 38, Text: "\"172.16.0.0/12\"]}",
					Message: `"\"172.16.0.0/12\"]}" follows a value without a comma`,
					Remedy:  "write a comma between two values",
				},
			},
		},
		{
			name: "comment in JSON",
			text: "{\n  // office\n  \"cidrLimit\": 5\n}",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 2, Column: 3, Text: "//",
					Message: `"//" starts a comment, which JSON does not have`,
					Remedy:  "remove the comment, or write the text as YAML",
				},
			},
		},
		{
			name: "single quotes in JSON",
			text: "{'cidrLimit': 5}",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 1, Column: 2, Text: "'cidrLimit':",
					Message: `"'cidrLimit':" has single quotes`,
					Remedy:  "write double quotes",
				},
			},
		},
		{
			name: "something behind JSON",
			text: "{\"cidrLimit\": 5} x",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 1, Column: 18, Text: "x",
					Message: `"x" follows the closing brace`,
					Remedy:  "remove it",
				},
			},
		},
		{
			name: "JSON not closed",
			text: "{\"cidrLimit\": 5\n",
			problems: []config.Problem{
				{
					Code: config.CodeSyntax, Severity: config.Fatal, Line: 1, Column: 16,

					Message: "the JSON ends before every bracket, brace and quote is closed",
					Remedy:  "close them",
				},
			},
		},
		{
			name: "mistakes in JSON",
			text: "{\n\t\"nonMasqueradeCIDRs\": [\"10.0.0.1/8\", null, 5],\n\t\"resyncInterval\": 60,\n\t\"masqLinkLocal\": null\n}\n",
			problems: []config.Problem{
				{
					Code: config.CodeHostBits, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[0]", Line: 2, Column: 25, Text: "\"10.0.0.1/8\"",
					Message: `"10.0.0.1/8" has host bits set`,
					Remedy:  "write 10.0.0.0/8",
				},
				{
					Code: config.CodeNullElement, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[1]", Line: 2, Column: 39, Text: "null",
					Message: "the element is empty; the upstream agent would put a default range in its place",
					Remedy:  "remove the element, or write a CIDR",
				},
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[2]", Line: 2, Column: 45, Text: "5",
					Message: `"5" is a number, not a CIDR`,
					Remedy:  "write a CIDR such as 10.0.0.0/8",
				},
				{
					Code: config.CodeWrongType, Severity: config.Fatal, Path: "resyncInterval", Line: 3, Column: 20, Text: "60",
					Message: `"60" is a number, not a duration with a unit`,
					Remedy:  `write "60s"`,
				},
				{
					Code: config.CodeNullValue, Severity: config.Suspicious, Path: "masqLinkLocal", Line: 4, Column: 2, Text: "\"masqLinkLocal\"",
					Message: `"masqLinkLocal" has no value, so false stays in force`,
					Remedy:  `write "masqLinkLocal": false, or remove the key`,
				},
			},
		},
		{
			name: "list too deep",
			text: "nonMasqueradeCIDRs: " + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "\n",
			problems: []config.Problem{
				{
					Code: config.CodeTooDeep, Severity: config.Fatal, Path: "nonMasqueradeCIDRs", Line: 1, Column: 53, Text: "[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
					Message: "the text is nested too deep",
					Remedy:  "write nonMasqueradeCIDRs as a plain list",
				},
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, problems := config.Parse([]byte(test.text))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("configuration (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.problems, problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			checkProblems(t, test.text, problems)
		})
	}
}
