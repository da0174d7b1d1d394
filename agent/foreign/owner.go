package foreign

import (
	"slices"
	"strings"
)

// The programs that are recognised. Names of chains, tables and comments are those of
// their source code.
const (
	ownerUnknown    = "unknown"
	ownerAgent      = "ip-masq-agent"
	ownerAntrea     = "antrea"
	ownerAWS        = "aws-vpc-cni"
	ownerAzure      = "azure-cni"
	ownerCalico     = "calico"
	ownerCilium     = "cilium"
	ownerCNI        = "cni-plugins"
	ownerDocker     = "docker"
	ownerFirewalld  = "firewalld"
	ownerFlannel    = "flannel"
	ownerGKE        = "gke"
	ownerIncus      = "incus"
	ownerKindnet    = "kindnet"
	ownerKubenet    = "kubenet"
	ownerKubeProxy  = "kube-proxy"
	ownerKubeRouter = "kube-router"
	ownerLibvirt    = "libvirt"
	ownerOVN        = "ovn-kubernetes"
	ownerPodman     = "podman"
	ownerTailscale  = "tailscale"
	ownerWeave      = "weave"
)

// Owners are the names that a Finding's Owner may have.
func Owners() []string {
	return []string{
		ownerAgent, ownerAntrea, ownerAWS, ownerAzure, ownerCalico, ownerCilium, ownerCNI, ownerDocker, ownerFirewalld,
		ownerFlannel, ownerGKE, ownerIncus, ownerKindnet, ownerKubenet, ownerKubeProxy, ownerKubeRouter, ownerLibvirt, ownerOVN,
		ownerPodman, ownerTailscale, ownerWeave, ownerUnknown,
	}
}

// sign is something by which a program's rules are known: a chain's or native table's
// name, or the beginning of a comment.
type sign struct{ begin, owner string }

// The longer beginning comes first where two fit.
//
//nolint:gochecknoglobals // constants in all but the language
var (
	chainSigns = []sign{
		{"KUBE-ROUTER-", ownerKubeRouter},
		{"KUBE-", ownerKubeProxy},
		{"FLANNEL-", ownerFlannel},
		{"CNI-", ownerCNI},
		{"IP-MASQ-AGENT", ownerAgent},
		{"IP-MASQ", ownerGKE},
		{"AWS-SNAT-CHAIN-", ownerAWS},
		{"CILIUM_", ownerCilium},
		{"OLD_CILIUM_", ownerCilium},
		{"cali-", ownerCalico},
		{"LIBVIRT_", ownerLibvirt},
		{"NETAVARK-", ownerPodman},
		{"ANTREA-", ownerAntrea},
		{"OVN-KUBE-", ownerOVN},
		{"WEAVE", ownerWeave},
		{"SWIFT", ownerAzure},
		{"DOCKER", ownerDocker},
		{"ts-postrouting", ownerTailscale},
		{"POST_", ownerFirewalld},
		{"POSTROUTING_", ownerFirewalld},
	}
	tableSigns = []sign{
		{"kube-proxy", ownerKubeProxy},
		{"flannel-", ownerFlannel},
		{"docker-bridges", ownerDocker},
		{"cni_", ownerCNI},
		{"cni-", ownerCNI},
		{"kindnet", ownerKindnet},
		{"aws-cni", ownerAWS},
		{"cilium", ownerCilium},
		{"calico", ownerCalico},
		{"netavark", ownerPodman},
		{"libvirt", ownerLibvirt},
		{"firewalld", ownerFirewalld},
		{"antrea", ownerAntrea},
		{"ovn-kube", ownerOVN},
		{"incus", ownerIncus},
		{"lxd", ownerIncus},
		{"kube-router", ownerKubeRouter},
		{"ip-masq", ownerAgent},
	}
	commentSigns = []sign{
		{"ip-masq-agent", ownerAgent},
		{`"ip-masq-agent`, ownerAgent}, // Azure's has quotes inside
		{"ip-masq:", ownerGKE},
		{"kubenet:", ownerKubenet},
		{"kubelet:", ownerKubenet}, // the kubelet's --non-masquerade-cidr, of before 1.24
		{"flanneld masq", ownerFlannel},
		{"kubernetes postrouting rules", ownerKubeProxy},
		{"kubernetes service traffic requiring SNAT", ownerKubeProxy},
		{"AWS SNAT", ownerAWS},
		{"AWS, SNAT", ownerAWS},
		{"cilium", ownerCilium},
		{"cali:", ownerCalico},
		{"Antrea:", ownerAntrea},
		{`name: "`, ownerCNI},
		{"CNI portfwd", ownerCNI},
		{"netavark", ownerPodman},
		{"generated for Incus network", ownerIncus},
		{"generated for LXD network", ownerIncus},
	}
	outSigns = []sign{
		{"docker0", ownerDocker},
		{"docker_gwbridge", ownerDocker},
		{"br-", ownerDocker}, // and twelve digits of a network's id
		{"virbr", ownerLibvirt},
		{"cni-podman", ownerPodman},
		{"podman", ownerPodman},
		{"weave", ownerWeave},
	}
	setSigns = []sign{
		{"kube-router-", ownerKubeRouter},
		{"cali4", ownerCalico},
		{"cali6", ownerCalico},
		{"ANTREA-", ownerAntrea},
		{"weaver-", ownerWeave},
		{"KUBE-", ownerKubeProxy},
	}
)

