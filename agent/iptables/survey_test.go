package iptables_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// lab is a node between a pod, a container of another runtime, and the world.
type lab struct {
	node

	pod, container, world *netns.Host
	servers               map[string]netip.AddrPort
}

// Where packets go in a lab. The list spares 10.0.0.0/8 (fd00::/8) and no more.
const (
	toPod      = "a pod elsewhere" // 10.244.2.9
	toInside   = "inside"          // 10.9.9.9, which the list spares
	toService  = "a service"       // 10.9.9.8, spared too; kube-proxy marks packets to it
	toInternet = "the Internet"    // 198.51.100.9
)

// Who a server sees. A rule of somebody else may give the address of the alias.
const (
	seesPod       = "the pod"
	seesContainer = "the container"
	seesNode      = "the node"
	seesAlias     = "the alias"
)

func newLab(t *testing.T, p place) *lab {
	t.Helper()
	l := &lab{
		node: p.node(t), pod: netns.ForTest(t), container: netns.ForTest(t), world: netns.ForTest(t),
		servers: map[string]netip.AddrPort{},
	}
	type cable struct {
		host               *netns.Host
		name, near, far    string
		nearest, routeEver string
	}
	cables := []cable{
		{l.pod, "cni0", "10.244.1.1/24", "10.244.1.5/24", "10.244.1.1", "0.0.0.0/0"},
		{l.container, "docker0", "172.17.0.1/16", "172.17.0.2/16", "172.17.0.1", "0.0.0.0/0"},
		{l.world, "eth0", "192.0.2.1/24", "192.0.2.2/24", "192.0.2.1", "0.0.0.0/0"},
	}
	addresses := map[string]string{
		toPod: "10.244.2.9", toInside: "10.9.9.9", toService: "10.9.9.8", toInternet: "198.51.100.9",
	}
	bits, toWorld := 32, "192.0.2.2"
	if p.family == ruleset.IPv6 {
		cables = []cable{
			{l.pod, "cni0", "fd00:10:244:1::1/64", "fd00:10:244:1::5/64", "fd00:10:244:1::1", "::/0"},
			{l.container, "docker0", "2001:db8:17::1/64", "2001:db8:17::2/64", "2001:db8:17::1", "::/0"},
			{l.world, "eth0", "2001:db8:1::1/64", "2001:db8:1::2/64", "2001:db8:1::1", "::/0"},
		}
		addresses = map[string]string{
			toPod: "fd00:10:244:2::9", toInside: "fd00:9::9", toService: "fd00:9::8", toInternet: "2001:db8:51::9",
		}
		bits, toWorld = 128, "2001:db8:1::2"
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range cables {
		must(netns.Connect(
			netns.End{Host: l.Host, Interface: c.name, Addresses: prefixes(c.near)},
			netns.End{Host: c.host, Interface: "eth0", Addresses: prefixes(c.far)},
		))
		must(c.host.AddRoute(netip.MustParsePrefix(c.routeEver), netip.MustParseAddr(c.nearest)))
	}
	must(l.Forward())
	if p.family == ruleset.IPv4 { // IPv6 might choose it for what it masquerades
		must(l.AddAddresses("eth0", prefixes("192.0.2.77/24")...))
	}
	var listen []netip.AddrPort
	for name, address := range addresses {
		addr := netip.MustParseAddr(address)
		must(l.world.AddAddresses("eth0", netip.PrefixFrom(addr, bits)))
		must(l.AddRoute(netip.PrefixFrom(addr, bits), netip.MustParseAddr(toWorld)))
		l.servers[name] = netip.AddrPortFrom(addr, 9000)
		listen = append(listen, l.servers[name])
	}
	echo, err := l.world.Echo(listen...)
	must(err)
	t.Cleanup(func() { must(echo.Close()) })
	return l
}

// sees asks every server from a host, and tells whom each sees.
func (l *lab) sees(t *testing.T, from *netns.Host) map[string]string {
	t.Helper()
	names := map[string]string{
		"10.244.1.5": seesPod, "172.17.0.2": seesContainer, "192.0.2.1": seesNode, "192.0.2.77": seesAlias,
		"fd00:10:244:1::5": seesPod, "2001:db8:17::2": seesContainer, "2001:db8:1::1": seesNode,
	}
	seen := map[string]string{}
	for name, server := range l.servers {
		source, err := from.Ask(t.Context(), "udp", server)
		if err != nil {
			t.Fatal(err)
		}
		seen[name] = names[source.Addr().String()]
	}
	return seen
}

// ours is what the list spares in every lab.
func (l *lab) ours() ruleset.Ruleset {
	return ruleset.Build(config.Config{NonMasquerade: prefixes("10.0.0.0/8", "fd00::/8")}, l.family, plainOptions())
}

func (l *lab) survey(t *testing.T) foreign.Report {
	t.Helper()
	want := l.ours()
	var report foreign.Report
	err := l.Do(func() error {
		report = iptables.Survey(t.Context(), []foreign.Ours{{
			Decision: want.Decision, Backend: string(l.backend), Chain: want.Chain, Priority: foreign.NATPriority,
		}})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// told are findings in one line each.
func told(r foreign.Report) []string {
	var all []string
	for _, f := range r.Findings {
		line := fmt.Sprintf("%s, %s %s: %s", f.Owner, f.Table, f.Chain, f.Verdict)
		if len(f.Ranges) > 0 {
			line += " " + strings.Join(f.Ranges, " ")
		}
		all = append(all, line)
	}
	return all
}

// foreignRules are those of others, as they stand in the kernel.
func (l *lab) foreignRules(t *testing.T) string {
	t.Helper()
	lines := slices.DeleteFunc(l.rules(t), func(rule string) bool { return strings.Contains(rule, "IP-MASQ-AGENT") })
	return strings.Join(lines, "\n") + "\n" + l.nativeTables(t)
}

// nativeTables are those that are not iptables'.
func (l *lab) nativeTables(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for table := range strings.Lines(l.Output(t, "nft", "list", "tables")) {
		words := strings.Fields(table)
		if len(words) == 3 && words[2] != "nat" {
			all.WriteString(l.Output(t, "nft", "-s", "-a", "list", "table", words[1], words[2]))
		}
	}
	return all.String()
}

// others are rules of another program: of iptables, or a script of nft.
type others struct {
	name     string
	families []ruleset.Family // empty: IPv4
	save     string           // after "*nat"
	nft      string
	first    bool // they are there before ours

	findings  []string
	pod       map[string]string // whom servers see of packets from the pod
	container map[string]string // from the container; nil: not asked
}

// spared is what servers see where nobody undoes anything.
func spared() map[string]string {
	return map[string]string{toPod: seesPod, toInside: seesPod, toService: seesPod, toInternet: seesNode}
}

const kubeProxy = `:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SERVICES -d 10.9.9.8/32 -m comment --comment "default/web cluster IP" -j KUBE-MARK-MASQ
`

const kubeProxyTable = `table ip kube-proxy {
	chain mark-for-masquerade {
		meta mark set meta mark | 0x4000
	}
	chain services {
		ip daddr 10.9.9.8 jump mark-for-masquerade
	}
	chain masquerading {
		meta mark & 0x00004000 == 0 return
		meta mark set meta mark ^ 0x4000
		masquerade fully-random
	}
	chain nat-prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		jump services
	}
	chain nat-postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		jump masquerading
	}
}
`

const flannel = `:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
`

const flannelTable = `table ip flannel-ipv4 {
	chain postrtg {
		type nat hook postrouting priority srcnat; policy accept;
		meta mark 0x00004000 return
		ip saddr 10.244.1.0/24 ip daddr 10.244.0.0/16 return
		ip saddr 10.244.0.0/16 ip daddr 10.244.1.0/24 return
		ip saddr != 10.244.1.0/24 ip daddr 10.244.0.0/16 return
		ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
		ip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random
	}
}
`

func masqueraders() []others {
	flannelFindings := []string{
		"flannel, nat FLANNEL-POSTRTG: undoes 10.0.0.0-10.244.0.255 10.244.2.0-10.255.255.255 169.254.0.0/16",
		"flannel, nat FLANNEL-POSTRTG: undoes 10.244.0.0/24 10.244.2.0-10.244.255.255",
	}
	// Pods keep their addresses among themselves; what the list spares beyond is lost.
	flannelUndoes := map[string]string{toPod: seesPod, toInside: seesNode, toService: seesNode, toInternet: seesNode}
	return []others{
		{name: "nobody", pod: spared(), container: map[string]string{
			toPod: seesContainer, toInside: seesContainer, toService: seesContainer, toInternet: seesNode,
		}},
		{
			name: "kube-proxy first", save: kubeProxy, first: true,
			findings: []string{"kube-proxy, nat KUBE-POSTROUTING: harmless"},
			pod:      map[string]string{toPod: seesPod, toInside: seesPod, toService: seesNode, toInternet: seesNode},
		},
		{
			name: "kube-proxy last", save: kubeProxy,
			findings: []string{"kube-proxy, nat KUBE-POSTROUTING: harmless"},
			pod:      map[string]string{toPod: seesPod, toInside: seesPod, toService: seesNode, toInternet: seesNode},
		},
		{
			name: "kube-proxy's nftables first", nft: kubeProxyTable, first: true,
			findings: []string{"kube-proxy, ip kube-proxy masquerading: harmless"},
			pod:      map[string]string{toPod: seesPod, toInside: seesPod, toService: seesNode, toInternet: seesNode},
		},
		{
			name: "kube-proxy's nftables last", nft: kubeProxyTable,
			findings: []string{"kube-proxy, ip kube-proxy masquerading: harmless"},
			pod:      map[string]string{toPod: seesPod, toInside: seesPod, toService: seesNode, toInternet: seesNode},
		},
		{name: "flannel first", save: flannel, first: true, findings: flannelFindings, pod: flannelUndoes},
		{name: "flannel last", save: flannel, findings: flannelFindings, pod: flannelUndoes},
		{
			name: "flannel's nftables", nft: flannelTable,
			findings: []string{
				"flannel, ip flannel-ipv4 postrtg: undoes 10.0.0.0-10.243.255.255 10.245.0.0-10.255.255.255 169.254.0.0/16",
				"flannel, ip flannel-ipv4 postrtg: harmless",
			},
			pod: flannelUndoes,
		},
		{
			name: "docker", save: "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n",
			findings:  []string{"docker, nat POSTROUTING: undoes 10.0.0.0/8 169.254.0.0/16"},
			pod:       spared(),
			container: map[string]string{toPod: seesNode, toInside: seesNode, toService: seesNode, toInternet: seesNode},
		},
		{
			name: "docker's IPv6", families: []ruleset.Family{ruleset.IPv6},
			save:      "-A POSTROUTING -s 2001:db8:17::/64 ! -o docker0 -j MASQUERADE\n",
			findings:  []string{"docker, nat POSTROUTING: undoes fd00::/8 fe80::/10"},
			pod:       spared(),
			container: map[string]string{toPod: seesNode, toInside: seesNode, toService: seesNode, toInternet: seesNode},
		},
		{
			name: "docker's nftables", nft: `table ip docker-bridges {
	map nat-postrouting-out-jumps {
		type ifname : verdict
		elements = { "docker0" : jump nat-postrouting-out__docker0 }
	}
	chain nat-POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		iifname vmap @nat-postrouting-out-jumps
	}
	chain nat-postrouting-out__docker0 {
		oifname != "docker0" ip saddr 172.17.0.0/16 counter masquerade comment "MASQUERADE"
	}
}
`,
			findings:  []string{"docker, ip docker-bridges nat-postrouting-out__docker0: undoes 10.0.0.0/8 169.254.0.0/16"},
			pod:       spared(),
			container: map[string]string{toPod: seesNode, toInside: seesNode, toService: seesNode, toInternet: seesNode},
		},
		{
			name: "kubenet", first: true,
			save: `-A POSTROUTING ! -d 10.0.0.0/8 -m comment --comment "kubenet: SNAT for outbound traffic from cluster" ` +
				"-m addrtype ! --dst-type LOCAL -j MASQUERADE\n",
			findings: []string{"kubenet, nat POSTROUTING: undoes 169.254.0.0/16"},
			pod:      spared(),
		},
		{
			name: "AWS first", first: true, save: `:AWS-SNAT-CHAIN-0 - [0:0]
-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
-A AWS-SNAT-CHAIN-0 -d 10.0.0.0/8 -m comment --comment "AWS SNAT CHAIN" -j RETURN
-A AWS-SNAT-CHAIN-0 -d 169.254.0.0/16 -m comment --comment "AWS SNAT CHAIN EXCLUDED CIDR" -j RETURN
-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment "AWS, SNAT" -m addrtype ! --dst-type LOCAL -j SNAT --to-source 192.0.2.77 --random-fully
`,
			findings: []string{"aws-vpc-cni, nat AWS-SNAT-CHAIN-0: shadows-us 0.0.0.0-9.255.255.255 11.0.0.0-169.253.255.255 169.255.0.0-255.255.255.255"},
			pod:      map[string]string{toPod: seesPod, toInside: seesPod, toService: seesPod, toInternet: seesAlias},
		},
		{
			name: "AWS last", save: `:AWS-SNAT-CHAIN-0 - [0:0]
-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
-A AWS-SNAT-CHAIN-0 -d 10.244.0.0/16 -m comment --comment "AWS SNAT CHAIN" -j RETURN
-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment "AWS, SNAT" -m addrtype ! --dst-type LOCAL -j SNAT --to-source 192.0.2.77 --random-fully
`,
			findings: []string{"aws-vpc-cni, nat AWS-SNAT-CHAIN-0: undoes 10.0.0.0-10.243.255.255 10.245.0.0-10.255.255.255 169.254.0.0/16"},
			pod:      map[string]string{toPod: seesPod, toInside: seesAlias, toService: seesAlias, toInternet: seesNode},
		},
		{
			name: "accepted before ours", first: true,
			save: "-A POSTROUTING -s 10.244.0.0/16 -d 198.51.100.0/24 -j ACCEPT\n",
			findings: []string{
				"unknown, nat POSTROUTING: shadows-us 198.51.100.0/24",
			},
			pod: map[string]string{toPod: seesPod, toInside: seesPod, toService: seesPod, toInternet: seesPod},
		},
		{
			name: "bridge plugin's nftables", nft: `table inet cni_plugins_masquerade {
	chain masq_checks {
		ip saddr 10.244.1.5 ip daddr != 10.244.1.0/24 masquerade comment "6fd5b8d4ad9a5b1e-7ba3f4d9b1f6b1ad, net: cbr0, if: eth0, id: 3c1f"
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip daddr 224.0.0.0/4 return
		ip6 daddr ff00::/8 return
		goto masq_checks
	}
}
`,
			findings: []string{"cni-plugins, inet cni_plugins_masquerade masq_checks: undoes 10.0.0.0-10.244.0.255 10.244.2.0-10.255.255.255 169.254.0.0/16"},
			pod:      map[string]string{toPod: seesNode, toInside: seesNode, toService: seesNode, toInternet: seesNode},
		},
		{
			// Earlier than every nat table of iptables.
			name: "kindnet's nftables", nft: `table inet kindnet-ipmasq {
	set noMasqV4 {
		type ipv4_addr
		flags interval
		auto-merge
		elements = { 10.244.0.0/16 }
	}
	chain postrouting {
		type nat hook postrouting priority srcnat - 10; policy accept;
		ct state established,related accept
		fib daddr type local accept
		ip daddr @noMasqV4 accept
		masquerade
	}
}
`,
			findings: []string{"kindnet, inet kindnet-ipmasq postrouting: undoes 10.0.0.0-10.243.255.255 10.245.0.0-10.255.255.255 169.254.0.0/16"},
			pod:      map[string]string{toPod: seesPod, toInside: seesNode, toService: seesNode, toInternet: seesNode},
		},
	}
}

// TestSurveyIsRight has the rules of each program in a kernel, beside ours, and sends
// packets: what servers see is what the findings say.
func TestSurveyIsRight(t *testing.T) {
	for _, p := range places() {
		for _, test := range masqueraders() {
			families := test.families
			if families == nil {
				families = []ruleset.Family{ruleset.IPv4}
			}
			if !slices.Contains(families, p.family) {
				continue
			}
			t.Run(p.String()+" "+test.name, func(t *testing.T) {
				l := newLab(t, p)
				if !test.first {
					l.apply(t, l.ours())
				}
				if test.save != "" {
					l.otherRestores(t, "*nat\n"+test.save+"COMMIT\n", "--noflush")
				}
				if test.nft != "" {
					if _, err := l.Feed(t.Context(), test.nft, "nft", "-f", "-"); err != nil {
						t.Fatal(err)
					}
				}
				before := l.foreignRules(t)
				l.apply(t, l.ours())

				report := l.survey(t)
				if diff := cmp.Diff(test.findings, told(report)); diff != "" {
					t.Errorf("findings differ (-want +got):\n%s", diff)
				}
				if len(report.Partial) > 0 {
					t.Errorf("not everything was seen: %q", report.Partial)
				}
				if diff := cmp.Diff(test.pod, l.sees(t, l.pod)); diff != "" {
					t.Errorf("packets from the pod differ (-want +got):\n%s", diff)
				}
				if test.container != nil {
					if diff := cmp.Diff(test.container, l.sees(t, l.container)); diff != "" {
						t.Errorf("packets from the container differ (-want +got):\n%s", diff)
					}
				}
				if drift := l.inspect(t, l.ours()); len(drift) > 0 {
					t.Errorf("ours have changed: %v", drift)
				}
				if diff := cmp.Diff(before, l.foreignRules(t)); diff != "" {
					t.Errorf("rules of others have changed (-before +after):\n%s", diff)
				}
			})
		}
	}
}

// TestSurveySeesTheOtherBackend: both are in force at once, and of tables of one
// priority the one that was made last comes first.
func TestSurveySeesTheOtherBackend(t *testing.T) {
	others := map[iptables.Backend]iptables.Backend{iptables.NFT: iptables.Legacy, iptables.Legacy: iptables.NFT}
	tests := []struct {
		name    string
		rule    []string
		finding string
		last    map[string]string // the other table is made last
		first   map[string]string
	}{
		{
			name: "undone whoever comes first", rule: []string{"-d", "10.9.9.9/32", "-j", "MASQUERADE"},
			finding: "unknown, nat POSTROUTING: undoes 10.9.9.9/32",
			last:    map[string]string{toPod: seesPod, toInside: seesNode, toService: seesPod, toInternet: seesNode},
			first:   map[string]string{toPod: seesPod, toInside: seesNode, toService: seesPod, toInternet: seesNode},
		},
		{
			name: "the later one wins", rule: []string{"-d", "198.51.100.0/24", "-j", "SNAT", "--to-source", "192.0.2.77"},
			finding: "unknown, nat POSTROUTING: shadows-us 198.51.100.0/24",
			last:    map[string]string{toPod: seesPod, toInside: seesPod, toService: seesPod, toInternet: seesAlias},
			first:   spared(),
		},
	}
	for backend, other := range others {
		for _, test := range tests {
			for order, want := range map[string]map[string]string{"last": test.last, "first": test.first} {
				t.Run(fmt.Sprintf("ours in %s, %s, theirs %s", backend, test.name, order), func(t *testing.T) {
					l := newLab(t, place{backend, ruleset.IPv4})
					theirs := func() {
						l.Output(t, "iptables-"+string(other), append([]string{"-w", "5", "-t", "nat", "-A", "POSTROUTING"}, test.rule...)...)
					}
					if order == "first" {
						theirs()
					}
					l.apply(t, l.ours())
					if order == "last" {
						theirs()
					}
					report := l.survey(t)
					if diff := cmp.Diff([]string{test.finding}, told(report)); diff != "" {
						t.Errorf("findings differ (-want +got):\n%s", diff)
					}
					if f := report.Findings; len(f) == 1 && (f[0].Backend != string(other) || f[0].Position != foreign.Either) {
						t.Errorf("the finding is of %s, position %s", f[0].Backend, f[0].Position)
					}
					if diff := cmp.Diff(want, l.sees(t, l.pod)); diff != "" {
						t.Errorf("packets from the pod differ (-want +got):\n%s", diff)
					}
				})
			}
		}
	}
}

// TestSurveyMakesNothing: a look at a kernel without tables leaves it without.
func TestSurveyMakesNothing(t *testing.T) {
	l := newLab(t, place{iptables.NFT, ruleset.IPv4})
	for range 2 {
		if report := l.survey(t); len(report.Findings) > 0 || len(report.Partial) > 0 {
			t.Errorf("findings in an empty kernel: %v, %q", told(report), report.Partial)
		}
	}
	if tables := l.Output(t, "nft", "list", "ruleset"); tables != "" {
		t.Errorf("the survey has made tables of nft:\n%s", tables)
	}
	if tables := l.legacyTables(t); tables != "" {
		t.Errorf("the survey has made legacy tables: %s", tables)
	}
}

func (l *lab) legacyTables(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(l.Output(t, "sh", "-c", "cat /proc/self/net/ip_tables_names /proc/self/net/ip6_tables_names 2>/dev/null || true"))
}

// BenchmarkSurvey is a look at a node where kube-proxy has 20,000 rules of services.
func BenchmarkSurvey(b *testing.B) {
	for _, backend := range []iptables.Backend{iptables.NFT, iptables.Legacy} {
		b.Run(string(backend), func(b *testing.B) {
			n := place{backend, ruleset.IPv4}.node(b)
			var text strings.Builder
			text.WriteString("*nat\n" + kubeProxy)
			for i := range 10000 {
				fmt.Fprintf(&text, ":KUBE-SVC-%016d - [0:0]\n", i)
			}
			for i := range 10000 {
				address := fmt.Sprintf("10.96.%d.%d/32", i/250, i%250)
				fmt.Fprintf(&text, "-A KUBE-SERVICES -d %s -p tcp -m tcp --dport 80 -j KUBE-SVC-%016d\n", address, i)
				fmt.Fprintf(&text, "-A KUBE-SVC-%016d ! -s 10.244.0.0/16 -d %s -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ\n", i, address)
			}
			text.WriteString("COMMIT\n")
			n.otherRestores(b, text.String(), "--noflush")
			want := n.spare("10.0.0.0/8")
			n.apply(b, want)
			ours := []foreign.Ours{{Decision: want.Decision, Backend: string(backend), Chain: want.Chain, Priority: foreign.NATPriority}}
			for b.Loop() {
				err := n.Do(func() error {
					if report := iptables.Survey(b.Context(), ours); len(report.Findings) != 1 || len(report.Partial) > 0 {
						return fmt.Errorf("findings %q, partial %q", told(report), report.Partial)
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
