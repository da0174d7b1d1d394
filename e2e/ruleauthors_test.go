package e2e

import (
	"encoding/base64"
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

// setsIn are the names of rule sets and their states, sorted by name.
func setsIn(t *testing.T, metrics string) []string {
	t.Helper()
	state, err := stateOf(metrics)
	if err != nil {
		t.Fatal(err)
	}
	var sets []string
	for _, set := range state.Rules.Sets {
		sets = append(sets, set.Name+" "+set.State)
	}
	return sets
}

// untilSets waits until a webhook has these rule sets.
func untilSets(t *testing.T, metrics string, want ...string) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		if diff := cmp.Diff(want, setsIn(t, metrics)); diff != "" {
			return fmt.Errorf("rule sets differ (-want +got):\n%s", diff)
		}
		return nil
	})
}

// ship makes a rule set of a folder, as docs/writing-rules.md says.
func (i *installation) ship(t *testing.T, name, folder string) {
	t.Helper()
	made := i.kubectl().must(t, "", "create", "configmap", name, "-n", i.namespace, "--from-file="+folder, "--dry-run=client", "-o", "yaml")
	labelled := i.kubectl().must(t, made.stdout, "label", "--local", "-f", "-", "ip-masq-guard.io/policy=rego", "-o", "yaml")
	i.kubectl().must(t, labelled.stdout, "apply", "-f", "-")
}

// TestTwoPersons has two users of the API server keep the two-person rule, and each of them
// try to get around it.
func TestTwoPersons(t *testing.T) {
	i := install(t, "--set", "configMap.create=true")
	i.runWebhook(t)
	i.ship(t, "two-person", filepath.Join(workedRules, "two-person"))
	untilSets(t, i.metrics, "two-person in-force")
	alice, bob := i.person(t, "alice"), i.person(t, "bob")

	edit := func(text string) func(k kubectl) output {
		patch, err := json.Marshal(map[string]any{"data": map[string]string{"config": text}})
		if err != nil {
			t.Fatal(err)
		}
		return func(k kubectl) output {
			return k.run(t.Context(), "", "patch", "configmap", configMap, "-n", i.guarded, "--type=merge", "--patch="+string(patch))
		}
	}
	// The command is the one that the refusal tells.
	var told []string
	approve := func(in string) func(k kubectl) output {
		return func(k kubectl) output {
			args := slices.Clone(told)
			for n := range args {
				args[n] = strings.ReplaceAll(args[n], "THEIR-USER-NAME", in)
			}
			return k.run(t.Context(), "", args...)
		}
	}
	smaller := edit("nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n")
	another := edit("nonMasqueradeCIDRs: [10.0.0.0/8]\n")
	for _, step := range []struct {
		name  string
		by    kubectl
		do    func(k kubectl) output
		wants string // of what is refused; empty: it passes
	}{
		{"alice alone", alice, smaller, "no colleague has approved: masquerade 172.16.0.0/12"},
		{"alice in bob's name", alice, approve("bob"), "an approval by alice says that somebody else has given it"},
		{"alice in her own", alice, approve("alice"), ""},
		{"alice by her own approval", alice, smaller, "no colleague has approved: masquerade 172.16.0.0/12"},
		{"bob", bob, approve("bob"), ""},
		{"bob by his own approval", bob, smaller, "no colleague has approved: masquerade 172.16.0.0/12"},
		{"alice does something else", alice, another, "no colleague has approved: masquerade 192.168.0.0/16"},
		{"alice does what bob approved", alice, smaller, ""},
		{"alice, once more", alice, another, "no colleague has approved: masquerade 192.168.0.0/16"},
	} {
		got := step.do(step.by)
		if (got.exit == 0) != (step.wants == "") || !strings.Contains(got.stderr, step.wants) {
			t.Fatalf("%s: want %q: %s", step.name, step.wants, got)
		}
		if told == nil {
			command := regexp.MustCompile(`who agrees runs: kubectl (annotate .*) '(example\.com/approved-change=[^']*)'`).FindStringSubmatch(got.stderr)
			if command == nil {
				t.Fatalf("%s: no command for who agrees: %s", step.name, got)
			}
			told = append(strings.Fields(command[1]), command[2])
		}
	}
	// Rules know the groups of a user as well.
	const teams = "# METADATA\n# title: The network team writes\npackage ipmasq.teams\n\n" +
		"warn contains $\"{input.request.user} is not in the network team\" if not \"network\" in input.request.groups\n"
	i.kubectl().must(t, ruleSet(i.namespace, "teams", "teams.rego", teams), "create", "-f", "-")
	untilSets(t, i.metrics, "teams in-force", "two-person in-force")
	for group, want := range map[string]bool{"office": true, "network": false} {
		got := alice.run(t.Context(), "", "--as-group="+group, "annotate", "configmap", configMap, "-n", i.guarded, "example.com/a="+group, "--dry-run=server")
		if got.exit != 0 || strings.Contains(got.stderr, "alice is not in the network team") != want {
			t.Errorf("in the group %s: %s", group, got)
		}
	}
	if got, want := i.kubectl().stored(t, i.guarded).Data["config"], "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n"; got != want {
		t.Errorf("stored is %q, want %q", got, want)
	}
}

