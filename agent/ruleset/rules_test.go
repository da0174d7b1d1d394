package ruleset_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

func TestRules(t *testing.T) {
	const (
		spared    = ` -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN`
		sources   = ` -m comment --comment "ip-masq-agent: traffic from other sources is not subject to MASQUERADE" -j RETURN`
		out       = ` -m comment --comment "ip-masq-agent: traffic through other interfaces is not subject to MASQUERADE" -j RETURN`
		exception = ` -m comment --comment "ip-masq-agent: exception, outbound traffic is subject to MASQUERADE"`
		rest      = ` -m comment --comment "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)"`
	)
	tests := []struct {
		name    string
		config  config.Config
		options ruleset.Options
		family  ruleset.Family
		want    []string
	}{
		{
			name: "multicast", family: ruleset.IPv4, config: config.Config{NonMasquerade: prefixes("10.0.0.0/8")},
			options: ruleset.Options{Chain: "C", SpareMulticast: true},
			want: []string{
				"-A C -d 169.254.0.0/16" + spared, "-A C -d 224.0.0.0/4" + spared, "-A C -d 10.0.0.0/8" + spared,
				"-A C" + rest + " -j MASQUERADE",
			},
		},
		{
			name: "IPv6 multicast", family: ruleset.IPv6, options: ruleset.Options{Chain: "C", SpareMulticast: true},
			want: []string{"-A C -d fe80::/10" + spared, "-A C -d ff00::/8" + spared, "-A C" + rest + " -j MASQUERADE"},
		},
		{
			name: "exceptions", family: ruleset.IPv4, options: ruleset.Options{Chain: "C", RandomFully: true},
			config: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "10.1.2.0/24", "192.168.0.0/16"),
				Masquerade:    prefixes("10.1.0.0/16", "169.254.0.0/16", "10.1.2.3/32"),
			},
			want: []string{
				"-A C -d 10.1.2.3/32" + exception + " -j MASQUERADE --random-fully",
				"-A C -d 10.1.2.0/24" + spared,
				"-A C -d 10.1.0.0/16" + exception + " -j MASQUERADE --random-fully",
				"-A C -d 169.254.0.0/16" + exception + " -j MASQUERADE --random-fully",
				"-A C -d 169.254.0.0/16" + spared,
				"-A C -d 192.168.0.0/16" + spared,
				"-A C -d 10.0.0.0/8" + spared,
				"-A C" + rest + " -j MASQUERADE --random-fully",
			},
		},
		{
			name: "exceptions of the other family", family: ruleset.IPv4, options: ruleset.Options{Chain: "C"},
			config: config.Config{NonMasquerade: prefixes("10.0.0.0/8", "10.1.2.0/24"), Masquerade: prefixes("fd00::/8")},
			want: []string{
				"-A C -d 169.254.0.0/16" + spared, "-A C -d 10.0.0.0/8" + spared, "-A C -d 10.1.2.0/24" + spared,
				"-A C" + rest + " -j MASQUERADE",
			},
		},
		{
			name: "one source and interface", family: ruleset.IPv4,
			options: ruleset.Options{Chain: "C", Sources: prefixes("10.244.0.0/16", "fd00::/8", "10.244.1.0/24"), Interfaces: []string{"eth+", "eth0"}},
			want: []string{
				"-A C ! -s 10.244.0.0/16" + sources, "-A C ! -o eth+" + out,
				"-A C -d 169.254.0.0/16" + spared, "-A C" + rest + " -j MASQUERADE",
			},
		},
		{
			name: "several, with an exception and ports", family: ruleset.IPv4,
			config: config.Config{MasqueradeLinkLocal: true, NonMasquerade: prefixes("10.0.0.0/8"), Masquerade: prefixes("10.1.0.0/16")},
			options: ruleset.Options{
				Chain: "C", Sources: prefixes("10.244.0.0/16", "10.245.0.0/16"), Interfaces: []string{"eth0", "eth1"},
			},
			want: []string{
				"-A C -s 10.244.0.0/16 -d 10.1.0.0/16 -o eth0" + exception + " -j MASQUERADE",
				"-A C -s 10.244.0.0/16 -d 10.1.0.0/16 -o eth1" + exception + " -j MASQUERADE",
				"-A C -s 10.245.0.0/16 -d 10.1.0.0/16 -o eth0" + exception + " -j MASQUERADE",
				"-A C -s 10.245.0.0/16 -d 10.1.0.0/16 -o eth1" + exception + " -j MASQUERADE",
				"-A C -d 10.0.0.0/8" + spared,
				"-A C -s 10.244.0.0/16 -o eth0" + rest + " -j MASQUERADE",
				"-A C -s 10.244.0.0/16 -o eth1" + rest + " -j MASQUERADE",
				"-A C -s 10.245.0.0/16 -o eth0" + rest + " -j MASQUERADE",
				"-A C -s 10.245.0.0/16 -o eth1" + rest + " -j MASQUERADE",
			},
		},
		{
			name: "ports of an exception", family: ruleset.IPv4,
			config:  config.Config{MasqueradeLinkLocal: true, Masquerade: prefixes("10.1.0.0/16")},
			options: ruleset.Options{Chain: "C", ToPorts: []ruleset.PortRange{{First: 1024, Last: 2047}}},
			want: []string{
				"-A C -d 10.1.0.0/16 -p tcp" + exception + " -j MASQUERADE --to-ports 1024-2047",
				"-A C -d 10.1.0.0/16 -p udp" + exception + " -j MASQUERADE --to-ports 1024-2047",
				"-A C -d 10.1.0.0/16 -p sctp" + exception + " -j MASQUERADE --to-ports 1024-2047",
				"-A C -d 10.1.0.0/16" + exception + " -j MASQUERADE",
				"-A C -p tcp" + rest + " -j MASQUERADE --to-ports 1024-2047",
				"-A C -p udp" + rest + " -j MASQUERADE --to-ports 1024-2047",
				"-A C -p sctp" + rest + " -j MASQUERADE --to-ports 1024-2047",
				"-A C" + rest + " -j MASQUERADE",
			},
		},
		{
			name: "sources of the other family", family: ruleset.IPv6, config: config.Default(),
			options: ruleset.Options{Chain: "C", Sources: prefixes("10.244.0.0/16")},
			want:    []string{"-A C" + spared, "-A C" + rest + " -j MASQUERADE"},
		},
		{
			name: "every source of a family", family: ruleset.IPv6,
			options: ruleset.Options{Chain: "C", Sources: prefixes("10.244.0.0/16", "fd00::/8", "::/0")},
			want:    []string{"-A C -d fe80::/10" + spared, "-A C" + rest + " -j MASQUERADE"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, ruleset.Build(test.config, test.family, test.options).Rules); diff != "" {
				t.Errorf("rules differ (-want +got):\n%s", diff)
			}
		})
	}
}
