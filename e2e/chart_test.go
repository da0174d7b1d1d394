package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// release is the name of releases and, without a cluster, their namespace.
const release = "ip-masq-guard"

// renders are the sets of values that are tested, with the arguments that name them.
func renders() map[string][]string {
	file := func(path string) []string { return []string{"--values", path} }
	return map[string][]string{
		"default":      nil,
		"gke":          file(chart + "/values-gke.yaml"),
		"cilium":       file(chart + "/values-cilium.yaml"),
		"aks":          file(chart + "/values-aks.yaml"),
		"eks":          file(chart + "/values-eks.yaml"),
		"cert-manager": file("testdata/chart/cert-manager.values.yaml"),
		"provided":     file("testdata/chart/provided.values.yaml"),
		"everything":   file("testdata/chart/everything.values.yaml"),
		"directory":    {"--set", "configMap.directory=true,agent.nodeLabels=pod"},
	}
}

// TestChartPresetsAreRendered: a preset that no render has is not tested.
func TestChartPresetsAreRendered(t *testing.T) {
	presets, err := filepath.Glob(chart + "/values-*.yaml")
	if err != nil || len(presets) == 0 {
		t.Fatalf("no presets (%v)", err)
	}
	for _, preset := range presets {
		rendered := false
		for _, args := range renders() {
			rendered = rendered || slices.Contains(args, preset)
		}
		if !rendered {
			t.Errorf("no render has %s", preset)
		}
	}
}

func TestChartLint(t *testing.T) {
	h := needHelm(t)
	for name, args := range renders() {
		t.Run(name, func(t *testing.T) {
			if got := h.run(t.Context(), append([]string{"lint", "--strict", chart}, args...)...); got.exit != 0 {
				t.Error(got)
			}
		})
	}
}

// TestChartRender compares what is installed, byte for byte, with
// testdata/chart/NAME.yaml, and renders it twice.
func TestChartRender(t *testing.T) {
	h := needHelm(t)
	for name, args := range renders() {
		t.Run(name, func(t *testing.T) {
			got := render(t, h, release, args...)
			if diff := cmp.Diff(got, render(t, h, release, args...)); diff != "" {
				t.Errorf("the second render differs:\n%s", diff)
			}
			path := filepath.Join("testdata", "chart", name+".yaml")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s differs (-want +got), -update rewrites it:\n%s", path, diff)
			}
		})
	}
}

// render is what a release would be made of, its tests included.
func render(t *testing.T, h helm, namespace string, args ...string) string {
	t.Helper()
	return h.must(t, append([]string{"template", release, chart, "--namespace", namespace}, args...)...)
}

// TestChartSchema: a value that cannot work is refused before anything is installed,
// and the message names it.
func TestChartSchema(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want []string
	}{
		{"typo", []string{"--set", "agent.ip6=true"}, []string{"at '/agent'", "'ip6' not allowed"}},
		{"typo at the top", []string{"--set", "clutser.podCIDRs={10.0.0.0/8}"}, []string{"'clutser' not allowed"}},
		{"unknown rule", []string{"--set", "rules.no-overlapp.action=warn"}, []string{"at '/rules'", "'no-overlapp' not allowed"}},
		{"bound of another rule", []string{"--set", "rules.no-overlap.max=3"}, []string{"at '/rules/no-overlap'", "'max' not allowed"}},
		{"action", []string{"--set", "rules.no-overlap.action=ignore"}, []string{"at '/rules/no-overlap/action'"}},
		{"key of the ConfigMap", []string{"--set", "configMap.config.resyscInterval=60s"}, []string{"'resyscInterval' not allowed"}},
		{"range of the ConfigMap", []string{"--set", "configMap.config.nonMasqueradeCIDRs={10.0.0.0/33}"}, []string{"'10.0.0.0/33'"}},
		{"range of the cluster", []string{"--set", "cluster.podCIDRs={10.0.0.300/8}"}, []string{"at '/cluster/podCIDRs/0'"}},
		{"interval", []string{"--set", "configMap.config.resyncInterval=1d"}, []string{"'1d'"}},
		{"boolean as text", []string{"--set-string", "agent.ipv6=yes"}, []string{"at '/agent/ipv6'"}},
		{"chain name", []string{"--set", "agent.masqChain=a b"}, []string{"at '/agent/masqChain'"}},
		{"a digest that is cut", []string{"--set", "agent.expectedDigest=ad2f7ae2"}, []string{"at '/agent/expectedDigest'"}},
		{"the digest of no ConfigMap", []string{"--set", "agent.expectedDigest=release"}, []string{"the release has no ConfigMap"}},
		{"mode of certificates", []string{"--set", "certs.mode=certmanager"}, []string{"at '/certs/mode'"}},
		{"no certificate provided", []string{"--set", "certs.mode=provided"}, []string{"'/certs/provided/caBundle'", "'/certs/provided/secretName'"}},
		{"rule without .rego", []string{"--set", "customRules.payments=x"}, []string{"at '/customRules'", "'payments' not allowed"}},
		{"consumer", []string{"--set", "consumer=azure"}, []string{"at '/consumer'"}},
		{"two that read", []string{"--set", "consumer=cilium"}, []string{"set agent.enabled to false"}},
		{"the kubelet's port", []string{"--set", "webhook.hostNetwork=true"}, []string{"set webhook.port to another one"}},
	}
	h := needHelm(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := h.run(t.Context(), append([]string{"template", release, chart}, tt.args...)...)
			if got.exit == 0 {
				t.Fatal("rendered")
			}
			for _, want := range tt.want {
				if !strings.Contains(got.stderr, want) {
					t.Errorf("no %q in:\n%s", want, got.stderr)
				}
			}
		})
	}
}

