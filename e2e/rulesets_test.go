package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Rules with blanks rather than tabs: kubectl edit shows text with tabs on one line.
const (
	partnerRules = `# METADATA
# title: Partners see nodes
package ipmasq.payments

deny contains v if {
  some range in input.config.nonMasqueradeCIDRs
  net.cidr_intersects(range.cidr, "203.0.113.0/24")
  v := {"msg": $"{range.cidr} spares the partners", "path": range.path, "rule": "partners"}
}
`
	partnerTests = `package ipmasq.payments_test

import data.ipmasq.payments

test_deny_partners if {
  some cidr in ["203.0.113.0/24", "198.51.100.0/24"]
  count(payments.deny) == 1 with input as {"config": {"nonMasqueradeCIDRs": [{"cidr": cidr, "path": "x"}]}}
}
`
	// partnerConfig is approved by the built-in rules alone.
	partnerConfig = "nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 192.168.0.0/16\n- 203.0.113.0/24\nresyncInterval: 60s\n"
)

// ruleSet is a ConfigMap with rules as kubectl takes it, one file after another.
func ruleSet(namespace, name string, files ...string) string {
	data := map[string]string{}
	for i := 0; i+1 < len(files); i += 2 {
		data[files[i]] = files[i+1]
	}
	text, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"namespace": namespace, "name": name, "labels": map[string]string{"ip-masq-guard.io/policy": "rego"}},
		"data":     data,
	})
	if err != nil {
		panic(err) // text always encodes
	}
	return string(text)
}

// rulesState is what /status tells of the rules.
type rulesState struct {
	Rules struct {
		Revision string
		Sets     []struct {
			Name, State string
			Errors      []string
		}
	}
}

func stateOf(metrics string) (rulesState, error) {
	var state rulesState
	page, err := get(http.DefaultTransport, strings.TrimSuffix(metrics, "/metrics")+"/status")
	if err == nil {
		err = json.Unmarshal([]byte(page), &state)
	}
	return state, err
}

// untilSet waits until a webhook has the rule set payments in a state, and returns the revision.
func untilSet(t *testing.T, metrics, state string) string {
	t.Helper()
	revision := ""
	eventually(t, 10*time.Second, func() error {
		now, err := stateOf(metrics)
		if err != nil {
			return err
		}
		revision = now.Rules.Revision
		for _, set := range now.Rules.Sets {
			if set.Name == "payments" && set.State == state {
				return nil
			}
		}
		return fmt.Errorf("the rule set payments is not %s: %+v", state, now.Rules.Sets)
	})
	return revision
}

// refusedBy waits until a write of text to the guarded ConfigMap is refused with a message.
func (i *installation) refusedBy(t *testing.T, text, message string) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		got := i.kubectl().run(t.Context(), manifestOf(i.guarded, configMap, "data", "config", text), "apply", "--dry-run=server", "-f", "-")
		if got.exit == 0 || !strings.Contains(got.stderr, message) {
			return fmt.Errorf("not refused with %q: %s", message, got)
		}
		return nil
	})
}

