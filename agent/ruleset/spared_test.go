package ruleset

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func cidrs(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func texts(prefixes []netip.Prefix) []string {
	var all []string
	for _, prefix := range prefixes {
		all = append(all, prefix.String())
	}
	return all
}

func TestSparedSet(t *testing.T) {
	for _, tt := range []struct {
		name               string
		spared, exceptions []netip.Prefix
		want               []string
	}{
		{"nothing", nil, nil, nil},
		{"overlapping and repeated", cidrs("10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "10.0.0.0/9"), nil, []string{"10.0.0.0/8"}},
		{"an exception inside", cidrs("10.0.0.0/8"), cidrs("10.128.0.0/9"), []string{"10.0.0.0/9"}},
		{
			"spared again inside an exception", cidrs("10.0.0.0/8", "10.200.0.0/16"), cidrs("10.128.0.0/9"),
			[]string{"10.0.0.0/9", "10.200.0.0/16"},
		},
		{"the same in both", cidrs("10.0.0.0/8"), cidrs("10.0.0.0/8"), nil},
		{"everything but", cidrs("::/0"), cidrs("8000::/1"), []string{"::/1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set, err := Decision{Spared: tt.spared, Exceptions: tt.exceptions}.SparedSet()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, texts(set.Prefixes())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestSparedSetAgreesWithMasquerades asks for single addresses, of a small space so that
// prefixes meet.
func TestSparedSetAgreesWithMasquerades(t *testing.T) {
	address := rapid.Custom(func(t *rapid.T) netip.Addr {
		return netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "octet")})
	})
	list := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) netip.Prefix {
		return netip.PrefixFrom(address.Draw(t, "address"), rapid.IntRange(22, 32).Draw(t, "bits")).Masked()
	}), 0, 12)
	rapid.Check(t, func(t *rapid.T) {
		before := Decision{Family: IPv4, Spared: list.Draw(t, "spared"), Exceptions: list.Draw(t, "exceptions")}
		after := Decision{Family: IPv4, Spared: list.Draw(t, "spared after"), Exceptions: list.Draw(t, "exceptions after")}
		set, err := before.SparedSet()
		if err != nil {
			t.Fatal(err)
		}
		changed, err := Compare(before, after)
		if err != nil {
			t.Fatal(err)
		}
		for octet := range 256 {
			destination := netip.AddrFrom4([4]byte{10, 0, 0, byte(octet)})
			was := before.Masquerades(netip.Addr{}, destination, "")
			is := after.Masquerades(netip.Addr{}, destination, "")
			if set.Contains(destination) == was {
				t.Errorf("%s is masqueraded: %v; in the set: %v", destination, was, !was)
			}
			if changed.NowMasqueraded.Contains(destination) != (is && !was) || changed.NoLongerMasqueraded.Contains(destination) != (was && !is) {
				t.Errorf("%s was masqueraded: %v, is: %v; changed: %+v", destination, was, is, changed)
			}
		}
	})
}
