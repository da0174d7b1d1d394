package iptables_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// gkeRules are those that a GKE node makes when it boots, kube-proxy's jump before theirs.
func gkeRules() string {
	var b strings.Builder
	b.WriteString(kubeProxy)
	b.WriteString(":IP-MASQ - [0:0]\n" + `-A POSTROUTING -m comment --comment "ip-masq: ensure nat POSTROUTING directs all non-LOCAL ` +
		`destination traffic to our custom IP-MASQ chain" -m addrtype ! --dst-type LOCAL -j IP-MASQ` + "\n")
	local := `-m comment --comment "ip-masq: local traffic is not subject to MASQUERADE" -j RETURN`
	reserved := `-m comment --comment "ip-masq: RFC 1918 reserved range is not subject to MASQUERADE" -j RETURN`
	for _, rule := range []string{
		"-d 169.254.0.0/16 " + local,
		"-d 10.0.0.0/8 " + reserved, "-d 172.16.0.0/12 " + reserved, "-d 192.168.0.0/16 " + reserved, "-d 240.0.0.0/4 " + reserved,
		"-d 192.0.2.0/24 " + reserved, "-d 203.0.113.0/24 " + reserved, "-d 100.64.0.0/10 " + reserved,
		"-d 198.18.0.0/15 " + reserved, "-d 192.0.0.0/24 " + reserved, "-d 192.88.99.0/24 " + reserved,
	} {
		b.WriteString("-A IP-MASQ " + rule + "\n")
	}
	b.WriteString(`-A IP-MASQ -m comment --comment "ip-masq: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE` + "\n")
	return b.String()
}

// TestAdoptsGKE: with --masq-chain=IP-MASQ the chain of the node becomes ours with one
// jump, and no packet leaves with a wrong source meanwhile.
func TestAdoptsGKE(t *testing.T) {
	for _, backend := range []iptables.Backend{iptables.NFT, iptables.Legacy} {
		t.Run(string(backend), func(t *testing.T) {
			l := newLab(t, place{backend, ruleset.IPv4})
			l.otherRestores(t, "*nat\n"+gkeRules()+"COMMIT\n", "--noflush")
			before := slices.DeleteFunc(l.rules(t), func(rule string) bool { return strings.Contains(rule, "IP-MASQ") })
			want := ruleset.Build(config.Config{NonMasquerade: prefixes("10.0.0.0/8", "203.0.113.0/24")}, l.family,
				ruleset.Options{Chain: "IP-MASQ", RandomFully: true})

			// What both lists spare, and what neither does.
			servers := []netip.AddrPort{l.servers[toInside], l.servers[toInternet]}
			adopted := make(chan struct{})
			flood := make(chan netns.Tally, 1)
			go func() {
				last := 0
				tally, err := l.pod.Flood(context.Background(), 2, servers, func(sent int) bool {
					select {
					case <-adopted:
						if last == 0 {
							last = sent + 200
						}
						return sent >= last
					default:
						return false
					}
				})
				if err != nil {
					t.Error(err)
				}
				flood <- tally
			}()
			drift := l.apply(t, want)
			again := l.apply(t, want)
			close(adopted)
			tally := <-flood

			if diff := cmp.Diff([]iptables.Drift{iptables.ChainChanged, iptables.JumpDuplicate}, drift); diff != "" {
				t.Errorf("drift (-want +got):\n%s", diff)
			}
			if len(again) > 0 {
				t.Errorf("a second time: %v", again)
			}
			ours := append([]string{want.JumpRule()}, want.Rules...)
			if diff := cmp.Diff(byChain(append(slices.Clone(before), ours...)), byChain(l.rules(t))); diff != "" {
				t.Errorf("the nat table differs (-want +got):\n%s", diff)
			}
			for i, source := range []string{"10.244.1.5", "192.0.2.1"} {
				seen := tally.Sources[servers[i]]
				if len(seen) != 1 || seen[netip.MustParseAddr(source)] < 50 {
					t.Errorf("%s has seen %v, want %s alone", servers[i], seen, source)
				}
			}
			if tally.Lost > 0 {
				t.Errorf("%d of %d packets are lost", tally.Lost, tally.Sent)
			}
		})
	}
}

// byChain sorts rules into their chains, which may come in any order.
func byChain(rules []string) map[string][]string {
	chains := map[string][]string{}
	for _, rule := range rules {
		chain := strings.Fields(rule)[1]
		chains[chain] = append(chains[chain], rule)
	}
	return chains
}
