package iptables_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// BenchmarkApply changes a chain, by turns with Apply and with a bare
// iptables-restore of the same text, and looks at a chain that needs nothing. The
// ratio is that of the times of the first two.
func BenchmarkApply(b *testing.B) {
	for _, backend := range []iptables.Backend{iptables.NFT, iptables.Legacy} {
		for _, size := range []int{4, 64, 1000} {
			b.Run(fmt.Sprintf("%s/%d", backend, size), func(b *testing.B) {
				n := place{backend, ruleset.IPv4}.node(b)
				turns := [2]ruleset.Ruleset{manyRules(size, 1), manyRules(size, 2)}
				n.apply(b, turns[1])
				var apply, restore, look time.Duration
				err := n.Do(func() error {
					for b.Loop() {
						for i, want := range turns {
							other := turns[1-i]
							spent, err := timed(func() error { return changes(n.kernel.Apply(b.Context(), want)) })
							if err != nil {
								return err
							}
							apply += spent
							if spent, err = timed(func() error { return unchanged(n.kernel.Apply(b.Context(), want)) }); err != nil {
								return err
							}
							look += spent
							// As other as Apply's own was.
							if spent, err = timed(func() error { return bareRestore(b, backend, other) }); err != nil {
								return err
							}
							restore += spent
							if err := bareRestore(b, backend, want); err != nil {
								return err
							}
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
				per := 2 * float64(b.N) * float64(time.Millisecond)
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(apply)/per, "apply-ms")
				b.ReportMetric(float64(restore)/per, "restore-ms")
				b.ReportMetric(float64(look)/per, "unchanged-ms")
				b.ReportMetric(float64(apply)/float64(restore), "ratio")
			})
		}
	}
}

func manyRules(size, number int) ruleset.Ruleset {
	return ruleset.Build(manyHosts(size, number), ruleset.IPv4, plainOptions())
}

func manyHosts(size, number int) config.Config {
	c := config.Config{}
	for i := range size {
		c.NonMasquerade = append(c.NonMasquerade, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(number), byte(i >> 8), byte(i)}), 32))
	}
	return c
}

// BenchmarkApplySet changes a set, by turns to one that shares nothing with it, and by
// one entry, beside a bare iptables-restore of the rules that it stands for, and looks at a
// set that needs nothing. The ratio is that of the first to the restore.
func BenchmarkApplySet(b *testing.B) {
	for _, backend := range []iptables.Backend{iptables.NFT, iptables.Legacy} {
		for _, size := range []int{64, 1000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", backend, size), func(b *testing.B) {
				n, other := place{backend, ruleset.IPv4}.node(b), place{backend, ruleset.IPv4}.node(b)
				var all, one, look, restore time.Duration
				in := func(n node, spent *time.Duration, f func() error) {
					var took time.Duration
					err := n.Do(func() (err error) {
						took, err = timed(f)
						return err
					})
					if err != nil {
						b.Fatal(err)
					}
					*spent += took
				}
				apply := func(c config.Config, check func([]iptables.Drift, error) error) func() error {
					want := ruleset.Build(c, ruleset.IPv4, setOptions())
					return func() error { return check(n.kernel.Apply(b.Context(), want)) }
				}
				n.apply(b, ruleset.Build(manyHosts(size, 2), ruleset.IPv4, setOptions()))
				for b.Loop() {
					for number := 1; number <= 2; number++ {
						list := manyHosts(size, number)
						in(n, &all, apply(list, changes))
						in(n, &look, apply(list, unchanged))
						list.NonMasquerade[size/2] = netip.MustParsePrefix("192.0.2.1/32")
						in(n, &one, apply(list, changes))
						in(other, &restore, func() error { return bareRestore(b, backend, manyRules(size, number)) })
					}
				}
				per := 2 * float64(b.N) * float64(time.Millisecond)
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(all)/per, "apply-ms")
				b.ReportMetric(float64(one)/per, "one-entry-ms")
				b.ReportMetric(float64(look)/per, "unchanged-ms")
				b.ReportMetric(float64(restore)/per, "restore-ms")
				b.ReportMetric(float64(all)/float64(restore), "ratio")
			})
		}
	}
}

func timed(f func() error) (time.Duration, error) {
	started := time.Now()
	err := f()
	return time.Since(started), err
}

func changes(drift []iptables.Drift, err error) error {
	if err == nil && len(drift) != 1 {
		return fmt.Errorf("a change finds drift %v", drift)
	}
	return err
}

func unchanged(drift []iptables.Drift, err error) error {
	if err == nil && len(drift) != 0 {
		return fmt.Errorf("without a change there is drift %v", drift)
	}
	return err
}

func bareRestore(b *testing.B, backend iptables.Backend, want ruleset.Ruleset) error {
	b.Helper()
	restore := exec.CommandContext(b.Context(), "iptables-"+string(backend)+"-restore", "-w", "5", "--noflush")
	restore.Stdin = strings.NewReader(want.String())
	return restore.Run()
}
