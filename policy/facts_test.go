package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"
	"pgregory.net/rapid"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// smallPrefix draws from few addresses, so that prefixes touch, nest and repeat, and
// from the ends of each family, where there is no next address.
func smallPrefix() *rapid.Generator[netip.Prefix] {
	return rapid.Custom(func(t *rapid.T) netip.Prefix {
		base := rapid.SampledFrom([]string{"0.0.0.0", "10.0.0.0", "169.254.0.0", "255.255.255.0", "::", "fe80::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00"}).
			Draw(t, "base")
		address := netip.MustParseAddr(base)
		for range rapid.IntRange(0, 15).Draw(t, "offset") {
			address = address.Next()
		}
		bits := rapid.OneOf(
			rapid.IntRange(address.BitLen()-5, address.BitLen()),
			rapid.IntRange(0, address.BitLen()),
		).Draw(t, "bits")
		return netip.PrefixFrom(address, bits).Masked()
	})
}

func smallList() *rapid.Generator[[]netip.Prefix] { return rapid.SliceOfN(smallPrefix(), 0, 12) }

// ipSet is the oracle: netipx's own sets, which are right and slow.
func ipSet(t *rapid.T, add, remove []netip.Prefix) *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, prefix := range add {
		b.AddPrefix(prefix)
	}
	for _, prefix := range remove {
		b.RemovePrefix(prefix)
	}
	set, err := b.IPSet()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestMergeAndSubtract(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := smallList().Draw(t, "a"), smallList().Draw(t, "b")
		merged := union(a...)
		if want := ipSet(t, a, nil).Ranges(); !slices.Equal(merged, want) {
			t.Fatalf("merged %v, want %v", merged, want)
		}
		left := subtract(union(a...), union(b...))
		prefixes, omitted := prefixesOf(left, 1<<20)
		want := ipSet(t, a, b).Prefixes()
		if !slices.Equal(prefixes, want) || omitted != 0 {
			t.Fatalf("subtracted %v and %d more, want %v", prefixes, omitted, want)
		}
		limit := rapid.IntRange(0, 10).Draw(t, "limit")
		few, omitted := prefixesOf(left, limit)
		if len(few) != min(limit, len(want)) || len(few)+omitted != len(want) {
			t.Fatalf("limited to %d: %d and %d more, want %d together", limit, len(few), omitted, len(want))
		}
		for _, prefix := range b {
			if got, want := covers(merged, prefix), ipSet(t, a, nil).ContainsPrefix(prefix); got != want {
				t.Fatalf("%v covers %s: %t, want %t", merged, prefix, got, want)
			}
			want := ipSet(t, append(slices.Clone(a), prefix), nil).Ranges()
			if got := insert(merged, prefix); !slices.Equal(got, want) {
				t.Fatalf("inserted %s in %v: %v, want %v", prefix, merged, got, want)
			}
		}
	})
}

func TestRedundant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := smallList().Draw(t, "list")
		var wantOverlaps []overlap
		var wantDuplicates []duplicate
		for i, inner := range list {
			if first := slices.Index(list, inner); first < i {
				wantDuplicates = append(wantDuplicates, duplicate{listed(i), listed(first)})
				continue
			}
			outer := -1
			for j, other := range list {
				wider := other.Bits() < inner.Bits() && other.Contains(inner.Addr())
				if wider && (outer < 0 || other.Bits() < list[outer].Bits()) {
					outer = j
				}
			}
			if outer >= 0 {
				wantOverlaps = append(wantOverlaps, overlap{i, outer})
			}
		}
		overlaps, duplicates := redundant(sortPrefixes(list))
		if diff := cmp.Diff(wantOverlaps, overlaps, cmp.AllowUnexported(overlap{})); diff != "" {
			t.Fatalf("overlaps of %v differ (-want +got):\n%s", list, diff)
		}
		if diff := cmp.Diff(wantDuplicates, duplicates, cmp.AllowUnexported(duplicate{}, element{})); diff != "" {
			t.Fatalf("duplicates of %v differ (-want +got):\n%s", list, diff)
		}
	})
}

func TestCoverage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		required, spared := smallList().Draw(t, "required"), smallList().Draw(t, "spared")
		ranges := make([]Range, len(required))
		for i, prefix := range required {
			ranges[i] = Range{prefix, fmt.Sprintf("Node %d", i)}
		}
		got := NewCluster(ranges, nil, nil).node.minus(layout{listed: union(spared...)})
		want := ipSet(t, required, spared).Prefixes()
		if !got.known || len(got.uncovered)+got.omitted != len(want) {
			t.Fatalf("uncovered %v and %d more, want %v", got.uncovered, got.omitted, want)
		}
		for i, one := range got.uncovered {
			if !slices.Contains(want, one.Prefix) {
				t.Fatalf("uncovered %s, want one of %v", one.Prefix, want)
			}
			if i > 0 && one.Prefix.Addr().BitLen() == got.uncovered[i-1].Prefix.Addr().BitLen() &&
				one.Prefix.Bits() < got.uncovered[i-1].Prefix.Bits() {
				t.Fatalf("%s after %s", one.Prefix, got.uncovered[i-1].Prefix)
			}
			var sources []string
			for j, prefix := range required {
				if prefix.Overlaps(one.Prefix) {
					sources = append(sources, fmt.Sprintf("Node %d", j))
				}
			}
			first, _, _ := strings.Cut(one.Source, " and ")
			if !slices.Contains(sources, first) {
				t.Fatalf("%s is of %q, want one of %v", one.Prefix, one.Source, sources)
			}
			if len(sources) > 1 && one.Source != fmt.Sprintf("%s and %d more", first, len(sources)-1) {
				t.Fatalf("%s is of %q, want %d of them", one.Prefix, one.Source, len(sources))
			}
		}
	})
}

