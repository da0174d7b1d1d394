package nftables

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// node is a throw-away host with a Kernel, for one family.
type node struct {
	*netns.Host

	kernel *Kernel
	family ruleset.Family
}

func newNode(tb testing.TB, family ruleset.Family) node {
	tb.Helper()
	return node{Host: netns.ForTest(tb), kernel: Open(), family: family}
}

// other changes nftables as another program would.
func (n node) other(tb testing.TB, commands string) {
	tb.Helper()
	commands = strings.NewReplacer("FAMILY", familyName(n.family), "OURS", familyName(n.family)+" ip-masq-guard-IP-MASQ-AGENT").Replace(commands)
	if _, err := n.Feed(tb.Context(), commands, "nft", "-f", "-"); err != nil {
		tb.Fatal(err)
	}
}

// state is everything that a write would change: handles are new after each.
func (n node) state(tb testing.TB) string {
	tb.Helper()
	return n.Output(tb, "nft", "-a", "list", "ruleset")
}

func (n node) text(tb testing.TB) string {
	tb.Helper()
	return n.Output(tb, "nft", "list", "ruleset")
}

func (n node) tryApply(tb testing.TB, want ruleset.Ruleset) (drift []ruleset.Drift, err error) {
	tb.Helper()
	err = n.Do(func() (err error) {
		drift, err = n.kernel.Apply(tb.Context(), want)
		return err
	})
	return drift, err
}

func (n node) apply(tb testing.TB, want ruleset.Ruleset) []ruleset.Drift {
	tb.Helper()
	drift, err := n.tryApply(tb, want)
	if err != nil {
		tb.Fatalf("applying: %v", err)
	}
	return drift
}

func (n node) inspect(tb testing.TB, want ruleset.Ruleset) (drift []ruleset.Drift) {
	tb.Helper()
	err := n.Do(func() (err error) {
		drift, err = n.kernel.Inspect(tb.Context(), want)
		return err
	})
	if err != nil {
		tb.Fatalf("inspecting: %v", err)
	}
	return drift
}

// remove removes the tables of a chain, of both families.
func (n node) remove(tb testing.TB, chain string) (removed []string) {
	tb.Helper()
	for _, family := range families() {
		err := n.Do(func() error {
			names, err := n.kernel.Remove(tb.Context(), family, chain)
			removed = append(removed, names...)
			return err
		})
		if err != nil {
			tb.Fatalf("removing: %v", err)
		}
	}
	return removed
}

// holds checks that nftables holds want and nothing else, in the words that we render.
func (n node) holds(tb testing.TB, want ruleset.Ruleset) {
	tb.Helper()
	rendered, err := Render(want)
	if err != nil {
		tb.Fatal(err)
	}
	if diff := cmp.Diff(oneLineOfElements(rendered.String()), oneLineOfElements(n.text(tb))); diff != "" {
		tb.Errorf("nftables differs (-want +got):\n%s", diff)
	}
	if drift := n.inspect(tb, want); len(drift) > 0 {
		tb.Errorf("Inspect finds %v in what was just applied", drift)
	}
}

// oneLineOfElements undoes the breaks that nft puts between elements.
func oneLineOfElements(text string) string {
	return regexp.MustCompile(`,\n\t+ +`).ReplaceAllString(text, ", ")
}

func plainOptions() ruleset.Options {
	return ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: true}
}

// spare is the ruleset that spares these destinations, those of the other family too.
func (n node) spare(list ...string) ruleset.Ruleset {
	return ruleset.Build(config.Config{NonMasquerade: prefixes(list...)}, n.family, plainOptions())
}

