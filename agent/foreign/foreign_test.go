package foreign_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// decide is what a list means, with the flags at their defaults.
func decide(family ruleset.Family, list ...string) ruleset.Decision {
	c := config.Config{}
	for _, cidr := range list {
		c.NonMasquerade = append(c.NonMasquerade, netip.MustParsePrefix(cidr))
	}
	return ruleset.Decide(c, family, ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: true})
}

func nftPlace(d ruleset.Decision) foreign.Ours {
	return foreign.Ours{Decision: d, Backend: "nft", Chain: "IP-MASQ-AGENT", Priority: 100}
}

// scan reads a text of iptables-save as often as it has to be.
func scan(t *testing.T, text string, family ruleset.Family, sets foreign.Sets) foreign.Hook {
	t.Helper()
	s := foreign.NewSaveScan("nft", family)
	for passes := 1; ; passes++ {
		for line := range strings.Lines(text) {
			s.Line(strings.TrimSuffix(line, "\n"))
		}
		if !s.Again() {
			break
		}
		if passes > 20 {
			t.Fatal("the text is read without an end")
		}
	}
	hook, whole := s.Hook(sets)
	if !whole {
		t.Error("the scan has dropped rules")
	}
	return hook
}

// summary is a finding in one line, without words that are for people.
func summary(f foreign.Finding) string {
	from := ""
	for _, p := range f.Sources {
		from += " from " + p
	}
	to := ""
	for _, p := range f.Ranges {
		to += " to " + p
	}
	if f.More > 0 {
		to += fmt.Sprintf(" and %d more", f.More)
	}
	return fmt.Sprintf("%s %s %s: %s%s%s", f.Owner, f.Position, f.Chain, f.Verdict, from, to)
}

func summaries(r foreign.Report) []string {
	var all []string
	for _, f := range r.Findings {
		all = append(all, summary(f))
	}
	return all
}

