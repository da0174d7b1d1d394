package certs

import (
	"crypto/ecdsa"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// keysMayMiss compares keys, whose own method does not know nil.
func keysMayMiss() cmp.Option {
	return cmp.Comparer(func(a, b *ecdsa.PrivateKey) bool { return (a == nil) == (b == nil) && (a == nil || a.Equal(b)) })
}

// TestStateKeepsEverything writes a State and reads it again.
func TestStateKeepsEverything(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for name, want := range map[string]State{
		"with a leaf":    chain(t, now, day, 0, 2*day, 200*day),
		"new CA pending": chain(t, now, day, 1, 0, 200*day),
		"without a leaf": chain(t, now, day, -1, 0),
	} {
		t.Run(name, func(t *testing.T) {
			want.Request = RotateLeaf
			data, err := want.encode()
			if err != nil {
				t.Fatal(err)
			}
			got, err := decodeState(data, RotateLeaf)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, keysMayMiss()); diff != "" {
				t.Errorf("State differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeState(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	whole, err := chain(t, now, day, 0, 2*day).encode()
	if err != nil {
		t.Fatal(err)
	}
	others, err := chain(t, now, day, 0, 2*day).encode()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change map[string][]byte
		want   string
	}{
		{name: "CA missing", change: map[string][]byte{"ca.crt": nil}, want: "reading ca.crt: no certificate"},
		{name: "CA's key missing", change: map[string][]byte{"ca.key": nil}, want: "reading ca.key: no key"},
		{name: "another CA's key", change: map[string][]byte{"ca.key": others["ca.key"]}, want: "reading ca.key: not the certificate's key"},
		{name: "another leaf", change: map[string][]byte{"tls.crt": others["tls.crt"], "tls.key": others["tls.key"]}, want: "reading tls.crt: signed by none of ca.crt"},
		{name: "another leaf's key", change: map[string][]byte{"tls.key": others["tls.key"]}, want: "reading tls.key: not the certificate's key"},
		{name: "leaf cut off", change: map[string][]byte{"tls.crt": whole["tls.crt"][:100]}, want: "reading tls.crt: no certificate"},
		{name: "no time", change: map[string][]byte{"ca.until": []byte("abc tomorrow\n")}, want: `reading ca.until: parsing time "tomorrow" as "2006-01-02T15:04:05Z07:00": cannot parse "tomorrow" as "2006"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := maps.Clone(whole)
			maps.Copy(data, tt.change)
			state, err := decodeState(data, RotateCA)
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("error differs (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(State{Request: RotateCA}, state, keysMayMiss()); diff != "" {
				t.Errorf("something is left (-want +got):\n%s", diff)
			}
		})
	}
	if state, err := decodeState(nil, ""); err != nil || len(state.Authorities) != 0 {
		t.Errorf("an empty Secret: %+v, %v; want nothing, and no error", state, err)
	}
}

// TestEncodeIsStable: the same State is the same text, and the CA's key is nowhere
// but under its own name.
func TestEncodeIsStable(t *testing.T) {
	state := chain(t, time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), day, 0, 2*day, 200*day)
	first, err := state.encode()
	if err != nil {
		t.Fatal(err)
	}
	second, err := state.encode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("texts differ (-first +second):\n%s", diff)
	}
	for key, text := range first {
		if holds := strings.Contains(string(text), "PRIVATE KEY"); holds != strings.HasSuffix(key, ".key") {
			t.Errorf("%s holds a key: %t", key, holds)
		}
	}
}
