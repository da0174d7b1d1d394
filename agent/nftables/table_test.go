package nftables

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"
	"pgregory.net/rapid"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

//nolint:gochecknoglobals // a flag of the test binary
var update = flag.Bool("update", false, "write the golden files anew")

// goldenCase is testdata/NAME.ip.nft and testdata/NAME.ip6.nft.
type goldenCase struct {
	name    string
	config  config.Config
	options ruleset.Options
}

func goldenCases() []goldenCase {
	plain := ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: true}
	return []goldenCase{
		{name: "defaults", config: config.Default(), options: plain},
		{name: "empty-list", config: config.Config{MasqueradeLinkLocal: true, MasqueradeLinkLocalIPv6: true}, options: plain},
		{name: "everything-spared", config: config.Config{NonMasquerade: prefixes("0.0.0.0/0", "::/0")}, options: plain},
		{name: "exceptions", options: plain, config: config.Config{
			NonMasquerade: prefixes("10.0.0.0/8", "10.1.2.0/24", "192.0.2.1/32", "fd00::/8"),
			Masquerade:    prefixes("10.1.0.0/16", "192.0.2.0/24", "fd00:1::/32"),
		}},
		{name: "odd-chain", config: config.Default(), options: ruleset.Options{Chain: "a.b+c/d:e=f*"}},
		{name: "overlaps", options: plain, config: config.Config{NonMasquerade: prefixes(
			"10.244.0.0/16", "10.244.3.0/24", "10.245.0.0/16", "192.0.2.1/32", "10.244.0.0/16",
			"fd00:10:244::/56", "2001:db8::1/128", "::192.0.2.0/120")}},
		{name: "port-ranges", config: config.Default(), options: ruleset.Options{
			Chain: "IP-MASQ-AGENT", RandomFully: true,
			ToPorts: []ruleset.PortRange{{First: 1024, Last: 29999}, {First: 32768, Last: 49151}, {First: 61000, Last: 61000}},
		}},
		{name: "sources-and-interfaces", config: config.Default(), options: ruleset.Options{
			Chain: "IP-MASQ", Sources: prefixes("10.244.0.0/16", "10.245.0.0/16", "fd00:10:244::/48"),
			Interfaces: []string{"eth+", "eth0", "bond0", "wlan+", "wlan0+"}, SpareMulticast: true,
		}},
	}
}

func prefixes(list ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(list))
	for i, s := range list {
		parsed[i] = netip.MustParsePrefix(s)
	}
	return parsed
}

func families() []ruleset.Family { return []ruleset.Family{ruleset.IPv4, ruleset.IPv6} }

func (c goldenCase) file(family ruleset.Family) string {
	return filepath.Join("testdata", c.name+"."+familyName(family)+".nft")
}

func TestGolden(t *testing.T) {
	for _, test := range goldenCases() {
		for _, family := range families() {
			t.Run(test.name+" "+family.String(), func(t *testing.T) {
				rendered, err := Render(ruleset.Build(test.config, family, test.options))
				if err != nil {
					t.Fatal(err)
				}
				if *update {
					if err = os.WriteFile(test.file(family), []byte(rendered.String()), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(test.file(family))
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), rendered.String()); diff != "" {
					t.Errorf("table differs (-want +got):\n%s", diff)
				}
				// What we write is what we would read.
				found, err := parse(strings.NewReader(rendered.String()))
				if err != nil {
					t.Fatal(err)
				}
				if drift := (&table{}).compare(rendered, found); len(drift) > 0 {
					t.Errorf("the text reads as %v", drift)
				}
			})
		}
	}
}

func TestGoldenFilesAreAllTested(t *testing.T) {
	found, err := filepath.Glob("testdata/*.nft")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"testdata/broken.nft"}
	for _, test := range goldenCases() {
		for _, family := range families() {
			want = append(want, test.file(family))
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("files differ (-tested +found):\n%s", diff)
	}
}

