package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"slices"
)

// Bundle is the live caBundle of a webhook configuration, one list of certificates
// for each of its webhooks. Nil is a configuration without webhooks.
type Bundle [][]*x509.Certificate

// NewBundle reads caBundles. Text that is no certificate is left out: an API server
// trusts nothing by it either.
func NewBundle(caBundles ...[]byte) Bundle {
	var bundle Bundle
	for _, text := range caBundles {
		bundle = append(bundle, readCertificates(text))
	}
	return bundle
}

// holds tells whether every webhook trusts this CA.
func (b Bundle) holds(ca *x509.Certificate) bool {
	for _, trusted := range b {
		if !slices.ContainsFunc(trusted, ca.Equal) {
			return false
		}
	}
	return len(b) > 0
}

// is tells whether every webhook trusts these CAs and no other.
func (b Bundle) is(cas []*x509.Certificate) bool {
	for _, trusted := range b {
		for _, ca := range trusted {
			if !slices.ContainsFunc(cas, ca.Equal) {
				return false
			}
		}
	}
	return !slices.ContainsFunc(cas, func(ca *x509.Certificate) bool { return !b.holds(ca) })
}

// all are the CAs that any webhook trusts, each once.
func (b Bundle) all() []*x509.Certificate {
	var all []*x509.Certificate
	for _, trusted := range b {
		for _, ca := range trusted {
			if !slices.ContainsFunc(all, ca.Equal) {
				all = append(all, ca)
			}
		}
	}
	return all
}

// readCertificates reads PEM text as x509.CertPool does, in order.
func readCertificates(text []byte) []*x509.Certificate {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != certificateBlock || len(block.Headers) > 0 {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			certs = append(certs, cert)
		}
	}
	return certs
}

// writeCertificates is PEM text in this order.
func writeCertificates(certs ...*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, cert := range certs {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: cert.Raw}))
	}
	return text.Bytes()
}
