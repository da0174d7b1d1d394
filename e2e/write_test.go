package e2e

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestKubectlWrites holds every way to write the ConfigMap to the same judgement:
// what is refused, or only tried, changes nothing, and what a person reads is told
// by the transcripts.
func TestKubectlWrites(t *testing.T) {
	const none = "" // no ConfigMap
	merge := func(config string) string {
		return `--patch={"data":{"config":"` + strings.ReplaceAll(config, "\n", `\n`) + `"}}`
	}
	tests := []struct {
		name   string
		stored string // the config before
		stdin  string
		args   []string
		exit   int
		want   string // the config afterwards
		says   []string
	}{
		{
			name:  "create refused",
			stdin: manifest(guideConfig), args: []string{"create", "-f", "-"},
			exit: 1, want: none, says: []string{"write 198.15.5.0/24"},
		},
		{
			name:  "create",
			stdin: manifest(guideMended), args: []string{"create", "-f", "-"},
			want: guideMended, says: []string{"configmap/ip-masq-agent created"},
		},
		{
			name:  "create dry-run refused",
			stdin: manifest(guideConfig), args: []string{"create", "-f", "-", "--dry-run=server"},
			exit: 1, want: none, says: []string{"write 198.15.5.0/24"},
		},
		{
			name:  "create dry-run",
			stdin: manifest(guideMended), args: []string{"create", "-f", "-", "--dry-run=server"},
			want: none, says: []string{"created (server dry run)"},
		},
		{
			name:  "create configmap refused",
			stdin: guideConfig, args: []string{"create", "configmap", configMap, "-n", kubeSystem, "--from-file=config=/dev/stdin"},
			exit: 1, want: none, says: []string{"write 198.15.5.0/24"},
		},
		{
			name:  "create configmap",
			stdin: approvedConfig, args: []string{"create", "configmap", configMap, "-n", kubeSystem, "--from-file=config=/dev/stdin"},
			want: approvedConfig,
		},
		{
			name:  "first apply refused",
			stdin: manifest(guideConfig), args: []string{"apply", "-f", "-"},
			exit: 1, want: none, says: []string{"write 198.15.5.0/24"},
		},
		{
			name:   "apply refused",
			stored: approvedConfig,
			stdin:  manifest(guideConfig), args: []string{"apply", "-f", "-"},
			exit: 1, want: approvedConfig, says: []string{"write 198.15.5.0/24"},
		},
		{
			name:   "apply",
			stored: approvedConfig,
			stdin:  manifest(widerConfig), args: []string{"apply", "-f", "-"},
			want: widerConfig, says: []string{"Warning: no longer masqueraded: 172.16.0.0/12"},
		},
		{
			name:   "apply dry-run refused",
			stored: approvedConfig,
			stdin:  manifest(guideConfig), args: []string{"apply", "-f", "-", "--dry-run=server"},
			exit: 1, want: approvedConfig, says: []string{"write 198.15.5.0/24"},
		},
		{
			name:   "apply dry-run",
			stored: widerConfig,
			stdin:  manifest(approvedConfig), args: []string{"apply", "-f", "-", "--dry-run=server"},
			want: widerConfig, says: []string{"Warning: now masqueraded: 172.16.0.0/12"},
		},
		{
			name:   "server-side apply refused",
			stored: approvedConfig,
			stdin:  manifest(guideConfig), args: []string{"apply", "--server-side", "--force-conflicts", "-f", "-"},
			exit: 1, want: approvedConfig, says: []string{"write 198.15.5.0/24"},
		},
		{
			name:   "server-side apply",
			stored: widerConfig,
			stdin:  manifest(approvedConfig), args: []string{"apply", "--server-side", "--force-conflicts", "-f", "-"},
			want: approvedConfig, says: []string{"Warning: now masqueraded: 172.16.0.0/12"},
		},
		{
			name:   "server-side apply dry-run refused",
			stored: approvedConfig,
			stdin:  manifest(guideConfig), args: []string{"apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"},
			exit: 1, want: approvedConfig, says: []string{"write 198.15.5.0/24"},
		},
		{
			name:   "patch refused",
			stored: approvedConfig,
			args:   []string{"patch", "configmap", configMap, "-n", kubeSystem, "--type=merge", merge(guideConfig)},
			exit:   1, want: approvedConfig, says: []string{"write 198.15.5.0/24"},
		},
		{
			name:   "patch",
			stored: approvedConfig,
			args:   []string{"patch", "configmap", configMap, "-n", kubeSystem, "--type=merge", merge(widerConfig)},
			want:   widerConfig, says: []string{"Warning: no longer masqueraded: 172.16.0.0/12"},
		},
		{
			name:   "patch dry-run refused",
			stored: approvedConfig,
			args:   []string{"patch", "configmap", configMap, "-n", kubeSystem, "--dry-run=server", merge(guideConfig)},
			exit:   1, want: approvedConfig, says: []string{"write 198.15.5.0/24"},
		},
		{
			name:   "replace refused",
			stored: approvedConfig,
			stdin:  manifest(guideConfig), args: []string{"replace", "-f", "-"},
			exit: 1, want: approvedConfig, says: []string{"write 198.15.5.0/24"},
		},
		{
			name:   "replace",
			stored: approvedConfig,
			stdin:  manifest(widerConfig), args: []string{"replace", "-f", "-"},
			want: widerConfig, says: []string{"Warning: no longer masqueraded: 172.16.0.0/12"},
		},
		{
			name:   "replace dry-run refused",
			stored: approvedConfig,
			stdin:  manifest(guideConfig), args: []string{"replace", "--dry-run=server", "-f", "-"},
			exit: 1, want: approvedConfig, says: []string{"write 198.15.5.0/24"},
		},
		{
			name:   "diff refused",
			stored: approvedConfig,
			stdin:  manifest(guideConfig), args: []string{"diff", "-f", "-"},
			exit: 2, want: approvedConfig, says: []string{"write 198.15.5.0/24"},
		},
		{
			name:   "annotate",
			stored: approvedConfig,
			args:   []string{"annotate", "configmap", configMap, "-n", kubeSystem, "owner=network"},
			want:   approvedConfig, says: []string{"configmap/ip-masq-agent annotated"},
		},
		{
			name:   "delete refused",
			stored: approvedConfig,
			args:   []string{"delete", "configmap", configMap, "-n", kubeSystem},
			exit:   1, want: approvedConfig, says: []string{"no-delete"},
		},
		{
			name:   "delete dry-run refused",
			stored: approvedConfig,
			args:   []string{"delete", "configmap", configMap, "-n", kubeSystem, "--dry-run=server"},
			exit:   1, want: approvedConfig, says: []string{"no-delete"},
		},
		{
			// The name of the object is in no part of this request.
			name:   "delete collection refused",
			stored: approvedConfig,
			args: []string{
				"delete", "--raw",
				"/api/v1/namespaces/kube-system/configmaps?fieldSelector=metadata.name%3Dip-masq-agent",
			},
			exit: 1, want: approvedConfig, says: []string{"no-delete"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := needGuard(t)
			k := g.cluster.kubectl()
			if tt.stored != none {
				k.must(t, manifest(tt.stored), "create", "--save-config", "-f", "-")
			}
			got := k.run(t.Context(), tt.stdin, tt.args...)
			if got.exit != tt.exit {
				t.Errorf("exit %d, want %d", got.exit, tt.exit)
			}
			for _, words := range tt.says {
				if !strings.Contains(got.stdout+got.stderr, words) {
					t.Errorf("nobody says %q", words)
				}
			}
			golden(t, transcript(tt.args, got))

			after := none
			if stored := k.stored(t, kubeSystem); stored != nil {
				after = stored.Data["config"]
			}
			if diff := cmp.Diff(tt.want, after); diff != "" {
				t.Errorf("stored config differs (-want +got):\n%s", diff)
			}
		})
	}
}
