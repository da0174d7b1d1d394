//go:build !windows

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

const (
	defaultChain = "IP-MASQ-AGENT" // the upstream agent's

	// The agent shares its node's ports. 9178 lies outside what kubelet, kube-proxy
	// and the control plane use (102xx), the usual network plugins (909x, 42xx, 98xx,
	// 99xx, 102xx, 103xx, 6167x), node-exporter (9100), NodePort services
	// (30000-32767) and ephemeral ports (32768 and up).
	defaultMetricsAddress = ":9178"
	noAddress             = "0" // as in Kubernetes' own programs

	// As many CIDRs as a file may have unless it says otherwise, so that people see rules
	// where they have always seen them.
	defaultSetThreshold = 64
)

// options are the flags, as values.
type options struct {
	config         config.Options
	rules          ruleset.Options
	toPorts        string // as given, for the log
	configPath     string
	configDir      string // of several files, instead of configPath; may be empty
	labelsPath     string // empty: the node has no labels that overrides could ask for
	expectedDigest string // the file that holds it; empty: none
	stateDir       string // empty: the last valid configuration is in memory only
	metricsAddress string // "0": none
	mechanism      mechanism
	iptables       iptables.Backend
	watchKernel    bool
	logLevel       slog.Level

	flushConntrack bool
	cleanupOnExit  bool

	once, dryRun, version, help bool
}

// source is where the configuration is, for people.
func (o options) source() string {
	if o.configDir != "" {
		return o.configDir
	}
	return o.configPath
}

// read reads the configuration.
func (o options) read() reading {
	if o.configDir != "" {
		return readDirectory(o.configDir)
	}
	return read(o.configPath)
}

// families are those whose rules this agent holds; the others' it leaves alone.
func (o options) families() []ruleset.Family {
	if o.config.IPv6 {
		return []ruleset.Family{ruleset.IPv4, ruleset.IPv6}
	}
	return []ruleset.Family{ruleset.IPv4}
}

func (o options) inputs() inputs { return inputs{o.configPath, o.configDir, o.labelsPath} }

// parseFlags reads and checks the command line. A usageError tells everything that
// is wrong, a line each.
func parseFlags(args []string) (options, error) {
	return parseWith(args, pflag.NewFlagSet("", pflag.ContinueOnError))
}

// parseWith is parseFlags with more flags.
func parseWith(args []string, more *pflag.FlagSet) (options, error) {
	opts := options{}
	raw := rawFlags{}
	flags := raw.flagSet(&opts)
	flags.AddFlagSet(more)
	if err := flags.Parse(twoDashes(args)); err != nil {
		return options{}, usageError{fmt.Errorf("%w; --help lists the flags", err)}
	}
	if opts.help || opts.version {
		return opts, nil
	}
	raw.configPathSet = flags.Changed("config-path")
	var errs []error
	if extra := flags.Args(); len(extra) > 0 {
		errs = append(errs, fmt.Errorf("%q is no flag and no command (%s, as the first word); values of switches are written --flag=value",
			extra[0], commandNames()))
	}
	errs = append(errs, raw.check(&opts)...)
	if len(errs) > 0 {
		return options{}, usageError{errors.Join(errs...)}
	}
	return opts, nil
}

// rawFlags are the flags whose text is checked after parsing, so that all that is
// wrong is told at once.
type rawFlags struct {
	mechanism, iptables        string
	logLevel                   string
	sourceCIDRs, outInterfaces string
	configPathSet              bool // --config-path was given
}

// groups of the help text.
const (
	groupRules = iota
	groupMore
	groupSource
	groupRun
	groupCount
)

// group is a titled part of the help text.
type group struct {
	title string
	flags *pflag.FlagSet
}

