package ruleset_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/nftables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// flowsPerTurn is the number of flows that are timed together: enough for the clock, and
// few for the kernel's table of connections.
const flowsPerTurn = 300

// kernel makes rules hold, in the one form or the other.
type kernel interface {
	Apply(context.Context, ruleset.Ruleset) ([]ruleset.Drift, error)
}

// BenchmarkNewFlow measures what the first packet of a flow costs on its way through the
// node when nothing spares it, so that it meets every rule, by the size of the list and its
// form. The sizes take turns; the ratio is that of a list of 10,000 to one of 4.
func BenchmarkNewFlow(b *testing.B) {
	type form struct {
		name string
		open func() (kernel, error)
		sets bool
	}
	forms := []form{{"nftables", func() (kernel, error) { return nftables.Open(), nil }, false}}
	for _, backend := range backends() {
		open := func() (kernel, error) { return iptables.Open(backend) }
		forms = append(forms, form{string(backend) + "/rules", open, false}, form{string(backend) + "/set", open, true})
	}
	sizes := []int{4, 64, 1000, 10000}
	for _, form := range forms {
		b.Run(form.name, func(b *testing.B) {
			routes := make([]*flowRoute, len(sizes))
			for i, size := range sizes {
				o := ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: true, Sets: form.sets}
				routes[i] = newFlowRoute(b, form.open, ruleset.Build(hosts(size), ruleset.IPv4, o))
			}
			took := make([][]time.Duration, len(sizes))
			for b.Loop() {
				for i, route := range routes {
					took[i] = append(took[i], route.send(b))
				}
			}
			b.ReportMetric(0, "ns/op")
			median := func(i int) float64 {
				slices.Sort(took[i])
				return float64(took[i][len(took[i])/2]) / flowsPerTurn
			}
			for i, size := range sizes {
				b.ReportMetric(median(i), fmt.Sprintf("ns-at-%d", size))
			}
			b.ReportMetric(median(len(sizes)-1)/median(0), "ratio")
		})
	}
}

// hosts is a list of so many addresses, of which no two are neighbours, so that the native
// table cannot join them.
func hosts(size int) config.Config {
	c := config.Config{}
	for i := range size {
		c.NonMasquerade = append(c.NonMasquerade, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 15), byte(i >> 7), byte(i << 1)}), 32))
	}
	return c
}

// flowRoute is the way of packets from a pod through a node.
type flowRoute struct {
	lab    *netns.Lab
	socket *net.UDPConn
	port   uint16 // of the next flow's destination
}

func newFlowRoute(b *testing.B, open func() (kernel, error), rules ruleset.Ruleset) *flowRoute {
	b.Helper()
	r := &flowRoute{lab: netns.LabForTest(b)}
	kernel, err := open()
	if err != nil {
		b.Fatal(err)
	}
	err = r.lab.Node.Do(func() (err error) {
		_, err = kernel.Apply(b.Context(), rules)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	err = r.lab.Pod.Do(func() (err error) {
		r.socket, err = net.ListenUDP("udp4", nil)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.socket.Close() })
	r.send(b) // neighbours are found
	return r
}

// send begins flows to an address that the server has not, so that it drops their packets.
// A packet has passed the node when the call that sends it returns.
func (r *flowRoute) send(b *testing.B) time.Duration {
	b.Helper()
	destination := netip.MustParseAddr("203.0.113.77")
	started := time.Now()
	for range flowsPerTurn {
		r.port++
		if _, err := r.socket.WriteToUDPAddrPort([]byte("?"), netip.AddrPortFrom(destination, max(r.port, 1))); err != nil {
			b.Fatal(err)
		}
	}
	took := time.Since(started)
	err := r.lab.Node.Do(func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
		if err == nil && len(flows) < flowsPerTurn {
			err = fmt.Errorf("%d flows have passed the node, want %d", len(flows), flowsPerTurn)
		}
		if err != nil {
			return err
		}
		return netlink.ConntrackTableFlush(netlink.ConntrackTable)
	})
	if err != nil {
		b.Fatal(err)
	}
	return took
}
