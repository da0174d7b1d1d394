// Package main is the webhook: it serves AdmissionReviews of one ConfigMap over
// HTTPS and answers them with the decision of policy. It runs no process and
// touches no kernel; what it knows of the cluster it reads from params and, unless
// it stands alone, from the API server.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/ip-masq-guard/ip-masq-guard/certs"
	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = "dev"

// stopTimeout bounds the wait for running requests after the drain. Both together
// stay below the 30 s that a pod has by default.
const stopTimeout = 15 * time.Second

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if err := run(context.Background(), os.Args[1:], process{os.Stdout, os.Stderr, signals, adoptLoggers}); err != nil {
		fmt.Fprintln(os.Stderr, "webhook:", err)
		os.Exit(1)
	}
}

// process is what belongs to the process as a whole.
type process struct {
	stdout, stderr io.Writer // help and version; logs
	signals        <-chan os.Signal
	adoptLoggers   func(slog.Handler) // makes libraries log there; their loggers are global
}

// run serves until a signal arrives and the drain is over, or ctx ends, or a part
// fails.
func run(ctx context.Context, args []string, p process) error {
	opts, err := parseFlags(args, p.stdout)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return nil
	case err != nil:
		return fmt.Errorf("reading the flags: %w", err)
	case opts.version:
		_, err = fmt.Fprintln(p.stdout, version)
		return err
	case opts.probe:
		return probe(ctx, opts, p.stdout)
	case opts.await != "":
		return awaitDaemonSet(ctx, opts, p.stdout)
	}
	logHandler := slog.NewJSONHandler(p.stderr, &slog.HandlerOptions{Level: opts.logLevel})
	log := slog.New(logHandler)
	p.adoptLoggers(logHandler)

	limit := limitMemory(os.DirFS("/"))

	params, sources, err := readPolicy(opts)
	if err != nil {
		return err
	}
	engine, err := policy.New(ctx, params, sources)
	if err != nil {
		return err
	}
	log.LogAttrs(ctx, slog.LevelInfo, "starting", slog.String("version", version), slog.String("revision", engine.Revision()),
		slog.Int("customRuleFiles", len(sources)), slog.Int64("memoryLimit", limit), slog.Bool("standalone", opts.standalone))
	own := newMetrics(version, engine.Revision())
	if err = ctrlmetrics.Registry.Register(own); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	defer ctrlmetrics.Registry.Unregister(own)

	cluster, err := restConfig(opts)
	if err != nil {
		return err
	}
	certificate, err := serving(opts, cluster, log)
	if err != nil {
		return err
	}
	if err = ctrlmetrics.Registry.Register(certificate); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	defer ctrlmetrics.Registry.Unregister(certificate)
	timeout := stopTimeout
	started := time.Now().UTC()
	rulesState := func() *rulesState {
		return &rulesState{Revision: engine.Revision(), Since: started, Sets: []setStatus{}}
	}
	mgr, err := manager.New(cluster, manager.Options{
		Logger: logr.FromSlogHandler(logHandler),
		Cache:  cacheOptions(),
		Metrics: metricsserver.Options{BindAddress: opts.metrics, ExtraHandlers: map[string]http.Handler{
			"/status": statusHandler(func() status { return status{Version: version, Rules: *rulesState()} }),
		}},
		HealthProbeBindAddress:  opts.health,
		GracefulShutdownTimeout: &timeout,
		WebhookServer: ctrlwebhook.NewServer(ctrlwebhook.Options{
			Host: opts.bindAddress,
			Port: opts.port,
			TLSOpts: []func(*tls.Config){func(config *tls.Config) {
				config.MinVersion = tls.VersionTLS13
				config.NextProtos = []string{"http/1.1"} // all that the API server speaks to a Service
				config.GetCertificate = certificate.GetCertificate
			}},
		}),
	})
	if err != nil {
		return fmt.Errorf("preparing the servers: %w", err)
	}

	configured := clusterRanges{
		node:    policy.RangesFrom(params.Cluster.Node, "params"),
		pod:     policy.RangesFrom(params.Cluster.Pod, "params"),
		service: policy.RangesFrom(params.Cluster.Service, "params"),
	}
	watch := newClusterWatch(configured, mgr.GetCache(), own, log)
	own.countRanges("params", configured)
	if opts.standalone {
		watch.current.Store(prepared(configured))
	} else if err := mgr.Add(watch); err != nil {
		return fmt.Errorf("adding the cluster watch: %w", err)
	}
	var draining atomic.Bool
	answering := func(r reviewer, deciding int) *handler {
		return &handler{
			reviewer: r, metrics: own, log: log, draining: &draining,
			held: make(slots, maxHeld), deciding: make(slots, deciding),
		}
	}
	judge := &guard{target: opts.target, decider: engine, cluster: watch.Cluster, metrics: own, log: log}
	if opts.decisions.to != "" {
		decisions, err := newDecisionLog(opts, p.stdout, own, log)
		if err != nil {
			return err
		}
		if err := mgr.Add(decisions); err != nil {
			return fmt.Errorf("adding the decision log: %w", err)
		}
		judge.decisions = decisions
	}
	ready := map[string]healthz.Checker{
		"serving":     mgr.GetWebhookServer().StartedChecker(),
		"certificate": certificate.Check,
		"ranges": func(*http.Request) error {
			if watch.Cluster() == nil {
				return errors.New("the cluster's ranges are not read yet")
			}
			return nil
		},
		"draining": func(*http.Request) error {
			if draining.Load() {
				return errors.New("asked to stop")
			}
			return nil
		},
	}
	if !opts.standalone {
		access, err := authorizationclient.NewForConfig(cluster)
		if err != nil {
			return fmt.Errorf("preparing access reviews: %w", err)
		}
		judge.bypass = accessReviews{access.SubjectAccessReviews()}
	}
	if opts.ruleSets {
		sets, maps, err := ruleSets(opts, cluster, params, sources, engine, own, log)
		if err != nil {
			return err
		}
		if err := mgr.Add(sets); err != nil {
			return fmt.Errorf("adding the rule sets: %w", err)
		}
		judge.decider = sets
		judge.cluster = func() *policy.Cluster {
			if !sets.built.Load() {
				return nil // a decision without the cluster's own rules would be too kind
			}
			return watch.Cluster()
		}
		rulesState = sets.state.Load
		ready["rules"] = sets.ready
		// One vetting at a time: it compiles every rule and runs tests.
		mgr.GetWebhookServer().Register("/validate-rules", answering(&vetter{
			rules: sets, target: opts.target, live: maps, cluster: watch.Cluster, metrics: own, log: log,
		}, 1))
	}
	mgr.GetWebhookServer().Register("/validate", answering(judge, runtime.GOMAXPROCS(0)))
	return serve(ctx, mgr, certificate, ready, func(ctx context.Context) { drain(ctx, p.signals, opts.drain, &draining, log) })
}