func (r *rawFlags) groups(o *options) [groupCount]group {
	var groups [groupCount]group
	for i, title := range [groupCount]string{
		"Rules (as the upstream agent's)", "Rules beyond the upstream agent's", "Configuration", "Running",
	} {
		groups[i] = group{title, pflag.NewFlagSet(title, pflag.ContinueOnError)}
		groups[i].flags.SortFlags = false
	}

	rules := groups[groupRules].flags
	rules.StringVar(&o.rules.Chain, "masq-chain", defaultChain, "`name` of the nat chain that holds the rules; on GKE: IP-MASQ")
	rules.BoolVar(&o.config.ReservedRanges, "nomasq-all-reserved-ranges", false,
		"without a list in the file, spare every reserved IPv4 range, not only RFC 1918")
	rules.BoolVar(&o.config.IPv6, "enable-ipv6", false, "hold IPv6 rules too, and accept IPv6 CIDRs in the file")
	rules.BoolVar(&o.rules.RandomFully, "random-fully", true, "let the kernel choose source ports at random")
	rules.StringVar(&o.toPorts, "to-ports", "", "masquerade to these source `ports`: 1024-29999,32768-65535")

	more := groups[groupMore].flags
	more.StringVar(&r.sourceCIDRs, "source-cidrs", "",
		"masquerade packets from these `CIDRs` only, such as the pods': 10.244.0.0/16,fd00:10:244::/48")
	more.StringVar(&r.outInterfaces, "out-interfaces", "",
		"masquerade packets that leave by interfaces of these `names` only: eth0,bond+")
	more.BoolVar(&o.rules.SpareMulticast, "nomasq-multicast", false, "spare multicast destinations too: 224.0.0.0/4, ff00::/8")

	more.IntVar(&o.rules.SetThreshold, "set-threshold", defaultSetThreshold,
		"visible `rules` that the list may be, in each IP version; a longer one becomes an ipset; 0: any one does")

	source := groups[groupSource].flags
	source.StringVar(&o.configPath, "config-path", defaultConfigPath, "`file` to read; a missing one means the defaults")
	source.StringVar(&o.stateDir, "state-dir", "",
		"`directory` that keeps the last valid configuration over restarts (default: memory only)")
	source.StringVar(&o.configDir, "config-dir", "",
		"`directory` whose files with names that begin with ip-masq are merged, instead of --config-path (default: none)")
	source.StringVar(&o.labelsPath, "node-labels-file", "",
		"`file` with the labels of this node, for nodeOverrides in the configuration: key=\"value\", a line each (default: none)")
	source.StringVar(&o.expectedDigest, "expected-digest-file", "",
		"`file` with the SHA-256 of the configuration that has to be applied for /readyz to succeed; missing or empty: any")

	run := groups[groupRun].flags
	run.BoolVar(&o.once, "once", false, "apply the file once and exit: 0 applied, 1 file or kernel refuses")
	run.BoolVar(&o.dryRun, "dry-run", false, "print what would be restored and exit; needs no privilege")
	run.StringVar(&r.mechanism, "backend", string(byIPTables), "iptables, nftables (a table of its own) or auto, which joins what kube-proxy uses")
	run.StringVar(&r.iptables, "iptables-backend", string(iptables.Auto), "auto, nft or legacy; auto joins what the node's kubelet and kube-proxy use")
	run.BoolVar(&o.watchKernel, "watch-kernel", true,
		"heal at once what others change, when the kernel tells it; it tells nothing with the legacy backend")
	run.StringVar(&o.metricsAddress, "metrics-bind-address", defaultMetricsAddress,
		"`address` of /metrics, /status, /healthz and /readyz; 0 switches them off")
	run.BoolVar(&o.flushConntrack, "flush-conntrack", false,
		"after a change of the list, make flows of the changed ranges follow it; else they keep their source address until they end")
	run.BoolVar(&o.cleanupOnExit, "cleanup-on-exit", false, "remove the rules when stopped by SIGTERM or SIGINT; else they stay")
	run.StringVar(&r.logLevel, "log-level", "info", "debug, info, warn or error")
	run.BoolVar(&o.version, "version", false, "print the version and exit")
	run.BoolVarP(&o.help, "help", "h", false, "print this text and exit")
	return groups
}

func (r *rawFlags) flagSet(o *options) *pflag.FlagSet {
	all := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	all.Usage = func() {}
	for _, group := range r.groups(o) {
		all.AddFlagSet(group.flags)
	}
	addIgnored(all)
	return all
}

// addIgnored accepts the logging flags of glog and klog, which manifests for the
// upstream agent pass; the log here is always JSON on standard error.
func addIgnored(flags *pflag.FlagSet) {
	for _, name := range []string{
		"add_dir_header", "alsologtostderr", "logtostderr", "one_output", "skip_headers", "skip_log_headers",
	} {
		flags.Bool(name, false, "")
	}
	for _, name := range []string{
		"log-flush-frequency", "log_backtrace_at", "log_dir", "log_file", "log_file_max_size", "logging-format",
		"stderrthreshold", "v", "vmodule",
	} {
		flags.String(name, "", "")
	}
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
}