// TestExceptionsExpire: an exception turns a denial into a warning that says why, and then
// its time is over without anybody's doing.
func TestExceptionsExpire(t *testing.T) {
	i := install(t, "--set", "configMap.create=true,ruleSets.liveDenied=deny")
	i.runWebhook(t)
	// Here a set that denies what is stored is no set at all.
	stored := strings.NewReplacer("203.0.113.0/24", "172.16.0.0/12", "payments", "office", "partners", "office").Replace(partnerRules)
	if got := i.kubectl().run(t.Context(), ruleSet(i.namespace, "office", "office.rego", stored), "create", "-f", "-"); got.exit == 0 ||
		!strings.Contains(got.stderr, "this would deny the configuration that is stored now: 172.16.0.0/12 spares the office [office/office]") {
		t.Errorf("a set that denies what is stored: %s", got)
	}
	const lasts = 5 * time.Second
	ends := time.Now().Add(lasts).UTC().Truncate(time.Second)
	params := fmt.Sprintf("exceptions:\n- {rule: payments/partners, cidr: 203.0.113.0/24, reason: moving DC 2, until: %q}\n", ends.Format(time.RFC3339))
	i.kubectl().must(t, ruleSet(i.namespace, "payments", "partners.rego", partnerRules, "params.yaml", params), "create", "-f", "-")
	untilSets(t, i.metrics, "payments in-force")
	write := func() output {
		return i.kubectl().run(t.Context(), manifestOf(i.guarded, configMap, "data", "config", partnerConfig), "replace", "--dry-run=server", "-f", "-")
	}
	if got := write(); got.exit != 0 || !strings.Contains(got.stderr, "203.0.113.0/24 spares the partners; excepted until "+ends.Format(time.RFC3339)+": moving DC 2") {
		t.Errorf("before its end: %s", got)
	}
	eventually(t, 2*lasts, func() error {
		if got := write(); got.exit != 1 || !strings.Contains(got.stderr, "the exception for 203.0.113.0/24 ended "+ends.Format(time.RFC3339)+" (moving DC 2)") {
			return fmt.Errorf("after its end: %s", got)
		}
		return nil
	})
	if now := time.Now(); now.Before(ends) {
		t.Errorf("ended at %s, want not before %s", now, ends)
	}
}