// serve runs the manager until it fails, ctx ends, or untilStopped returns.
func serve(ctx context.Context, mgr manager.Manager, certificate *certs.Serving, ready map[string]healthz.Checker, untilStopped func(context.Context)) error {
	if err := mgr.Add(certificate); err != nil {
		return fmt.Errorf("adding the certificate: %w", err)
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("adding the health check: %w", err)
	}
	for name, check := range ready {
		if err := mgr.AddReadyzCheck(name, check); err != nil {
			return fmt.Errorf("adding the readiness check %s: %w", name, err)
		}
	}
	// controller-runtime closes its listener when its context ends, so the context
	// ends only after the drain.
	serving, stop := context.WithCancel(ctx)
	var stopper sync.WaitGroup
	stopper.Go(func() {
		defer stop()
		untilStopped(serving)
	})
	defer stopper.Wait()
	defer stop()
	if err := mgr.Start(serving); err != nil {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

// accountNamespace is where a pod finds its own namespace.
const accountNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// serving prepares the serving certificate, from files or of the webhook's own.
func serving(opts options, cluster *rest.Config, log *slog.Logger) (*certs.Serving, error) {
	settings := certs.Options{
		Secret:        opts.certs.secret,
		Configuration: opts.certs.configuration,
		Rotation:      certs.Rotation{Propagation: opts.certs.propagation},
	}
	if opts.certs.service != "" {
		var err error
		if settings.Namespace, err = ownNamespace(opts); err != nil {
			return nil, err
		}
		settings.Names = certs.ServiceNames(opts.certs.service, settings.Namespace, opts.certs.names...)
	}
	if opts.certs.mode == certsFiles {
		return certs.NewFiles(opts.certDir, cluster, settings, log)
	}
	return certs.NewSelf(cluster, settings, log)
}

// ownNamespace is that of the flags, or else the pod's.
func ownNamespace(opts options) (string, error) {
	if opts.certs.namespace != "" {
		return opts.certs.namespace, nil
	}
	own, err := os.ReadFile(accountNamespace)
	if err != nil {
		return "", fmt.Errorf("looking for the pod's namespace: %w (outside a pod, use --namespace)", err)
	}
	return strings.TrimSpace(string(own)), nil
}

// ruleSets prepares the watch of rule sets, and gives the client that it uses.
func ruleSets(opts options, cluster *rest.Config, params policy.Params, fixed []policy.Source, engine *policy.Engine,
	own *metrics, log *slog.Logger,
) (*ruleWatch, coreclient.ConfigMapsGetter, error) {
	namespace, err := ownNamespace(opts)
	if err != nil {
		return nil, nil, err
	}
	client, err := coreclient.NewForConfig(cluster)
	if err != nil {
		return nil, nil, fmt.Errorf("preparing the watch of rule sets: %w", err)
	}
	store := ruleStore{client: client.ConfigMaps(namespace), namespace: namespace, kept: opts.ruleSetsKept}
	return newRuleWatch(params, fixed, engine, store, own, log), client, nil
}

// readPolicy reads the params and the custom rules.
func readPolicy(opts options) (policy.Params, []policy.Source, error) {
	var params policy.Params
	if opts.params != "" {
		text, err := os.ReadFile(opts.params)
		if err != nil {
			return params, nil, fmt.Errorf("reading --params: %w", err)
		}
		if params, err = policy.ParseParams(text); err != nil {
			return params, nil, fmt.Errorf("--params %s: %w", opts.params, err)
		}
	}
	sources, err := policy.ReadSources(opts.policyDirs...)
	return params, sources, err
}

// restConfig tells how to reach the API server. Standing alone still takes a
// manager, which serves, but one that cannot dial: nothing of it asks the API
// server without an informer.
func restConfig(opts options) (*rest.Config, error) {
	if opts.standalone {
		return &rest.Config{
			Host: "https://standalone.invalid",
			Dial: func(context.Context, string, string) (net.Conn, error) {
				return nil, errors.New("standing alone, by --standalone")
			},
		}, nil
	}
	if opts.kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("reading the service account: %w (outside a pod, use --kubeconfig or --standalone)", err)
		}
		return config, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", opts.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading --kubeconfig: %w", err)
	}
	return config, nil
}

// adoptLoggers lets the libraries log where the webhook logs: controller-runtime,
// client-go and, for TLS handshakes that fail, net/http.
func adoptLoggers(handler slog.Handler) {
	ctrllog.SetLogger(logr.FromSlogHandler(handler))
	klog.SetSlogLogger(slog.New(handler))
	stdlog.SetFlags(0)
	stdlog.SetOutput(slog.NewLogLogger(handler, slog.LevelDebug).Writer())
}
