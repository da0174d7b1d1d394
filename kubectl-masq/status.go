package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	agentconfig "github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// Labels that the chart gives its objects.
const (
	webhookLabels = "app.kubernetes.io/part-of=ip-masq-guard,app.kubernetes.io/component=webhook"
	agentLabels   = "app.kubernetes.io/part-of=ip-masq-guard,app.kubernetes.io/component=agent"
)

// Bounds of asking pods, by way of the API server.
const (
	asksAtOnce = 16
	askTimeout = 10 * time.Second
)

// statusOptions are the flags of status.
type statusOptions struct {
	liveOptions
	name, namespace string
	all             bool
	output          string
}

const statusExamples = `  # What is odd in the cluster
  kubectl masq status --live

  # Every node, for another program
  kubectl masq status --live --all -o json`

const statusHelp = `Tell what is in force in a cluster: which rules the replicas of the webhook decide by, what they say of the stored
configuration (a dry run of writing it as it is, which needs the right to update it), and what the agents hold. The pods are asked
through the API server, which needs the right to get pods/proxy. Of the agents, one line a node, those are told that are odd:
not in force or degraded, with another configuration or another of nodeOverrides than what is stored asks for, not answering, or missing.
What an agent should have follows from its pod: the ConfigMaps that it mounts, and the flags --config-path, --config-dir and --node-labels-file.

Exit codes: 0 nothing is odd; 1 something is, or the stored configuration is refused; 2 wrong usage, or the API server does not answer.

JSON output is one object:
  webhooks[]                  pod, revision, since, sets[] (name, state and errors) and error
  stored                      found, digest (SHA-256 of the text; of several files that of their digests, as agents with --config-dir have it),
                              files[], which those are, verdict (approved, refused or unknown), causes[] and warnings[]
  agents[]                    node, pod, state, digest, stored (the digest that it should have; null: not known), source, override (which of
                              nodeOverrides holds, or empty), since, and odd[], why it is told; of all nodes with --all
  nodes, odd                  how many nodes agents are for, and how many of them are odd
  notes[]                     what is odd of the whole`

