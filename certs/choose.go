package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// choose tells what a replica serves: the newest leaf as soon as it is trusted by
// the caBundle as this replica sees it, and until then what it has served so far,
// which was trusted once. Nil is no certificate: handshakes fail.
func choose(served, newest *tls.Certificate, bundle Bundle, name string, now time.Time) *tls.Certificate {
	if newest != nil && verify(newest.Leaf, bundle, name, now) == nil {
		return newest
	}
	return served
}

// verify tells why an API server would not accept this certificate.
func verify(leaf *x509.Certificate, bundle Bundle, name string, now time.Time) error {
	if len(bundle) == 0 {
		return errors.New("verifying the serving certificate: the configuration has no webhooks")
	}
	for _, trusted := range bundle {
		roots := x509.NewCertPool()
		for _, ca := range trusted {
			roots.AddCert(ca)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: now}); err != nil {
			return fmt.Errorf("verifying the serving certificate against the caBundle: %w", err)
		}
	}
	return nil
}
