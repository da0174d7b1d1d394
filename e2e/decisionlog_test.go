package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// loggedDecision is a line of the decision log as its readers know it.
type loggedDecision struct {
	ID          string `json:"decision_id"`
	Revision    string
	RequestedBy string `json:"requested_by"`
	InputDigest string `json:"input_digest"`
	Input       json.RawMessage
	Erased      []string
	Result      struct {
		Allowed, Bypassed bool
		Bypass            *struct{ Reason, Refused string }
		Findings          []struct{ Rule, Action, Message string }
	}
	Metrics map[string]int64
}

// decisionsIn are the decisions of a log, between lines of the webhook's own.
func decisionsIn(t *testing.T, files ...string) []loggedDecision {
	t.Helper()
	var logged []loggedDecision
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			var entry loggedDecision
			if json.Unmarshal(line, &entry) == nil && entry.ID != "" {
				logged = append(logged, entry)
			}
		}
	}
	return logged
}

// untilLogged waits for so many decisions.
func untilLogged(t *testing.T, n int, files ...string) []loggedDecision {
	t.Helper()
	var logged []loggedDecision
	eventually(t, 10*time.Second, func() error {
		if logged = decisionsIn(t, files...); len(logged) < n {
			return fmt.Errorf("%d decisions in the log, want %d", len(logged), n)
		}
		return nil
	})
	return logged
}

// person is a user of the API server who may write the guarded ConfigMap, and what else
// verbs allow on it.
func (i *installation) person(t *testing.T, name string, verbs ...string) kubectl {
	t.Helper()
	k := i.kubectl()
	k.must(t, "", "create", "role", name, "-n", i.guarded, "--verb="+strings.Join(append(verbs, "get", "update", "patch"), ","), "--resource=configmaps", "--resource-name="+configMap)
	k.must(t, "", "create", "rolebinding", name, "-n", i.guarded, "--role="+name, "--user="+name)
	k.as = name
	return k
}

