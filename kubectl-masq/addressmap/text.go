package addressmap

import (
	"bytes"
	"fmt"
	"net/netip"
)

// textOrder makes 32 lines of 32 cells, which a terminal of 80 columns shows.
const textOrder = 5

// cell is what a part of the space holds.
type cell struct {
	spared  int // addresses, at most all
	changed bool
	kinds   [Service + 1]bool
}

// Text draws a picture for a terminal, a legend below: 32 lines of 64 characters.
func Text(p Picture) []byte {
	cells := p.cells()
	var grid [1 << textOrder][1 << textOrder]cell
	for i, c := range cells {
		x, y := cellAt(p.Within, textOrder, i)
		grid[y][x] = c
	}
	bits := p.Within.Bits() + 2*textOrder
	all := 1 << (32 - bits)

	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n\n", p.Title)
	for _, line := range grid {
		for _, c := range line {
			b.WriteString(c.glyph(all))
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, `
A cell is a /%d, along a Hilbert curve from %s at the top left to %s at the top right.
.. masqueraded   ## not masqueraded   %%%% partly   *  changed
second letter: N node range, P pod range, S service range, M several
`, bits, p.Within.Addr(), last(p.Within))
	return b.Bytes()
}

// cells are the parts of the space along the curve.
func (p Picture) cells() []cell {
	cells := make([]cell, 1<<(2*textOrder))
	each := func(prefixes []netip.Prefix, mark func(c *cell, addresses int)) {
		for _, prefix := range prefixes {
			first, addresses, size := p.cellsOf(prefix)
			for i := range addresses {
				mark(&cells[first+i], size)
			}
		}
	}
	each(p.Spared, func(c *cell, addresses int) { c.spared += addresses })
	for _, changed := range [][]netip.Prefix{p.Changed.NowMasqueraded, p.Changed.NoLongerMasqueraded} {
		each(changed, func(c *cell, _ int) { c.changed = true })
	}
	for _, r := range p.Ranges {
		each([]netip.Prefix{r.Prefix}, func(c *cell, _ int) { c.kinds[r.Kind] = true })
	}
	return cells
}

// cellsOf tells in which cells a prefix lies: the first one, how many, and how many
// addresses of each it has.
func (p Picture) cellsOf(prefix netip.Prefix) (first, count, addresses int) {
	if !prefix.Addr().Is4() || !prefix.Overlaps(p.Within) {
		return 0, 0, 0
	}
	bits := p.Within.Bits() + 2*textOrder
	if prefix.Bits() <= p.Within.Bits() {
		return 0, 1 << (2 * textOrder), 1 << (32 - bits)
	}
	first = (number(prefix.Addr()) - number(p.Within.Addr())) >> (32 - bits)
	if prefix.Bits() >= bits {
		return first, 1, 1 << (32 - prefix.Bits())
	}
	return first, 1 << (bits - prefix.Bits()), 1 << (32 - bits)
}

func (c cell) glyph(all int) string {
	glyph := "%"
	switch c.spared {
	case 0:
		glyph = "."
	case all:
		glyph = "#"
	}
	second := ""
	for kind, present := range c.kinds {
		switch {
		case !present:
		case second == "":
			second = [...]string{Node: "N", Pod: "P", Service: "S"}[kind]
		default:
			second = "M"
		}
	}
	switch {
	case second != "" && c.changed:
		return "*" + second
	case second != "":
		return glyph + second
	case c.changed:
		return glyph + "*"
	}
	return glyph + glyph
}

func last(prefix netip.Prefix) netip.Addr {
	n := number(prefix.Addr()) | (1<<(32-prefix.Bits()) - 1)
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) //nolint:gosec // the low byte of each is meant
}
