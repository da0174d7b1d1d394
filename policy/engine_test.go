package policy

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// engine has so much time that a busy machine does not matter.
func engine(t *testing.T, params string, sources ...Source) *Engine {
	t.Helper()
	e := promptEngine(t, params, sources...)
	e.limits = limits{all: time.Minute, each: time.Minute, total: time.Minute}
	return e
}

// promptEngine has the time that it has in the webhook.
func promptEngine(t *testing.T, params string, sources ...Source) *Engine {
	t.Helper()
	parsed, err := ParseParams([]byte(params))
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(context.Background(), parsed, sources)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// told is what an author reads, a line each.
func told(d Decision) string {
	var b strings.Builder
	for _, f := range d.Findings {
		b.WriteString(string(f.Action) + " " + f.Field() + ": " + f.line(maxDetailRunes) + "\n")
	}
	return b.String()
}

func TestDecide(t *testing.T) {
	good := "nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 192.168.0.0/16\n"
	for _, c := range []struct {
		name    string
		params  string
		request Request
		cluster *Cluster // nil: smallCluster
		want    string
	}{
		{name: "good", request: update(good)},
		{
			name: "the example of a cloud provider", request: update("nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 192.168.0.0/16\n- 198.15.5.92/24\n"),
			want: `deny data["config"]:4 nonMasqueradeCIDRs[2]: "198.15.5.92/24" has host bits set; write 198.15.5.0/24 [config-loads]` + "\n",
		},
		{
			name: "everything at once, by line",
			request: update(`nonMasqueradeCIDRs:
- 10.1.0.0/16
- 10.0.0.0/9
- 10.1.0.0/16
resyscInterval: 60s
resyncInterval: 2s
masqLinkLocal: yes
`),
			want: `deny data["config"]:1 nonMasqueradeCIDRs: the list does not cover node range 192.168.0.7/32 (Node worker-1): ` +
				`pods would be seen there with the address of their own node; ` +
				`add to nonMasqueradeCIDRs: - 192.168.0.7/32 [node-cidrs-present]
deny data["config"]:1 nonMasqueradeCIDRs: the list does not cover pod range 10.244.1.0/24 (Node worker-1): ` +
				`pods would be seen there with the address of their node, and dropped by firewalls; ` +
				`add to nonMasqueradeCIDRs: - 10.244.1.0/24 [pod-cidrs-present]
deny data["config"]:2 nonMasqueradeCIDRs[0]: 10.1.0.0/16 lies inside 10.0.0.0/9 (nonMasqueradeCIDRs[1], line 3), ` +
				`so it has no effect; drop the line "- 10.1.0.0/16" [no-overlap]
deny data["config"]:4 nonMasqueradeCIDRs[2]: 10.1.0.0/16 is listed already (nonMasqueradeCIDRs[0], line 2); ` +
				`drop this line [no-duplicate]
deny data["config"]:5 resyscInterval: "resyscInterval" is not a key of the configuration, so agents ignore it; ` +
				`did you mean resyncInterval? [no-unknown-keys]
deny data["config"]:6 resyncInterval: 2s is below 5s: every node would be busy rebuilding rules; ` +
				`write resyncInterval: 5s or more [resync-bounds]
deny data["config"]:7 masqLinkLocal: "yes" is true here, but text to newer YAML loaders; write true [no-ambiguous-yaml]
`,
		},
		{
			name: "an exception inside the list", request: update(good + "masqueradeCIDRs:\n- 10.200.0.0/16\n- 192.168.9.0/24\n"),
		},
		{
			name:    "exceptions that take ranges of the cluster, stand twice, or have no effect",
			request: update(good + "- 10.244.1.64/26\nmasqueradeCIDRs:\n- 10.244.0.0/16\n- 172.16.0.0/12\n- 192.168.0.0/24\n- 192.168.0.0/24\n- 10.244.9.0/24\n"),
			want: `deny data["config"]:6 masqueradeCIDRs[0]: 10.244.0.0/16 takes pod range 10.244.1.0/26 (Node worker-1) from the list: ` +
				`pods would be seen there with the address of their node, and dropped by firewalls; ` +
				`drop the line "- 10.244.0.0/16", or except less [pod-cidrs-present]
deny data["config"]:6 masqueradeCIDRs[0]: 10.244.0.0/16 takes pod range 10.244.1.128/25 (Node worker-1) from the list: ` +
				`pods would be seen there with the address of their node, and dropped by firewalls; ` +
				`drop the line "- 10.244.0.0/16", or except less [pod-cidrs-present]
deny data["config"]:7 masqueradeCIDRs[1]: "172.16.0.0/12" lies in no range that is spared, so it is masqueraded anyway; ` +
				`remove it [exceptions-inside-spared]
deny data["config"]:8 masqueradeCIDRs[2]: 192.168.0.0/24 takes node range 192.168.0.7/32 (Node worker-1) from the list: ` +
				`pods would be seen there with the address of their own node; ` +
				`drop the line "- 192.168.0.0/24", or except less [node-cidrs-present]
deny data["config"]:9 masqueradeCIDRs[3]: 192.168.0.0/24 is listed already (masqueradeCIDRs[2], line 8); drop this line [no-duplicate]
deny data["config"]:10 masqueradeCIDRs[4]: "10.244.9.0/24" lies inside the exception 10.244.0.0/16 (masqueradeCIDRs[0]), ` +
				`so it has no effect; remove it [exceptions-inside-spared]
`,
		},
		{
			name: "an override", request: update(good + "nodeOverrides:\n- matchLabels: {pool: edge}\n  masqueradeCIDRs: [10.200.0.0/16]\n"),
		},
		{
			name: "overrides that are each at fault",
			request: update(good + `- 10.1.0.0/16
nodeOverrides:
- matchLabels: {pool: edge}
  nonMasqueradeCIDRs:
  - 192.168.0.0/16
  - 192.168.0.0/24
- matchLabels: {pool: batch}
  masqueradeCIDRs: [10.244.1.0/24, 10.200.0.0/16, 172.16.0.0/12]
- matchLabels: {pool: open}
  nonMasqueradeCIDRs: [0.0.0.0/0]
  masqLinkLocal: true
`),
			want: `deny data["config"]:4 nonMasqueradeCIDRs[2]: 10.1.0.0/16 lies inside 10.0.0.0/8 (nonMasqueradeCIDRs[0], line 2), ` +
				`so it has no effect; drop the line "- 10.1.0.0/16" [no-overlap]
deny data["config"]:7 nodeOverrides[0].nonMasqueradeCIDRs: on nodes with pool=edge: the list does not cover pod range 10.244.1.0/24 (Node worker-1): ` +
				`pods would be seen there with the address of their node, and dropped by firewalls; ` +
				`add to nonMasqueradeCIDRs: - 10.244.1.0/24 [pod-cidrs-present]
warn data["config"]:7 nodeOverrides[0].nonMasqueradeCIDRs: on nodes with pool=edge: the list does not cover service range 10.96.0.0/12 ` +
				`(ServiceCIDR kubernetes): routed services would see the node's address; add to nonMasqueradeCIDRs: - 10.96.0.0/12 [service-cidrs-present]
deny data["config"]:9 nodeOverrides[0].nonMasqueradeCIDRs[1]: on nodes with pool=edge: 192.168.0.0/24 lies inside 192.168.0.0/16 ` +
				`(nodeOverrides[0].nonMasqueradeCIDRs[0], line 8), so it has no effect; drop the line "- 192.168.0.0/24" [no-overlap]
deny data["config"]:11 nodeOverrides[1].masqueradeCIDRs[0]: on nodes with pool=batch: 10.244.1.0/24 takes pod range 10.244.1.0/24 (Node worker-1) ` +
				`from the list: pods would be seen there with the address of their node, and dropped by firewalls; ` +
				`drop the line "- 10.244.1.0/24", or except less [pod-cidrs-present]
deny data["config"]:11 nodeOverrides[1].masqueradeCIDRs[2]: "172.16.0.0/12" lies in no range that is spared, so it is masqueraded anyway; ` +
				`remove it [exceptions-inside-spared]
deny data["config"]:13 nodeOverrides[2].nonMasqueradeCIDRs[0]: on nodes with pool=open: the list covers 0.0.0.0/0, so no ipv4 traffic is masqueraded, ` +
				`that to the internet neither; list only ranges that can answer to pod addresses [masquerade-not-disabled]
deny data["config"]:14 nodeOverrides[2].masqLinkLocal: on nodes with pool=open: masqLinkLocal asks to masquerade 169.254.0.0/16, ` +
				`but 0.0.0.0/0 (nodeOverrides[2].nonMasqueradeCIDRs[0]) spares it, and the list wins; drop masqLinkLocal, or make the list spare less [link-local-consistent]
`,
		},
		{
			name:    "what an override takes over is at fault on its nodes alone",
			request: update(good + "masqueradeCIDRs:\n- 10.200.0.0/16\nnodeOverrides:\n- matchLabels: {pool: edge}\n  masqLinkLocal: true\n- matchLabels: {pool: far}\n  nonMasqueradeCIDRs: [10.244.0.0/16, 192.168.0.0/16]\n"),
			want: `deny data["config"]:5 masqueradeCIDRs[0]: with nodeOverrides[1]: "10.200.0.0/16" lies in no range that is spared, so it is masqueraded anyway; ` +
				`remove it [exceptions-inside-spared]
warn data["config"]:10 nodeOverrides[1].nonMasqueradeCIDRs: on nodes with pool=far: the list does not cover service range 10.96.0.0/12 ` +
				`(ServiceCIDR kubernetes): routed services would see the node's address; add to nonMasqueradeCIDRs: - 10.96.0.0/12 [service-cidrs-present]
`,
		},
		{
			name: "a label that an earlier override takes", params: "rules: {service-cidrs-present: {action: off}}",
			request: update(good + "nodeOverrides:\n- matchLabels: {a: b}\n- matchLabels: {a: b, c: d}\n"),
			want: `deny data["config"]:6 nodeOverrides[1]: no node gets as far as here: nodeOverrides[0] in line 5 matches every node that this one does; ` +
				`put it before that one, or remove it [no-ambiguous-yaml]
`,
		},
		{
			name: "soft and switched off", params: "rules: {no-overlap: {action: warn}, no-duplicate: {action: off}}",
			request: update(good + "- 10.0.0.0/8\n- 10.1.0.0/16\n"),
			want: `warn data["config"]:5 nonMasqueradeCIDRs[3]: 10.1.0.0/16 lies inside 10.0.0.0/8 ` +
				`(nonMasqueradeCIDRs[0], line 2), so it has no effect; drop the line "- 10.1.0.0/16" [no-overlap]` + "\n",
		},
		{
			name: "a soft rule made hard", params: "rules: {list-explicit: {action: deny}}",
			request: update("resyncInterval: 60s\n"),
			want: `deny data["config"] nonMasqueradeCIDRs: the list is absent, so agents take their default ranges, ` +
				`and not every agent has the same; write it out: nonMasqueradeCIDRs: - 10.0.0.0/8 - 172.16.0.0/12 - 192.168.0.0/16 ` +
				`[list-explicit]` + "\n",
		},
		{
			name: "an absent list is judged as what stands in", request: update("resyncInterval: 60s\n"),
			cluster: NewCluster([]Range{}, ranges("params", "100.64.0.0/10"), []Range{}),
			want: `warn data["config"] nonMasqueradeCIDRs: the list is absent, so agents take their default ranges, ` +
				`and not every agent has the same; write it out: nonMasqueradeCIDRs: - 10.0.0.0/8 - 172.16.0.0/12 - 192.168.0.0/16 ` +
				`[list-explicit]
deny data["config"] nonMasqueradeCIDRs: the list does not cover pod range 100.64.0.0/10 (params): pods would be seen there ` +
				`with the address of their node, and dropped by firewalls; add the list, with the default ranges: nonMasqueradeCIDRs: ` +
				`- 10.0.0.0/8 - 172.16.0.0/12 - 192.168.0.0/16 - 100.64.0.0/10 [pod-cidrs-present]` + "\n",
		},
		{
			name: "with the reserved ranges it is covered", params: "agent: {reservedRanges: true}\nrules: {list-explicit: {action: off}}",
			request: update("resyncInterval: 60s\n"), cluster: NewCluster([]Range{}, ranges("params", "100.64.0.0/10"), []Range{}),
		},
		{
			name: "nobody knows the ranges", request: update(good), cluster: NewCluster(nil, nil, nil),
			want: `warn data["config"]:1 nonMasqueradeCIDRs: nobody knows the node ranges of this cluster, so nobody can tell ` +
				`whether the list covers them; set the Helm value cluster.nodeCIDRs [node-cidrs-present]
warn data["config"]:1 nonMasqueradeCIDRs: nobody knows the pod ranges of this cluster, so nobody can tell ` +
				`whether the list covers them; set the Helm value cluster.podCIDRs [pod-cidrs-present]
warn data["config"]:1 nonMasqueradeCIDRs: nobody knows the service ranges of this cluster, so nobody can tell ` +
				`whether the list covers them; set the Helm value cluster.serviceCIDRs [service-cidrs-present]
`,
		},
		{
			name: "and must", params: "requireClusterRanges: true", request: update(good), cluster: NewCluster(nil, nil, nil),
			want: `deny data["config"]:1 nonMasqueradeCIDRs: nobody knows the node ranges of this cluster, so nobody can tell ` +
				`whether the list covers them; set the Helm value cluster.nodeCIDRs [node-cidrs-present]
deny data["config"]:1 nonMasqueradeCIDRs: nobody knows the pod ranges of this cluster, so nobody can tell ` +
				`whether the list covers them; set the Helm value cluster.podCIDRs [pod-cidrs-present]
warn data["config"]:1 nonMasqueradeCIDRs: nobody knows the service ranges of this cluster, so nobody can tell ` +
				`whether the list covers them; set the Helm value cluster.serviceCIDRs [service-cidrs-present]
`,
		},
		{
			name: "service ranges made hard are soft while nobody knows them", params: "rules: {service-cidrs-present: {action: deny}}",
			request: update(good), cluster: NewCluster([]Range{}, []Range{}, nil),
			want: `warn data["config"]:1 nonMasqueradeCIDRs: nobody knows the service ranges of this cluster, so nobody can tell ` +
				`whether the list covers them; set the Helm value cluster.serviceCIDRs [service-cidrs-present]` + "\n",
		},
		{
			name: "and then hard", params: "rules: {service-cidrs-present: {action: deny}}",
			request: update("nonMasqueradeCIDRs: [10.244.0.0/16, 192.168.0.0/16]"),
			want: `deny data["config"]:1 nonMasqueradeCIDRs: the list does not cover service range 10.96.0.0/12 (ServiceCIDR kubernetes): ` +
				`routed services would see the node's address; ` +
				`add to nonMasqueradeCIDRs: - 10.96.0.0/12 [service-cidrs-present]` + "\n",
		},
		{
			name: "IPv6 ranges of a cluster whose agents leave IPv6 alone", request: update(good),
			cluster: NewCluster(ranges("", "fd00::1/128"), ranges("", "fd00:1::/64"), []Range{}),
		},
		{
			name: "IPv6 ranges of a cluster whose agents do not", params: "agent: {ipv6: true}", request: update(good),
			cluster: NewCluster([]Range{}, ranges("Node a", "fd00:1::/64"), []Range{}),
			want: `deny data["config"]:1 nonMasqueradeCIDRs: the list does not cover pod range fd00:1::/64 (Node a): ` +
				`pods would be seen there with the address of their node, and dropped by firewalls; ` +
				`add to nonMasqueradeCIDRs: - fd00:1::/64 [pod-cidrs-present]` + "\n",
		},
		{
			name: "link-local ranges are spared without a list", request: update(good),
			cluster: NewCluster(ranges("Node a", "169.254.7.0/24"), []Range{}, []Range{}),
		},
		{
			name: "an IPv6 CIDR for agents without IPv6 is told once", request: update(good + "- fd00::/8\n"),
			want: `deny data["config"]:4 nonMasqueradeCIDRs[2]: fd00::/8 is an IPv6 range, and agents without --enable-ipv6 ` +
				`refuse the whole configuration for it; drop the line, or set the Helm value agent.ipv6 to true [ipv6-enabled]` + "\n",
		},
		{
			name: "and denied without the rule", params: "rules: {ipv6-enabled: {action: off}}", request: update(good + "- fd00::/8\n"),
			want: `deny data["config"]:4 nonMasqueradeCIDRs[2]: "fd00::/8" is an IPv6 range, but the agent runs without IPv6, ` +
				`so it refuses the whole text; remove it, or start the agents with --enable-ipv6 [config-loads]` + "\n",
		},
		{
			name: "masquerading off in two parts", params: "rules: {no-overlap: {action: off}}",
			request: update(good + "- 0.0.0.0/1\n- 128.0.0.0/1\n"),
			want: `deny data["config"]:1 nonMasqueradeCIDRs: the list covers 0.0.0.0/0, so no ipv4 traffic is masqueraded, ` +
				`that to the internet neither; list only ranges that can answer to pod addresses [masquerade-not-disabled]` + "\n",
		},
		{
			name: "masquerading off on purpose", params: "rules: {masquerade-not-disabled: {action: off}}",
			request: update("nonMasqueradeCIDRs: [0.0.0.0/0]\n"),
		},
		{
			name: "an empty list", request: update("nonMasqueradeCIDRs:\n"), cluster: NewCluster([]Range{}, []Range{}, []Range{}),
			want: `deny data["config"]:1 nonMasqueradeCIDRs: the list is empty, so agents masquerade all traffic, that between pods too; ` +
				`list the ranges of the cluster, or drop the key to have the default ranges [list-not-empty]` + "\n",
		},
		{
			name: "comments alone", request: update("# nothing\n"),
			want: `deny data["config"]: the value holds no configuration, so agents silently take every default; ` +
				`write what you mean, the defaults are: nonMasqueradeCIDRs: - 10.0.0.0/8 - 172.16.0.0/12 - 192.168.0.0/16 ` +
				`resyncInterval: 60s [config-not-empty]` + "\n",
		},
		{
			name: "too many", params: "rules: {cidr-limit: {max: 1}}", request: update(good),
			want: `deny data["config"]:1 nonMasqueradeCIDRs: 2 CIDRs, more than 1: each one slows new connections on every node; ` +
				`list wider ranges instead of many narrow ones [cidr-limit]` + "\n",
		},
		{
			name: "link-local", request: update(good + "- 169.254.0.0/16\nmasqLinkLocal: true\n"),
			want: `deny data["config"]:5 masqLinkLocal: masqLinkLocal asks to masquerade 169.254.0.0/16, ` +
				`but 169.254.0.0/16 (nonMasqueradeCIDRs[2]) spares it, and the list wins; ` +
				`drop masqLinkLocal, or make the list spare less [link-local-consistent]` + "\n",
		},
		{
			name: "a metadata server is no contradiction", request: update(good + "- 169.254.169.254/32\nmasqLinkLocal: true\n"),
		},
		{
			name: "a misnamed key", request: object(map[string]string{"ip-masq-agent": good}, nil),
			want: `deny data["ip-masq-agent"]: there is no key "config", so agents find no configuration; "ip-masq-agent" looks like it; ` +
				`rename the key "ip-masq-agent" to "config" [config-key-present]` + "\n",
		},
		{
			name: "no key", request: object(nil, nil),
			want: `deny data: there is no key "config", so agents find no configuration; ` +
				`put the configuration under data.config [config-key-present]` + "\n",
		},
		{
			name: "binary data is read and judged", request: object(nil, map[string]string{"config": "nonMasqueradeCIDRs:\n- 10.0.0.0/33\n"}),
			want: `deny binaryData["config"]: the configuration is in binaryData: agents read it there too, but nobody can review it; ` +
				`move it to data.config as plain text [config-key-present]
deny binaryData["config"]:2 nonMasqueradeCIDRs[0]: "10.0.0.0/33" has an impossible prefix length; ` +
				`give an IPv4 range a length of 0 to 32 [config-loads]
`,
		},
		{
			name: "extra keys", request: object(map[string]string{"config": good, "notes": ""}, map[string]string{"ip-masq-extra": ""}),
			want: `deny binaryData["ip-masq-extra"]: agents that read a whole directory take the key "ip-masq-extra" for a configuration ` +
				`beside "config"; drop it, and keep one configuration [config-key-present]
warn data["notes"]: no agent reads the key "notes"; drop it [config-key-present]
`,
		},
		{
			name: "a deletion", request: Request{Operation: Delete, Old: configMap("nonMasqueradeCIDRs: [10.0.0.0/8, 100.64.0.0/10]\n")},
			want: `deny metadata.name: without the ConfigMap every node goes back to the default ranges (now masqueraded: 100.64.0.0/10); ` +
				`edit it instead; to remove the agents, uninstall their chart [no-delete]` + "\n",
		},
		{
			name: "a deletion on purpose", params: "rules: {no-delete: {action: off}}",
			request: Request{Operation: Delete, Old: configMap(good)},
		},
		{
			name: "the old text does not load", request: func() Request {
				r := update(good)
				r.Old = configMap("nonMasqueradeCIDRs: 3\n")
				return r
			}(),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			cluster := c.cluster
			if cluster == nil {
				cluster = smallCluster()
			}
			d := engine(t, c.params).Decide(context.Background(), c.request, cluster)
			if diff := cmp.Diff(c.want, told(d)); diff != "" {
				t.Errorf("findings differ (-want +got):\n%s", diff)
			}
			if denied := strings.Contains("\n"+c.want, "\ndeny "); d.Allowed == denied {
				t.Errorf("allowed: %t", d.Allowed)
			}
		})
	}
}