// TestExceptions compares what exceptions leave of cluster ranges with single
// addresses, and what is redundant with a search for each prefix.
func TestExceptions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := config.Default()
		c.MasqueradeLinkLocal, c.MasqueradeLinkLocalIPv6 = true, true
		c.NonMasquerade = smallList().Draw(t, "list")
		c.Masquerade = slices.DeleteFunc(smallList().Draw(t, "exceptions"), func(p netip.Prefix) bool {
			return slices.Contains(c.NonMasquerade, p)
		})
		pods := smallList().Draw(t, "pods")
		agent := config.Options{IPv6: true}
		f := factsOf(c, layoutOf(c, agent), agent, NewCluster(nil, RangesFrom(pods, "x"), nil))
		if f.pod.omitted > 0 {
			t.Skip("more prefixes than facts list")
		}
		narrowest := func(list []netip.Prefix, address netip.Addr) int {
			found := -1
			for i, p := range list {
				if p.Contains(address) && (found < 0 || p.Bits() > list[found].Bits()) {
					found = i
				}
			}
			return found
		}
		for _, prefix := range slices.Concat(pods, c.NonMasquerade, c.Masquerade) {
			last := netipx.PrefixLastIP(prefix)
			for _, address := range []netip.Addr{prefix.Addr(), last, prefix.Addr().Prev(), last.Next()} {
				if !address.IsValid() {
					continue
				}
				want := -2 // covered, or no pod's
				spared, excepted := narrowest(c.NonMasquerade, address), narrowest(c.Masquerade, address)
				switch {
				case narrowest(pods, address) < 0:
				case spared < 0:
					want = -1
				case excepted >= 0 && c.Masquerade[excepted].Bits() > c.NonMasquerade[spared].Bits():
					want = excepted
				}
				got := -2
				for _, one := range f.pod.uncovered {
					if one.Prefix.Contains(address) {
						got = one.exception
					}
				}
				if got != want && (got < 0 || want < 0 || c.Masquerade[got] != c.Masquerade[want]) {
					t.Fatalf("%s: exception %d, want %d", address, got, want)
				}
			}
		}
		for i, inner := range c.NonMasquerade {
			around := func(list []netip.Prefix) int { // the narrowest around inner
				bits := -1
				for _, p := range list {
					if p.Bits() < inner.Bits() && p.Contains(inner.Addr()) {
						bits = max(bits, p.Bits())
					}
				}
				return bits
			}
			first := slices.Index(c.NonMasquerade, inner) == i
			want := first && around(c.NonMasquerade) > around(c.Masquerade)
			if got := slices.ContainsFunc(f.overlaps, func(o overlap) bool { return o.inner == i }); got != want {
				t.Fatalf("%s overlaps: %t, want %t", inner, got, want)
			}
		}
		for i, p := range c.Masquerade {
			again := duplicate{element{"masqueradeCIDRs", i}, element{"masqueradeCIDRs", slices.Index(c.Masquerade, p)}}
			if got, want := slices.Contains(f.duplicates, again), again.first != again.again; got != want {
				t.Fatalf("%s stands twice: %t, want %t", p, got, want)
			}
		}
	})
}

