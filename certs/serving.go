package certs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	admissionclient "k8s.io/client-go/kubernetes/typed/admissionregistration/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
)

// Options name the objects that certificates are kept in and told to.
type Options struct {
	Namespace     string // of the Secret and the Lease
	Secret        string // the Lease has its name too
	Configuration string // the ValidatingWebhookConfiguration; empty with files: nothing to compare with
	Rotation
}

// Serving is the serving certificate of this replica, and, unless it comes from
// files, the work of keeping it fresh. It is a manager.Runnable for every replica
// and a prometheus.Collector; its methods may be called at any time.
type Serving struct {
	opts           Options
	secrets        coreclient.SecretInterface
	configurations admissionclient.ValidatingWebhookConfigurationInterface // nil: not compared
	leases         coordinationclient.LeasesGetter
	files          *certwatcher.CertWatcher // nil: the Secret tells
	log            *slog.Logger
	changed        chan struct{} // of size one: the leader has something to look at

	mu     sync.Mutex
	served *tls.Certificate
	newest *tls.Certificate // of the Secret
	bundle Bundle

	leading  prometheus.Gauge
	failures prometheus.Counter
}

// NewSelf makes a Serving that issues certificates itself, into a Secret, together
// with the other replicas.
func NewSelf(config *rest.Config, opts Options, log *slog.Logger) (*Serving, error) {
	s := newServing(opts, log)
	core, err := coreclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("preparing the certificates: %w", err)
	}
	s.secrets = core.Secrets(opts.Namespace)
	// A renewal that hangs must not cost the Lease.
	impatient := rest.CopyConfig(config)
	impatient.Timeout = renewDeadline / 2
	if s.leases, err = coordinationclient.NewForConfig(impatient); err != nil {
		return nil, fmt.Errorf("preparing the certificates: %w", err)
	}
	return s, s.compareWith(config)
}

// NewFiles makes a Serving of the files tls.crt and tls.key in directory, which it
// reads again when they change. With opts.Configuration it compares them with the
// caBundle, and never writes that.
func NewFiles(directory string, config *rest.Config, opts Options, log *slog.Logger) (*Serving, error) {
	s := newServing(opts, log)
	var err error
	if s.files, err = certwatcher.New(filepath.Join(directory, "tls.crt"), filepath.Join(directory, "tls.key")); err != nil {
		return nil, fmt.Errorf("loading the certificate: %w", err)
	}
	if opts.Configuration == "" {
		return s, nil
	}
	return s, s.compareWith(config)
}

func newServing(opts Options, log *slog.Logger) *Serving {
	return &Serving{
		opts: opts, log: log, changed: make(chan struct{}, 1),
		leading: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ip_masq_guard_certificate_leader",
			Help: "1 for the replica that renews the certificates.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ip_masq_guard_certificate_failures_total",
			Help: "Steps of keeping the certificates that failed and are tried again.",
		}),
	}
}

func (s *Serving) compareWith(config *rest.Config) error {
	client, err := admissionclient.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("preparing the certificates: %w", err)
	}
	s.configurations = client.ValidatingWebhookConfigurations()
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every replica has to
// serve. Which of them renews is settled by a Lease of its own, since a manager that
// loses its own ends the process, and with it the answers to reviews.
func (*Serving) NeedLeaderElection() bool { return false }

// Start watches what to serve, and renews it while this replica leads, until ctx
// ends.
func (s *Serving) Start(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	if s.configurations != nil {
		parts.Go(func() { s.follow(ctx, s.configurationWatch(), &admissionv1.ValidatingWebhookConfiguration{}) })
	}
	if s.files != nil {
		return s.files.Start(ctx)
	}
	parts.Go(func() { s.follow(ctx, s.secretWatch(), &corev1.Secret{}) })
	parts.Go(func() { s.campaign(ctx) })
	// A certificate may have to wait for this clock.
	again := time.NewTicker(time.Minute)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
			s.update(ctx, func() {})
		}
	}
}

// secretWatch is the one Secret, and nothing else that RBAC would have to grant.
func (s *Serving) secretWatch() *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = named(s.opts.Secret)
			return s.secrets.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = named(s.opts.Secret)
			return s.secrets.Watch(ctx, options)
		},
	}
}

// configurationWatch is the one webhook configuration.
func (s *Serving) configurationWatch() *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = named(s.opts.Configuration)
			return s.configurations.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = named(s.opts.Configuration)
			return s.configurations.Watch(ctx, options)
		},
	}
}

func named(name string) string {
	return fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
}

// follow sees every change of an object until ctx ends.
func (s *Serving) follow(ctx context.Context, source *cache.ListWatch, kind runtime.Object) {
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: source,
		ObjectType:    kind,
		Transform:     withoutAuthorityKey,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(object any) { s.see(ctx, object) },
			UpdateFunc: func(_, object any) { s.see(ctx, object) },
			DeleteFunc: func(object any) { s.miss(ctx, object) },
		},
	})
	informer.RunWithContext(ctx)
}

// withoutAuthorityKey is a transform: only the leader reads the CA's key, and only
// for the step that it takes.
func withoutAuthorityKey(object any) (any, error) {
	if secret, ok := object.(*corev1.Secret); ok {
		delete(secret.Data, authorityKey)
		secret.ManagedFields = nil
	}
	return object, nil
}

