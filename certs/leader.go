package certs

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

const (
	// Times of the Lease, as Kubernetes' own components have them: another replica
	// takes over at most leaseDuration and retryPeriod after the leader's last sign.
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second

	// pause is the least time between two steps of a leader.
	pause = 100 * time.Millisecond

	// lookAgain is the longest time between them: a clock may have been set.
	lookAgain = time.Hour

	// The wait after a failed step doubles from the first to the last.
	firstRetry = time.Second
	lastRetry  = 30 * time.Second

	// fieldManager owns the caBundle in managedFields.
	fieldManager = "ip-masq-guard-certs"

	// The Secret carries this annotation, so that another's is never overwritten.
	ownAnnotation = "ip-masq-guard.io/certs"
	ownValue      = "self"
)

// campaign leads whenever this replica can have the Lease, until ctx ends.
func (s *Serving) campaign(ctx context.Context) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown" // the other half makes it unique
	}
	identity := host + "_" + string(uuid.NewUUID())
	var leading sync.Mutex // a term begins when the one before has ended
	for ctx.Err() == nil {
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Namespace: s.opts.Namespace, Name: s.opts.Secret},
				Client:     s.leases,
				LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
			},
			LeaseDuration:   leaseDuration,
			RenewDeadline:   renewDeadline,
			RetryPeriod:     retryPeriod,
			ReleaseOnCancel: true,
			Name:            s.opts.Secret,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) {
					leading.Lock()
					defer leading.Unlock()
					s.lead(ctx)
				},
				OnStoppedLeading: func() {},
			},
		})
		if err != nil { // only for times that do not fit together
			s.log.LogAttrs(ctx, slog.LevelError, "certificates not led", slog.String("err", err.Error()))
			return
		}
		elector.Run(ctx)
	}
	leading.Lock() // wait for its end
	defer leading.Unlock()
}

// lead takes steps until ctx ends. A leader that does not know yet that it has been
// followed by another does no harm: each write says what it is based on.
func (s *Serving) lead(ctx context.Context) {
	s.log.LogAttrs(ctx, slog.LevelInfo, "leading the certificates")
	s.leading.Set(1)
	defer s.leading.Set(0)
	var seen sightings
	start, retry := time.Now(), firstRetry
	for ctx.Err() == nil {
		wait, err := s.step(ctx, &seen, start)
		switch {
		case err == nil:
			retry = firstRetry
		case ctx.Err() != nil:
			return
		case apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err):
			s.log.LogAttrs(ctx, slog.LevelDebug, "certificates changed by somebody else", slog.String("err", err.Error()))
		default:
			s.failures.Inc()
			s.log.LogAttrs(ctx, slog.LevelError, "certificates not kept", slog.String("err", err.Error()), slog.Duration("retry", retry))
			wait, retry = retry, min(2*retry, lastRetry)
		}
		if !sleep(ctx, pause, nil) || !sleep(ctx, min(wait, lookAgain), s.changed) {
			return
		}
	}
}

// sleep waits for a time or, before it, a wake-up, and tells whether ctx is alive.
func sleep(ctx context.Context, wait time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-wake:
	}
	return true
}

// step looks at both objects, decides and writes, and returns after how long to
// look again. It reads from the API server, not from the watch, which may be behind
// its own last write.
func (s *Serving) step(ctx context.Context, seen *sightings, start time.Time) (time.Duration, error) {
	secret, state, err := s.readState(ctx)
	if err != nil {
		return 0, err
	}
	configuration, err := s.configurations.Get(ctx, s.opts.Configuration, metav1.GetOptions{})
	if err != nil {
		return 0, fmt.Errorf("reading the webhook configuration: %w", err)
	}
	bundle := NewBundle(caBundles(configuration)...)
	if len(bundle) == 0 {
		return 0, fmt.Errorf("reading the webhook configuration: %s has no webhooks", configuration.Name)
	}
	step, err := s.opts.Next(View{
		State: state, Bundle: bundle, Now: time.Now(),
		Seen: seen.look(state, bundle, time.Since(start)),
	})
	switch {
	case err != nil:
		return 0, err
	case step.State != nil:
		err = s.writeState(ctx, secret, *step.State)
	case step.Bundle != nil:
		err = s.writeBundle(ctx, configuration, writeCertificates(step.Bundle...))
	case step.Reason != "":
		s.log.LogAttrs(ctx, slog.LevelWarn, "certificates wait", slog.String("reason", step.Reason))
		return step.Wait, nil
	default:
		return step.Wait, nil
	}
	if err != nil {
		return 0, err
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "certificates changed", slog.String("reason", step.Reason),
		slog.Bool("secret", step.State != nil), slog.Bool("caBundle", step.Bundle != nil))
	return 0, nil
}

