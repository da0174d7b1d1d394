// Command probe is what runs in the pods of the two-node cluster: it asks servers
// which source address they see, is such a server itself, or only sleeps, as the
// process that holds a pod's namespaces.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const usage = "usage: probe [sleep | serve ADDRESS:PORT | ask udp|tcp ADDRESS:PORT...]"

// A datagram may be lost, so a question is asked again, in the same flow.
const (
	attempts = 5
	patience = time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1) //nolint:gocritic // stop only restores the signals
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	switch {
	case len(args) == 0, args[0] == "sleep":
		<-ctx.Done()
		return nil
	case args[0] == "serve" && len(args) == 2:
		return serve(ctx, args[1])
	case args[0] == "ask" && len(args) > 2:
		for _, server := range args[2:] {
			seen, err := ask(ctx, args[1], server)
			if err != nil {
				return fmt.Errorf("asking %s: %w", server, err)
			}
			if _, err := fmt.Fprintln(out, server, seen.Addr()); err != nil {
				return err
			}
		}
		return nil
	default:
		return errors.New(usage)
	}
}

// ask asks a server, in a new flow, for the source address that it sees.
func ask(ctx context.Context, network, server string) (netip.AddrPort, error) {
	dialer := &net.Dialer{Timeout: attempts * patience}
	connection, err := dialer.DialContext(ctx, network, server)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer func() { _ = connection.Close() }()
	buffer := make([]byte, 128)
	for range attempts {
		if network == "udp" {
			if _, err = connection.Write([]byte("?")); err != nil {
				continue // an ICMP error to an earlier datagram
			}
		}
		if err = connection.SetReadDeadline(time.Now().Add(patience)); err != nil {
			break
		}
		var n int
		if n, err = connection.Read(buffer); err == nil {
			return netip.ParseAddrPort(string(buffer[:n]))
		}
	}
	return netip.AddrPort{}, err
}

// serve answers connections with the source address that it sees.
func serve(ctx context.Context, address string) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	for {
		connection, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil // told to end
		}
		if err != nil {
			return err
		}
		// A client that went away asks no more.
		_, _ = io.WriteString(connection, connection.RemoteAddr().String())
		_ = connection.Close()
	}
}
