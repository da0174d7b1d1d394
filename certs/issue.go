package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Names are what a serving certificate is for.
type Names struct {
	DNS []string // the first is the one that readiness asks for
	IP  []netip.Addr
}

// ServiceNames are the names of a Service, with those of extra, which are DNS names
// or IP addresses. API servers ask a Service-backed webhook for NAME.NAMESPACE.svc;
// cluster.local is the usual domain and does no harm where it is another.
func ServiceNames(service, namespace string, extra ...string) Names {
	full := service + "." + namespace + ".svc"
	names := Names{DNS: []string{full, full + ".cluster.local", service + "." + namespace, service}}
	for _, name := range extra {
		if address, err := netip.ParseAddr(name); err == nil {
			names.IP = append(names.IP, address.Unmap())
		} else {
			names.DNS = append(names.DNS, name)
		}
	}
	return names
}

// on tells whether leaf is for exactly these names.
func (n Names) on(leaf *x509.Certificate) bool {
	sameIP := func(a netip.Addr, b net.IP) bool {
		address, ok := netip.AddrFromSlice(b)
		return ok && address.Unmap() == a
	}
	return slices.Equal(n.DNS, leaf.DNSNames) && slices.EqualFunc(n.IP, leaf.IPAddresses, sameIP)
}

// issueCA makes a CA of its own.
func issueCA(now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	template := &x509.Certificate{
		// The date tells people the CAs of a caBundle apart; programs go by the key.
		Subject:               pkix.Name{Organization: []string{"ip-masq-guard"}, CommonName: "ip-masq-guard CA of " + now.UTC().Format("2006-01-02 15:04:05")},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	cert, key, err := sign(template, nil, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("issuing a CA: %w", err)
	}
	return cert, key, nil
}

// issueLeaf makes a serving certificate, which does not outlive its CA.
func issueLeaf(names Names, ca *x509.Certificate, caKey *ecdsa.PrivateKey, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	if len(names.DNS) == 0 {
		return nil, nil, errors.New("issuing a serving certificate: no name")
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"ip-masq-guard"}, CommonName: "ip-masq-guard webhook"}, // nobody compares names with it
		NotBefore:             now.Add(-skew),
		NotAfter:              earlier(now.Add(leafLife), ca.NotAfter),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:              names.DNS,
	}
	for _, address := range names.IP {
		template.IPAddresses = append(template.IPAddresses, address.AsSlice())
	}
	leaf, key, err := sign(template, ca, caKey)
	if err != nil {
		return nil, nil, fmt.Errorf("issuing a serving certificate: %w", err)
	}
	return leaf, key, nil
}

// sign makes a key and its certificate, signed by parent or, without one, by itself.
func sign(template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	// 128 random bits; RFC 5280 asks for uniqueness and at most 20 octets.
	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, nil, fmt.Errorf("choosing a serial number: %w", err)
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, nil, fmt.Errorf("signing: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("reading what was signed: %w", err)
	}
	return cert, key, nil
}

// renewal is when two thirds of a certificate's life are over.
func renewal(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 3 * 2)
}

// due tells whether a certificate has to be replaced. One that is not valid yet was
// made by a clock that was wrong.
func due(cert *x509.Certificate, now time.Time) bool {
	return now.Before(cert.NotBefore) || !now.Before(renewal(cert))
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
