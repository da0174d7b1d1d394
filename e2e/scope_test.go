package e2e

import (
	"strings"
	"testing"
)

// TestConfigMapShape covers the object around the text: agents mount a key of
// binaryData as the same file, and nothing where the key has another name.
func TestConfigMapShape(t *testing.T) {
	// "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]"
	const encoded = "bm9uTWFzcXVlcmFkZUNJRFJzOiBbMTAuMC4wLjAvOCwgMTkyLjE2OC4wLjAvMTZdCg=="
	tests := []struct {
		name     string
		manifest string
	}{
		{"the config in binaryData", manifestOf(kubeSystem, configMap, "binaryData", "config", encoded)},
		{"a misnamed key", manifestOf(kubeSystem, configMap, "data", "Config", approvedConfig)},
		{"the name of the file as the key", manifestOf(kubeSystem, configMap, "data", "ip-masq-agent", approvedConfig)},
		{"no key at all", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ip-masq-agent, namespace: kube-system}\n"},
		{"an empty value", manifestOf(kubeSystem, configMap, "data", "config", "")},
		{"a key beside the config", manifest(approvedConfig) + "  config.bak: |\n    nonMasqueradeCIDRs: []\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := needGuard(t)
			k := g.cluster.kubectl()
			args := []string{"create", "-f", "-"}
			got := k.run(t.Context(), tt.manifest, args...)
			golden(t, transcript(args, got))
			stored := k.stored(t, kubeSystem)
			if (got.exit == 0) != (stored != nil) {
				t.Errorf("exit %d, and yet the stored ConfigMap is %v", got.exit, stored)
			}
		})
	}
}

// TestOtherConfigMaps shows that nothing else is judged: not another name in the
// same namespace, not the same name in another one, not requests without a name.
func TestOtherConfigMaps(t *testing.T) {
	g := needGuard(t)
	k := g.cluster.kubectl()
	const nonsense = "nonMasqueradeCIDRs: 198.15.5.92/24 or so\n"
	tests := []struct {
		name      string
		namespace string
		object    string
	}{
		{"another name in kube-system", kubeSystem, "ip-masq-agent-2"},
		{"the same name in another namespace", "default", configMap},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			written := manifestOf(tt.namespace, tt.object, "data", "config", nonsense)
			got := k.must(t, written, "create", "-f", "-")
			got.stderr += k.must(t, strings.ReplaceAll(written, "or so", "and more"), "apply", "--server-side", "--force-conflicts", "-f", "-").stderr
			got.stderr += k.must(t, "", "delete", "configmap", tt.object, "-n", tt.namespace).stderr
			if got.stderr != "" {
				t.Errorf("kubectl had something to say: %s", got.stderr)
			}
		})
	}
	t.Run("a generated name", func(t *testing.T) {
		k.must(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: ip-masq-agent-, namespace: kube-system, labels: {e2e: generated}}\n",
			"create", "-f", "-")
		k.must(t, "", "delete", "--raw", "/api/v1/namespaces/kube-system/configmaps?labelSelector=e2e%3Dgenerated")
		if left := k.must(t, "", "get", "configmap", "-n", kubeSystem, "-l", "e2e=generated", "-o", "name"); left.stdout != "" {
			t.Errorf("the collection still has %s", left.stdout)
		}
	})
}
