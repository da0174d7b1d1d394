package policy

import (
	"context"
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	corev1 "k8s.io/api/core/v1"
)

func configMap(text string) *corev1.ConfigMap {
	return &corev1.ConfigMap{Data: map[string]string{ConfigKey: text}}
}

func update(text string) Request {
	return Request{
		Operation: Update, Namespace: "kube-system", Name: "ip-masq-agent", User: "alice", Groups: []string{"network", "system:authenticated"}, FieldManager: "kubectl-edit",
		Time:   time.Date(2026, 5, 4, 12, 0, 0, 500, time.FixedZone("CEST", 7200)),
		Object: configMap(text),
		Old:    configMap("nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n"),
	}
}

func ranges(source string, texts ...string) []Range {
	list := make([]Range, 0, len(texts))
	for _, text := range texts {
		list = append(list, Range{netip.MustParsePrefix(text), source})
	}
	return list
}

func smallCluster() *Cluster {
	return NewCluster(
		ranges("Node worker-1", "192.168.0.7/32"),
		ranges("Node worker-1", "10.244.1.0/24"),
		ranges("ServiceCIDR kubernetes", "10.96.0.0/12"),
	)
}

// documentOf is what rules would be asked about.
func documentOf(t *testing.T, e *Engine, req Request, cluster *Cluster, reads map[string]bool) *document {
	t.Helper()
	req.Time = req.Time.UTC().Truncate(time.Second)
	d, _ := e.documentOf(req, e.read(req.Object), e.read(req.Old), cluster)
	d.read = reads
	return d
}

func awkwardTexts() []string {
	return []string{
		"nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\nresyncInterval: 1500ms\n",
		"",
		"resyscInterval: 60s\n",
		"nonMasqueradeCIDRs:\n- 10.0.0.0/33\n",
		"nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 10.1.0.0/16\n- 10.1.0.0/16\n- 10.0.0.0/8\n",
		"nonMasqueradeCIDRs: [0.0.0.0/1, 128.0.0.0/1, \"::/0\"]\nmasqLinkLocal: true\nmasqLinkLocalIPv6: true\n",
		"nonMasqueradeCIDRs: []\ncidrLimit: 0\n",
		"nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\nmasqueradeCIDRs: [10.244.0.0/16, 11.0.0.0/8, \"fd00::/8\", 11.0.0.0/8]\n",
		"nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\nmasqueradeCIDRs: [10.244.0.0/16, 192.168.0.7/32]\n",
		"nodeOverrides: [{matchLabels: {\"a.b/c\": d}, nonMasqueradeCIDRs: [10.0.0.0/8], masqLinkLocal: true}]\n",
	}
}

func requests() []Request {
	var list []Request
	for _, text := range awkwardTexts() {
		list = append(list, update(text))
	}
	create := update("nonMasqueradeCIDRs: [10.0.0.0/8]")
	create.Operation, create.Old = Create, nil
	remove := update("")
	remove.Operation, remove.Object = Delete, nil
	other := update("")
	other.Object = &corev1.ConfigMap{Data: map[string]string{"Config": ""}, BinaryData: map[string][]byte{"ip-masq": nil}}
	binary := update("")
	binary.Object = &corev1.ConfigMap{BinaryData: map[string][]byte{"config": []byte("nonMasqueradeCIDRs: [10.0.0.0/9]")}}
	return append(list, create, remove, other, binary)
}

