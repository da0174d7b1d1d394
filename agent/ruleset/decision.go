package ruleset

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// Multicast destinations: RFC 5771 and RFC 4291 section 2.7.
//
//nolint:gochecknoglobals // constants in all but the language
var (
	MulticastIPv4 = netip.MustParsePrefix("224.0.0.0/4")
	MulticastIPv6 = netip.MustParsePrefix("ff00::/8")
)

// Decision is what a Ruleset means, whatever its form in the kernel: which new flows
// of one family leave with the node's address. Every backend renders it.
type Decision struct {
	Family     Family
	Spared     []netip.Prefix // destinations that are not masqueraded: link-local and multicast as asked, then the list
	Exceptions []netip.Prefix // destinations that are, inside a spared one or not
	Sources    []netip.Prefix // as Options
	Interfaces []string       // as Options
	ToPorts    []PortRange    // as Options
	Random     bool           // source ports are chosen at random
}

// Decide computes what one family is to hold. A family without any source of
// its own, while the other has some, masquerades nothing.
func Decide(c config.Config, family Family, o Options) Decision {
	d := Decision{Family: family, Interfaces: o.Interfaces, ToPorts: o.ToPorts, Random: o.RandomFully}
	linkLocal, masqueraded, multicast := config.LinkLocalIPv4, c.MasqueradeLinkLocal, MulticastIPv4
	if family == IPv6 {
		linkLocal, masqueraded, multicast = config.LinkLocalIPv6, c.MasqueradeLinkLocalIPv6, MulticastIPv6
	}
	if !masqueraded {
		d.Spared = append(d.Spared, linkLocal)
	}
	if o.SpareMulticast {
		d.Spared = append(d.Spared, multicast)
	}
	d.Spared = append(d.Spared, d.ours(c.NonMasquerade)...)
	d.Exceptions = d.ours(c.Masquerade)
	d.Sources = d.ours(o.Sources)
	if len(o.Sources) > 0 && len(d.Sources) == 0 {
		d.Spared, d.Exceptions = []netip.Prefix{d.everywhere()}, nil
	}
	return d
}

func (d Decision) ours(prefixes []netip.Prefix) []netip.Prefix {
	var ours []netip.Prefix
	for _, prefix := range prefixes {
		if prefix.Addr().Is4() == (d.Family == IPv4) {
			ours = append(ours, prefix)
		}
	}
	return ours
}

func (d Decision) everywhere() netip.Prefix {
	if d.Family == IPv6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// Masquerades tells whether a new flow leaves with the node's address. The
// longest prefix around the destination decides, and nothing around it means yes.
func (d Decision) Masquerades(source, destination netip.Addr, outInterface string) bool {
	if !d.Judges(source) {
		return false
	}
	covers := func(pattern string) bool { return interfaceCovers(pattern, outInterface) }
	if len(d.Interfaces) > 0 && !slices.ContainsFunc(d.Interfaces, covers) {
		return false
	}
	return longest(d.Exceptions, destination) >= longest(d.Spared, destination)
}

// interfaceCovers tells whether a pattern of Options.Interfaces means an interface, or
// every interface that another pattern means.
func interfaceCovers(pattern, name string) bool {
	if beginning, isWildcard := strings.CutSuffix(pattern, "+"); isWildcard {
		return strings.HasPrefix(name, beginning)
	}
	return pattern == name
}

// Judges tells whether what comes from this source may be masqueraded at all.
func (d Decision) Judges(source netip.Addr) bool {
	return len(d.Sources) == 0 || slices.ContainsFunc(d.Sources, func(p netip.Prefix) bool { return p.Contains(source) })
}

// longest is the length of the longest prefix around an address, -1 without one.
func longest(prefixes []netip.Prefix, addr netip.Addr) int {
	bits := -1
	for _, p := range prefixes {
		if p.Contains(addr) {
			bits = max(bits, p.Bits())
		}
	}
	return bits
}