// TestNftTakesGoldenFiles asks the real parser of the text, and that it can say no.
func TestNftTakesGoldenFiles(t *testing.T) {
	h := netns.ForTest(t)
	for _, test := range goldenCases() {
		for _, family := range families() {
			h.Output(t, "nft", "--check", "--file", test.file(family))
		}
	}
	if _, err := h.Run(t.Context(), "nft", "--check", "--file", "testdata/broken.nft"); err == nil {
		t.Error("nft takes testdata/broken.nft")
	}
}

func TestTableName(t *testing.T) {
	for chain, want := range map[string]string{
		"IP-MASQ-AGENT": "ip-masq-guard-IP-MASQ-AGENT",
		"my_chain.1":    "ip-masq-guard-my_chain.1",
		"a/b":           "ip-masq-guard-a/2fb",
		"a+b":           "ip-masq-guard-a/2bb",
		"{;}#":          "ip-masq-guard-/7b/3b/7d/23",
	} {
		if got := TableName(chain); got != want {
			t.Errorf("the table of %s is %s, want %s", chain, got, want)
		}
	}
}

func TestParseOfOthers(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       content
	}{
		{"nothing", "", content{shape: shape{}, elements: map[string][]string{}}},
		{
			"what is not ours", "table ip x { # progname someone\n\tcomment \"a {\"\n\tflags dormant\n\n\tmap m {\n\t\ttype mark : verdict\n" +
				"\t\telements = { 1 : accept }\n\t}\n\n\tset s {\n\t\ttype ipv4_addr\n\t\telements = { 10.0.0.1 comment \"}\", 10.0.0.2,\n\t\t\t     10.0.0.3 }\n\t}\n\tchain c {\n\t}\n}\n",
			content{
				exists: true,
				shape: shape{
					"": {`comment "a {"`, "flags dormant"}, "map m": {"type mark : verdict", "elements = { 1 : accept }"},
					"set s": {"type ipv4_addr"}, "chain c": {},
				},
				elements: map[string][]string{"s": {`10.0.0.1 comment "}"`, "10.0.0.2", "10.0.0.3"}},
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parse(strings.NewReader(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(content{})); diff != "" {
				t.Errorf("content differs (-want +got):\n%s", diff)
			}
		})
	}
	endless := strings.NewReader("table ip x {\n" + strings.Repeat("\tx\n", maxLines))
	if _, err := parse(endless); err == nil {
		t.Error("a table without an end is read")
	}
}

// TestDifference checks that what is deleted and added leads from one list to another.
func TestDifference(t *testing.T) {
	list := rapid.Custom(func(t *rapid.T) *netipx.IPSet {
		var b netipx.IPSetBuilder
		for range rapid.IntRange(0, 8).Draw(t, "prefixes") {
			octet := rapid.Byte().Draw(t, "octet")
			b.AddPrefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, octet}), rapid.IntRange(24, 32).Draw(t, "bits")).Masked())
		}
		set, err := b.IPSet()
		if err != nil {
			t.Fatal(err)
		}
		return set
	})
	rapid.Check(t, func(t *rapid.T) {
		from, to := list.Draw(t, "from"), list.Draw(t, "to")
		deleted, added := difference(from.Ranges(), to.Ranges())
		held := map[netipx.IPRange]bool{}
		for _, r := range from.Ranges() {
			held[r] = true
		}
		for _, r := range deleted {
			if !held[r] {
				t.Errorf("%s is deleted, and was not there", r)
			}
			delete(held, r)
		}
		for _, r := range added {
			held[r] = true
		}
		if len(held) != len(to.Ranges()) {
			t.Errorf("%d ranges, want %d", len(held), len(to.Ranges()))
		}
		for _, r := range to.Ranges() {
			if !held[r] {
				t.Errorf("%s is not there", r)
			}
		}
		both := common(deleted, added)
		for octet := range 256 {
			address := netip.AddrFrom4([4]byte{10, 0, 0, byte(octet)})
			in := func(ranges []netipx.IPRange) bool {
				return slices.ContainsFunc(ranges, func(r netipx.IPRange) bool { return r.Contains(address) })
			}
			if in(both) != (in(deleted) && in(added)) {
				t.Errorf("%s is in common(%v, %v): %v", address, deleted, added, in(both))
			}
		}
	})
}
