package foreign_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
)

func TestWords(t *testing.T) {
	tests := []struct {
		name string
		rule string
		want []string
	}{
		{"plain", "-A POSTROUTING -j X", []string{"-A", "POSTROUTING", "-j", "X"}},
		{"quoted", `-m comment --comment "a b" -j X`, []string{"-m", "comment", "--comment", "a b", "-j", "X"}},
		{"escaped", `--comment "a \"b\" \\c \'d" -j X`, []string{"--comment", `a "b" \c 'd`, "-j", "X"}},
		{"empty word", `--comment "" -j X`, []string{"--comment", "", "-j", "X"}},
		{"backslash outside of quotes", `-j A\B`, []string{"-j", `A\B`}},
		{"quotes in the middle", `-j A" "B`, []string{"-j", "A B"}},
		{"blanks", "  -j  X ", []string{"-j", "X"}},
		{"unfinished", `--comment "a b`, []string{"--comment", "a b"}},
		{"nothing", "", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, foreign.Words(test.rule)); diff != "" {
				t.Errorf("words differ (-want +got):\n%s", diff)
			}
		})
	}
}