func TestReadBackEqualsRendered(t *testing.T) {
	for _, family := range families() {
		t.Run(family.String(), func(t *testing.T) {
			n := newNode(t, family)
			for _, test := range goldenCases() {
				t.Run(test.name, func(t *testing.T) {
					n.other(t, "flush ruleset")
					want := ruleset.Build(test.config, family, test.options)
					if diff := cmp.Diff([]ruleset.Drift{ruleset.TableMissing}, n.apply(t, want)); diff != "" {
						t.Errorf("drift differs (-want +got):\n%s", diff)
					}
					n.holds(t, want)
					if !n.kernel.tables[family].faithful {
						t.Error("nft prints it in other words")
					}
				})
			}
		})
	}
}

func TestTwiceIsOnce(t *testing.T) {
	for _, family := range families() {
		t.Run(family.String(), func(t *testing.T) {
			n := newNode(t, family)
			want := n.spare("10.0.0.0/8", "fd00::/8")
			n.apply(t, want)
			before := n.state(t)
			if drift := n.apply(t, want); len(drift) > 0 {
				t.Errorf("the second time drift was %v", drift)
			}
			n.kernel = Open() // as after a restart
			if drift := n.apply(t, want); len(drift) > 0 {
				t.Errorf("after a restart drift was %v", drift)
			}
			if diff := cmp.Diff(before, n.state(t)); diff != "" {
				t.Errorf("something was written (-before +after):\n%s", diff)
			}
		})
	}
}

// everyones are tables of other programs: kube-proxy's and flannel's in their nftables
// forms, ours of another chain, and with iptables-nft those of kube-proxy and docker.
const everyones = `
table FAMILY kube-proxy {
	comment "rules for kube-proxy"
	set cluster-ips {
		type FAMILYADDR
	}
	chain nat-postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		jump masquerading
	}
	chain masquerading {
		meta mark & 0x00004000 == 0x00000000 return
		meta mark set meta mark ^ 0x00004000
		masquerade fully-random
	}
}
table FAMILY flannel-ip {
	chain postrtg {
		comment "chain to manage traffic masquerading by flannel"
		type nat hook postrouting priority srcnat; policy accept;
		meta mark 0x00004000 return
	}
}
table FAMILY ip-masq-guard-IP-MASQ {
	chain postrouting {
		type nat hook postrouting priority srcnat + 1; policy accept;
		return
	}
}
`

func TestOthersAreLeftAlone(t *testing.T) {
	for _, family := range families() {
		t.Run(family.String(), func(t *testing.T) {
			n := newNode(t, family)
			commands, address := "iptables-nft", "ipv4_addr"
			if family == ruleset.IPv6 {
				commands, address = "ip6tables-nft", "ipv6_addr"
			}
			n.other(t, strings.ReplaceAll(everyones, "FAMILYADDR", address))
			for _, rule := range []string{
				"-N KUBE-POSTROUTING", "-A POSTROUTING -j KUBE-POSTROUTING", "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
				"-A POSTROUTING ! -o docker0 -m addrtype ! --dst-type LOCAL -j MASQUERADE",
			} {
				n.Output(t, commands, append([]string{"-w", "-t", "nat"}, strings.Fields(rule)...)...)
			}
			alone := n.state(t)

			first, second := n.spare("10.0.0.0/8", "fd00::/8"), n.spare("10.1.0.0/16", "fd00:1::/32")
			n.apply(t, first)
			n.apply(t, second)
			n.other(t, "flush chain OURS postrouting")
			n.apply(t, second)
			n.other(t, "delete table OURS")
			n.apply(t, second)
			if drift := n.inspect(t, second); len(drift) > 0 {
				t.Errorf("among others there is drift %v", drift)
			}
			if !strings.HasPrefix(n.state(t), alone) {
				t.Errorf("tables of others changed (-before +after):\n%s", cmp.Diff(alone, n.state(t)))
			}
			n.remove(t, "IP-MASQ-AGENT")
			if diff := cmp.Diff(alone, n.state(t)); diff != "" {
				t.Errorf("after removing ours (-before +after):\n%s", diff)
			}
			if removed := n.remove(t, "IP-MASQ-AGENT"); len(removed) > 0 { // twice is once
				t.Errorf("the second time %q were removed", removed)
			}
			if diff := cmp.Diff(alone, n.state(t)); diff != "" {
				t.Errorf("after removing ours again (-before +after):\n%s", diff)
			}
		})
	}
}

