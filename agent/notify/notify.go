// Package notify listens to the kernel's notifications of nftables and tells when
// somebody may have changed rules of ours. It talks netlink, and neither reads nor
// writes rules.
package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

const (
	// watchBuffer is how much of others' changes the kernel keeps for us while we
	// are not reading, in bytes of its own memory: a rewrite of 10,000 rules by
	// kube-proxy fits.
	watchBuffer = 8 << 20

	// breath is the pause after all that the kernel had to tell was read: in a storm
	// of changes it is woken up seldom, and has much to read each time.
	breath = 5 * time.Millisecond

	// readBuffer is larger than any message: the kernel joins messages up to
	// NLMSG_GOODSIZE, which is at most 8 KiB.
	readBuffer = 16 << 10
)

// moment is one in the history of the kernel's nftables, which goes on with every
// transaction of any program. The zero moment is unknown.
type moment struct {
	generation uint32
	known      bool
}

// Change tells who has changed something.
type Change struct {
	Program string // up to 15 bytes; empty where the kernel does not tell
	PID     int    // in the process namespace of the node; 0 where the kernel does not tell
}

// Subject is what a Watch looks for: a table of ours, or our chain in a table of many
// and the jumps to it.
type Subject struct {
	family             byte // NFPROTO_*
	table, chain, from []byte
}

// Table is a whole table.
func Table(family ruleset.Family, table string) Subject {
	return Subject{family: protocol(family), table: []byte(table)}
}

// Chain is a chain of a table, with the rules of another chain of it that name ours.
func Chain(family ruleset.Family, table, chain, from string) Subject {
	return Subject{protocol(family), []byte(table), []byte(chain), []byte(from)}
}

func protocol(family ruleset.Family) byte {
	if family == ruleset.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// Watch listens to the kernel's notifications of nftables, which iptables-nft makes
// too, and tells when its Subjects may have been changed. There are no notifications of
// iptables-legacy and of ipsets, and those of a chain that is renamed do not tell its
// old name.
//
// Whose change it was cannot be told for sure, since the kernel names processes as
// the node's own namespace does, and programs in pods have others. It does not matter
// either: who looks at the rules and finds them in order says so, and what happened
// before that look is then not told any more. Run is for one goroutine, the other
// methods are for any.
type Watch struct {
	socket   *os.File
	subjects []Subject
	buffer   []byte
	busy     bool // something was read since the kernel last had nothing
	touched  bool // by the transaction whose end has not been read yet
	lost     bool // notifications, and others may still be lost

	asking requests

	changes chan struct{} // holds at most one

	mutex   sync.Mutex
	settled moment
	latest  moment // of what concerns us; unknown when all is settled
	change  Change // at latest
	counts  Counts
}

// New begins to listen, in the network namespace of the calling thread: no change
// after its return goes unnoticed once Run is called, which also closes it.
func New(subjects ...Subject) (*Watch, error) {
	w := &Watch{subjects: subjects, changes: make(chan struct{}, 1), buffer: make([]byte, readBuffer)}
	listener, err := openNetlink(1 << (unix.NFNLGRP_NFTABLES - 1))
	if err != nil {
		return nil, fmt.Errorf("listening to nftables notifications: %w", err)
	}
	// The first needs CAP_NET_ADMIN on the node itself, the second has its bound.
	if unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer) != nil {
		_ = unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_RCVBUF, watchBuffer)
	}
	w.socket = os.NewFile(uintptr(listener), "nftables notifications")
	if err = w.asking.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("asking for the nftables generation: %w", err), w.socket.Close())
	}
	return w, nil
}

// Changes tells that Pending may have become true.
func (w *Watch) Changes() <-chan struct{} { return w.changes }

// Look begins a look at the rules. Whoever has found them in order calls settle:
// what happened before the look was seen by it, our own changes among it.
func (w *Watch) Look() (settle func()) {
	m := w.now()
	return func() {
		if !m.known {
			return
		}
		w.mutex.Lock()
		defer w.mutex.Unlock()
		w.settled = m
		if w.latest.known && !w.latest.after(m) {
			w.latest, w.change = moment{}, Change{}
		}
	}
}

func (w *Watch) now() moment {
	generation, err := w.asking.generation()
	return moment{generation, err == nil} // without an answer nothing is ever settled
}

// Pending tells whether our rules may have been changed since the last look that was
// settled, and by whom last.
func (w *Watch) Pending() (Change, bool) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.change, w.latest.known
}

