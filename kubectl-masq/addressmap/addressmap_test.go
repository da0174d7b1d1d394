package addressmap

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite the golden files") //nolint:gochecknoglobals // a flag of the test binary

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// TestCurve holds the curve to its definition: it visits every point once, by steps of
// one, from one corner to the next.
func TestCurve(t *testing.T) {
	const order = 5
	type point struct{ x, y int }
	seen := map[point]bool{}
	var before point
	for i := range 1 << (2 * order) {
		x, y := curve(order, i)
		now := point{x, y}
		if x < 0 || y < 0 || x >= 1<<order || y >= 1<<order || seen[now] {
			t.Fatalf("step %d is at %v, outside or seen before", i, now)
		}
		if i > 0 && (x-before.x)*(x-before.x)+(y-before.y)*(y-before.y) != 1 {
			t.Fatalf("step %d goes from %v to %v", i, before, now)
		}
		seen[now], before = true, now
	}
	if x, y := curve(order, 0); x != 0 || y != 0 {
		t.Errorf("begins at %d,%d", x, y)
	}
	if before.x+before.y != 1<<order-1 {
		t.Errorf("ends at %v, no corner beside the first", before)
	}
}

// TestAreaOf asks the curve itself: an address lies in the area of a prefix if and only
// if the prefix contains it.
func TestAreaOf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		within := netip.PrefixFrom(address(rapid.Uint32().Draw(t, "within")), 2*rapid.IntRange(0, maxWithin/2).Draw(t, "bits/2")).Masked()
		inside := func(label string) netip.Addr {
			free := rapid.Uint32Range(0, uint32(1<<(32-within.Bits())-1)).Draw(t, label)
			return address(uint32(number(within.Addr())) + free)
		}
		prefix := netip.PrefixFrom(inside("prefix"), rapid.IntRange(within.Bits(), 32).Draw(t, "length")).Masked()
		a, ok := areaOf(prefix, within)
		if !ok || a.width*a.height != 1<<(32-prefix.Bits()) {
			t.Fatalf("%s within %s: %+v, %v", prefix, within, a, ok)
		}
		addr := inside("address")
		x, y := curve((32-within.Bits())/2, number(addr)-number(within.Addr()))
		drawn := x >= a.x && x < a.x+a.width && y >= a.y && y < a.y+a.height
		if drawn != prefix.Contains(addr) {
			t.Fatalf("%s contains %s: %v; it is at %d,%d and the area is %+v", prefix, addr, !drawn, x, y, a)
		}
	})
}

func address(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func TestCheckWithin(t *testing.T) {
	for _, test := range []struct{ within, want string }{
		{"0.0.0.0/0", ""},
		{"10.0.0.0/8", ""},
		{"10.0.0.0/22", ""},
		{"10.0.0.0/24", "drawing 10.0.0.0/24: it is too small for a picture; write 10.0.0.0/22 or a shorter prefix"},
		{"172.16.0.0/11", "drawing 172.16.0.0/11: it has host bits set; write 172.0.0.0/11"},
		{"172.32.0.0/11", "drawing 172.32.0.0/11: a square holds an even number of bits; write 172.0.0.0/10"},
		{"fd00::/8", "drawing fd00::/8: only IPv4 is drawn; name an IPv4 prefix such as 10.0.0.0/8"},
	} {
		t.Run(test.within, func(t *testing.T) {
			got := ""
			if err := CheckWithin(netip.MustParsePrefix(test.within)); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

func pictures() (before, after Picture) {
	cluster := []Range{
		{netip.MustParsePrefix("192.168.0.0/20"), Node},
		{netip.MustParsePrefix("10.244.0.0/16"), Pod},
		{netip.MustParsePrefix("10.96.0.0/12"), Service},
	}
	before = Picture{
		Title: "before", Within: Everywhere, Ranges: cluster,
		Spared: prefixes("10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "fe80::/10"),
	}
	after = Picture{
		Title: "after", Within: Everywhere, Ranges: cluster,
		Spared:  prefixes("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "192.168.0.0/16"),
		Changed: Changes{NowMasqueraded: prefixes("172.16.0.0/12"), NoLongerMasqueraded: prefixes("100.64.0.0/10")},
	}
	return before, after
}

func TestGolden(t *testing.T) {
	before, after := pictures()
	zoomed := after
	zoomed.Title, zoomed.Within = "10.0.0.0/8 <&>", netip.MustParsePrefix("10.0.0.0/8")
	for _, test := range []struct {
		name string
		got  []byte
	}{
		{"after.txt", Text(after)},
		{"zoomed.txt", Text(zoomed)},
		{"beside.svg", SVG(before, after)},
		{"zoomed.svg", SVG(zoomed)},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join("testdata", test.name)
			if *update {
				if err := os.WriteFile(file, test.got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(test.got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestTextAgreesWithSVG draws random prefixes both ways: a cell of the text is spared if
// the picture's area of it is.
func TestTextAgreesWithSVG(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spared := netip.PrefixFrom(address(rapid.Uint32().Draw(t, "address")), rapid.IntRange(0, 2*textOrder).Draw(t, "bits")).Masked()
		p := Picture{Within: Everywhere, Spared: []netip.Prefix{spared}}
		a, _ := areaOf(spared, p.Within)
		for i, c := range p.cells() {
			x, y := cellAt(p.Within, textOrder, i)
			x, y = x<<(16-textOrder), y<<(16-textOrder)
			inside := x >= a.x && x < a.x+a.width && y >= a.y && y < a.y+a.height
			if inside != (c.spared == 1<<(32-2*textOrder)) {
				t.Fatalf("%s: cell %d at %d,%d holds %d spared addresses, the area is %+v", spared, i, x, y, c.spared, a)
			}
		}
	})
}

func TestSVGIsXML(t *testing.T) {
	before, after := pictures()
	before.Title = `a<b>&"c"`
	decoder := xml.NewDecoder(bytes.NewReader(SVG(before, after)))
	for {
		switch _, err := decoder.Token(); {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			t.Fatal(err)
		}
	}
}
