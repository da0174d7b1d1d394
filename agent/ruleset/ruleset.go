// Package ruleset turns a Config into what the kernel must hold, as text: a chain
// and the one jump to it, per family. It is pure; the package iptables carries the
// text into the kernel.
package ruleset

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// Family is an IP version.
type Family int

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

func (f Family) String() string {
	if f == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// Options are the agent flags that shape the rules.
type Options struct {
	Chain       string      // --masq-chain; see CheckChain
	RandomFully bool        // --random-fully
	ToPorts     []PortRange // --to-ports; see ParsePorts

	Sources        []netip.Prefix // --source-cidrs: packets from elsewhere keep their address; empty: all are masqueraded
	Interfaces     []string       // --out-interfaces: packets that leave by others keep their address; empty: all are masqueraded; "eth+" is every name that begins with eth
	SpareMulticast bool           // --nomasq-multicast: spare 224.0.0.0/4 and ff00::/8

	Sets         bool // the kernel has ipsets: above the threshold one of them holds the destinations
	SetThreshold int  // --set-threshold: rules of the file that are visible ones still; 0: none ever, MaxSetThreshold: all
}

// Ruleset is everything that the nat table of one family must hold of ours.
type Ruleset struct {
	Decision

	Chain string
	Rules []string // the chain, each "-A CHAIN ...", exactly as iptables-save prints it
	Jump  []string // the rule specification of the jump in POSTROUTING, one argument an element
	Set   *Set     // what the rules ask for destinations; nil: they name each
}

// CommentPrefix begins the comment of every rule of ours, and of other ip-masq-agents.
const CommentPrefix = "ip-masq-agent: "

// The comments of the rules are those of the upstream agent where it has such rules, so
// that people and scripts which look for them find them.
const (
	SparedComment     = "ip-masq-agent: local traffic is not subject to MASQUERADE"
	SourceComment     = "ip-masq-agent: traffic from other sources is not subject to MASQUERADE"
	InterfaceComment  = "ip-masq-agent: traffic through other interfaces is not subject to MASQUERADE"
	exceptionComment  = "ip-masq-agent: exception, outbound traffic is subject to MASQUERADE"
	MasqueradeComment = "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)"
	jumpComment       = "ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom %s chain"
)

// Build computes the rules of one family: link-local first unless it is
// masqueraded, the list in its own order, and at last the masquerading of
// everything else. Overlapping and repeated prefixes stay, as upstream. With
// exceptions the longest prefixes come first instead. Where these are too many rules,
// link-local and the list are in a Set, and one rule asks it.
func Build(c config.Config, family Family, o Options) Ruleset {
	r := Ruleset{Decision: Decide(c, family, o), Chain: o.Chain, Jump: jump(o.Chain)}
	if o.Sets && o.SetThreshold < MaxSetThreshold && (o.SetThreshold == 0 || r.listed(c) > o.SetThreshold) {
		r.Set = newSet(o.Chain, r.Decision)
	}
	r.Rules = render(r)
	return r
}

// listed counts the rules that the lists of the file would be.
func (r Ruleset) listed(c config.Config) int {
	spared := min(len(r.Spared), len(r.ours(c.NonMasquerade)))
	return spared + len(r.Exceptions)*masquerading(r.Decision)
}

// Equal tells whether the kernel would hold the same, to the order of rules.
func (r Ruleset) Equal(other Ruleset) bool {
	return slices.Equal(r.Rules, other.Rules) && slices.Equal(r.Jump, other.Jump) && r.Set.equal(other.Set)
}

// Asking are the same rules for a set by another name.
func (r Ruleset) Asking(set string) Ruleset {
	rules := make([]string, len(r.Rules))
	for i, rule := range r.Rules {
		rules[i] = strings.Replace(rule, asks(r.Set.Name), asks(set), 1)
	}
	r.Rules = rules
	r.Set = &Set{Name: set, Family: r.Set.Family, Entries: r.Set.Entries}
	return r
}

// String is the input for iptables-restore --noflush: it replaces the whole chain
// in one transaction and touches nothing else.
func (r Ruleset) String() string {
	var b strings.Builder
	b.WriteString("*nat\n:" + r.Chain + " - [0:0]\n") // this line makes the chain, or empties it
	for _, rule := range r.Rules {
		b.WriteString(rule + "\n")
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// JumpRule is the jump as iptables-save prints it: "-A POSTROUTING ... -j CHAIN".
func (r Ruleset) JumpRule() string {
	words := []string{"-A", "POSTROUTING"}
	for _, word := range r.Jump {
		if strings.ContainsRune(word, ' ') {
			word = `"` + word + `"`
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}
