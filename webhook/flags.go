package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"
)

// options are the flags, valid.
type options struct {
	bindAddress string
	port        int
	certDir     string
	kubeconfig  string
	params      string
	policyDirs  []string
	standalone  bool
	target      target
	metrics     string
	health      string
	drain       time.Duration
	logLevel    slog.Level
	version     bool
}

const usage = `Usage: webhook --cert-dir DIR [flags]

Serves a validating admission webhook that judges writes of the ip-masq-agent
ConfigMap, at https://HOST:PORT/validate.

`

// parseFlags reads the command line; every wrong flag is told at once. Help is
// written to help, with the error pflag.ErrHelp.
func parseFlags(args []string, help io.Writer) (options, error) {
	var opts options
	logLevel := ""
	flags := pflag.NewFlagSet("webhook", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.SetOutput(io.Discard)
	flags.StringVar(&opts.bindAddress, "bind-address", "", "`IP` address to serve on; empty means every address")
	flags.IntVar(&opts.port, "port", 10250, "TCP port to serve on; control planes of private GKE clusters reach 10250, but not 8443 or 9443")
	flags.StringVar(&opts.certDir, "cert-dir", "", "`directory` with tls.crt and tls.key, which are read again when they change")
	flags.StringVar(&opts.params, "params", "", "`file` of params (YAML): cluster ranges, agent flags, actions and bounds of rules")
	flags.StringArrayVar(&opts.policyDirs, "policy-dir", nil, "`directory` whose *.rego files are custom rules; may be given more than once")
	flags.StringVar(&opts.target.namespace, "configmap-namespace", "kube-system", "`namespace` of the ConfigMap that is judged")
	flags.StringVar(&opts.target.name, "configmap-name", "ip-masq-agent", "`name` of the ConfigMap that is judged")
	flags.StringVar(&opts.kubeconfig, "kubeconfig", "", "kubeconfig `file` for reading Nodes and ServiceCIDRs; empty means the pod's service account")
	flags.BoolVar(&opts.standalone, "standalone", false, "do not talk to an API server: cluster ranges are those of the params")
	flags.StringVar(&opts.metrics, "metrics-bind-address", ":8080", "`address` for /metrics (HTTP); 0 switches it off")
	flags.StringVar(&opts.health, "health-probe-bind-address", ":8081", "`address` for /healthz and /readyz (HTTP); 0 switches them off")
	flags.DurationVar(&opts.drain, "drain", 10*time.Second, "how long to go on serving, not ready, after the first SIGTERM")
	flags.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	flags.BoolVar(&opts.version, "version", false, "print the version and exit")
	flags.Usage = func() {
		_, _ = io.WriteString(help, usage+"Flags:\n"+flags.FlagUsagesWrapped(100)) // nothing can be done about an error here
	}

	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	if opts.version {
		return opts, nil
	}
	var wrong []error
	if flags.NArg() > 0 {
		wrong = append(wrong, fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	}
	if err := opts.logLevel.UnmarshalText([]byte(logLevel)); err != nil {
		wrong = append(wrong, fmt.Errorf("--log-level %q: want debug, info, warn or error", logLevel))
	}
	return opts, errors.Join(append(wrong, opts.check()...)...)
}

// check tells what is wrong with the values.
func (o options) check() []error {
	var wrong []error
	if o.certDir == "" {
		wrong = append(wrong, errors.New("--cert-dir is missing: the API server speaks only HTTPS to webhooks"))
	}
	if o.bindAddress != "" {
		if _, err := netip.ParseAddr(o.bindAddress); err != nil {
			wrong = append(wrong, fmt.Errorf("--bind-address %q: want an IP address", o.bindAddress))
		}
	}
	if o.port < 1 || o.port > 65535 {
		wrong = append(wrong, fmt.Errorf("--port %d: want 1 to 65535", o.port))
	}
	for _, name := range []struct{ flag, value string }{{"metrics-bind-address", o.metrics}, {"health-probe-bind-address", o.health}} {
		if err := checkAddress(name.value); err != nil {
			wrong = append(wrong, fmt.Errorf("--%s %q: %w", name.flag, name.value, err))
		}
	}
	if problems := validation.IsDNS1123Label(o.target.namespace); len(problems) > 0 {
		wrong = append(wrong, fmt.Errorf("--configmap-namespace %q: %s", o.target.namespace, problems[0]))
	}
	if problems := validation.IsDNS1123Subdomain(o.target.name); len(problems) > 0 {
		wrong = append(wrong, fmt.Errorf("--configmap-name %q: %s", o.target.name, problems[0]))
	}
	if o.standalone && o.kubeconfig != "" {
		wrong = append(wrong, errors.New("--standalone and --kubeconfig exclude each other"))
	}
	if o.drain < 0 {
		wrong = append(wrong, fmt.Errorf("--drain %s: want zero or more", o.drain))
	}
	return wrong
}

// checkAddress tells why a listener cannot have this address; 0 means no listener.
func checkAddress(address string) error {
	if address == "0" {
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return errors.New("want HOST:PORT, :PORT or 0")
	}
	if number, err := strconv.Atoi(port); err != nil || number < 0 || number > 65535 {
		return fmt.Errorf("port %q: want 0 to 65535", port)
	}
	return nil
}
