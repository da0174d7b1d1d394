package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

//nolint:gochecknoglobals // flags of the test binary
var (
	walks    = flag.Int("walks", 40, "random walks to take")
	walkSeed = flag.Uint64("walk-seed", 0, "seed of the first walk; 0 starts at 1")
)

// world is everything that may go wrong around the core: several replicas, two of
// which believe that they lead, writes that are late, refused or lost, clocks that
// are set, replicas that are cut off or restart, people who ask for rotations and
// delete the Secret.
type world struct {
	*rand.Rand
	rotation Rotation
	now      time.Time     // as nobody's clock tells it
	elapsed  time.Duration // never set back

	state        State
	stateVersion int
	bundles      []published // the last one is the live one
	leaders      [2]leader
	replicas     [3]replica
	quiet        time.Time // when everybody had last done all there was to do
	trail        []string
	counts       map[string]int
}

// published is what the caBundle held from a time on.
type published struct {
	since  time.Time
	bundle Bundle
}

// leader is a replica that believes it leads. Its step may wait between what it
// read and what it writes.
type leader struct {
	clock         time.Duration // how wrong it is
	seen          sightings
	step          Step
	stateVersion  int
	bundleVersion int
}

// replica is a webhook; what it serves is judged.
type replica struct {
	clock  time.Duration
	cutOff bool
	bundle Bundle
	served *tls.Certificate
}

const (
	propagation = 30 * time.Second
	// wrong is how wrong a clock may be: two of them differ by at most skew.
	wrong = skew / 2
	// outage is how long nothing may work at a time: a leaf is renewed 30 days
	// before it ends.
	outage = 20 * 24 * time.Hour
)

func newWorld(seed uint64) *world {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return &world{
		Rand:     rand.New(rand.NewPCG(seed, 1)),
		rotation: Rotation{Names: ServiceNames("guard", "system"), Propagation: propagation},
		now:      start,
		quiet:    start,
		bundles:  []published{{since: start, bundle: NewBundle(nil)}},
		counts:   map[string]int{},
	}
}

func (w *world) live() Bundle { return w.bundles[len(w.bundles)-1].bundle }

