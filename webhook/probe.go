package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1 "k8s.io/client-go/applyconfigurations/core/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
)

const (
	// canary loads nowhere, whoever reads it, and no params allow that.
	canary = "nonMasqueradeCIDRs:\n- 198.15.5.0/33\n"

	// probeTimeout bounds the whole probe. Right after an installation no replica may
	// be ready, or the caBundle not be there yet.
	probeTimeout = time.Minute
	probePause   = 2 * time.Second

	// webhookName is what the API server calls the webhook when it says who refused.
	webhookName = "validate.ip-masq-guard.io"
)

// errOpen says that the gate is open: a retry would not close it.
var errOpen = errors.New("the API server took a configuration that does not load, so nothing judges writes of it: " +
	"look whether the ValidatingWebhookConfiguration is there, selects the namespace and has failurePolicy Fail")

// probe writes the canary as a dry run, and succeeds if the webhook refuses it. It
// tries again while there is no answer of the webhook, for at most probeTimeout.
func probe(ctx context.Context, opts options, stdout io.Writer) error {
	config, err := restConfig(opts)
	if err != nil {
		return err
	}
	client, err := coreclient.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("preparing the probe: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	for {
		refusal, err := tryCanary(ctx, client, opts.target)
		if err == nil {
			_, err = fmt.Fprintf(stdout, "refused, as it has to be:\n%s\n", refusal)
			return err
		}
		if !passing(err) {
			return fmt.Errorf("probing: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("probing for %s: %w", probeTimeout, err)
		case <-time.After(probePause):
		}
	}
}

// tryCanary returns what the webhook said, or why it was not the webhook that
// answered.
func tryCanary(ctx context.Context, client coreclient.ConfigMapsGetter, where target) (string, error) {
	// Server-side apply makes the object if it is not there, so one request serves for
	// both cases, and RBAC can restrict it to the name.
	object := corev1.ConfigMap(where.name, where.namespace).WithData(map[string]string{"config": canary})
	_, err := client.ConfigMaps(where.namespace).Apply(ctx, object, metav1.ApplyOptions{
		DryRun: []string{metav1.DryRunAll}, Force: true, FieldManager: "ip-masq-guard-probe",
	})
	if err == nil {
		return "", errOpen
	}
	// A webhook that nobody reached is named as well, but as the cause of a failure.
	if status, ok := errors.AsType[*apierrors.StatusError](err); ok && status.ErrStatus.Code == http.StatusUnprocessableEntity &&
		strings.Contains(err.Error(), fmt.Sprintf("admission webhook %q denied the request", webhookName)) {
		return err.Error(), nil
	}
	return "", err
}

// passing tells whether an error may pass by itself: nobody answered yet.
func passing(err error) bool {
	return apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err) ||
		apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err)
}