// check turns texts into values and tells what cannot work.
func (r *rawFlags) check(o *options) []error {
	var errs []error
	wrong := func(flag, value string, err error) {
		errs = append(errs, fmt.Errorf("--%s=%q: %w", flag, value, err))
	}
	if err := ruleset.CheckChain(o.rules.Chain); err != nil {
		errs = append(errs, fmt.Errorf("--masq-chain: %w", err))
	}
	ports, err := ruleset.ParsePorts(o.toPorts)
	if err != nil {
		errs = append(errs, fmt.Errorf("--to-ports: %w", err))
	}
	o.rules.ToPorts = ports
	errs = append(errs, r.checkMatches(o)...)
	o.rules.Sets = true
	if n := o.rules.SetThreshold; n < 0 || n > ruleset.MaxSetThreshold {
		errs = append(errs, fmt.Errorf("--set-threshold=%d: not in bounds; write a number from 0, always an ipset, to %d, never one", n, ruleset.MaxSetThreshold))
	}
	if o.cleanupOnExit && o.once {
		wrong("cleanup-on-exit", "true", errors.New("with --once the rules are to stay; use one of the two"))
	}
	if o.flushConntrack && o.once {
		wrong("flush-conntrack", "true", errors.New("only an agent that runs on sees a change; leave it out with --once"))
	}
	if o.configDir != "" && r.configPathSet {
		wrong("config-dir", o.configDir, errors.New("--config-path is given as well; use one of the two"))
	}
	if o.configPath == "" || strings.HasSuffix(o.configPath, "/") {
		wrong("config-path", o.configPath, errors.New("not a file's path; name the file itself, as in "+defaultConfigPath))
	}
	switch o.mechanism = mechanism(r.mechanism); o.mechanism {
	case byIPTables, byNFTables, byWhatever:
	default:
		wrong("backend", r.mechanism, errors.New("unknown backend; write iptables, nftables or auto"))
	}
	switch o.iptables = iptables.Backend(r.iptables); o.iptables {
	case iptables.Auto, iptables.NFT, iptables.Legacy:
	default:
		wrong("iptables-backend", r.iptables, errors.New("unknown backend; write auto, nft or legacy"))
	}
	if err := checkAddress(o.metricsAddress); err != nil {
		wrong("metrics-bind-address", o.metricsAddress, err)
	}
	if err := o.logLevel.UnmarshalText([]byte(r.logLevel)); err != nil {
		wrong("log-level", r.logLevel, errors.New("unknown level; write debug, info, warn or error"))
	}
	return errs
}

// checkMatches reads what limits masquerading to some packets.
func (r *rawFlags) checkMatches(o *options) []error {
	var errs []error
	sources, err := ruleset.ParseSources(r.sourceCIDRs)
	if err != nil {
		errs = append(errs, fmt.Errorf("--source-cidrs: %w", err))
	}
	for _, source := range sources {
		if source.Addr().Is6() && !o.config.IPv6 {
			errs = append(errs, fmt.Errorf("--source-cidrs: %s is IPv6, whose rules this agent does not hold; add --enable-ipv6 or leave it out", source))
			break
		}
	}
	interfaces, err := ruleset.ParseInterfaces(r.outInterfaces)
	if err != nil {
		errs = append(errs, fmt.Errorf("--out-interfaces: %w", err))
	}
	o.rules.Sources, o.rules.Interfaces = sources, interfaces
	return errs
}

func checkAddress(address string) error {
	if address == noAddress {
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("not host:port: %w; write :9178, 127.0.0.1:9178, [::1]:9178, or 0 for none", err)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q is no port; write a number from 1 to 65535, as in %s", port, defaultMetricsAddress)
	}
	return nil
}

func helpText() string {
	var b strings.Builder
	b.WriteString(`The ip-masq-guard agent holds the masquerade rules of one node: it reads the mounted
ip-masq-agent configuration, keeps the last valid one in force while the file is bad, and
heals the kernel's rules when they drift. Stopping it leaves the rules in place, unless
--cleanup-on-exit is given.

Usage:
  agent [flags]
`)
	for _, c := range commands() {
		fmt.Fprintf(&b, "  agent %-18s %s\n", c.name+" [flags]", c.summary)
	}
	b.WriteString(`
Examples:
  # What would this file do? Prints the input of iptables-restore; any user may run it.
  agent --dry-run --config-path ./ip-masq-agent

  # Apply the file once, as an init container or by hand.
  agent --once --config-path ./ip-masq-agent

  # Run as on a GKE node, whose own chain is called IP-MASQ.
  agent --masq-chain=IP-MASQ --nomasq-all-reserved-ranges --state-dir=/var/lib/ip-masq-guard
`)
	for _, group := range (&rawFlags{}).groups(&options{}) {
		fmt.Fprintf(&b, "\n%s:\n%s", group.title, group.flags.FlagUsages())
	}
	b.WriteString(`
Exit status: 0 done or stopped by a signal; 1 the file or the kernel refuses (--once, --dry-run),
or the agent cannot start; 2 wrong usage.
`)
	return b.String()
}
