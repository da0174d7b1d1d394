package main

import (
	"fmt"
	"io"
	"time"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	metav1 "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	kubemetav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Names of the chain's objects in their namespace.
const (
	selfSigned = "ip-masq-guard-selfsigned" // Issuer of the CA
	authority  = "ip-masq-guard-ca"         // Certificate, its Secret, and the Issuer that signs with it
	serving    = "ip-masq-guard-webhook"    // Certificate that is served, and its Secret
)

// writeManifests writes what cert-manager mode asks of cert-manager: a CA that signs
// itself, and a serving certificate of it for a Service, which may have further IP
// addresses. Lifetimes are those of the webhook's own certificates.
func writeManifests(to io.Writer, namespace, service string, addresses ...string) error {
	meta := func(name string) kubemetav1.ObjectMeta {
		return kubemetav1.ObjectMeta{Name: name, Namespace: namespace}
	}
	kind := func(name string) kubemetav1.TypeMeta {
		return kubemetav1.TypeMeta{APIVersion: certmanagerv1.SchemeGroupVersion.String(), Kind: name}
	}
	days := func(n time.Duration) *kubemetav1.Duration { return &kubemetav1.Duration{Duration: n * 24 * time.Hour} }
	key := func(policy certmanagerv1.PrivateKeyRotationPolicy) *certmanagerv1.CertificatePrivateKey {
		return &certmanagerv1.CertificatePrivateKey{Algorithm: certmanagerv1.ECDSAKeyAlgorithm, Size: 256, RotationPolicy: policy}
	}
	full := service + "." + namespace + ".svc"
	for _, object := range []any{
		&certmanagerv1.Issuer{
			TypeMeta: kind(certmanagerv1.IssuerKind), ObjectMeta: meta(selfSigned),
			Spec: certmanagerv1.IssuerSpec{IssuerConfig: certmanagerv1.IssuerConfig{SelfSigned: &certmanagerv1.SelfSignedIssuer{}}},
		},
		&certmanagerv1.Certificate{
			TypeMeta: kind(certmanagerv1.CertificateKind), ObjectMeta: meta(authority),
			Spec: certmanagerv1.CertificateSpec{
				IsCA: true, CommonName: "ip-masq-guard CA", SecretName: authority,
				Duration: days(365), RenewBefore: days(122),
				// The cainjector replaces the caBundle at once, while mounted files follow
				// within two minutes: only a CA that keeps its key verifies both.
				PrivateKey: key(certmanagerv1.RotationPolicyNever),
				IssuerRef:  metav1.IssuerReference{Name: selfSigned, Kind: certmanagerv1.IssuerKind},
			},
		},
		&certmanagerv1.Issuer{
			TypeMeta: kind(certmanagerv1.IssuerKind), ObjectMeta: meta(authority),
			Spec: certmanagerv1.IssuerSpec{IssuerConfig: certmanagerv1.IssuerConfig{CA: &certmanagerv1.CAIssuer{SecretName: authority}}},
		},
		&certmanagerv1.Certificate{
			TypeMeta: kind(certmanagerv1.CertificateKind), ObjectMeta: meta(serving),
			Spec: certmanagerv1.CertificateSpec{
				SecretName: serving, Duration: days(90), RenewBefore: days(30), PrivateKey: key(certmanagerv1.RotationPolicyAlways),
				DNSNames: []string{full, full + ".cluster.local"}, IPAddresses: addresses,
				Usages:    []certmanagerv1.KeyUsage{certmanagerv1.UsageServerAuth, certmanagerv1.UsageDigitalSignature},
				IssuerRef: metav1.IssuerReference{Name: authority, Kind: certmanagerv1.IssuerKind},
			},
		},
	} {
		text, err := yaml.Marshal(object)
		if err != nil {
			return fmt.Errorf("writing the manifests: %w", err)
		}
		if _, err := fmt.Fprintf(to, "---\n%s", text); err != nil {
			return fmt.Errorf("writing the manifests: %w", err)
		}
	}
	return nil
}
