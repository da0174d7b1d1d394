package iptables_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// Rules as agents leave them, in the words of iptables-save; CHAIN and RANGE are replaced.
const (
	upstreamJump = `-A POSTROUTING -m comment --comment "ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL ` +
		`destination traffic to our custom CHAIN chain" -m addrtype ! --dst-type LOCAL -j CHAIN`
	azureJump = `-A POSTROUTING -m comment --comment "\"ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL ` +
		`destination traffic to our custom CHAIN chain\"" -m addrtype ! --dst-type LOCAL -j CHAIN`
	gkeJump = `-A POSTROUTING -m comment --comment "ip-masq: ensure nat POSTROUTING directs all non-LOCAL ` +
		`destination traffic to our custom CHAIN chain" -m addrtype ! --dst-type LOCAL -j CHAIN`
	agentSpares = `-A CHAIN -d RANGE -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN`
	agentMasq   = `-A CHAIN -m comment --comment "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE`
	gkeSpares   = `-A CHAIN -d RANGE -m comment --comment "ip-masq: local traffic is not subject to MASQUERADE" -j RETURN`
	gkeMasq     = `-A CHAIN -m comment --comment "ip-masq: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE`
)

// left are rules as an agent leaves them under a chain name, in the family of the place.
func (p place) left(chain string, rules ...string) []string {
	private := "10.0.0.0/8"
	if p.family == ruleset.IPv6 {
		private = "fd00::/8"
	}
	filled := []string{":" + chain + " - [0:0]"}
	for _, rule := range rules {
		filled = append(filled, strings.NewReplacer("CHAIN", chain, "RANGE", private).Replace(rule))
	}
	return filled
}

// holding fills the nat table.
func (n node) holding(tb testing.TB, lines ...[]string) {
	tb.Helper()
	text := "*nat\n"
	for _, some := range lines {
		text += strings.Join(some, "\n") + "\n"
	}
	n.otherRestores(tb, text+"COMMIT\n", "--noflush")
}

