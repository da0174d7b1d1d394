package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Sample is a write to try rules on, named after what is particular about it.
type Sample struct {
	Name    string
	Request Request
}

// Samples are writes of every kind that rules meet, in a fixed order: what loads and
// what does not, creation, change and deletion.
func Samples() []Sample {
	const directory = "samples"
	entries, err := files.ReadDir(directory)
	if err != nil {
		panic(fmt.Sprintf("reading samples: %v", err)) // embedded
	}
	typical := sampleConfigMap("typical.yaml")
	var samples []Sample
	for _, entry := range entries {
		name, isText := strings.CutSuffix(entry.Name(), ".yaml")
		if !isText {
			continue
		}
		request := sampleRequest(Update)
		request.Object, request.Old = sampleConfigMap(entry.Name()), typical
		samples = append(samples, Sample{name, request})
	}
	created := sampleRequest(Create)
	created.Object = typical
	deleted := sampleRequest(Delete)
	deleted.Old = typical
	return append(samples, Sample{"created", created}, Sample{"deleted", deleted})
}

func sampleRequest(operation Operation) Request {
	return Request{
		Operation: operation, Namespace: "kube-system", Name: "ip-masq-agent", User: "jane@example.com", Groups: []string{"system:authenticated"},
		FieldManager: "kubectl-edit", Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC),
	}
}

func sampleConfigMap(file string) *corev1.ConfigMap {
	text, err := files.ReadFile(path.Join("samples", file))
	if err != nil {
		panic(fmt.Sprintf("reading samples: %v", err)) // embedded
	}
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "ip-masq-agent"},
		Data:       map[string]string{ConfigKey: string(text)},
	}
}

// SampleCluster is a small cluster to judge samples in.
func SampleCluster() *Cluster {
	of := func(source string, prefix string) []Range { return []Range{{netip.MustParsePrefix(prefix), source}} }
	return NewCluster(of("Node worker-1", "192.168.0.7/32"), of("Node worker-1", "10.244.1.0/24"), of("ServiceCIDR kubernetes", "10.96.0.0/12"))
}

// SampleInput is the input that rules are given for a sample under the default Params, as
// JSON, for stock opa: opa eval --input.
func SampleInput(ctx context.Context, s Sample) ([]byte, error) {
	e, err := New(ctx, Params{}, nil)
	if err != nil {
		return nil, err
	}
	d, _ := e.documentOf(s.Request, e.read(s.Request.Object), e.read(s.Request.Old), SampleCluster())
	d.read = map[string]bool{partConfig: true, partOld: true, partCluster: true}
	input, err := ast.JSON(forced(d.value()))
	if err != nil {
		return nil, fmt.Errorf("converting the input: %w", err)
	}
	text, err := json.MarshalIndent(input, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the input: %w", err)
	}
	return append(text, '\n'), nil
}

// forced converts every part of an input, also what waits until a rule reads it.
func forced(value ast.Value) ast.Value {
	object, ok := value.(ast.Object)
	if !ok {
		return value
	}
	items := make([][2]*ast.Term, 0, object.Len())
	object.Foreach(func(k, v *ast.Term) { items = append(items, ast.Item(k, ast.NewTerm(forced(v.Value)))) })
	return ast.NewObject(items...)
}
