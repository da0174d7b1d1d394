package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/winbridge"
)

// cniOptions are the flags of the agent on Windows, as values.
type cniOptions struct {
	config   config.Options
	inputs   inputs
	stateDir string // empty: the last valid configuration is in memory only
	cniPath  string
	logLevel slog.Level

	version, help bool
}

// cniFlags are the flags of the agent on Windows.
func cniFlags(o *cniOptions, level *string) *pflag.FlagSet {
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {}
	flags.StringVar(&o.cniPath, "cni-config", "", "CNI configuration `file` whose OutBoundNAT policies are to hold the list; needed")
	flags.StringVar(&o.inputs.path, "config-path", defaultConfigPath, "`file` to read; a missing one means the defaults")
	flags.StringVar(&o.inputs.labels, "node-labels-file", "", "`file` with the labels of this node, for nodeOverrides; missing or empty: none")
	flags.StringVar(&o.stateDir, "state-dir", "", "`directory` that keeps the last valid configuration over restarts (default: memory only)")
	flags.BoolVar(&o.config.ReservedRanges, "nomasq-all-reserved-ranges", false,
		"without a list in the file, spare every reserved IPv4 range, not only RFC 1918")
	flags.StringVar(level, "log-level", "info", "debug, info, warn or error")
	flags.BoolVar(&o.version, "version", false, "print the version and exit")
	flags.BoolVarP(&o.help, "help", "h", false, "print this text and exit")
	return flags
}

// parseCNIFlags reads and checks the command line. A usageError tells everything that is
// wrong, a line each.
func parseCNIFlags(args []string) (cniOptions, error) {
	// IPv6 CIDRs are left out rather than refused: the nodes beside may hold them.
	o := cniOptions{config: config.Options{IPv6: true}}
	var level string
	flags := cniFlags(&o, &level)
	if err := flags.Parse(twoDashes(args)); err != nil {
		return cniOptions{}, usageError{fmt.Errorf("%w; --help lists the flags", err)}
	}
	if o.help || o.version {
		return o, nil
	}
	var errs []error
	if extra := flags.Args(); len(extra) > 0 {
		errs = append(errs, fmt.Errorf("%q is no flag; values of switches are written --flag=value", extra[0]))
	}
	if o.cniPath == "" {
		errs = append(errs, errors.New(`--cni-config is missing; name the CNI configuration of this node, such as C:\k\cni\config\cni.conf`))
	}
	if err := o.logLevel.UnmarshalText([]byte(level)); err != nil {
		errs = append(errs, fmt.Errorf("--log-level=%q: unknown level; write debug, info, warn or error", level))
	}
	if len(errs) > 0 {
		return cniOptions{}, usageError{errors.Join(errs...)}
	}
	return o, nil
}

// cniKeeper keeps the OutBoundNAT policies of a CNI configuration in step with the
// file: the loop of the agent with another effect. One goroutine runs it.
type cniKeeper struct {
	opts   cniOptions
	store  store
	labels nodeLabels
	log    *slog.Logger

	seen  *reading // what was judged last; nil before the first pass
	force config.Config
	text  []byte // what force was parsed from; nil for defaults

	held       bool   // the CNI configuration was right at some time since force changed
	failure    string // of the last pass; empty when it succeeded
	storeError string // the last one logged
	retry      time.Duration
}

func newCNIKeeper(opts cniOptions, log *slog.Logger) *cniKeeper {
	return &cniKeeper{
		opts: opts, store: store{dir: opts.stateDir}, labels: nodeLabels{path: opts.inputs.labels}, log: log,
	}
}

// run passes now, after every change of the file, and at the configuration's interval,
// until ctx ends.
func (k *cniKeeper) run(ctx context.Context, changes <-chan struct{}) {
	next := time.NewTimer(0)
	defer next.Stop()
	var waitingSince time.Time // zero when no change waits
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
			if waitingSince.IsZero() {
				waitingSince = time.Now()
			}
			next.Reset(min(quiet, patience-time.Since(waitingSince)))
		case <-next.C:
			waitingSince = time.Time{}
			next.Reset(k.pass(ctx))
		}
	}
}

