package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// What TestExplainAgreesWithPackets tries: configurations times addresses are the pairs.
const (
	packetConfigs   = 125
	packetAddresses = 8 // of a configuration: in one of its ranges, just outside of one, or anywhere
	packetPool      = 96
)

// TestExplainAgreesWithPackets puts random configurations into a kernel, as the agent does,
// and sends packets from a pod to random addresses: the server beyond the node sees the
// address that explain says it does. The seed is in the log.
func TestExplainAgreesWithPackets(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	pool := make([]netip.Addr, 0, packetPool)
	known := map[netip.Addr]bool{}
	for len(pool) < packetPool {
		if address := randomAddress(random); !known[address] {
			known[address] = true
			pool = append(pool, address)
		}
	}
	lab := netns.LabForTest(t, pool...)
	kernel, err := iptables.Open(iptables.NFT)
	if err != nil {
		t.Fatal(err)
	}
	told := map[verdict]int{}
	for n := range packetConfigs {
		flags := agentOptions{readingOptions: readingOptions{ipv6: random.IntN(4) > 0, reserved: random.IntN(6) == 0}}
		if random.IntN(4) == 0 {
			flags.sources = []string{"10.244.0.0/16", "fd00:10:244::/48"}[:1+random.IntN(2)]
		}
		listable := pool
		if !flags.ipv6 { // such agents refuse IPv6 ranges
			listable = slices.DeleteFunc(slices.Clone(pool), netip.Addr.Is6)
		}
		text := randomConfig(random, listable)
		treated, err := flags.treat(rawDocument("FILE", []byte(text), "", ""), policy.Params{}, nil)
		if err != nil {
			t.Fatalf("configuration %d: %v\n%s", n, err, text)
		}
		options := treated.rules
		options.Chain, options.RandomFully = "IP-MASQ-AGENT", true
		if random.IntN(2) == 0 {
			options.Sets, options.SetThreshold = true, 4
		}
		if err := inForce(t, lab, kernel, treated, options); err != nil {
			t.Fatalf("configuration %d: %v\n%s", n, err, text)
		}
		for range packetAddresses {
			to := pool[random.IntN(len(pool))]
			pod, node := netns.PodIPv4, netns.NodeIPv4
			if to.Is6() {
				pod, node = netns.PodIPv6, netns.NodeIPv6
			}
			explained := treated.explain(to, pod, "server")
			want, ok := map[verdict]netip.Addr{masqueraded: node, notMasqueraded: pod}[explained.Verdict]
			if !ok {
				t.Fatalf("of source and interface that are known: %+v", explained)
			}
			told[explained.Verdict]++
			seen, err := lab.Pod.Ask(t.Context(), "udp", lab.At(to))
			if err != nil {
				t.Fatal(err)
			}
			if seen.Addr() != want {
				t.Errorf("configuration %d: %s: the server saw %s, and explain says %s since %s, with the flags %+v\n%s",
					n, to, seen.Addr(), explained.Verdict, explained.Reason, flags, text)
			}
		}
	}
	t.Logf("%d configurations, addresses: %v", packetConfigs, told)
	if pairs := told[masqueraded] + told[notMasqueraded]; pairs < 1000 || told[masqueraded] < pairs/5 || told[notMasqueraded] < pairs/5 {
		t.Errorf("of %d pairs, %v: they show too little", pairs, told)
	}
}

// inForce makes the node hold what agents with these flags make of the configuration, of
// every family: one that they leave alone has no chain.
func inForce(t *testing.T, lab *netns.Lab, kernel *iptables.Kernel, treated *treatment, options ruleset.Options) error {
	t.Helper()
	return lab.Node.Do(func() error {
		var errs []error
		for _, family := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
			var err error
			if family == ruleset.IPv6 && !treated.flags.IPv6 {
				_, err = iptables.Remove(t.Context(), iptables.NFT, family, options.Chain)
			} else {
				_, err = kernel.Apply(t.Context(), ruleset.Build(treated.config, family, options))
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// randomAddress is one that a packet can be sent to, often in a range that agents know.
func randomAddress(random *rand.Rand) netip.Addr {
	if random.IntN(3) == 0 {
		var address [16]byte
		copy(address[:], [][]byte{{0xfd, 0x99}, {0x20, 0x01, 0x0d, 0xb8}, {0xfd, 0x01, 0x02}}[random.IntN(3)])
		binary.BigEndian.PutUint64(address[8:], random.Uint64())
		return netip.AddrFrom16(address)
	}
	first := [][]byte{{10}, {172, 16}, {192, 168}, {100, 64}, {169, 254}, {203, 0}, {198, 51}, {8, 8}}[random.IntN(8)]
	var address [4]byte
	binary.BigEndian.PutUint32(address[:], random.Uint32())
	copy(address[:], first)
	switch { // the lab's own networks stay out
	case address[0] == 10 && address[1] == 244:
		address[1] = 7
	case address[0] == 192 && address[2] == 100:
		address[2] = 7
	}
	return netip.AddrFrom4(address)
}

// randomConfig lists ranges around and beside the addresses of a pool.
func randomConfig(random *rand.Rand, pool []netip.Addr) string {
	listed := map[netip.Prefix]bool{} // in either list: agents refuse a range in both
	shortest := 0
	ranges := func(count int) string {
		var texts []string
		for range count {
			address := pool[random.IntN(len(pool))]
			bits := address.BitLen() - []int{0, 0, 1, 3, 8, 12, 20, 24, address.BitLen()}[random.IntN(9)]
			if bits < address.BitLen() && bits > 0 && random.IntN(4) == 0 { // its neighbour
				bytes := address.AsSlice()
				bytes[(bits-1)/8] ^= 1 << (7 - (bits-1)%8)
				address, _ = netip.AddrFromSlice(bytes)
			}
			if prefix := netip.PrefixFrom(address, bits).Masked(); !listed[prefix] && bits >= shortest {
				listed[prefix] = true
				texts = append(texts, fmt.Sprintf("%q", prefix))
			}
		}
		return "[" + strings.Join(texts, ", ") + "]\n"
	}
	var text strings.Builder
	if random.IntN(8) > 0 {
		text.WriteString("nonMasqueradeCIDRs: " + ranges(random.IntN(12)))
	} else {
		shortest = 25 // longer than every range of the default lists, which holds then
	}
	if random.IntN(2) == 0 {
		text.WriteString("masqueradeCIDRs: " + ranges(random.IntN(4)))
	}
	fmt.Fprintf(&text, "masqLinkLocal: %t\nmasqLinkLocalIPv6: %t\n", random.IntN(2) == 0, random.IntN(2) == 0)
	return text.String()
}
