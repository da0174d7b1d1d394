package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// The kernel's side of ipsets (linux/netfilter/ipset/ip_set.h), over netlink. The
// package netlink adds one entry a message and knows no exceptions, so the messages are
// written here, with hundreds of entries each; its package nl carries them.
const (
	// setRevision is the first of hash:net that knows exceptions (Linux 3.2); later
	// ones add what is not used here.
	setRevision = 2

	// batchBytes bounds the entries of one message: the length of an attribute has 16 bits.
	batchBytes = 48 << 10
)

// setState is how a set of the kernel differs from one that is wanted.
type setState struct {
	exists     bool
	references int  // rules that ask it
	alike      bool // of the same type and family, so that they can be swapped
	same       bool // alike, with the same bounds and without extras such as timeouts
	exceptions bool // it holds some

	missing []ruleset.SetEntry // wanted and not there
	extra   []ruleset.SetEntry // there and not wanted
}

// readSet lists a set of the kernel.
func readSet(want *ruleset.Set) (setState, error) {
	state := setState{}
	found := make([]bool, len(want.Entries))
	var malformed error
	err := ask(nl.IPSET_CMD_LIST, 0, setName(nil, want.Name), func(reply []byte) {
		if !state.exists {
			state.exists = true
			state.readHeader(want, reply)
		}
		for _, entry := range within(reply, nl.IPSET_ATTR_ADT) {
			e, err := decodeEntry(entry)
			if err != nil {
				malformed = err
				continue
			}
			state.exceptions = state.exceptions || e.Exception
			i, known := slices.BinarySearchFunc(want.Entries, e, ruleset.SetEntry.Compare)
			if known && want.Entries[i] == e {
				found[i] = true
			} else {
				state.extra = append(state.extra, e)
			}
		}
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return setState{}, nil
	case err != nil:
		return setState{}, err
	case malformed != nil && state.alike: // a set of another type has other entries
		return setState{}, malformed
	}
	for i, e := range want.Entries {
		if !found[i] {
			state.missing = append(state.missing, e)
		}
	}
	return state, nil
}

func (s *setState) readHeader(want *ruleset.Set, reply []byte) {
	var kind string
	var family byte
	maxEntries, plain := 0, true
	for key, value := range attributes(reply) {
		switch key {
		case nl.IPSET_ATTR_TYPENAME:
			kind = unix.ByteSliceToString(value)
		case nl.IPSET_ATTR_FAMILY:
			family = value[0]
		}
	}
	for key, value := range within(reply, nl.IPSET_ATTR_DATA) {
		switch key {
		case nl.IPSET_ATTR_MAXELEM:
			maxEntries = int(number(value))
		case nl.IPSET_ATTR_REFERENCES:
			s.references = int(number(value))
		case nl.IPSET_ATTR_TIMEOUT, nl.IPSET_ATTR_NETMASK:
			plain = false
		case nl.IPSET_ATTR_CADT_FLAGS:
			plain = plain && number(value) == 0
		}
	}
	s.alike = kind == ruleset.SetType && family == inet(want.Family)
	s.same = s.alike && plain && maxEntries == want.MaxEntries()
}

// setExists asks for no more than that.
func setExists(name string) (bool, error) {
	err := ask(nl.IPSET_CMD_HEADER, 0, setName(nil, name), nil)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// createSet makes a set with all of its entries.
func createSet(s *ruleset.Set) error {
	body := setName(nil, s.Name)
	body = appendAttribute(body, nl.IPSET_ATTR_TYPENAME, append([]byte(ruleset.SetType), 0))
	body = appendAttribute(body, nl.IPSET_ATTR_REVISION, []byte{setRevision})
	body = appendAttribute(body, nl.IPSET_ATTR_FAMILY, []byte{inet(s.Family)})
	body = appendNest(body, nl.IPSET_ATTR_DATA, func(body []byte) []byte {
		body = appendAttribute(body, nl.IPSET_ATTR_HASHSIZE|unix.NLA_F_NET_BYTEORDER, bigEndian(s.HashSize()))
		return appendAttribute(body, nl.IPSET_ATTR_MAXELEM|unix.NLA_F_NET_BYTEORDER, bigEndian(s.MaxEntries()))
	})
	if err := ask(nl.IPSET_CMD_CREATE, unix.NLM_F_EXCL, body, nil); err != nil {
		return fmt.Errorf("creating set %s: %w", s.Name, explainSets(err))
	}
	return addEntries(s.Name, s.Entries)
}

// destroySet removes a set, if there is one by this name. One that rules still ask is not.
func destroySet(name string) error {
	err := ask(nl.IPSET_CMD_DESTROY, 0, setName(nil, name), nil)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("destroying set %s: %w", name, err)
	}
	return nil
}

// swapSets gives each set the content of the other at one moment: rules go on to ask
// by the same name.
func swapSets(a, b string) error {
	body := appendAttribute(setName(nil, a), nl.IPSET_ATTR_SETNAME2, append([]byte(b), 0))
	if err := ask(nl.IPSET_CMD_SWAP, 0, body, nil); err != nil {
		return fmt.Errorf("swapping sets %s and %s: %w", a, b, err)
	}
	return nil
}

func addEntries(name string, entries []ruleset.SetEntry) error {
	if err := change(nl.IPSET_CMD_ADD, name, entries); err != nil {
		return fmt.Errorf("adding %d entries to set %s: %w", len(entries), name, err)
	}
	return nil
}

func deleteEntries(name string, entries []ruleset.SetEntry) error {
	if err := change(nl.IPSET_CMD_DEL, name, entries); err != nil {
		return fmt.Errorf("deleting %d entries of set %s: %w", len(entries), name, err)
	}
	return nil
}

// change adds or deletes entries, many a message. Entries that are there already, or gone,
// are no error.
func change(command int, name string, entries []ruleset.SetEntry) error {
	body := make([]byte, 0, batchBytes+4<<10)
	for line := 1; len(entries) > 0; line++ {
		body = setName(body[:0], name)
		// The kernel wants a line number, for its complaints to a person.
		body = appendAttribute(body, nl.IPSET_ATTR_LINENO|unix.NLA_F_NET_BYTEORDER, bigEndian(line))
		body = appendNest(body, nl.IPSET_ATTR_ADT, func(body []byte) []byte {
			for len(entries) > 0 && len(body) < batchBytes {
				body = appendEntry(body, entries[0])
				entries = entries[1:]
			}
			return body
		})
		if err := ask(command, 0, body, nil); err != nil {
			return err
		}
	}
	return nil
}

func appendEntry(body []byte, e ruleset.SetEntry) []byte {
	return appendNest(body, nl.IPSET_ATTR_DATA, func(body []byte) []byte {
		body = appendNest(body, nl.IPSET_ATTR_IP, func(body []byte) []byte {
			kind := nl.IPSET_ATTR_IPADDR_IPV4
			if e.Prefix.Addr().Is6() {
				kind = nl.IPSET_ATTR_IPADDR_IPV6
			}
			return appendAttribute(body, kind|unix.NLA_F_NET_BYTEORDER, e.Prefix.Addr().AsSlice())
		})
		body = appendAttribute(body, nl.IPSET_ATTR_CIDR, []byte{byte(e.Prefix.Bits())}) //nolint:gosec // at most 128
		if e.Exception {
			body = appendAttribute(body, nl.IPSET_ATTR_CADT_FLAGS|unix.NLA_F_NET_BYTEORDER, bigEndian(nl.IPSET_FLAG_NOMATCH))
		}
		return appendAttribute(body, nl.IPSET_ATTR_LINENO|unix.NLA_F_NET_BYTEORDER, bigEndian(0))
	})
}

func decodeEntry(entry []byte) (ruleset.SetEntry, error) {
	var (
		addr  netip.Addr
		bits  = -1
		flags uint32
	)
	for key, value := range attributes(entry) {
		switch key {
		case nl.IPSET_ATTR_IP:
			for _, bytes := range attributes(value) {
				addr, _ = netip.AddrFromSlice(bytes)
			}
		case nl.IPSET_ATTR_CIDR:
			bits = int(value[0])
		case nl.IPSET_ATTR_CADT_FLAGS:
			flags = number(value)
		}
	}
	if bits < 0 {
		bits = addr.BitLen() // hash:ip holds addresses alone
	}
	prefix := netip.PrefixFrom(addr, bits)
	if !prefix.IsValid() {
		return ruleset.SetEntry{}, fmt.Errorf("reading an entry of a set: %x is no prefix", entry)
	}
	return ruleset.SetEntry{Prefix: prefix, Exception: flags&nl.IPSET_FLAG_NOMATCH != 0}, nil
}

// ask sends a command with its flags and attributes to the kernel, in the network
// namespace of the calling thread, and hands over the attributes of each reply.
func ask(command, flags int, body []byte, each func(reply []byte)) error {
	request := nl.NewNetlinkRequest(command|unix.NFNL_SUBSYS_IPSET<<8, nl.GetIpsetFlags(command)|flags)
	header := (&nl.Nfgenmsg{NfgenFamily: unix.AF_NETLINK, Version: nl.NFNETLINK_V0}).Serialize()
	request.AddRawData(append(appendAttribute(header, nl.IPSET_ATTR_PROTOCOL, []byte{nl.IPSET_PROTOCOL}), body...))
	err := request.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(reply []byte) bool {
		if each != nil && len(reply) >= nl.SizeofNfgenmsg {
			each(reply[nl.SizeofNfgenmsg:])
		}
		return true
	})
	if number := syscall.Errno(0); errors.As(err, &number) && number >= nl.IPSET_ERR_PRIVATE {
		return nl.IPSetError(number)
	}
	return err
}