// TestRuleSets follows a rule set from its first write to its end: judged when it is
// written, in force without a restart on every replica, the last good one kept.
func TestRuleSets(t *testing.T) {
	i := install(t, "--set", "configMap.create=true")
	k := i.kubectl()
	i.runWebhook(t)
	_, second, _ := i.startWebhook(t, "--port="+fmt.Sprint(must(freePorts(1))(t)[0]))
	before, err := stateOf(i.metrics)
	if err != nil {
		t.Fatal(err)
	}

	// It comes into force on both replicas.
	i.enforcedAtOnce(t)
	first := untilSet(t, i.metrics, "in-force")
	if other := untilSet(t, second, "in-force"); other != first || first == before.Rules.Revision {
		t.Errorf("revisions are %s and %s, and were %s", first, other, before.Rules.Revision)
	}

	i.refusedBy(t, partnerConfig, "203.0.113.0/24 spares the partners")
	i.decidedBy(t, first)

	// Broken and mended in one edit, by what the reopened buffer says.
	transcript, exit, visits := edit(t, k, "rules", i.namespace, "payments")
	if exit != 0 || visits != 2 {
		t.Errorf("exit %d after %d visits:\n%s", exit, visits, transcript)
	}
	golden(t, strings.NewReplacer(i.namespace, "NAMESPACE").Replace(transcript))
	mended := untilSet(t, i.metrics, "in-force")
	eventually(t, 10*time.Second, func() error {
		now, err := stateOf(i.metrics)
		if err == nil && now.Rules.Revision == first {
			err = errors.New("the revision is the same after the edit")
		}
		mended = now.Rules.Revision
		return err
	})
	i.refusedBy(t, strings.ReplaceAll(partnerConfig, "203.0.113", "198.51.100"), "198.51.100.0/24 spares the partners")
	i.decidedBy(t, mended)
	eventually(t, 10*time.Second, func() error {
		other, err := stateOf(second)
		if err == nil && other.Rules.Revision != mended {
			err = fmt.Errorf("the other replica has revision %s, want %s", other.Rules.Revision, mended)
		}
		return err
	})
	audited := i.lastAudit(t, "patch", "policy-revision")
	if audited != mended {
		t.Errorf("the audit log has revision %q, want %q", audited, mended)
	}

	// A set that nobody judges, since the gate for rules is open, does not come into force.
	k.must(t, "", "patch", "validatingwebhookconfiguration", release, "--type=json",
		`--patch=[{"op": "replace", "path": "/webhooks/1/failurePolicy", "value": "Ignore"}, {"op": "replace", "path": "/webhooks/1/clientConfig/service/path", "value": "/nowhere"}]`)
	eventually(t, 10*time.Second, func() error {
		got := k.run(t.Context(), ruleSet(i.namespace, "payments", "partners.rego", "package ipmasq.payments\n\ndeny contains x if {\n"), "apply", "-f", "-")
		if got.exit != 0 {
			return fmt.Errorf("still judged: %s", got)
		}
		return nil
	})
	for _, metrics := range []string{i.metrics, second} {
		if kept := untilSet(t, metrics, "last-good"); kept != mended {
			t.Errorf("revision %s with a set that does not compile, want %s", kept, mended)
		}
		toldOfBadSet(t, metrics)
	}
	i.refusedBy(t, strings.ReplaceAll(partnerConfig, "203.0.113", "198.51.100"), "198.51.100.0/24 spares the partners")
	// Nor after a restart.
	i.webhook.kill()
	i.runWebhook(t)
	if kept := untilSet(t, i.metrics, "last-good"); kept != mended {
		t.Errorf("revision %s after the restart, want %s", kept, mended)
	}
	toldOfBadSet(t, i.metrics)
	i.refusedBy(t, strings.ReplaceAll(partnerConfig, "203.0.113", "198.51.100"), "198.51.100.0/24 spares the partners")
	if log := i.webhook.tail(); !strings.Contains(log, `"rule set not in force as it stands"`) {
		t.Errorf("the log does not say so:\n%s", log)
	}
	// Another set changes on.
	k.must(t, ruleSet(i.namespace, "office", "office.rego", strings.NewReplacer("payments", "office", "partners", "office").Replace(partnerRules)), "create", "-f", "-")
	i.refusedBy(t, partnerConfig, "203.0.113.0/24 spares the office")

	// Closed again: a deletion is warned of.
	k.must(t, "", "patch", "validatingwebhookconfiguration", release, "--type=json",
		`--patch=[{"op": "replace", "path": "/webhooks/1/failurePolicy", "value": "Fail"}, {"op": "replace", "path": "/webhooks/1/clientConfig/service/path", "value": "/validate-rules"}]`)
	eventually(t, 10*time.Second, func() error {
		got := k.run(t.Context(), "", "delete", "configmap", "office", "-n", i.namespace, "--dry-run=server")
		if want := "Warning: no longer checked: office (Partners see nodes)\n"; got.stderr != want {
			return fmt.Errorf("%s\nwant %q", got, want)
		}
		return nil
	})
	relabelled := k.run(t.Context(), "", "label", "configmap", "office", "-n", i.namespace, "ip-masq-guard.io/policy-", "--dry-run=server")
	if want := "Warning: no longer checked: office (Partners see nodes)\n"; relabelled.stderr != want {
		t.Errorf("taking the label away: %s\nwant %q", relabelled, want)
	}
	k.must(t, "", "delete", "configmap", "office", "payments", "-n", i.namespace)
	eventually(t, 10*time.Second, func() error {
		now, err := stateOf(i.metrics)
		if err == nil && (len(now.Rules.Sets) > 0 || now.Rules.Revision != before.Rules.Revision) {
			err = fmt.Errorf("rules left: %+v", now)
		}
		return err
	})
	k.must(t, manifestOf(i.guarded, configMap, "data", "config", partnerConfig), "apply", "--dry-run=server", "-f", "-")
}

