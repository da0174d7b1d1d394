package config

import (
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
)

// fault is what is wrong with a value: the sentence goes on after the value itself.
type fault struct {
	code   Code
	why    string // "has host bits set"
	remedy string // "write 198.15.5.0/24"
}

// readCIDR reads a CIDR with zero host bits. What it accepts the upstream agent
// accepts (net.ParseCIDR), and so does iptables.
func readCIDR(s string) (netip.Prefix, *fault) {
	prefix, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, explainCIDR(s)
	case prefix.Addr().Is4In6():
		return netip.Prefix{}, explainMapped(prefix)
	case prefix != prefix.Masked():
		return netip.Prefix{}, &fault{CodeHostBits, "has host bits set", "write " + prefix.Masked().String()}
	}
	return prefix, nil
}

func explainMapped(prefix netip.Prefix) *fault {
	f := &fault{CodeIPv4Mapped, "is an IPv4-mapped IPv6 range, which iptables refuses", "write it as IPv4"}
	if prefix.Bits() >= 96 {
		f.remedy = "write " + netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96).Masked().String()
	}
	return f
}

// explainCIDR tells what is wrong with a text that is not a CIDR, and how it is
// written if that can be told.
func explainCIDR(s string) *fault {
	wrong := func(why, remedy string) *fault { return &fault{CodeBadCIDR, why, remedy} }
	const anyCIDR = "write a CIDR such as 10.0.0.0/8 or fd00::/8"

	bare := strings.TrimLeft(strings.TrimFunc(s, isFiller), "-")
	if bare == "" {
		return wrong("is empty", "write a CIDR such as 10.0.0.0/8, or remove the element")
	}
	if bare != s {
		if p, ok := meantCIDR(bare); ok {
			return wrong("has characters around the CIDR that do not belong to it", "write "+p.String())
		}
	}
	if several := splitCIDRs(s); len(several) > 1 {
		return wrong("holds several CIDRs", "write each as an element of its own: "+enumerate(several))
	}
	if first, last, ok := strings.Cut(bare, "-"); ok {
		if cover := rangeCIDRs(strings.TrimSpace(first), strings.TrimSpace(last)); cover != nil {
			return wrong("is a range, not a CIDR", "write "+strings.Join(cover, ", "))
		}
	}
	if rest, ok := strings.CutPrefix(bare, "!"); ok {
		if _, err := netip.ParsePrefix(rest); err == nil {
			return wrong("is not a CIDR: no agent knows !", "list exceptions under "+KeyMasqueradeCIDRs+", without !")
		}
	}

	address, mask, hasMask := strings.Cut(bare, "/")
	if !hasMask {
		return explainAddress(bare)
	}
	if unzoned, _, ok := strings.Cut(address, "%"); ok {
		if p, ok := meantCIDR(unzoned + "/" + mask); ok {
			return wrong("has a zone, which a range cannot have", "write "+p.String())
		}
	}
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return explainOctets(address, mask)
	}
	length, err := strconv.Atoi(mask)
	switch {
	case err == nil && strings.HasPrefix(mask, "0") && length <= addr.BitLen():
		f := &fault{CodeMaskLeadingZero, "has a prefix length with a leading zero, which iptables refuses", anyCIDR}
		if p, ok := meantCIDR(bare); ok {
			f.remedy = "write " + p.String()
		}
		return f
	case err == nil && addr.Is4():
		return wrong("has an impossible prefix length", "give an IPv4 range a length of 0 to 32")
	case err == nil:
		return wrong("has an impossible prefix length", "give an IPv6 range a length of 0 to 128")
	}
	if p, ok := meantCIDR(bare); ok {
		return wrong("has a netmask instead of a prefix length", "write "+p.String())
	}
	return explainOctets(address, mask)
}

// explainAddress explains a text without a slash.
func explainAddress(s string) *fault {
	if addr, err := netip.ParseAddr(s); err == nil {
		addr = addr.WithZone("").Unmap()
		remedy := "write " + netip.PrefixFrom(addr, addr.BitLen()).String()
		if network, ok := classfulCIDR(addr); ok {
			remedy += ", or " + network.String() + " if the network is meant"
		}
		return &fault{CodeBadCIDR, "has no prefix length", remedy}
	}
	if octets, found := strings.CutSuffix(s, ".*"); found { // 10.1.*.*
		octets = strings.TrimRight(octets, ".*")
		if p, ok := meantCIDR(octets + "/" + strconv.Itoa(8*(1+strings.Count(octets, ".")))); ok {
			return &fault{CodeBadCIDR, "has a wildcard, not a prefix length", "write " + p.String()}
		}
	}
	if strings.IndexFunc(s, unicode.IsLetter) >= 0 && !strings.Contains(s, ":") {
		return &fault{CodeBadCIDR, "is a name, not a CIDR", "write the range of its addresses, such as 10.0.0.0/8"}
	}
	return explainOctets(s, "")
}