func inet(family ruleset.Family) byte {
	if family == ruleset.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// Netlink attributes: length, type, value, each on a multiple of four bytes; length and
// type in the order of the machine, values in that of the network.

func setName(body []byte, name string) []byte {
	return appendAttribute(body, nl.IPSET_ATTR_SETNAME, append([]byte(name), 0))
}

// appendAttribute wants values of less than 64 KiB, as the kernel does.
func appendAttribute(body []byte, kind int, value []byte) []byte {
	body = binary.NativeEndian.AppendUint16(body, uint16(unix.SizeofNlAttr+len(value))) //nolint:gosec // see above
	body = binary.NativeEndian.AppendUint16(body, uint16(kind))                         //nolint:gosec // a constant and its flags
	body = append(body, value...)
	return append(body, make([]byte, aligned(len(value))-len(value))...)
}

// nest is an attribute whose value is what fill appends.
func appendNest(body []byte, kind int, fill func(body []byte) []byte) []byte {
	begin := len(body)
	body = fill(appendAttribute(body, kind|unix.NLA_F_NESTED, nil))
	binary.NativeEndian.PutUint16(body[begin:], uint16(len(body)-begin)) //nolint:gosec // as appendAttribute
	return body
}

// attributes are those of a message or of a nest that have a value, up to the first that
// is cut off.
func attributes(body []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for len(body) >= unix.SizeofNlAttr {
			length := int(binary.NativeEndian.Uint16(body))
			kind := int(binary.NativeEndian.Uint16(body[2:])) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if length < unix.SizeofNlAttr || length > len(body) {
				return
			}
			if length > unix.SizeofNlAttr && !yield(kind, body[unix.SizeofNlAttr:length]) {
				return
			}
			body = body[min(aligned(length), len(body)):]
		}
	}
}

// within are the attributes of a nest.
func within(body []byte, kind int) iter.Seq2[int, []byte] {
	for key, value := range attributes(body) {
		if key == kind {
			return attributes(value)
		}
	}
	return attributes(nil)
}

func aligned(length int) int { return (length + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1) }

// bigEndian writes a number that is not negative and has at most 31 bits.
func bigEndian(n int) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(n)) //nolint:gosec // see above
}

// number reads a value of four bytes; of another length it is none of the kernel's.
func number(value []byte) uint32 {
	if len(value) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(value)
}