// readState reads the Secret; nil when there is none. One that cannot be read is
// begun anew, unless it belongs to somebody else.
func (s *Serving) readState(ctx context.Context) (*corev1.Secret, State, error) {
	secret, err := s.secrets.Get(ctx, s.opts.Secret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, State{}, nil
	}
	if err != nil {
		return nil, State{}, fmt.Errorf("reading the Secret: %w", err)
	}
	if len(secret.Data) > 0 && secret.Annotations[ownAnnotation] != ownValue {
		return nil, State{}, fmt.Errorf("reading the Secret: %s holds data and no annotation %s: %s, so it is another's; name another one, or remove its data",
			secret.Name, ownAnnotation, ownValue)
	}
	request := Request(secret.Annotations[RotateAnnotation])
	switch request {
	case "", RotateLeaf, RotateCA, Revoke, revoking:
	default:
		s.log.LogAttrs(ctx, slog.LevelWarn, "rotation not understood: want leaf, ca or revoke", slog.String("annotation", string(request)))
		request = ""
	}
	state, err := decodeState(secret.Data, request)
	if err != nil {
		s.log.LogAttrs(ctx, slog.LevelError, "Secret not readable: its content is issued anew", slog.String("err", err.Error()))
	}
	return secret, state, nil
}

// writeState makes the Secret hold state, if it is still as it was read.
func (s *Serving) writeState(ctx context.Context, was *corev1.Secret, state State) error {
	data, err := state.encode()
	if err != nil {
		return fmt.Errorf("writing the Secret: %w", err)
	}
	if was == nil {
		_, err = s.secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Name:        s.opts.Secret,
				Labels:      map[string]string{"app.kubernetes.io/managed-by": "ip-masq-guard"},
				Annotations: annotationsOf(nil, state.Request),
			},
			Data: data,
		}, metav1.CreateOptions{FieldManager: fieldManager})
	} else {
		secret := was.DeepCopy()
		secret.Annotations = annotationsOf(secret.Annotations, state.Request)
		for _, key := range []string{leafCertKey, leafKeyKey, authoritiesKey, authorityKey, untilKey} {
			delete(secret.Data, key)
		}
		if secret.Data == nil {
			secret.Data = map[string][]byte{}
		}
		maps.Copy(secret.Data, data)
		_, err = s.secrets.Update(ctx, secret, metav1.UpdateOptions{FieldManager: fieldManager})
	}
	if err != nil {
		return fmt.Errorf("writing the Secret: %w", err)
	}
	return nil
}

// annotationsOf are those of a Secret with this request.
func annotationsOf(annotations map[string]string, request Request) map[string]string {
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[ownAnnotation] = ownValue
	if request == "" {
		delete(annotations, RotateAnnotation)
	} else {
		annotations[RotateAnnotation] = string(request)
	}
	return annotations
}

// writeBundle makes every webhook of the configuration trust these CAs, if it is
// still as it was read. It names no field but caBundle.
func (s *Serving) writeBundle(ctx context.Context, was *admissionv1.ValidatingWebhookConfiguration, caBundle []byte) error {
	type clientConfig struct {
		CABundle []byte `json:"caBundle"`
	}
	type webhook struct {
		Name         string       `json:"name"` // by which a strategic merge finds it
		ClientConfig clientConfig `json:"clientConfig"`
	}
	var patch struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Webhooks []webhook `json:"webhooks"`
	}
	patch.Metadata.ResourceVersion = was.ResourceVersion
	for i := range was.Webhooks {
		patch.Webhooks = append(patch.Webhooks, webhook{Name: was.Webhooks[i].Name, ClientConfig: clientConfig{CABundle: caBundle}})
	}
	text, err := json.Marshal(patch)
	if err == nil {
		_, err = s.configurations.Patch(ctx, was.Name, types.StrategicMergePatchType, text, metav1.PatchOptions{FieldManager: fieldManager})
	}
	if err != nil {
		return fmt.Errorf("writing the caBundle: %w", err)
	}
	return nil
}