func TestAfterRemove(t *testing.T) {
	n := newNode(t, ruleset.IPv4)
	for _, family := range families() {
		n.apply(t, ruleset.Build(config.Default(), family, plainOptions()))
	}
	if diff := cmp.Diff([]string{"ip-masq-guard-IP-MASQ-AGENT", "ip-masq-guard-IP-MASQ-AGENT"}, n.remove(t, "IP-MASQ-AGENT")); diff != "" {
		t.Errorf("removed differs (-want +got):\n%s", diff)
	}
	if text := n.text(t); text != "" {
		t.Errorf("left is:\n%s", text)
	}
	want := n.spare("10.0.0.0/8")
	n.apply(t, want)
	n.holds(t, want)
}

func TestRemoveFormer(t *testing.T) {
	n := newNode(t, ruleset.IPv6)
	for _, chain := range []string{"IP-MASQ", "IP-MASQ-AGENT", "a+b"} {
		for _, family := range families() {
			n.apply(t, ruleset.Build(config.Default(), family, ruleset.Options{Chain: chain}))
		}
	}
	n.other(t, "add table ip6 ip-masq; add table inet ip-masq-guard-IP-MASQ")
	remove := func(family ruleset.Family, chain string) (removed []string) {
		t.Helper()
		err := n.Do(func() (err error) {
			removed, err = n.kernel.RemoveFormer(t.Context(), family, chain)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return removed
	}
	if diff := cmp.Diff([]string{"ip-masq-guard-IP-MASQ", "ip-masq-guard-a/2bb"}, remove(ruleset.IPv6, "IP-MASQ-AGENT")); diff != "" {
		t.Errorf("removed differs (-want +got):\n%s", diff)
	}
	if removed := remove(ruleset.IPv6, "IP-MASQ-AGENT"); len(removed) > 0 {
		t.Errorf("the second time %q were removed", removed)
	}
	if diff := cmp.Diff([]string{"ip-masq-guard-IP-MASQ", "ip-masq-guard-IP-MASQ-AGENT", "ip-masq-guard-a/2bb"}, remove(ruleset.IPv4, "")); diff != "" {
		t.Errorf("removed differs (-want +got):\n%s", diff)
	}
	const want = "table ip6 ip-masq-guard-IP-MASQ-AGENT\ntable ip6 ip-masq\ntable inet ip-masq-guard-IP-MASQ\n"
	if diff := cmp.Diff(want, n.Output(t, "nft", "list", "tables")); diff != "" {
		t.Errorf("tables differ (-want +got):\n%s", diff)
	}
}

func TestVersion(t *testing.T) {
	if version := Open().Version(t.Context()); !strings.HasPrefix(version, "nftables v1.") {
		t.Errorf("nft calls itself %q", version)
	}
	t.Setenv("PATH", "")
	if version := Open().Version(t.Context()); version != "" {
		t.Errorf("without nft there is version %q", version)
	}
}

func TestDriftIsHealed(t *testing.T) {
	kinds := func(kinds ...ruleset.Drift) []ruleset.Drift { return kinds }
	tests := []struct {
		name     string
		commands string
		drift    []ruleset.Drift
	}{
		{"chain flushed", "flush chain OURS postrouting", kinds(ruleset.ChainChanged)},
		{"rule of another", "insert rule OURS postrouting accept", kinds(ruleset.ChainChanged)},
		{"rule of another at the end", "add rule OURS postrouting accept", kinds(ruleset.ChainChanged)},
		{"set flushed", "flush set OURS spared", kinds(ruleset.SetChanged)},
		{"element added", "add element OURS spared { ELEMENT }", kinds(ruleset.SetChanged)},
		{"element deleted", "delete element OURS spared { LINKLOCAL }", kinds(ruleset.SetChanged)},
		{"element with a comment", "delete element OURS spared { LINKLOCAL }; add element OURS spared { LINKLOCAL comment \"mine\" }", kinds(ruleset.SetChanged)},
		{"table flushed", "flush table OURS", kinds(ruleset.ChainChanged)},
		{"ruleset flushed", "flush ruleset", kinds(ruleset.TableMissing)},
		{"chain deleted", "flush chain OURS postrouting; delete chain OURS postrouting", kinds(ruleset.ChainMissing)},
		{"chain and set deleted", "flush chain OURS postrouting; delete chain OURS postrouting; delete set OURS spared", kinds(ruleset.ChainMissing, ruleset.SetMissing)},
		{
			"chain with another priority", "delete table OURS; table OURS { set spared { type ADDRESS; flags interval; }; " +
				"chain postrouting { type nat hook postrouting priority 90; }; }", kinds(ruleset.ChainChanged, ruleset.SetChanged),
		},
		{
			"set of another kind", "delete table OURS; table OURS { set spared { type mark; }; }",
			kinds(ruleset.ChainMissing, ruleset.SetChanged),
		},
		{
			"base chain with a policy", "delete table OURS; table OURS { set spared { type ADDRESS; flags interval; }; " +
				"chain postrouting { type nat hook postrouting priority srcnat + 1; policy drop; }; }", kinds(ruleset.ChainChanged, ruleset.SetChanged),
		},
		{"set of another", "add set OURS theirs { type mark; }", kinds(ruleset.SetChanged)},
		{"chain of another", "add chain OURS theirs; add rule OURS postrouting jump theirs", kinds(ruleset.ChainChanged)},
		{"map of another", "add map OURS theirs { type mark : verdict; }", kinds(ruleset.ChainChanged)},
		{"table dormant", "add table OURS { flags dormant; }", kinds(ruleset.ChainChanged)},
	}
	for _, family := range families() {
		t.Run(family.String(), func(t *testing.T) {
			n := newNode(t, family)
			values := strings.NewReplacer("ELEMENT", "192.0.2.1", "LINKLOCAL", "169.254.0.0/16", "ADDRESS", "ipv4_addr")
			if family == ruleset.IPv6 {
				values = strings.NewReplacer("ELEMENT", "2001:db8::1", "LINKLOCAL", "fe80::/10", "ADDRESS", "ipv6_addr")
			}
			want := n.spare("10.0.0.0/8", "172.16.0.0/12", "fd00::/8", "2001:db8:1::/48")
			n.apply(t, want)
			fresh := n.text(t)
			for _, test := range tests {
				t.Run(test.name, func(t *testing.T) {
					n.other(t, values.Replace(test.commands))
					if diff := cmp.Diff(test.drift, n.inspect(t, want)); diff != "" {
						t.Errorf("Inspect differs (-want +got):\n%s", diff)
					}
					if diff := cmp.Diff(test.drift, n.apply(t, want)); diff != "" {
						t.Errorf("Apply differs (-want +got):\n%s", diff)
					}
					n.holds(t, want)
					if diff := cmp.Diff(fresh, n.text(t)); diff != "" {
						t.Errorf("a fresh start differs (-fresh +healed):\n%s", diff)
					}
				})
			}
		})
	}
}

// TestInPlace: a change of the list leaves the set and the base chain where they are,
// however elements meet.
func TestInPlace(t *testing.T) {
	handles := regexp.MustCompile(`(?m)^\t(set|chain) \S+ \{ # handle (\d+)$`)
	for _, test := range []struct {
		name     string
		from, to []string
	}{
		{"added", []string{"10.0.0.0/8"}, []string{"10.0.0.0/8", "192.0.2.0/24"}},
		{"deleted", []string{"10.0.0.0/8", "192.0.2.0/24"}, []string{"10.0.0.0/8"}},
		{"one for another", []string{"10.0.0.0/8", "192.0.2.0/25"}, []string{"10.0.0.0/8", "192.0.2.128/25"}},
		{"all for none", []string{"10.0.0.0/8"}, nil},
		{"grown", []string{"10.0.0.0/8", "192.0.2.0/25"}, []string{"10.0.0.0/8", "192.0.2.0/24"}},
		{"shrunk", []string{"10.0.0.0/8"}, []string{"10.64.0.0/10"}},
		{"neighbour", []string{"10.0.0.0/9"}, []string{"10.0.0.0/9", "10.128.0.0/16"}},
		{"split", []string{"0.0.0.0/0"}, []string{"0.0.0.0/2", "128.0.0.0/1"}},
		{"overlap", []string{"10.0.0.0/16", "10.1.0.0/16"}, []string{"10.1.0.0/16", "10.2.0.0/16"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, ruleset.IPv4)
			n.apply(t, n.spare(test.from...))
			before := handles.FindAllString(n.state(t), -1)
			to := n.spare(test.to...)
			if diff := cmp.Diff([]ruleset.Drift{ruleset.SetChanged}, n.apply(t, to)); diff != "" {
				t.Errorf("drift differs (-want +got):\n%s", diff)
			}
			n.holds(t, to)
			if diff := cmp.Diff(before, handles.FindAllString(n.state(t), -1)); diff != "" || len(before) != 2 {
				t.Errorf("handles differ (-before +after):\n%s", diff)
			}
		})
	}
}

// TestManyChanges goes the way of lists that have little in common, to and fro.
func TestManyChanges(t *testing.T) {
	n := newNode(t, ruleset.IPv4)
	var few, many config.Config
	for i := range 2 * maxInPlace {
		address := netip.AddrFrom4([4]byte{10, byte(i >> 6), byte(i << 2), 0})
		few.NonMasquerade = append(few.NonMasquerade, netip.PrefixFrom(address, 24))
		many.NonMasquerade = append(many.NonMasquerade, netip.PrefixFrom(address, 23))
	}
	for _, c := range []config.Config{few, many, {}, many, few} {
		want := ruleset.Build(c, n.family, plainOptions())
		n.apply(t, want)
		n.holds(t, want)
	}
}

// TestKilledInTheMidst: what is left of a change in steps is taken away.
func TestKilledInTheMidst(t *testing.T) {
	n := newNode(t, ruleset.IPv4)
	n.apply(t, n.spare("10.0.0.0/8"))
	n.other(t, "add set OURS kept { type ipv4_addr; flags interval; }; add element OURS kept { 10.0.0.0/8 }; "+
		"insert rule OURS postrouting ip daddr @kept return; delete element OURS spared { 10.0.0.0/8 }; add element OURS spared { 10.0.0.0/7 }")
	n.kernel = Open()
	want := n.spare("10.0.0.0/9")
	if diff := cmp.Diff([]ruleset.Drift{ruleset.ChainChanged, ruleset.SetChanged}, n.apply(t, want)); diff != "" {
		t.Errorf("drift differs (-want +got):\n%s", diff)
	}
	n.holds(t, want)
}

// TestWalkEndsLikeAFreshStart goes through decisions and disturbances by chance; where it
// ends must not tell how it came there.
func TestWalkEndsLikeAFreshStart(t *testing.T) {
	const steps = 25
	for _, family := range families() {
		t.Run(family.String(), func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			chance := rand.New(rand.NewPCG(seed, 0))
			n := newNode(t, family)
			fresh := newNode(t, family)
			for step := range steps {
				disturb(t, n, chance)
				want := randomRuleset(chance, family)
				n.apply(t, want)
				if drift := n.inspect(t, want); len(drift) > 0 {
					t.Fatalf("step %d left drift %v", step, drift)
				}
				fresh.other(t, "flush ruleset")
				fresh.kernel = Open()
				fresh.apply(t, want)
				if diff := cmp.Diff(fresh.text(t), n.text(t)); diff != "" {
					t.Fatalf("step %d differs from a fresh start (-fresh +walked):\n%s", step, diff)
				}
			}
		})
	}
}

