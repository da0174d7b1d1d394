package iptables

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// The kernel's side of connection tracking, linux/netfilter/nfnetlink_conntrack.h and
// nf_conntrack_common.h. The package netlink would keep the whole table in memory, which
// has a quarter of a million flows by default; here it passes by.
const (
	flowGet    = 1 // IPCTNL_MSG_CT_GET
	flowDelete = 2 // IPCTNL_MSG_CT_DELETE

	flowOriginal = 1  // CTA_TUPLE_ORIG: the first packet as it came
	flowReply    = 2  // CTA_TUPLE_REPLY: the answer as it comes, so what the first packet became
	flowStatus   = 3  // CTA_STATUS
	flowID       = 12 // CTA_ID
	flowZone     = 18 // CTA_ZONE
	tupleIP      = 1  // CTA_TUPLE_IP
	sourceIPv4   = 1  // CTA_IP_V4_SRC
	sourceIPv6   = 3  // CTA_IP_V6_SRC

	sourceTranslated = 1 << 4 // IPS_SRC_NAT
)

// Bounds of looking through the flows.
const (
	flushTimeout  = 10 * time.Second
	flushAttempts = 3 // when the kernel resizes its table in the meantime
)

// Conntrack is what this network namespace knows of its connections.
type Conntrack struct{}

// Forget makes the kernel forget the flows of one family that a change treats otherwise,
// so that the next packet of each is treated anew, and returns how many there were. What
// else holds for the sources is told by the Decision after the change. The flows of
// the node itself stay: masquerading gives them the address that they have.
func (Conntrack) Forget(ctx context.Context, changed ruleset.Changed, after ruleset.Decision) (forgotten int, err error) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	local, err := localAddresses()
	if err != nil {
		return 0, fmt.Errorf("listing the node's own addresses: %w", err)
	}
	outdated := func(f ruleset.Flow) bool {
		return changed.Outdated(f) && after.Judges(f.Source) && !local[f.Source] && !local[f.Destination]
	}
	for range flushAttempts {
		n, err := forget(ctx, after.Family, outdated)
		forgotten += n
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			return forgotten, err
		}
	}
	return forgotten, errors.New("listing flows: the table grows faster than it is read")
}

func forget(ctx context.Context, family ruleset.Family, outdated func(ruleset.Flow) bool) (forgotten int, err error) {
	var failed error
	err = flowRequest(flowGet, unix.NLM_F_DUMP, family).ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		if len(message) < nl.SizeofNfgenmsg {
			return true
		}
		entry := message[nl.SizeofNfgenmsg:]
		f, ok := readFlow(entry)
		if !ok || !outdated(f) {
			return true
		}
		switch failure := deleteFlow(entry, family); {
		case failure == nil:
			forgotten++
		case !errors.Is(failure, unix.ENOENT): // it has ended in the meantime
			failed = fmt.Errorf("deleting the flow from %s to %s: %w", f.Source, f.Destination, failure)
		}
		if failed == nil && ctx.Err() != nil {
			failed = fmt.Errorf("looking through the flows: %w", ctx.Err())
		}
		return failed == nil
	})
	if failed == nil && err != nil {
		failed = fmt.Errorf("listing flows: %w", err)
	}
	return forgotten, failed
}

func flowRequest(command, flags int, family ruleset.Family) *nl.NetlinkRequest {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|command, flags)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: inet(family), Version: nl.NFNETLINK_V0})
	return request
}

// deleteFlow deletes what was listed. The kernel compares the identity too, so that a new
// flow with the same addresses and ports is left alone.
func deleteFlow(entry []byte, family ruleset.Family) error {
	request := flowRequest(flowDelete, unix.NLM_F_ACK, family)
	request.AddData(nl.NewRtAttr(flowOriginal|unix.NLA_F_NESTED, attributeOf(entry, flowOriginal)))
	for _, kind := range []int{flowID, flowZone} {
		if value := attributeOf(entry, kind); value != nil {
			request.AddData(nl.NewRtAttr(kind, value))
		}
	}
	return request.ExecuteIter(unix.NETLINK_NETFILTER, 0, func([]byte) bool { return true })
}

func readFlow(entry []byte) (_ ruleset.Flow, ok bool) {
	// Who answers is where the first packet went, whatever was written on it.
	source, sourceOK := tupleSource(attributeOf(entry, flowOriginal))
	destination, destinationOK := tupleSource(attributeOf(entry, flowReply))
	masqueraded := number(attributeOf(entry, flowStatus))&sourceTranslated != 0
	return ruleset.Flow{Source: source, Destination: destination, Masqueraded: masqueraded}, sourceOK && destinationOK
}

func tupleSource(tuple []byte) (netip.Addr, bool) {
	addresses := attributeOf(tuple, tupleIP)
	if ipv4, ok := netip.AddrFromSlice(attributeOf(addresses, sourceIPv4)); ok {
		return ipv4, true
	}
	return netip.AddrFromSlice(attributeOf(addresses, sourceIPv6))
}

// attributeOf finds one by its kind; nil when it is not there.
func attributeOf(body []byte, kind int) []byte {
	for found, value := range attributes(body) {
		if found == kind {
			return value
		}
	}
	return nil
}

func localAddresses() (map[netip.Addr]bool, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	local := map[netip.Addr]bool{}
	for _, address := range addresses {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil {
			local[prefix.Addr()] = true
		}
	}
	return local, nil
}