func statusCommand(std streams) *cobra.Command {
	var opts statusOptions
	command := &cobra.Command{
		Use:     "status --live",
		Short:   "Tell what is in force in a cluster",
		Long:    statusHelp,
		Example: statusExamples,
		Args:    noArguments,
		RunE:    func(command *cobra.Command, _ []string) error { return status(command.Context(), opts, std) },
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.BoolVar(&opts.live, "live", false, "ask the API server; there is no other status")
	opts.clusterOptions.add(flags)
	flags.BoolVar(&opts.all, "all", false, "tell of every node")
	addOutput(command, &opts.output, "text", "json")
	flags.StringVar(&opts.name, "name", "ip-masq-agent", "`name` of the ConfigMap")
	flags.StringVarP(&opts.namespace, "namespace", "n", "kube-system", "`namespace` of the ConfigMap")
	return command
}

// clusterStatus is the documented shape; fields may be added, but not changed.
type clusterStatus struct {
	Webhooks []webhookStatus `json:"webhooks"`
	Stored   storedStatus    `json:"stored"`
	Agents   []agentStatus   `json:"agents"`
	Nodes    int             `json:"nodes"`
	Odd      int             `json:"odd"`
	Notes    []string        `json:"notes"`
}

type webhookStatus struct {
	Pod      string      `json:"pod"`
	Revision string      `json:"revision"`
	Since    *time.Time  `json:"since"`
	Sets     []setStatus `json:"sets"`
	Error    string      `json:"error"`
}

type setStatus struct {
	Name   string   `json:"name"`
	State  string   `json:"state"`
	Errors []string `json:"errors"`
}

type storedStatus struct {
	Found    bool     `json:"found"`
	Digest   string   `json:"digest"`
	Files    []string `json:"files"`
	Verdict  string   `json:"verdict"`
	Causes   []string `json:"causes"`
	Warnings []string `json:"warnings"`

	object *corev1.ConfigMap // nil: not found
}

type agentStatus struct {
	Node     string     `json:"node"`
	Pod      string     `json:"pod"`
	State    string     `json:"state"`
	Digest   string     `json:"digest"`
	Stored   *string    `json:"stored"`
	Source   string     `json:"source"`
	Override string     `json:"override"`
	Since    *time.Time `json:"since"`
	Odd      []string   `json:"odd"`
}

// agentReport is what is read of an agent's /status, of which there is a schema.
type agentReport struct {
	State  string `json:"state"`
	Config struct {
		Digest   string     `json:"digest"`
		Source   string     `json:"source"`
		Override string     `json:"override"`
		Since    *time.Time `json:"since"`
	} `json:"config"`
	Families []struct {
		Family string `json:"family"`
		Error  string `json:"error"`
	} `json:"families"`
}

func status(ctx context.Context, opts statusOptions, std streams) error {
	if !opts.live {
		return errors.New("--live is missing: there is a status of clusters alone")
	}
	if opts.output != "text" && opts.output != "json" {
		return fmt.Errorf("-o %q: want text or json", opts.output)
	}
	config, err := opts.rest()
	if err != nil {
		return err
	}
	asked, err := askCluster(ctx, config, opts, std.err)
	if err != nil {
		return err
	}
	odd := asked.Odd > 0 || len(asked.Notes) > 0 || asked.Stored.Verdict == "refused"
	if !opts.all {
		asked.Agents = slices.DeleteFunc(asked.Agents, func(a agentStatus) bool { return len(a.Odd) == 0 })
	}
	err = std.report(opts.output, asked, asked.text)
	if err == nil && odd {
		return errRefused
	}
	return err
}

// askCluster asks the API server and, by way of it, webhooks and agents.
func askCluster(ctx context.Context, config *rest.Config, opts statusOptions, notes io.Writer) (clusterStatus, error) {
	heard := &warnings{}
	config.WarningHandler = heard
	config.QPS, config.Burst = 100, 100 // one call a pod
	core, err := coreclient.NewForConfig(config)
	if err != nil {
		return clusterStatus{}, fmt.Errorf("preparing the client: %w", err)
	}
	apps, err := appsclient.NewForConfig(config)
	if err != nil {
		return clusterStatus{}, fmt.Errorf("preparing the client: %w", err)
	}
	s := clusterStatus{Webhooks: []webhookStatus{}, Agents: []agentStatus{}, Notes: []string{}}
	if s.Stored, err = askStored(ctx, core, opts.namespace, opts.name, heard); err != nil {
		return clusterStatus{}, err
	}
	webhooks, err := podsOf(ctx, core, webhookLabels)
	if err != nil {
		return clusterStatus{}, err
	}
	sets, err := apps.DaemonSets("").List(ctx, metav1.ListOptions{LabelSelector: agentLabels})
	if err != nil {
		return clusterStatus{}, fmt.Errorf("looking for the agents: %w", err)
	}
	agents, err := podsOf(ctx, core, agentLabels)
	if err != nil {
		return clusterStatus{}, err
	}
	pods := slices.Concat(webhooks, agents)
	answers := askPods(ctx, core, pods)
	for i, pod := range webhooks {
		s.Webhooks = append(s.Webhooks, webhookOf(pod, answers[i]))
	}
	stored := stores{get: storedConfigMaps(ctx, core, s.Stored.object), node: nodeLabels(ctx, core, notes), read: map[string]*agentconfig.Config{}}
	for i := range agents {
		should, unknown := stored.wantedOf(&agents[i])
		s.Agents = append(s.Agents, agentOf(agents[i], answers[len(webhooks)+i], should, unknown, opts.namespace+"/"+opts.name))
		if s.Stored.Files == nil && unknown == nil && slices.Contains(should.from, opts.namespace+"/"+opts.name) {
			s.Stored.Digest, s.Stored.Files = should.digest, should.files
		}
	}
	s.Stored.Files = append([]string{}, s.Stored.Files...)
	s.conclude(sets.Items)
	return s, nil
}

// askStored reads the stored configuration, and has the API server judge it: a dry run
// of writing it as it is.
func askStored(ctx context.Context, core coreclient.ConfigMapsGetter, namespace, name string, heard *warnings) (storedStatus, error) {
	s := storedStatus{Verdict: "unknown", Causes: []string{}, Warnings: []string{}}
	object, err := core.ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return s, nil
	case err != nil:
		return s, fmt.Errorf("reading configmap %s/%s: %w", namespace, name, err)
	}
	s.Found, s.object = true, object
	if text, ok := object.Data[policy.ConfigKey]; ok {
		s.Digest = agentconfig.Digest([]byte(text)) // unless the agents read other keys
	}
	heard.take()
	_, err = core.ConfigMaps(namespace).Update(ctx, object, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
	s.Warnings = heard.take()
	failure := apierrors.APIStatus(nil)
	switch {
	case err == nil:
		s.Verdict = "approved"
	case apierrors.IsInvalid(err) && errors.As(err, &failure):
		s.Verdict = "refused"
		if details := failure.Status().Details; details != nil {
			for _, cause := range details.Causes {
				first, _, _ := strings.Cut(cause.Message, "\n")
				s.Causes = append(s.Causes, cause.Field+": "+first)
			}
		}
	default:
		s.Causes = append(s.Causes, err.Error())
	}
	return s, nil
}

// storedConfigMaps reads ConfigMaps once each; the one that is known already is not read.
func storedConfigMaps(ctx context.Context, core coreclient.ConfigMapsGetter, known *corev1.ConfigMap) func(namespace, name string) (*corev1.ConfigMap, error) {
	type outcome struct {
		object *corev1.ConfigMap
		err    error
	}
	read := map[string]outcome{}
	if known != nil {
		read[known.Namespace+"/"+known.Name] = outcome{object: known}
	}
	return func(namespace, name string) (*corev1.ConfigMap, error) {
		id := namespace + "/" + name
		had, ok := read[id]
		if !ok {
			had.object, had.err = core.ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
			switch {
			case apierrors.IsNotFound(had.err):
				had = outcome{}
			case had.err != nil:
				had = outcome{err: fmt.Errorf("reading configmap %s: %w", id, had.err)}
			}
			read[id] = had
		}
		return had.object, had.err
	}
}

// nodeLabels gives the labels of a node; nil where they are not known. Nodes are read when
// the first is asked for, and what hinders that is noted: without it less is known.
func nodeLabels(ctx context.Context, core coreclient.NodesGetter, notes io.Writer) func(node string) map[string]string {
	read := sync.OnceValue(func() map[string]map[string]string {
		labels := map[string]map[string]string{}
		for page := (metav1.ListOptions{Limit: pageSize}); ; {
			nodes, err := core.Nodes().List(ctx, page)
			if err != nil {
				_, _ = fmt.Fprintf(notes, "note: the labels of nodes are not known: %v\n", err) // the work is done all the same
				return nil
			}
			for i := range nodes.Items {
				own := map[string]string{}
				maps.Copy(own, nodes.Items[i].Labels)
				labels[nodes.Items[i].Name] = own
			}
			if page.Continue = nodes.Continue; page.Continue == "" {
				return labels
			}
		}
	})
	return func(node string) map[string]string { return read()[node] }
}

// warnings are those of the API server. It is a rest.WarningHandler.
type warnings struct {
	mu    sync.Mutex
	texts []string
}

// HandleWarningHeader keeps a warning; code 299 is the only one that the API server has.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}

// take gives what was heard since the last time.
func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	texts := append([]string{}, w.texts...)
	w.texts = nil
	return texts
}

