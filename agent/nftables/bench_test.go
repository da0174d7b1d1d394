package nftables

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// BenchmarkApply replaces one element of a list, lets all of its elements grow, and looks at
// a list that needs nothing. A table is made where there is none, too.
func BenchmarkApply(b *testing.B) {
	for _, size := range []int{4, 64, 1000, 10000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			n := newNode(b, ruleset.IPv4)
			list, other, grown := manyRanges(size, 24, 0), manyRanges(size, 24, 1), manyRanges(size, 23, 0)
			var took struct{ made, one, grown, unchanged time.Duration }
			timed := func(sum *time.Duration, want ruleset.Ruleset, drifts int) error {
				started := time.Now()
				drift, err := n.kernel.Apply(b.Context(), want)
				*sum += time.Since(started)
				if err == nil && len(drift) != drifts {
					err = fmt.Errorf("drift %v, want %d kinds", drift, drifts)
				}
				return err
			}
			err := n.Do(func() error {
				for b.Loop() {
					if _, err := n.kernel.Remove(b.Context(), n.family, list.Chain); err != nil {
						return err
					}
					if err := timed(&took.made, list, 1); err != nil {
						return err
					}
					if err := timed(&took.unchanged, list, 0); err != nil {
						return err
					}
					if err := timed(&took.one, other, 1); err != nil {
						return err
					}
					if err := timed(&took.grown, grown, 1); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			per := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(b.N) }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(per(took.made), "made-ms")
			b.ReportMetric(per(took.one), "one-changed-ms")
			b.ReportMetric(per(took.grown), "all-grown-ms")
			b.ReportMetric(per(took.unchanged), "unchanged-ms")
		})
	}
}

// manyRanges are ranges with gaps between them; the last one has a number.
func manyRanges(size, bits, number int) ruleset.Ruleset {
	c := config.Config{MasqueradeLinkLocal: true}
	for i := range size {
		first := uint32(16+i) << 10
		if i == size-1 {
			first += uint32(number) << 10
		}
		address := netip.AddrFrom4([4]byte{byte(first >> 24), byte(first >> 16), byte(first >> 8), byte(first)})
		c.NonMasquerade = append(c.NonMasquerade, netip.PrefixFrom(address, bits))
	}
	return ruleset.Build(c, ruleset.IPv4, plainOptions())
}
