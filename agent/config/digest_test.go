package config_test

import (
	"testing"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// TestDigest wants what `printf abc | sha256sum` and, of two files in a directory,
// `sha256sum ip-masq* | sha256sum` print.
func TestDigest(t *testing.T) {
	if got, want := config.Digest([]byte("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
	files := []config.File{{Name: "ip-masq-agent", Text: []byte("abc")}, {Name: "ip-masq-more", Text: nil}}
	if got, want := config.DigestFiles(files), "3a256ad83f4e1a52639e0883a28f1719ae10a55567dda45db85a888bc13db50a"; got != want {
		t.Errorf("digest of files %s, want %s", got, want)
	}
}
