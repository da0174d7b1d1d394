package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// auditEvent is the part of an audit.k8s.io/v1 Event that tests look at.
type auditEvent struct {
	Verb       string
	RequestURI string
	User       struct{ Username string }
	ObjectRef  *struct{ Resource, Namespace, Name string }

	ResponseStatus struct {
		Code    int
		Message string
	}
	Annotations map[string]string
}

// audited reads the audit log so far. A line that is being written is not there yet.
func (c *controlPlane) audited(t *testing.T) []auditEvent {
	t.Helper()
	log, err := os.ReadFile(c.auditLog)
	if err != nil {
		t.Fatal(err)
	}
	log = log[:bytes.LastIndexByte(log, '\n')+1]
	var events []auditEvent
	for line := range bytes.Lines(log) {
		var event auditEvent
		if err := json.Unmarshal(line, &event); err != nil {
			t.Fatalf("reading the audit log: %v", err)
		}
		events = append(events, event)
	}
	return events
}

// TestAudit shows what a denial and an approval leave in the audit log of the API
// server: which rules, which revision of them, and the id that the webhook's own log
// has.
func TestAudit(t *testing.T) {
	g := needGuard(t)
	k := g.cluster.kubectl()
	before := len(g.cluster.audited(t))
	// last waits for the event of the write that was just made.
	last := func(t *testing.T, verb string, code int) map[string]string {
		t.Helper()
		var found auditEvent
		eventually(t, 5*time.Second, func() error {
			for _, event := range g.cluster.audited(t)[before:] {
				if event.Verb == verb && event.ResponseStatus.Code == code && event.ObjectRef != nil &&
					event.ObjectRef.Namespace == kubeSystem && event.ObjectRef.Resource == "configmaps" {
					found = event
				}
			}
			if found.Verb == "" {
				return fmt.Errorf("no event of a %s that ended with %d", verb, code)
			}
			return nil
		})
		ours := map[string]string{}
		for key, value := range found.Annotations {
			if name, ok := strings.CutPrefix(key, webhookName+"/"); ok {
				ours[name] = value
			}
		}
		return ours
	}

	if got := k.run(t.Context(), manifest(guideConfig), "create", "-f", "-"); got.exit != 1 {
		t.Fatalf("the guide's example was not refused: %s", got)
	}
	denied := last(t, "create", 422)
	k.must(t, manifest(approvedConfig), "create", "-f", "-")
	allowed := last(t, "create", 201)
	if got := k.run(t.Context(), "", "delete", "configmap", configMap, "-n", kubeSystem); got.exit != 1 {
		t.Fatalf("the deletion was not refused: %s", got)
	}
	deleted := last(t, "delete", 422)

	for name, ours := range map[string]map[string]string{"denied": denied, "allowed": allowed, "deleted": deleted} {
		if ours["policy-revision"] == "" || ours["policy-revision"] != denied["policy-revision"] {
			t.Errorf("%s: policy-revision %q, want the one of every event", name, ours["policy-revision"])
		}
		log, err := os.ReadFile(g.log)
		if err != nil {
			t.Fatal(err)
		}
		if id := ours["decision-id"]; !regexp.MustCompile(`^\S{8,64}$`).MatchString(id) || !bytes.Contains(log, []byte(id)) {
			t.Errorf("%s: decision-id %q is not in the webhook's log", name, id)
		}
	}
	if denied["decision-id"] == allowed["decision-id"] || allowed["decision-id"] == deleted["decision-id"] {
		t.Errorf("decisions share the id %q", allowed["decision-id"])
	}
	for _, tt := range []struct {
		name string
		got  string
		want string
	}{
		{"denied", denied["violated-rules"], "config-loads"},
		{"allowed", allowed["violated-rules"], ""},
		{"deleted", deleted["violated-rules"], "no-delete"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: violated-rules %q, want %q", tt.name, tt.got, tt.want)
		}
	}
}