// TestChartExpectsItsOwnConfig: what the annotation asks for is the text that agents will read.
func TestChartExpectsItsOwnConfig(t *testing.T) {
	h := needHelm(t)
	var text, expected string
	for _, object := range objects(t, render(t, h, release, "--set", "configMap.create=true,agent.expectedDigest=release,agent.podAnnotations.a=b")) {
		switch object.GetKind() {
		case "ConfigMap":
			if object.GetName() == configMap {
				text, _, _ = unstructured.NestedString(object.Object, "data", "config")
			}
		case "DaemonSet":
			annotations, _, _ := unstructured.NestedStringMap(object.Object, "spec", "template", "metadata", "annotations")
			expected = annotations["ip-masq-guard.io/expected-digest"]
			if annotations["a"] != "b" {
				t.Errorf("annotations %q", annotations)
			}
		}
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(text))); text == "" || expected != sum {
		t.Errorf("expected %q, but the text has %s:\n%s", expected, sum, text)
	}
}

// TestChartSchemaKnowsTheRules: the values name each built-in rule, and no other.
func TestChartSchemaKnowsTheRules(t *testing.T) {
	text, err := os.ReadFile(chart + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties struct {
			Rules struct{ Properties map[string]any }
		}
	}
	if err = json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../policy/rules/*.rego")
	if err != nil || len(files) == 0 {
		t.Fatalf("no rules (%v)", err)
	}
	rules := map[string]bool{}
	for _, file := range files {
		if id := strings.TrimSuffix(filepath.Base(file), ".rego"); !strings.HasSuffix(id, "_test") {
			rules[id] = true
		}
	}
	named := map[string]bool{}
	for id := range schema.Properties.Rules.Properties {
		named[id] = true
	}
	if diff := cmp.Diff(rules, named); diff != "" {
		t.Errorf("rules of the schema differ (-rules +schema):\n%s", diff)
	}
}

// TestChartPrograms gives the programs what the chart gives them: the webhook's params
// are read by its own reader, the agent's flags by the agent, and they say the same.
func TestChartPrograms(t *testing.T) {
	h := needHelm(t)
	for name, args := range renders() {
		t.Run(name, func(t *testing.T) {
			all := objects(t, render(t, h, release, args...))
			text, _, err := unstructured.NestedString(findObject(t, all, "ConfigMap", release+"-params").Object, "data", "params.yaml")
			if err != nil {
				t.Fatal(err)
			}
			params, err := policy.ParseParams([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if name == "everything" && (params.Cluster.Service == nil || len(params.Cluster.Service) > 0 || len(params.Cluster.Pod) != 2) {
				t.Errorf("cluster ranges are %+v", params.Cluster)
			}
			if name == "default" && (params.Cluster.Service != nil || params.Cluster.Pod != nil) {
				t.Errorf("cluster ranges are %+v, want unknown ones", params.Cluster)
			}

			agents := slices.ContainsFunc(all, func(o *unstructured.Unstructured) bool { return o.GetKind() == "DaemonSet" })
			if agents == (name == "cilium") {
				t.Fatalf("agents installed: %t", agents)
			}
			if !agents {
				return
			}
			file := filepath.Join(t.TempDir(), "ip-masq-agent")
			if text := configOf(t, all); text != "" {
				if err = os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			flags := argsOf(t, findObject(t, all, "DaemonSet", release+"-agent"))
			source := "--config-path=" + file
			if slices.ContainsFunc(flags, func(flag string) bool { return strings.HasPrefix(flag, "--config-dir=") }) {
				source = "--config-dir=" + filepath.Dir(file)
			}
			if got, want := strings.HasPrefix(source, "--config-dir="), params.ConfigDirectory; got != want {
				t.Errorf("agents merge a directory: %t, the webhook takes it for %t", got, want)
			}
			// A dry run touches nothing, and refuses flags and files that a run would refuse.
			restored, err := exec.CommandContext(t.Context(), program(t, "agent"), append(flags, "--dry-run", source)...).CombinedOutput()
			if err != nil {
				t.Fatalf("the agent refuses %q: %v\n%s", flags, err, restored)
			}
			if name == "everything" && !strings.Contains(string(restored), "fd00:10::/64") {
				t.Errorf("the agent holds no IPv6 rules:\n%s", restored)
			}
			if got, want := slices.Contains(flags, "--enable-ipv6=true"), params.Agent.IPv6; got != want {
				t.Errorf("agents hold IPv6 rules: %t, the webhook takes it for %t", got, want)
			}
			if got, want := slices.Contains(flags, "--nomasq-all-reserved-ranges=true"), params.Agent.ReservedRanges; got != want {
				t.Errorf("agents spare reserved ranges: %t, the webhook takes it for %t", got, want)
			}
		})
	}
}

// configOf is the text of the ConfigMap that a release brings; empty if it brings none.
func configOf(t *testing.T, all []*unstructured.Unstructured) string {
	t.Helper()
	for _, object := range all {
		if object.GetKind() == "ConfigMap" && object.GetName() == configMap {
			text, _, err := unstructured.NestedString(object.Object, "data", "config")
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
	}
	return ""
}
