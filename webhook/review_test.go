package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

var update = flag.Bool("update", false, "rewrite the golden files") //nolint:gochecknoglobals // a flag of the test binary

// twoNodes is a cluster that the approved configurations fit.
func twoNodes() *policy.Cluster {
	known, _ := union(membersOf(
		node("worker-1", []string{"10.244.1.0/24"}, address(corev1.NodeInternalIP, "192.168.0.11")),
		node("worker-2", []string{"10.244.2.0/24"}, address(corev1.NodeInternalIP, "192.168.0.12")),
		serviceCIDR("10.96.0.0/12"),
	))
	return prepared(known)
}

// failingRule is not about the write: what it asks for is no number.
const failingRule = `package ipmasq.team

deny contains "never" if {
	some cidr in input.config.nonMasqueradeCIDRs
	to_number(cidr.cidr) > 1
}
`

// lateRule ends long after every deadline.
const lateRule = `package ipmasq.team

deny contains "never" if {
	some a in numbers.range(1, 100000)
	some b in numbers.range(1, 100000)
	a * b == 0
}
`

// TestReviews answers the reviews of testdata with what lies beside them, byte for
// byte but for decision and revision.
func TestReviews(t *testing.T) {
	scrub := regexp.MustCompile(`"(decision-id|policy-revision)": "[0-9a-f]{32,64}"`)
	tests := []struct {
		name    string
		cluster *policy.Cluster
		rule    string
		allowed bool
	}{
		{name: "create-approved", cluster: twoNodes(), allowed: true},
		{name: "create-gke-example", cluster: twoNodes()},
		{name: "update-approved", cluster: twoNodes(), allowed: true},
		{name: "update-unchanged", cluster: twoNodes(), allowed: true},
		{name: "edit-denied", cluster: twoNodes()},
		{name: "edit-soft-and-hard", cluster: twoNodes()},
		{name: "dry-run-denied", cluster: twoNodes()},
		{name: "delete-denied", cluster: twoNodes()},
		{name: "delete-collection-denied", cluster: twoNodes()},
		{name: "key-misnamed", cluster: twoNodes()},
		{name: "key-binary", cluster: twoNodes()},
		{name: "many-violations", cluster: twoNodes()},
		{name: "unknown-ranges", cluster: prepared(clusterRanges{}), allowed: true},
		{name: "rule-fails", cluster: twoNodes(), rule: failingRule},
		{name: "rule-late", cluster: twoNodes(), rule: lateRule},
	}
	names := make([]string, 0, len(tests))
	for _, tt := range tests {
		names = append(names, tt.name+".json")
		t.Run(tt.name, func(t *testing.T) {
			body, err := os.ReadFile(filepath.Join("testdata", tt.name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			var sources []policy.Source
			if tt.rule != "" {
				sources = []policy.Source{{Name: "team.rego", Text: []byte(tt.rule)}}
			}
			engine, err := policy.New(t.Context(), policy.Params{}, sources)
			if err != nil {
				t.Fatal(err)
			}
			h := newHandler(engine)
			h.guard().cluster = func() *policy.Cluster { return tt.cluster }
			recorder := httptest.NewRecorder()
			h.ServeHTTP(recorder, post(t.Context(), "/validate?timeout=5s", string(body)))

			answer := answerOf(t, recorder)
			if answer.Allowed != tt.allowed {
				t.Errorf("allowed is %t, want %t", answer.Allowed, tt.allowed)
			}
			checkLimits(t, answer.Warnings, recorder.Body.Len())
			var got bytes.Buffer
			if err = json.Indent(&got, recorder.Body.Bytes(), "", "  "); err != nil {
				t.Fatal(err)
			}
			got.WriteByte('\n')
			scrubbed := scrub.ReplaceAll(got.Bytes(), []byte(`"$1": "HEX"`))
			golden := filepath.Join("testdata", tt.name+".response.json")
			if *update {
				if err = os.WriteFile(golden, scrubbed, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(scrubbed)); diff != "" {
				t.Errorf("response differs (-want +got):\n%s", diff)
			}
		})
	}
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if name := filepath.Base(file); !strings.HasSuffix(name, ".response.json") && !slices.Contains(names, name) {
			t.Errorf("%s is not tested", file)
		}
	}
}

// checkLimits holds a response to what the API server passes on.
func checkLimits(t *testing.T, warnings []string, size int) {
	t.Helper()
	total := 0
	for _, warning := range warnings {
		runes := utf8.RuneCountInString(warning)
		total += runes
		if runes > 256 || strings.ContainsAny(warning, "\n\r\t") {
			t.Errorf("warning of %d runes, or with line breaks: %q", runes, warning)
		}
	}
	if total > 4096 {
		t.Errorf("warnings of %d runes, more than 4096", total)
	}
	if size > 64<<10 {
		t.Errorf("response of %d bytes", size)
	}
}

// TestPolicyRequest reads everything that rules may ask for out of a review.
func TestPolicyRequest(t *testing.T) {
	body, err := os.ReadFile("testdata/edit-denied.json")
	if err != nil {
		t.Fatal(err)
	}
	request, err := decodeReview(body)
	if err != nil {
		t.Fatal(err)
	}
	received := time.Date(2026, 6, 1, 8, 0, 0, 0, time.UTC)
	got, err := request.policyRequest(received)
	if err != nil {
		t.Fatal(err)
	}
	if got.Operation != policy.Update || got.Namespace != "kube-system" || got.Name != "ip-masq-agent" || got.User != "alice" ||
		got.FieldManager != "kubectl-edit" || got.DryRun || !got.Time.Equal(received) {
		t.Errorf("request %+v", got)
	}
	if !strings.HasPrefix(got.Object.Data["config"], "# what the cluster spares\n") || !strings.HasPrefix(got.Old.Data["config"], "nonMasqueradeCIDRs:\n") {
		t.Errorf("objects %v and %v", got.Object.Data, got.Old.Data)
	}
}

// TestBoundWarnings keeps the summary before all else.
func TestBoundWarnings(t *testing.T) {
	long := strings.Repeat("ü", 256)
	warnings := append([]string{"summary"}, slices.Repeat([]string{long}, 16)...)
	got := boundWarnings(warnings)
	if len(got) != 16 || got[0] != "summary" {
		t.Errorf("%d warnings, the first %q; want 16, the first the summary", len(got), got[0])
	}
	if got := boundWarnings([]string{"a", "b"}); len(got) != 2 {
		t.Errorf("%d warnings, want both", len(got))
	}
}
