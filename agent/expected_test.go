package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestExpect(t *testing.T) {
	digest := strings.Repeat("0a", 32)
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name, text string
		want       string
		err        string
	}{
		{name: "the bare value", text: digest, want: digest},
		{name: "as sha256sum and registries write it", text: "  sha256:" + strings.ToUpper(digest) + "\n", want: digest},
		{name: "empty", text: ""},
		{name: "blank", text: " \n"},
		{name: "shortened", text: digest[:12], err: `reading the expected digest: "0a0a0a0a0a0a" in FILE is no SHA-256; write its 64 hexadecimal digits`},
		{
			name: "an annotations file as a whole", text: "a=\"b\"\n",
			err: `reading the expected digest: "a=\"b\"" in FILE is no SHA-256; write its 64 hexadecimal digits`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "expected")
			must(t, os.WriteFile(file, []byte(test.text), 0o600))
			must(t, os.Chtimes(file, noon, noon))
			got := expect(file)
			if got.digest != test.want {
				t.Errorf("digest %q, want %q", got.digest, test.want)
			}
			if test.want != "" && !got.since.Equal(noon) {
				t.Errorf("since %s, want %s", got.since, noon)
			}
			message := ""
			if got.err != nil {
				message = strings.ReplaceAll(got.err.Error(), file, "FILE")
			}
			if diff := cmp.Diff(test.err, message); diff != "" {
				t.Errorf("error differs (-want +got):\n%s", diff)
			}
		})
	}
	for _, path := range []string{"", filepath.Join(t.TempDir(), "none")} {
		if got := expect(path); got != (expectation{}) {
			t.Errorf("%q expects %+v", path, got)
		}
	}
	if got := expect(t.TempDir()); got.err == nil || !strings.Contains(got.err.Error(), "is no regular file but d") {
		t.Errorf("a folder: %v", got.err)
	}
}