// TestDecisionLog has the release log decisions, first masked and on the standard output,
// then in full and to files, and replays these by other rules. Among them are bypasses that
// RBAC allows and refuses.
func TestDecisionLog(t *testing.T) {
	i := install(t, "--set", "configMap.create=true,webhook.decisionLog.enabled=true")
	i.runWebhook(t)
	alice, bob := i.person(t, "alice", "bypass"), i.person(t, "bob")
	const open, quick = "nonMasqueradeCIDRs: [0.0.0.0/0]\n", "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\nresyncInterval: 2s\n"
	with := func(reason, config string) string {
		return strings.Replace(manifestOf(i.guarded, configMap, "data", "config", config),
			"metadata:", "metadata:\n  annotations: {ip-masq-guard.io/bypass: "+reason+"}", 1)
	}
	write := func(by kubectl, text string, exit int) {
		t.Helper()
		if got := by.run(t.Context(), text, "replace", "--dry-run=server", "-f", "-"); got.exit != exit {
			t.Fatalf("want exit %d: %s", exit, got)
		}
	}
	write(bob, with("outage 7", open), 1)
	write(alice, with("outage 7", open), 0)
	write(bob, manifestOf(i.guarded, configMap, "data", "config", partnerConfig), 0)

	logged := untilLogged(t, 3, i.webhook.log)
	state, err := stateOf(i.metrics)
	if err != nil {
		t.Fatal(err)
	}
	type told struct {
		By                string
		Allowed, Bypassed bool
		Reason, Refused   string
		Rules             []string
	}
	var got []told
	for _, entry := range logged {
		line := told{By: entry.RequestedBy, Allowed: entry.Result.Allowed, Bypassed: entry.Result.Bypassed}
		if entry.Result.Bypass != nil {
			line.Reason, line.Refused = entry.Result.Bypass.Reason, entry.Result.Bypass.Refused
		}
		for _, f := range entry.Result.Findings {
			if f.Action == "deny" { // others depend on what is known of the cluster
				line.Rules = append(line.Rules, f.Rule)
			}
		}
		got = append(got, line)
		if entry.Revision != state.Rules.Revision || !regexp.MustCompile("^[0-9a-f]{64}$").MatchString(entry.InputDigest) || entry.Metrics["timer_server_handler_ns"] <= 0 {
			t.Errorf("a decision by %s: %+v", state.Rules.Revision, entry)
		}
		if entry.Input != nil || !slices.Contains(entry.Erased, "/input") {
			t.Errorf("not masked: %+v", entry)
		}
	}
	const refused = "bob has no right to the verb bypass on configmap ip-masq-agent in "
	want := []told{
		{By: "bob", Reason: "outage 7", Refused: refused + i.guarded, Rules: []string{"masquerade-not-disabled"}},
		{By: "alice", Bypassed: true, Reason: "outage 7", Rules: []string{"masquerade-not-disabled"}},
		{By: "bob", Allowed: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the log differs (-want +got):\n%s", diff)
	}
	text, err := os.ReadFile(i.webhook.log)
	if err != nil {
		t.Fatal(err)
	}
	if leaked := regexp.MustCompile(`(?m)^.*(0\.0\.0\.0/0|203\.0\.113).*$`).FindString(string(text)); leaked != "" {
		t.Errorf("the log quotes a configuration: %s", leaked)
	}
	if id := logged[1].ID; i.auditedBypass(t, id) != "outage 7" {
		t.Errorf("no event of the API server has the decision %s and its reason", id)
	}

	// Into files of at most 1 MiB, with everything that a replay needs.
	i.upgrade(t, "--set", "configMap.create=true,webhook.decisionLog.enabled=true,webhook.decisionLog.full=true,"+
		"webhook.decisionLog.volume.emptyDir.sizeLimit=1Gi,webhook.decisionLog.maxSizeMiB=1,webhook.decisionLog.kept=1")
	i.webhook.kill()
	file := filepath.Join(t.TempDir(), "decisions.log")
	i.webhook, i.metrics, i.health = i.startWebhook(t, "--decision-log="+file) // the volume is no folder of this machine
	write(alice, with("outage 8", open), 0)
	write(alice, manifestOf(i.guarded, configMap, "data", "config", partnerConfig), 0)
	write(bob, manifestOf(i.guarded, configMap, "data", "config", quick), 1)
	untilLogged(t, 3, file)
	large := strings.Repeat("# "+strings.Repeat("x", 76)+"\n", 7000)
	write(bob, manifestOf(i.guarded, configMap, "data", "config", large+partnerConfig), 0)
	untilLogged(t, 4, file)
	write(bob, manifestOf(i.guarded, configMap, "data", "config", large+partnerConfig), 0)
	untilLogged(t, 5, file+".1", file)
	if rotated := decisionsIn(t, file+".1"); len(rotated) != 4 {
		t.Errorf("%d decisions in the file of before, want 4", len(rotated))
	}

	rules := t.TempDir()
	if err := os.WriteFile(filepath.Join(rules, "partners.rego"), []byte(partnerRules), 0o600); err != nil {
		t.Fatal(err)
	}
	params := filepath.Join(rules, "params-of-the-cluster")
	if err := os.WriteFile(params, []byte("rules: {resync-bounds: {min: 1s}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	replayed := stock(t, program(t, "kubectl-masq"), "replay", file+".1", "--policy-dir", rules, "--params", params)
	changes := regexp.MustCompile(`(?m)^\S+ ([0-9a-f]{32}) by (.*)$`)
	var changed [][2]string
	for _, line := range changes.FindAllStringSubmatch(replayed.stdout, -1) {
		changed = append(changed, [2]string{line[1], line[2]})
	}
	ids := decisionsIn(t, file+".1")
	if diff := cmp.Diff([][2]string{
		{ids[0].ID, "alice: still refused, bypassed then: outage 8"},
		{ids[1].ID, "alice: approved then, refused now"},
		{ids[2].ID, "bob: refused then, approved now"},
		{ids[3].ID, "bob: approved then, refused now"},
	}, changed); diff != "" || replayed.exit != 1 {
		t.Errorf("changed decisions differ (-want +got):\n%s%s", diff, replayed)
	}
	for _, line := range []string{
		"  + deny[payments/partners] nonMasqueradeCIDRs[2]: 203.0.113.0/24 spares the partners\n",
		"  - deny[resync-bounds] resyncInterval: ",
		"4 decisions replayed, 4 changed, 2 of them refused now\n",
	} {
		if !strings.Contains(replayed.stdout, line) {
			t.Errorf("the replay does not tell %q: %s", line, replayed)
		}
	}
}

// auditedBypass is the reason that the API server's audit log has with a decision.
func (i *installation) auditedBypass(t *testing.T, id string) string {
	t.Helper()
	for _, event := range i.audited(t) {
		if event.Annotations[webhookName+"/decision-id"] == id {
			return event.Annotations[webhookName+"/bypass-reason"]
		}
	}
	return ""
}