// disturb does to our table what another program might.
func disturb(t *testing.T, n node, chance *rand.Rand) {
	t.Helper()
	if n.text(t) == "" {
		return
	}
	disturbances := []string{
		"flush ruleset", "flush table OURS", "flush set OURS spared", "insert rule OURS postrouting accept",
		"delete table OURS; add table OURS", "add chain OURS theirs", "add table OURS { flags dormant; }",
	}
	if i := chance.IntN(2 * len(disturbances)); i < len(disturbances) {
		n.other(t, disturbances[i])
	}
}

// randomRuleset has few addresses, so that prefixes meet and changes are small.
func randomRuleset(chance *rand.Rand, family ruleset.Family) ruleset.Ruleset {
	c := config.Config{MasqueradeLinkLocal: chance.IntN(3) == 0, MasqueradeLinkLocalIPv6: chance.IntN(3) == 0}
	for range chance.IntN(12) {
		c.NonMasquerade = append(c.NonMasquerade, randomPrefix(chance, family))
	}
	for range chance.IntN(4) {
		c.Masquerade = append(c.Masquerade, randomPrefix(chance, family))
	}
	o := ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: chance.IntN(2) == 0, SpareMulticast: chance.IntN(2) == 0}
	if chance.IntN(4) == 0 {
		o.Interfaces = [][]string{{"eth0", "server"}, {"server"}, {"ser+", "eth+", "server"}, {"eth0"}, {"eth0", "wlan+"}}[chance.IntN(5)]
	}
	if chance.IntN(4) == 0 {
		sources := [][]string{{"10.244.0.0/16", "fd00:10:244::/48"}, {"10.244.1.0/24", "10.7.0.0/16", "fd00:10:244:1::/64", "fd07::/16"}, {"10.7.0.0/16", "fd07::/16"}}
		o.Sources = prefixes(sources[chance.IntN(len(sources))]...)
	}
	if chance.IntN(4) == 0 {
		o.ToPorts = []ruleset.PortRange{{First: 2000, Last: 2099}, {First: 3000, Last: 3999}}
	}
	return ruleset.Build(c, family, o)
}