func recognise(signs []sign, name string) string {
	for _, s := range signs {
		if strings.HasPrefix(name, s.begin) {
			return s.owner
		}
	}
	return ""
}

// owner tells whose rule it is: by its table, by the chains that lead to it, by its
// comments, its sets or its interface.
func owner(at Hook, path []string, r rule) string {
	if at.Backend == Native {
		_, name, _ := strings.Cut(at.Table, " ")
		if known := recognise(tableSigns, name); known != "" {
			return known
		}
	}
	for _, chain := range slices.Backward(path) {
		if known := recognise(chainSigns, chain); known != "" {
			return known
		}
	}
	for _, comment := range r.comments {
		if known := recognise(commentSigns, comment); known != "" {
			return known
		}
	}
	for _, f := range r.match.facts {
		if name, isSet := strings.CutPrefix(f.text, setCondition); isSet && f.kind == opaque {
			if known := recognise(setSigns, name); known != "" {
				return known
			}
		}
		if f.kind == out {
			if known := recognise(outSigns, f.text); known != "" {
				return known
			}
		}
	}
	return ownerUnknown
}

// remedy tells what to do about a finding, or nothing.
func remedy(f Finding) string {
	if f.Verdict == Harmless || f.Verdict == Duplicate && f.Owner != ownerGKE && f.Owner != ownerAgent {
		return ""
	}
	switch f.Owner {
	case ownerDocker:
		return `start docker with --ip-masq=false ("ip-masq": false in daemon.json), or give its networks com.docker.network.bridge.enable_ip_masquerade=false`
	case ownerFlannel:
		return "run flanneld without --ip-masq"
	case ownerGKE:
		return "run the agent with --masq-chain=IP-MASQ, which takes this chain over"
	case ownerAgent:
		return "uninstall the other ip-masq-agent and delete its chain and jump, or run this agent with that chain's name"
	case ownerKubenet:
		return "run the kubelet with --non-masquerade-cidr=0.0.0.0/0 (gone in 1.24), and delete the rule"
	case ownerCNI:
		return `set "ipMasq": false in the network's CNI configuration; pods get new rules when they start`
	case ownerAWS:
		return "set AWS_VPC_K8S_CNI_EXTERNALSNAT=true on aws-node, or list the ranges in AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"
	case ownerCilium:
		return "set enable-ipv4-masquerade (and -ipv6-) to false in cilium-config, or let Cilium's own ipMasqAgent read the list"
	case ownerCalico:
		return "set natOutgoing: false on the IPPool"
	case ownerKubeRouter:
		return "run kube-router with --enable-pod-egress=false"
	case ownerAntrea:
		return "set noSNAT: true in antrea-agent.conf"
	case ownerKindnet:
		return "list the ranges in kindnetd's --no-masquerade-cidr, or run it with --masquerading=false"
	case ownerLibvirt:
		return "define the libvirt network with <forward mode='route'/>"
	case ownerPodman:
		return "keep pods off podman's networks: it masquerades all that leaves them"
	case ownerFirewalld:
		return "take masquerade off the zone: firewall-cmd --permanent --zone=ZONE --remove-masquerade"
	case ownerIncus:
		return "set ipv4.nat (ipv6.nat) to false on the network"
	}
	return "find out which program makes this rule, and limit or remove it"
}
