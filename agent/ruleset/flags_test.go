package ruleset_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

func TestParsePorts(t *testing.T) {
	type ports = []ruleset.PortRange
	tests := []struct {
		name  string
		value string
		want  ports
		err   string
	}{
		{name: "none", value: ""},
		{name: "one range", value: "1024-29999", want: ports{{1024, 29999}}},
		{name: "one port", value: "1024", want: ports{{1024, 1024}}},
		{name: "one port as a range", value: "42-42", want: ports{{42, 42}}},
		{name: "order kept", value: "32768-65535,1024-29999", want: ports{{32768, 65535}, {1024, 29999}}},
		{name: "neighbours", value: "1-2,3,4-5", want: ports{{1, 2}, {3, 3}, {4, 5}}},
		{name: "leading zeros", value: "042", want: ports{{42, 42}}},
		{name: "bounds", value: "1-65535", want: ports{{1, 65535}}},
		{
			name: "zero", value: "0-100",
			err: `reading port range 1 of "0-100": "0" is not a port; write a whole number from 1 to 65535, without blanks`,
		},
		{
			name: "too large", value: "1,2-65536",
			err: `reading port range 2 of "1,2-65536": "65536" is not a port; write a whole number from 1 to 65535, without blanks`,
		},
		{
			name: "reversed", value: "200-100",
			err: `reading port range 1 of "200-100": "200-100" begins above its end; write 100-200`,
		},
		{
			name: "blanks", value: "42 - 44",
			err: `reading port range 1 of "42 - 44": "42 " is not a port; write a whole number from 1 to 65535, without blanks`,
		},
		{
			name: "letters", value: "42-4x",
			err: `reading port range 1 of "42-4x": "4x" is not a port; write a whole number from 1 to 65535, without blanks`,
		},
		{
			name: "sign", value: "+42",
			err: `reading port range 1 of "+42": "+42" is not a port; write a whole number from 1 to 65535, without blanks`,
		},
		{
			name: "empty item", value: "1,",
			err: `reading port range 2 of "1,": "" is not a port; write a whole number from 1 to 65535, without blanks`,
		},
		{
			name: "three ends", value: "1-2-3",
			err: `reading port range 1 of "1-2-3": "2-3" is not a port; write a whole number from 1 to 65535, without blanks`,
		},
		{
			name: "overlap", value: "5000,1024-2000,1500-3000",
			err: `reading port ranges "5000,1024-2000,1500-3000": 1024-2000 and 1500-3000 overlap, so shared ports would be taken twice as often; ` +
				`write ranges without a port in common`,
		},
		{
			name: "the same twice", value: "7,7",
			err: `reading port ranges "7,7": 7 and 7 overlap, so shared ports would be taken twice as often; write ranges without a port in common`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := ruleset.ParsePorts(test.value)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("ranges differ (-want +got):\n%s", diff)
			}
			if message(err) != test.err {
				t.Errorf("error %q, want %q", message(err), test.err)
			}
		})
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// FuzzParsePorts: what is accepted has no port twice, and is written as it is read.
func FuzzParsePorts(f *testing.F) {
	for _, seed := range []string{"", "1", "1024-29999,32768-65535", "1-2,2-3", "65535", "0", "1-65535", "3,2,1", ",", "-"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		ranges, err := ruleset.ParsePorts(value)
		if err != nil {
			return
		}
		taken := map[int]bool{}
		texts := make([]string, len(ranges))
		for i, r := range ranges {
			texts[i] = r.String()
			for port := int(r.First); port <= int(r.Last); port++ {
				if port < 1 || taken[port] {
					t.Fatalf("%q: port %d is impossible or taken twice", value, port)
				}
				taken[port] = true
			}
		}
		again, err := ruleset.ParsePorts(strings.Join(texts, ","))
		if err != nil {
			t.Fatalf("%q is not accepted as it is written: %v", value, err)
		}
		if diff := cmp.Diff(ranges, again); diff != "" {
			t.Errorf("%q is read differently the second time (-first +second):\n%s", value, diff)
		}
	})
}

