package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// namespace makes a namespace of this test. Nobody ends namespaces here.
func (c *controlPlane) namespace(t *testing.T, prefix string) string {
	t.Helper()
	name := prefix + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	c.kubectl().must(t, "", "create", "namespace", name)
	return name
}

// TestChartIsAccepted gives every object of every render to the API server as a dry run
// with strict validation, cert-manager's and the Prometheus operator's too, whose CRDs it
// has.
func TestChartIsAccepted(t *testing.T) {
	h := needHelm(t)
	c := needControlPlane(t)
	k := c.kubectl()
	for _, crds := range []string{filepath.Join(certManagerParts(t), "crds"), filepath.Join(partsOf(t, "prometheus/build.sh"), "crds")} {
		k.must(t, "", "apply", "--server-side", "-f", crds)
		// kubectl wait fails on an object that has no conditions yet.
		eventually(t, 20*time.Second, func() error {
			if got := k.run(t.Context(), "", "wait", "--for=condition=Established", "--timeout=5s", "-f", crds); got.exit != 0 {
				return fmt.Errorf("the CRDs are not there: %s", got)
			}
			return nil
		})
	}
	monitoring := 0
	for name, args := range renders() {
		t.Run(name, func(t *testing.T) {
			namespace, guarded := c.namespace(t, "chart"), c.namespace(t, "guarded")
			args = append(slices.Clone(args), "--set", "configMap.namespace="+guarded)
			asked := 0
			for _, object := range objects(t, render(t, h, namespace, args...)) {
				if object.GetAPIVersion() == "monitoring.coreos.com/v1" {
					monitoring++
				}
				apply := []string{"apply", "--server-side", "--validate=strict", "-f", "-"}
				// A pod is refused without its service account, so that is made.
				if object.GetKind() != "ServiceAccount" {
					apply = append(apply, "--dry-run=server")
				}
				if got := k.run(t.Context(), manifestText(t, object), apply...); got.exit != 0 || got.stderr != "" {
					t.Errorf("%s %s: %s", object.GetKind(), object.GetName(), got)
				}
				asked++
			}
			if asked < 12 {
				t.Errorf("only %d objects", asked)
			}
			// What a DaemonSet and a Deployment make, as a namespace of their kind admits it.
			admitted(t, k, h, namespace, args)
		})
	}
	if want := 3; monitoring != want {
		t.Errorf("%d objects of the Prometheus operator, want %d: two ServiceMonitors and a PrometheusRule", monitoring, want)
	}
}

