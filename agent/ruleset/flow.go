package ruleset

import "net/netip"

// Flow is how the nat table has treated one connection: what its first packet was like in
// POSTROUTING, that is, after its destination was translated and before its source was.
type Flow struct {
	Source, Destination netip.Addr
	Masqueraded         bool // its source was translated
}

// Outdated tells that a change treats new flows like f in another way than f was treated.
// A Changed of Compare is needed.
func (c Changed) Outdated(f Flow) bool {
	if f.Masqueraded {
		return c.NoLongerMasqueraded.Contains(f.Destination)
	}
	return c.NowMasqueraded.Contains(f.Destination)
}

// Empty tells that no destination is treated in another way.
func (c Changed) Empty() bool {
	return len(c.NowMasqueraded.Ranges()) == 0 && len(c.NoLongerMasqueraded.Ranges()) == 0
}
