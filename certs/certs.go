// Package certs keeps the webhook's serving certificate: it issues a CA and the
// certificates that it signs, tells the API server of the CA by the caBundle of a
// ValidatingWebhookConfiguration, and renews both without a moment in which a
// replica serves what an API server does not trust.
//
// What to do next is decided by Rotation.Next and what to serve by choose; both are
// pure but for the randomness of keys. Serving is the edge: it watches one Secret
// and one configuration by name, and the replica that holds a Lease writes them.
package certs

import "time"

const (
	// caLife and leafLife are how long a CA and a serving certificate are valid.
	// Both are renewed after two thirds of it, so that whatever keeps the leader
	// from its work has four and one months to pass.
	caLife   = 365 * 24 * time.Hour
	leafLife = 90 * 24 * time.Hour

	// skew is by how much the clocks of the leader, another replica and an API
	// server may differ: a certificate is valid this long before it was made, and a
	// CA stays trusted this long after the last certificate that it signed.
	skew = time.Hour

	// maxAuthorities bounds the caBundle. It is reached only by asking for one new
	// CA after the other: further ones then wait until an old one has run out.
	maxAuthorities = 8
)

// RotateAnnotation is the annotation of the Secret by which a person asks for a
// rotation before its time; its value is a Request. It is taken away once done.
const RotateAnnotation = "ip-masq-guard.io/rotate"

// Request is what a person asked for; the zero value is nothing.
type Request string

// What may be asked for.
const (
	// RotateLeaf asks for a new serving certificate.
	RotateLeaf Request = "leaf"
	// RotateCA asks for a new CA, and a serving certificate of it.
	RotateCA Request = "ca"
	// Revoke asks for the same and that no other CA stays trusted: for a key that
	// has leaked. It does not wait for replicas that are cut off.
	Revoke Request = "revoke"
	// revoking is Revoke after the new CA was made.
	revoking Request = "revoking"
)
