package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestHostileConfig writes texts that are made to exhaust a parser: each has to be
// refused by a decision, not by the end of the API server's patience, and the
// webhook has to be as well as before.
func TestHostileConfig(t *testing.T) {
	const mostBytes = 1 << 20     // the API server's own limit on the data of a ConfigMap
	const limit = 5 * time.Second // timeoutSeconds of the webhook's registration

	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [10.0.0.0/8, 10.0.0.0/8, 10.0.0.0/8, 10.0.0.0/8]\n")
	for i := range 20 {
		fmt.Fprintf(&bomb, "a%d: &a%d [*a%d, *a%d, *a%d, *a%d]\n", i+1, i+1, i, i, i, i)
	}
	bomb.WriteString("nonMasqueradeCIDRs: *a20\n")

	var many strings.Builder
	many.WriteString("cidrLimit: 100000\nnonMasqueradeCIDRs: [")
	for i := range 100_000 {
		fmt.Fprintf(&many, "%d.0.0.0/8,", i%9+1)
	}
	many.WriteString("]\n")

	tests := []struct {
		name   string
		config string
		says   string
	}{
		{"opening brackets", strings.Repeat("[", mostBytes-1) + "\n", "config-loads"},
		{"brackets that close", strings.Repeat("[", mostBytes/2-1) + strings.Repeat("]", mostBytes/2-1) + "\n", "config-loads"},
		{"braces", strings.Repeat("{a: ", mostBytes/4-1) + "\n", "config-loads"},
		{"aliases of aliases", bomb.String(), "alias"},
		{"100,000 ranges", many.String(), "16384"},
		{"one long line", "nonMasqueradeCIDRs: [" + strings.Repeat("x", mostBytes-64) + "]\n", "config-loads"},
		{"comments only", strings.Repeat("#\n", mostBytes/2-1), "config-not-empty"},
		{"bytes that are no text", "nonMasqueradeCIDRs: [\"\\u0000\\u0007\u202e\"]\n", "config-loads"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := needGuard(t)
			k := g.cluster.kubectl()
			start := time.Now()
			got := k.run(t.Context(), manifest(tt.config), "create", "-f", "-")
			took := time.Since(start)
			if got.exit != 1 || !strings.Contains(got.stderr, tt.says) || strings.Contains(got.stderr, "failed calling webhook") {
				t.Errorf("not a denial that says %q: exit %d, %.2000s", tt.says, got.exit, got.stderr)
			}
			t.Logf("refused after %s: %.400s", took, got.stderr)
			if took > limit {
				t.Errorf("refused after %s, want less than %s", took, limit)
			}
			if len(got.stderr) > 16<<10 {
				t.Errorf("the denial has %d bytes", len(got.stderr))
			}
			if k.stored(t, kubeSystem) != nil {
				t.Error("it was stored")
			}
			k.must(t, manifest(approvedConfig), "create", "-f", "-")
		})
	}
}