// read lets a leader look and decide.
func (w *world) read(t *testing.T, l *leader) {
	t.Helper()
	l.stateVersion, l.bundleVersion = w.stateVersion, len(w.bundles)
	var err error
	l.step, err = w.rotation.Next(View{
		State: w.state, Bundle: w.live(), Now: w.now.Add(l.clock),
		Seen: l.seen.look(w.state, w.live(), w.elapsed),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// write lets a leader do what it decided, unless what it read has changed.
func (w *world) write(t *testing.T, l *leader) (wrote bool) {
	t.Helper()
	step := l.step
	l.step = Step{}
	switch {
	case step.State != nil && l.stateVersion == w.stateVersion:
		data, err := step.State.encode() // nothing may get lost on the way
		if err != nil {
			t.Fatal(err)
		}
		if w.state, err = decodeState(data, step.State.Request); err != nil {
			t.Fatal(err)
		}
		w.stateVersion++
		w.counts[step.Reason]++
	case step.Bundle != nil && l.bundleVersion == len(w.bundles):
		w.bundles = append(w.bundles, published{since: w.now, bundle: NewBundle(writeCertificates(step.Bundle...))})
		w.counts[step.Reason]++
	case step.State != nil || step.Bundle != nil:
		w.counts["conflict"]++
		return true
	default:
		return false
	}
	return true
}

// sync lets a replica see the Secret and the caBundle as they are.
func (w *world) sync(t *testing.T, r *replica) {
	t.Helper()
	r.bundle = w.live()
	var newest *tls.Certificate
	if w.state.Leaf != nil {
		data, err := w.state.encode()
		if err != nil {
			t.Fatal(err)
		}
		if newest, err = decodeLeaf(data); err != nil {
			t.Fatal(err)
		}
	}
	r.served = choose(r.served, newest, r.bundle, "guard.system.svc", w.now.Add(r.clock))
}

func (w *world) pass(d time.Duration) {
	w.now = w.now.Add(d)
	w.elapsed += d
}

// settle lets the first leader do all there is to do, and those see it who can.
func (w *world) settle(t *testing.T) {
	t.Helper()
	l := &w.leaders[0]
	for range 40 {
		w.read(t, l)
		wait := l.step.Wait
		wrote := w.write(t, l)
		for i := range w.replicas {
			if !w.replicas[i].cutOff {
				w.sync(t, &w.replicas[i])
			}
		}
		w.check(t)
		if !wrote {
			if wait > propagation {
				for i, r := range w.replicas {
					if r.served == nil && !r.cutOff {
						t.Fatalf("replica %d serves nothing, and there is a leaf", i)
					}
				}
				w.quiet = w.now
				return
			}
			w.pass(max(wait, time.Second))
		}
	}
	t.Fatalf("the leader does not come to rest: %+v", l.step)
}

// move does one thing that may happen.
func (w *world) move(t *testing.T) string {
	t.Helper()
	l, r := w.IntN(len(w.leaders)), w.IntN(len(w.replicas))
	clock := func() time.Duration { return time.Duration(w.Int64N(2*int64(wrong))) - wrong }
	switch w.IntN(20) {
	case 0, 1, 2, 3, 4:
		w.read(t, &w.leaders[l])
		return fmt.Sprintf("leader %d reads", l)
	case 5, 6, 7, 8:
		w.write(t, &w.leaders[l])
		return fmt.Sprintf("leader %d writes", l)
	case 9:
		w.leaders[l].step = Step{}
		return fmt.Sprintf("leader %d's write is lost", l)
	case 10:
		w.leaders[l] = leader{clock: w.leaders[l].clock}
		return fmt.Sprintf("leader %d is another one", l)
	case 11:
		w.leaders[l].clock = clock()
		return fmt.Sprintf("leader %d's clock is set: %s", l, w.leaders[l].clock)
	case 12:
		w.replicas[r].clock = clock()
		return fmt.Sprintf("replica %d's clock is set: %s", r, w.replicas[r].clock)
	case 13:
		w.replicas[r] = replica{clock: w.replicas[r].clock}
		w.sync(t, &w.replicas[r])
		return fmt.Sprintf("replica %d is another one", r)
	case 14:
		w.replicas[r].cutOff = !w.replicas[r].cutOff
		return fmt.Sprintf("replica %d is cut off: %t", r, w.replicas[r].cutOff)
	case 15, 16:
		if !w.replicas[r].cutOff {
			w.sync(t, &w.replicas[r])
		}
		return fmt.Sprintf("replica %d sees what there is", r)
	case 17:
		w.state.Request = []Request{RotateLeaf, RotateCA}[w.IntN(2)]
		w.stateVersion++
		return "a person asks for " + string(w.state.Request)
	case 18:
		if w.IntN(10) > 0 {
			return "nothing happens"
		}
		w.state = State{}
		w.stateVersion++
		return "the Secret is deleted"
	default:
		d := []time.Duration{time.Second, propagation / 2, propagation, time.Hour, 24 * time.Hour, 10 * 24 * time.Hour}[w.IntN(6)]
		if w.now.Add(d).Sub(w.quiet) > outage {
			w.settle(t)
		}
		w.pass(d)
		return fmt.Sprintf("%s pass", d)
	}
}

// check holds the world to what the package promises.
func (w *world) check(t *testing.T) {
	t.Helper()
	for i, r := range w.replicas {
		if r.served == nil {
			continue // the end of a settle is where nobody may have nothing
		}
		leaf := r.served.Leaf
		if w.now.After(leaf.NotAfter.Add(wrong)) {
			if !r.cutOff && w.now.Sub(w.quiet) < outage {
				t.Fatalf("replica %d serves what ended at %s; it is %s", i, leaf.NotAfter, w.now)
			}
			continue // nobody accepts it whatever the caBundle says
		}
		if w.now.Add(wrong).Before(leaf.NotBefore) {
			t.Fatalf("replica %d serves what begins at %s; it is %s", i, leaf.NotBefore, w.now)
		}
		// An API server may be behind by the time of propagation.
		for j := range slices.Backward(w.bundles) {
			if j+1 < len(w.bundles) && w.now.Sub(w.bundles[j+1].since) >= propagation {
				break
			}
			trusted := w.bundles[j].bundle.all()
			if len(trusted) == 0 { // nobody was served by that one
				continue
			}
			if !slices.ContainsFunc(trusted, func(ca *x509.Certificate) bool { return bytes.Equal(leaf.AuthorityKeyId, ca.SubjectKeyId) }) {
				t.Fatalf("replica %d serves a leaf whose CA is not in the caBundle of %s; it is %s", i, w.bundles[j].since, w.now)
			}
		}
	}
	if n := len(w.live().all()); n > maxAuthorities+2 {
		t.Fatalf("%d CAs in the caBundle", n)
	}
}

// TestRandomWalk: whatever happens in whatever order, no replica ever serves what
// an API server does not accept, and in the end everybody serves the newest.
func TestRandomWalk(t *testing.T) {
	first := max(*walkSeed, 1)
	total := map[string]int{}
	for seed := first; seed < first+uint64(*walks); seed++ {
		w := newWorld(seed)
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the last moves: %q", w.trail[max(0, len(w.trail)-40):])
				}
			})
			for range 600 {
				w.trail = append(w.trail, w.now.Format("2006-01-02 15:04:05 ")+w.move(t))
				w.check(t)
			}
			for i := range w.replicas {
				w.replicas[i].cutOff = false
			}
			// What people asked for waits when the caBundle is full, so time has to pass.
			for range 40 {
				w.settle(t)
				w.pass(10 * 24 * time.Hour)
			}
			w.settle(t)
			for i, r := range w.replicas {
				if r.served == nil || !r.served.Leaf.Equal(w.state.Leaf) || w.state.issuer() != 0 {
					t.Errorf("replica %d does not serve the newest leaf at the end", i)
				}
			}
			if !w.live().is(w.state.certificates()) || len(w.state.Authorities) > 2 || w.state.Request != "" {
				t.Errorf("at the end: %d CAs in the caBundle, %d in the Secret, request %q",
					len(w.live().all()), len(w.state.Authorities), w.state.Request)
			}
		})
		for reason, n := range w.counts {
			total[reason] += n
		}
	}
	t.Logf("writes: %v", total)
}
