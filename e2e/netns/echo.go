package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Bounds of one question. A datagram may be lost, so it is sent again from the same
// socket.
const (
	attempts      = 5
	answerTimeout = 500 * time.Millisecond
	answerBytes   = 128
)

// MaxFlows is how many questions a host can ask. Each has a source port of its own:
// the kernel remembers for half a minute how it translated an address and port, and
// would go on so for another flow with the same ones.
const (
	MaxFlows      = 50000
	firstFlowPort = 10000
)

// Echo is a server that answers every UDP datagram and TCP connection with the
// source address and port that it saw.
type Echo struct {
	sockets []io.Closer
	done    sync.WaitGroup
}

// Echo starts a server on each of these addresses, UDP and TCP. One socket an
// address: an answer must come from the address that was asked.
func (h *Host) Echo(addresses ...netip.AddrPort) (*Echo, error) {
	e := &Echo{}
	err := h.Do(func() error {
		for _, address := range addresses {
			if err := e.listen(address); err != nil {
				return fmt.Errorf("listening on %s: %w", address, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *Echo) listen(address netip.AddrPort) error {
	datagrams, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(address))
	if err != nil {
		return err
	}
	e.sockets = append(e.sockets, datagrams)
	e.done.Go(func() { answerDatagrams(datagrams) })

	connections, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(address))
	if err != nil {
		return err
	}
	e.sockets = append(e.sockets, connections)
	e.done.Go(func() { answerConnections(connections) })
	return nil
}

// Close ends the server.
func (e *Echo) Close() error {
	var errs []error
	for _, socket := range e.sockets {
		errs = append(errs, socket.Close())
	}
	e.done.Wait()
	return errors.Join(errs...)
}

func answerDatagrams(socket *net.UDPConn) {
	buffer := make([]byte, answerBytes)
	for {
		_, source, err := socket.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			// A client that has gone away asks no more: nothing is to be done
			// about a failed answer.
			_, _ = socket.WriteToUDPAddrPort([]byte(source.String()), source)
		}
	}
}

func answerConnections(listener *net.TCPListener) {
	for {
		connection, err := listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = io.WriteString(connection, connection.RemoteAddr().String())
			_ = connection.Close()
		}
	}
}

// Ask asks the Echo at server, in a new flow, which source address it sees. The
// network is "udp" or "tcp".
func (h *Host) Ask(ctx context.Context, network string, server netip.AddrPort) (netip.AddrPort, error) {
	var seen netip.AddrPort
	err := h.Do(func() (err error) {
		seen, err = h.ask(ctx, network, server)
		return err
	})
	return seen, err
}

// ask is Ask for a thread that is in the host.
func (h *Host) ask(ctx context.Context, network string, server netip.AddrPort) (netip.AddrPort, error) {
	flow := int(h.flows.Add(1)) - 1
	if flow >= MaxFlows {
		return netip.AddrPort{}, fmt.Errorf("asking %s: this host has asked %d times, and has no source port left", server, MaxFlows)
	}
	dialer := &net.Dialer{LocalAddr: &net.UDPAddr{Port: firstFlowPort + flow}}
	if network == "tcp" {
		dialer.LocalAddr = &net.TCPAddr{Port: firstFlowPort + flow}
	}
	ctx, cancel := context.WithTimeout(ctx, attempts*answerTimeout)
	defer cancel()
	connection, err := dialer.DialContext(ctx, network, server.String())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("asking %s: %w", server, err)
	}
	defer func() { _ = connection.Close() }()

	buffer := make([]byte, answerBytes)
	for range attempts {
		if network == "udp" {
			if _, err = connection.Write([]byte("?")); err != nil {
				continue // an ICMP error to an earlier datagram
			}
		}
		if err = connection.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
			break
		}
		var n int
		if n, err = connection.Read(buffer); err == nil {
			return netip.ParseAddrPort(string(buffer[:n]))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return netip.AddrPort{}, fmt.Errorf("waiting for the answer of %s: %w", server, err)
}

// Tally counts the answers of a Flood.
type Tally struct {
	Sent    int
	Lost    int                                   // without an answer after several attempts
	Sources map[netip.AddrPort]map[netip.Addr]int // server, source address it saw: number
}

// Flood asks the servers over UDP by turns, from several workers at once, each
// question in a new flow. It ends when enough, which is called by one worker at a time
// with the number of questions begun, says so, or with ctx, or after MaxFlows.
func (h *Host) Flood(ctx context.Context, workers int, servers []netip.AddrPort, enough func(sent int) bool) (Tally, error) {
	tally := Tally{Sources: map[netip.AddrPort]map[netip.Addr]int{}}
	for _, server := range servers {
		tally.Sources[server] = map[netip.Addr]int{}
	}
	var mutex sync.Mutex
	next := func() (server netip.AddrPort, ok bool) {
		mutex.Lock()
		defer mutex.Unlock()
		if ctx.Err() != nil || int(h.flows.Load()) >= MaxFlows || enough(tally.Sent) {
			return netip.AddrPort{}, false
		}
		tally.Sent++
		return servers[tally.Sent%len(servers)], true
	}
	work := func() {
		for server, ok := next(); ok; server, ok = next() {
			seen, err := h.ask(ctx, "udp", server)
			mutex.Lock()
			if err != nil {
				tally.Lost++
			} else {
				tally.Sources[server][seen.Addr()]++
			}
			mutex.Unlock()
		}
	}

	errs := make([]error, workers)
	var running sync.WaitGroup
	for i := range workers {
		running.Go(func() {
			errs[i] = h.Do(func() error {
				work()
				return nil
			})
		})
	}
	running.Wait()
	return tally, errors.Join(errs...)
}