func randomPrefix(chance *rand.Rand, family ruleset.Family) netip.Prefix {
	address := netip.AddrFrom4([4]byte{10, byte(chance.IntN(2)), byte(chance.IntN(2)), byte(chance.IntN(256))})
	if family == ruleset.IPv6 {
		address = netip.AddrFrom16([16]byte{0xfd, 1, byte(chance.IntN(2)), 15: byte(chance.IntN(256))})
	}
	prefix, err := address.Prefix(chance.IntN(address.BitLen() + 1))
	if err != nil {
		panic(err)
	}
	return prefix
}

// shadow puts a script before nft, as another version of it.
func shadow(t *testing.T, script string) {
	t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := "#!/bin/sh\n" + strings.ReplaceAll(script, "REAL", path) + "\n"
	if err := os.WriteFile(filepath.Join(dir, "nft"), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestAnotherVersionsWords: an nft that prints our table in other words must not make us
// write for ever.
func TestAnotherVersionsWords(t *testing.T) {
	n := newNode(t, ruleset.IPv4)
	shadow(t, `case $1 in list) REAL "$@" | sed 's/srcnat + 1/101/; s/ip daddr @/ip daddr  @/; s/{ tcp, udp, sctp }/{ 6, 17, 132 }/' ;; *) exec REAL "$@" ;; esac`)
	want := n.spare("10.0.0.0/8")
	n.apply(t, want)
	before := n.Output(t, "nft", "-a", "list", "table", "ip", "ip-masq-guard-IP-MASQ-AGENT")
	for range 3 {
		if drift := n.apply(t, want); len(drift) > 0 {
			t.Errorf("drift %v of what was just written", drift)
		}
	}
	if diff := cmp.Diff(before, n.Output(t, "nft", "-a", "list", "table", "ip", "ip-masq-guard-IP-MASQ-AGENT")); diff != "" {
		t.Errorf("something was written (-before +after):\n%s", diff)
	}
	next := n.spare("10.0.0.0/8", "192.0.2.0/24")
	n.apply(t, next)
	if drift := n.apply(t, next); len(drift) > 0 {
		t.Errorf("drift %v after a change", drift)
	}
	n.other(t, "add rule OURS postrouting accept")
	if diff := cmp.Diff([]ruleset.Drift{ruleset.ChainChanged}, n.apply(t, next)); diff != "" {
		t.Errorf("drift differs (-want +got):\n%s", diff)
	}
	if drift := n.apply(t, next); len(drift) > 0 {
		t.Errorf("drift %v after healing", drift)
	}
}

// TestRebuildsWhereStepsFail: where nft refuses to change what is there, the table is
// made anew.
func TestRebuildsWhereStepsFail(t *testing.T) {
	n := newNode(t, ruleset.IPv4)
	n.apply(t, n.spare("10.0.0.0/8"))
	shadow(t, `[ "$1 $2" = "--check -f" ] || exec REAL "$@"
text=$(cat)
case $text in "add element"*) echo "Error: not today" >&2; exit 1 ;; esac
echo "$text" | REAL "$@"`)
	want := n.spare("10.0.0.0/8", "192.0.2.0/24")
	n.apply(t, want)
	n.holds(t, want)
}

func TestFailures(t *testing.T) {
	tests := []struct {
		name, script string
		told         string
	}{
		{"list fails", "echo no luck >&2; exit 3", "reading table ip-masq-guard-IP-MASQ-AGENT: running "},
		{"list tells why", "echo no luck >&2; exit 3", "exit status 3: no luck"},
		{"endless line", "exec tr '\\0' x </dev/zero", "token too long"},
		{"endless complaint", "head -c 1000000 /dev/zero >&2; exit 1", "reading table"},
		{"old", `case $1 in list) echo "Error: No such file or directory" >&2; exit 1 ;; esac; echo "nftables v0.9.8 (E.D.S.)"`, "nft version must be v1.0.1 or later (got nftables v0.9.8 (E.D.S.))"},
		{"table vanishes", `case $1 in list) echo "Error: No such file or directory" >&2; exit 1 ;; --version) exec REAL "$@" ;; *) cat >/dev/null ;; esac`, "reading it back: it is not there"},
		{
			"refused", `case $1 in --check) grep -q "add chain" || exit 0; printf 'Error: Could not process rule: Operation not supported\nadd chain\n    ^^^^^\n' >&2; exit 1 ;; esac; exec REAL "$@"`,
			"writing table ip-masq-guard-IP-MASQ-AGENT: running nft --check -f -: exit status 1: Error: Could not process rule: Operation not supported; add chain",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, ruleset.IPv4)
			shadow(t, test.script)
			_, err := n.tryApply(t, n.spare("10.0.0.0/8"))
			if err == nil || !strings.Contains(err.Error(), test.told) {
				t.Fatalf("error %v does not hold %q", err, test.told)
			}
			if len(err.Error()) > 8<<10 || strings.Contains(err.Error(), "\n") {
				t.Errorf("error is no line: %q", err)
			}
		})
	}
}

