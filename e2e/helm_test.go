package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

const (
	// chart is the folder of our chart.
	chart = "../charts/ip-masq-guard"
	// previousChart is the release before, as it was made at 9c170e3:
	//
	//	helm package charts/ip-masq-guard
	previousChart = "testdata/ip-masq-guard-0.1.0.tgz"
)

// helm is the real one, as one user has it, whose home is of one test.
type helm struct {
	binary     string
	kubeconfig string
	home       string
}

// needHelm returns helm without any cluster. Where helm/build.sh has not built it the
// test is skipped, or fails where REQUIRE_CLUSTER=1.
func needHelm(t *testing.T) helm {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "helm/build.sh", "--print").Output()
	if err != nil {
		t.Fatalf("running helm/build.sh --print: %v", err)
	}
	binary := filepath.Join(strings.TrimSpace(string(out)), "helm")
	_, err = os.Stat(binary)
	switch {
	case err == nil:
	case os.Getenv("REQUIRE_CLUSTER") == "1":
		t.Fatalf("no %s: run `make helm`", binary)
	default:
		t.Skipf("no %s: run `make helm`; REQUIRE_CLUSTER=1 makes this a failure", binary)
	}
	return helm{binary: binary, home: t.TempDir(), kubeconfig: os.DevNull}
}

// helmLimit bounds one command.
const helmLimit = time.Minute

func (h helm) run(ctx context.Context, args ...string) output {
	ctx, cancel := context.WithTimeout(ctx, helmLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.home, "KUBECONFIG=" + h.kubeconfig, "LC_ALL=C"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	got := output{stdout: stdout.String(), stderr: stderr.String()}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got.exit = exit.ExitCode()
	} else if err != nil {
		got.exit = -1
		got.stderr += err.Error()
	}
	return got
}

// must runs a command that has to succeed; cleanups may use it too.
func (h helm) must(t *testing.T, args ...string) string {
	t.Helper()
	got := h.run(context.WithoutCancel(t.Context()), args...)
	if got.exit != 0 {
		t.Fatalf("helm %s: %s", strings.Join(args, " "), got)
	}
	return got.stdout
}

// objects reads a stream of manifests.
func objects(t *testing.T, manifests string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		switch {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatalf("reading manifests: %v", err)
		case object.Object != nil:
			all = append(all, object)
		}
	}
}

// findObject returns the one object of a kind and name.
func findObject(t *testing.T, all []*unstructured.Unstructured, kind, name string) *unstructured.Unstructured {
	t.Helper()
	for _, object := range all {
		if object.GetKind() == kind && object.GetName() == name {
			return object
		}
	}
	t.Fatalf("no %s %s among %d objects", kind, name, len(all))
	return nil
}

// manifestText is an object as a file.
func manifestText(t *testing.T, object *unstructured.Unstructured) string {
	t.Helper()
	text, err := object.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// argsOf are the arguments of the first container of a workload.
func argsOf(t *testing.T, workload *unstructured.Unstructured) []string {
	t.Helper()
	containers, _, err := unstructured.NestedSlice(workload.Object, "spec", "template", "spec", "containers")
	if err != nil || len(containers) == 0 {
		t.Fatalf("%s %s has no containers: %v", workload.GetKind(), workload.GetName(), err)
	}
	container, ok := containers[0].(map[string]any)
	if !ok {
		t.Fatalf("a container is %T", containers[0])
	}
	args, _, err := unstructured.NestedStringSlice(container, "args")
	if err != nil {
		t.Fatal(err)
	}
	return args
}
