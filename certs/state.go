package certs

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Keys of the Secret. The first three are what cert-manager and kubernetes.io/tls
// call so.
const (
	leafCertKey    = "tls.crt"  // PEM of the serving certificate
	leafKeyKey     = "tls.key"  // PEM of its key
	authoritiesKey = "ca.crt"   // PEM of every CA that has to be trusted, the newest first
	authorityKey   = "ca.key"   // PEM of the newest CA's key; older ones are forgotten
	untilKey       = "ca.until" // a line for each CA: SHA-256 of its DER, and RFC 3339
)

// Types of PEM blocks.
const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY" // PKCS #8
)

// Authority is a CA that has to be trusted.
type Authority struct {
	Certificate *x509.Certificate
	// Until is when the last certificate that it signed ends; the zero time says
	// that it has signed none.
	Until time.Time
}

// State is what the Secret holds. The zero value is a Secret that holds nothing.
type State struct {
	Authorities []Authority       // the newest first; it alone signs
	Key         *ecdsa.PrivateKey // of the newest
	Leaf        *x509.Certificate // nil: none is issued yet
	LeafKey     *ecdsa.PrivateKey
	Request     Request
}

// decodeState reads the data of a Secret and what its annotation asks for. A State
// that is not whole is an error, and the zero value with the request.
func decodeState(data map[string][]byte, request Request) (State, error) {
	empty := State{Request: request}
	authorities := readCertificates(data[authoritiesKey])
	if len(authorities) == 0 && len(data[authorityKey]) == 0 && len(data[leafCertKey]) == 0 {
		return empty, nil
	}
	state := empty
	if len(authorities) == 0 {
		return empty, fmt.Errorf("reading %s: no certificate", authoritiesKey)
	}
	until, err := readUntil(data[untilKey])
	if err != nil {
		return empty, fmt.Errorf("reading %s: %w", untilKey, err)
	}
	for _, cert := range authorities {
		state.Authorities = append(state.Authorities, Authority{Certificate: cert, Until: until[digest(cert)]})
	}
	if state.Key, err = readKey(data[authorityKey], authorities[0]); err != nil {
		return empty, fmt.Errorf("reading %s: %w", authorityKey, err)
	}
	if len(data[leafCertKey]) == 0 {
		return state, nil
	}
	leaf, err := decodeLeaf(data)
	if err != nil {
		return empty, err
	}
	state.Leaf = leaf.Leaf
	state.LeafKey, _ = leaf.PrivateKey.(*ecdsa.PrivateKey) // it is one: decodeLeaf read it
	if state.issuer() < 0 {
		return empty, fmt.Errorf("reading %s: signed by none of %s", leafCertKey, authoritiesKey)
	}
	return state, nil
}

// decodeLeaf reads the serving certificate of a Secret, nil if it has none.
func decodeLeaf(data map[string][]byte) (*tls.Certificate, error) {
	if len(data[leafCertKey]) == 0 {
		return nil, nil //nolint:nilnil // a Secret without one is as good as one with it
	}
	certs := readCertificates(data[leafCertKey])
	if len(certs) == 0 {
		return nil, fmt.Errorf("reading %s: no certificate", leafCertKey)
	}
	key, err := readKey(data[leafKeyKey], certs[0])
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", leafKeyKey, err)
	}
	return &tls.Certificate{Certificate: [][]byte{certs[0].Raw}, PrivateKey: key, Leaf: certs[0]}, nil
}

// encode is the data of a Secret that holds the State.
func (s State) encode() (map[string][]byte, error) {
	key, err := writeKey(s.Key)
	if err != nil {
		return nil, err
	}
	var until strings.Builder
	for _, authority := range s.Authorities {
		if !authority.Until.IsZero() {
			fmt.Fprintf(&until, "%s %s\n", digest(authority.Certificate), authority.Until.UTC().Format(time.RFC3339))
		}
	}
	data := map[string][]byte{
		authoritiesKey: writeCertificates(s.certificates()...),
		authorityKey:   key,
		untilKey:       []byte(until.String()),
	}
	if s.Leaf != nil {
		data[leafCertKey] = writeCertificates(s.Leaf)
		if data[leafKeyKey], err = writeKey(s.LeafKey); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// certificates are the CAs, the newest first.
func (s State) certificates() []*x509.Certificate {
	var certs []*x509.Certificate
	for _, authority := range s.Authorities {
		certs = append(certs, authority.Certificate)
	}
	return certs
}

// issuer is the index of the CA that signed the leaf; -1: none did.
func (s State) issuer() int {
	if s.Leaf == nil {
		return -1
	}
	return slices.IndexFunc(s.Authorities, func(a Authority) bool { return s.Leaf.CheckSignatureFrom(a.Certificate) == nil })
}

// digest names a certificate.
func digest(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// readUntil reads the times of CAs by their digests.
func readUntil(text []byte) (map[string]time.Time, error) {
	until := map[string]time.Time{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		at, err := time.Parse(time.RFC3339, value)
		if err != nil {
			return nil, err
		}
		until[name] = at
	}
	return until, nil
}

// readKey reads the key of a certificate.
func readKey(text []byte, cert *x509.Certificate) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != keyBlock {
		return nil, errors.New("no key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing the key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("not the certificate's key")
	}
	return key, nil
}

func writeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("writing a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}