// decidedBy waits until the audit log has a decision on the guarded ConfigMap, the last
// one, with this revision of the rules.
func (i *installation) decidedBy(t *testing.T, revision string) {
	t.Helper()
	eventually(t, 5*time.Second, func() error {
		last := ""
		for _, event := range i.audited(t) {
			if event.ObjectRef != nil && event.ObjectRef.Namespace == i.guarded && event.Annotations[webhookName+"/policy-revision"] != "" {
				last = event.Annotations[webhookName+"/policy-revision"]
			}
		}
		if last != revision {
			return fmt.Errorf("the last decision in the audit log is by revision %q, want %q", last, revision)
		}
		return nil
	})
}

// enforcedAtOnce writes the rule set payments, and fails if the rules decide by it only a
// second later. This machine has other things to do, so the best of three counts.
func (i *installation) enforcedAtOnce(t *testing.T) {
	t.Helper()
	set := ruleSet(i.namespace, "payments", "partners.rego", partnerRules, "partners_test.rego", partnerTests)
	for attempt := 1; ; attempt++ {
		i.kubectl().must(t, set, "create", "-f", "-")
		began := time.Now()
		i.refusedBy(t, partnerConfig, "203.0.113.0/24 spares the partners")
		took := time.Since(began).Round(10 * time.Millisecond)
		t.Logf("enforced %s after the write", took)
		if took < time.Second {
			return
		}
		if attempt == 3 {
			t.Errorf("enforced %s after the write, want less than a second", took)
			return
		}
		i.kubectl().must(t, set, "delete", "-f", "-")
		untilSets(t, i.metrics)
	}
}

// toldOfBadSet: /status has the mistake with its place, and a metric counts the set.
func toldOfBadSet(t *testing.T, metrics string) {
	t.Helper()
	state, err := stateOf(metrics)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"payments/partners.rego:4: unexpected eof token"}; len(state.Rules.Sets) != 1 || !slices.Contains(state.Rules.Sets[0].Errors, want[0]) {
		t.Errorf("/status tells %+v, want %q", state.Rules.Sets, want)
	}
	page, err := get(http.DefaultTransport, metrics)
	if want := `ip_masq_guard_rule_sets{state="last-good"} 1`; err != nil || !strings.Contains(page, want) {
		t.Errorf("/metrics lacks %s (%v)", want, err)
	}
}

// lastAudit is an annotation of the webhook for rule sets in the last event that has it.
func (i *installation) lastAudit(t *testing.T, verb, key string) string {
	t.Helper()
	value := ""
	eventually(t, 5*time.Second, func() error {
		for _, event := range i.audited(t) {
			if event.Verb != verb || event.ObjectRef == nil || event.ObjectRef.Namespace != i.namespace || event.ResponseStatus.Code != http.StatusOK {
				continue
			}
			if v := event.Annotations["rules.ip-masq-guard.io/"+key]; v != "" {
				value = v
			}
		}
		if value == "" {
			return fmt.Errorf("no %s has the annotation %s", verb, key)
		}
		return nil
	})
	return value
}

