package ruleset_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

func TestSet(t *testing.T) {
	tests := []struct {
		name    string
		family  ruleset.Family
		config  config.Config
		options ruleset.Options
		want    string
	}{
		{
			name: "sorted, without repeats", family: ruleset.IPv4,
			config: config.Config{NonMasquerade: prefixes("192.168.0.0/16", "10.0.0.0/8", "fd00::/8", "10.0.0.0/16", "192.0.2.1/32", "10.0.0.0/8")},
			want: `create masq-guard-4:C hash:net family inet hashsize 64 maxelem 256
add masq-guard-4:C 10.0.0.0/8
add masq-guard-4:C 10.0.0.0/16
add masq-guard-4:C 169.254.0.0/16
add masq-guard-4:C 192.0.2.1
add masq-guard-4:C 192.168.0.0/16
`,
		},
		{
			name: "exceptions", family: ruleset.IPv6,
			config: config.Config{
				NonMasquerade: prefixes("fd00::/8", "fd00:1:2::/48", "::192.0.2.0/120"),
				Masquerade:    prefixes("fd00:1::/32", "fe80::/10", "10.0.0.0/8"),
			},
			want: `create masq-guard-6:C hash:net family inet6 hashsize 64 maxelem 256
add masq-guard-6:C ::192.0.2.0/120
add masq-guard-6:C fd00::/8
add masq-guard-6:C fd00:1::/32 nomatch
add masq-guard-6:C fd00:1:2::/48
add masq-guard-6:C fe80::/10 nomatch
`,
		},
		{
			name: "everything is two halves", family: ruleset.IPv4,
			config: config.Config{MasqueradeLinkLocal: true, NonMasquerade: prefixes("0.0.0.0/0"), Masquerade: prefixes("128.0.0.0/1")},
			want: `create masq-guard-4:C hash:net family inet hashsize 64 maxelem 256
add masq-guard-4:C 0.0.0.0/1
add masq-guard-4:C 128.0.0.0/1 nomatch
`,
		},
		{
			name: "everything masqueraded but a half", family: ruleset.IPv6,
			config: config.Config{MasqueradeLinkLocalIPv6: true, NonMasquerade: prefixes("::/0", "8000::/1"), Masquerade: prefixes("::/0")},
			want: `create masq-guard-6:C hash:net family inet6 hashsize 64 maxelem 256
add masq-guard-6:C ::/1 nomatch
add masq-guard-6:C 8000::/1
`,
		},
		{
			name: "multicast", family: ruleset.IPv4, options: ruleset.Options{SpareMulticast: true},
			want: `create masq-guard-4:C hash:net family inet hashsize 64 maxelem 256
add masq-guard-4:C 169.254.0.0/16
add masq-guard-4:C 224.0.0.0/4
`,
		},
		{
			name: "empty", family: ruleset.IPv4, config: config.Config{MasqueradeLinkLocal: true},
			want: "create masq-guard-4:C hash:net family inet hashsize 64 maxelem 256\n",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.options.Chain, test.options.Sets = "C", true
			if diff := cmp.Diff(test.want, ruleset.Build(test.config, test.family, test.options).Set.String()); diff != "" {
				t.Errorf("set differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRulesThatAskASet(t *testing.T) {
	options := ruleset.Options{Chain: "C", Sets: true, Sources: prefixes("10.244.0.0/16")}
	rules := ruleset.Build(config.Config{NonMasquerade: prefixes("10.0.0.0/8"), Masquerade: prefixes("10.1.0.0/16")}, ruleset.IPv4, options)
	want := []string{
		`-A C ! -s 10.244.0.0/16 -m comment --comment "ip-masq-agent: traffic from other sources is not subject to MASQUERADE" -j RETURN`,
		`-A C -m set --match-set masq-guard-4:C dst -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN`,
		`-A C -m comment --comment "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE`,
	}
	if diff := cmp.Diff(want, rules.Rules); diff != "" {
		t.Errorf("rules differ (-want +got):\n%s", diff)
	}
	want[1] = strings.Replace(want[1], "masq-guard-4:C", "masq-guard-4+C", 1)
	if diff := cmp.Diff(want, rules.Asking("masq-guard-4+C").Rules); diff != "" {
		t.Errorf("rules for another set differ (-want +got):\n%s", diff)
	}
}

func TestSetThreshold(t *testing.T) {
	two := ruleset.Options{Chain: "C", Sets: true, SetThreshold: 2}
	with := func(change func(*ruleset.Options)) ruleset.Options {
		o := two
		change(&o)
		return o
	}
	tests := []struct {
		name                   string
		nonMasquerade, exclude []netip.Prefix
		options                ruleset.Options
		ipv4, ipv6             bool // whether there is a set
	}{
		{name: "no sets", nonMasquerade: prefixes("10.0.0.0/8"), options: ruleset.Options{Chain: "C"}},
		{name: "empty list at 0", options: ruleset.Options{Chain: "C", Sets: true}, ipv4: true, ipv6: true},
		{name: "as many", nonMasquerade: prefixes("10.0.0.0/8", "10.0.0.0/8", "fd00::/8"), options: two},
		{name: "one more", nonMasquerade: prefixes("10.0.0.0/8", "10.0.0.0/8", "fd00::/8", "11.0.0.0/8"), options: two, ipv4: true},
		{name: "IPv6", nonMasquerade: prefixes("fd00::/8", "fd01::/16", "fd02::/16"), options: two, ipv6: true},
		{
			name: "an exception counts", nonMasquerade: prefixes("10.0.0.0/8", "11.0.0.0/8"), exclude: prefixes("10.1.0.0/16"),
			options: two, ipv4: true,
		},
		{
			name: "multicast does not count", nonMasquerade: prefixes("10.0.0.0/8", "11.0.0.0/8"),
			options: with(func(o *ruleset.Options) { o.SpareMulticast = true }),
		},
		{
			name: "ports of an exception count", exclude: prefixes("10.1.0.0/16"), ipv4: true,
			options: with(func(o *ruleset.Options) { o.ToPorts = []ruleset.PortRange{{First: 1, Last: 2}} }),
		},
		{
			name: "the largest means never", nonMasquerade: make([]netip.Prefix, 16384), exclude: prefixes("10.1.0.0/16"),
			options: with(func(o *ruleset.Options) { o.SetThreshold = 16384 }),
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for i, p := range test.nonMasquerade {
				if !p.IsValid() {
					test.nonMasquerade[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
				}
			}
			c := config.Config{NonMasquerade: test.nonMasquerade, Masquerade: test.exclude}
			if got := ruleset.Build(c, ruleset.IPv4, test.options).Set != nil; got != test.ipv4 {
				t.Errorf("there is an IPv4 set: %t, want %t", got, test.ipv4)
			}
			if got := ruleset.Build(c, ruleset.IPv6, test.options).Set != nil; got != test.ipv6 {
				t.Errorf("there is an IPv6 set: %t, want %t", got, test.ipv6)
			}
		})
	}
}

func TestSetNames(t *testing.T) {
	tests := []struct {
		name, chain string
		family      ruleset.Family
		held, next  string
	}{
		{"default", "IP-MASQ-AGENT", ruleset.IPv4, "masq-guard-4:IP-MASQ-AGENT", "masq-guard-4+IP-MASQ-AGENT"},
		{"longest as it is", "ABCDEFGHIJKLMNOPQR", ruleset.IPv6, "masq-guard-6:ABCDEFGHIJKLMNOPQR", "masq-guard-6+ABCDEFGHIJKLMNOPQR"},
		{"longer", "ABCDEFGHIJKLMNOPQRS", ruleset.IPv4, "masq-guard-4:ABCDEFGHI~ad672b46", "masq-guard-4+ABCDEFGHI~ad672b46"},
		{"longest", "ABCDEFGHIJKLMNOPQRSTUVWXYZ12", ruleset.IPv4, "masq-guard-4:ABCDEFGHI~b63f5014", "masq-guard-4+ABCDEFGHI~b63f5014"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			held, next := ruleset.SetNames(test.chain, test.family)
			if held != test.held || next != test.next {
				t.Errorf("%s and %s, want %s and %s", held, next, test.held, test.next)
			}
			if len(held) > 31 || len(next) > 31 {
				t.Errorf("%s has more than the 31 bytes that the kernel keeps", held)
			}
		})
	}
}

func TestSetBounds(t *testing.T) {
	for _, test := range []struct{ entries, hash, most int }{
		{0, 64, 256}, {1, 64, 256}, {64, 64, 256}, {65, 128, 512}, {10000, 16384, 65536}, {16384, 16384, 65536}, {16385, 32768, 131072},
	} {
		s := ruleset.Set{Entries: make([]ruleset.SetEntry, test.entries)}
		if s.HashSize() != test.hash || s.MaxEntries() != test.most {
			t.Errorf("%d entries: hash size %d and at most %d, want %d and %d", test.entries, s.HashSize(), s.MaxEntries(), test.hash, test.most)
		}
	}
}