// Counts are what a Watch was told until now.
type Counts struct {
	Changes int // transactions that concern our rules, our own too
	Losses  int // times that the kernel had more to tell than it kept, each a change
}

// Counts may be asked at any time.
func (w *Watch) Counts() Counts {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.counts
}

// after compares as the kernel counts: around.
func (m moment) after(other moment) bool {
	return !other.known || int32(m.generation-other.generation) > 0 //nolint:gosec // the sign is that of the shorter way
}

// Run listens until ctx ends, or the socket fails, and closes it.
func (w *Watch) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.socket.Close() }) // ends the read
	defer func() {
		stop()
		_ = w.socket.Close()
		w.asking.close()
	}()
	raw, err := w.socket.SyscallConn()
	for err == nil {
		var failed error
		err = raw.Read(func(fd uintptr) (done bool) {
			done, failed = w.read(int(fd))
			return done
		})
		err = errors.Join(err, failed)
		if !w.busy {
			time.Sleep(breath)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("reading nftables notifications: %w", err)
}

// read takes what the kernel has to tell; not done means that there is no more now.
func (w *Watch) read(fd int) (done bool, err error) {
	n, err := unix.Read(fd, w.buffer)
	if err == nil || errors.Is(err, unix.ENOBUFS) {
		w.busy = true
	}
	switch {
	case errors.Is(err, unix.EINTR):
		return true, nil
	case errors.Is(err, unix.EAGAIN):
		// Having lost something the kernel goes on losing until all that it kept
		// is read, without another word.
		if w.lost {
			w.lost = false
			w.note(w.now(), Change{})
		}
		done, w.busy = w.busy, false // once more after a breath, then wait
		return done, nil
	case errors.Is(err, unix.ENOBUFS), err == nil && n == len(w.buffer):
		w.lost = true
		w.mutex.Lock()
		w.counts.Losses++
		w.mutex.Unlock()
		w.note(w.now(), Change{})
		return true, nil
	case err != nil:
		return true, err
	}
	w.take(w.buffer[:n])
	return true, nil
}

// take reads the messages of one datagram. On a busy node there are many, and hardly
// any concerns us: nothing is allocated.
func (w *Watch) take(datagram []byte) {
	for {
		kind, payload, rest, ok := nextMessage(datagram)
		if !ok {
			return
		}
		datagram = rest
		if kind>>8 != unix.NFNL_SUBSYS_NFTABLES || len(payload) < nfgenHeader {
			continue
		}
		family, attributes := payload[0], payload[nfgenHeader:]
		if kind&0xff != unix.NFT_MSG_NEWGEN {
			w.touched = w.touched || w.concerns(int(kind&0xff), family, attributes)
			continue
		}
		// It ends the transaction.
		if w.touched {
			w.touched = false
			w.mutex.Lock()
			w.counts.Changes++
			w.mutex.Unlock()
			w.note(author(attributes))
		}
	}
}

// concerns tells whether a message is about a subject.
func (w *Watch) concerns(operation int, family byte, attributes []byte) bool {
	for i := range w.subjects {
		if s := &w.subjects[i]; s.family == family && s.concerned(operation, attributes) {
			return true
		}
	}
	return false
}

// The first attribute of every object is the name of its table (linux/netfilter/nf_tables.h).
func (s *Subject) concerned(operation int, attributes []byte) bool {
	if !bytes.Equal(name(attributes, unix.NFTA_TABLE_NAME), s.table) {
		return false
	}
	if s.chain == nil {
		return true
	}
	switch operation {
	case unix.NFT_MSG_DELTABLE:
		return true
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		return bytes.Equal(name(attributes, unix.NFTA_CHAIN_NAME), s.chain)
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		chain := name(attributes, unix.NFTA_RULE_CHAIN)
		if !bytes.Equal(chain, s.from) {
			return bytes.Equal(chain, s.chain)
		}
		// Others' rules come and go there with pods. A rule that does not name
		// our chain is no jump to it; one that is gone may come without its words.
		words := attribute(attributes, unix.NFTA_RULE_EXPRESSIONS)
		return words == nil || bytes.Contains(words, s.chain)
	}
	return false
}

// note tells of a change that concerns us, unless it was settled before we heard
// of it.
func (w *Watch) note(at moment, by Change) {
	w.mutex.Lock()
	known := at.known && !at.after(w.settled)
	if !known {
		at.known = true // where it is not, the next look settles it
		w.latest, w.change = at, by
	}
	w.mutex.Unlock()
	if known {
		return
	}
	select {
	case w.changes <- struct{}{}:
	default: // one is waiting already
	}
}
