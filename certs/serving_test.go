package certs

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// newReplica is a Serving that talks to nobody: tests tell it what its watches saw.
func newReplica(t *testing.T) *Serving {
	t.Helper()
	s, err := NewSelf(&rest.Config{Host: "https://nobody.invalid"}, Options{
		Namespace: "system", Secret: "kept", Configuration: "guard",
		Rotation: Rotation{Names: ServiceNames("guard", "system"), Propagation: time.Second},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func secretOf(t *testing.T, state State) *corev1.Secret {
	t.Helper()
	data, err := state.encode()
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{Data: data}
}

// configurationOf has two webhooks, which trust these CAs.
func configurationOf(states ...State) *admissionv1.ValidatingWebhookConfiguration {
	var caBundle []byte
	for _, state := range states {
		caBundle = append(caBundle, writeCertificates(state.certificates()...)...)
	}
	webhook := admissionv1.ValidatingWebhook{ClientConfig: admissionv1.WebhookClientConfig{CABundle: caBundle}}
	return &admissionv1.ValidatingWebhookConfiguration{Webhooks: []admissionv1.ValidatingWebhook{webhook, webhook}}
}

// TestServing tells a replica one thing after the other: it serves the newest that
// is trusted, never goes back to nothing, and is ready while it is trusted.
func TestServing(t *testing.T) {
	now := time.Now()
	first, second := chain(t, now, 0, 0, 0), chain(t, now, 0, 0, 0)
	const nothing = "no certificate yet that the API server trusts"
	const untrusted = "verifying the serving certificate against the caBundle: x509: certificate signed by unknown authority"
	s := newReplica(t)
	for _, tt := range []struct {
		name   string
		see    any // or nil: miss
		miss   any
		serves *State
		check  string // the beginning of the error
	}{
		{name: "a Secret", see: secretOf(t, first), check: nothing},
		{name: "a caBundle without it", see: configurationOf(), check: nothing},
		{name: "a caBundle with it", see: configurationOf(first), serves: &first},
		{name: "the next Secret", see: secretOf(t, second), serves: &first},
		{name: "a caBundle with both", see: configurationOf(first, second), serves: &second},
		{name: "a caBundle without it again", see: configurationOf(first), serves: &second, check: untrusted},
		{name: "a caBundle with the second", see: configurationOf(second), serves: &second},
		{name: "an unreadable Secret", see: &corev1.Secret{Data: map[string][]byte{"tls.crt": []byte("?")}}, serves: &second},
		{name: "no Secret", miss: cache.DeletedFinalStateUnknown{Obj: &corev1.Secret{}}, serves: &second},
		{name: "no configuration", miss: &admissionv1.ValidatingWebhookConfiguration{}, serves: &second, check: "the ValidatingWebhookConfiguration guard is not there"},
		{name: "a configuration without webhooks", see: &admissionv1.ValidatingWebhookConfiguration{}, serves: &second, check: "the ValidatingWebhookConfiguration guard is not there"},
	} {
		if tt.see != nil {
			s.see(t.Context(), tt.see)
		} else {
			s.miss(t.Context(), tt.miss)
		}
		served, err := s.GetCertificate(nil)
		switch {
		case tt.serves == nil && err == nil:
			t.Errorf("%s: a certificate is served", tt.name)
		case tt.serves != nil && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.serves != nil && !served.Leaf.Equal(tt.serves.Leaf):
			t.Errorf("%s: another certificate is served", tt.name)
		}
		if err := s.Check(nil); (err == nil) != (tt.check == "") || err != nil && !strings.HasPrefix(err.Error(), tt.check) {
			t.Errorf("%s: readiness %v, want %q", tt.name, err, tt.check)
		}
	}
}

func TestMetrics(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	state := chain(t, now, 0, 0, day)
	s := newReplica(t)
	s.see(t.Context(), secretOf(t, state))
	s.see(t.Context(), configurationOf(state))
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	got := map[string]float64{}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name := family.GetName()
			for _, label := range metric.GetLabel() {
				name += " " + label.GetValue()
			}
			got[name] = metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"ip_masq_guard_certificate_expiry_timestamp_seconds leaf": float64(now.Add(90 * day).Unix()),
		"ip_masq_guard_certificate_expiry_timestamp_seconds ca":   float64(now.Add(364 * day).Unix()),
		"ip_masq_guard_certificate_matches_ca_bundle":             1,
		"ip_masq_guard_certificate_leader":                        0,
		"ip_masq_guard_certificate_failures_total":                0,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %f (told: %t), want %f", name, value, ok, want)
		}
	}
}

// TestAuthorityKeyIsNotKept: a replica's memory of the Secret has no key of a CA.
func TestAuthorityKeyIsNotKept(t *testing.T) {
	secret := secretOf(t, chain(t, time.Now(), 0, 0, 0))
	kept, err := withoutAuthorityKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	if secret, ok := kept.(*corev1.Secret); !ok || secret.Data["ca.key"] != nil || secret.Data["tls.key"] == nil {
		t.Errorf("kept %v", kept)
	}
}
