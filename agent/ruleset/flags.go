package ruleset

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// PortRange is an inclusive range of source ports, 1 to 65535.
type PortRange struct{ First, Last uint16 }

// String is the form of --to-ports: "1024-29999", or "1024" for a single port.
func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Size is how many ports it has.
func (r PortRange) Size() int { return int(r.Last) - int(r.First) + 1 }

// ParsePorts reads the value of --to-ports: "1024-29999,32768-65535" or "1024". An
// empty value is no range: the kernel chooses.
func ParsePorts(value string) ([]PortRange, error) {
	if value == "" {
		return nil, nil
	}
	var ranges []PortRange
	for item := range strings.SplitSeq(value, ",") {
		parsed, err := parsePortRange(item)
		if err != nil {
			return nil, fmt.Errorf("reading port range %d of %q: %w", len(ranges)+1, value, err)
		}
		ranges = append(ranges, parsed)
	}

	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b PortRange) int { return cmp.Compare(a.First, b.First) })
	for i := 1; i < len(sorted); i++ {
		if before, r := sorted[i-1], sorted[i]; r.First <= before.Last {
			return nil, fmt.Errorf("reading port ranges %q: %s and %s overlap, so shared ports would be taken twice as often; "+
				"write ranges without a port in common", value, before, r)
		}
	}
	return ranges, nil
}

func parsePortRange(item string) (PortRange, error) {
	first, last, isRange := strings.Cut(item, "-")
	if !isRange {
		last = first
	}
	lower, lowerErr := parsePort(first)
	upper, upperErr := parsePort(last)
	if err := cmp.Or(lowerErr, upperErr); err != nil {
		return PortRange{}, err
	}
	if lower > upper {
		return PortRange{}, fmt.Errorf("%q begins above its end; write %d-%d", item, upper, lower)
	}
	return PortRange{First: lower, Last: upper}, nil
}

func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("%q is not a port; write a whole number from 1 to 65535, without blanks", text)
	}
	return uint16(port), nil
}

// maxMatches bounds the sources, and the interfaces: each of the one with each of the
// other is a rule.
const maxMatches = 16

// ParseSources reads the value of --source-cidrs: "10.244.0.0/16,fd00:10:244::/48". An
// empty value is no source: packets from everywhere are masqueraded.
func ParseSources(value string) ([]netip.Prefix, error) {
	return parseList(value, "source", parseSource)
}

func parseSource(item string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(item)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR; write an address and the length of its prefix, as in 10.244.0.0/16", item)
	case prefix.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is IPv4 inside of IPv6, which no packet has; write the IPv4 CIDR itself", item)
	case prefix != prefix.Masked():
		return netip.Prefix{}, fmt.Errorf("%q has host bits set; write %s", item, prefix.Masked())
	}
	return prefix, nil
}

// ParseInterfaces reads the value of --out-interfaces: "eth0,bond+". An empty value is
// no interface: packets through all are masqueraded.
func ParseInterfaces(value string) ([]string, error) {
	return parseList(value, "interface", parseInterface)
}

// maxInterfaceName is IFNAMSIZ (linux/if.h) without its terminating zero.
const maxInterfaceName = 15

func parseInterface(item string) (string, error) {
	switch name := strings.TrimSuffix(item, "+"); {
	case item == "":
		return "", errors.New("the name is empty; separate names by single commas")
	case name == "":
		return "", errors.New(`"+" is every interface; leave the flag out`)
	case len(item) > maxInterfaceName:
		return "", fmt.Errorf("%q has %d bytes and the kernel keeps %d; shorten it with a + at its end", item, len(item), maxInterfaceName)
	case name == "." || name == "..":
		return "", fmt.Errorf("%q is no name of an interface", item)
	case strings.ContainsAny(name[:1], "-!"):
		return "", fmt.Errorf("%q begins with %q, which iptables takes for an option", item, name[:1])
	}
	for _, r := range item {
		if r <= ' ' || r > '~' || strings.ContainsRune(`"'\/:*`, r) {
			return "", fmt.Errorf("%q holds %q, which the name of an interface cannot; a + at the end stands for the rest of a name", item, r)
		}
	}
	return item, nil
}

// parseList reads items between commas.
func parseList[T any](value, what string, parse func(item string) (T, error)) ([]T, error) {
	if value == "" {
		return nil, nil
	}
	var list []T
	for item := range strings.SplitSeq(value, ",") {
		if len(list) == maxMatches {
			return nil, fmt.Errorf("reading %q: more than %d; every packet would meet too many rules", value, maxMatches)
		}
		parsed, err := parse(item)
		if err != nil {
			return nil, fmt.Errorf("reading %s %d of %q: %w", what, len(list)+1, value, err)
		}
		list = append(list, parsed)
	}
	return list, nil
}

// maxChainName is XT_EXTENSION_MAXNAMELEN (linux/netfilter/x_tables.h) without its
// terminating zero.
const maxChainName = 28

// reserved are names that a chain cannot have: the chains of the nat and other
// tables, and targets, since "-j NAME" would mean the target. iptables(8) and
// iptables-extensions(8), both families.
//
//nolint:gochecknoglobals // a constant in all but the language
var reserved = []string{
	"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING",
	"ACCEPT", "DROP", "QUEUE", "RETURN", "standard",
	"AUDIT", "BALANCE", "CHECKSUM", "CLASSIFY", "CLUSTERIP", "CONNMARK", "CONNSECMARK", "CT", "DNAT", "DNPT", "DSCP", "ECN",
	"HL", "HMARK", "IDLETIMER", "LED", "LOG", "MARK", "MASQUERADE", "MIRROR", "NAT", "NETMAP", "NFLOG", "NFQUEUE",
	"NOTRACK", "RATEEST", "REDIRECT", "REJECT", "SAME", "SECMARK", "SET", "SNAT", "SNPT", "SYNPROXY", "TARPIT", "TCPMSS",
	"TCPOPTSTRIP", "TEE", "TOS", "TPROXY", "TRACE", "TTL", "ULOG",
}

// CheckChain tells why a chain name cannot be used, or nil.
func CheckChain(name string) error {
	if err := checkChain(name); err != nil {
		return fmt.Errorf("checking chain name %q: %w", name, err)
	}
	return nil
}

func checkChain(name string) error {
	switch {
	case name == "":
		return errors.New("it is empty; leave the flag out for IP-MASQ-AGENT")
	case len(name) > maxChainName:
		return fmt.Errorf("it has %d bytes and the kernel keeps %d; shorten it", len(name), maxChainName)
	case strings.ContainsAny(name[:1], "-!"):
		return fmt.Errorf("it begins with %q, which iptables takes for an option; begin with a letter", name[:1])
	case slices.Contains(reserved, name):
		return errors.New("iptables has a chain or target of its own by this name; choose another, such as IP-MASQ-AGENT")
	}
	for _, r := range name {
		if r <= ' ' || r > '~' || strings.ContainsRune(`"'\`, r) {
			return fmt.Errorf("it holds %q, which iptables would not read back as a part of a name; use letters, digits, - and _", r)
		}
	}
	return nil
}
