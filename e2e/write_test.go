package e2e

import (
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What kubectl says of guideConfig, however it is written, and of a deletion.
const (
	guideRefused = `The ConfigMap "ip-masq-agent" is invalid: data["config"]:2 nonMasqueradeCIDRs[0]: "198.15.5.92/24" has host bits set; write 198.15.5.0/24 [config-loads]
  docs: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#config-loads
`
	deletionRefused = `The ConfigMap "ip-masq-agent" is invalid: metadata.name: without the ConfigMap every node goes back to the default ranges; edit it instead; to remove the agents, uninstall their chart [no-delete]
  docs: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#no-delete
`
	// Of this command, kubectl shows the message alone.
	createConfigMapRefused = `error: failed to create configmap: admission webhook "validate.ip-masq-guard.io" denied the request: 1 problem in ConfigMap kube-system/ip-masq-agent; nothing was changed
data["config"]:2 nonMasqueradeCIDRs[0]: "198.15.5.92/24" has host bits set; write 198.15.5.0/24 [config-loads]
docs: https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md
`
)

// TestKubectlWrites holds every way to write the ConfigMap to the same judgement:
// what is refused, or only tried, changes nothing.
func TestKubectlWrites(t *testing.T) {
	const none = "" // no ConfigMap
	merge := func(config string) string {
		return `--patch={"data":{"config":"` + strings.ReplaceAll(config, "\n", `\n`) + `"}}`
	}
	tests := []struct {
		name   string
		stored string // the config before
		stdin  string
		args   string // "PATCH" stands for the argument below
		patch  string
		exit   int
		stdout string
		stderr string
		want   string // the config afterwards
	}{
		{
			name:  "create refused",
			stdin: manifest(guideConfig), args: "create -f -",
			exit: 1, stderr: guideRefused, want: none,
		},
		{
			name:  "create",
			stdin: manifest(guideMended), args: "create -f -",
			stdout: "configmap/ip-masq-agent created\n",
			stderr: "Warning: now masqueraded: 172.16.0.0/12\nWarning: no longer masqueraded: 198.15.5.0/24\n",
			want:   guideMended,
		},
		{
			name:  "create dry-run refused",
			stdin: manifest(guideConfig), args: "create -f - --dry-run=server",
			exit: 1, stderr: guideRefused, want: none,
		},
		{
			name:  "create dry-run",
			stdin: manifest(guideMended), args: "create -f - --dry-run=server",
			stdout: "configmap/ip-masq-agent created (server dry run)\n",
			stderr: "Warning: now masqueraded: 172.16.0.0/12\nWarning: no longer masqueraded: 198.15.5.0/24\n",
			want:   none,
		},
		{
			name:  "create configmap refused",
			stdin: guideConfig, args: "create configmap ip-masq-agent -n kube-system --from-file=config=/dev/stdin",
			exit: 1, stderr: createConfigMapRefused, want: none,
		},
		{
			name:  "create configmap",
			stdin: approvedConfig, args: "create configmap ip-masq-agent -n kube-system --from-file=config=/dev/stdin",
			stdout: "configmap/ip-masq-agent created\n",
			stderr: "Warning: now masqueraded: 172.16.0.0/12\n",
			want:   approvedConfig,
		},
		{
			name:  "first apply refused",
			stdin: manifest(guideConfig), args: "apply -f -",
			exit: 1, stderr: guideRefused, want: none,
		},
		{
			name:   "apply refused",
			stored: approvedConfig,
			stdin:  manifest(guideConfig), args: "apply -f -",
			exit: 1, stderr: guideRefused, want: approvedConfig,
		},
		{
			name:   "apply",
			stored: approvedConfig,
			stdin:  manifest(widerConfig), args: "apply -f -",
			stdout: "configmap/ip-masq-agent configured\n",
			stderr: "Warning: no longer masqueraded: 172.16.0.0/12\n",
			want:   widerConfig,
		},
		{
			name:   "apply of the same",
			stored: approvedConfig,
			stdin:  manifest(approvedConfig), args: "apply -f -",
			stdout: "configmap/ip-masq-agent unchanged\n",
			want:   approvedConfig,
		},
		{
			name:   "apply dry-run refused",
			stored: approvedConfig,
			stdin:  manifest(guideConfig), args: "apply -f - --dry-run=server",
			exit: 1, stderr: guideRefused, want: approvedConfig,
		},
		{
			name:   "apply dry-run",
			stored: widerConfig,
			stdin:  manifest(approvedConfig), args: "apply -f - --dry-run=server",
			stdout: "configmap/ip-masq-agent configured (server dry run)\n",
			stderr: "Warning: now masqueraded: 172.16.0.0/12\n",
			want:   widerConfig,
		},
		{
			name:   "server-side apply refused",
			stored: approvedConfig,
			stdin:  manifest(guideConfig), args: "apply --server-side --force-conflicts -f -",
			exit: 1, stderr: guideRefused, want: approvedConfig,
		},
		{
			name:   "server-side apply",
			stored: widerConfig,
			stdin:  manifest(approvedConfig), args: "apply --server-side --force-conflicts -f -",
			stdout: "configmap/ip-masq-agent serverside-applied\n",
			stderr: "Warning: now masqueraded: 172.16.0.0/12\n",
			want:   approvedConfig,
		},
		{
			name:   "server-side apply dry-run refused",
			stored: approvedConfig,
			stdin:  manifest(guideConfig), args: "apply --server-side --force-conflicts --dry-run=server -f -",
			exit: 1, stderr: guideRefused, want: approvedConfig,
		},
		{
			name:   "server-side apply dry-run",
			stored: widerConfig,
			stdin:  manifest(approvedConfig), args: "apply --server-side --force-conflicts --dry-run=server -f -",
			stdout: "configmap/ip-masq-agent serverside-applied (server dry run)\n",
			stderr: "Warning: now masqueraded: 172.16.0.0/12\n",
			want:   widerConfig,
		},
		{
			name:   "patch refused",
			stored: approvedConfig,
			args:   "patch configmap ip-masq-agent -n kube-system --type=merge PATCH", patch: merge(guideConfig),
			exit: 1, stderr: guideRefused, want: approvedConfig,
		},
		{
			name:   "patch",
			stored: approvedConfig,
			args:   "patch configmap ip-masq-agent -n kube-system --type=merge PATCH", patch: merge(widerConfig),
			stdout: "configmap/ip-masq-agent patched\n",
			stderr: "Warning: no longer masqueraded: 172.16.0.0/12\n",
			want:   widerConfig,
		},
		{
			name:   "patch dry-run refused",
			stored: approvedConfig,
			args:   "patch configmap ip-masq-agent -n kube-system --dry-run=server PATCH", patch: merge(guideConfig),
			exit: 1, stderr: guideRefused, want: approvedConfig,
		},
		{
			name:   "patch dry-run", // of which kubectl does not tell that nothing happened
			stored: approvedConfig,
			args:   "patch configmap ip-masq-agent -n kube-system --dry-run=server PATCH", patch: merge(widerConfig),
			stdout: "configmap/ip-masq-agent patched\n",
			stderr: "Warning: no longer masqueraded: 172.16.0.0/12\n",
			want:   approvedConfig,
		},
		{
			name:   "replace refused",
			stored: approvedConfig,
			stdin:  manifest(guideConfig), args: "replace -f -",
			exit: 1, stderr: guideRefused, want: approvedConfig,
		},
		{
			name:   "replace",
			stored: approvedConfig,
			stdin:  manifest(widerConfig), args: "replace -f -",
			stdout: "configmap/ip-masq-agent replaced\n",
			stderr: "Warning: no longer masqueraded: 172.16.0.0/12\n",
			want:   widerConfig,
		},
		{
			name:   "replace dry-run refused",
			stored: approvedConfig,
			stdin:  manifest(guideConfig), args: "replace --dry-run=server -f -",
			exit: 1, stderr: guideRefused, want: approvedConfig,
		},
		{
			name:   "replace dry-run",
			stored: approvedConfig,
			stdin:  manifest(widerConfig), args: "replace --dry-run=server -f -",
			stdout: "configmap/ip-masq-agent replaced (server dry run)\n",
			stderr: "Warning: no longer masqueraded: 172.16.0.0/12\n",
			want:   approvedConfig,
		},
		{
			name:   "diff refused", // exit 1 would mean a difference
			stored: approvedConfig,
			stdin:  manifest(guideConfig), args: "diff -f -",
			exit: 2, stderr: guideRefused, want: approvedConfig,
		},
		{
			name:   "annotate",
			stored: approvedConfig,
			args:   "annotate configmap ip-masq-agent -n kube-system owner=network",
			stdout: "configmap/ip-masq-agent annotated\n",
			want:   approvedConfig,
		},
		{
			name:   "delete refused",
			stored: approvedConfig,
			args:   "delete configmap ip-masq-agent -n kube-system",
			exit:   1, stderr: deletionRefused, want: approvedConfig,
		},
		{
			name:   "delete dry-run refused",
			stored: approvedConfig,
			args:   "delete configmap ip-masq-agent -n kube-system --dry-run=server",
			exit:   1, stderr: deletionRefused, want: approvedConfig,
		},
		{
			name:   "delete collection refused", // this request names no object
			stored: approvedConfig,
			args:   "delete --raw /api/v1/namespaces/kube-system/configmaps?fieldSelector=metadata.name%3Dip-masq-agent",
			exit:   1, stderr: deletionRefused, want: approvedConfig,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := needGuard(t)
			k := g.cluster.kubectl()
			if tt.stored != none {
				// As if it had been applied: kubectl apply complains of a first time.
				applied := strings.HasPrefix(tt.args, "apply -f")
				k.must(t, manifest(tt.stored), "create", "--save-config="+strconv.FormatBool(applied), "-f", "-")
			}
			args := strings.Fields(tt.args)
			if tt.patch != "" {
				args[len(args)-1] = tt.patch
			}
			want := output{stdout: tt.stdout, stderr: tt.stderr, exit: tt.exit}
			if diff := cmp.Diff(want.String(), k.run(t.Context(), tt.stdin, args...).String()); diff != "" {
				t.Errorf("kubectl %s (-want +got):\n%s", tt.args, diff)
			}
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
