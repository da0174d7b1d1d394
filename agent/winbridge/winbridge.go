// Package winbridge writes the list into the OutBoundNAT policy of a CNI configuration
// of Windows: win-bridge, sdnbridge, azure-vnet, or a plugin that delegates to one of
// them. Windows nodes have no nat table; what this policy excepts is not masqueraded.
// Edit is pure, text in and text out; Update carries it out on a file.
package winbridge

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// MaxBytes bounds a CNI configuration; a real one has a few kilobytes.
const MaxBytes = 1 << 20

// maxDepth bounds the nesting; a real configuration has a depth of eight.
const maxDepth = 64

// Exceptions are the destinations that a configuration spares, for Windows: link-local
// unless it is masqueraded, then the list in its order, each once. HNS knows no
// exceptions of exceptions, so with masqueradeCIDRs these are the prefixes that are left,
// sorted. It knows IPv4 alone; the IPv6 ones are left out and returned apart.
func Exceptions(c config.Config) (exceptions, ipv6 []netip.Prefix) {
	add := func(p netip.Prefix) {
		if !slices.Contains(exceptions, p) {
			exceptions = append(exceptions, p)
		}
	}
	if !c.MasqueradeLinkLocal {
		add(config.LinkLocalIPv4)
	}
	for _, p := range c.NonMasquerade {
		if p.Addr().Is4() {
			add(p)
		} else {
			ipv6 = append(ipv6, p)
		}
	}
	masquerade := slices.DeleteFunc(slices.Clone(c.Masquerade), func(p netip.Prefix) bool { return !p.Addr().Is4() })
	if len(masquerade) > 0 {
		exceptions = without(exceptions, masquerade)
	}
	return exceptions, ipv6
}

// without are the prefixes that are spared where the longest prefix decides.
func without(spared, masquerade []netip.Prefix) []netip.Prefix {
	type entry struct {
		prefix netip.Prefix
		spares bool
	}
	entries := make([]entry, 0, len(spared)+len(masquerade))
	for _, p := range spared {
		entries = append(entries, entry{p, true})
	}
	for _, p := range masquerade {
		entries = append(entries, entry{p, false})
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(a.prefix.Bits(), b.prefix.Bits()) })
	var b netipx.IPSetBuilder
	for _, e := range entries {
		if e.spares {
			b.AddPrefix(e.prefix)
		} else {
			b.RemovePrefix(e.prefix)
		}
	}
	set, err := b.IPSet()
	if err != nil { // an invalid prefix, which no Config has
		return nil
	}
	return set.Prefixes()
}

// Change is a list of exceptions in a CNI configuration.
type Change struct {
	Path   string   // where the policy stands: "plugins[0].AdditionalArgs[1].Value"
	Line   int      // of its list, or of the policy where that has none; counted from 1
	Before []string // nil when there was no list
	After  []string
}

// ErrNoPolicy is that of a CNI configuration without an OutBoundNAT policy.
var ErrNoPolicy = errors.New("it has no OutBoundNAT policy, so there is nothing that could except ranges")

// Edit writes the exceptions into every OutBoundNAT policy of a CNI configuration and
// tells of each. All other bytes stay as they are, and where the lists are right already,
// the text is the same. The errors name what is wrong and what to do.
func Edit(text []byte, exceptions []netip.Prefix) ([]byte, []Change, error) {
	d, err := parse(text)
	if err != nil {
		return nil, nil, err
	}
	want := make([]string, len(exceptions))
	for i, p := range exceptions {
		want[i] = p.String()
	}
	e := editor{text: d.text, want: want}
	if err := e.find(d.root, ""); err != nil {
		return nil, nil, err
	}
	if len(e.changes) == 0 {
		return nil, nil, fmt.Errorf("%w; add to the plugin's %s: %s", ErrNoPolicy, d.listOfPolicies(), Policy(exceptions))
	}
	return e.result(), e.changes, nil
}

// Policy is an OutBoundNAT policy in one line, as the plugins' documentation has it.
func Policy(exceptions []netip.Prefix) string {
	policy := struct {
		Name  string
		Value struct {
			Type          string
			ExceptionList []netip.Prefix
		}
	}{Name: "EndpointPolicy"}
	policy.Value.Type = outBoundNAT
	policy.Value.ExceptionList = append([]netip.Prefix{}, exceptions...)
	line, err := json.Marshal(policy)
	if err != nil { // an invalid prefix
		return ""
	}
	return string(line)
}
