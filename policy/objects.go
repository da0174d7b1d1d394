package policy

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// NodeRanges are a node's own addresses and its pods' ranges. Text that is no address or
// CIDR tells nothing: the API server validates these fields.
func NodeRanges(node *corev1.Node) (own, pods []Range) {
	source := "Node " + node.Name
	cidrs := node.Spec.PodCIDRs
	if len(cidrs) == 0 && node.Spec.PodCIDR != "" { // which repeats the first of them
		cidrs = []string{node.Spec.PodCIDR}
	}
	for _, address := range node.Status.Addresses {
		if parsed, err := netip.ParseAddr(address.Address); err == nil && address.Type == corev1.NodeInternalIP {
			parsed = parsed.Unmap().WithZone("")
			own = append(own, Range{Prefix: netip.PrefixFrom(parsed, parsed.BitLen()), Source: source})
		}
	}
	return own, rangesIn(cidrs, source)
}

// ServiceRanges are those of a ServiceCIDR.
func ServiceRanges(object *networkingv1.ServiceCIDR) []Range {
	return rangesIn(object.Spec.CIDRs, "ServiceCIDR "+object.Name)
}

func rangesIn(cidrs []string, source string) []Range {
	var ranges []Range
	for _, cidr := range cidrs {
		if prefix, err := netip.ParsePrefix(cidr); err == nil {
			ranges = append(ranges, Range{Prefix: prefix.Masked(), Source: source})
		}
	}
	return ranges
}