func object(data, binary map[string]string) Request {
	req := update("")
	req.Object = &corev1.ConfigMap{Data: data, BinaryData: map[string][]byte{}}
	for key, value := range binary {
		req.Object.BinaryData[key] = []byte(value)
	}
	return req
}

func TestDecideDescribesItself(t *testing.T) {
	e := engine(t, "")
	req := update("nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 192.168.0.7/24\n")
	d := e.Decide(context.Background(), req, smallCluster())
	want := Decision{
		Revision: e.revision,
		Subject:  "ConfigMap kube-system/ip-masq-agent",
		Findings: []Finding{{
			Rule: "config-loads", Action: Deny, Key: "config", Path: "nonMasqueradeCIDRs[1]",
			Position: config.Position{Line: 3, Column: 3}, Text: "192.168.0.7/24",
			Message: `"192.168.0.7/24" has host bits set`, Hint: "write 192.168.0.0/24",
			Docs: "https://github.com/ip-masq-guard/ip-masq-guard/blob/main/docs/rules.md#config-loads",
			code: config.CodeHostBits,
		}},
		Problems: []config.Problem{{
			Code: config.CodeHostBits, Severity: config.Fatal, Path: "nonMasqueradeCIDRs[1]", Line: 3, Column: 3,
			Text: "192.168.0.7/24", Message: `"192.168.0.7/24" has host bits set`, Remedy: "write 192.168.0.0/24",
		}},
	}
	if diff := cmp.Diff(want, d, cmpopts.IgnoreFields(Decision{}, "ID"), cmp.AllowUnexported(Finding{})); diff != "" {
		t.Errorf("decisions differ (-want +got):\n%s", diff)
	}
	again := e.Decide(context.Background(), req, smallCluster())
	if len(d.ID) != 32 || d.ID == again.ID {
		t.Errorf("ids %q and %q", d.ID, again.ID)
	}
}

