package certs

import (
	"crypto/ecdsa"
	"crypto/x509"
	"slices"
	"time"
)

// Rotation is what serving certificates are for and when they may change.
type Rotation struct {
	Names Names
	// Propagation is how long after a change of the caBundle, or of the Secret, an
	// API server, or a replica, may still go by what was there before.
	Propagation time.Duration
}

// View is what the leader sees before a step.
type View struct {
	State  State
	Bundle Bundle
	Now    time.Time
	Seen   Seen
}

// Seen is for how long the leader itself has seen what it sees, by a clock that
// nobody sets. A new leader has seen everything for no time.
type Seen struct {
	Trusted time.Duration // the newest CA, in the caBundle
	Issued  time.Duration // the leaf, in the Secret
}

// Step is what to do next: at most one write, after which to look again. Writes
// may be lost or refused, which is only a step that is not taken.
type Step struct {
	State  *State              // the Secret has to hold this
	Bundle []*x509.Certificate // the caBundle has to hold these
	Wait   time.Duration       // without a write: look again after this
	Reason string              // why there is a write, or why what was asked for has to wait
}

// Next decides the next step. In every order of steps, lost writes and changes of
// the leader:
//
//   - a leaf is issued only once its CA has been in the caBundle for Propagation;
//   - a CA leaves the caBundle only once all that it has signed has run out, unless
//     a person revoked it;
//   - what Next finds in the caBundle and did not put there stays for as long as a
//     leaf may live: somebody may be served by it.
func (r Rotation) Next(v View) (Step, error) {
	s := v.State
	foreign := v.adoptable()
	switch {
	case len(s.Authorities) == 0:
		return r.begin(v, foreign)
	case len(foreign) > 0:
		next := s
		next.Authorities = append(slices.Clip(s.Authorities), foreign...)
		return Step{State: &next, Reason: "the caBundle holds CAs of others, which may be in use"}, nil
	}

	head := s.Authorities[0]
	reason, wanted := "", due(head.Certificate, v.Now)
	if wanted {
		reason = "the CA is due"
	}
	waiting := "" // why what was asked for has to wait
	if s.Request == RotateCA || s.Request == Revoke {
		switch {
		case len(s.Authorities) < maxAuthorities:
			reason, wanted = "a new CA was asked for", true
		default:
			waiting = "a new CA was asked for, and has to wait until an old one has run out: the caBundle is full"
		}
	}
	if wanted {
		return r.renewCA(v, reason)
	}

	kept, dropped := v.retire(r.Propagation)
	if trusted := certificates(kept); !v.Bundle.is(trusted) {
		return Step{Bundle: trusted, Reason: "the caBundle has to hold these CAs"}, nil
	}
	leafOfHead := s.issuer() == 0
	revoked := s.Request == revoking && leafOfHead && v.Seen.Issued >= r.Propagation
	if dropped || revoked {
		next := s
		next.Authorities = kept
		if revoked {
			next.Request = ""
		}
		return Step{State: &next, Reason: "CAs have run out, or are revoked"}, nil
	}
	if !leafOfHead || due(s.Leaf, v.Now) || !r.Names.on(s.Leaf) || s.Request == RotateLeaf {
		if remaining := r.Propagation - v.Seen.Trusted; remaining > 0 {
			return Step{Wait: remaining, Reason: waiting}, nil
		}
		return r.renewLeaf(v)
	}
	return Step{Wait: r.untilNext(v), Reason: waiting}, nil
}

// begin makes the first CA. Where nobody can be served yet, because nothing is
// trusted, its first leaf comes with it; otherwise the CA has to become trusted
// before anybody serves a leaf of it.
func (r Rotation) begin(v View, foreign []Authority) (Step, error) {
	var next State // everything is going to be new, whatever was asked for
	if v.State.Request == Revoke || v.State.Request == revoking {
		next.Request = revoking
	}
	var err error
	if next.Authorities, next.Key, err = withNewCA(foreign, v.Now); err != nil {
		return Step{}, err
	}
	if len(foreign) == 0 {
		if err := r.sign(&next, v.Now); err != nil {
			return Step{}, err
		}
	}
	return Step{State: &next, Reason: "there is no CA"}, nil
}

