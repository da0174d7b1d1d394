// Package addressmap draws the IPv4 address space along a Hilbert curve, on which
// addresses that are near in number are near in the picture and every prefix is one
// square or one domino. It is pure: ranges in, an SVG or lines of text out.
package addressmap

import (
	"fmt"
	"net/netip"
)

// Picture is one address space with what happens to traffic to it. What lies
// outside Within is left out, and so is IPv6.
type Picture struct {
	Title   string
	Within  netip.Prefix   // the space that is drawn; see CheckWithin
	Spared  []netip.Prefix // destinations that are not masqueraded, as disjoint prefixes
	Changed Changes
	Ranges  []Range // of the cluster
}

// Changes are the destinations whose treatment differs from the picture beside it.
type Changes struct {
	NowMasqueraded      []netip.Prefix
	NoLongerMasqueraded []netip.Prefix
}

// Kind is what a range of the cluster is for.
type Kind int

// The kinds.
const (
	Node Kind = iota
	Pod
	Service
)

func (k Kind) String() string {
	return [...]string{Node: "node", Pod: "pod", Service: "service"}[k]
}

// Range is a range of the cluster.
type Range struct {
	Prefix netip.Prefix
	Kind   Kind
}

// Everywhere is the whole IPv4 space.
//
//nolint:gochecknoglobals // a constant in all but the language
var Everywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// maxWithin is the longest prefix that is worth a picture: 4^5 addresses, one for each
// cell of the text.
const maxWithin = 32 - 2*textOrder

// CheckWithin tells why a prefix cannot be drawn, or nil.
func CheckWithin(within netip.Prefix) error {
	switch {
	case !within.IsValid() || !within.Addr().Is4():
		return fmt.Errorf("drawing %s: only IPv4 is drawn; name an IPv4 prefix such as 10.0.0.0/8", within)
	case within != within.Masked():
		return fmt.Errorf("drawing %s: it has host bits set; write %s", within, within.Masked())
	case within.Bits()%2 != 0:
		return fmt.Errorf("drawing %s: a square holds an even number of bits; write %s",
			within, netip.PrefixFrom(within.Addr(), within.Bits()-1).Masked())
	case within.Bits() > maxWithin:
		return fmt.Errorf("drawing %s: it is too small for a picture; write %s or a shorter prefix",
			within, netip.PrefixFrom(within.Addr(), maxWithin).Masked())
	}
	return nil
}

// area is where a prefix lies: a rectangle in units of a single address, of which the
// side of the picture has 2^((32-bits of Within)/2).
type area struct{ x, y, width, height int }

// areaOf is the area of a prefix, of which ok is false outside within. One that
// contains within is all of it.
func areaOf(prefix, within netip.Prefix) (a area, ok bool) {
	if !prefix.Addr().Is4() || !prefix.Overlaps(within) {
		return area{}, false
	}
	order := (32 - within.Bits()) / 2
	if prefix.Bits() <= within.Bits() {
		return area{width: 1 << order, height: 1 << order}, true
	}
	first := number(prefix.Addr()) - number(within.Addr())
	free := 32 - prefix.Bits() // bits of the prefix
	x, y := curve(order, first)
	a = square(x, y, free/2)
	if free%2 == 0 {
		return a, true
	}
	x, y = curve(order, first+1<<(free-1)) // the other half is the next square of the curve
	other := square(x, y, free/2)
	return area{
		x: min(a.x, other.x), y: min(a.y, other.y),
		width:  max(a.x, other.x) + a.width - min(a.x, other.x),
		height: max(a.y, other.y) + a.height - min(a.y, other.y),
	}, true
}

// cellAt is the place of one of the 4^cells equal squares that within falls into, by its
// number along the curve. The curve of another order may be a mirror image, so it is
// always the one through every address.
func cellAt(within netip.Prefix, cells, index int) (x, y int) {
	order := (32 - within.Bits()) / 2
	x, y = curve(order, index<<(2*(order-cells)))
	return x >> (order - cells), y >> (order - cells)
}

// square is the one of side 2^order around a point, aligned as the curve fills them.
func square(x, y, order int) area {
	return area{x: x >> order << order, y: y >> order << order, width: 1 << order, height: 1 << order}
}

func number(addr netip.Addr) int {
	b := addr.As4()
	return int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3])
}

// curve is the point at a distance along the Hilbert curve through a square of side
// 2^order: D. Hilbert, "Ueber die stetige Abbildung einer Line auf ein
// Flaechenstueck", 1891. Each two bits of the distance choose a quadrant, which is
// turned so that the ends meet.
func curve(order, distance int) (x, y int) {
	for i := range order {
		right := distance >> (2*i + 1) & 1
		down := (distance>>(2*i) ^ right) & 1
		side := 1 << i
		if down == 0 {
			if right == 1 {
				x, y = side-1-x, side-1-y
			}
			x, y = y, x
		}
		x, y = x+right*side, y+down*side
	}
	return x, y
}