// pass makes the CNI configuration hold what the file says, and returns when to do so
// again.
func (k *cniKeeper) pass(ctx context.Context) time.Duration {
	relabelled := k.labels.look(ctx, k.log)
	k.observe(ctx, read(k.opts.inputs.path))
	if relabelled {
		k.held = false
	}
	effective, _ := k.force.On(k.labels.labels)
	exceptions, ipv6 := winbridge.Exceptions(effective)
	changes, wrote, err := winbridge.Update(k.opts.cniPath, exceptions)
	if err != nil {
		if k.failure != err.Error() {
			k.log.ErrorContext(ctx, "CNI configuration does not hold the list", "error", err)
		}
		k.failure = err.Error()
		k.retry = min(max(firstRetry, 2*k.retry), lastRetry, effective.Resync)
		return k.retry
	}
	k.failure, k.retry = "", 0
	switch {
	case wrote && k.held:
		k.log.WarnContext(ctx, "drift healed: something else had changed the CNI configuration", "file", k.opts.cniPath)
	case !k.held:
		k.log.InfoContext(ctx, "configuration applied", "file", k.opts.cniPath, "policies", len(changes), "written", wrote,
			"ranges", len(exceptions), "leftOut", texts(ipv6), "digest", k.digest(), "resyncInterval", effective.Resync.String())
	}
	k.held = true
	k.remember(ctx)
	return effective.Resync
}

// observe decides what is in force, after a look at the file.
func (k *cniKeeper) observe(ctx context.Context, now reading) {
	if k.seen != nil && k.seen.equal(now) {
		return
	}
	first := k.seen == nil
	k.seen = &now
	if now.missing {
		k.log.InfoContext(ctx, "no configuration file, so the defaults are in force", "config", k.opts.inputs.path)
		k.enforce(k.defaults(), nil)
		return
	}
	v := now.judge(k.opts.config)
	for _, p := range v.problems[:min(len(v.problems), maxTold)] {
		k.log.WarnContext(ctx, "problem in the configuration file", "severity", p.Severity.String(), "code", p.Code,
			"path", p.Path, "line", p.Line, "column", p.Column, "message", p.Message, "remedy", p.Remedy)
	}
	if !refused(v.problems) {
		k.enforce(v.config, now.text)
		return
	}
	if first {
		k.fallback(ctx)
	}
	k.log.ErrorContext(ctx, "configuration file refused", "config", k.opts.inputs.path, "digest", config.Digest(now.text), "inForceDigest", k.digest())
}

// fallback is in force when the file is refused before any text was valid: the last
// valid text of an earlier run, or else the defaults.
func (k *cniKeeper) fallback(ctx context.Context) {
	k.enforce(k.defaults(), nil)
	text, err := k.store.load()
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if v := judge(text, k.opts.config); err == nil && !refused(v.problems) {
		k.enforce(v.config, text)
		return
	}
	k.log.WarnContext(ctx, "last valid configuration ignored", "error", err)
}

func (k *cniKeeper) enforce(c config.Config, text []byte) { k.force, k.text, k.held = c, text, false }

// defaults are in force without a file. The flags cannot refuse them.
func (k *cniKeeper) defaults() config.Config {
	c, _ := config.Default().For(k.opts.config)
	return c
}

// digest names what is in force; it is empty for the defaults.
func (k *cniKeeper) digest() string {
	if k.text == nil {
		return ""
	}
	return config.Digest(k.text)
}

// remember keeps what is in force for a restart.
func (k *cniKeeper) remember(ctx context.Context) {
	var err error
	switch {
	case k.text != nil:
		err = k.store.save(k.text)
	case k.seen.missing:
		err = k.store.clear()
	}
	message := ""
	if err != nil {
		message = err.Error()
	}
	if message != "" && message != k.storeError {
		k.log.WarnContext(ctx, "configuration would not survive a restart with a bad file", "error", err)
	}
	k.storeError = message
}

func texts(prefixes []netip.Prefix) string {
	all := make([]string, len(prefixes))
	for i, p := range prefixes {
		all[i] = p.String()
	}
	return strings.Join(all, ",")
}