// podsOf are the pods with these labels that have not ended, by node and name.
func podsOf(ctx context.Context, core coreclient.PodsGetter, labels string) ([]corev1.Pod, error) {
	var pods []corev1.Pod
	for page := (metav1.ListOptions{LabelSelector: labels, Limit: pageSize}); ; {
		list, err := core.Pods("").List(ctx, page)
		if err != nil {
			return nil, fmt.Errorf("looking for pods: %w", err)
		}
		pods = append(pods, list.Items...)
		if page.Continue = list.Continue; page.Continue == "" {
			break
		}
	}
	pods = slices.DeleteFunc(pods, func(p corev1.Pod) bool {
		return p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
	})
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return cmp.Or(cmp.Compare(a.Spec.NodeName, b.Spec.NodeName), cmp.Compare(a.Name, b.Name))
	})
	return pods, nil
}

// answer is what a pod's /status said.
type answer struct {
	body []byte
	err  error
}

// askPods asks each pod, some at once, and gives the answers in the order of the pods.
func askPods(ctx context.Context, core coreclient.PodsGetter, pods []corev1.Pod) []answer {
	answers := make([]answer, len(pods))
	next := make(chan int)
	var askers sync.WaitGroup
	for range min(asksAtOnce, len(pods)) {
		askers.Go(func() {
			for i := range next {
				within, cancel := context.WithTimeout(ctx, askTimeout)
				body, err := core.Pods(pods[i].Namespace).ProxyGet("http", pods[i].Name, portOf(pods[i]), "/status", nil).DoRaw(within)
				cancel()
				answers[i] = answer{body, err}
			}
		})
	}
	for i := range pods {
		next <- i
	}
	close(next)
	askers.Wait()
	return answers
}

