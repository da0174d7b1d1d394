package config

import (
	"bytes"
	"net/netip"
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
	absent := make(map[string]bool, len(keys))
	for _, key := range c.Defaulted {
		absent[key] = true
	}
	absent[KeyMasqueradeCIDRs] = len(c.Masquerade) == 0
	for _, key := range keys {
		if absent[key] {
			continue
		}
		b.WriteString(key)
		switch key {
		case KeyNonMasqueradeCIDRs:
			writeList(&b, c.NonMasquerade)
		case KeyMasqueradeCIDRs:
			writeList(&b, c.Masquerade)
		case KeyMasqLinkLocal:
			b.WriteString(": " + strconv.FormatBool(c.MasqueradeLinkLocal) + "\n")
		case KeyMasqLinkLocalIPv6:
			b.WriteString(": " + strconv.FormatBool(c.MasqueradeLinkLocalIPv6) + "\n")
		case KeyResyncInterval:
			b.WriteString(": " + formatDuration(c.Resync) + "\n")
		case KeyCIDRLimit:
			b.WriteString(": " + strconv.Itoa(c.CIDRLimit) + "\n")
		}
	}
	if b.Len() == 0 {
		return []byte("{}\n")
	}
	return b.Bytes()
}

func writeList(b *bytes.Buffer, list []netip.Prefix) {
	if len(list) == 0 {
		b.WriteString(": []\n")
		return
	}
	b.WriteString(":\n")
	for _, prefix := range list {
		b.WriteString("  - " + prefix.String() + "\n")
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