// TestPrograms has the rules of each program as they stand in a nat table: after a start
// of the program, beside our jump, which comes first or last.
func TestPrograms(t *testing.T) {
	tests := []struct {
		name string // of the file in testdata, IPv4 unless it ends in "-ipv6"
		list []string
		want []string
	}{
		{
			name: "kube-proxy-iptables",
			want: []string{"kube-proxy before KUBE-POSTROUTING: harmless"},
		},
		{
			name: "kube-proxy-ipvs",
			want: []string{
				"kube-proxy before KUBE-POSTROUTING: harmless",
				"kube-proxy before KUBE-POSTROUTING: harmless",
			},
		},
		{
			name: "kubelet-old", // before 1.16, and the kubelet's own masquerading before 1.24
			want: []string{
				"kubenet after POSTROUTING: undoes to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16",
				"kube-proxy before KUBE-POSTROUTING: harmless",
			},
		},
		{
			name: "docker",
			want: []string{
				"docker before POSTROUTING: undoes from 172.17.0.0/16 to 10.0.0.0/8 to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16",
				"docker before POSTROUTING: undoes from 172.20.0.0/16 to 10.0.0.0/8 to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16",
				"docker before POSTROUTING: harmless",
				"unknown before POSTROUTING: harmless",
			},
		},
		{
			name: "flannel-before",
			want: []string{
				"flannel before FLANNEL-POSTRTG: undoes from 10.244.0.0/16 to 10.0.0.0-10.244.0.255" +
					" to 10.244.2.0-10.255.255.255 to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16",
				"flannel before FLANNEL-POSTRTG: undoes from 0.0.0.0-10.243.255.255 from 10.245.0.0-255.255.255.255" +
					" to 10.244.0.0/24 to 10.244.2.0-10.244.255.255",
			},
		},
		{
			name: "flannel-after",
			want: []string{
				"flannel after FLANNEL-POSTRTG: undoes from 10.244.0.0/16 to 10.0.0.0-10.244.0.255" +
					" to 10.244.2.0-10.255.255.255 to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16",
				"flannel after FLANNEL-POSTRTG: undoes from 0.0.0.0-10.243.255.255 from 10.245.0.0-255.255.255.255" +
					" to 10.244.0.0/24 to 10.244.2.0-10.244.255.255",
			},
		},
		{
			name: "flannel-old",
			want: []string{
				"flannel before POSTROUTING: undoes from 10.244.0.0/16 to 10.0.0.0-10.243.255.255" +
					" to 10.245.0.0-10.255.255.255 to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16",
				"flannel before POSTROUTING: undoes from 0.0.0.0-10.243.255.255 from 10.245.0.0-255.255.255.255" +
					" to 10.244.0.0/24 to 10.244.2.0-10.244.255.255",
			},
		},
		{
			name: "cni-bridge",
			want: []string{
				"cni-plugins after CNI-cb0db077a14ecd8d4a843636: undoes from 100.64.0.5/32 to 10.0.0.0/8" +
					" to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16",
				"cni-plugins before CNI-HOSTPORT-MASQ: harmless",
			},
		},
		{
			name: "cni-bridge-before",
			want: []string{
				"cni-plugins before CNI-cb0db077a14ecd8d4a843636: undoes from 100.64.0.5/32 to 10.0.0.0/8" +
					" to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16",
				"cni-plugins before CNI-cb0db077a14ecd8d4a843636: shadows-us from 100.64.0.5/32 to 100.64.0.0/24",
			},
		},
		{
			name: "aws",
			want: []string{
				"aws-vpc-cni before AWS-SNAT-CHAIN-0: undoes to 10.0.0.0/8 to 169.254.0.0/16" +
					" to 172.16.0.0-172.30.255.255 to 192.168.0.0/16",
			},
		},
		{
			name: "aws-old",
			want: []string{
				"aws-vpc-cni after AWS-SNAT-CHAIN-1: undoes to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16",
			},
		},
		{
			name: "cilium",
			want: []string{
				"cilium before CILIUM_POST_nat: undoes from 10.0.0.0/24 to 10.0.1.0-10.255.255.255 to 169.254.0.0/16" +
					" to 172.16.0.0/12 to 192.168.0.0/16",
				"cilium before CILIUM_POST_nat: harmless",
				"cilium before CILIUM_POST_nat: harmless",
			},
		},
		{
			name: "calico",
			want: []string{
				"calico before cali-nat-outgoing: unknown to 10.0.0.0/8 to 169.254.0.0/16 to 172.16.0.0/12" +
					" to 192.168.0.0/16",
				"calico before cali-POSTROUTING: harmless",
			},
		},
		{
			name: "libvirt",
			want: []string{
				"libvirt before LIBVIRT_PRT: undoes from 192.168.122.0/24 to 10.0.0.0/8 to 169.254.0.0/16" +
					" to 172.16.0.0/12 to 192.168.0.0-192.168.121.255 to 192.168.123.0-192.168.255.255",
				"libvirt before LIBVIRT_PRT: undoes from 192.168.122.0/24 to 10.0.0.0/8 to 169.254.0.0/16" +
					" to 172.16.0.0/12 to 192.168.0.0-192.168.121.255 to 192.168.123.0-192.168.255.255",
				"libvirt before LIBVIRT_PRT: undoes from 192.168.122.0/24 to 10.0.0.0/8 to 169.254.0.0/16" +
					" to 172.16.0.0/12 to 192.168.0.0-192.168.121.255 to 192.168.123.0-192.168.255.255",
			},
		},
		{
			name: "podman",
			want: []string{
				"podman before NETAVARK-1D8721804F16F: undoes from 10.88.0.0/16 to 10.0.0.0-10.87.255.255" +
					" to 10.89.0.0-10.255.255.255 to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16",
				"podman before NETAVARK-HOSTPORT-MASQ: harmless",
			},
		},
		{
			name: "kube-router",
			want: []string{
				"kube-router before POSTROUTING: unknown to 10.0.0.0/8 to 169.254.0.0/16 to 172.16.0.0/12" +
					" to 192.168.0.0/16",
			},
		},
		{
			name: "gke",
			want: []string{
				"gke before IP-MASQ: duplicate to 0.0.0.0-9.255.255.255 to 11.0.0.0-100.63.255.255" +
					" to 100.128.0.0-169.253.255.255 to 169.255.0.0-172.15.255.255 to 172.32.0.0-191.255.255.255" +
					" to 192.0.1.0/24 to 192.0.3.0-192.88.98.255 to 192.88.100.0-192.167.255.255" +
					" to 192.169.0.0-198.17.255.255 to 198.20.0.0-198.51.99.255 to 198.51.101.0-203.0.112.255" +
					" to 203.0.114.0-239.255.255.255",
			},
		},
		{
			name: "gke-narrow",
			list: []string{"10.0.0.0/8", "8.0.0.0/8"},
			want: []string{
				"gke before IP-MASQ: undoes to 8.0.0.0/8",
			},
		},
		{
			name: "azure",
			want: []string{
				"ip-masq-agent after IP-MASQ-AGENT-V2: undoes to 10.0.0.0-10.223.255.255 to 10.240.0.0/12" +
					" to 172.16.0.0/12 to 192.168.0.0/16",
			},
		},
		{
			name: "home-made",
			want: []string{
				"unknown before POSTROUTING: unknown to 10.0.0.0/8 to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16",
				"unknown before POSTROUTING: unknown to 10.0.0.0/8 to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16",
				"unknown before POSTROUTING: unknown to 10.0.0.0/8 to 169.254.0.0/16 to 172.16.0.0/12 to 192.168.0.0/16",
				"unknown before POSTROUTING: duplicate from 10.1.0.0-10.1.0.9 to 8.8.0.0/16",
				"unknown after POSTROUTING: harmless",
				"unknown after POSTROUTING: harmless",
				"unknown after POSTROUTING: harmless",
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", test.name+".rules"))
			if err != nil {
				t.Fatal(err)
			}
			family, list := ruleset.IPv4, test.list
			if strings.HasSuffix(test.name, "-ipv6") {
				family = ruleset.IPv6
			} else if list == nil {
				list = []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}
			}
			report := foreign.Judge(nftPlace(decide(family, list...)), []foreign.Hook{scan(t, string(text), family, nil)})
			if diff := cmp.Diff(test.want, summaries(report)); diff != "" {
				t.Errorf("findings differ (-want +got):\n%s", diff)
			}
		})
	}
}