// portOf is the port of /status: that with the name metrics.
func portOf(pod corev1.Pod) string {
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			if port.Name == "metrics" {
				return strconv.Itoa(int(port.ContainerPort))
			}
		}
	}
	return "9178"
}

func webhookOf(pod corev1.Pod, from answer) webhookStatus {
	w := webhookStatus{Pod: pod.Namespace + "/" + pod.Name, Sets: []setStatus{}}
	var said struct {
		Rules struct {
			Revision string      `json:"revision"`
			Since    *time.Time  `json:"since"`
			Sets     []setStatus `json:"sets"`
		} `json:"rules"`
	}
	if err := from.into(&said); err != nil {
		w.Error = err.Error()
		return w
	}
	w.Revision, w.Since = said.Rules.Revision, said.Rules.Since
	for _, set := range said.Rules.Sets {
		set.Errors = append([]string{}, set.Errors...) // never null
		w.Sets = append(w.Sets, set)
	}
	return w
}

func (a answer) into(value any) error {
	if a.err != nil {
		return fmt.Errorf("/status does not answer: %w", a.err)
	}
	if err := json.Unmarshal(a.body, value); err != nil {
		return fmt.Errorf("reading /status: %w", err)
	}
	return nil
}

// agentOf is what one agent holds, and what is odd about it: should is what it should hold
// by what is stored, unless that is unknown for a reason, and name the ConfigMap that is
// asked about.
func agentOf(pod corev1.Pod, from answer, should wanted, unknown error, name string) agentStatus {
	a := agentStatus{Node: pod.Spec.NodeName, Pod: pod.Namespace + "/" + pod.Name, State: "unknown", Odd: []string{}}
	if unknown == nil {
		a.Stored = &should.digest
	}
	if a.Node == "" {
		a.Odd = append(a.Odd, "it has no node yet")
		return a
	}
	var said agentReport
	if err := from.into(&said); err != nil {
		a.Odd = append(a.Odd, err.Error())
		return a
	}
	a.State, a.Digest, a.Source, a.Override, a.Since = said.State, said.Config.Digest, said.Config.Source, said.Config.Override, said.Config.Since
	if a.State != "in-force" {
		a.Odd = append(a.Odd, a.State)
	}
	switch {
	case a.Source == "last-valid":
		a.Odd = append(a.Odd, "the file is refused, and the last valid one holds")
	case unknown != nil:
		a.Odd = append(a.Odd, "not known what it should have: "+unknown.Error())
	case len(should.from) > 0 && !slices.Contains(should.from, name):
		a.Odd = append(a.Odd, "it reads configmap "+strings.Join(should.from, ", ")+", not "+name)
	case a.Digest != should.digest:
		a.Odd = append(a.Odd, "another configuration than the stored one")
	case should.override != nil && a.Override != *should.override:
		a.Odd = append(a.Odd, cmp.Or(a.Override, "none of nodeOverrides")+" holds, not "+cmp.Or(*should.override, "what is for nodes without an override"))
	case should.hint != "":
		a.Odd = append(a.Odd, should.hint)
	}
	for _, family := range said.Families {
		if family.Error != "" {
			a.Odd = append(a.Odd, family.Family+": "+family.Error)
		}
	}
	return a
}

