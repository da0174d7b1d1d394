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
	bindAddress  string
	port         int
	certDir      string
	certs        certOptions
	kubeconfig   string
	params       string
	policyDirs   []string
	ruleSets     bool
	ruleSetsKept string
	standalone   bool
	target       target
	metrics      string
	health       string
	drain        time.Duration
	logLevel     slog.Level
	decisions    decisionOptions
	probe        bool
	await        string // a DaemonSet
	version      bool
}

// certOptions tell where the serving certificate comes from.
type certOptions struct {
	mode          string // certsSelf or certsFiles
	namespace     string // empty: the pod's
	secret        string
	service       string
	names         []string // beside those of the service
	configuration string
	propagation   time.Duration
}

// decisionOptions tell where decisions are logged.
type decisionOptions struct {
	to   string // "stdout", or a file; empty: nowhere
	full bool
	size int // MiB
	kept int
}

// Modes of certificates.
const (
	certsSelf  = "self"
	certsFiles = "files"
)

const usage = `Usage: webhook --certs-service NAME --webhook-configuration NAME [flags]
       webhook --cert-dir DIR [flags]
       webhook --probe [flags]
       webhook --await-daemonset NAME [flags]

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
	flags.StringVar(&opts.certs.mode, "certs-mode", "", "`mode` of the serving certificate: self issues it and tells the API server of its CA, files reads --cert-dir (default files with --cert-dir, self without)")
	flags.StringVar(&opts.certs.secret, "certs-secret", "ip-masq-guard-certs", "`name` of the Secret, and of the Lease beside it, that self keeps certificates in")
	flags.StringVar(&opts.certs.service, "certs-service", "", "`name` of the Service that the certificate is for")
	flags.StringArrayVar(&opts.certs.names, "certs-name", nil, "further DNS `name` or IP address for self's certificate, for an API server that does not go by the Service; may be given more than once")
	flags.StringVar(&opts.certs.configuration, "webhook-configuration", "", "`name` of the ValidatingWebhookConfiguration whose caBundle self writes, and readiness compares the certificate with")
	flags.StringVar(&opts.certs.namespace, "namespace", "", "`namespace` of the Service, the Secret and the Lease; empty means the pod's")
	flags.DurationVar(&opts.certs.propagation, "certs-propagation", 30*time.Second, "how long an API server may go by a caBundle, or a replica by a Secret, that has changed")
	flags.StringVar(&opts.params, "params", "", "`file` of params (YAML): cluster ranges, agent flags, actions and bounds of rules")
	flags.StringArrayVar(&opts.policyDirs, "policy-dir", nil, "`directory` whose *.rego, data.json and params.yaml files are custom rules; may be given more than once")
	flags.BoolVar(&opts.ruleSets, "rule-sets", false, "take custom rules from ConfigMaps with the label "+ruleLabel+"="+ruleLabelValue+" in --namespace, as they change, and judge writes of them at /validate-rules")
	flags.StringVar(&opts.ruleSetsKept, "rule-sets-kept", "ip-masq-guard-rule-sets", "`name` of the ConfigMap in --namespace that keeps the rule sets in force over a restart; it has to exist")
	flags.StringVar(&opts.target.namespace, "configmap-namespace", "kube-system", "`namespace` of the ConfigMap that is judged")
	flags.StringVar(&opts.target.name, "configmap-name", "ip-masq-agent", "`name` of the ConfigMap that is judged")
	flags.StringVar(&opts.kubeconfig, "kubeconfig", "", "kubeconfig `file` for the API server; empty means the pod's service account")
	flags.BoolVar(&opts.standalone, "standalone", false, "do not talk to an API server: cluster ranges are those of the params")
	flags.StringVar(&opts.metrics, "metrics-bind-address", ":8080", "`address` for /metrics (HTTP); 0 switches it off")
	flags.StringVar(&opts.health, "health-probe-bind-address", ":8081", "`address` for /healthz and /readyz (HTTP); 0 switches them off")
	flags.DurationVar(&opts.drain, "drain", 10*time.Second, "how long to go on serving, not ready, after the first SIGTERM")
	flags.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&opts.decisions.to, "decision-log", "", "log every decision as a line of JSON, in the shape of OPA's decision logs: `stdout`, or a file")
	flags.BoolVar(&opts.decisions.full, "decision-log-full", false, "log the texts of configurations too, which kubectl masq replay needs; otherwise digests stand for them")
	flags.IntVar(&opts.decisions.size, "decision-log-max-size", 100, "`MiB` that the file may have before it is renamed to FILE.1")
	flags.IntVar(&opts.decisions.kept, "decision-log-kept", 3, "how many of the renamed files stay")
	flags.BoolVar(&opts.probe, "probe", false, "serve nothing: ask the API server to write a bad ConfigMap, as a dry run, and exit; 0: the webhook refused it")
	flags.StringVar(&opts.await, "await-daemonset", "", "serve nothing: wait until a pod of the DaemonSet of this `name`, in --configmap-namespace, is ready on every node that it is for, and exit")
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
	if opts.certs.mode == "" && opts.certDir != "" {
		opts.certs.mode = certsFiles
	}
	return opts, errors.Join(append(wrong, opts.check()...)...)
}

// check tells what is wrong with the values.
func (o options) check() []error {
	var wrong []error
	if !o.probe && o.await == "" {
		wrong = o.checkCerts()
	}
	if problems := validation.IsDNS1123Subdomain(o.await); o.await != "" && len(problems) > 0 {
		wrong = append(wrong, fmt.Errorf("--await-daemonset %q: %s", o.await, problems[0]))
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
	if o.standalone && o.ruleSets {
		wrong = append(wrong, errors.New("--standalone and --rule-sets exclude each other"))
	}
	if o.standalone && o.probe {
		wrong = append(wrong, errors.New("--standalone and --probe exclude each other"))
	}
	if o.await != "" && (o.probe || o.standalone) {
		wrong = append(wrong, errors.New("--await-daemonset goes with neither --probe nor --standalone"))
	}
	if o.standalone && o.kubeconfig != "" {
		wrong = append(wrong, errors.New("--standalone and --kubeconfig exclude each other"))
	}
	if o.decisions.size < 1 || o.decisions.size > 1<<20 {
		wrong = append(wrong, fmt.Errorf("--decision-log-max-size %d: want 1 to %d", o.decisions.size, 1<<20))
	}
	if o.decisions.kept < 0 || o.decisions.kept > 1000 {
		wrong = append(wrong, fmt.Errorf("--decision-log-kept %d: want 0 to 1000", o.decisions.kept))
	}
	if o.decisions.full && o.decisions.to == "" {
		wrong = append(wrong, errors.New("--decision-log-full without --decision-log"))
	}
	if o.drain < 0 {
		wrong = append(wrong, fmt.Errorf("--drain %s: want zero or more", o.drain))
	}
	return wrong
}

// checkCerts tells what is wrong with where the certificate comes from.
func (o options) checkCerts() []error {
	var wrong []error
	missing := func(flag, why string) {
		wrong = append(wrong, fmt.Errorf("--%s is missing: %s", flag, why))
	}
	switch o.certs.mode {
	case certsFiles:
		if o.certDir == "" {
			missing("cert-dir", "--certs-mode=files reads the certificate there")
		}
	case "", certsSelf:
		switch {
		case o.standalone:
			missing("cert-dir", "--standalone cannot issue certificates itself (--certs-mode=self), since the API server keeps them")
		case o.certs.mode == "" && o.certs.service == "" && o.certs.configuration == "":
			missing("cert-dir", "the API server speaks only HTTPS to webhooks; without certificate files, name --certs-service and --webhook-configuration")
		default:
			if o.certDir != "" {
				wrong = append(wrong, errors.New("--certs-mode=self and --cert-dir exclude each other"))
			}
			if o.certs.service == "" {
				missing("certs-service", "--certs-mode=self issues the certificate for it")
			}
			if o.certs.configuration == "" {
				missing("webhook-configuration", "--certs-mode=self writes the CA into it")
			}
		}
	default:
		wrong = append(wrong, fmt.Errorf("--certs-mode %q: want self or files", o.certs.mode))
	}
	if o.standalone && o.certs.mode == certsFiles && o.certs.configuration != "" {
		wrong = append(wrong, errors.New("--standalone and --webhook-configuration exclude each other"))
	}
	for _, name := range []struct {
		flag, value string
		problems    func(string) []string
	}{
		{"certs-secret", o.certs.secret, validation.IsDNS1123Subdomain},
		{"certs-service", o.certs.service, validation.IsDNS1123Label},
		{"namespace", o.certs.namespace, validation.IsDNS1123Label},
		{"rule-sets-kept", o.ruleSetsKept, validation.IsDNS1123Subdomain},
		{"webhook-configuration", o.certs.configuration, validation.IsDNS1123Subdomain},
	} {
		if problems := name.problems(name.value); name.value != "" && len(problems) > 0 {
			wrong = append(wrong, fmt.Errorf("--%s %q: %s", name.flag, name.value, problems[0]))
		}
	}
	for _, name := range o.certs.names {
		if _, err := netip.ParseAddr(name); err == nil {
			continue
		}
		if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
			wrong = append(wrong, fmt.Errorf("--certs-name %q: want an IP address or a DNS name: %s", name, problems[0]))
		}
	}
	if o.certs.secret == "" {
		missing("certs-secret", "it was given without a name")
	}
	if o.certs.propagation < time.Second {
		wrong = append(wrong, fmt.Errorf("--certs-propagation %s: want at least 1s", o.certs.propagation))
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
