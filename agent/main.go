//go:build !windows

// Command agent holds the masquerade rules of one node: it reads the mounted
// ip-masq-agent configuration, keeps the last valid one in force while the file is
// bad, and heals the kernel when its rules drift. It is a drop-in for the upstream
// ip-masq-agent, talks to no API server and holds no credentials.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"github.com/ip-masq-guard/ip-masq-guard/agent/notify"
)

// Settings for a program that rests all day, lives on every node, however many
// processors that has, and does one thing at a time. The environment variables
// GOMAXPROCS, GOGC and GOMEMLIMIT come first. The limit is soft, and above what the
// largest file that loads needs.
const (
	processors  = 1
	gcPercent   = 50
	memoryLimit = 48 << 20 // bytes
)

// nodeVariable is the environment variable with the name of the node.
const nodeVariable = "NODE_NAME"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch answer := (answerError{}); {
	case err == nil:
		return
	case errors.As(err, &answer):
		os.Exit(exitCode(err))
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(os.Stderr, "agent:", strings.TrimSuffix(line, "\n"))
	}
	os.Exit(exitCode(err))
}

// exitCode is 2 for wrong usage, 3 for a command's answer that is not the hoped for one,
// and 1 for everything that failed.
func exitCode(err error) int {
	if usage := (usageError{}); errors.As(err, &usage) {
		return 2
	}
	if answer := (answerError{}); errors.As(err, &answer) {
		return 3
	}
	return 1
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if c, ok := commandOf(args); ok {
		return c.run(ctx, args[1:], stdout, stderr)
	}
	opts, err := parseFlags(args)
	switch {
	case err != nil:
		return err
	case opts.help:
		_, err = io.WriteString(stdout, helpText())
		return err
	case opts.version:
		_, err = fmt.Fprintln(stdout, "ip-masq-guard agent", buildVersion())
		return err
	case opts.dryRun:
		return dryRun(opts, stdout, stderr)
	}
	staySmall()

	h, err := openBackend(ctx, opts)
	if err != nil {
		return err
	}
	if opts.once {
		h.kernel = newSuccessor(h, printed(stdout, stderr))
		return once(ctx, opts, h, stdout, stderr)
	}

	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: opts.logLevel}))
	log.InfoContext(ctx, "agent starting",
		"version", buildVersion(), "config", opts.source(), "chain", opts.rules.Chain,
		"families", fmt.Sprint(opts.families()), "reservedRanges", opts.config.ReservedRanges,
		"randomFully", opts.rules.RandomFully, "toPorts", opts.toPorts,
		"sources", fmt.Sprint(opts.rules.Sources), "outInterfaces", opts.rules.Interfaces, "spareMulticast", opts.rules.SpareMulticast,
		"setThreshold", opts.rules.SetThreshold,
		"backend", h.name, "backendReason", h.reason, "stateDir", opts.stateDir)
	return daemon(ctx, opts, newSuccessor(h, logged(log)), watchKernel(ctx, opts, h.watched, log), about{
		node: os.Getenv(nodeVariable), backend: string(h.name), backendReason: h.reason,
		backendVersion: h.version, kernelVersion: kernelVersion(),
	}, log)
}

// daemon holds the rules until ctx ends, and leaves them in the kernel unless it is
// to take them away. The kernel's watch may be nil.
func daemon(ctx context.Context, opts options, kernel kernel, watch *notify.Watch, about about, log *slog.Logger) error {
	absent, err := present(ctx, opts.rules.Chain)
	if err != nil {
		log.WarnContext(ctx, "agent cleanup would not see that this agent runs", "error", err)
	}
	defer absent()
	s := newSyncer(opts, kernel, log)
	s.about = about
	s.listensTo(watch)
	stopServing, err := serve(ctx, opts.metricsAddress, s, log)
	if err != nil {
		return err
	}
	if err := forgetStart(); err != nil {
		log.DebugContext(ctx, "more memory is taken than need be", "error", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	w := newWatcher(ctx, opts.inputs(), log)
	var watching sync.WaitGroup
	watching.Go(func() { w.run(ctx) })
	if watch != nil {
		watching.Go(func() {
			if err := watch.Run(ctx); err != nil {
				log.WarnContext(ctx, "the kernel tells nothing more, so changes by others wait for the next tick", "error", err)
			}
		})
	}
	watching.Go(func() { s.masqueraders.run(ctx) })

	s.run(ctx, w.changes, notices(watch))

	cancel()
	watching.Wait()
	stopServing()
	if opts.cleanupOnExit {
		return removeOnExit(ctx, opts.rules.Chain, log)
	}
	log.InfoContext(ctx, "agent stopped, its rules stay")
	return nil
}

func staySmall() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(min(processors, runtime.GOMAXPROCS(0)))
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}

// kernelVersion is the release of the running kernel, or empty.
func kernelVersion() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(release))
}