// admitted shows that the webhook's pods run where only restricted ones may.
func admitted(t *testing.T, k kubectl, h helm, namespace string, args []string) {
	t.Helper()
	k.must(t, "", "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
	deployment := findObject(t, objects(t, render(t, h, namespace, args...)), "Deployment", release)
	template, _, err := unstructured.NestedMap(deployment.Object, "spec", "template")
	if err != nil {
		t.Fatal(err)
	}
	pod := &unstructured.Unstructured{Object: template}
	pod.SetAPIVersion("v1")
	pod.SetKind("Pod")
	pod.SetName("webhook")
	pod.SetNamespace(namespace)
	if got := k.run(t.Context(), manifestText(t, pod), "create", "--dry-run=server", "-f", "-"); got.exit != 0 || got.stderr != "" {
		t.Errorf("a restricted namespace: %s", got)
	}
}

// installation is a release in the API server. There are no nodes, so the test runs
// its webhook, with the arguments and the rights that the release gives it.
type installation struct {
	*controlPlane
	helm
	namespace, guarded string
	port               uint16   // of reviews, on the loopback address
	before             []string // objects of the API server
	under              []string // command and arguments that the webhook is run by
	webhook            *process
	metrics, health    string // URLs
}

func (i *installation) kubectl() kubectl { return i.controlPlane.kubectl() }

// upgrade upgrades to our chart with these values.
func (i *installation) upgrade(t *testing.T, args ...string) {
	t.Helper()
	i.changeTo(t, chart, "upgrade", args...)
}

// changeTo installs a chart, or upgrades to it.
func (i *installation) changeTo(t *testing.T, chart, verb string, args ...string) {
	t.Helper()
	i.must(t, append([]string{
		verb, release, chart, "--namespace", i.namespace, "--set", fmt.Sprintf("configMap.namespace=%s,webhook.port=%d", i.guarded, i.port),
	}, args...)...)
}

// account writes the kubeconfig of a service account of the release.
func (i *installation) account(t *testing.T, name string) string {
	t.Helper()
	token := strings.TrimSpace(i.kubectl().must(t, "", "create", "token", name, "-n", i.namespace).stdout)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: e2e
contexts: [{name: e2e, context: {cluster: e2e, user: account}}]
clusters: [{name: e2e, cluster: {server: "%s", certificate-authority-data: %s}}]
users: [{name: account, user: {token: %s}}]
`, i.url, base64.StdEncoding.EncodeToString(i.users.PEM()), token)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// runWebhook starts the webhook as its Deployment says.
func (i *installation) runWebhook(t *testing.T) {
	t.Helper()
	i.webhook, i.metrics, i.health = i.startWebhook(t)
}

// startWebhook starts one more, with further arguments.
func (i *installation) startWebhook(t *testing.T, more ...string) (webhook *process, metrics, health string) {
	t.Helper()
	ports, err := freePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	all := objects(t, i.kubectl().must(t, "", "get", "deployment,configmap", "-n", i.namespace, "-o", "json").stdout)
	list, err := all[0].ToList()
	if err != nil {
		t.Fatal(err)
	}
	var stored []*unstructured.Unstructured
	for n := range list.Items {
		stored = append(stored, &list.Items[n])
	}
	params, _, err := unstructured.NestedString(findObject(t, stored, "ConfigMap", release+"-params").Object, "data", "params.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err = os.WriteFile(filepath.Join(dir, "params.yaml"), []byte(params), 0o600); err != nil {
		t.Fatal(err)
	}
	// The last one of a flag counts: addresses and files are those of this machine.
	args := append(argsOf(t, findObject(t, stored, "Deployment", release)),
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--metrics-bind-address=127.0.0.1:%d", ports[0]),
		fmt.Sprintf("--health-probe-bind-address=127.0.0.1:%d", ports[1]),
		"--params="+filepath.Join(dir, "params.yaml"),
		"--kubeconfig="+i.account(t, release),
		"--certs-propagation=1s", // there is one API server and one replica
	)
	args = append(args, more...)
	metrics, health = fmt.Sprintf("http://127.0.0.1:%d/metrics", ports[0]), fmt.Sprintf("http://127.0.0.1:%d/readyz", ports[1])
	if webhook, err = startProcess(dir, "webhook", slices.Concat(i.under, []string{program(t, "webhook")}, args)...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		webhook.kill()
		if t.Failed() {
			t.Logf("the webhook's log:\n%s", webhook.tail())
		}
	})
	eventually(t, guardLimit, func() error {
		if err := webhook.alive(); err != nil {
			return permanentError{err}
		}
		_, err := get(http.DefaultTransport, health)
		return err
	})
	return webhook, metrics, health
}

// get reads a page.
func get(by http.RoundTripper, url string) (string, error) {
	client := http.Client{Transport: by, Timeout: 2 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("getting %s: %s: %s (%w)", url, response.Status, text, err)
	}
	return string(text), nil
}

// trusted is the caBundle, and kept is what the Secret holds.
func (i *installation) trusted(t *testing.T) string {
	t.Helper()
	return i.kubectl().must(t, "", "get", "validatingwebhookconfiguration", release, "-o", "jsonpath={.webhooks[0].clientConfig.caBundle}").stdout
}

func (i *installation) kept(t *testing.T) string {
	t.Helper()
	return i.kubectl().must(t, "", "get", "secret", release+"-certs", "-n", i.namespace, "-o", "jsonpath={.data}").stdout
}

// install makes a release whose webhook the API server reaches on this machine: its
// Service is made a name of the loopback address. Nothing may ask it before that.
func install(t *testing.T, args ...string) *installation {
	t.Helper()
	return installChart(t, chart, args...)
}

func installChart(t *testing.T, chart string, args ...string) *installation {
	t.Helper()
	h := needHelm(t)
	c := needControlPlane(t)
	h.kubeconfig = c.admin
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	i := &installation{controlPlane: c, helm: h, namespace: c.namespace(t, "release"), guarded: c.namespace(t, "guarded"), port: ports[0]}
	i.before = c.everything(t)
	i.changeTo(t, chart, "install", args...)
	t.Cleanup(func() { h.run(context.WithoutCancel(t.Context()), "uninstall", release, "--namespace", i.namespace) })
	i.kubectl().must(t, "", "patch", "service", release, "-n", i.namespace, "--type=merge",
		`--patch={"spec": {"type": "ExternalName", "externalName": "localhost", "clusterIP": null, "clusterIPs": null}}`)
	return i
}

// TestChartLife follows a release from its installation to its end. Its webhook issues
// certificates by the rights of the chart; what it has put into objects of the chart
// survives upgrades of both kinds and a rollback, and nothing of it is left at the end.
func TestChartLife(t *testing.T) {
	i := install(t, "--set", "configMap.create=true")
	k := i.kubectl()
	if got := i.trusted(t); got != "" {
		t.Errorf("the chart brings a caBundle: %s", got)
	}
	i.runWebhook(t)
	trusted, kept := i.trusted(t), i.kept(t)
	if trusted == "" || !strings.Contains(kept, "tls.crt") {
		t.Fatalf("ready with caBundle %q and Secret %s", trusted, kept)
	}

	unharmed := func(t *testing.T, change string) {
		t.Helper()
		if got := i.trusted(t); got != trusted {
			t.Errorf("%s: the caBundle is another: %q", change, got)
		}
		if diff := cmp.Diff(kept, i.kept(t)); diff != "" {
			t.Errorf("%s: the Secret is another: %s", change, diff)
		}
		if _, err := get(http.DefaultTransport, i.health); err != nil {
			t.Errorf("%s: %v", change, err)
		}
	}
	i.upgrade(t, "--set", "configMap.create=true")
	unharmed(t, "upgrade without a change")
	i.upgrade(t, "--set", "configMap.create=true,webhook.timeoutSeconds=7,cluster.podCIDRs={10.244.0.0/16}")
	unharmed(t, "upgrade")
	if got := k.must(t, "", "get", "validatingwebhookconfiguration", release, "-o", "jsonpath={.webhooks[0].timeoutSeconds}").stdout; got != "7" {
		t.Errorf("timeoutSeconds is %s after the upgrade", got)
	}
	i.upgrade(t, "--server-side=false", "--set", "configMap.create=true,webhook.timeoutSeconds=8")
	unharmed(t, "upgrade on the client's side")
	i.upgrade(t, "--server-side=false", "--set", "configMap.create=true,webhook.timeoutSeconds=9")
	unharmed(t, "second upgrade on the client's side")
	i.must(t, "rollback", release, "2", "--namespace", i.namespace)
	unharmed(t, "rollback")
	if got := k.must(t, "", "get", "validatingwebhookconfiguration", release, "-o", "jsonpath={.webhooks[0].timeoutSeconds}").stdout; got != "5" {
		t.Errorf("timeoutSeconds is %s after the rollback", got)
	}
	// The ConfigMap of the release is judged like anybody's.
	const bad = "configMap.create=true,configMap.config.nonMasqueradeCIDRs={192.168.1.0/16}"
	got := i.run(t.Context(), "upgrade", release, chart, "--namespace", i.namespace, "--reset-then-reuse-values", "--set", bad)
	if got.exit == 0 || !strings.Contains(got.stderr, `"192.168.1.0/16" has host bits set; write 192.168.0.0/16`) {
		t.Errorf("upgrade to a bad configuration: %s", got)
	}
	if config := k.stored(t, i.guarded).Data["config"]; !strings.Contains(config, "- 172.16.0.0/12\n") {
		t.Errorf("the ConfigMap is %q", config)
	}
	i.must(t, "rollback", release, "2", "--namespace", i.namespace)
	unharmed(t, "rollback of a failed upgrade")
	i.breakGlass(t, trusted)
	i.useRuleSets(t)
	i.rights(t)

	// A Secret that somebody deletes comes back with an upgrade, and is filled again.
	k.must(t, "", "delete", "secret", release+"-certs", "-n", i.namespace)
	i.must(t, "upgrade", release, chart, "--namespace", i.namespace, "--reset-then-reuse-values")
	eventually(t, guardLimit+time.Minute, func() error {
		if got := i.kept(t); !strings.Contains(got, "tls.crt") {
			return fmt.Errorf("the Secret holds %q", got)
		}
		return nil
	})

	i.must(t, "uninstall", release, "--namespace", i.namespace)
	// A webhook that is on its way out must not bring anything back.
	time.Sleep(3 * time.Second)
	if diff := cmp.Diff(i.before, i.everything(t)); diff != "" {
		t.Errorf("the objects of the API server differ (-before +after):\n%s", diff)
	}
}

// TestChartUpgrade goes from the release before to this one in both ways that helm has
// of keeping values, and back. Values stay, and so do the certificates of the webhook
// that runs all the while; and nothing is left at the end.
func TestChartUpgrade(t *testing.T) {
	i := installChart(t, previousChart, "--set", "agent.ipv6=true,cluster.podCIDRs={10.244.0.0/16},rules.no-overlap.action=warn")
	k := i.kubectl()
	i.runWebhook(t)
	trusted, kept := i.trusted(t), i.kept(t)
	values := func() string { return i.must(t, "get", "values", release, "--namespace", i.namespace, "--output=json") }
	before := values()

	for _, step := range []struct {
		name    string
		args    []string
		version string
	}{
		{"upgrade", []string{"upgrade", release, chart, "--reset-then-reuse-values"}, "v0.2.0"},
		{"rollback", []string{"rollback", release, "1"}, "v0.1.0"},
		{"upgrade with the values of the release before alone", []string{"upgrade", release, chart, "--reuse-values"}, "v0.2.0"},
		{"rollback of that", []string{"rollback", release, "1"}, "v0.1.0"},
	} {
		i.must(t, append(step.args, "--namespace", i.namespace)...)
		if diff := cmp.Diff(before, values()); diff != "" {
			t.Errorf("%s: values differ (-before +after):\n%s", step.name, diff)
		}
		if i.trusted(t) != trusted || i.kept(t) != kept {
			t.Errorf("%s: the caBundle or the Secret is another", step.name)
		}
		if _, err := get(http.DefaultTransport, i.health); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		images := k.must(t, "", "get", "deployments,daemonsets", "-A", "-l", "app.kubernetes.io/instance="+release,
			"-o", "jsonpath={.items[*].spec.template.spec.containers[0].image}").stdout
		if want := fmt.Sprintf("ghcr.io/ip-masq-guard/webhook:%[1]s ghcr.io/ip-masq-guard/agent:%[1]s", step.version); images != want {
			t.Errorf("%s: images %q, want %q", step.name, images, want)
		}
		// Values that the release before did not have must not leave flags without one.
		args := k.must(t, "", "get", "deployments,daemonsets", "-A", "-l", "app.kubernetes.io/instance="+release,
			"-o", `jsonpath={range .items[*].spec.template.spec.containers[*].args[*]}{@}{"\n"}{end}`).stdout
		if strings.Contains(args, "=\n") || strings.Contains(args, "no value") {
			t.Errorf("%s: flags without values:\n%s", step.name, args)
		}
		if got := k.run(t.Context(), manifestOf(i.guarded, configMap, "data", "config", guideConfig), "create", "-f", "-"); got.exit != 1 ||
			!strings.Contains(got.stderr, "has host bits set") {
			t.Errorf("%s: a bad write met: %s", step.name, got)
		}
		// The webhook again, as this chart starts it.
		i.webhook.kill()
		i.runWebhook(t)
	}
	i.must(t, "uninstall", release, "--namespace", i.namespace)
	i.webhook.kill()
	if diff := cmp.Diff(i.before, i.everything(t)); diff != "" {
		t.Errorf("the objects of the API server differ (-before +after):\n%s", diff)
	}
}

// breakGlass opens the gate and closes it again, in both ways of the documentation.
func (i *installation) breakGlass(t *testing.T, trusted string) {
	t.Helper()
	k := i.kubectl()
	policy := func() string {
		return k.must(t, "", "get", "validatingwebhookconfiguration", release, "-o", "jsonpath={.webhooks[0].failurePolicy}").stdout
	}
	k.must(t, "", "patch", "validatingwebhookconfiguration", release, "--type=json",
		`--patch=[{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]`)
	i.must(t, "upgrade", release, chart, "--namespace", i.namespace, "--reset-then-reuse-values", "--force-conflicts")
	if got := policy(); got != "Fail" || i.trusted(t) != trusted {
		t.Errorf("after closing the gate: failurePolicy %s, caBundle %q", got, i.trusted(t))
	}
	k.must(t, "", "delete", "validatingwebhookconfiguration", release)
	i.must(t, "upgrade", release, chart, "--namespace", i.namespace, "--reset-then-reuse-values", "--force-conflicts")
	eventually(t, guardLimit, func() error {
		if got := i.trusted(t); got != trusted {
			return fmt.Errorf("the caBundle is %q", got)
		}
		return nil
	})
	if got := policy(); got != "Fail" {
		t.Errorf("after bringing the configuration back: failurePolicy %s", got)
	}
}

// everything lists all objects of the API server but the Events of the past.
func (c *controlPlane) everything(t *testing.T) []string {
	t.Helper()
	k := c.kubectl()
	var kinds []string
	for kind := range strings.Lines(k.must(t, "", "api-resources", "--verbs=list", "-o", "name").stdout) {
		if kind = strings.TrimSpace(kind); !strings.HasPrefix(kind, "events") {
			kinds = append(kinds, kind)
		}
	}
	listed := k.must(t, "", "get", strings.Join(kinds, ","), "-A", "--ignore-not-found", "--no-headers",
		"-o", "custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name").stdout
	return slices.Sorted(strings.Lines(listed))
}

// rights shows from the audit log that the service account was never refused, and that
// it has used whatever it may do.
func (i *installation) rights(t *testing.T) {
	t.Helper()
	user := "system:serviceaccount:" + i.namespace + ":" + release
	asked := map[string]bool{}
	for _, event := range i.audited(t) {
		if event.User.Username != user {
			continue
		}
		if code := event.ResponseStatus.Code; code == http.StatusForbidden {
			t.Errorf("%s %s: %d %s", event.Verb, event.RequestURI, code, event.ResponseStatus.Message)
		}
		if event.ObjectRef != nil {
			asked[event.Verb+" "+event.ObjectRef.Resource] = true
		}
	}
	granted := map[string]bool{}
	k := i.kubectl()
	for _, role := range []string{
		k.must(t, "", "get", "clusterrole", release, "-o", "json").stdout,
		k.must(t, "", "get", "role", release+"-certs", "-n", i.namespace, "-o", "json").stdout,
		k.must(t, "", "get", "role", release+"-rule-sets", "-n", i.namespace, "-o", "json").stdout,
		k.must(t, "", "get", "role", release+"-live", "-n", i.guarded, "-o", "json").stdout,
	} {
		var parsed struct {
			Rules []struct{ Resources, Verbs []string }
		}
		if err := json.Unmarshal([]byte(role), &parsed); err != nil {
			t.Fatal(err)
		}
		for _, rule := range parsed.Rules {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					granted[verb+" "+resource] = true
				}
			}
		}
	}
	for right := range granted {
		// A watch brings the list with it where the API server can do so.
		if !asked[right] && !strings.HasPrefix(right, "list ") {
			t.Errorf("the webhook may %s and never does", right)
		}
	}
}

// TestProbe is what helm test does, with the rights that it has then, against a
// webhook that answers and where there is none.
func TestProbe(t *testing.T) {
	h := needHelm(t)
	g := needGuard(t)
	k := g.cluster.kubectl()
	open := g.cluster.namespace(t, "open")
	for _, tt := range []struct {
		name      string
		namespace string
		stored    string
		exit      int
		want      string
	}{
		{"nothing is stored", kubeSystem, "", 0, `refused, as it has to be:`},
		{"something is stored", kubeSystem, approvedConfig, 0, `"198.15.5.0/33" has an impossible prefix length`},
		{"nobody judges", open, "", 1, "the API server took a configuration that does not load"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := &installation{controlPlane: g.cluster, helm: h, namespace: g.cluster.namespace(t, "release"), guarded: tt.namespace}
			var flags []string
			for _, object := range objects(t, render(t, h, i.namespace, "--set", "configMap.namespace="+tt.namespace, "--show-only", "templates/tests/probe.yaml")) {
				if object.GetKind() != "Pod" {
					k.must(t, manifestText(t, object), "create", "-f", "-")
					t.Cleanup(func() { k.must(t, manifestText(t, object), "delete", "-f", "-") })
					continue
				}
				object.Object = map[string]any{"kind": "Pod", "spec": map[string]any{"template": object.Object}}
				flags = argsOf(t, object)
			}
			if tt.stored != "" {
				k.must(t, manifest(tt.stored), "create", "-f", "-")
				t.Cleanup(func() { g.cluster.forget(t, "configmaps", configMap) })
			}
			p, err := startProcess(t.TempDir(), "probe", append([]string{program(t, "webhook"), "--kubeconfig=" + i.account(t, release+"-test")}, flags...)...)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-p.done:
			case <-time.After(guardLimit):
				p.kill()
			}
			if got := p.cmd.ProcessState.ExitCode(); got != tt.exit || !strings.Contains(p.tail(), tt.want) {
				t.Errorf("exit %d, want %d with %q:\n%s", got, tt.exit, tt.want, p.tail())
			}
			stored := k.stored(t, tt.namespace)
			if (stored != nil) != (tt.stored != "") || stored != nil && stored.Data["config"] != tt.stored {
				t.Errorf("the probe has written: %v", stored)
			}
		})
	}
}

// TestMonitoringNamesRealMetrics: Prometheus itself can read rules and dashboard, and
// whatever they ask for is on the programs' pages, with the labels that it is selected by.
func TestMonitoringNamesRealMetrics(t *testing.T) {
	host := netns.ForTest(t)
	parts := partsOf(t, "prometheus/build.sh")
	asked, err := exec.CommandContext(t.Context(), filepath.Join(parts, "promrules"),
		filepath.Join(chart, "files", "alerts.yaml"), filepath.Join(chart, "files", "dashboard.json")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, asked)
	}
	i := install(t, "--set", "monitoring.dashboard.enabled=true")
	i.runWebhook(t)
	if got := i.kubectl().run(t.Context(), manifestOf(i.guarded, configMap, "data", "config", guideConfig), "create", "-f", "-"); got.exit != 1 {
		t.Fatalf("not refused: %s", got)
	}
	page, err := get(http.DefaultTransport, i.metrics)
	if err != nil {
		t.Fatal(err)
	}
	page += agentPage(t, host)

	labels := map[string]map[string]bool{} // of each metric
	sample := regexp.MustCompile(`^(\w+)(?:\{(.*)\})? \S+$`)
	label := regexp.MustCompile(`(\w+)="`)
	for line := range strings.Lines(page) {
		found := sample.FindStringSubmatch(strings.TrimSpace(line))
		if found == nil {
			continue
		}
		if labels[found[1]] == nil {
			labels[found[1]] = map[string]bool{}
		}
		for _, name := range label.FindAllStringSubmatch(found[2], -1) {
			labels[found[1]][name[1]] = true
		}
	}
	metrics := 0
	for line := range strings.Lines(string(asked)) {
		fields := strings.Fields(line)
		metrics++
		known, ok := labels[fields[0]]
		if !ok {
			t.Errorf("rules or dashboard ask for %s, which no program has", fields[0])
			continue
		}
		for _, by := range fields[1:] {
			if !known[by] {
				t.Errorf("rules or dashboard select %s by %s, which it does not have", fields[0], by)
			}
		}
	}
	if metrics < 20 {
		t.Errorf("rules and dashboard ask for %d metrics only:\n%s", metrics, asked)
	}
}

// agentPage is the page of an agent after its first pass.
func agentPage(t *testing.T, host *netns.Host) string {
	t.Helper()
	agent := host.Command(t.Context(), program(t, "agent"),
		"--config-path="+filepath.Join(t.TempDir(), "none"), "--enable-ipv6", "--iptables-backend=nft", "--metrics-bind-address=127.0.0.1:9178")
	var log bytes.Buffer
	agent.Stderr = &log
	if err := host.Start(agent); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	})
	there := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		var connection net.Conn
		err := host.Do(func() (err error) {
			connection, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return connection, err
	}}
	t.Cleanup(there.CloseIdleConnections)
	var page string
	eventually(t, 10*time.Second, func() (err error) {
		if _, err = get(there, "http://127.0.0.1:9178/readyz"); err == nil {
			page, err = get(there, "http://127.0.0.1:9178/metrics")
		}
		return err
	})
	return page
}

// TestAlertsHaveRunbooks: every link of a rule leads to a heading.
func TestAlertsHaveRunbooks(t *testing.T) {
	operations, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	alerts, err := os.ReadFile(filepath.Join(chart, "files", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?s)- alert: (\w+)\n.*?runbook_url: (\S+)`).FindAllStringSubmatch(string(alerts), -1)
	if want := strings.Count(string(alerts), "- alert: "); len(found) != want || want == 0 {
		t.Fatalf("%d of %d alerts have a runbook", len(found), want)
	}
	for _, alert := range found {
		want := "https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/operations.md#" + strings.ToLower(alert[1])
		if alert[2] != want {
			t.Errorf("%s: the runbook is %s, want %s", alert[1], alert[2], want)
		}
		if !strings.Contains(string(operations), "\n#### "+alert[1]+"\n") {
			t.Errorf("docs/operations.md has no heading %s", alert[1])
		}
	}
}
