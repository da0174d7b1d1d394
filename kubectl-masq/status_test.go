package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// daemonSet is that of the agents in what the chart renders.
func daemonSet(t *testing.T, rendering string) appsv1.DaemonSet {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../e2e/testdata/chart", rendering))
	if err != nil {
		t.Fatal(err)
	}
	for object := range strings.SplitSeq(string(text), "\n---\n") {
		var set appsv1.DaemonSet
		if strings.Contains(object, "kind: DaemonSet") {
			if err := yaml.Unmarshal([]byte(object), &set); err != nil {
				t.Fatal(err)
			}
			return set
		}
	}
	t.Fatalf("%s has no DaemonSet", rendering)
	return appsv1.DaemonSet{}
}

// agentPod is a pod of such agents.
func agentPod(set appsv1.DaemonSet, node string) corev1.Pod {
	pod := corev1.Pod{ObjectMeta: set.Spec.Template.ObjectMeta, Spec: *set.Spec.Template.Spec.DeepCopy()}
	pod.Namespace, pod.Name, pod.Spec.NodeName = "kube-system", "agent-"+node, node
	pod.Labels = map[string]string{"pool": "edge"} // as a pod has its node's
	return pod
}

const (
	simple         = "nonMasqueradeCIDRs: [10.0.0.0/8]\n"
	digestOfSimple = "b8bf7a366802d10642d4c54c9baf4362835cb6729967f7e456e0230ec9af8176"
	withOverrides  = simple + "nodeOverrides:\n- matchLabels: {pool: edge}\n  masqLinkLocal: true\n- matchLabels: {zone: a}\n  masqLinkLocal: true\n"
)

