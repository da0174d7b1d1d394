package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path"
	"runtime"
	runtimemetrics "runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// configMaps is the API of the ConfigMaps of one namespace, as much of it as a watch of
// rule sets asks for: list and watch those with the label, get and update one.
type configMaps struct {
	mu       sync.Mutex
	version  int
	objects  map[string]*corev1.ConfigMap
	watchers []*io.PipeWriter
}

// RoundTrip implements http.RoundTripper.
func (a *configMaps) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	name := path.Base(r.URL.Path)
	selected := r.URL.Query().Get("labelSelector") != ""
	switch {
	case r.URL.Query().Get("sendInitialEvents") != "": // as of an older API server, which has the list apart
		return answered(r, http.StatusUnprocessableEntity, metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity,
		})
	case r.Method == http.MethodGet && r.URL.Query().Get("watch") != "":
		reader, writer := io.Pipe()
		a.watchers = append(a.watchers, writer)
		return &http.Response{StatusCode: http.StatusOK, Header: jsonHeader(), Body: reader, Request: r}, nil
	case r.Method == http.MethodGet && name == "configmaps":
		list := corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(a.version)}}
		for _, object := range a.objects {
			if !selected || object.Labels[ruleLabel] == ruleLabelValue {
				list.Items = append(list.Items, *object)
			}
		}
		return answered(r, http.StatusOK, list)
	case a.objects[name] == nil:
		return answered(r, http.StatusNotFound, metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound,
		})
	case r.Method == http.MethodPut:
		var object corev1.ConfigMap
		if err := json.NewDecoder(r.Body).Decode(&object); err != nil {
			return nil, err
		}
		a.version++
		object.ResourceVersion = strconv.Itoa(a.version)
		a.objects[name] = &object
		return answered(r, http.StatusOK, object)
	}
	return answered(r, http.StatusOK, a.objects[name])
}

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }

func answered(r *http.Request, code int, value any) (*http.Response, error) {
	text, err := json.Marshal(value)
	return &http.Response{StatusCode: code, Header: jsonHeader(), Body: io.NopCloser(bytes.NewReader(text)), Request: r}, err
}

// write stores an object, and tells those who watch.
func (a *configMaps) write(t *testing.T, object *corev1.ConfigMap) {
	t.Helper()
	a.mu.Lock()
	event := "ADDED"
	if a.objects[object.Name] != nil {
		event = "MODIFIED"
	}
	a.version++
	object.ResourceVersion = strconv.Itoa(a.version)
	a.objects[object.Name] = object
	line, err := json.Marshal(map[string]any{"type": event, "object": object})
	watchers := a.watchers
	a.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	for _, watcher := range watchers {
		_, _ = watcher.Write(append(line, '\n')) // who has gone does not hear it
	}
}

func configMapOf(name string, labels map[string]string, set ruleSet) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "ip-masq-guard", Name: name, Labels: labels},
		Data:       set,
	}
}

// TestReloadsDoNotGrow writes a rule set RELOADS times, a thousand in CI, as versions that
// decide otherwise, and now and then one that does not compile. The watch hears of each through
// a client, compiles, puts in force and keeps it as it does in a cluster; the clock of the
// bubble spares the waiting. What is alive afterwards is what was alive before.
func TestReloadsDoNotGrow(t *testing.T) {
	warm, reloads, broken := 100, 200, 50
	switch wanted := os.Getenv("RELOADS"); {
	case raceDetector:
		warm, reloads, broken = 4, 8, 4 // for races alone
	case wanted != "":
		var err error
		if reloads, err = strconv.Atoi(wanted); err != nil {
			t.Fatalf("RELOADS: %v", err)
		}
	}
	const most = 256 << 10 // bytes, less than 300 for each of them; an engine is 800,000
	synctest.Test(t, func(t *testing.T) {
		const kept = "kept"
		api := &configMaps{objects: map[string]*corev1.ConfigMap{kept: configMapOf(kept, nil, nil)}}
		client, err := coreclient.NewForConfigAndClient(&rest.Config{
			Host: "http://api.invalid", QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"},
		}, &http.Client{Transport: api})
		if err != nil {
			t.Fatal(err)
		}
		label := map[string]string{ruleLabel: ruleLabelValue}
		api.write(t, configMapOf("register", label, ruleSet{"data.json": `{"register": ["10.0.0.0/8"]}`}))
		api.write(t, configMapOf("other", label, teamRules("other", "said by other")))

		engine, err := policy.New(t.Context(), policy.Params{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		own := newMetrics("test", engine.Revision())
		w := newRuleWatch(policy.Params{}, nil, engine, ruleStore{client.ConfigMaps("ip-masq-guard"), "ip-masq-guard", kept}, own, slog.New(slog.DiscardHandler))
		stopped := make(chan error, 1)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { stopped <- w.Start(ctx) }()
		synctest.Wait()

		says := ""
		version := 0
		reload := func() {
			version++
			set := teamRules("team", fmt.Sprintf("said by version %d", version))
			if version%broken == 0 { // the one before stays in force
				set = ruleSet{"rules.rego": fmt.Sprintf("package ipmasq.team\n\ndeny := %d\n", version)}
			} else {
				says = fmt.Sprintf("said by version %d", version)
			}
			api.write(t, configMapOf("team", label, set))
			time.Sleep(2 * ruleSettle)
			synctest.Wait()
			req := policy.Request{Operation: policy.Update, Namespace: "kube-system", Name: "ip-masq-agent"}
			message := w.Decide(ctx, req, policy.NewCluster(nil, nil, nil)).Message()
			if !strings.Contains(message, says) || !strings.Contains(message, "said by other") {
				t.Fatalf("version %d: not %q: %s", version, says, message)
			}
		}
		for version < warm {
			reload()
		}
		before, goroutines := alive(), runtime.NumGoroutine()
		for version < reloads {
			reload()
		}
		after := alive()
		t.Logf("%d bytes are alive after %d reloads, %d after %d", before, warm, after, reloads)
		if after > before+most {
			t.Errorf("what is alive grew from %d to %d bytes in %d reloads", before, after, reloads-warm)
		}
		if now := runtime.NumGoroutine(); now > goroutines {
			t.Errorf("%d goroutines, then %d", goroutines, now)
		}
		if got := policy.LeftBehind(); got != 0 {
			t.Errorf("%d compilations were left behind", got)
		}
		states := map[string]string{}
		for _, s := range w.state.Load().Sets {
			states[s.Name] = s.State
		}
		if states["team"] != setLastGood || states["other"] != setInForce {
			t.Errorf("states %v", states)
		}
		if sets, err := unpack(api.objects[kept].BinaryData[keptKey]); err != nil || !strings.Contains(sets["team"]["rules.rego"], says) {
			t.Errorf("kept: %v, %v", sets, err)
		}

		stop()
		for _, watcher := range api.watchers {
			_ = watcher.Close() // a pipe has no error
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// alive is how many bytes of the heap are reachable.
func alive() uint64 {
	for range 2 { // what pools held is free after the second
		runtime.GC()
	}
	sample := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	runtimemetrics.Read(sample)
	return sample[0].Value.Uint64()
}