// explainOctets explains what is nearly a CIDR at best.
func explainOctets(address, mask string) *fault {
	f := &fault{CodeBadCIDR, "is not a CIDR", "write a CIDR such as 10.0.0.0/8 or fd00::/8"}
	compact := strings.Join(strings.Fields(strings.ReplaceAll(address+"/"+mask, `\`, "/")), "")
	if p, ok := meantCIDR(strings.TrimSuffix(compact, "/")); ok {
		f.remedy = "write " + p.String()
	}
	octets := strings.Split(address, ".")
	if len(octets) > 4 {
		return f
	}
	zero, short := false, len(octets) < 4
	for _, octet := range octets {
		n, err := strconv.Atoi(octet)
		if err != nil || strings.IndexByte("+-", octet[0]) >= 0 {
			return f
		}
		if n > 255 {
			f.why, f.remedy = "has an octet above 255", "write octets of 0 to 255"
			return f
		}
		zero = zero || len(octet) > 1 && octet[0] == '0'
	}
	switch {
	case zero:
		f.why = "has an octet with a leading zero, which some programs read as octal"
	case short:
		f.why = "has fewer than four octets"
	}
	return f
}

// meantCIDR reads a CIDR with every mistake mended that leaves no doubt: host bits,
// missing octets, leading zeros, a netmask for a length.
func meantCIDR(s string) (netip.Prefix, bool) {
	address, mask, ok := strings.Cut(s, "/")
	if !ok {
		return netip.Prefix{}, false
	}
	if !strings.Contains(address, ":") {
		octets := strings.Split(address, ".")
		for i, octet := range octets {
			if octets[i] = strings.TrimLeft(octet, "0"); octets[i] == "" && octet != "" {
				octets[i] = "0"
			}
		}
		for len(octets) < 4 {
			octets = append(octets, "0")
		}
		address = strings.Join(octets, ".")
	}
	addr, err := netip.ParseAddr(address)
	if err != nil || addr.Zone() != "" {
		return netip.Prefix{}, false
	}
	length, err := strconv.Atoi(mask)
	if err != nil {
		if length, ok = maskLength(mask); !ok || !addr.Is4() {
			return netip.Prefix{}, false
		}
	}
	if addr.Is4In6() {
		addr, length = addr.Unmap(), length-96
	}
	prefix, err := addr.Prefix(length)
	return prefix, err == nil
}

// maskLength reads 255.0.0.0, and 0.255.255.255 as routers write it.
func maskLength(s string) (int, bool) {
	addr, err := netip.ParseAddr(s)
	if err != nil || !addr.Is4() {
		return 0, false
	}
	b := addr.As4()
	mask := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	if mask>>31 == 0 {
		mask = ^mask
	}
	ones := bits.LeadingZeros32(^mask)
	return ones, ones+bits.TrailingZeros32(mask) == 32
}

// classfulCIDR is the network that an address with zeros at its end may stand for.
func classfulCIDR(addr netip.Addr) (netip.Prefix, bool) {
	if !addr.Is4() {
		return netip.Prefix{}, false
	}
	b := addr.As4()
	length := 32
	for i := 3; i >= 0 && b[i] == 0; i-- {
		length -= 8
	}
	return netip.PrefixFrom(addr, length), length < 32
}

// splitCIDRs returns the CIDRs of a text that holds nothing else, or nil.
func splitCIDRs(s string) []string {
	var cidrs []string
	for field := range strings.FieldsFuncSeq(s, isFiller) {
		if field == "-" {
			continue // a list whose line breaks are lost
		}
		p, ok := meantCIDR(strings.TrimPrefix(field, "-"))
		if !ok {
			return nil
		}
		cidrs = append(cidrs, p.String())
	}
	return cidrs
}

// isFiller tells the characters that get between and around CIDRs: blanks, also the
// invisible ones that come with a copy from a web page, and the marks of a list.
func isFiller(r rune) bool {
	return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) || strings.ContainsRune(`,;"'[]`, r)
}

// maxCover is how many CIDRs a remedy lists.
const maxCover = 8

func enumerate(cidrs []string) string {
	if len(cidrs) > maxCover {
		return strings.Join(cidrs[:maxCover], ", ") + ", …"
	}
	return strings.Join(cidrs, ", ")
}

// rangeCIDRs returns the CIDRs that cover a range of addresses exactly, if they are
// few.
func rangeCIDRs(first, last string) []string {
	from, err1 := netip.ParseAddr(first)
	to, err2 := netip.ParseAddr(last)
	if err1 != nil || err2 != nil || from.BitLen() != to.BitLen() || to.Less(from) || from.Zone()+to.Zone() != "" {
		return nil
	}
	var cover []string
	for from.IsValid() && !to.Less(from) {
		if len(cover) == maxCover {
			return nil
		}
		length := from.BitLen() // the widest range that starts here and ends in time
		for length > 0 {
			wider, err := from.Prefix(length - 1)
			if err != nil || wider.Addr() != from || to.Less(lastAddr(wider)) {
				break
			}
			length--
		}
		p := netip.PrefixFrom(from, length)
		cover = append(cover, p.String())
		from = lastAddr(p).Next()
	}
	return cover
}

// lastAddr is the last address of a range.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < p.Addr().BitLen(); i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	addr, _ := netip.AddrFromSlice(b) // b has the length of an address
	return addr
}