// renewCA puts a new CA before the others, and leaves the leaf as it is.
func (r Rotation) renewCA(v View, reason string) (Step, error) {
	next := v.State
	var err error
	if next.Authorities, next.Key, err = withNewCA(v.State.Authorities, v.Now); err != nil {
		return Step{}, err
	}
	switch v.State.Request {
	case RotateCA:
		next.Request = ""
	case Revoke:
		next.Request = revoking
	case RotateLeaf, revoking: // the leaf is still to come
	}
	return Step{State: &next, Reason: reason}, nil
}

func withNewCA(old []Authority, now time.Time) ([]Authority, *ecdsa.PrivateKey, error) {
	cert, key, err := issueCA(now)
	if err != nil {
		return nil, nil, err
	}
	return append([]Authority{{Certificate: cert}}, old...), key, nil
}

// renewLeaf issues a leaf of the newest CA.
func (r Rotation) renewLeaf(v View) (Step, error) {
	next := v.State
	next.Authorities = slices.Clone(next.Authorities)
	if next.Request == RotateLeaf {
		next.Request = ""
	}
	if err := r.sign(&next, v.Now); err != nil {
		return Step{}, err
	}
	return Step{State: &next, Reason: "a serving certificate of the newest CA is due"}, nil
}

// sign issues the leaf, and notes until when its CA is needed: it is one write, so
// there is never a leaf whose end nobody knows.
func (r Rotation) sign(state *State, now time.Time) error {
	head := &state.Authorities[0]
	var err error
	if state.Leaf, state.LeafKey, err = issueLeaf(r.Names, head.Certificate, state.Key, now); err != nil {
		return err
	}
	head.Until = later(head.Until, state.Leaf.NotAfter)
	return nil
}

// adoptable are the CAs of the caBundle that the Secret does not know. Whoever
// relied on them has as long as a leaf of ours could live.
func (v View) adoptable() []Authority {
	known := v.State.certificates()
	var foreign []Authority
	for _, ca := range v.Bundle.all() {
		if len(known)+len(foreign) >= maxAuthorities {
			break
		}
		if !slices.ContainsFunc(known, ca.Equal) && v.Now.Before(ca.NotAfter.Add(skew)) {
			foreign = append(foreign, Authority{Certificate: ca, Until: earlier(ca.NotAfter, v.Now.Add(leafLife+skew))})
		}
	}
	return foreign
}

// retire splits off the CAs that nobody needs any more.
func (v View) retire(propagation time.Duration) (kept []Authority, dropped bool) {
	issuer := v.State.issuer()
	revoked := v.State.Request == revoking && issuer == 0 && v.Seen.Issued >= propagation
	for i, authority := range v.State.Authorities {
		if i > 0 && i != issuer && (revoked || v.Now.After(authority.Until.Add(skew))) {
			dropped = true
			continue
		}
		kept = append(kept, authority)
	}
	return kept, dropped
}

// untilNext is how long nothing is to be done.
func (r Rotation) untilNext(v View) time.Duration {
	next := earlier(renewal(v.State.Authorities[0].Certificate), renewal(v.State.Leaf))
	for _, authority := range v.State.Authorities[1:] {
		next = earlier(next, authority.Until.Add(skew+time.Second))
	}
	wait := next.Sub(v.Now)
	if v.State.Request == revoking {
		wait = min(wait, r.Propagation-v.Seen.Issued)
	}
	return max(wait, 0)
}

func certificates(authorities []Authority) []*x509.Certificate {
	return State{Authorities: authorities}.certificates()
}

// sightings remember since when a leader has seen what it sees.
type sightings struct {
	trusted, issued sighting
}

// sighting is since when something has been seen without a break.
type sighting struct {
	what  string // empty: nothing
	since time.Duration
}

// look notes what is seen at a time, counted from any fixed one.
func (s *sightings) look(state State, bundle Bundle, at time.Duration) Seen {
	trusted, issued := "", ""
	if len(state.Authorities) > 0 && bundle.holds(state.Authorities[0].Certificate) {
		trusted = digest(state.Authorities[0].Certificate)
	}
	if state.Leaf != nil {
		issued = digest(state.Leaf)
	}
	return Seen{Trusted: s.trusted.look(trusted, at), Issued: s.issued.look(issued, at)}
}

func (s *sighting) look(what string, at time.Duration) time.Duration {
	if what == "" || what != s.what {
		*s = sighting{what: what, since: at}
	}
	if what == "" {
		return 0
	}
	return at - s.since
}
