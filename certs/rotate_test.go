package certs

import (
	"crypto/x509"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// chain is a State as Next makes it: CAs of these ages, the newest first, and a leaf
// of one of them.
func chain(t *testing.T, now time.Time, leafAge time.Duration, issuer int, ages ...time.Duration) State {
	t.Helper()
	var state State
	for i, age := range ages {
		made := now.Add(-age)
		cert, key, err := issueCA(made)
		if err != nil {
			t.Fatal(err)
		}
		authority := Authority{Certificate: cert}
		if i >= issuer { // older ones have signed before
			authority.Until = made.Add(leafLife)
		}
		if i == 0 {
			state.Key = key
		}
		if i == issuer {
			if state.Leaf, state.LeafKey, err = issueLeaf(ServiceNames("guard", "system"), cert, key, now.Add(-leafAge)); err != nil {
				t.Fatal(err)
			}
			authority.Until = state.Leaf.NotAfter
		}
		state.Authorities = append(state.Authorities, authority)
	}
	return state
}

const day = 24 * time.Hour

// describe says what a step writes: CAs by their age in days, new ones as new.
func describe(step Step, before View) string {
	name := func(ca *x509.Certificate) string {
		known := slices.ContainsFunc(append(before.State.certificates(), before.Bundle.all()...), ca.Equal)
		if !known {
			return "new"
		}
		return fmt.Sprint(int(before.Now.Sub(ca.NotBefore.Add(skew)) / day))
	}
	names := func(cas []*x509.Certificate) []string {
		named := make([]string, 0, len(cas))
		for _, ca := range cas {
			named = append(named, name(ca))
		}
		return named
	}
	switch {
	case step.State != nil:
		leaf := "none"
		if step.State.Leaf != nil {
			leaf = "of " + name(step.State.Authorities[step.State.issuer()].Certificate)
			if before.State.Leaf == nil || !step.State.Leaf.Equal(before.State.Leaf) {
				leaf = "new, " + leaf
			}
		}
		text := fmt.Sprintf("Secret: CAs %v, leaf %s", names(step.State.certificates()), leaf)
		if step.State.Request != "" {
			text += ", request " + string(step.State.Request)
		}
		return text
	case step.Bundle != nil:
		return fmt.Sprintf("caBundle: %v", names(step.Bundle))
	}
	text := fmt.Sprintf("wait %s", step.Wait.Round(time.Second))
	if step.Reason != "" {
		text += ": " + step.Reason
	}
	return text
}

func TestNext(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	long := Seen{Trusted: time.Hour, Issued: time.Hour}
	bundleOf := func(states ...State) Bundle {
		var all []*x509.Certificate
		for _, state := range states {
			all = append(all, state.certificates()...)
		}
		return Bundle{all}
	}
	fresh := chain(t, now, 10*day, 0, 10*day)
	oldLeaf := chain(t, now, 60*day, 0, 100*day)
	oldCA := chain(t, now, 10*day, 0, 244*day)
	pending := chain(t, now, 10*day, 1, 0, 244*day)
	switched := chain(t, now, 0, 0, day, 85*day)
	runOut := chain(t, now, 10*day, 0, 100*day, 344*day)
	justOut := chain(t, now, 10*day, 0, 85*day, 90*day+30*time.Minute)
	lateLeaf := chain(t, now, 91*day, 1, 0, 100*day)
	others := chain(t, now, 0, 0, 30*day)
	full := chain(t, now, day, 0, 8*day, 7*day, 6*day, 5*day, 4*day, 3*day, 2*day, 1*day)
	with := func(state State, request Request) State {
		state.Request = request
		return state
	}
	tests := []struct {
		name string
		view View
		want string
	}{
		{name: "nothing", view: View{Bundle: NewBundle(nil)}, want: "Secret: CAs [new], leaf new, of new"},
		{name: "nothing, asked for a CA", view: View{State: State{Request: RotateCA}, Bundle: NewBundle(nil)}, want: "Secret: CAs [new], leaf new, of new"},
		{name: "no certificate in the caBundle", view: View{Bundle: NewBundle([]byte("Cg=="))}, want: "Secret: CAs [new], leaf new, of new"},
		{name: "Secret lost", view: View{Bundle: bundleOf(others)}, want: "Secret: CAs [new 30], leaf none"},
		{name: "Secret lost, to be revoked", view: View{State: State{Request: Revoke}, Bundle: bundleOf(others)}, want: "Secret: CAs [new 30], leaf none, request revoking"},
		{name: "caBundle not written yet", view: View{State: fresh, Bundle: NewBundle(nil)}, want: "caBundle: [10]"},
		{name: "caBundle of one webhook not written yet", view: View{State: fresh, Bundle: Bundle{fresh.certificates(), nil}, Seen: long}, want: "caBundle: [10]"},
		{name: "rest", view: View{State: fresh, Bundle: bundleOf(fresh), Seen: long}, want: "wait 1199h40m0s"},
		{name: "rest, though seen for no time", view: View{State: fresh, Bundle: bundleOf(fresh)}, want: "wait 1199h40m0s"},
		{name: "a foreign CA", view: View{State: fresh, Bundle: bundleOf(fresh, others), Seen: long}, want: "Secret: CAs [10 30], leaf of 10"},
		{name: "leaf due", view: View{State: oldLeaf, Bundle: bundleOf(oldLeaf), Seen: long}, want: "Secret: CAs [100], leaf new, of 100"},
		{name: "leaf due, CA seen too short", view: View{State: oldLeaf, Bundle: bundleOf(oldLeaf), Seen: Seen{Trusted: 10 * time.Second}}, want: "wait 20s"},
		{name: "CA due", view: View{State: oldCA, Bundle: bundleOf(oldCA), Seen: long}, want: "Secret: CAs [new 244], leaf of 244"},
		{name: "new CA not trusted yet", view: View{State: pending, Bundle: Bundle{pending.certificates()[1:]}}, want: "caBundle: [0 244]"},
		{name: "new CA trusted a moment ago", view: View{State: pending, Bundle: bundleOf(pending)}, want: "wait 30s"},
		{name: "new CA trusted", view: View{State: pending, Bundle: bundleOf(pending), Seen: long}, want: "Secret: CAs [0 244], leaf new, of 0"},
		{name: "old CA still in use", view: View{State: switched, Bundle: bundleOf(switched), Seen: long}, want: "wait 121h0m1s"},
		{name: "old CA has run out within the skew", view: View{State: justOut, Bundle: bundleOf(justOut), Seen: long}, want: "wait 30m1s"},
		{name: "the leaf has run out with its old CA", view: View{State: lateLeaf, Bundle: bundleOf(lateLeaf)}, want: "wait 30s"},
		{name: "old CA has run out", view: View{State: runOut, Bundle: bundleOf(runOut), Seen: long}, want: "caBundle: [100]"},
		{name: "old CA gone from the caBundle", view: View{State: runOut, Bundle: Bundle{runOut.certificates()[:1]}, Seen: long}, want: "Secret: CAs [100], leaf of 100"},
		{name: "asked for a leaf", view: View{State: with(fresh, RotateLeaf), Bundle: bundleOf(fresh), Seen: long}, want: "Secret: CAs [10], leaf new, of 10"},
		{name: "asked for a CA", view: View{State: with(fresh, RotateCA), Bundle: bundleOf(fresh), Seen: long}, want: "Secret: CAs [new 10], leaf of 10"},
		{name: "asked for a CA, full", view: View{State: with(full, RotateCA), Bundle: bundleOf(full), Seen: long}, want: "wait 1415h40m0s: a new CA was asked for, and has to wait until an old one has run out: the caBundle is full"},
		{name: "asked to revoke", view: View{State: with(fresh, Revoke), Bundle: bundleOf(fresh), Seen: long}, want: "Secret: CAs [new 10], leaf of 10, request revoking"},
		{name: "revoking, leaf not there yet", view: View{State: with(pending, revoking), Bundle: bundleOf(pending), Seen: Seen{Issued: time.Hour}}, want: "wait 30s"},
		{name: "revoking, leaf is to come", view: View{State: with(pending, revoking), Bundle: bundleOf(pending), Seen: long}, want: "Secret: CAs [0 244], leaf new, of 0, request revoking"},
		{name: "revoking, leaf just there", view: View{State: with(switched, revoking), Bundle: bundleOf(switched), Seen: Seen{Trusted: time.Hour}}, want: "wait 30s"},
		{name: "revoking, leaf everywhere", view: View{State: with(switched, revoking), Bundle: bundleOf(switched), Seen: long}, want: "caBundle: [1]"},
		{name: "revoked", view: View{State: with(switched, revoking), Bundle: Bundle{switched.certificates()[:1]}, Seen: long}, want: "Secret: CAs [1], leaf of 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.view.Now = now
			rotation := Rotation{Names: ServiceNames("guard", "system"), Propagation: 30 * time.Second}
			step, err := rotation.Next(tt.view)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, describe(step, tt.view)); diff != "" {
				t.Errorf("step differs (-want +got):\n%s", diff)
			}
			if step.State != nil && len(tt.view.State.Authorities) > 0 { // nothing is forgotten of those that stay
				for _, authority := range tt.view.State.Authorities {
					i := slices.IndexFunc(step.State.Authorities, func(a Authority) bool { return a.Certificate.Equal(authority.Certificate) })
					if i >= 0 && step.State.Authorities[i].Until.Before(authority.Until) {
						t.Errorf("a CA is needed until %s, before %s", step.State.Authorities[i].Until, authority.Until)
					}
				}
			}
		})
	}

	t.Run("other names", func(t *testing.T) {
		rotation := Rotation{Names: ServiceNames("guard", "system", "localhost", "127.0.0.1"), Propagation: 30 * time.Second}
		step, err := rotation.Next(View{State: fresh, Bundle: bundleOf(fresh), Seen: long, Now: now})
		if err != nil || step.State == nil {
			t.Fatalf("step %+v, %v; want a new leaf", step, err)
		}
		for _, name := range []string{"guard.system.svc", "localhost", "127.0.0.1"} {
			if err := step.State.Leaf.VerifyHostname(name); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestLeafEndsWithItsCA: what a CA signs late in its life has a shorter one.
func TestLeafEndsWithItsCA(t *testing.T) {
	made := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	ca, key, err := issueCA(made)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _, err := issueLeaf(ServiceNames("guard", "system"), ca, key, made.Add(300*day))
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2027, 6, 1, 0, 0, 0, 0, time.UTC); !leaf.NotAfter.Equal(want) {
		t.Errorf("ends at %s, want %s", leaf.NotAfter, want)
	}
}

func TestSightings(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	one, other := chain(t, now, 0, 0, 0), chain(t, now, 0, 0, 0)
	trusted := Bundle{one.certificates()}
	var s sightings
	for i, tt := range []struct {
		state  State
		bundle Bundle
		at     time.Duration
		want   Seen
	}{
		{state: State{}, bundle: trusted, at: 1 * time.Second, want: Seen{}},
		{state: one, bundle: Bundle{nil}, at: 2 * time.Second, want: Seen{}},
		{state: one, bundle: trusted, at: 5 * time.Second, want: Seen{Issued: 3 * time.Second}},
		{state: one, bundle: trusted, at: 9 * time.Second, want: Seen{Trusted: 4 * time.Second, Issued: 7 * time.Second}},
		{state: one, bundle: Bundle{nil}, at: 10 * time.Second, want: Seen{Issued: 8 * time.Second}},
		{state: one, bundle: trusted, at: 11 * time.Second, want: Seen{Issued: 9 * time.Second}},
		{state: other, bundle: trusted, at: 12 * time.Second, want: Seen{}},
		{state: other, bundle: Bundle{other.certificates()}, at: 13 * time.Second, want: Seen{Issued: time.Second}},
	} {
		if got := s.look(tt.state, tt.bundle, tt.at); got != tt.want {
			t.Errorf("look %d: %+v, want %+v", i, got, tt.want)
		}
	}
}
