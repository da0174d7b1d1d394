package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// volume is a ConfigMap volume as a kubelet makes it: files lie in a folder of
// their own for each version, and one rename of the link ..data changes all of them
// (k8s.io/kubernetes/pkg/volume/util/atomic_writer.go). The key config is the file
// ip-masq-agent there, by `items` of the agent's manifest.
type volume struct {
	dir      string
	versions int
}

// path is what the agent reads.
func (v *volume) path() string { return filepath.Join(v.dir, "ip-masq-agent") }

// project brings the volume up to date with the stored ConfigMap.
func (v *volume) project(t *testing.T, stored *corev1.ConfigMap) {
	t.Helper()
	v.versions++
	version := fmt.Sprintf("..2026_01_02_03_04_05.%09d", v.versions)
	data := filepath.Join(v.dir, "..data")
	old, err := os.Readlink(data)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	content, ok := stored.Data["config"]
	if !ok {
		t.Fatalf("the stored ConfigMap has no key config: %v", stored.Data)
	}
	steps := []func() error{
		func() error { return os.Mkdir(filepath.Join(v.dir, version), 0o755) },
		func() error {
			return os.WriteFile(filepath.Join(v.dir, version, "ip-masq-agent"), []byte(content), 0o644)
		},
		func() error { return os.Symlink(version, data+"_tmp") },
		func() error { return os.Rename(data+"_tmp", data) },
	}
	if old == "" {
		steps = append(steps, func() error { return os.Symlink(filepath.Join("..data", "ip-masq-agent"), v.path()) })
	} else {
		steps = append(steps, func() error { return os.RemoveAll(filepath.Join(v.dir, old)) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}
