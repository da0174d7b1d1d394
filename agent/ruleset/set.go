package ruleset

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// MaxSetThreshold is the largest --set-threshold. It means that there are no sets; no
// list has more CIDRs.
const MaxSetThreshold = config.MaxCIDRs

// SetType is the type of every Set.
const SetType = "hash:net"

// Set is an ipset that holds the destinations of a Decision: its test answers whether one
// is spared, and the longest prefix decides.
type Set struct {
	Name    string
	Family  Family
	Entries []SetEntry // sorted by address and length, each prefix once, none of length 0
}

// SetEntry is a prefix of a Set.
type SetEntry struct {
	Prefix    netip.Prefix
	Exception bool // "nomatch": what it contains is not in the set
}

// maxSetName is IPSET_MAXNAMELEN (linux/netfilter/ipset/ip_set.h) without its
// terminating zero.
const maxSetName = 31

// SetNames are the names of the sets of a chain and family: the one that the chain
// asks, and the one that replaces its content. Sets by other names are not ours.
func SetNames(chain string, family Family) (held, next string) {
	prefix := fmt.Sprintf("masq-guard-%d", int(family))
	if space := maxSetName - len(prefix) - 1; len(chain) > space {
		sum := fmt.Sprintf("~%08x", crc32.ChecksumIEEE([]byte(chain)))
		chain = chain[:space-len(sum)] + sum
	}
	return prefix + ":" + chain, prefix + "+" + chain
}

func newSet(chain string, d Decision) *Set {
	held, _ := SetNames(chain, d.Family)
	return &Set{Name: held, Family: d.Family, Entries: entries(d)}
}

// entries are the prefixes of a Decision. The kernel has none of length 0 in such a
// set: both halves stand for it, unless an entry of its own does for one of them.
func entries(d Decision) []SetEntry {
	type written struct {
		SetEntry

		bits int // in the Decision
	}
	all := make([]written, 0, len(d.Spared)+len(d.Exceptions)+2)
	for _, list := range []struct {
		prefixes  []netip.Prefix
		exception bool
	}{{d.Exceptions, true}, {d.Spared, false}} {
		for _, prefix := range list.prefixes {
			for _, part := range halves(prefix) {
				all = append(all, written{SetEntry{part, list.exception}, prefix.Bits()})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b written) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()), cmp.Compare(b.bits, a.bits))
	})
	all = slices.CompactFunc(all, func(a, b written) bool { return a.Prefix == b.Prefix })

	sorted := make([]SetEntry, len(all))
	for i, w := range all {
		sorted[i] = w.SetEntry
	}
	return sorted
}

func halves(prefix netip.Prefix) []netip.Prefix {
	if prefix.Bits() > 0 {
		return []netip.Prefix{prefix}
	}
	upper := prefix.Addr().AsSlice()
	upper[0] = 1 << 7
	addr, _ := netip.AddrFromSlice(upper)
	return []netip.Prefix{netip.PrefixFrom(prefix.Addr(), 1), netip.PrefixFrom(addr, 1)}
}

// Compare is the order of Entries.
func (e SetEntry) Compare(other SetEntry) int {
	return cmp.Or(e.Prefix.Addr().Compare(other.Prefix.Addr()), cmp.Compare(e.Prefix.Bits(), other.Prefix.Bits()))
}

// smallestHash is the least number of buckets that the kernel takes.
const smallestHash = 64

// HashSize is the number of buckets that the set begins with: as many as entries, a
// power of two.
func (s *Set) HashSize() int {
	return max(smallestHash, 1<<bits.Len(uint(max(len(s.Entries), 1)-1)))
}

// MaxEntries is how many entries the kernel lets in. It has room for those of another
// list of the same HashSize beside these, as while the one becomes the other.
func (s *Set) MaxEntries() int { return 4 * s.HashSize() }

// HasExceptions tells that the longest prefix decides, not just any one.
func (s *Set) HasExceptions() bool {
	return slices.ContainsFunc(s.Entries, func(e SetEntry) bool { return e.Exception })
}

// String is the input for ipset restore, in the words of ipset save.
func (s *Set) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "create %s %s family %s hashsize %d maxelem %d\n", s.Name, SetType, s.Family.inet(), s.HashSize(), s.MaxEntries())
	for _, e := range s.Entries {
		b.WriteString("add " + s.Name + " ")
		if e.Prefix.IsSingleIP() {
			b.WriteString(AddressText(e.Prefix.Addr()))
		} else {
			b.WriteString(cidr(e.Prefix))
		}
		if e.Exception {
			b.WriteString(" nomatch")
		}
		b.WriteString("\n")
	}
	return b.String()
}

func (f Family) inet() string {
	if f == IPv6 {
		return "inet6"
	}
	return "inet"
}

func (s *Set) equal(other *Set) bool {
	if s == nil || other == nil {
		return s == other
	}
	return s.Name == other.Name && slices.Equal(s.Entries, other.Entries)
}