// useRuleSets uses each right that rule sets and bypasses need.
func (i *installation) useRuleSets(t *testing.T) {
	t.Helper()
	k := i.kubectl()
	k.must(t, ruleSet(i.namespace, "payments", "partners.rego", partnerRules, "partners_test.rego", partnerTests), "create", "-f", "-")
	untilSet(t, i.metrics, "in-force")
	k.must(t, "", "delete", "configmap", "payments", "-n", i.namespace)
	got := k.run(t.Context(), strings.Replace(manifestOf(i.guarded, configMap, "data", "config", "nonMasqueradeCIDRs: [0.0.0.0/0]\n"),
		"metadata:", "metadata:\n  annotations: {ip-masq-guard.io/bypass: a test}", 1), "apply", "--dry-run=server", "-f", "-")
	if got.exit != 0 || !strings.Contains(got.stderr, "Warning: ") || !strings.Contains(got.stderr, "bypassed (a test)") {
		t.Errorf("a bypass by an administrator: %s", got)
	}
}

// TestBypass lets RBAC decide who may override the rules, and for which edit.
func TestBypass(t *testing.T) {
	g := needGuard(t)
	k := g.cluster.kubectl()
	k.must(t, manifest(approvedConfig), "create", "-f", "-")
	const open, broken = "nonMasqueradeCIDRs: [0.0.0.0/0]\n", "nonMasqueradeCIDRs: [10.0.0.1/8]\n"
	with := func(reason, config string) string {
		return strings.Replace(manifest(config), "metadata:", "metadata:\n  annotations: {ip-masq-guard.io/bypass: "+reason+"}", 1)
	}
	may := func(t *testing.T, user string, verbs ...string) kubectl {
		t.Helper()
		name := "bypass-" + user
		k.must(t, "", "create", "role", name, "-n", kubeSystem, "--verb="+strings.Join(verbs, ","), "--resource=configmaps", "--resource-name="+configMap)
		k.must(t, "", "create", "rolebinding", name, "-n", kubeSystem, "--role="+name, "--user="+user)
		t.Cleanup(func() {
			g.cluster.forget(t, "rolebindings", name)
			g.cluster.forget(t, "roles", name)
		})
		own := k
		own.as = user
		return own
	}
	operator, breaker := may(t, "operator", "get", "update", "patch"), may(t, "breaker", "get", "update", "patch", "bypass")
	for _, tt := range []struct {
		name string
		by   kubectl
		text string
		exit int
		want string
	}{
		{
			"without the right", operator, with("outage 7", open), 1,
			"Warning: not bypassed: operator has no right to the verb bypass on configmap ip-masq-agent in kube-system\n",
		},
		{"with the right, without a reason", breaker, with(`""`, open), 1, "masquerade-not-disabled"},
		{
			"what agents would not load", breaker, with("outage 7", broken), 1,
			"Warning: not bypassed: agents would not load the configuration, or it could not be judged\n",
		},
		{"with the right", breaker, with("outage 7", open), 0, "bypassed (outage 7): "},
		{
			"a later edit with the same reason", breaker, with("outage 7", open+"resyncInterval: 2s\n"), 1,
			"Warning: not bypassed: the annotation ip-masq-guard.io/bypass is that of an earlier edit; write the reason for this one\n",
		},
		{"a later edit with its own", breaker, with("outage 8", open+"resyncInterval: 2s\n"), 0, "bypassed (outage 8): "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.by.run(t.Context(), tt.text, "apply", "-f", "-")
			if got.exit != tt.exit || !strings.Contains(got.stderr, tt.want) {
				t.Errorf("%s\nwant exit %d and %q", got, tt.exit, tt.want)
			}
		})
	}
	if diff := cmp.Diff(open+"resyncInterval: 2s\n", k.stored(t, kubeSystem).Data["config"]); diff != "" {
		t.Errorf("stored config differs (-want +got):\n%s", diff)
	}
	page, err := get(http.DefaultTransport, g.metrics)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`ip_masq_guard_bypasses_total{allowed="true"} 2`, `ip_masq_guard_bypasses_total{allowed="false"} 3`} {
		if !strings.Contains(page, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}