func TestNoNft(t *testing.T) {
	n := newNode(t, ruleset.IPv4)
	path := os.Getenv("PATH")
	t.Setenv("PATH", t.TempDir())
	_, err := n.tryApply(t, n.spare("10.0.0.0/8"))
	if err == nil || !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "looking for nft: ") || !strings.Contains(err.Error(), "install the package nftables") {
		t.Errorf("error %v does not tell what is missing", err)
	}
	t.Setenv("PATH", path) // it comes back
	want := n.spare("10.0.0.0/8")
	n.apply(t, want)
	n.holds(t, want)
}

func TestContextEndsNft(t *testing.T) {
	n := newNode(t, ruleset.IPv4)
	shadow(t, "exec sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	started := time.Now()
	err := n.Do(func() error {
		_, err := n.kernel.Apply(ctx, n.spare("10.0.0.0/8"))
		return err
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that of the context", err)
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("Apply took %s", took)
	}
}

// TestIPv4OnlyHost: where a kernel has no IPv6, the other family is held all the same.
func TestIPv4OnlyHost(t *testing.T) {
	n := newNode(t, ruleset.IPv4)
	shadow(t, `case "$*" in *ip6*) echo "Error: Could not process rule: Address family not supported by protocol" >&2; exit 1 ;; esac
case $1 in -f|--check) text=$(cat); case $text in *ip6*|*inet*) echo "Error: Address family not supported by protocol" >&2; exit 1 ;; esac; echo "$text" | REAL "$@"; exit ;; esac
exec REAL "$@"`)
	want := n.spare("10.0.0.0/8")
	n.apply(t, want)
	n.holds(t, want)
	_, err := n.tryApply(t, ruleset.Build(config.Default(), ruleset.IPv6, plainOptions()))
	if err == nil || !strings.Contains(err.Error(), "Address family not supported") {
		t.Errorf("IPv6: error %v", err)
	}
}

func TestKubeProxy(t *testing.T) {
	for _, test := range []struct{ name, commands, want string }{
		{"nothing", "", ""},
		{"others", "add table ip kube-proxy-canary; add table inet kube-proxy; add table ip nat", ""},
		{"IPv4", "add table inet filter; add table ip kube-proxy", "table ip kube-proxy"},
		{"both", "add table ip6 kube-proxy; add table ip kube-proxy", "table ip6 kube-proxy"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, ruleset.IPv4)
			n.other(t, test.commands)
			var got string
			err := n.Do(func() (err error) {
				got, err = KubeProxy(t.Context())
				return err
			})
			if err != nil || got != test.want {
				t.Errorf("KubeProxy: %q, %v; want %q", got, err, test.want)
			}
		})
	}
	t.Run("no nft", func(t *testing.T) {
		t.Setenv("PATH", "")
		if _, err := KubeProxy(t.Context()); !errors.Is(err, exec.ErrNotFound) {
			t.Errorf("error %v", err)
		}
	})
}

