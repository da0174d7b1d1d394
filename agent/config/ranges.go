package config

import (
	"net/netip"
	"slices"
)

// LinkLocal is what an agent spares unless the text says otherwise, beside the
// list: RFC 3927 and RFC 4291 section 2.5.6.
//
//nolint:gochecknoglobals // constants in all but the language
var (
	LinkLocalIPv4 = netip.MustParsePrefix("169.254.0.0/16")
	LinkLocalIPv6 = netip.MustParsePrefix("fe80::/10")
)

// privateRanges (RFC 1918) is the upstream agent's list when the text has none.
//
//nolint:gochecknoglobals // a constant in all but the language
var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
}

// reservedRanges is the upstream agent's list with --nomasq-all-reserved-ranges,
// in its order: RFC 1918, 6598, 6890, 5737, 7526, 2544 and 1112.
//
//nolint:gochecknoglobals // a constant in all but the language
var reservedRanges = append(slices.Clip(privateRanges),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("192.88.99.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
)
