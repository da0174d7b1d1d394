// Package main runs the parts of cert-manager that a self-signed chain needs,
// against the API server of a kubeconfig: the controllers of Issuers, Certificates
// and CertificateRequests, and the cainjector for webhook configurations. They are
// cert-manager's own, from its Go module; it publishes no main packages there.
//
//	certmanager --kubeconfig FILE                 runs until it is killed
//	certmanager manifests NAMESPACE SERVICE IP... prints what the webhook asks of it
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	cmscheme "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned/scheme"
	"github.com/cert-manager/cert-manager/pkg/controller"
	"github.com/cert-manager/cert-manager/pkg/controller/cainjector"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	"github.com/cert-manager/cert-manager/pkg/controller/issuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"         // registers what issuers looks up
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned" // likewise
	"k8s.io/apimachinery/pkg/runtime"
	kubescheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2/textlogger"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// controllers are those that a chain of a self-signed CA and what it signs needs.
func controllers() []string {
	return []string{
		issuers.ControllerName,
		trigger.ControllerName, keymanager.ControllerName, requestmanager.ControllerName,
		issuing.ControllerName, readiness.ControllerName, revisionmanager.ControllerName,
		approver.ControllerName, selfsigned.CRControllerName, ca.CRControllerName,
	}
}

func main() {
	// controller-runtime has a flag of this name in the global set.
	flags := flag.NewFlagSet("certmanager", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig `file` of a cluster administrator")
	err := flags.Parse(os.Args[1:])
	switch args := flags.Args(); {
	case err != nil:
	case len(args) >= 3 && args[0] == "manifests":
		err = writeManifests(os.Stdout, args[1], args[2], args[3:]...)
	default:
		err = run(ctrl.SetupSignalHandler(), *kubeconfig)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "certmanager:", err)
		os.Exit(1)
	}
}

// run runs everything until ctx ends or a part fails.
func run(ctx context.Context, kubeconfig string) error {
	ctrl.SetLogger(textlogger.NewLogger(textlogger.NewConfig()))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var parts sync.WaitGroup
	for _, start := range []func(context.Context, string) error{runControllers, runInjector} {
		parts.Go(func() {
			if err := start(ctx, kubeconfig); err != nil {
				cancel(err)
			}
		})
	}
	parts.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// runControllers runs what issues certificates.
func runControllers(ctx context.Context, kubeconfig string) error {
	factory, err := controller.NewContextFactory(ctx, controller.ContextOptions{
		Kubeconfig:       kubeconfig,
		KubernetesAPIQPS: 50, KubernetesAPIBurst: 100,
		CertificateOptions: controller.CertificateOptions{
			CertificateRequestMinimumBackoffDuration: time.Second,
			CertificateRequestMaximumBackoffDuration: time.Minute,
		},
	})
	if err != nil {
		return fmt.Errorf("preparing the controllers: %w", err)
	}
	known := controller.Known()
	running := make([]controller.Interface, 0, len(controllers()))
	for _, name := range controllers() {
		construct, ok := known[name]
		if !ok {
			return fmt.Errorf("preparing the controllers: none is called %q", name)
		}
		one, failure := construct(factory)
		if failure != nil {
			return fmt.Errorf("preparing the controller %s: %w", name, failure)
		}
		running = append(running, one)
	}
	shared, err := factory.Build()
	if err != nil {
		return fmt.Errorf("preparing the informers: %w", err)
	}
	shared.SharedInformerFactory.Start(ctx.Done())
	shared.KubeSharedInformerFactory.Start(ctx.Done())

	errs := make([]error, len(running))
	var group sync.WaitGroup
	for i, one := range running {
		group.Go(func() { errs[i] = one.Run(2, ctx) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// runInjector runs what writes CAs into webhook configurations.
func runInjector(ctx context.Context, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("preparing the cainjector: %w", err)
	}
	config.UserAgent = "cert-manager-cainjector" // its server-side applies are by this field manager
	scheme := runtime.NewScheme()
	if err = errors.Join(kubescheme.AddToScheme(scheme), cmscheme.AddToScheme(scheme)); err != nil {
		return fmt.Errorf("preparing the cainjector: %w", err)
	}
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                 scheme,
		Metrics:                server.Options{BindAddress: "0"},
		HealthProbeBindAddress: "0",
	})
	if err != nil {
		return fmt.Errorf("preparing the cainjector: %w", err)
	}
	if err := cainjector.RegisterAllInjectors(ctx, manager, cainjector.SetupOptions{
		EnableCertificatesDataSource: true,
		EnabledReconcilersFor:        map[string]bool{cainjector.ValidatingWebhookConfigurationName: true},
	}); err != nil {
		return fmt.Errorf("preparing the cainjector: %w", err)
	}
	return manager.Start(ctx)
}
