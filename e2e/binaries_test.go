package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// sharedBinaries are the programs under test, each built when a test first asks.
type sharedBinaries struct {
	mu    sync.Mutex
	dir   string
	built map[string]error
}

//nolint:gochecknoglobals // built once for all tests of this binary.
var theBinaries sharedBinaries

// program is the path of one of our programs: "agent", "webhook" or "kubectl-masq".
// IPMASQ_BIN names a folder that has them; without it they are built.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := theBinaries.program(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *sharedBinaries) program(name string) (string, error) {
	if dir := os.Getenv("IPMASQ_BIN"); dir != "" {
		path, err := filepath.Abs(filepath.Join(dir, name))
		if err != nil {
			return "", fmt.Errorf("looking for %s in IPMASQ_BIN: %w", name, err)
		}
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("looking for %s in IPMASQ_BIN: %w", name, err)
		}
		return path, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == "" {
		dir, err := os.MkdirTemp("", "ip-masq-guard-bin-")
		if err != nil {
			return "", fmt.Errorf("building %s: %w", name, err)
		}
		s.dir, s.built = dir, map[string]error{}
	}
	path := filepath.Join(s.dir, name)
	err, ok := s.built[name]
	if !ok {
		cmd := exec.Command("go", "build", "-o", path, "./"+name)
		cmd.Dir = ".." // tests run in the folder of their package
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
		s.built[name] = err
	}
	return path, err
}

func (s *sharedBinaries) remove() {
	if s.dir != "" {
		_ = os.RemoveAll(s.dir)
	}
}
