package netns

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Addresses of a Lab.
//
//nolint:gochecknoglobals // constants in all but the language
var (
	PodIPv4  = netip.MustParseAddr("10.244.1.2")
	PodIPv6  = netip.MustParseAddr("fd00:10:244:1::2")
	NodeIPv4 = netip.MustParseAddr("192.168.100.1") // towards the server
	NodeIPv6 = netip.MustParseAddr("fd00:192:168:100::1")
)

const labPort = 7

// Lab is a pod, its node, and a server beyond the node: what the pod sends to the
// server passes the node's POSTROUTING chain.
type Lab struct {
	Pod, Node, Server *Host
	echo              *Echo
}

// NewLab joins three hosts. The server has every one of these addresses, and tells
// there which source it saw.
func NewLab(destinations ...netip.Addr) (_ *Lab, err error) {
	l := &Lab{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	for _, host := range []**Host{&l.Pod, &l.Node, &l.Server} {
		if *host, err = New(); err != nil {
			return nil, err
		}
	}
	if err = l.wire(); err != nil {
		return nil, err
	}
	var endpoints []netip.AddrPort
	for _, destination := range destinations {
		if err = l.Server.AddAddresses("lo", netip.PrefixFrom(destination, destination.BitLen())); err != nil {
			return nil, err
		}
		endpoints = append(endpoints, l.At(destination))
	}
	l.echo, err = l.Server.Echo(endpoints...)
	return l, err
}

func (l *Lab) wire() error {
	const podCable, serverCable = "pod", "server"
	parse := netip.MustParsePrefix
	pod := End{l.Pod, "eth0", []netip.Prefix{netip.PrefixFrom(PodIPv4, 24), netip.PrefixFrom(PodIPv6, 64)}}
	gateway := End{l.Node, podCable, []netip.Prefix{parse("10.244.1.1/24"), parse("fd00:10:244:1::1/64")}}
	node := End{l.Node, serverCable, []netip.Prefix{netip.PrefixFrom(NodeIPv4, 24), netip.PrefixFrom(NodeIPv6, 64)}}
	server := End{l.Server, "eth0", []netip.Prefix{parse("192.168.100.2/24"), parse("fd00:192:168:100::2/64")}}
	if err := errors.Join(Connect(pod, gateway), Connect(node, server)); err != nil {
		return err
	}
	var errs []error
	for _, everywhere := range []netip.Prefix{parse("0.0.0.0/0"), parse("::/0")} {
		side := 0
		if everywhere.Addr().Is6() {
			side = 1
		}
		errs = append(errs,
			l.Pod.AddRoute(everywhere, gateway.Addresses[side].Addr()),
			l.Node.AddRoute(everywhere, server.Addresses[side].Addr()),
			l.Server.AddRoute(pod.Addresses[side], node.Addresses[side].Addr()))
	}
	return errors.Join(append(errs, l.Node.Forward())...)
}

// At is where the server answers for a destination.
func (*Lab) At(destination netip.Addr) netip.AddrPort {
	return netip.AddrPortFrom(destination, labPort)
}

// Close ends the server and gives the hosts up.
func (l *Lab) Close() error {
	var errs []error
	if l.echo != nil {
		errs = append(errs, l.echo.Close())
	}
	for _, host := range slices.DeleteFunc([]*Host{l.Pod, l.Node, l.Server}, func(h *Host) bool { return h == nil }) {
		errs = append(errs, host.Close())
	}
	return errors.Join(errs...)
}

// Source is whom the server of a Lab should see.
func Source(ipv6, masqueraded bool) netip.Addr {
	switch {
	case ipv6 && masqueraded:
		return NodeIPv6
	case ipv6:
		return PodIPv6
	case masqueraded:
		return NodeIPv4
	}
	return PodIPv4
}

// FloodWhile sends packets to all of these destinations while it calls disturb until that
// is content, and counts those that came from a wrong source.
func (l *Lab) FloodWhile(
	ctx context.Context, spared, masqueraded []netip.Addr, atLeast int, disturb func() (content bool),
) (wrong int, tally Tally, err error) {
	var servers []netip.AddrPort
	for _, destination := range append(slices.Clone(spared), masqueraded...) {
		servers = append(servers, l.At(destination))
	}
	var content atomic.Bool
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		tally, err = l.Pod.Flood(ctx, 3, servers, func(sent int) bool {
			if sent >= atLeast {
				time.Sleep(time.Millisecond) // the number of flows is bounded
			}
			return content.Load() && sent >= atLeast
		})
	}()
	for flowing := true; flowing; {
		if disturb() {
			content.Store(true)
		}
		select {
		case <-finished:
			flowing = false
		default:
		}
	}
	for destination, sources := range tally.Sources {
		want := Source(destination.Addr().Is6(), slices.Contains(masqueraded, destination.Addr()))
		for source, count := range sources {
			if source != want {
				wrong += count
			}
		}
	}
	return wrong, tally, err
}
