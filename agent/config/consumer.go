package config

import (
	"net/netip"
	"slices"
	"strings"
)

// Consumer is the program on the nodes that reads the text. The zero Consumer is Agent.
type Consumer int

// The consumers.
const (
	Agent    Consumer = iota // ours
	Upstream                 // the upstream ip-masq-agent, and those made of it: they lack the keys that are ours alone
	Cilium                   // Cilium's ipMasqAgent
)

// Consumers are all of them.
func Consumers() []Consumer { return []Consumer{Agent, Upstream, Cilium} }

// String is the name that params have for it.
func (c Consumer) String() string {
	switch c {
	case Upstream:
		return "ip-masq-agent"
	case Cilium:
		return "cilium"
	case Agent:
	}
	return "ip-masq-guard"
}

// Parse is the function of this name with the meaning that the consumer gives a text.
// For Cilium (its pkg/ipmasq) that is another one in this: it has three keys and ignores
// others, whatever their values; it cuts off host bits; a text without a list has an
// empty one; and MaxCIDRs is its only limit.
func (c Consumer) Parse(text []byte) (Config, []Problem) {
	p := &parser{source: source{text: string(text[:min(len(text), MaxBytes+1)])}, consumer: c}
	config := p.parse(len(text))
	problems := p.list()
	if p.anyFatal {
		return Config{}, problems
	}
	return config, problems
}

// Flags are those that a text has its meaning with: those of the agents, or what comes
// to the same for a consumer that has none of them.
func (c Consumer) Flags(agents Options) Options {
	if c == Cilium {
		agents = Options{ReservedRanges: true, IPv6: true}
	}
	agents.Foreign = agents.Foreign || c != Agent
	return agents
}

// ignores tells whether a key of ours is none of the consumer's.
func (c Consumer) ignores(key string) bool {
	if slices.Index(keys[:], key) >= upstreamKeys {
		return c != Agent
	}
	return c == Cilium && key != KeyNonMasqueradeCIDRs && key != KeyMasqLinkLocal && key != KeyMasqLinkLocalIPv6
}

// listless makes the configuration of a text that does not have the list.
func (c Consumer) listless() Config {
	config := Default()
	if c == Cilium {
		config.NonMasquerade, config.Defaulted = nil, config.Defaulted[1:]
		config.CIDRLimit = MaxCIDRs
	}
	return config
}

// ignoredKey reports a key that the consumer does not read, though others do. For a key
// of our agent alone it is the flag Foreign that does.
func (p *parser) ignoredKey(key string, f *field) {
	if slices.Index(keys[:], key) >= upstreamKeys {
		return
	}
	p.suspect(CodeIgnoredKey, key, f.at, p.scalar(f.at, f.name),
		quote(f.name)+" is no key of Cilium's, which ignores it", "remove it, unless other agents read the text as well")
}

// readsRaw tells that the consumer reads a CIDR otherwise than it means: Cilium takes
// what stands between the quotes in JSON as it stands there.
func (p *parser) readsRaw(e *value) bool {
	if p.consumer != Cilium || !p.json {
		return false
	}
	start := p.offset(e.at)
	return start < 0 || !strings.HasPrefix(p.text[start:], `"`+e.text+`"`)
}

// takesNevertheless returns the range that the consumer makes of one that our agent
// refuses, and says so in the fault.
func (c Consumer) takesNevertheless(text string, f *fault) (netip.Prefix, bool) {
	switch {
	case c != Cilium:
		return netip.Prefix{}, false
	case f.code == CodeHostBits:
		f.why = "has host bits set, which Cilium cuts off; other agents refuse the whole text"
	case f.code == CodeIPv4Mapped:
		f.why = "is an IPv4-mapped IPv6 range, which Cilium takes, but no packet has such an address"
	default:
		return netip.Prefix{}, false
	}
	prefix, err := netip.ParsePrefix(text)
	return prefix.Masked(), err == nil
}
