package config

import (
	"net/netip"
	"slices"
)

// For returns what an agent with these flags makes of c. It reports what the
// flags make fatal: an IPv6 CIDR without IPv6, a default list over the limit or
// against an exception; and exceptions without effect, which depends on the flags as
// well; of each override too. It does not report again what Parse has. The Config of a refusal is c itself.
func (c Config) For(options Options) (Config, []Problem) {
	var r report
	effective := c
	if options.Foreign {
		effective = c.foreign(&r)
	}
	if options.ReservedRanges && c.ListAbsent() {
		effective.NonMasquerade = slices.Clone(reservedRanges)
		// Over a limit below the shorter default list Parse has refused c already.
		if c.exceeds(len(reservedRanges)) && !c.exceeds(len(privateRanges)) {
			r.add(overLimit(effective))
		}
		effective.contradictions(len(privateRanges), r.add)
	}
	if !options.IPv6 {
		for l := range listCount {
			for i, prefix := range effective.CIDRs(l.key()) {
				if prefix.Addr().Is6() {
					r.add(ipv6Disabled(c.Element(l.key(), i), prefix))
				}
			}
		}
	}
	if !r.anyFatal {
		effective.ineffective(r.add)
	}
	effective.Overrides = effective.overridesFor(options, &r)
	if r.anyFatal {
		return c, r.list()
	}
	return effective, r.list()
}

// foreign is c without what only our agent knows.
func (c Config) foreign(r *report) Config {
	for _, key := range keys[upstreamKeys:] {
		at := c.Key(key)
		if at.Line == 0 {
			continue
		}
		r.add(Problem{
			Code: CodeUnknownKey, Severity: Suspicious, Text: key,
			Message: quote(key) + " is a key of the ip-masq-guard agent alone, so the agents here ignore it",
			Remedy:  "remove it",
		}.at(at))
	}
	c.Masquerade, c.Overrides = nil, nil
	return c
}

func ipv6Disabled(at Place, prefix netip.Prefix) Problem {
	return Problem{
		Code:    CodeIPv6Disabled,
		Text:    prefix.String(),
		Message: quote(prefix.String()) + " is an IPv6 range, but the agent runs without IPv6, so it refuses the whole text",
		Remedy:  "remove it, or start the agents with --enable-ipv6",
	}.at(at)
}
