package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

const savedText = "nonMasqueradeCIDRs: [10.1.0.0/16]\n"

// saved is the state file for savedText.
const saved = "ip-masq-guard last valid configuration, version 1, " +
	"sha256 ad2f7ae24bbd6fd44e955c9818f56129470e1e403edf71f362876b1a379aad49\n" + savedText

func TestStoreKeeps(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "on", "demand")
	path := filepath.Join(dir, "last-valid")
	s := &store{dir: dir}
	if _, err := s.load(); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("loading nothing: %v, want %v", err, fs.ErrNotExist)
	}
	must(t, s.save([]byte(savedText)))
	content, err := os.ReadFile(path)
	must(t, err)
	if string(content) != saved {
		t.Errorf("state file %q, want %q", content, saved)
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode() != 0o600 {
		t.Errorf("state file has mode %v, want 0600", info.Mode())
	}
	text, err := (&store{dir: dir}).load()
	if err != nil || string(text) != savedText {
		t.Errorf("loaded %q, %v; want %q", text, err, savedText)
	}

	// What is kept is not written again, and an empty text is a text.
	must(t, os.Remove(path))
	must(t, s.save([]byte(savedText)))
	if _, err = os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the same text was written again")
	}
	must(t, s.save(nil))
	if text, err = (&store{dir: dir}).load(); err != nil || len(text) != 0 {
		t.Errorf("loaded %q, %v; want an empty text", text, err)
	}

	for range 2 {
		must(t, s.clear())
		if _, err = s.load(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("loading after clear: %v, want %v", err, fs.ErrNotExist)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("the directory holds %v (%v), want nothing", entries, err)
	}
}

func TestStoreWithoutDirectoryKeepsNothing(t *testing.T) {
	s := &store{}
	if err := errors.Join(s.save([]byte(savedText)), s.clear()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.load(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("loading: %v, want %v", err, fs.ErrNotExist)
	}
}

func TestStoreNoticesCorruption(t *testing.T) {
	load := func(content []byte) error {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "last-valid"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := (&store{dir: dir}).load()
		return err
	}
	if err := load([]byte(saved)); err != nil {
		t.Fatal(err)
	}
	for length := range len(saved) {
		if load([]byte(saved[:length])) == nil {
			t.Errorf("cut after %d bytes, it loads", length)
		}
	}
	for i := range len(saved) {
		changed := []byte(saved)
		changed[i] ^= 0x10
		if load(changed) == nil {
			t.Errorf("with byte %d changed, it loads", i)
		}
	}
	if load(append([]byte(saved), bytes.Repeat([]byte("#"), 2<<20)...)) == nil {
		t.Error("with 2 MiB appended, it loads")
	}
}

// TestStoreSurvivesACrash: what an interrupted save leaves behind harms nothing.
func TestStoreSurvivesACrash(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"last-valid": saved, "last-valid.tmp": "half a te"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &store{dir: dir}
	if text, err := s.load(); err != nil || string(text) != savedText {
		t.Errorf("loaded %q, %v; want %q", text, err, savedText)
	}
	if err := s.save([]byte("{}\n")); err != nil {
		t.Fatal(err)
	}
	if text, err := s.load(); err != nil || string(text) != "{}\n" {
		t.Errorf("loaded %q, %v; want {}", text, err)
	}
}
