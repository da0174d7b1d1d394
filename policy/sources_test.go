package policy

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReadSources reads a directory that looks like a mounted ConfigMap, beside one
// that an author keeps.
func TestReadSources(t *testing.T) {
	directory := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(directory, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(directory, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("..2026_01_01/mounted.rego", "package ipmasq.mounted")
	link("..2026_01_01", "..data")
	link("..data/mounted.rego", "mounted.rego")
	write("team/b.rego", "package ipmasq.b")
	write("team/a.rego", "package ipmasq.a")
	write("team/a_test.rego", "package ipmasq.a_test")
	write("team/data.json", "{}")
	write("team/README.md", "read me")
	write("elsewhere/c.rego", "package ipmasq.c")
	link("elsewhere", "linked")

	sources, err := ReadSources(directory)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, source := range sources {
		got = append(got, strings.TrimPrefix(source.Name, directory)+" "+string(source.Text))
	}
	want := []string{
		"/elsewhere/c.rego package ipmasq.c",
		"/linked/c.rego package ipmasq.c",
		"/mounted.rego package ipmasq.mounted",
		"/team/a.rego package ipmasq.a",
		"/team/a_test.rego package ipmasq.a_test",
		"/team/b.rego package ipmasq.b",
		"/team/data.json {}",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sources differ (-want +got):\n%s", diff)
	}
}

func TestReadSourcesRefuses(t *testing.T) {
	directory := t.TempDir()
	ring := filepath.Join(directory, "ring")
	if err := os.Mkdir(ring, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(".", filepath.Join(ring, "again")); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(directory, "large")
	if err := os.Mkdir(large, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(large, "large.rego"), make([]byte, 1<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, directory, want string }{
		{name: "missing", directory: filepath.Join(directory, "missing"), want: "no such file or directory"},
		{name: "ring of links", directory: ring, want: "is more than 16 directories deep"},
		{name: "large file", directory: large, want: "has 1048577 bytes, more than 1048576"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ReadSources(tt.directory)
			if err == nil || !strings.HasPrefix(err.Error(), "reading custom rules: ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ReadSources = %v, want reading custom rules: ... %s", err, tt.want)
			}
		})
	}
}

func TestRangesFrom(t *testing.T) {
	ten := netip.MustParsePrefix("10.0.0.0/8")
	got := RangesFrom([]netip.Prefix{ten}, "params")
	if len(got) != 1 || got[0].Prefix != ten || got[0].Source != "params" {
		t.Errorf("RangesFrom = %v", got)
	}
	if RangesFrom(nil, "params") != nil {
		t.Error("unknown ranges became known")
	}
	if got := RangesFrom([]netip.Prefix{}, "params"); got == nil || len(got) != 0 {
		t.Errorf("RangesFrom of none = %#v, want an empty list that is known", got)
	}
}