// remaining asks what Remove would take, and remove takes it.
func (n node) remaining(tb testing.TB, chain string) iptables.Removal {
	tb.Helper()
	var found iptables.Removal
	err := n.Do(func() (err error) {
		found, err = iptables.Remains(tb.Context(), n.backend, n.family, chain)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

func (n node) remove(tb testing.TB, chain string) iptables.Removal {
	tb.Helper()
	var removed iptables.Removal
	err := n.Do(func() (err error) {
		removed, err = iptables.Remove(tb.Context(), n.backend, n.family, chain)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return removed
}

func TestRemove(t *testing.T) {
	const chain = "IP-MASQ-AGENT"
	for _, p := range places() {
		ours := ruleset.Build(config.Default(), p.family, plainOptions())
		foreign := p.left("KUBE-POSTROUTING", "-A CHAIN -m mark ! --mark 0x4000/0x4000 -j RETURN", "-A POSTROUTING -j CHAIN")
		rulesOf := func(lines []string) []string { return lines[1:] }
		for _, test := range []struct {
			name     string
			before   []string
			remains  []string // of before
			leftover int      // sentences of what is left
		}{
			{name: "nothing"},
			{name: "ours", before: append([]string{":" + chain + " - [0:0]", ours.JumpRule()}, ours.Rules...)},
			{name: "upstream's", before: p.left(chain, upstreamJump, agentSpares, agentMasq+" --random-fully")},
			{name: "Azure's", before: p.left(chain, azureJump, agentSpares, agentMasq)},
			{name: "three jumps", before: p.left(chain, upstreamJump, azureJump, upstreamJump, agentMasq)},
			{name: "an empty chain", before: p.left(chain)},
			{name: "a jump to an empty chain", before: p.left(chain, upstreamJump)},
			{name: "a chain without its jump", before: p.left(chain, agentSpares, agentMasq)},
			{
				name: "another agent's chain", before: p.left("MASQ", upstreamJump, agentMasq),
				remains: rulesOf(p.left("MASQ", upstreamJump, agentMasq)),
			},
			{
				name: "another program's chain of that name", before: p.left(chain, gkeJump, gkeSpares, gkeMasq), leftover: 2,
				remains: rulesOf(p.left(chain, gkeJump, gkeSpares, gkeMasq)),
			},
			{
				name: "a rule of somebody else in it", before: p.left(chain, upstreamJump, "-A CHAIN -p tcp -j ACCEPT", agentMasq), leftover: 1,
				remains: rulesOf(p.left(chain, "-A CHAIN -p tcp -j ACCEPT", agentMasq)),
			},
			{
				name: "a jump of somebody else to it", before: p.left(chain, upstreamJump, agentMasq, "-A POSTROUTING -p udp -j CHAIN"), leftover: 1,
				remains: []string{"-A POSTROUTING -p udp -j " + chain, rulesOf(p.left(chain, agentMasq))[0]},
			},
			{
				name: "a goto of somebody else to it", before: p.left(chain, upstreamJump, agentMasq, "-A POSTROUTING -p udp -g CHAIN"), leftover: 1,
				remains: []string{"-A POSTROUTING -p udp -g " + chain, rulesOf(p.left(chain, agentMasq))[0]},
			},
		} {
			t.Run(p.String()+"/"+test.name, func(t *testing.T) {
				n := p.node(t)
				n.holding(t, foreign)
				alone := n.rules(t)
				n.holding(t, test.before)
				before := n.rules(t)

				announced := n.remaining(t, chain)
				if diff := cmp.Diff(before, n.rules(t)); diff != "" {
					t.Fatalf("looking changed the table (-before +after):\n%s", diff)
				}
				removed := n.remove(t, chain)
				if diff := cmp.Diff(announced, removed); diff != "" {
					t.Errorf("announced and removed differ (-announced +removed):\n%s", diff)
				}
				if len(removed.Left) != test.leftover {
					t.Errorf("%d sentences, want %d: %q", len(removed.Left), test.leftover, removed.Left)
				}
				after := n.rules(t)
				if diff := cmp.Diff(sorted(append(alone, test.remains...)), sorted(after)); diff != "" {
					t.Errorf("the table differs (-want +got):\n%s", diff)
				}
				if got := len(before) - len(after); got != countRules(removed.Lines) {
					t.Errorf("%d rules went, %d were told: %q", got, countRules(removed.Lines), removed.Lines)
				}

				state := n.state(t)
				if again := n.remove(t, chain); len(again.Lines) > 0 {
					t.Errorf("the second time it removes %q", again.Lines)
				}
				if diff := cmp.Diff(state, n.state(t)); diff != "" {
					t.Errorf("the second time it writes (-before +after):\n%s", diff)
				}
			})
		}
	}
}

func countRules(lines []string) int {
	n := 0
	for _, line := range lines {
		if strings.HasPrefix(line, "-A ") {
			n++
		}
	}
	return n
}

// TestRemoveMakesNothing: where nobody has made a nat table, there is none afterwards.
func TestRemoveMakesNothing(t *testing.T) {
	for _, p := range places() {
		t.Run(p.String(), func(t *testing.T) {
			n := p.node(t)
			if removed := n.remove(t, "IP-MASQ-AGENT"); len(removed.Lines)+len(removed.Left) > 0 {
				t.Errorf("removed %+v", removed)
			}
			if held := n.Output(t, "nft", "list", "ruleset"); held != "" {
				t.Errorf("nft holds\n%s", held)
			}
			for _, names := range []string{"ip_tables_names", "ip6_tables_names"} {
				if held := n.Output(t, "sh", "-c", "cat /proc/net/"+names+" 2>/dev/null || :"); held != "" {
					t.Errorf("%s: %q", names, held)
				}
			}
		})
	}
}

func sorted(lines []string) []string { return slices.Sorted(slices.Values(lines)) }
