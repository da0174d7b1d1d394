package config

import (
	"net/netip"
	"slices"
)

// For returns what an agent with these flags makes of c. It reports what the
// flags make fatal: an IPv6 CIDR without IPv6, a default list over the limit; not
// again what Parse has reported. The Config of a refusal is c itself.
func (c Config) For(options Options) (Config, []Problem) {
	var r report
	effective := c
	if options.ReservedRanges && c.ListAbsent() {
		effective.NonMasquerade = slices.Clone(reservedRanges)
		// Over a limit below the shorter default list Parse has refused c already.
		if len(reservedRanges) > c.CIDRLimit && c.CIDRLimit >= len(privateRanges) {
			r.add(overLimit(effective, len(reservedRanges)))
		}
	}
	if !options.IPv6 {
		for i, prefix := range effective.NonMasquerade {
			if prefix.Addr().Is6() {
				r.add(ipv6Disabled(elementPath(i), c.At(elementPath(i)), prefix))
			}
		}
	}
	if r.anyFatal {
		return c, r.list()
	}
	return effective, nil
}

func ipv6Disabled(path string, at Position, prefix netip.Prefix) Problem {
	return Problem{
		Code:    CodeIPv6Disabled,
		Path:    path,
		Line:    at.Line,
		Column:  at.Column,
		Text:    prefix.String(),
		Message: quote(prefix.String()) + " is an IPv6 range, but the agent runs without IPv6, so it refuses the whole text",
		Remedy:  "remove it, or start the agents with --enable-ipv6",
	}
}