func TestParseSources(t *testing.T) {
	many := strings.Repeat("10.0.0.0/8,", 16)
	tests := []struct {
		name, value string
		want        []netip.Prefix
		err         string
	}{
		{name: "none"},
		{name: "one", value: "10.244.0.0/16", want: prefixes("10.244.0.0/16")},
		{name: "both families", value: "10.0.0.0/8,fd00:10::/32,::/0", want: prefixes("10.0.0.0/8", "fd00:10::/32", "::/0")},
		{name: "address", value: "10.0.0.1", err: `reading source 1 of "10.0.0.1": "10.0.0.1" is not a CIDR; ` +
			`write an address and the length of its prefix, as in 10.244.0.0/16`},
		{name: "host bits", value: "10.0.0.0/8,fd00::1/64", err: `reading source 2 of "10.0.0.0/8,fd00::1/64": "fd00::1/64" has host bits set; write fd00::/64`},
		{name: "mapped", value: "::ffff:10.0.0.0/104", err: `reading source 1 of "::ffff:10.0.0.0/104": "::ffff:10.0.0.0/104" is IPv4 ` +
			`inside of IPv6, which no packet has; write the IPv4 CIDR itself`},
		{name: "too many", value: many + "10.0.0.0/8", err: `reading "` + many + `10.0.0.0/8": more than 16; every packet would meet too many rules`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := ruleset.ParseSources(test.value)
			if message(err) != test.err {
				t.Errorf("error %q, want %q", message(err), test.err)
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
				t.Errorf("sources differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseInterfaces(t *testing.T) {
	tests := []struct {
		name, value string
		want        []string
		err         string // after the beginning
	}{
		{name: "none"},
		{name: "several", value: "eth0,bond+,eth0.100,a123456789012+,wg-1+2", want: []string{"eth0", "bond+", "eth0.100", "a123456789012+", "wg-1+2"}},
		{name: "empty", value: "eth0,,eth1", err: `interface 2 of "eth0,,eth1": the name is empty; separate names by single commas`},
		{name: "everything", value: "+", err: `interface 1 of "+": "+" is every interface; leave the flag out`},
		{name: "long", value: "a123456789012345", err: `interface 1 of "a123456789012345": "a123456789012345" has 16 bytes and the kernel ` +
			`keeps 15; shorten it with a + at its end`},
		{name: "dots", value: "..", err: `interface 1 of "..": ".." is no name of an interface`},
		{name: "option", value: "-o", err: `interface 1 of "-o": "-o" begins with "-", which iptables takes for an option`},
		{name: "negation", value: "!eth0", err: `interface 1 of "!eth0": "!eth0" begins with "!", which iptables takes for an option`},
		{name: "blank", value: "eth0, eth1", err: `interface 2 of "eth0, eth1": " eth1" holds ' ', which the name of an interface cannot; ` +
			`a + at the end stands for the rest of a name`},
		{name: "star", value: "eth*", err: `interface 1 of "eth*": "eth*" holds '*', which the name of an interface cannot; ` +
			`a + at the end stands for the rest of a name`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := test.err
			if want != "" {
				want = "reading " + want
			}
			got, err := ruleset.ParseInterfaces(test.value)
			if message(err) != want {
				t.Errorf("error %q, want %q", message(err), want)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("interfaces differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckChain(t *testing.T) {
	const (
		takenName = "iptables has a chain or target of its own by this name; choose another, such as IP-MASQ-AGENT"
		oddRune   = ", which iptables would not read back as a part of a name; use letters, digits, - and _"
		option    = ", which iptables takes for an option; begin with a letter"
	)
	tests := []struct {
		name string
		err  string // after the name
	}{
		{name: "IP-MASQ-AGENT"},
		{name: "IP-MASQ"},
		{name: "ABCDEFGHIJKLMNOPQRSTUVWXYZ12"},
		{name: "masquerade"},
		{name: "a.b+c/d:e=f*"},
		{name: "", err: "it is empty; leave the flag out for IP-MASQ-AGENT"},
		{name: "ABCDEFGHIJKLMNOPQRSTUVWXYZ123", err: "it has 29 bytes and the kernel keeps 28; shorten it"},
		{name: "-MASQ", err: `it begins with "-"` + option},
		{name: "!MASQ", err: `it begins with "!"` + option},
		{name: "POSTROUTING", err: takenName},
		{name: "FORWARD", err: takenName},
		{name: "MASQUERADE", err: takenName},
		{name: "RETURN", err: takenName},
		{name: "standard", err: takenName},
		{name: "IP MASQ", err: `it holds ' '` + oddRune},
		{name: "IP\tMASQ", err: `it holds '\t'` + oddRune},
		{name: "IP\nMASQ", err: `it holds '\n'` + oddRune},
		{name: `IP"MASQ`, err: `it holds '"'` + oddRune},
		{name: `IP'MASQ`, err: `it holds '\''` + oddRune},
		{name: `IP\MASQ`, err: `it holds '\\'` + oddRune},
		{name: "ÏP-MASQ", err: `it holds 'Ï'` + oddRune},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := test.err
			if want != "" {
				want = `checking chain name "` + strings.NewReplacer("\t", `\t`, "\n", `\n`, `\`, `\\`, `"`, `\"`).Replace(test.name) + `": ` + want
			}
			if got := message(ruleset.CheckChain(test.name)); got != want {
				t.Errorf("error %q, want %q", got, want)
			}
		})
	}
}

// TestIptablesTakesChainNames gives each backend a chain by every kind of name that is
// accepted, with a rule in it and a jump to it, and reads them back.
func TestIptablesTakesChainNames(t *testing.T) {
	var names []string
	for c := '!'; c <= '~'; c++ {
		for _, name := range []string{string(c) + "ab", "a" + string(c) + "b", "ab" + string(c)} {
			if ruleset.CheckChain(name) == nil {
				names = append(names, name)
			}
		}
	}
	if len(names) < 250 {
		t.Fatalf("only %d names are accepted", len(names))
	}
	var restore strings.Builder
	restore.WriteString("*nat\n")
	for _, name := range names {
		restore.WriteString(":" + name + " - [0:0]\n")
	}
	for _, name := range names {
		restore.WriteString("-A " + name + ` -m comment --comment "of ` + name + `" -j RETURN` + "\n-A POSTROUTING -j " + name + "\n")
	}
	restore.WriteString("COMMIT\n")

	h := netns.ForTest(t)
	for _, backend := range []string{"nft", "legacy"} {
		if _, err := h.Feed(t.Context(), restore.String(), "iptables-"+backend+"-restore", "--noflush"); err != nil {
			t.Fatal(err)
		}
		held := h.Output(t, "iptables-"+backend+"-save", "-t", "nat")
		for _, name := range names {
			for _, line := range []string{":" + name + " - [0:0]", "-A " + name + ` -m comment --comment "of ` + name + `" -j RETURN`, "-A POSTROUTING -j " + name} {
				if !strings.Contains(held, "\n"+line+"\n") {
					t.Errorf("%s does not print %q", backend, line)
				}
			}
		}
	}
}
