package e2e

import "strings"

// approvedConfig spares the pods and the address of the cluster's node, and its
// services.
const approvedConfig = `nonMasqueradeCIDRs:
- 10.0.0.0/8
- 192.168.0.0/16
resyncInterval: 60s
`

// widerConfig is another good one: it spares one range more.
const widerConfig = `nonMasqueradeCIDRs:
- 10.0.0.0/8
- 192.168.0.0/16
- 172.16.0.0/12
resyncInterval: 60s
`

// guideConfig is what a vendor's guide shows; agents refuse its first range.
const guideConfig = `nonMasqueradeCIDRs:
- 198.15.5.92/24
- 10.0.0.0/8
- 192.168.0.0/16
resyncInterval: 60s
`

// guideMended is guideConfig after its remedy.
const guideMended = `nonMasqueradeCIDRs:
- 198.15.5.0/24
- 10.0.0.0/8
- 192.168.0.0/16
resyncInterval: 60s
`

// node is the cluster's only one; no kubelet is behind it.
const node = `apiVersion: v1
kind: Node
metadata:
  name: worker-1
spec:
  podCIDR: 10.244.1.0/24
  podCIDRs: [10.244.1.0/24]
status:
  addresses:
  - {type: InternalIP, address: 192.168.1.11}
  - {type: Hostname, address: worker-1}
`

// manifest is the ConfigMap of kube-system with this text under the key config.
func manifest(config string) string {
	return manifestOf(kubeSystem, configMap, "data", "config", config)
}

// manifestOf is any ConfigMap with one key.
func manifestOf(namespace, name, field, key, value string) string {
	return `apiVersion: v1
kind: ConfigMap
metadata:
  name: ` + name + `
  namespace: ` + namespace + `
` + field + `:
  ` + key + `: |
    ` + strings.TrimRight(strings.ReplaceAll(value, "\n", "\n    "), " ")
}