// TestRuleSetObjects writes rule sets in the ways that Kubernetes has of writing ConfigMaps.
func TestRuleSetObjects(t *testing.T) {
	i := install(t, "--set", "configMap.create=true")
	i.runWebhook(t)
	k := i.kubectl()
	good := ruleSet(i.namespace, "payments", "partners.rego", partnerRules, "partners_test.rego", partnerTests)
	bad := strings.ReplaceAll(good, "some range in input.config", "some range in input.confg")
	const mistake = `The ConfigMap "payments" is invalid: data["partners.rego"]: line 6, column 17: undefined ref: input.confg.nonMasqueradeCIDRs, want (one of): ` +
		`["cluster" "config" "derived" "object" "old" "override" "params" "problems" "request"]; did you mean config?` + "\n  | some range in input.confg.nonMasqueradeCIDRs\n"
	gone := func() {
		t.Helper()
		k.must(t, "", "delete", "configmap", "-n", i.namespace, "-l", "ip-masq-guard.io/policy")
		untilSets(t, i.metrics)
	}

	// What is tried changes nothing; what is wrong is refused by every verb.
	for _, verb := range []string{"create", "apply", "apply --server-side", "apply --dry-run=server", "diff"} {
		args := append(strings.Fields(verb), "-f", "-")
		if got := k.run(t.Context(), bad, args...); got.exit == 0 || !strings.Contains(got.stderr, mistake) && !strings.Contains(got.stderr, "undefined ref: input.confg.nonMasqueradeCIDRs") {
			t.Errorf("%s of a bad set: %s", verb, got)
		}
	}
	if got := k.run(t.Context(), bad, "create", "-f", "-"); got.stderr != mistake {
		t.Errorf("the refusal differs (-want +got):\n%s", cmp.Diff(mistake, got.stderr))
	}
	k.must(t, good, "apply", "--dry-run=server", "-f", "-")
	if got := k.run(t.Context(), good, "diff", "-f", "-"); got.exit != 1 || got.stderr != "" {
		t.Errorf("diff of a good set: %s", got)
	}
	before := setsIn(t, i.metrics)
	if len(before) > 0 {
		t.Errorf("in force is what nobody has written: %v", before)
	}

	// One owner of each field, then another.
	k.must(t, good, "apply", "--server-side", "--field-manager=team", "-f", "-")
	untilSets(t, i.metrics, "payments in-force")
	changed := strings.ReplaceAll(good, "203.0.113.0/24", "203.0.113.0/25")
	if got := k.run(t.Context(), changed, "apply", "--server-side", "--field-manager=ci", "-f", "-"); got.exit != 1 || !strings.Contains(got.stderr, `conflicts with "team"`) {
		t.Errorf("another owner: %s", got)
	}
	k.must(t, changed, "apply", "--server-side", "--field-manager=ci", "--force-conflicts", "-f", "-")
	i.refusedBy(t, partnerConfig, "203.0.113.0/24 spares the partners")

	// A set that denies what is stored is taken, but told of.
	k.must(t, "", "delete", "configmap", "payments", "-n", i.namespace)
	stored := k.must(t, strings.ReplaceAll(good, "203.0.113.0/24", "172.16.0.0/12"), "create", "-f", "-")
	if want := "Warning: this would deny the configuration that is stored now: 172.16.0.0/12 spares the partners [payments/partners]; its next edit has to mend that as well\n"; stored.stderr != want {
		t.Errorf("a set that denies what is stored: %s\nwant %q", stored, want)
	}
	untilSets(t, i.metrics, "payments in-force")

	// What has nothing to do with rules costs nothing: neither a warning nor a new revision.
	revision := untilSet(t, i.metrics, "in-force")
	for _, args := range [][]string{{"label", "team=payments"}, {"annotate", "example.com/owner=jane"}} {
		if got := k.run(t.Context(), "", args[0], "configmap", "payments", "-n", i.namespace, args[1]); got.exit != 0 || got.stderr != "" {
			t.Errorf("%s: %s", args, got)
		}
	}
	if now := untilSet(t, i.metrics, "in-force"); now != revision {
		t.Errorf("revision %s after a label and an annotation, want %s", now, revision)
	}

	// A label that is almost right.
	const wrong = `Warning: no rules are taken from this ConfigMap: the label ip-masq-guard.io/policy is "Rego"; write rego` + "\n"
	relabelled := k.run(t.Context(), "", "label", "--overwrite", "configmap", "payments", "-n", i.namespace, "ip-masq-guard.io/policy=Rego")
	if want := wrong + "Warning: no longer checked: payments (Partners see nodes)\n"; relabelled.exit != 0 || relabelled.stderr != want {
		t.Errorf("another value of the label: %s\nwant %q", relabelled, want)
	}
	untilSets(t, i.metrics)
	if got := k.run(t.Context(), strings.NewReplacer(`"payments"`, `"other"`, `"rego"`, `"Rego"`).Replace(bad), "create", "-f", "-"); got.exit != 0 || got.stderr != wrong {
		t.Errorf("created with another value: %s\nwant %q", got, wrong)
	}
	if got := k.run(t.Context(), "", "label", "--overwrite", "configmap", "other", "-n", i.namespace, "ip-masq-guard.io/policy=rego"); got.exit == 0 || !strings.Contains(got.stderr, "undefined ref: input.confg") {
		t.Errorf("labelled later: %s", got)
	}
	gone()

	// Another namespace is none of the webhook's business.
	elsewhere := i.controlPlane.namespace(t, "elsewhere")
	if got := k.run(t.Context(), strings.ReplaceAll(bad, i.namespace, elsewhere), "create", "-f", "-"); got.exit != 0 || got.stderr != "" {
		t.Errorf("in another namespace: %s", got)
	}

	// A name that the API server chooses; an object that cannot change; binary data.
	generated := func(text string) string {
		return strings.Replace(text, `"name":"payments"`, `"generateName":"payments-"`, 1)
	}
	if got := k.run(t.Context(), generated(bad), "create", "-f", "-"); got.exit == 0 || !strings.Contains(got.stderr, "undefined ref: input.confg") {
		t.Errorf("a bad one with generateName: %s", got)
	}
	name := strings.TrimPrefix(strings.TrimSpace(k.must(t, generated(good), "create", "-f", "-", "-o", "name").stdout), "configmap/")
	untilSets(t, i.metrics, name+" in-force")
	gone()
	k.must(t, strings.Replace(good, `"kind"`, `"immutable":true,"kind"`, 1), "create", "-f", "-")
	untilSets(t, i.metrics, "payments in-force")
	if got := k.run(t.Context(), changed, "replace", "-f", "-"); got.exit == 0 || !strings.Contains(got.stderr, "field is immutable when `immutable` is set") {
		t.Errorf("a change of an immutable set: %s", got)
	}
	gone()
	binary := func(rules string) string {
		text := base64.StdEncoding.EncodeToString([]byte(rules))
		return strings.Replace(ruleSet(i.namespace, "payments"), `"data":{}`, `"binaryData":{"partners.rego":"`+text+`"}`, 1)
	}
	if got := k.run(t.Context(), binary("package ipmasq.payments\n\xff"), "create", "-f", "-"); got.exit == 0 || !strings.Contains(got.stderr, `binaryData["partners.rego"]: line 2: illegal utf-8 character`) {
		t.Errorf("binary data that is no text: %s", got)
	}
	k.must(t, binary(partnerRules), "create", "-f", "-")
	i.refusedBy(t, partnerConfig, "203.0.113.0/24 spares the partners")
	gone()

	// The largest that the API server takes: a register beside its rule.
	var entries []string
	for n := range 24000 {
		entries = append(entries, fmt.Sprintf(`{"cidr":"198.%d.%d.0/24","owner":"team"}`, n/256, n%256))
	}
	register := `{"register":[` + strings.Join(entries, ",") + "]}"
	rule := "# METADATA\n# title: Registered\npackage ipmasq.register\n\ndeny contains $\"{range.cidr} is registered\" if {\n" +
		"  some range in input.config.nonMasqueradeCIDRs\n  some entry in data.register\n  entry.cidr == range.cidr\n}\n"
	register += strings.Repeat(" ", 1<<20-len(register)-len(rule))
	k.must(t, ruleSet(i.namespace, "payments", "rule.rego", rule, "data.json", register), "create", "-f", "-")
	i.refusedBy(t, strings.ReplaceAll(partnerConfig, "203.0.113.0/24", "198.7.9.0/24"), "198.7.9.0/24 is registered")
	gone()

	// A set that others need stays, and offers what they need.
	needed := ruleSet(i.namespace, "register", "data.json", `{"register": ["198.7.9.0/24"]}`)
	needs := ruleSet(i.namespace, "payments", "rule.rego", "# METADATA\n# title: Registered\npackage ipmasq.register\n\n"+
		"deny contains $\"{range.cidr} is registered\" if {\n  some range in input.config.nonMasqueradeCIDRs\n  range.cidr in data.register\n}\n")
	if got := k.run(t.Context(), needs, "create", "-f", "-"); got.exit == 0 ||
		!strings.Contains(got.stderr, `data["rule.rego"]: line 7, column 22: undefined ref: data.register: no data.json has the key "register"`) {
		t.Errorf("a set whose data is missing: %s", got)
	}
	k.must(t, needed, "create", "-f", "-")
	untilSets(t, i.metrics, "register in-force")
	k.must(t, needs, "create", "-f", "-")
	i.refusedBy(t, strings.ReplaceAll(partnerConfig, "203.0.113.0/24", "198.7.9.0/24"), "198.7.9.0/24 is registered")
	const broken = `other rules would not work any more: payments/rule.rego:7:22: undefined ref: data.register: no data.json has the key "register"`
	for _, args := range [][]string{{"delete"}, {"label", "ip-masq-guard.io/policy-"}, {"patch", `--patch={"data": {"data.json": "{}"}}`}} {
		if got := k.run(t.Context(), "", append([]string{args[0], "configmap", "register", "-n", i.namespace}, args[1:]...)...); got.exit == 0 || !strings.Contains(got.stderr, broken) {
			t.Errorf("%s of a set that another needs: %s", args, got)
		}
	}
	k.must(t, "", "delete", "configmap", "payments", "-n", i.namespace)
	untilSets(t, i.metrics, "register in-force")
	gone()

	// What kustomize makes, and all of it deleted at once.
	folder := t.TempDir()
	for file, text := range map[string]string{
		"kustomization.yaml": "namespace: " + i.namespace + "\ngeneratorOptions: {disableNameSuffixHash: true, labels: {ip-masq-guard.io/policy: rego}}\n" +
			"configMapGenerator:\n- {name: payments, files: [partners.rego, partners_test.rego]}\n",
		"partners.rego": partnerRules, "partners_test.rego": partnerTests,
	} {
		if err := os.WriteFile(filepath.Join(folder, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k.must(t, "", "apply", "-k", folder)
	untilSets(t, i.metrics, "payments in-force")
	all := k.run(t.Context(), "", "delete", "--raw", "/api/v1/namespaces/"+i.namespace+"/configmaps?labelSelector=ip-masq-guard.io/policy%3Drego")
	if all.exit != 0 || !strings.Contains(all.stderr, "Warning: no longer checked: payments (Partners see nodes)\n") {
		t.Errorf("deleting the collection: %s", all)
	}
	untilSets(t, i.metrics)
}