// TestSomebodyIsFaster: a change between our write and our look at it is no other
// wording of our table.
func TestSomebodyIsFaster(t *testing.T) {
	for _, test := range []struct{ name, commands string }{
		{"a rule more", "insert rule TABLE postrouting accept"},
		{"another rule", "flush chain TABLE postrouting; add rule TABLE postrouting fib daddr type local return; " +
			"add rule TABLE postrouting accept; add rule TABLE postrouting masquerade"},
		{"no rule", "flush chain TABLE postrouting"},
	} {
		t.Run(test.name, func(t *testing.T) {
			once := filepath.Join(t.TempDir(), "once")
			commands := strings.ReplaceAll(test.commands, "TABLE", "ip ip-masq-guard-IP-MASQ-AGENT")
			shadow(t, `REAL "$@" || exit; if [ "$1" = -f ] && [ -e `+once+` ]; then rm `+once+` && REAL '`+commands+`'; fi`)
			n := newNode(t, ruleset.IPv4)
			want := n.spare("10.0.0.0/8")
			n.apply(t, want)
			n.other(t, "flush chain OURS postrouting")
			if err := os.WriteFile(once, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			n.apply(t, want)
			if _, err := os.Stat(once); err == nil {
				t.Fatal("nobody was faster")
			}
			n.apply(t, want)
			n.holds(t, want)
		})
	}
}
