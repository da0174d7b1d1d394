package policy

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// TestSeveral judges a ConfigMap whose keys are the files of a directory.
func TestSeveral(t *testing.T) {
	const params = "configDirectory: true\nrules: {service-cidrs-present: {action: off}}"
	for _, c := range []struct {
		name   string
		data   map[string]string
		binary map[string][]byte
		want   string
	}{
		{
			name: "good", data: map[string]string{
				"ip-masq-agent": "nonMasqueradeCIDRs: [10.0.0.0/8]\n", "ip-masq-agent-reconciled": "nonMasqueradeCIDRs: [192.168.0.0/16]\n",
			},
		},
		{name: "the key of the upstream manifest", data: map[string]string{"config": "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n"}},
		{
			name: "each at fault alone", data: map[string]string{
				"ip-masq-agent": "nonMasqueradeCIDRs:\n- 10.0.0.1/8\n", "ip-masq-b": "resyncInterval: 1d\nfoo: 1\n",
			},
			want: `deny data["ip-masq-agent"]:2 nonMasqueradeCIDRs[0]: "10.0.0.1/8" has host bits set; write 10.0.0.0/8 [config-loads]
deny data["ip-masq-b"]:1 resyncInterval: "1d" is not a duration: the units are s, m and h; write 24h [config-loads]
deny data["ip-masq-b"]:2 foo: "foo" is not a key of the configuration, so agents ignore it; ` +
				`remove it; the keys are nonMasqueradeCIDRs, masqLinkLocal, masqLinkLocalIPv6, resyncInterval, cidrLimit, masqueradeCIDRs, nodeOverrides [no-unknown-keys]
`,
		},
		{
			name: "at fault together", data: map[string]string{
				"ip-masq-a": "nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 192.168.0.0/16\nresyncInterval: 60s\n",
				"ip-masq-b": "nonMasqueradeCIDRs:\n- 10.1.0.0/16\nmasqueradeCIDRs:\n- 10.244.0.0/16\nresyncInterval: 30s\n",
			},
			want: `deny data["ip-masq-a"]:4 resyncInterval: resyncInterval is 1m here, but 30s in ip-masq-b, which wins, since it is shorter; ` +
				`write the same in both files [no-ambiguous-yaml]
deny data["ip-masq-b"]:2 nonMasqueradeCIDRs[0]: 10.1.0.0/16 lies inside 10.0.0.0/8 (ip-masq-a: nonMasqueradeCIDRs[0], line 2), ` +
				`so it has no effect; drop the line "- 10.1.0.0/16" [no-overlap]
deny data["ip-masq-b"]:4 masqueradeCIDRs[0]: 10.244.0.0/16 takes pod range 10.244.1.0/24 (Node worker-1) from the list: ` +
				`pods would be seen there with the address of their node, and dropped by firewalls; ` +
				`drop the line "- 10.244.0.0/16", or except less [pod-cidrs-present]
`,
		},
		{
			name: "an override at fault", data: map[string]string{
				"ip-masq-a": "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n",
				"ip-masq-b": "nodeOverrides:\n- matchLabels: {pool: edge}\n  nonMasqueradeCIDRs: [10.0.0.0/8]\n",
			},
			want: `deny data["ip-masq-b"]:3 nodeOverrides[0].nonMasqueradeCIDRs: on nodes with pool=edge: the list does not cover node range 192.168.0.7/32 (Node worker-1): ` +
				`pods would be seen there with the address of their own node; add to nonMasqueradeCIDRs: - 192.168.0.7/32 [node-cidrs-present]
`,
		},
		{
			name: "what no file has", data: map[string]string{"ip-masq-a": "masqLinkLocal: true\n", "other": ""},
			want: `warn data["ip-masq-a"] nonMasqueradeCIDRs: the list is absent, so agents take their default ranges, and not every agent has the same; ` +
				`write it out: nonMasqueradeCIDRs: - 10.0.0.0/8 - 172.16.0.0/12 - 192.168.0.0/16 [list-explicit]
warn data["other"]: no agent reads the key "other"; drop it [config-key-present]
`,
		},
		{
			name: "nothing", data: map[string]string{"other": ""},
			want: `warn data["other"]: no agent reads the key "other"; drop it [config-key-present]
deny data: there is no key "config", so agents find no configuration; put the configuration under data.config [config-key-present]
`,
		},
		{
			name: "in binaryData", binary: map[string][]byte{"ip-masq-a": []byte("nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\nfoo: 1\n")},
			want: `deny binaryData["ip-masq-a"]: the configuration is in binaryData: agents read it there too, but nobody can review it; ` +
				`move it to data.ip-masq-a as plain text [config-key-present]
deny binaryData["ip-masq-a"]:2 foo: "foo" is not a key of the configuration, so agents ignore it; ` +
				`remove it; the keys are nonMasqueradeCIDRs, masqLinkLocal, masqLinkLocalIPv6, resyncInterval, cidrLimit, masqueradeCIDRs, nodeOverrides [no-unknown-keys]
`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := update("")
			req.Object = &corev1.ConfigMap{Data: c.data, BinaryData: c.binary}
			d := engine(t, params).Decide(context.Background(), req, smallCluster())
			if diff := cmp.Diff(c.want, told(d)); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}
