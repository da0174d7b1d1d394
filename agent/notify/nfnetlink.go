package notify

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// What of linux/netlink.h and linux/netfilter/nfnetlink.h is used here, in bytes.
const (
	netlinkHeader   = 16 // struct nlmsghdr
	nfgenHeader     = 4  // struct nfgenmsg
	attributeHeader = 4  // struct nlattr

	answerBytes = 512 // more than the answer to the one question
)

func openNetlink(groups uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, fmt.Errorf("opening a netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return -1, errors.Join(fmt.Errorf("binding a netlink socket: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// author reads NFT_MSG_NEWGEN.
func author(attributes []byte) (moment, Change) {
	id, pid := attribute(attributes, unix.NFTA_GEN_ID), attribute(attributes, unix.NFTA_GEN_PROC_PID)
	var at moment
	if len(id) == 4 {
		at = moment{generation: binary.BigEndian.Uint32(id), known: true}
	}
	by := Change{Program: string(name(attributes, unix.NFTA_GEN_PROC_NAME))}
	if len(pid) == 4 {
		by.PID = int(binary.BigEndian.Uint32(pid))
	}
	return at, by
}

// requests is a socket for questions to nftables. It may be used from several
// goroutines.
type requests struct {
	mutex  sync.Mutex
	fd     int
	answer [answerBytes]byte
}

// open also proves that the kernel answers.
func (r *requests) open() error {
	fd, err := openNetlink(0)
	if err != nil {
		return err
	}
	r.fd = fd
	if _, err := r.generation(); err != nil {
		r.close()
		return err
	}
	return nil
}

func (r *requests) close() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.fd >= 0 {
		_ = unix.Close(r.fd) // nothing is lost with it
		r.fd = -1
	}
}

// generation is the number of transactions that there were, around 2^32.
func (r *requests) generation() (uint32, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.fd < 0 {
		return 0, os.ErrClosed
	}
	var question [netlinkHeader + nfgenHeader]byte
	binary.NativeEndian.PutUint32(question[0:], uint32(len(question)))
	binary.NativeEndian.PutUint16(question[4:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN)
	binary.NativeEndian.PutUint16(question[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(r.fd, question[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	// The kernel has answered before Sendto returns.
	n, err := unix.Read(r.fd, r.answer[:])
	if err != nil {
		return 0, err
	}
	kind, payload, _, ok := nextMessage(r.answer[:n])
	switch {
	case ok && kind == unix.NLMSG_ERROR && len(payload) >= 4:
		return 0, syscall.Errno(-int32(binary.NativeEndian.Uint32(payload))) //nolint:gosec // a negative errno
	case ok && kind == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN && len(payload) >= nfgenHeader:
		if at, _ := author(payload[nfgenHeader:]); at.known {
			return at.generation, nil
		}
	}
	return 0, errors.New("the answer is not understood")
}

// nextMessage splits a datagram (netlink(7)); not ok means that there is none.
func nextMessage(datagram []byte) (kind uint16, payload, rest []byte, ok bool) {
	if len(datagram) < netlinkHeader {
		return 0, nil, nil, false
	}
	length := int(binary.NativeEndian.Uint32(datagram))
	if length < netlinkHeader || length > len(datagram) {
		return 0, nil, nil, false
	}
	return binary.NativeEndian.Uint16(datagram[4:]), datagram[netlinkHeader:length], datagram[min(align(length), len(datagram)):], true
}

// attribute finds one by its type; nil when it is not there.
func attribute(attributes []byte, wanted uint16) []byte {
	for len(attributes) >= attributeHeader {
		length := int(binary.NativeEndian.Uint16(attributes))
		if length < attributeHeader || length > len(attributes) {
			return nil
		}
		if kind := binary.NativeEndian.Uint16(attributes[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER); kind == wanted {
			return attributes[attributeHeader:length]
		}
		attributes = attributes[min(align(length), len(attributes)):]
	}
	return nil
}

// name is an attribute that holds a text, which ends with a zero.
func name(attributes []byte, wanted uint16) []byte {
	return bytes.TrimSuffix(attribute(attributes, wanted), []byte{0})
}

// align rounds up to NLMSG_ALIGNTO, which is also NLA_ALIGNTO.
func align(length int) int { return (length + 3) &^ 3 }
