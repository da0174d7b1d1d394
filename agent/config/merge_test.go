package config_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// merged reads files that load, and merges them.
func merged(t *testing.T, options config.Options, texts ...string) (config.Config, []config.Problem) {
	t.Helper()
	var parts []config.Part
	for i, text := range texts {
		part, problems := config.ParseFile(config.File{Name: "ip-masq-" + string(rune('a'+i)), Text: []byte(text)}, options)
		if isFatal(problems) {
			t.Fatal(problems)
		}
		parts = append(parts, part)
	}
	return config.Merge(parts, options)
}

func TestMerge(t *testing.T) {
	all := []string{"nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"}
	for _, test := range []struct {
		name     string
		options  config.Options
		texts    []string
		want     config.Config
		problems []string
	}{
		{name: "nothing", want: config.Default()},
		{
			name: "one file", texts: []string{"nonMasqueradeCIDRs: [10.0.0.0/8]\nmasqueradeCIDRs: [10.1.0.0/16]\nresyncInterval: 5s\ncidrLimit: 2\n"},
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8"), Masquerade: prefixes("10.1.0.0/16"), Resync: 5 * time.Second, CIDRLimit: 2, Defaulted: all[1:3],
			},
		},
		{
			name:  "unions in the order of the files, each range once",
			texts: []string{"nonMasqueradeCIDRs: [10.2.0.0/16, 10.1.0.0/16]\nmasqueradeCIDRs: [10.1.1.0/24]\n", "masqLinkLocal: true\n", "nonMasqueradeCIDRs: [10.0.0.0/16, 10.1.0.0/16]\nmasqueradeCIDRs: [10.0.1.0/24, 10.1.1.0/24]\n"},
			want: config.Config{
				NonMasquerade: prefixes("10.2.0.0/16", "10.1.0.0/16", "10.0.0.0/16"), Masquerade: prefixes("10.1.1.0/24", "10.0.1.0/24"),
				MasqueradeLinkLocal: true, Resync: time.Minute, CIDRLimit: 192, Defaulted: all[2:],
			},
		},
		{
			name: "no list is the default one, an empty list is a list", texts: []string{"masqLinkLocal: true\n", "nonMasqueradeCIDRs: []\n"},
			want: config.Config{MasqueradeLinkLocal: true, Resync: time.Minute, CIDRLimit: 128, Defaulted: all[2:]},
		},
		{
			name: "no list anywhere", texts: []string{"masqLinkLocal: true\n", "masqueradeCIDRs: [10.1.0.0/16]\n"},
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"), Masquerade: prefixes("10.1.0.0/16"),
				MasqueradeLinkLocal: true, Resync: time.Minute, CIDRLimit: 128, Defaulted: append(slices.Clone(all[:1]), all[2:]...),
			},
		},
		{
			name: "a range that is spared and excepted",
			texts: []string{
				"nonMasqueradeCIDRs: [10.0.0.0/8]\nmasqueradeCIDRs:\n- 10.1.0.0/16\n", "nonMasqueradeCIDRs:\n- 11.0.0.0/8\n- 10.1.0.0/16\nmasqueradeCIDRs: [11.1.0.0/16]\n",
			},
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "11.0.0.0/8", "10.1.0.0/16"), Masquerade: prefixes("11.1.0.0/16"), Resync: time.Minute, CIDRLimit: 128,
				Defaulted: all[1:],
			},
			problems: []string{
				`suspicious files-disagree ip-masq-a: line 3, masqueradeCIDRs[0]: "10.1.0.0/16" is spared by ip-masq-b: nonMasqueradeCIDRs[1] in line 3, which wins; ` +
					`keep it in one of the two files`,
			},
		},
		{
			name: "switches and intervals",
			texts: []string{
				"masqLinkLocal: false\nresyncInterval: 60s\nmasqLinkLocalIPv6: false\n", "masqLinkLocal: true\nresyncInterval: 5m\n", "resyncInterval: 30s\n",
			},
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"), MasqueradeLinkLocal: true, Resync: 30 * time.Second, CIDRLimit: 192,
				Defaulted: []string{"nonMasqueradeCIDRs", "cidrLimit"},
			},
			problems: []string{
				`suspicious files-disagree ip-masq-a: line 1, masqLinkLocal: masqLinkLocal is false here, but true in ip-masq-b, which wins; write the same in both files`,
				`suspicious files-disagree ip-masq-a: line 2, resyncInterval: resyncInterval is 1m here, but 30s in ip-masq-c, which wins, since it is shorter; write the same in both files`,
				`suspicious files-disagree ip-masq-b: line 2, resyncInterval: resyncInterval is 5m here, but 30s in ip-masq-c, which wins, since it is shorter; write the same in both files`,
			},
		},
		{
			name:  "an exception without effect anywhere, and one that another file gives effect",
			texts: []string{"nonMasqueradeCIDRs: []\nmasqueradeCIDRs:\n- 12.0.0.0/8\n- 11.1.0.0/16\n", "nonMasqueradeCIDRs: [11.0.0.0/8]\n"},
			want: config.Config{
				NonMasquerade: prefixes("11.0.0.0/8"), Masquerade: prefixes("12.0.0.0/8", "11.1.0.0/16"), Resync: time.Minute, CIDRLimit: 128, Defaulted: all[1:],
			},
			problems: []string{
				`suspicious ineffective-exception ip-masq-a: line 3, masqueradeCIDRs[0]: "12.0.0.0/8" lies in no range that is spared, so it is masqueraded anyway; remove it`,
			},
		},
		{
			name: "overrides, on top of all files",
			texts: []string{
				"nonMasqueradeCIDRs: [10.0.0.0/8]\nnodeOverrides:\n- matchLabels: {a: b}\n  masqueradeCIDRs: [11.0.0.0/8, 10.1.0.0/16]\n",
				"nonMasqueradeCIDRs: [11.0.0.0/8]\nnodeOverrides:\n- matchLabels: {a: c}\n  masqLinkLocal: true\n- matchLabels: {a: b, d: e}\n",
			},
			want: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "11.0.0.0/8"), Resync: time.Minute, CIDRLimit: 128, Defaulted: all[1:],
				Overrides: []config.Override{
					{
						MatchLabels: []config.Label{{Key: "a", Value: "b"}}, Sets: []string{"masqueradeCIDRs"},
						Config: config.Config{
							NonMasquerade: prefixes("10.0.0.0/8", "11.0.0.0/8"), Masquerade: prefixes("10.1.0.0/16"), Resync: time.Minute, CIDRLimit: 128, Defaulted: all[1:],
						},
					},
					{
						MatchLabels: []config.Label{{Key: "a", Value: "c"}}, Sets: []string{"masqLinkLocal"},
						Config: config.Config{
							NonMasquerade: prefixes("10.0.0.0/8", "11.0.0.0/8"), MasqueradeLinkLocal: true, Resync: time.Minute, CIDRLimit: 128, Defaulted: all[2:],
						},
					},
					{
						MatchLabels: []config.Label{{Key: "a", Value: "b"}, {Key: "d", Value: "e"}},
						Config:      config.Config{NonMasquerade: prefixes("10.0.0.0/8", "11.0.0.0/8"), Resync: time.Minute, CIDRLimit: 128, Defaulted: all[1:]},
					},
				},
			},
			problems: []string{
				`suspicious files-disagree ip-masq-a: line 4, nodeOverrides[0].masqueradeCIDRs[0]: with the override of a=b: "11.0.0.0/8" is spared by ip-masq-b: nonMasqueradeCIDRs[0] in line 1, which wins; ` +
					`keep it in one of the two lists`,
				`suspicious files-disagree ip-masq-b: line 5, nodeOverrides[1]: no node gets as far as here: ip-masq-a: nodeOverrides[0] matches every node that this one does; ` +
					`put it before that one, or remove it`,
			},
		},
		{
			name:  "too many CIDRs",
			texts: []string{wideList(10), wideList(11), "nonMasqueradeCIDRs: [192.0.2.0/24]\n"},
			want: func() config.Config {
				c := config.Config{Resync: time.Minute, CIDRLimit: 20064, Defaulted: all[1:4]}
				for i := range 10000 {
					c.NonMasquerade = append(c.NonMasquerade, netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)))
				}
				c.NonMasquerade = append(c.NonMasquerade, netip.MustParsePrefix("192.0.2.0/24"))
				return c
			}(),
			problems: []string{
				`fatal too-many-cidrs ip-masq-b: line 6387, nonMasqueradeCIDRs[6384]: with this file there are more than 16384 CIDRs in all files; join neighbouring ranges into wider ones`,
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, problems := merged(t, test.options, test.texts...)
			if diff := cmp.Diff(test.want, c); diff != "" {
				t.Errorf("configuration (-want +got):\n%s", diff)
			}
			var got []string
			for _, p := range problems {
				got = append(got, fmt.Sprintf("%s %s %s", p.Severity, p.Code, p))
			}
			if diff := cmp.Diff(test.problems, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func wideList(first int) string {
	var b strings.Builder
	b.WriteString("cidrLimit: 20000\nnonMasqueradeCIDRs:\n")
	for i := range 10000 {
		fmt.Fprintf(&b, "- %d.%d.%d.0/24\n", first, i/256, i%256)
	}
	return b.String()
}

func TestTooManyFiles(t *testing.T) {
	var parts []config.Part
	for i := range 66 {
		part, _ := config.ParseFile(config.File{Name: fmt.Sprintf("ip-masq-%02d", i), Text: fmt.Appendf(nil, "nonMasqueradeCIDRs: [10.%d.0.0/16]\n", i)}, config.Options{})
		parts = append(parts, part)
	}
	c, problems := config.Merge(parts, config.Options{})
	if len(c.NonMasquerade) != 64 || len(problems) != 2 || problems[1].Code != config.CodeTooManyFiles || problems[1].File != "ip-masq-65" || problems[1].Severity != config.Fatal {
		t.Errorf("%d CIDRs, problems: %v", len(c.NonMasquerade), problems)
	}
}

func TestParseFile(t *testing.T) {
	_, problems := config.ParseFile(config.File{Name: "ip-masq-x", Text: []byte("nonMasqueradeCIDRs: [\"fd00::/8\"]\nmasqueradeCIDRs: [11.0.0.0/8]\n")}, config.Options{})
	if len(problems) != 1 || problems[0].String() != `ip-masq-x: line 1, nonMasqueradeCIDRs[0]: "fd00::/8" is an IPv6 range, but the agent runs without IPv6, `+
		`so it refuses the whole text; remove it, or start the agents with --enable-ipv6` {
		t.Errorf("problems: %v", problems)
	}
}

func TestPlacesInMerged(t *testing.T) {
	c, _ := merged(t, config.Options{}, "resyncInterval: 5s\nnonMasqueradeCIDRs:\n- 10.0.0.0/8\n", "nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 11.0.0.0/8\nnodeOverrides:\n- matchLabels: {a: b}\n  masqueradeCIDRs: [11.1.0.0/16]\n")
	element := c.Element("nonMasqueradeCIDRs", 1)
	if want := (config.Place{File: "ip-masq-b", Path: "nonMasqueradeCIDRs[1]", Position: config.Position{Line: 3, Column: 3}}); element != want {
		t.Errorf("the second range is at %v, want %v", element, want)
	}
	for _, text := range []string{
		"ip-masq-a: nonMasqueradeCIDRs[0]", "ip-masq-b: nonMasqueradeCIDRs[1]", "ip-masq-b: nodeOverrides[0]", "ip-masq-b: nodeOverrides[0].masqueradeCIDRs[0]",
		"ip-masq-a: resyncInterval",
	} {
		if got := c.Find(text); got.String() != text || got.Line == 0 {
			t.Errorf("%s is found at %s, line %d", text, got, got.Line)
		}
	}
	if got := c.Find("nonMasqueradeCIDRs"); got.File != "ip-masq-a" || got.Line != 2 {
		t.Errorf("the list is at %v", got)
	}
	for _, text := range []string{"ip-masq-c: resyncInterval", "ip-masq-b: nonMasqueradeCIDRs[0]", "ip-masq-a: foo", "foo"} {
		if got := c.Find(text); got.Line != 0 || got.String() != text {
			t.Errorf("%s is found at %s, line %d", text, got, got.Line)
		}
	}
}

// TestMergeRandomly compares what is spared with the files one by one, and that merging is
// stable, never fatal, and the same as that of a single file with everything.
func TestMergeRandomly(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	draw := func() string {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(random.IntN(4)), byte(random.IntN(4)), 0}), 8+4*random.IntN(5)).Masked().String()
	}
	for range 2000 {
		spared, excepted := map[netip.Prefix]bool{}, map[netip.Prefix]bool{}
		var texts []string
		for range 1 + random.IntN(3) {
			mine := map[string]bool{}
			var lists [2][]string
			for l := range lists {
				for range random.IntN(4) {
					if cidr := draw(); !mine[cidr] {
						mine[cidr] = true
						lists[l] = append(lists[l], cidr)
					}
				}
			}
			for _, cidr := range lists[0] {
				spared[netip.MustParsePrefix(cidr)] = true
			}
			for _, cidr := range lists[1] {
				excepted[netip.MustParsePrefix(cidr)] = true
			}
			texts = append(texts, fmt.Sprintf("nonMasqueradeCIDRs: [%s]\nmasqueradeCIDRs: [%s]\n", strings.Join(lists[0], ", "), strings.Join(lists[1], ", ")))
		}
		c, problems := merged(t, config.Options{}, texts...)
		if isFatal(problems) {
			t.Fatalf("seed %d: %v: %v", seed, texts, problems)
		}
		got := map[netip.Prefix]bool{}
		for _, prefix := range c.NonMasquerade {
			if !spared[prefix] || got[prefix] {
				t.Fatalf("seed %d: %v: %s is not spared, or twice", seed, texts, prefix)
			}
			got[prefix] = true
		}
		for _, prefix := range c.Masquerade {
			if !excepted[prefix] || spared[prefix] || got[prefix] {
				t.Fatalf("seed %d: %v: %s is not excepted, or spared, or twice", seed, texts, prefix)
			}
			got[prefix] = true
		}
		for prefix := range excepted {
			spared[prefix] = true
		}
		if len(got) != len(spared) {
			t.Fatalf("seed %d: %v: merged %v and %v", seed, texts, c.NonMasquerade, c.Masquerade)
		}
		if again, more := merged(t, config.Options{}, texts...); !again.Equal(c) || !slices.Equal(more, problems) {
			t.Fatalf("seed %d: %v: merged otherwise the second time", seed, texts)
		}
	}
}
