// Package config is the one parser of the ip-masq-agent configuration: bytes
// become a Config and Problems. The agent, the webhook and kubectl-masq share it,
// so what is admitted is what loads. It is pure: no files, processes or clock.
package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits that are checked before any expensive step.
const (
	MaxBytes = 1 << 20 // etcd's and the API server's own bound on a ConfigMap is 1 MiB
	MaxCIDRs = 16384   // Cilium's ipmasq map holds as many
	MaxDepth = 32      // nesting of the text; a real file has a depth of two
)

// Keys of the file, as the upstream agent spells them.
const (
	KeyNonMasqueradeCIDRs = "nonMasqueradeCIDRs"
	KeyMasqLinkLocal      = "masqLinkLocal"
	KeyMasqLinkLocalIPv6  = "masqLinkLocalIPv6"
	KeyResyncInterval     = "resyncInterval"
	KeyCIDRLimit          = "cidrLimit"
)

// Keys that this project's agent alone knows; the others ignore them.
const (
	KeyMasqueradeCIDRs = "masqueradeCIDRs"
	KeyNodeOverrides   = "nodeOverrides"
)

// keys are the keys above in their order, which is that of Defaulted and Format.
//
//nolint:gochecknoglobals // a constant in all but the language
var keys = [...]string{
	KeyNonMasqueradeCIDRs, KeyMasqLinkLocal, KeyMasqLinkLocalIPv6, KeyResyncInterval, KeyCIDRLimit,
	KeyMasqueradeCIDRs, KeyNodeOverrides,
}

// upstreamKeys is how many of the keys, from the first, the upstream agent has.
const upstreamKeys = 5

// Config is an effective configuration: absent keys hold the upstream agent's
// defaults. Treat it as read-only; copies share their slices.
type Config struct {
	NonMasquerade           []netip.Prefix // in file order, host bits zero; duplicates and overlaps are kept
	Masquerade              []netip.Prefix // exceptions inside NonMasquerade: the longest prefix decides; the same prefix is in one list only
	MasqueradeLinkLocal     bool           // masquerade 169.254.0.0/16 too (RFC 3927)
	MasqueradeLinkLocalIPv6 bool           // masquerade fe80::/10 too (RFC 4291)
	Resync                  time.Duration  // at least one second
	CIDRLimit               int            // NonMasquerade and Masquerade together hold no more than this; link-local does not count

	// Overrides are for some nodes only; see On. They are no part of what holds
	// elsewhere, and no Config in them has any.
	Overrides []Override

	// Defaulted holds the upstream agent's keys that the text does not have, in the
	// order of the constants above. The other keys have no default: absent, they
	// change nothing.
	Defaulted []string

	at *positions // nil without a text
}

// positions tells where the keys and the elements of the lists stand.
type positions struct {
	keys     [len(keys)]Position
	elements [listCount][]Position

	scopes [len(keys)]string // what stands before each key in its path: "nodeOverrides[1]." for what an override sets

	// Of several files: that of each key, and of each element with its index there.
	files   [len(keys)]string
	origins [listCount][]origin
}

// origin is where an element of merged lists comes from.
type origin struct {
	file  string
	index int
}

// list is which of the lists of CIDRs.
type list int

const (
	spared list = iota
	excepted
	listCount
)

func (l list) key() string {
	if l == excepted {
		return KeyMasqueradeCIDRs
	}
	return KeyNonMasqueradeCIDRs
}