func TestEffectOfDecisions(t *testing.T) {
	prefixes := func(texts ...string) (list []netip.Prefix) {
		for _, text := range texts {
			list = append(list, netip.MustParsePrefix(text))
		}
		return list
	}
	text := "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n"
	create, remove := update(text), update(text)
	create.Operation, create.Old = Create, nil
	remove.Operation, remove.Object = Delete, nil
	for _, c := range []struct {
		name    string
		request Request
		want    Effect
	}{
		{"no change", update(text), Effect{Known: true}},
		{
			"both ways", update("nonMasqueradeCIDRs: [10.0.0.0/9, 192.168.0.0/15]\n"),
			Effect{
				Known:          true,
				NowMasqueraded: prefixes("10.128.0.0/9"), NoLongerMasqueraded: prefixes("192.169.0.0/16"),
			},
		},
		{"link-local", update(text + "masqLinkLocal: true\n"), Effect{Known: true, NowMasqueraded: prefixes("169.254.0.0/16")}},
		{"a creation replaces the defaults", create, Effect{Known: true, NowMasqueraded: prefixes("172.16.0.0/12")}},
		{"a deletion brings them back", remove, Effect{Known: true, NoLongerMasqueraded: prefixes("172.16.0.0/12")}},
		{"unknown", update("nonMasqueradeCIDRs: 1\n"), Effect{}},
		{"unknown, refused by flags", update("nonMasqueradeCIDRs: [\"fd00::/8\"]\n"), Effect{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := engine(t, "").Decide(context.Background(), c.request, smallCluster())
			equal := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
			if diff := cmp.Diff(c.want, d.Effect, equal); diff != "" {
				t.Errorf("effects differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRevision(t *testing.T) {
	rule := Source{Name: "a.rego", Text: []byte("package ipmasq.a\n\ndeny contains \"x\" if input.config == null\n")}
	same := Source{Name: "a_test.rego", Text: []byte("package ipmasq.a_test\n")}
	other := Source{Name: "a.rego", Text: []byte("package ipmasq.a\n\ndeny contains \"y\" if input.config == null\n")}
	base := engine(t, "", rule).revision
	if got := engine(t, "", rule, same).revision; got != base {
		t.Error("a test changes the revision")
	}
	for name, e := range map[string]*Engine{
		"no custom rule": engine(t, ""), "another text": engine(t, "", other), "params": engine(t, "requireClusterRanges: true", rule),
	} {
		if e.revision == base {
			t.Errorf("%s does not change the revision", name)
		}
	}
}

// TestDecideWithoutContext tells what ends a decision before it is made.
func TestDecideWithoutContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	d := promptEngine(t, "", hostile("endless", `deny contains "x" if { some i in numbers.range(1, 200000); some j in numbers.range(1, 200000); i + j < 0 }`)).
		Decide(ctx, update("nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n"), smallCluster())
	want := `deny metadata.name: the write could not be judged: the request ended first: context canceled; ` +
		`try again; if it stays, tell those who run the webhook [policy-decides]` + "\n"
	if diff := cmp.Diff(want, told(d)); diff != "" || d.Allowed {
		t.Errorf("allowed: %t, findings differ (-want +got):\n%s", d.Allowed, diff)
	}
}

func TestZeroEngine(t *testing.T) {
	d := new(Engine).Decide(context.Background(), update(goodText), nil)
	want := `deny metadata.name: the write could not be judged: there are no rules; ` +
		`try again; if it stays, tell those who run the webhook [policy-decides]` + "\n"
	if diff := cmp.Diff(want, told(d)); diff != "" || d.Allowed {
		t.Errorf("allowed: %t, findings differ (-want +got):\n%s", d.Allowed, diff)
	}
}

// TestEverythingOff is not the zero Engine: an owner said so.
func TestEverythingOff(t *testing.T) {
	params := "rules:\n"
	for _, id := range builtinIDs() {
		params += "  " + id + ": {action: off}\n"
	}
	e := engine(t, params)
	if d := e.Decide(context.Background(), Request{Operation: Delete, Old: configMap(goodText)}, nil); !d.Allowed {
		t.Errorf("denied:\n%s", told(d))
	}
	if d := e.Decide(context.Background(), update("nonMasqueradeCIDRs: [10.0.0.1/8]"), nil); d.Allowed {
		t.Error("what does not load is allowed")
	}
}

func TestConcurrentDecisions(t *testing.T) {
	text, err := os.ReadFile("testdata/custom/payments.rego")
	if err != nil {
		t.Fatal(err)
	}
	e := engine(t, "", Source{"payments.rego", text}, hostile("reader", `
deny contains "no cluster" if not input.cluster.pod_cidrs
warn contains "old" if input.old.cidrLimit == 1
`))
	cluster := smallCluster()
	var want []string
	for _, req := range requests() {
		want = append(want, told(e.Decide(context.Background(), req, cluster)))
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 20 {
				for i, req := range requests() {
					if got := told(e.Decide(context.Background(), req, cluster)); got != want[i] {
						t.Errorf("findings differ (-want +got):\n%s", cmp.Diff(want[i], got))
						return
					}
				}
			}
		})
	}
	group.Wait()
}

func TestCustomRules(t *testing.T) {
	text, err := os.ReadFile("testdata/custom/payments.rego")
	if err != nil {
		t.Fatal(err)
	}
	e := engine(t, "", Source{"payments.rego", text})
	req := update("nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 192.168.0.0/16\n- 198.51.0.0/16\n")
	d := e.Decide(context.Background(), req, smallCluster())
	want := []Finding{{
		Rule: "payments/partners-masqueraded", Action: Deny, Key: "config", Path: "nonMasqueradeCIDRs[2]",
		Position: config.Position{Line: 4, Column: 3},
		Message:  "198.51.0.0/16 spares the partners in 198.51.100.0/24, who know nodes only",
		Hint:     "leave 198.51.100.0/24 out",
		Docs:     "https://example.com/payments",
		Details:  map[string]any{"partner": "198.51.100.0/24"},
		custom:   true,
	}}
	if diff := cmp.Diff(want, d.Findings, cmp.AllowUnexported(Finding{})); diff != "" {
		t.Errorf("findings differ (-want +got):\n%s", diff)
	}
	req = update("nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 192.168.0.0/16\n")
	req.Time = time.Date(2026, 5, 3, 23, 0, 0, 0, time.UTC)
	d = e.Decide(context.Background(), req, smallCluster())
	if diff := cmp.Diff("warn data[\"config\"]: the change is made on a weekend [payments]\n", told(d)); diff != "" || !d.Allowed {
		t.Errorf("allowed: %t, findings differ (-want +got):\n%s", d.Allowed, diff)
	}
}

// TestParams shows custom rules what the owner set for them.
func TestCustomParams(t *testing.T) {
	e := engine(t, "custom: {partners: [198.51.100.0/24]}\nrules: {resync-bounds: {min: 90s}}\nagent: {ipv6: true}",
		hostile("a", `deny contains $"{partner} {input.params.rules["resync-bounds"].min} {input.params.agent.ipv6}" if {
	some partner in input.params.custom.partners
}`))
	d := e.Decide(context.Background(), update("nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\nresyncInterval: 90s\n"), smallCluster())
	if diff := cmp.Diff("deny data[\"config\"]: 198.51.100.0/24 90 true [a]\n", told(d)); diff != "" {
		t.Errorf("findings differ (-want +got):\n%s", diff)
	}
}

func TestSortFindings(t *testing.T) {
	at := func(line int, path, rule string) Finding {
		return Finding{Position: config.Position{Line: line}, Path: path, Rule: rule}
	}
	want := []Finding{
		at(0, "", "a"), at(0, "nonMasqueradeCIDRs", "a"), at(1, "nonMasqueradeCIDRs[2]", "a"), at(1, "nonMasqueradeCIDRs[2]", "b"),
		at(1, "nonMasqueradeCIDRs[10]", "a"), at(1, "nonMasqueradeCIDRs[10]x", "a"), at(2, "", "a"),
	}
	for range 20 {
		got := slices.Clone(want)
		for i := range got {
			j := (i*7 + 3) % len(got)
			got[i], got[j] = got[j], got[i]
		}
		sortFindings(got)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(Finding{})); diff != "" {
			t.Fatalf("order differs (-want +got):\n%s", diff)
		}
	}
}

// TestEffectOfOverrides tells what changes where, nodes that lose their override among
// them.
func TestEffectOfOverrides(t *testing.T) {
	e := engine(t, "rules: {service-cidrs-present: {action: off}, node-cidrs-present: {action: off}, pod-cidrs-present: {action: off}}")
	req := update(`nonMasqueradeCIDRs: [10.0.0.0/8]
nodeOverrides:
- matchLabels: {pool: edge}
  masqueradeCIDRs: [10.200.0.0/16]
- matchLabels: {pool: steady}
  nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]
- matchLabels: {pool: as-all}
  masqLinkLocal: false
`)
	req.Old = configMap(`nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]
nodeOverrides: [{matchLabels: {pool: gone}, nonMasqueradeCIDRs: [11.0.0.0/8]}]
`)
	d := e.Decide(context.Background(), req, smallCluster())
	if !d.Allowed {
		t.Fatal(told(d))
	}
	want := []string{
		"now masqueraded: 192.168.0.0/16",
		"on nodes with pool=edge: now masqueraded: 10.200.0.0/16, 192.168.0.0/16",
		"on nodes with pool=steady: nothing changes",
		"on nodes with pool=gone: now masqueraded: 11.0.0.0/8",
		"on nodes with pool=gone: no longer masqueraded: 10.0.0.0/8",
	}
	if diff := cmp.Diff(want, d.Warnings()); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// TestManyOverrides bounds the time for overrides when a rule takes it all.
func TestManyOverrides(t *testing.T) {
	text := "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\nnodeOverrides:\n"
	for i := range config.MaxOverrides {
		text += "- matchLabels: {n: \"" + strings.Repeat("9", i%7+1) + "-" + string(rune('a'+i%26)) + "\"}\n  masqueradeCIDRs: [10.200.0.0/16]\n"
	}
	slow := hostile("a", `warn contains "x" if count([1 | some i in numbers.range(1, 200000); some j in numbers.range(1, 200000); i < j]) == 0`)
	e := promptEngine(t, "rules: {no-ambiguous-yaml: {action: off}}", slow)
	began := time.Now()
	d := e.Decide(context.Background(), update(text), smallCluster())
	if took := time.Since(began); took > 20*time.Second { // far above overridesLimit, on a busy machine too
		t.Errorf("took %s", took)
	}
	if d.Allowed || !strings.Contains(told(d), "its overrides could not be judged in time") && !strings.Contains(told(d), "too many evaluations") {
		t.Errorf("allowed: %t\n%s", d.Allowed, told(d))
	}
}
