package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An answer after the other: nobody has counted the nodes, one of two is ready, both are.
func TestAwaitDaemonSet(t *testing.T) {
	answers := []appsv1.DaemonSet{
		{ObjectMeta: metav1.ObjectMeta{Generation: 1}},
		{
			ObjectMeta: metav1.ObjectMeta{Generation: 1},
			Status:     appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 2, UpdatedNumberScheduled: 2, NumberReady: 1},
		},
		{
			ObjectMeta: metav1.ObjectMeta{Generation: 1},
			Status:     appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 2, UpdatedNumberScheduled: 2, NumberReady: 2},
		},
	}
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if want := "/apis/apps/v1/namespaces/infra/daemonsets/clean"; r.URL.Path != want {
			t.Errorf("asked for %s, want %s", r.URL.Path, want)
		}
		w.Header().Set("Content-Type", "application/json")
		answer := answers[min(asked, len(answers)-1)]
		asked++
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(`{"apiVersion": "v1", "kind": "Config", "current-context": "a",
"contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}], "users": [{"name": "a", "user": {}}],
"clusters": [{"name": "a", "cluster": {"server": "`+server.URL+`"}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	args := []string{"--await-daemonset=clean", "--configmap-namespace=infra", "--kubeconfig=" + kubeconfig}
	if err := run(t.Context(), args, process{stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if want := "clean is ready on all 2 nodes\n"; out.String() != want || asked != 3 {
		t.Errorf("printed %q after %d questions, want %q after 3", out.String(), asked, want)
	}
}
