package iptables

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGoesTo(t *testing.T) {
	tests := []struct {
		name string
		rule string
		want bool
	}{
		{"jump", "-A POSTROUTING -p tcp -j IP-MASQ", true},
		{"goto", "-A POSTROUTING -g IP-MASQ", true},
		{"options after the target", "-A POSTROUTING -j IP-MASQ --later 1", true},
		{"longer name", "-A POSTROUTING -j IP-MASQ-AGENT", false},
		{"in a comment", `-A POSTROUTING -m comment --comment "see -j IP-MASQ please" -j RETURN`, false},
		{"no target", "-A POSTROUTING -m comment --comment IP-MASQ", false},
		{"target at the end missing", `-A POSTROUTING -m comment --comment IP-MASQ -j`, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := goesTo(test.rule, "IP-MASQ"); got != test.want {
				t.Errorf("goesTo: %t, want %t", got, test.want)
			}
		})
	}
}

func TestLineWriter(t *testing.T) {
	var got []string
	w := &lineWriter{take: func(line string) error {
		if line == "enough" {
			return errors.New("stop")
		}
		got = append(got, line)
		return nil
	}}
	for _, part := range []string{"a", "b\nc\n\nd", "", "e\n", "un", "finished"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("Write(%q): %d, %v", part, n, err)
		}
	}
	if diff := cmp.Diff([]string{"ab", "c", "", "de"}, got); diff != "" {
		t.Errorf("lines differ (-want +got):\n%s", diff)
	}
	if _, err := w.Write([]byte("\nenough\nmore\n")); err == nil || err.Error() != "stop" {
		t.Errorf("error %v, want the taker's", err)
	}
	if slices.Contains(got, "more") {
		t.Error("a line was taken after the error")
	}
}

func TestBoundedBuffer(t *testing.T) {
	b := &boundedBuffer{}
	long := strings.Repeat("x", maxErrorText)
	for _, part := range []string{"first\n", "Try `iptables -h' for more information.\n", long, long} {
		if n, err := b.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	got := b.String()
	if !strings.HasPrefix(got, "first; xxx") || len(got) > maxErrorText {
		t.Errorf("kept %d bytes, beginning with %.20q", len(got), got)
	}
}
