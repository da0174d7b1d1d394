package config

import (
	"bytes"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Format returns the canonical YAML text of c: Parse accepts it without a Problem
// and gives a Config that is Equal. Keys in Defaulted are left out; a Config of
// nothing else is "{}", since an empty text would be a Problem. What For put in
// place of an absent list is therefore not in the text.
func (c Config) Format() []byte {
	var b bytes.Buffer
	for _, key := range keys {
		absent := slices.Contains(c.Defaulted, key) || key == KeyMasqueradeCIDRs && len(c.Masquerade) == 0 ||
			key == KeyNodeOverrides && len(c.Overrides) == 0
		if !absent {
			c.writeKey(&b, "", key)
		}
	}
	if b.Len() == 0 {
		return []byte("{}\n")
	}
	return b.Bytes()
}

// writeKey writes a key with its value; indent is that of its line.
func (c Config) writeKey(b *bytes.Buffer, indent, key string) {
	b.WriteString(indent + key + ":")
	switch key {
	case KeyNonMasqueradeCIDRs, KeyMasqueradeCIDRs:
		writeList(b, indent, c.CIDRs(key))
	case KeyMasqLinkLocal:
		b.WriteString(" " + strconv.FormatBool(c.MasqueradeLinkLocal) + "\n")
	case KeyMasqLinkLocalIPv6:
		b.WriteString(" " + strconv.FormatBool(c.MasqueradeLinkLocalIPv6) + "\n")
	case KeyResyncInterval:
		b.WriteString(" " + formatDuration(c.Resync) + "\n")
	case KeyCIDRLimit:
		b.WriteString(" " + strconv.Itoa(c.CIDRLimit) + "\n")
	case KeyNodeOverrides:
		b.WriteString("\n")
		for _, o := range c.Overrides {
			b.WriteString("  - " + keyMatchLabels + ":\n")
			for _, label := range o.MatchLabels { // quoted, since it may look like a number
				b.WriteString("      " + strconv.Quote(label.Key) + ": " + strconv.Quote(label.Value) + "\n")
			}
			for _, key := range o.Sets {
				o.Config.writeKey(b, "    ", key)
			}
		}
	}
}

func writeList(b *bytes.Buffer, indent string, list []netip.Prefix) {
	if len(list) == 0 {
		b.WriteString(" []\n")
		return
	}
	b.WriteString("\n")
	for _, prefix := range list {
		b.WriteString(indent + "  - " + prefix.String() + "\n")
	}
}

// formatDuration writes 1m for 1m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}