// TestEffect compares the effect with what agents do to single addresses.
func TestEffect(t *testing.T) {
	draw := func(t *rapid.T, label string, agent config.Options) config.Config {
		c := config.Default()
		c.NonMasquerade = smallList().Draw(t, label)
		if !agent.IPv6 {
			c.NonMasquerade = slices.DeleteFunc(c.NonMasquerade, func(p netip.Prefix) bool { return p.Addr().Is6() })
		}
		c.Masquerade = slices.DeleteFunc(smallList().Draw(t, label+" exceptions"), func(p netip.Prefix) bool {
			return p.Addr().Is6() && !agent.IPv6 || slices.Contains(c.NonMasquerade, p)
		})
		c.MasqueradeLinkLocal = rapid.Bool().Draw(t, label+" link-local")
		c.MasqueradeLinkLocalIPv6 = rapid.Bool().Draw(t, label+" link-local IPv6")
		return c
	}
	masquerades := func(c config.Config, agent config.Options, address netip.Addr) bool {
		if address.Is6() && !agent.IPv6 {
			return false
		}
		longest, spared := -1, false
		decide := func(prefixes []netip.Prefix, spares bool) {
			for _, p := range prefixes {
				if p.Contains(address) && (p.Bits() > longest || p.Bits() == longest && !spares) {
					longest, spared = p.Bits(), spares
				}
			}
		}
		decide(c.NonMasquerade, true)
		if !c.MasqueradeLinkLocal {
			decide([]netip.Prefix{config.LinkLocalIPv4}, true)
		}
		if !c.MasqueradeLinkLocalIPv6 {
			decide([]netip.Prefix{config.LinkLocalIPv6}, true)
		}
		decide(c.Masquerade, false)
		return !spared
	}
	rapid.Check(t, func(t *rapid.T) {
		agent := config.Options{IPv6: rapid.Bool().Draw(t, "ipv6")}
		before, after := draw(t, "before", agent), draw(t, "after", agent)
		effect := effectOf(layoutOf(before, agent).spared, layoutOf(after, agent).spared)
		if effect.NowOmitted > 0 || effect.NoLongerOmitted > 0 {
			t.Skip("more prefixes than an effect lists")
		}
		listed := func(list []netip.Prefix, address netip.Addr) bool {
			return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(address) })
		}
		for _, prefix := range slices.Concat(before.NonMasquerade, after.NonMasquerade, before.Masquerade, after.Masquerade, []netip.Prefix{
			config.LinkLocalIPv4, config.LinkLocalIPv6, netip.MustParsePrefix("8.8.8.8/32"), netip.MustParsePrefix("2001:db8::/32"),
		}) {
			last := netipx.PrefixLastIP(prefix)
			for _, address := range []netip.Addr{prefix.Addr(), last, prefix.Addr().Prev(), last.Next()} {
				if !address.IsValid() {
					continue
				}
				was, is := masquerades(before, agent, address), masquerades(after, agent, address)
				if got, want := listed(effect.NowMasqueraded, address), is && !was; got != want {
					t.Fatalf("%s now masqueraded: %t, want %t", address, got, want)
				}
				if got, want := listed(effect.NoLongerMasqueraded, address), was && !is; got != want {
					t.Fatalf("%s no longer masqueraded: %t, want %t", address, got, want)
				}
			}
		}
	})
}

func TestNewCluster(t *testing.T) {
	for _, c := range []struct {
		name   string
		ranges []Range
		known  bool
		want   []netip.Prefix // uncovered by an empty list
	}{
		{"unknown", nil, false, nil},
		{"none", []Range{}, true, nil},
		{"host bits", []Range{{netip.MustParsePrefix("10.1.2.3/16"), ""}}, true, []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}},
		{
			"IPv4 in IPv6 notation",
			[]Range{{netip.MustParsePrefix("::ffff:10.0.0.0/104"), ""}},
			true,
			[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		},
		{"more than IPv4 in IPv6 notation", []Range{{netip.MustParsePrefix("::ffff:10.0.0.0/90"), ""}}, true, nil},
		{"invalid", []Range{{}}, true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := NewCluster(c.ranges, nil, nil).node.minus(layout{})
			if got.known != c.known {
				t.Errorf("known: %t, want %t", got.known, c.known)
			}
			var prefixes []netip.Prefix
			for _, one := range got.uncovered {
				prefixes = append(prefixes, one.Prefix)
			}
			if !slices.Equal(prefixes, c.want) {
				t.Errorf("uncovered %v, want %v", prefixes, c.want)
			}
		})
	}
}

// TestFactsAreBounded asks for far more prefixes than anybody lists: each IPv6
// address that is left out of a range leaves over a hundred prefixes.
func TestFactsAreBounded(t *testing.T) {
	c := config.Default()
	c.NonMasquerade = nil
	address := netip.MustParseAddr("2001:db8::")
	for range config.MaxCIDRs {
		c.NonMasquerade = append(c.NonMasquerade, netip.PrefixFrom(address, 128))
		bytes := address.As16()
		bytes[5]++
		if bytes[5] == 0 {
			bytes[4]++
		}
		address = netip.AddrFrom16(bytes)
	}
	agent := config.Options{IPv6: true}
	all := []Range{{netip.MustParsePrefix("2001:db8::/32"), "params"}}
	f := factsOf(c, layoutOf(c, agent), agent, NewCluster(all, nil, nil))
	if len(f.node.uncovered) != maxUncovered || f.node.omitted < 1000 {
		t.Errorf("%d uncovered and %d more", len(f.node.uncovered), f.node.omitted)
	}
	everything := []netip.Prefix{netip.MustParsePrefix("::/0")}
	effect := effectOf(union(everything...), layoutOf(c, agent).spared)
	if len(effect.NowMasqueraded) != maxEffect || effect.NowOmitted < 1000 {
		t.Errorf("%d now masqueraded and %d more", len(effect.NowMasqueraded), effect.NowOmitted)
	}
}
