package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// End is one end of a cable.
type End struct {
	Host      *Host
	Interface string         // its name, unique in the host
	Addresses []netip.Prefix // with host bits: 192.0.2.1/24
}

// Connect joins two hosts by a cable, both ends up.
func Connect(a, b End) error {
	cable := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: a.Interface, Namespace: netlink.NsFd(a.Host.ns)},
		PeerName:      b.Interface,
		PeerNamespace: netlink.NsFd(b.Host.ns),
	}
	if err := a.Host.link.LinkAdd(cable); err != nil {
		return fmt.Errorf("joining %s and %s: %w", a.Interface, b.Interface, err)
	}
	for _, end := range []End{a, b} {
		if err := end.Host.up(end.Interface); err != nil {
			return err
		}
		if err := end.Host.AddAddresses(end.Interface, end.Addresses...); err != nil {
			return err
		}
	}
	return nil
}

// AddBridge adds a bridge with these addresses, up.
func (h *Host) AddBridge(name string, addresses ...netip.Prefix) error {
	if err := h.link.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
		return fmt.Errorf("adding bridge %s: %w", name, err)
	}
	return errors.Join(h.up(name), h.AddAddresses(name, addresses...))
}

// Plug makes an interface a port of a bridge.
func (h *Host) Plug(name, bridge string) error {
	port, err := h.link.LinkByName(name)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", name, err)
	}
	master, err := h.link.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", bridge, err)
	}
	if err := h.link.LinkSetMaster(port, master); err != nil {
		return fmt.Errorf("plugging %s into %s: %w", name, bridge, err)
	}
	return nil
}

func (h *Host) up(name string) error {
	link, err := h.link.LinkByName(name)
	if err == nil {
		err = h.link.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("setting %s up: %w", name, err)
	}
	return nil
}

// AddAddresses gives an interface addresses.
func (h *Host) AddAddresses(name string, addresses ...netip.Prefix) error {
	link, err := h.link.LinkByName(name)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", name, err)
	}
	for _, address := range addresses {
		added := &netlink.Addr{IPNet: ipNet(address)}
		if address.Addr().Is6() {
			// Else the kernel would leave it to a worker to call it good.
			added.Flags = unix.IFA_F_NODAD
		}
		if err := h.link.AddrAdd(link, added); err != nil {
			return fmt.Errorf("adding address %s to %s: %w", address, name, err)
		}
	}
	return nil
}

// AddRoute sends what goes to a prefix through a neighbour, from now on.
func (h *Host) AddRoute(to netip.Prefix, via netip.Addr) error {
	route := &netlink.Route{Dst: ipNet(to.Masked()), Gw: via.AsSlice()}
	if err := h.link.RouteReplace(route); err != nil {
		return fmt.Errorf("adding route to %s via %s: %w", to, via, err)
	}
	return nil
}

// Forward makes the host pass packets on between its interfaces, in both families.
func (h *Host) Forward() error {
	return errors.Join(h.sysctl("net/ipv4/ip_forward", "1"), h.sysctl("net/ipv6/conf/all/forwarding", "1"))
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