// see takes in what an object says now.
func (s *Serving) see(ctx context.Context, object any) {
	switch object := object.(type) {
	case *corev1.Secret:
		newest, err := decodeLeaf(object.Data)
		if err != nil {
			s.log.LogAttrs(ctx, slog.LevelError, "certificate of the Secret not readable", slog.String("err", err.Error()))
		}
		s.update(ctx, func() { s.newest = newest })
	case *admissionv1.ValidatingWebhookConfiguration:
		bundle := NewBundle(caBundles(object)...)
		s.update(ctx, func() { s.bundle = bundle })
	}
}

// miss takes in that an object is gone. What is served stays.
func (s *Serving) miss(ctx context.Context, object any) {
	if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = gone.Obj
	}
	switch object.(type) {
	case *corev1.Secret:
		s.update(ctx, func() { s.newest = nil })
	case *admissionv1.ValidatingWebhookConfiguration:
		s.update(ctx, func() { s.bundle = nil })
	}
}

// caBundles are those of all webhooks of a configuration.
func caBundles(configuration *admissionv1.ValidatingWebhookConfiguration) [][]byte {
	var bundles [][]byte
	for i := range configuration.Webhooks {
		bundles = append(bundles, configuration.Webhooks[i].ClientConfig.CABundle)
	}
	return bundles
}

// update changes what is known, serves accordingly, and wakes the leader.
func (s *Serving) update(ctx context.Context, change func()) {
	s.mu.Lock()
	change()
	before := s.served
	s.served = choose(s.served, s.newest, s.bundle, s.name(), time.Now())
	after := s.served
	s.mu.Unlock()
	if after != nil && (before == nil || !before.Leaf.Equal(after.Leaf)) {
		s.log.LogAttrs(ctx, slog.LevelInfo, "serving a certificate",
			slog.String("serial", after.Leaf.SerialNumber.Text(16)), slog.Time("expires", after.Leaf.NotAfter))
	}
	select {
	case s.changed <- struct{}{}:
	default: // it is going to look anyway
	}
}

// name is what an API server asks for; empty where nobody said so.
func (s *Serving) name() string {
	if len(s.opts.Names.DNS) == 0 {
		return ""
	}
	return s.opts.Names.DNS[0]
}

// GetCertificate is for tls.Config. It fails until there is a certificate that the
// API server trusts.
func (s *Serving) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if s.files != nil {
		return s.files.GetCertificate(hello)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.served == nil {
		return nil, errors.New("no certificate yet that the API server trusts")
	}
	return s.served, nil
}

// current is what is served, or nil, and the caBundle.
func (s *Serving) current() (*x509.Certificate, Bundle) {
	cert, err := s.GetCertificate(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		return nil, s.bundle
	}
	return cert.Leaf, s.bundle
}

// Check is a readiness check: it tells why an API server could not accept what this
// replica serves. Certificates from files without a configuration to compare them
// with are taken as they are.
func (s *Serving) Check(*http.Request) error {
	leaf, bundle := s.current()
	switch {
	case leaf == nil:
		return errors.New("no certificate yet that the API server trusts")
	case s.configurations == nil:
		return nil
	case bundle == nil:
		return fmt.Errorf("the ValidatingWebhookConfiguration %s is not there, or not read yet", s.opts.Configuration)
	}
	return verify(leaf, bundle, s.name(), time.Now())
}

//nolint:gochecknoglobals // descriptions are constants that Go cannot write as such
var (
	expiryDesc = prometheus.NewDesc("ip_masq_guard_certificate_expiry_timestamp_seconds",
		"Unix time at which a certificate ends: the one that is served (leaf), and the one of the caBundle that signed it (ca).",
		[]string{"certificate"}, nil)
	matchDesc = prometheus.NewDesc("ip_masq_guard_certificate_matches_ca_bundle",
		"1 when the caBundle of the webhook configuration verifies the certificate that is served.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *Serving) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- expiryDesc
	descriptions <- matchDesc
	s.leading.Describe(descriptions)
	s.failures.Describe(descriptions)
}

// Collect implements prometheus.Collector.
func (s *Serving) Collect(values chan<- prometheus.Metric) {
	leaf, bundle := s.current()
	if leaf != nil {
		values <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, float64(leaf.NotAfter.Unix()), "leaf")
		if ca := signer(leaf, bundle); ca != nil {
			values <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, float64(ca.NotAfter.Unix()), "ca")
		}
	}
	if s.configurations != nil {
		matches := 0.0
		if s.Check(nil) == nil {
			matches = 1
		}
		values <- prometheus.MustNewConstMetric(matchDesc, prometheus.GaugeValue, matches)
	}
	if s.files == nil {
		s.leading.Collect(values)
		s.failures.Collect(values)
	}
}

// signer is the CA of the bundle that signed leaf; of several with one key, the one
// that lasts longest.
func signer(leaf *x509.Certificate, bundle Bundle) *x509.Certificate {
	cas := slices.DeleteFunc(bundle.all(), func(ca *x509.Certificate) bool {
		return !bytes.Equal(leaf.RawIssuer, ca.RawSubject) || leaf.CheckSignatureFrom(ca) != nil
	})
	if len(cas) == 0 {
		return nil
	}
	return slices.MaxFunc(cas, func(a, b *x509.Certificate) int { return cmp.Compare(a.NotAfter.Unix(), b.NotAfter.Unix()) })
}
