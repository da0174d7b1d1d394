package addressmap

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"net/netip"
	"strconv"
)

// Sizes in pixels.
const (
	side     = 640 // of one picture
	margin   = 24
	title    = 40
	legend   = 24 // height of a line of it
	smallest = 3  // what would be smaller is drawn so wide, so that it can be seen
	hollow   = 7  // the same of an outline, so that one sees into it
	gridBits = 8  // a line of the grid for so many bits more than the picture has
)

// Colours tell the kinds apart for people with any colour vision: M. Okabe and K. Ito,
// "Color Universal Design", 2008.
const (
	colourMasqueraded = "#f7dfb0"
	colourSpared      = "#56b4e9"
	colourNowMasq     = "#d55e00"
	colourNoLonger    = "#009e73"
	colourGrid        = "#00000022"
	colourText        = "#222222"
	colourNode        = "#000000"
	colourPod         = "#a0205f"
	colourService     = "#0050a0"
	outlineWidth      = 2.5
	dashes            = "6 3"
	fontSize          = 13
	gridFontSize      = 9
)

// SVG draws pictures side by side, with a legend below.
func SVG(pictures ...Picture) []byte {
	var b bytes.Buffer
	keys := legendOf(pictures)
	width := margin + len(pictures)*(side+margin)
	height := title + side + margin + len(keys)*legend
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="%d" fill="%s">`+"\n",
		width, height, width, height, fontSize, colourText)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	for i, p := range pictures {
		fmt.Fprintf(&b, `<g transform="translate(%d %d)">`+"\n", margin+i*(side+margin), title)
		p.draw(&b)
		b.WriteString("</g>\n")
	}
	for i, key := range keys {
		y := title + side + margin + i*legend
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="16" height="14" %s/><text x="%d" y="%d">%s</text>`+"\n",
			margin, y-12, key.style, margin+26, y, escape(key.text))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// draw draws one picture at the origin.
func (p Picture) draw(b *bytes.Buffer) {
	fmt.Fprintf(b, `<text y="-12" font-weight="bold">%s</text>`+"\n", escape(p.Title))
	fmt.Fprintf(b, `<rect width="%d" height="%d" fill="%s"/>`+"\n", side, side, colourMasqueraded)
	p.fill(b, p.Spared, smallest, fill(colourSpared), "not masqueraded")
	p.fill(b, p.Changed.NowMasqueraded, smallest, fill(colourNowMasq), "now masqueraded")
	p.fill(b, p.Changed.NoLongerMasqueraded, smallest, fill(colourNoLonger), "no longer masqueraded")
	p.grid(b)
	for _, r := range p.Ranges {
		p.fill(b, []netip.Prefix{r.Prefix}, hollow, outline(r.Kind), r.Kind.String()+" range")
	}
}

func (p Picture) fill(b *bytes.Buffer, prefixes []netip.Prefix, least float64, style, what string) {
	for _, prefix := range prefixes {
		x, y, width, height, ok := p.pixels(prefix, least)
		if !ok {
			continue
		}
		fmt.Fprintf(b, `<rect x="%s" y="%s" width="%s" height="%s" %s><title>%s: %s</title></rect>`+"\n",
			x, y, width, height, style, prefix, what)
	}
}

// pixels is the place of a prefix in the picture, as SVG writes numbers.
func (p Picture) pixels(prefix netip.Prefix, least float64) (x, y, width, height string, ok bool) {
	a, ok := areaOf(prefix, p.Within)
	if !ok {
		return "", "", "", "", false
	}
	scale := float64(side) / float64(int(1)<<((32-p.Within.Bits())/2))
	place := func(at, length int) (string, string) {
		begin, size := float64(at)*scale, float64(length)*scale
		if size < least {
			begin, size = min(max(begin+size/2-least/2, 0), side-least), least
		}
		return decimal(begin), decimal(size)
	}
	x, width = place(a.x, a.width)
	y, height = place(a.y, a.height)
	return x, y, width, height, true
}

// grid shows where the prefixes lie that are eight bits longer than the picture's.
func (p Picture) grid(b *bytes.Buffer) {
	const across = 1 << (gridBits / 2)
	const cell = side / across
	for i := 1; i < across; i++ {
		fmt.Fprintf(b, `<path d="M%d 0V%dM0 %dH%d" stroke="%s" stroke-opacity="0.2"/>`+"\n", i*cell, side, i*cell, side, colourGrid)
	}
	bits := p.Within.Bits() + gridBits
	fmt.Fprintf(b, `<g font-size="%d" fill-opacity="0.55">`+"\n", gridFontSize)
	for i := range across * across {
		x, y := cellAt(p.Within, gridBits/2, i)
		fmt.Fprintf(b, `<text x="%d" y="%d">%s</text>`+"\n", x*cell+3, y*cell+11, label(p.Within, bits, i))
	}
	b.WriteString("</g>\n")
}

// label names the cell of a grid shortly: the last octet that the cell fixes.
func label(within netip.Prefix, bits, cell int) string {
	at := number(within.Addr()) + cell<<(32-bits)
	octet := (bits - 1) / 8
	return strconv.Itoa(at >> (24 - 8*octet) & 0xff)
}

// key is a line of the legend.
type key struct{ style, text string }

func legendOf(pictures []Picture) []key {
	keys := []key{
		{fill(colourMasqueraded), "masqueraded: leaves with the node's address"},
		{fill(colourSpared), "not masqueraded: leaves with the pod's address"},
	}
	var now, noLonger bool
	var kinds [Service + 1]bool
	for _, p := range pictures {
		now = now || len(p.Changed.NowMasqueraded) > 0
		noLonger = noLonger || len(p.Changed.NoLongerMasqueraded) > 0
		for _, r := range p.Ranges {
			kinds[r.Kind] = true
		}
	}
	if now {
		keys = append(keys, key{fill(colourNowMasq), "now masqueraded, and was not before"})
	}
	if noLonger {
		keys = append(keys, key{fill(colourNoLonger), "no longer masqueraded, and was before"})
	}
	for kind, present := range kinds {
		if present {
			keys = append(keys, key{outline(Kind(kind)), Kind(kind).String() + " range of the cluster"})
		}
	}
	return keys
}

func fill(colour string) string { return `fill="` + colour + `"` }

func outline(kind Kind) string {
	colour := [...]string{Node: colourNode, Pod: colourPod, Service: colourService}[kind]
	style := fmt.Sprintf(`fill="none" stroke="%s" stroke-width="%v"`, colour, outlineWidth)
	if kind == Service {
		style += ` stroke-dasharray="` + dashes + `"`
	}
	return style
}

func decimal(value float64) string { return strconv.FormatFloat(value, 'f', -1, 64) }

func escape(text string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(text)) // a buffer takes everything
	return b.String()
}
