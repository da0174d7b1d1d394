package ruleset

import (
	"cmp"
	"errors"
	"fmt"
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

func (r PortRange) size() int { return int(r.Last) - int(r.First) + 1 }

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