// TestWanted works out what the agents of the chart, and others, should have.
func TestWanted(t *testing.T) {
	const one, several = "default.yaml", "directory.yaml"
	mounting := func(source corev1.VolumeSource, at, subPath string, args ...string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Spec.Containers = []corev1.Container{{Args: args, VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: at, SubPath: subPath}}}}
			pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}}
		}
	}
	from := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	projected := corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: from("ip-masq-agent"), Items: []corev1.KeyToPath{{Key: "config", Path: "ip-masq-agent"}}}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: from("reconciled")}},
	}}}
	none := ""
	first, second := "nodeOverrides[0]", "nodeOverrides[1]"
	tests := []struct {
		name    string
		chart   string
		change  func(*corev1.Pod)
		data    map[string]string
		node    map[string]string // labels
		want    wanted
		unknown string
	}{
		{
			name: "the key config", chart: one, data: map[string]string{"config": simple, "ip-masq-agent": "other"},
			want: wanted{digest: digestOfSimple, files: []string{"ip-masq-agent"}, from: []string{"kube-system/ip-masq-agent"}, override: &none},
		},
		{name: "no such key", chart: one, data: map[string]string{"ip-masq-agent": simple}, want: wanted{override: &none}},
		{name: "no ConfigMap", chart: one, want: wanted{override: &none}},
		{
			name: "a directory", chart: several, data: map[string]string{"ip-masq-b": simple, "ip-masq-agent": "", "config": "other"},
			want: wanted{digest: "a31b61c66b61fba420e257c4e5fe86f732603318df0c4ec6ee96f54bfb3c054a", files: []string{"ip-masq-agent", "ip-masq-b"}, from: []string{"kube-system/ip-masq-agent"}, override: &none},
		},
		{name: "a directory without files", chart: several, data: map[string]string{"config": simple}, want: wanted{override: &none}},
		{
			name: "a directory of two ConfigMaps", data: map[string]string{"config": simple},
			change: mounting(projected, "/etc/config/", "", "--config-dir", "/etc/config"),
			want: wanted{
				digest: "605baa5bd13bdd35c99f12c33edd25969e8cad8b471457e3772a2f55fe491373", files: []string{"ip-masq-agent", "ip-masq-agent-reconciled"},
				from: []string{"kube-system/ip-masq-agent", "kube-system/reconciled"}, override: &none,
			},
		},
		{
			name: "one file mounted", data: map[string]string{"config": simple},
			change: mounting(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: from("ip-masq-agent")}}, "/masq.yaml", "config", "-config_path=/masq.yaml"),
			want:   wanted{digest: digestOfSimple, files: []string{"masq.yaml"}, from: []string{"kube-system/ip-masq-agent"}, override: &none},
		},
		{
			name: "another ConfigMap", data: map[string]string{"config": simple},
			change: mounting(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: from("reconciled"), Items: []corev1.KeyToPath{{Key: "ip-masq-agent-reconciled", Path: "sub/ip-masq-agent"}},
			}}, "/etc", "", "--config-path=/etc/sub/ip-masq-agent"),
			want: wanted{digest: digestOfSimple, files: []string{"ip-masq-agent"}, from: []string{"kube-system/reconciled"}, override: &none},
		},
		{
			name: "no ConfigMap but the node", change: mounting(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}}, "/etc/config", ""),
			unknown: "its pod mounts no ConfigMap at /etc/config/ip-masq-agent",
		},
		{
			name: "nothing mounted", change: mounting(corev1.VolumeSource{}, "/etc/configs", "", "--config-dir=/etc/config"),
			unknown: "its pod mounts nothing at /etc/config",
		},
		{
			name: "not to be read", change: mounting(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: from("secret")}}, "/etc/config", ""),
			unknown: "no right",
		},
		{
			name: "labels of the pod", chart: several, data: map[string]string{"ip-masq-agent": withOverrides}, node: map[string]string{"pool": "edge"},
			want: wanted{digest: "701ea6f59ea6a146bc128d6c0534b50504d1131409aa1b0d7bef20f26f727edc", files: []string{"ip-masq-agent"}, from: []string{"kube-system/ip-masq-agent"}, override: new("ip-masq-agent: " + first)},
		},
		{
			name: "labels that the agent is not told", chart: one, data: map[string]string{"config": withOverrides}, node: map[string]string{"zone": "a"},
			want: wanted{
				digest: "0f2447a97bff6add1e342cb91449e7b9d6b1956f1d374bdaa074ca6c36a6cc1f", files: []string{"ip-masq-agent"}, from: []string{"kube-system/ip-masq-agent"}, override: &none,
				hint: second + " is for it by its labels, which its agent is not told: --node-labels-file",
			},
		},
		{
			name: "labels of a node that are not known", chart: one, data: map[string]string{"config": withOverrides},
			change: func(pod *corev1.Pod) {
				pod.Spec.Containers[0].Args = append(pod.Spec.Containers[0].Args, "--node-labels-file=/etc/labels")
			},
			want: wanted{digest: "0f2447a97bff6add1e342cb91449e7b9d6b1956f1d374bdaa074ca6c36a6cc1f", files: []string{"ip-masq-agent"}, from: []string{"kube-system/ip-masq-agent"}},
		},
		{
			name: "what does not load", chart: one, data: map[string]string{"config": "nonMasqueradeCIDRs: ["},
			want: wanted{digest: "ad5cdece0972cc2a3226740161171f95f81911bc0ae2f9a183a2479ec3d021bf", files: []string{"ip-masq-agent"}, from: []string{"kube-system/ip-masq-agent"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system"}}
			if tt.chart != "" {
				pod = agentPod(daemonSet(t, tt.chart), "a")
			}
			if tt.change != nil {
				tt.change(&pod)
			}
			stored := stores{
				get: func(namespace, name string) (*corev1.ConfigMap, error) {
					object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
					switch name {
					case "ip-masq-agent":
						object.Data = tt.data
					case "reconciled":
						object.BinaryData = map[string][]byte{"ip-masq-agent-reconciled": []byte(simple)}
					default:
						return nil, errors.New("no right")
					}
					if tt.data == nil {
						return nil, nil //nolint:nilnil // no such ConfigMap
					}
					return object, nil
				},
				node: func(string) map[string]string { return tt.node },
				read: map[string]*config.Config{},
			}
			got, err := stored.wantedOf(&pod)
			if tt.unknown != "" {
				if err == nil || err.Error() != tt.unknown {
					t.Errorf("error %v, want %s", err, tt.unknown)
				}
				return
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(wanted{})); err != nil || diff != "" {
				t.Errorf("error %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// TestStatusText tells of a cluster in which nearly everything is odd.
func TestStatusText(t *testing.T) {
	pod := func(node, name string) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	}
	const object = "kube-system/ip-masq-agent"
	first, none := "nodeOverrides[0]", ""
	should := wanted{digest: "0123456789abcdef", from: []string{object}, override: &none}
	agent := func(node, said string, change func(*wanted)) agentStatus {
		own := should
		if change != nil {
			change(&own)
		}
		return agentOf(pod(node, "agent-"+node), answer{body: []byte(said)}, own, nil, object)
	}
	const right = `{"state":"in-force","config":{"digest":"0123456789abcdef","source":"file"}}`
	s := clusterStatus{
		Stored: storedStatus{
			Found: true, Digest: "0123456789abcdef", Files: []string{"ip-masq-a", "ip-masq-b"}, Verdict: "refused",
			Causes: []string{`data["config"]:2 nonMasqueradeCIDRs[0]: wrong`},
		},
		Webhooks: []webhookStatus{
			webhookOf(pod("a", "webhook-1"), answer{body: []byte(`{"version":"v1","rules":{"revision":"aaaaaaaaaaaaaaaa","since":"2026-01-02T03:04:05Z","sets":[{"name":"team","state":"last-good"}]}}`)}),
			webhookOf(pod("a", "webhook-2"), answer{body: []byte(`{"rules":{"revision":"bbbbbbbbbbbbbbbb"}}`)}),
			webhookOf(pod("a", "webhook-3"), answer{err: errors.New("no route")}),
		},
		Agents: []agentStatus{
			agent("node-1", right, nil),
			agent("node-2", `{"state":"degraded","config":{"digest":"fedcba9876543210","source":"last-valid"}}`, nil),
			agent("node-3", `{"state":"in-force","config":{"digest":"fedcba9876543210","source":"file"},"families":[{"family":"ipv6","error":"no table"}]}`, nil),
			agent("node-4", `<html>`, nil),
			agentOf(pod("", "agent-5"), answer{err: errors.New("no host")}, should, nil, object),
			agent("node-6", right, func(w *wanted) { w.override = &first }),
			agent("node-7", right, func(w *wanted) { w.hint = "nodeOverrides[0] is for it" }),
			agent("node-8", right, func(w *wanted) { w.from = []string{"kube-system/other"} }),
			agentOf(pod("node-9", "agent-9"), answer{body: []byte(right)}, wanted{}, errors.New("its pod mounts nothing at /etc/config"), object),
			agent("node-10", `{"state":"in-force","config":{"digest":"0123456789abcdef","source":"file","override":"nodeOverrides[0]"}}`, func(w *wanted) { w.override = &first }),
		},
	}
	s.conclude([]appsv1.DaemonSet{{Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 11, CurrentNumberScheduled: 10}}})
	want := `webhook kube-system/webhook-1: revision aaaaaaaaaaaa, 1 rule set
webhook kube-system/webhook-2: revision bbbbbbbbbbbb, 0 rule sets
stored configuration 0123456789ab (of 2 files: ip-masq-a, ip-masq-b): refused
  data["config"]:2 nonMasqueradeCIDRs[0]: wrong
node-1: in-force, file 0123456789ab
node-2: degraded; the file is refused, and the last valid one holds
node-3: another configuration than the stored one; ipv6: no table
node-4: reading /status: invalid character '<' looking for beginning of value
kube-system/agent-5: it has no node yet
node-6: none of nodeOverrides holds, not nodeOverrides[0]
node-7: nodeOverrides[0] is for it
node-8: it reads configmap kube-system/other, not kube-system/ip-masq-agent
node-9: not known what it should have: its pod mounts nothing at /etc/config
node-10: in-force, file 0123456789ab, nodeOverrides[0]
odd: webhook kube-system/webhook-1: rule set team: last-good
odd: webhook kube-system/webhook-3: /status does not answer: no route
odd: the webhooks decide by 2 different revisions of the rules
odd: 1 node has no agent
11 nodes, 8 odd
`
	if diff := cmp.Diff(want, s.text(painter{})); diff != "" {
		t.Errorf("status differs (-want +got):\n%s", diff)
	}
}

// apiServer answers as one does that has these objects, and judges nothing.
type apiServer struct {
	configMap corev1.ConfigMap
	pods      map[string][]corev1.Pod // by component
	sets      []appsv1.DaemonSet
	nodes     []corev1.Node
	status    map[string]string // of a pod
	refusal   *metav1.Status    // of the dry run; nil: it succeeds
}

func (s apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	write := func(value any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(value)
	}
	component := strings.TrimPrefix(r.URL.Query().Get("labelSelector"), "app.kubernetes.io/part-of=ip-masq-guard,app.kubernetes.io/component=")
	switch path := r.URL.Path; {
	case path == "/api/v1/namespaces/kube-system/configmaps/ip-masq-agent" && r.Method == http.MethodGet:
		write(s.configMap)
	case path == "/api/v1/namespaces/kube-system/configmaps/ip-masq-agent" && r.Method == http.MethodPut && r.URL.Query().Get("dryRun") == "All":
		w.Header().Add("Warning", `299 - "no longer masqueraded: 10.9.0.0/16"`)
		if s.refusal == nil {
			write(s.configMap)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnprocessableEntity)
		_ = json.NewEncoder(w).Encode(s.refusal)
	case path == "/api/v1/pods":
		write(corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: s.pods[component]})
	case path == "/apis/apps/v1/daemonsets":
		write(appsv1.DaemonSetList{TypeMeta: metav1.TypeMeta{Kind: "DaemonSetList", APIVersion: "apps/v1"}, Items: s.sets})
	case path == "/api/v1/nodes":
		write(corev1.NodeList{TypeMeta: metav1.TypeMeta{Kind: "NodeList", APIVersion: "v1"}, Items: s.nodes})
	case strings.HasSuffix(path, ":9178/proxy/status"):
		name, _, _ := strings.Cut(strings.TrimPrefix(path, "/api/v1/namespaces/kube-system/pods/http:"), ":")
		_, _ = io.WriteString(w, s.status[name])
	default:
		http.NotFound(w, r)
	}
}

// TestStatusTranscripts asks an API server with a healthy cluster of agents that merge
// several files, and one where nodes are odd, and compares with testdata/NAME.golden.
func TestStatusTranscripts(t *testing.T) {
	set := daemonSet(t, "directory.yaml")
	set.Status = appsv1.DaemonSetStatus{DesiredNumberScheduled: 2, CurrentNumberScheduled: 2}
	webhook := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "webhook-a"}, Spec: corev1.PodSpec{NodeName: "a"}}
	const digest = "28a76381b49dd522cfa5f9e89766ae7755e92a7f957da388f0c8dbed7e1cd9fc"
	says := func(digest, override string) string {
		return `{"state":"in-force","config":{"digest":"` + digest + `","source":"file","override":"` + override + `","since":"2026-01-02T03:04:05Z"}}`
	}
	healthy := apiServer{
		configMap: corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"},
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "ip-masq-agent"},
			Data:       map[string]string{"ip-masq-agent": withOverrides, "ip-masq-more": simple},
		},
		pods:  map[string][]corev1.Pod{"webhook": {webhook}, "agent": {agentPod(set, "a"), agentPod(set, "b")}},
		sets:  []appsv1.DaemonSet{set},
		nodes: []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"pool": "edge"}}}},
		status: map[string]string{
			"webhook-a": `{"rules":{"revision":"0123456789abcdef","since":"2026-01-02T03:04:05Z","sets":[{"name":"built-in","state":"in-force"}]}}`,
			"agent-a":   says(digest, "ip-masq-agent: nodeOverrides[0]"), "agent-b": says(digest, "ip-masq-agent: nodeOverrides[0]"),
		},
	}
	odd := healthy
	odd.status = map[string]string{"webhook-a": healthy.status["webhook-a"], "agent-a": healthy.status["agent-a"], "agent-b": says(digestOfSimple, "")}
	odd.refusal = &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Reason: metav1.StatusReasonInvalid, Code: 422, Message: "refused",
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Field: `data["ip-masq-more"]:1`, Message: "wrong\nmore"}}},
	}
	for _, tt := range []struct {
		name   string
		server apiServer
		args   string
		exit   int
	}{
		{name: "status", server: healthy},
		{name: "status-all", server: healthy, args: "--all"},
		{name: "status-json", server: healthy, args: "--all -o json"},
		{name: "status-odd", server: odd, exit: 1},
		{name: "status-odd-json", server: odd, args: "-o json", exit: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(tt.server)
			defer server.Close()
			kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
			text := "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: " + server.URL +
				"}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n"
			if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			exit := run(t.Context(), append([]string{"status", "--live", "--kubeconfig", kubeconfig}, strings.Fields(tt.args)...), streams{out: &stdout, err: &stderr})
			if exit != tt.exit || stderr.Len() > 0 {
				t.Errorf("exit %d, want %d; standard error: %s", exit, tt.exit, &stderr)
			}
			checkGolden(t, tt.name, stdout.String())
		})
	}
}