// TestInputIsOfTheSchema validates inputs with OPA's own validator.
func TestInputIsOfTheSchema(t *testing.T) {
	e := benchEngine(t)
	ctx := context.Background()
	validate, err := rego.New(rego.Query("[_, errors] := json.match_schema(input.document, input.schema)")).PrepareForEval(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var schema any
	if err = json.Unmarshal(Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	for _, cluster := range []*Cluster{smallCluster(), NewCluster(nil, nil, nil), NewCluster([]Range{}, nil, []Range{})} {
		for _, req := range requests() {
			value := jsonOf(t, documentOf(t, e, req, cluster, nil))
			results, failure := validate.Eval(ctx, rego.EvalInput(map[string]any{"document": value, "schema": schema}))
			if failure != nil || len(results) != 1 {
				t.Fatalf("%v, %d results", failure, len(results))
			}
			if errors, _ := results[0].Bindings["errors"].([]any); len(errors) > 0 {
				t.Fatalf("%s: %v", req.Operation, errors)
			}
		}
	}
	// The check itself is checked.
	results, err := validate.Eval(ctx, rego.EvalInput(map[string]any{"document": map[string]any{"x": 1}, "schema": schema}))
	if err != nil || len(results) != 1 {
		t.Fatalf("%v, %d results", err, len(results))
	}
	if errors, _ := results[0].Bindings["errors"].([]any); len(errors) == 0 {
		t.Error("the schema allows anything")
	}
}

func jsonOf(t *testing.T, d *document) any {
	t.Helper()
	value, err := ast.JSON(forced(d.value()))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// TestInputIsTheSameLazyOrNot compares what is converted on demand with what is
// converted at once for rules that are known to read it.
func TestInputIsTheSameLazyOrNot(t *testing.T) {
	e := benchEngine(t)
	for _, req := range requests() {
		lazy := forced(documentOf(t, e, req, smallCluster(), nil).value())
		eager := forced(documentOf(t, e, req, smallCluster(), map[string]bool{
			partConfig: true, partOld: true, partCluster: true,
		}).value())
		if lazy.Compare(eager) != 0 {
			t.Errorf("inputs differ (-lazy +eager):\n%s", cmp.Diff(lazy.String(), eager.String()))
			return
		}
	}
}

// TestInput pins version 1: rules of others depend on it.
func TestInput(t *testing.T) {
	e := benchEngine(t)
	req := update("nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 10.1.0.0/16\nresyncInterval: 90s\nfoo: 1\n")
	var got, want any
	if err := json.Unmarshal([]byte(`{
  "request": {
    "operation": "UPDATE", "namespace": "kube-system", "name": "ip-masq-agent", "user": "alice",
    "groups": ["network", "system:authenticated"], "fieldManager": "kubectl-edit", "dryRun": false, "annotations": {}, "old_annotations": {}, "time": "2026-05-04T10:00:00Z"
  },
  "config": {
    "nonMasqueradeCIDRs": [
      {"cidr": "10.0.0.0/8", "family": "ipv4", "path": "nonMasqueradeCIDRs[0]", "line": 2},
      {"cidr": "10.1.0.0/16", "family": "ipv4", "path": "nonMasqueradeCIDRs[1]", "line": 3}
    ],
    "masqueradeCIDRs": [],
    "masqLinkLocal": false, "masqLinkLocalIPv6": false, "resyncInterval": 90, "cidrLimit": 64,
    "defaulted": ["masqLinkLocal", "masqLinkLocalIPv6", "cidrLimit"]
  },
  "old": {
    "nonMasqueradeCIDRs": [
      {"cidr": "10.0.0.0/8", "family": "ipv4", "path": "nonMasqueradeCIDRs[0]", "line": 1},
      {"cidr": "192.168.0.0/16", "family": "ipv4", "path": "nonMasqueradeCIDRs[1]", "line": 1}
    ],
    "masqueradeCIDRs": [],
    "masqLinkLocal": false, "masqLinkLocalIPv6": false, "resyncInterval": 60, "cidrLimit": 64,
    "defaulted": ["masqLinkLocal", "masqLinkLocalIPv6", "resyncInterval", "cidrLimit"]
  },
  "problems": [{
    "code": "unknown-key", "severity": "suspicious", "path": "foo", "line": 5, "column": 1, "text": "foo",
    "message": "\"foo\" is not a key of the configuration, so agents ignore it",
    "remedy": "remove it; the keys are nonMasqueradeCIDRs, masqLinkLocal, masqLinkLocalIPv6, resyncInterval, cidrLimit, masqueradeCIDRs, nodeOverrides"
  }],
  "object": {"config_alone": true, "data_keys": ["config"], "binary_keys": [], "likely_key": null},
  "cluster": {
    "node_cidrs": [{"cidr": "192.168.0.7/32", "source": "Node worker-1"}],
    "pod_cidrs": [{"cidr": "10.244.1.0/24", "source": "Node worker-1"}],
    "service_cidrs": [{"cidr": "10.96.0.0/12", "source": "ServiceCIDR kubernetes"}]
  },
  "derived": {
    "cidr_count": 2, "entry_count": 2, "list_absent": false,
    "overlaps": [{
      "cidr": "10.1.0.0/16", "family": "ipv4", "path": "nonMasqueradeCIDRs[1]", "line": 3,
      "within": {"cidr": "10.0.0.0/8", "family": "ipv4", "path": "nonMasqueradeCIDRs[0]", "line": 2}
    }],
    "duplicates": [],
    "uncovered": {"node": [{"cidr": "192.168.0.7/32", "source": "Node worker-1"}], "pod": [], "service": []},
    "diff": {"now_masqueraded": ["192.168.0.0/16"], "no_longer_masqueraded": []},
    "disables_masquerade": false, "disabled": [], "link_local": [], "refused_ipv6": []
  },
  "override": null,
  "params": {
    "consumer": "ip-masq-guard",
    "agent": {"ipv6": false, "reserved_ranges": false},
    "require_cluster_ranges": false, "config_directory": false,
    "rules": {
      "agents-agree": {"action": "warn"},
      "cidr-limit": {"action": "deny", "max": 16384},
      "config-key-present": {"action": "deny"},
      "config-not-empty": {"action": "deny"},
      "exceptions-inside-spared": {"action": "deny"},
      "ipv6-enabled": {"action": "deny"},
      "link-local-consistent": {"action": "deny"},
      "list-explicit": {"action": "warn"},
      "list-not-empty": {"action": "deny"},
      "masquerade-not-disabled": {"action": "deny"},
      "no-ambiguous-yaml": {"action": "deny"},
      "no-delete": {"action": "deny"},
      "no-duplicate": {"action": "deny"},
      "no-overlap": {"action": "deny"},
      "no-unknown-keys": {"action": "deny"},
      "node-cidrs-present": {"action": "deny"},
      "pod-cidrs-present": {"action": "deny"},
      "resync-bounds": {"action": "deny", "min": 5, "max": 3600},
      "service-cidrs-present": {"action": "warn"}
    },
    "custom": {}
  }
}`), &want); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(jsonOf(t, documentOf(t, e, req, smallCluster(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err = json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("inputs differ (-want +got):\n%s", diff)
	}
}

func TestLikelyKey(t *testing.T) {
	for _, c := range []struct {
		name         string
		data, binary []string
		want         any
	}{
		{"none", nil, nil, nil},
		{"config", []string{"config", "Config"}, nil, nil},
		{"binary config", []string{"Config"}, []string{"config"}, nil},
		{"other case", []string{"Config", "config.yaml"}, nil, "Config"},
		{"extension", []string{"ip-masq-agent", "config.yaml"}, nil, "config.yaml"},
		{"name of the file", []string{"a", "ip-masq-agent"}, nil, "ip-masq-agent"},
		{"typing error", []string{"a", "confg"}, nil, "confg"},
		{"in a longer name", []string{"masq-config"}, nil, "masq-config"},
		{"binary", nil, []string{"cofnig"}, "cofnig"},
		{"others", []string{"README", "a"}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := likelyKey(c.data, c.binary); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}