// elementPath is the path of an element of the list at path.
func elementPath(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// Place is where a value stands.
type Place struct {
	File string // empty when there is one text only
	Path string // "nonMasqueradeCIDRs[2]"

	Position // zero for a default
}

// String is "FILE: nonMasqueradeCIDRs[2]", or the path alone.
func (p Place) String() string {
	if p.File == "" {
		return p.Path
	}
	return p.File + ": " + p.Path
}

// at puts a problem in a place.
func (p Problem) at(place Place) Problem {
	p.File, p.Path, p.Line, p.Column = place.File, place.Path, place.Line, place.Column
	return p
}

// Position is a place in the text, both counted from 1; columns count bytes. The
// zero Position means: not in the text.
type Position struct {
	Line   int
	Column int
}

// Options are the agent flags that change what a text means.
type Options struct {
	ReservedRanges bool // --nomasq-all-reserved-ranges: an absent list spares every reserved range
	IPv6           bool // --enable-ipv6: without it, an IPv6 CIDR refuses the whole text
	Foreign        bool // the text is for agents other than ours, which ignore the keys that only ours has
}

// Default is the configuration that is in force without any text.
func Default() Config {
	return Config{
		NonMasquerade: slices.Clone(privateRanges),
		Resync:        time.Minute,
		CIDRLimit:     64,
		Defaulted:     slices.Clone(keys[:upstreamKeys]),
	}
}

// ListAbsent tells that the text does not have the list, so that NonMasquerade
// holds defaults. An explicit null or empty list is not absent: it masquerades
// everything.
func (c Config) ListAbsent() bool { return slices.Contains(c.Defaulted, KeyNonMasqueradeCIDRs) }

// At returns where in the text the value with this path stands: a key, or
// "nonMasqueradeCIDRs[2]", or one in an override, "nodeOverrides[1].masqLinkLocal". The
// Position is zero when the text does not have it.
func (c Config) At(path string) Position { return c.Find(path).Position }

// Find is the Place whose String is given; of merged files also that of a key by its path
// alone, in the first file that has it. Without such a place it has no more than the
// path.
func (c Config) Find(text string) Place {
	if file, path, ok := strings.Cut(text, ": "); ok {
		place := c.find(path, file)
		place.File = file
		return place
	}
	return c.find(text, "")
}

func (c Config) find(path, file string) Place {
	for i, o := range c.Overrides {
		if place := o.place(i); place.Path == path && place.File == file {
			return place
		}
		if place := o.Config.find(path, file); place.Line > 0 {
			return place
		}
	}
	if c.at == nil {
		return Place{Path: path}
	}
	for k, key := range keys {
		rest, ok := strings.CutPrefix(path, c.at.scopes[k]+key)
		if !ok {
			continue
		}
		if rest == "" && (file == "" || file == c.at.files[k]) {
			return c.Key(key)
		}
		i, err := strconv.Atoi(strings.Trim(rest, "[]"))
		if err != nil || elementPath("", i) != rest {
			continue
		}
		if file == "" {
			return c.Element(key, i)
		}
		for l := range listCount {
			if n := slices.Index(c.at.origins[l], origin{file, i}); n >= 0 && l.key() == key {
				return c.Element(key, n)
			}
		}
	}
	return Place{Path: path}
}

// Key is where a key stands, or would stand.
func (c Config) Key(key string) Place {
	k := slices.Index(keys[:], key)
	if k < 0 || c.at == nil {
		return Place{Path: key}
	}
	return Place{c.at.files[k], c.at.scopes[k] + key, c.at.keys[k]}
}

// Element is where an element of the list stands that a key holds.
func (c Config) Element(key string, i int) Place {
	place := c.Key(key)
	if c.at != nil {
		for l := range listCount {
			if l.key() != key || i < 0 || i >= len(c.at.elements[l]) {
				continue
			}
			if origins := c.at.origins[l]; origins != nil {
				place.File = origins[i].file
				place.Path, place.Position = elementPath(place.Path, origins[i].index), c.at.elements[l][i]
				return place
			}
			place.Path, place.Position = elementPath(place.Path, i), c.at.elements[l][i]
			return place
		}
	}
	place.Path, place.Position = elementPath(place.Path, i), Position{}
	return place
}

// CIDRs is the list that a key holds; nil for a key that holds none.
func (c Config) CIDRs(key string) []netip.Prefix {
	switch key {
	case KeyNonMasqueradeCIDRs:
		return c.NonMasquerade
	case KeyMasqueradeCIDRs:
		return c.Masquerade
	}
	return nil
}

// Equal tells whether two configurations mean the same; positions do not count.
func (c Config) Equal(other Config) bool {
	return slices.Equal(c.NonMasquerade, other.NonMasquerade) && slices.Equal(c.Masquerade, other.Masquerade) &&
		c.MasqueradeLinkLocal == other.MasqueradeLinkLocal &&
		c.MasqueradeLinkLocalIPv6 == other.MasqueradeLinkLocalIPv6 &&
		c.Resync == other.Resync && c.CIDRLimit == other.CIDRLimit &&
		slices.Equal(c.Defaulted, other.Defaulted) && slices.EqualFunc(c.Overrides, other.Overrides, Override.equal)
}

// Severity tells what a Problem does to the agent.
type Severity int

// The severities.
const (
	Fatal      Severity = iota // no agent of ours loads the text
	Suspicious                 // it loads, and would surprise its author
)

func (s Severity) String() string {
	if s == Fatal {
		return "fatal"
	}
	return "suspicious"
}

// Problem is one thing that the author of the text should mend.
type Problem struct {
	Code     Code
	Severity Severity
	File     string // which of several files; empty when there is one text only
	Path     string // "nonMasqueradeCIDRs[2]"; empty for the text as a whole
	Line     int    // counted from 1; 0 when the text has no such place
	Column   int    // in bytes, counted from 1
	Text     string // the offending text as it stands there, at most 64 runes
	Message  string // what is wrong and why, in one line, naming Text
	Remedy   string // what to do, in one line, ready to paste where that exists; may be empty
}

// String is one line: "line 3, nonMasqueradeCIDRs[1]: MESSAGE; REMEDY", with the file
// before it if there are several.
func (p Problem) String() string {
	s := p.Message
	if p.Remedy != "" {
		s += "; " + p.Remedy
	}
	if p.Path != "" {
		s = p.Path + ": " + s
	}
	if p.Line > 0 {
		s = fmt.Sprintf("line %d, %s", p.Line, s)
	}
	if p.File != "" {
		s = p.File + ": " + s
	}
	return s
}
