package iptables_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// conversation is a flow that stays, from a socket that is kept open.
type conversation struct {
	socket net.Conn
	family ruleset.Family
}

// converse opens a flow from a host.
func converse(t *testing.T, from *netns.Host, to netip.AddrPort) conversation {
	t.Helper()
	c := conversation{family: ruleset.IPv4}
	if to.Addr().Is6() {
		c.family = ruleset.IPv6
	}
	err := from.Do(func() (err error) {
		c.socket, err = (&net.Dialer{}).DialContext(t.Context(), "udp", to.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.socket.Close() })
	return c
}

// ask sends one packet and returns the source that the server saw.
func (c conversation) ask(t *testing.T) netip.Addr {
	t.Helper()
	if err := c.socket.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.socket.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 128)
	n, err := c.socket.Read(answer)
	if err != nil {
		t.Fatal(err)
	}
	return netip.MustParseAddrPort(string(answer[:n])).Addr()
}

// packets is how many the node has counted since it knows of the flow.
func (c conversation) packets(t *testing.T, node *netns.Host) uint64 {
	t.Helper()
	family := netlink.InetFamily(netlink.FAMILY_V4)
	if c.family == ruleset.IPv6 {
		family = netlink.FAMILY_V6
	}
	var flows []*netlink.ConntrackFlow
	err := node.Do(func() (err error) {
		flows, err = netlink.ConntrackTableList(netlink.ConntrackTable, family)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	source, destination := c.socket.LocalAddr().String(), c.socket.RemoteAddr().String()
	for _, f := range flows {
		from := net.JoinHostPort(f.Forward.SrcIP.String(), fmt.Sprint(f.Forward.SrcPort))
		to := net.JoinHostPort(f.Forward.DstIP.String(), fmt.Sprint(f.Forward.DstPort))
		if from == source && to == destination {
			return f.Forward.Packets
		}
	}
	return 0
}

// TestForget: flows in changed ranges are treated anew with their next packet, the
// others' entries stay as they are.
func TestForget(t *testing.T) {
	for _, tt := range []struct {
		family    ruleset.Family
		bits      int
		pod, node netip.Addr
		pattern   string // of destinations, by their range and number
		command   string
	}{
		{
			family: ruleset.IPv4, pod: netns.PodIPv4, node: netns.NodeIPv4, pattern: "10.%d.0.%d",
			bits: 16, command: "iptables-nft",
		},
		{
			family: ruleset.IPv6, pod: netns.PodIPv6, node: netns.NodeIPv6, pattern: "fd00:%d::%d",
			bits: 32, command: "ip6tables-nft",
		},
	} {
		t.Run(tt.family.String(), func(t *testing.T) {
			at := func(block, number int) netip.Addr {
				return netip.MustParseAddr(fmt.Sprintf(tt.pattern, block, number))
			}
			spared := func(blocks ...int) ruleset.Ruleset {
				c := config.Config{}
				for _, block := range blocks {
					prefix, err := at(block, 0).Prefix(tt.bits)
					if err != nil {
						t.Fatal(err)
					}
					c.NonMasquerade = append(c.NonMasquerade, prefix)
				}
				return ruleset.Build(c, tt.family, ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: true})
			}
			lab := netns.LabForTest(t, at(71, 1), at(72, 1), at(73, 1), at(74, 1))
			kernel, err := iptables.Open(iptables.NFT)
			if err != nil {
				t.Fatal(err)
			}
			apply := func(want ruleset.Ruleset) {
				t.Helper()
				if err = lab.Node.Do(func() (err error) {
					_, err = kernel.Apply(t.Context(), want)
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			before, after := spared(71, 72), spared(71, 73)
			apply(before)
			for virtual, actual := range map[netip.Addr]netip.Addr{at(73, 9): at(74, 1), at(74, 9): at(73, 1)} {
				lab.Node.Output(t, tt.command, "-w", "-t", "nat", "-A", "PREROUTING", "-d", virtual.String(), "-j", "DNAT", "--to-destination", actual.String())
			}
			err = lab.Node.Do(func() error {
				return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_acct", []byte("1"), 0)
			})
			if err != nil {
				t.Fatal(err)
			}

			flows := []struct {
				name          string
				from          *netns.Host
				to            netip.Addr
				before, after netip.Addr // sources that the server sees
				forgotten     bool
				talk          conversation
			}{
				{name: "spared before and after", from: lab.Pod, to: at(71, 1), before: tt.pod, after: tt.pod},
				{name: "spared before", from: lab.Pod, to: at(72, 1), before: tt.pod, after: tt.node, forgotten: true},
				{name: "spared after", from: lab.Pod, to: at(73, 1), before: tt.node, after: tt.pod, forgotten: true},
				{name: "never spared", from: lab.Pod, to: at(74, 1), before: tt.node, after: tt.node},
				{name: "translated out of the change", from: lab.Pod, to: at(73, 9), before: tt.node, after: tt.node},
				{name: "translated into the change", from: lab.Pod, to: at(74, 9), before: tt.node, after: tt.pod, forgotten: true},
				{name: "of the node itself", from: lab.Node, to: at(72, 1), before: tt.node, after: tt.node},
			}
			for i := range flows {
				f := &flows[i]
				f.talk = converse(t, f.from, lab.At(f.to))
				if got := f.talk.ask(t); got != f.before {
					t.Errorf("%s: the server sees %s before the change, want %s", f.name, got, f.before)
				}
			}
			apply(after)
			for _, f := range flows {
				if got := f.talk.ask(t); got != f.before {
					t.Errorf("%s: the server sees %s after the change, want %s: flows stay as they are", f.name, got, f.before)
				}
			}
			changed, err := ruleset.Compare(before.Decision, after.Decision)
			if err != nil {
				t.Fatal(err)
			}
			forget := func() (n int) {
				t.Helper()
				if err := lab.Node.Do(func() (err error) {
					n, err = iptables.Conntrack{}.Forget(t.Context(), changed, after.Decision)
					return err
				}); err != nil {
					t.Fatal(err)
				}
				return n
			}
			if got := forget(); got != 3 {
				t.Errorf("%d flows are forgotten, want 3", got)
			}
			for _, f := range flows {
				if got := f.talk.ask(t); got != f.after {
					t.Errorf("%s: the server sees %s in the end, want %s", f.name, got, f.after)
				}
				want := uint64(3)
				if f.forgotten {
					want = 1
				}
				if got := f.talk.packets(t, lab.Node); got != want {
					t.Errorf("%s: %d packets are counted, want %d", f.name, got, want)
				}
			}
			if got := forget(); got != 0 {
				t.Errorf("%d flows are forgotten the second time, want none", got)
			}
		})
	}
}
