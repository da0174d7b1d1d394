package foreign_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// scanNFT reads a whole ruleset, as often as there is something wanted that it has.
func scanNFT(t *testing.T, text []byte) *foreign.NFTScan {
	t.Helper()
	s := foreign.NewNFTScan(func(_, table, chain string) bool { return table == "nat" && chain == "POSTROUTING" })
	if err := s.ReadChains(bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		before := s.Wanted()
		if err := s.Read(bytes.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		wanted := s.Wanted()
		if len(wanted) == 0 {
			return s
		}
		if slices.Equal(before, wanted) {
			t.Fatalf("the text has nothing of %v", wanted)
		}
	}
	t.Fatal("the text is read without an end")
	return nil
}

// TestNativeTables has the tables of each program as nft -j list ruleset prints them.
func TestNativeTables(t *testing.T) {
	tests := []struct {
		name   string // of the file in testdata/nft
		family ruleset.Family
		want   []string
	}{
		{
			name: "kube-proxy",
			want: []string{
				"kube-proxy either masquerading: harmless | masquerade fully-random",
			},
		},
		{
			name: "flannel",
			want: []string{
				"flannel either postrtg: undoes from 10.244.0.0/16 to 10.0.0.0-10.243.255.255 to 10.245.0.0-10.255.255.255" +
					" to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16" +
					" | ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
				"flannel either postrtg: harmless | ip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random",
			},
		},
		{
			name: "docker",
			want: []string{
				"docker either nat-postrouting-out__docker0: undoes from 172.17.0.0/16 to 10.0.0.0/8 to 169.254.0.0/16" +
					` to 172.16.0.0/12 to 192.168.0.0/16 | oifname != docker0 ip saddr 172.17.0.0/16 masquerade comment "MASQUERADE"`,
				"docker either nat-postrouting-out__bridge1: undoes from 192.0.2.0/24 to 10.0.0.0/8 to 169.254.0.0/16" +
					` to 172.16.0.0/12 to 192.168.0.0/16 | oifname != bridge1 ip saddr 192.0.2.0/24 masquerade comment "MASQUERADE"`,
				"docker either nat-postrouting-in__docker0: harmless | fib saddr type local masquerade" +
					` comment "MASQUERADE FROM HOST"`,
				"docker either nat-postrouting-in__bridge1: harmless" +
					` | ip saddr 192.0.2.2 ip daddr 192.0.2.2 tcp dport 80 masquerade comment "MASQ TO OWN PORT"`,
			},
		},
		{
			name: "cni-plugins",
			want: []string{
				"cni-plugins either masq_checks: undoes from 10.244.1.7/32 to 10.0.0.0-10.244.0.255" +
					" to 10.244.2.0-10.255.255.255 to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16" +
					" | ip saddr 10.244.1.7 ip daddr != 10.244.1.0/24 masquerade" +
					` comment "6fd5b8d4ad9a5b1e-7ba3f4d9b1f6b1ad, net: cbr0, if: eth0, id: 3c1f"`,
				`cni-plugins either masquerading: harmless | ip saddr 10.244.1.7 ip daddr 10.244.1.7 masquerade comment "3c1f"`,
				`cni-plugins either masquerading: harmless | ip saddr 127.0.0.1 ip daddr 10.244.1.7 masquerade comment "3c1f"`,
			},
		},
		{
			name: "cni-plugins", family: ruleset.IPv6,
			want: []string{
				"cni-plugins either masq_checks: undoes from fd00:10:244:1::7/128 to fd00::-fd00:10:244:0:ffff:ffff:ffff:ffff" +
					" to fd00:10:244:2::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff to fe80::/10" +
					" | ip6 saddr fd00:10:244:1::7 ip6 daddr != fd00:10:244:1::/64 masquerade" +
					` comment "6fd5b8d4ad9a5b1e-7ba3f4d9b1f6b1ad, net: cbr0, if: eth0, id: 3c1f"`,
			},
		},
		{
			name: "netavark",
			want: []string{
				"podman either nv_2f259bab_10_88_0_0_nm16: undoes from 10.88.0.0/16 to 10.0.0.0-10.87.255.255" +
					" to 10.89.0.0-10.255.255.255 to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16" +
					" | ip daddr != 224.0.0.0/4 masquerade",
				"podman either POSTROUTING: harmless | meta mark & 0x2000 == 0x2000 masquerade",
			},
		},
		{
			name: "kindnet",
			want: []string{
				"kindnet before postrouting: undoes to 10.128.0.0-10.243.255.255 to 10.245.0.0-10.255.255.255" +
					" to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16 | masquerade",
			},
		},
		{
			name: "kindnet", family: ruleset.IPv6,
			want: []string{
				"kindnet before postrouting: undoes to fd00::-fd00:10:243:ffff:ffff:ffff:ffff:ffff" +
					" to fd00:10:244:100::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff to fe80::/10 | masquerade",
			},
		},
		{
			name: "late",
			want: []string{
				"unknown after postrouting: undoes to 10.0.0.0/8 to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16" +
					" | oifname eth0 snat to 192.0.2.1",
				"unknown after postrouting: undoes to 10.0.0.0/8 to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16 | snat" +
					" to map data { 10.0.0.0/24, 192.168.1.0/24 } key ip saddr netmap",
				"unknown after postrouting: unknown to 10.0.0.0/8 to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16" +
					" | limit meta mark set 0x4 meta mark 0x4 masquerade",
				"unknown after postrouting: harmless | ip protocol { tcp, udp } ip daddr { 8.8.4.4, 8.8.8.8 } masquerade" +
					" to :1024-65535",
				"unknown after postrouting: harmless | meta cpu 0 masquerade",
				"unknown after postrouting: harmless | ip saddr . ip daddr { 10.1.1.1 . 10.1.1.2 } masquerade",
				"unknown after postrouting: harmless | ip saddr 10.0.0.0/8 oifname { eth1, eth2 } masquerade random",
				"unknown after postrouting: harmless | meta mark > 0x4 masquerade",
			},
		},
		{
			name: "late", family: ruleset.IPv6,
		},
	}
	for _, test := range tests {
		list := []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}
		if test.family == 0 {
			test.family = ruleset.IPv4
		} else {
			list = []string{"fd00::/8"}
		}
		t.Run(test.name+" "+test.family.String(), func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", "nft", test.name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			hooks, whole := scanNFT(t, text).Hooks(test.family)
			if !whole {
				t.Error("the scan has dropped rules")
			}
			report := foreign.Judge(nftPlace(decide(test.family, list...)), hooks)
			var got []string
			for _, f := range report.Findings {
				got = append(got, summary(f)+" | "+f.Rule)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("findings differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNFTRefuses(t *testing.T) {
	tests := []struct {
		name string
		text string
		want string
	}{
		{"empty", "", "reading the output of nft: EOF"},
		{"other JSON", `{"rules": []}`, "reading the output of nft: it has rules in the place of nftables"},
		{"torn", `{"nftables": [{"chain": {"family": "ip", "ta`, "reading the output of nft: unexpected EOF"},
		{"torn between elements", `{"nftables": [{"chain": {"family": "ip"}}`, "reading the output of nft: EOF"},
		{"of another shape", `{"nftables": [{"chain": 5}]}`, "reading the output of nft: json: cannot unmarshal"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := foreign.NewNFTScan(func(string, string, string) bool { return false })
			if err := s.ReadChains(strings.NewReader(test.text)); err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("Read: %v, want an error that begins %q", err, test.want)
			}
		})
	}
}
