package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// decisionLog has two decisions, in full and masked, and another line.
func decisionLog(t *testing.T) []byte {
	t.Helper()
	engine, err := policy.New(t.Context(), policy.Params{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cluster := policy.NewCluster([]policy.Range{}, []policy.Range{}, []policy.Range{})
	var log bytes.Buffer
	for i, text := range []string{"nonMasqueradeCIDRs: [10.0.0.0/8]\n", "nonMasqueradeCIDRs: [10.0.0.0/8, 10.9.0.0/16]\n"} {
		request := policy.Request{
			Operation: policy.Create, Namespace: "kube-system", Name: "ip-masq-agent", User: "alice",
			Time:   time.Date(2026, 1, 2, 3, 4, i, 0, time.UTC),
			Object: &corev1.ConfigMap{Data: map[string]string{"config": text}},
		}
		decision := engine.Decide(t.Context(), request, cluster)
		decision.ID = []string{"first", "second"}[i]
		entry, err := policy.NewLogEntry(request, cluster, decision)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range []policy.LogEntry{entry, entry.Masked()} {
			if err := json.NewEncoder(&log).Encode(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	log.WriteString("another line\n")
	return log.Bytes()
}

// TestReplay makes the decisions of a log again: by the same rules nothing changes, by
// params that relax one, a refusal does.
func TestReplay(t *testing.T) {
	log := string(decisionLog(t))
	for _, tt := range []struct {
		name, args, stdin string
		exit              int
		want              string
	}{
		{
			name: "the same rules", stdin: log,
			want: "2 decisions replayed, 0 changed, 0 of them refused now; 2 masked, which cannot be replayed; 1 other line\n",
		},
		{
			name: "a rule that warns", args: " --params testdata/relaxed.yaml", stdin: log, exit: 1,
			want: `2026-01-02T03:04:01Z second by alice: refused then, approved now
  + warn[no-overlap] nonMasqueradeCIDRs[1]: 10.9.0.0/16 lies inside 10.0.0.0/8 (nonMasqueradeCIDRs[0], line 1), so it has no effect
  - deny[no-overlap] nonMasqueradeCIDRs[1]: 10.9.0.0/16 lies inside 10.0.0.0/8 (nonMasqueradeCIDRs[0], line 1), so it has no effect
2 decisions replayed, 1 changed, 0 of them refused now; 2 masked, which cannot be replayed; 1 other line
`,
		},
		{name: "masked alone", stdin: "{}\n", exit: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			exit := run(t.Context(), strings.Fields("replay -"+tt.args), streams{in: strings.NewReader(tt.stdin), out: &stdout, err: &stderr})
			if exit != tt.exit {
				t.Errorf("exit %d, want %d: %s", exit, tt.exit, &stderr)
			}
			if diff := cmp.Diff(tt.want, stdout.String()); tt.want != "" && diff != "" {
				t.Errorf("report differs (-want +got):\n%s", diff)
			}
		})
	}
}
