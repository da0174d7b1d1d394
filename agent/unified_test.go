package main

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUnified(t *testing.T) {
	lines := strings.Fields
	for _, test := range []struct{ name, from, to, want string }{
		{"equal", "a b c", "a b c", ""},
		{"empty", "", "", ""},
		{"everything is new", "", "a b", "@@ -0,0 +1,2 @@\n+a\n+b\n"},
		{"everything goes", "a", "", "@@ -1 +0,0 @@\n-a\n"},
		{"amid", "1 2 3 4 5 6 7 8 9", "1 2 3 4 x 6 7 8 9", "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+x\n 6\n 7\n 8\n"},
		{
			"far apart", "x 2 3 4 5 6 7 8 9 y", "2 3 4 5 6 7 8 9",
			"@@ -1,4 +1,3 @@\n-x\n 2\n 3\n 4\n@@ -7,4 +6,3 @@\n 7\n 8\n 9\n-y\n",
		},
		{"close by", "x 2 3 4 5 6 7 y", "2 3 4 5 6 7", "@@ -1,8 +1,6 @@\n-x\n 2\n 3\n 4\n 5\n 6\n 7\n-y\n"},
		{"moved", "a b c d", "b c d a", "@@ -1,4 +1,4 @@\n-a\n b\n c\n d\n+a\n"},
		{"repeated", "1 1 2", "1 2 2", "@@ -1,3 +1,3 @@\n 1\n-1\n+2\n 2\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := test.want
			if want != "" {
				want = "--- old\n+++ new\n" + want
			}
			if diff := cmp.Diff(want, unified("old", "new", lines(test.from), lines(test.to))); diff != "" {
				t.Errorf("the text differs (-want +got):\n%s", diff)
			}
		})
	}
}

// TestCompareHoldsBothTexts: without the lines of one kind there is the other text.
func TestCompareHoldsBothTexts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	text := func() []string {
		lines := make([]string, random.IntN(40))
		for i := range lines {
			lines[i] = string(rune('a' + random.IntN(26)))
		}
		return lines
	}
	for range 2000 {
		texts := [2][]string{text(), text()}
		edits := compare(nil, texts[0], texts[1])
		for i, kind := range []byte{'+', '-'} {
			var got []string
			for _, e := range edits {
				if e.kind != kind {
					got = append(got, e.line)
				}
			}
			if !slices.Equal(got, texts[i]) {
				t.Fatalf("of %q and %q it makes %q", texts[0], texts[1], got)
			}
		}
	}
}
