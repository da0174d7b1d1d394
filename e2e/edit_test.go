package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKubectlEdit(t *testing.T) {
	tests := []struct {
		name   string
		script string
		visits int
		exit   int
		want   string // data.config afterwards
	}{
		{
			name:   "mended by the remedies",
			script: "guide",
			visits: 2,
			want: `nonMasqueradeCIDRs:
- 10.0.0.0/8
- 192.168.0.0/16
- 198.15.5.0/24
resyncInterval: 60s
`,
		},
		{
			name:   "given up",
			script: "give-up",
			visits: 2,
			exit:   1,
			want: `nonMasqueradeCIDRs:
- 10.0.0.0/8
- 192.168.0.0/16
resyncInterval: 60s
`,
		},
		{
			name:   "an exception that takes a pod range",
			script: "except",
			visits: 2,
			want: `nonMasqueradeCIDRs:
- 10.0.0.0/8
- 192.168.0.0/16
masqueradeCIDRs:
- 10.200.0.0/16
resyncInterval: 60s
`,
		},
		{
			name:   "right at once",
			script: "one-line",
			visits: 1,
			want: `nonMasqueradeCIDRs:
- 10.0.0.0/8
- 192.168.0.0/16
- 172.16.0.0/12
resyncInterval: 60s
`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := needGuard(t)
			k := g.cluster.kubectl()
			k.must(t, manifest(approvedConfig), "create", "-f", "-")

			transcript, exit, visits := edit(t, k, tt.script, kubeSystem, configMap)
			if exit != tt.exit || visits != tt.visits {
				t.Errorf("exit %d after %d visits, want exit %d after %d", exit, visits, tt.exit, tt.visits)
			}
			golden(t, transcript)
			if diff := cmp.Diff(tt.want, k.stored(t, kubeSystem).Data["config"]); diff != "" {
				t.Errorf("stored config differs (-want +got):\n%s", diff)
			}
		})
	}
}

// edit runs kubectl edit with a scripted editor and tells everything that a person
// would have seen, in its order.
func edit(t *testing.T, k kubectl, script, namespace, name string) (transcript string, exit, visits int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	record := t.TempDir()
	k.env = append(k.env, "KUBE_EDITOR="+self, editorScriptVariable+"="+script, editorRecordVariable+"="+record)
	args := []string{"edit", "configmap", name, "-n", namespace}
	got := k.run(t.Context(), "", args...)

	var seen strings.Builder
	fmt.Fprintf(&seen, "$ kubectl %s\n", strings.Join(args, " "))
	for {
		buffer, err := os.ReadFile(visitFile(record, visits+1))
		if err != nil {
			break
		}
		visits++
		fmt.Fprintf(&seen, "=== editor, visit %d\n%s", visits, buffer)
	}
	fmt.Fprintf(&seen, "=== stdout\n%s=== stderr\n%s=== exit %d\n", got.stdout, got.stderr, got.exit)
	return seen.String(), got.exit, visits
}
