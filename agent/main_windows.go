// Command agent keeps the OutBoundNAT policies of a Windows node's CNI configuration in
// step with the mounted ip-masq-agent configuration, and the last valid one in force
// while the file is bad. It talks to no API server and holds no credentials.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err == nil {
		return
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(os.Stderr, "agent:", strings.TrimSuffix(line, "\n"))
	}
	if usage := (usageError{}); errors.As(err, &usage) {
		os.Exit(2)
	}
	os.Exit(1)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	opts, err := parseCNIFlags(args)
	switch {
	case err != nil:
		return err
	case opts.help:
		_, err = io.WriteString(stdout, "Usage:\n  agent --cni-config FILE [flags]\n\nFlags:\n"+cniFlags(&cniOptions{}, new(string)).FlagUsages())
		return err
	case opts.version:
		_, err = fmt.Fprintln(stdout, "ip-masq-guard agent", buildVersion())
		return err
	}
	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: opts.logLevel}))
	log.InfoContext(ctx, "agent starting", "version", buildVersion(), "config", opts.inputs.path, "cniConfig", opts.cniPath,
		"reservedRanges", opts.config.ReservedRanges, "stateDir", opts.stateDir)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := newWatcher(ctx, opts.inputs, log)
	var watching sync.WaitGroup
	watching.Go(func() { w.run(ctx) })
	newCNIKeeper(opts, log).run(ctx, w.changes)
	watching.Wait()
	log.InfoContext(ctx, "agent stopped, the CNI configuration stays as it is")
	return nil
}