// conclude counts, and tells what is odd of the whole.
func (s *clusterStatus) conclude(sets []appsv1.DaemonSet) {
	note := func(format string, values ...any) { s.Notes = append(s.Notes, fmt.Sprintf(format, values...)) }
	revisions := map[string]bool{}
	for _, w := range s.Webhooks {
		if w.Error != "" {
			note("webhook %s: %s", w.Pod, w.Error)
			continue
		}
		revisions[w.Revision] = true
		for _, set := range w.Sets {
			if set.State != "in-force" {
				note("webhook %s: rule set %s: %s", w.Pod, set.Name, set.State)
			}
		}
	}
	if len(revisions) > 1 {
		note("the webhooks decide by %d different revisions of the rules", len(revisions))
	}
	if len(s.Webhooks) == 0 {
		note("there is no webhook, by the labels %s", webhookLabels)
	}
	if !s.Stored.Found {
		note("there is no ConfigMap, so agents have their defaults")
	}
	if len(sets) == 0 {
		note("there are no agents, by the labels %s", agentLabels)
	}
	running := 0
	for _, set := range sets {
		s.Nodes += int(set.Status.DesiredNumberScheduled)
		running += int(set.Status.CurrentNumberScheduled)
	}
	if missing := s.Nodes - running; missing > 0 {
		note("%s no agent", plural(strconv.Itoa(missing), "node has", "nodes have"))
	}
	for _, a := range s.Agents {
		if len(a.Odd) > 0 {
			s.Odd++
		}
	}
}

// short is the begin of a digest.
func short(digest string) string { return digest[:min(len(digest), 12)] }

func (s clusterStatus) text(p painter) string {
	var b strings.Builder
	for _, w := range s.Webhooks {
		if w.Error == "" {
			fmt.Fprintf(&b, "webhook %s: revision %s, %s\n", printable(w.Pod), printable(short(w.Revision)), plural(strconv.Itoa(len(w.Sets)), "rule set", "rule sets"))
		}
	}
	if s.Stored.Found {
		colour := map[string]string{"refused": red, "approved": bold, "unknown": yellow}[s.Stored.Verdict]
		what := short(s.Stored.Digest)
		if n := len(s.Stored.Files); n > 1 {
			what += fmt.Sprintf(" (of %d files: %s)", n, printable(strings.Join(s.Stored.Files, ", ")))
		}
		fmt.Fprintf(&b, "stored configuration %s: %s\n", cmp.Or(what, "without a key that agents read"), p.paint(colour, s.Stored.Verdict))
		for _, text := range slices.Concat(s.Stored.Causes, s.Stored.Warnings) {
			b.WriteString("  " + printable(text) + "\n")
		}
	}
	for _, a := range s.Agents {
		line := strings.TrimSpace(fmt.Sprintf("%s: %s, %s %s", a.Node, a.State, cmp.Or(a.Source, "no source"), short(a.Digest)))
		if a.Override != "" {
			line += ", " + a.Override
		}
		if len(a.Odd) > 0 {
			line = fmt.Sprintf("%s: %s", cmp.Or(a.Node, a.Pod), strings.Join(a.Odd, "; "))
		}
		b.WriteString(printable(line) + "\n")
	}
	for _, text := range s.Notes {
		b.WriteString(p.paint(yellow, "odd: ") + printable(text) + "\n")
	}
	fmt.Fprintf(&b, "%s, %d odd\n", plural(strconv.Itoa(s.Nodes), "node", "nodes"), s.Odd)
	return b.String()
}
