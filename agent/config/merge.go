package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// MaxFiles bounds how many files of a directory are merged.
const MaxFiles = 64

// File is one of several files that are merged.
type File struct {
	Name string // without its directory
	Text []byte
}

// Part is a file that has been read: what ParseFile gives.
type Part struct {
	Name   string
	Config Config
}

// ParseFile reads one of several files as an agent with these flags does that has no
// other. The problems name the file. Without a fatal one the Part can be merged.
func ParseFile(file File, options Options) (Part, []Problem) {
	c, problems := Parse(file.Text)
	if !slices.ContainsFunc(problems, func(p Problem) bool { return p.Severity == Fatal }) {
		_, more := c.For(options)
		for _, p := range more {
			if p.Severity == Fatal { // what has no effect is told of the merged files
				problems = append(problems, p)
			}
		}
	}
	for i := range problems {
		problems[i].File = file.Name
	}
	return Part{file.Name, c}, problems
}

// Merge makes one configuration of several files, in the order given:
//
//   - The lists are the unions of those in the files, in the order of the files; what
//     stands twice counts where it stands first. Without a list in any file there is the
//     default one.
//   - A range that one file spares and another excepts is spared.
//   - masqLinkLocal and masqLinkLocalIPv6 hold when one file turns them on.
//   - The shortest resyncInterval counts.
//   - Each file keeps to its own cidrLimit, and the limit of all is the sum.
//   - Overrides come in the order of the files; what one sets replaces the merged key.
//
// Where files contradict each other, a suspicious Problem names both. What takes the
// whole beyond MaxCIDRs or MaxOverrides refuses the file that it is in, with a fatal one:
// the others stay. Merge of nothing is Default.
func Merge(parts []Part, options Options) (Config, []Problem) {
	var m merger
	left := slices.Clone(parts)
	for {
		m = merger{config: Default(), refused: m.refused}
		bad := m.merge(left)
		if bad < 0 {
			break
		}
		left = slices.Delete(left, bad, bad+1)
	}
	effective, problems := m.config.For(options)
	var r report
	for _, p := range slices.Concat(m.refused, m.problems, problems) {
		r.add(p)
	}
	return effective, r.list()
}

// merger merges files once.
type merger struct {
	report

	config  Config
	refused []Problem // of files that are left out
}

// merge merges all parts, or returns the first one that has to be left out.
func (m *merger) merge(parts []Part) (bad int) {
	c := &m.config
	c.at = &positions{}
	if len(parts) > 0 {
		c.CIDRLimit = 0
	}
	for i, part := range parts {
		c.CIDRLimit += part.Config.CIDRLimit
		for k, key := range keys {
			if at := part.Config.Key(key); at.Line > 0 && c.at.files[k] == "" {
				c.at.files[k], c.at.keys[k] = part.Name, at.Position
			}
		}
		if i >= MaxFiles {
			m.refuse(Problem{
				Code: CodeTooManyFiles, File: part.Name,
				Message: fmt.Sprintf("there are more than %d files, and this one comes behind them", MaxFiles),
				Remedy:  "write fewer files",
			})
			return i
		}
	}
	if bad = m.list(parts, spared); bad >= 0 {
		return bad
	}
	if bad = m.list(parts, excepted); bad >= 0 {
		return bad
	}
	for _, key := range keys[:upstreamKeys] {
		if slices.ContainsFunc(parts, func(part Part) bool { return !slices.Contains(part.Config.Defaulted, key) }) {
			c.Defaulted = slices.DeleteFunc(c.Defaulted, func(name string) bool { return name == key })
		}
	}
	m.switches(parts, KeyMasqLinkLocal, &c.MasqueradeLinkLocal, func(c Config) bool { return c.MasqueradeLinkLocal })
	m.switches(parts, KeyMasqLinkLocalIPv6, &c.MasqueradeLinkLocalIPv6, func(c Config) bool { return c.MasqueradeLinkLocalIPv6 })
	m.resync(parts)
	return m.overrides(parts)
}

func (m *merger) refuse(p Problem) { m.refused = append(m.refused, p) }

func (m *merger) disagree(at Place, text, message, remedy string) {
	m.add(Problem{Code: CodeFilesDisagree, Severity: Suspicious, Text: text, Message: message, Remedy: remedy}.at(at))
}

// list unites one of the lists.
func (m *merger) list(parts []Part, l list) (bad int) {
	c := &m.config
	var union []netip.Prefix
	first := map[netip.Prefix]int{}
	if l == excepted {
		for i, prefix := range c.NonMasquerade {
			first[prefix] = -1 - i // it is spared
		}
	}
	absent := true
	for n, part := range parts {
		if l == spared && part.Config.ListAbsent() {
			continue
		}
		absent = false
		for i, prefix := range part.Config.CIDRs(l.key()) {
			earlier, again := first[prefix]
			if again && earlier < 0 {
				other := c.Element(KeyNonMasqueradeCIDRs, -1-earlier)
				m.disagree(m.place(part, l, i), prefix.String(),
					fmt.Sprintf("%s is spared by %s in line %d, which wins", quote(prefix.String()), other, other.Line),
					"keep it in one of the two files")
			}
			if again {
				continue
			}
			if len(union) == MaxCIDRs {
				m.refuse(Problem{
					Code: CodeTooManyCIDRs, Message: fmt.Sprintf("with this file there are more than %d CIDRs in all files", MaxCIDRs),
					Remedy: "join neighbouring ranges into wider ones",
				}.at(m.place(part, l, i)))
				return n
			}
			first[prefix] = len(union)
			union = append(union, prefix)
			c.at.elements[l] = append(c.at.elements[l], part.Config.Element(l.key(), i).Position)
			c.at.origins[l] = append(c.at.origins[l], origin{part.Name, i})
		}
	}
	if l == excepted {
		c.Masquerade = union
	} else if !absent {
		c.NonMasquerade = union
	}
	return -1
}

// place is where an element of a file stands.
func (m *merger) place(part Part, l list, i int) Place {
	place := part.Config.Element(l.key(), i)
	place.File = part.Name
	return place
}

// switches turns a key on when one of the files does.
func (m *merger) switches(parts []Part, key string, on *bool, of func(Config) bool) {
	winner := slices.IndexFunc(parts, func(part Part) bool { return of(part.Config) })
	if winner < 0 {
		return
	}
	*on = true
	for _, part := range parts {
		if at := part.Config.Key(key); at.Line > 0 && !of(part.Config) {
			at.File = part.Name
			m.disagree(at, key, fmt.Sprintf("%s is false here, but true in %s, which wins", key, parts[winner].Name), "write the same in both files")
		}
	}
}

// resync takes the shortest interval that a file asks for.
func (m *merger) resync(parts []Part) {
	winner := -1
	for i, part := range parts {
		if part.Config.Key(KeyResyncInterval).Line > 0 && (winner < 0 || part.Config.Resync < parts[winner].Config.Resync) {
			winner = i
		}
	}
	if winner < 0 {
		return
	}
	m.config.Resync = parts[winner].Config.Resync
	for _, part := range parts {
		if at := part.Config.Key(KeyResyncInterval); at.Line > 0 && part.Config.Resync != m.config.Resync {
			at.File = part.Name
			m.disagree(at, KeyResyncInterval, fmt.Sprintf("%s is %s here, but %s in %s, which wins, since it is shorter", KeyResyncInterval,
				formatDuration(part.Config.Resync), formatDuration(m.config.Resync), parts[winner].Name), "write the same in both files")
		}
	}
}

// overrides puts those of all files behind each other.
func (m *merger) overrides(parts []Part) (bad int) {
	effective := 0
	for n, part := range parts {
		for i, o := range part.Config.Overrides {
			place := part.Config.Place(i)
			place.File = part.Name
			if len(m.config.Overrides) == MaxOverrides {
				m.refuse(Problem{
					Code: CodeTooManyOverrides, Message: fmt.Sprintf("with this file there are more than %d overrides in all files", MaxOverrides),
					Remedy: "join those that say the same by a label of their own",
				}.at(place))
				return n
			}
			o = m.override(part.Name, o)
			if effective += len(o.Config.NonMasquerade) + len(o.Config.Masquerade); effective > maxEffective {
				m.refuse(Problem{
					Code: CodeTooManyCIDRs, Message: "with this file the overrides of all files have more than " + strconv.Itoa(maxEffective) + " CIDRs, each with those that it takes over",
					Remedy: "join neighbouring ranges into wider ones, or make fewer overrides",
				}.at(place))
				return n
			}
			if earlier := slices.IndexFunc(m.config.Overrides, o.within); earlier >= 0 && m.config.Overrides[earlier].file != part.Name {
				m.disagree(place, "", fmt.Sprintf("no node gets as far as here: %s matches every node that this one does", m.config.Place(earlier)),
					"put it before that one, or remove it")
			}
			m.config.Overrides = append(m.config.Overrides, o)
		}
	}
	return -1
}

// override is an override of one file on top of all of them.
func (m *merger) override(file string, o Override) Override {
	own := o.Config
	c := m.config
	c.Overrides = nil
	c.at = new(positions)
	*c.at = *m.config.at
	for k, key := range keys {
		if !slices.Contains(o.Sets, key) {
			continue
		}
		at := own.Key(key)
		c.at.files[k], c.at.keys[k], c.at.scopes[k] = file, at.Position, own.at.scopes[k]
		c.Defaulted = slices.DeleteFunc(slices.Clone(c.Defaulted), func(name string) bool { return name == key })
	}
	for l := range listCount {
		if !slices.Contains(o.Sets, l.key()) {
			continue
		}
		c.at.elements[l], c.at.origins[l] = own.at.elements[l], nil
		for i := range own.CIDRs(l.key()) {
			c.at.origins[l] = append(c.at.origins[l], origin{file, i})
		}
	}
	if slices.Contains(o.Sets, KeyNonMasqueradeCIDRs) {
		c.NonMasquerade = own.NonMasquerade
	}
	if slices.Contains(o.Sets, KeyMasqueradeCIDRs) {
		c.Masquerade = own.Masquerade
	}
	if slices.Contains(o.Sets, KeyMasqLinkLocal) {
		c.MasqueradeLinkLocal = own.MasqueradeLinkLocal
	}
	if slices.Contains(o.Sets, KeyMasqLinkLocalIPv6) {
		c.MasqueradeLinkLocalIPv6 = own.MasqueradeLinkLocalIPv6
	}
	c.Masquerade, c.at = m.sparedWins(o, c)
	o.Config, o.file = c, file
	return o
}

// sparedWins drops the exceptions of an override that are spared on its nodes, as they
// are between files.
func (m *merger) sparedWins(o Override, c Config) ([]netip.Prefix, *positions) {
	at := *c.at
	if len(c.Masquerade) == 0 || !slices.Contains(o.Sets, KeyNonMasqueradeCIDRs) && !slices.Contains(o.Sets, KeyMasqueradeCIDRs) {
		return c.Masquerade, &at
	}
	listed := make(map[netip.Prefix]int, len(c.NonMasquerade))
	for i, prefix := range c.NonMasquerade {
		listed[prefix] = i
	}
	var kept []netip.Prefix
	at.elements[excepted], at.origins[excepted] = nil, nil
	for i, prefix := range c.Masquerade {
		place := c.Element(KeyMasqueradeCIDRs, i)
		if n, both := listed[prefix]; both {
			other := c.Element(KeyNonMasqueradeCIDRs, n)
			m.disagree(place, prefix.String(), fmt.Sprintf("with the override of %s: %s is spared by %s in line %d, which wins", o.Selector(),
				quote(prefix.String()), other, other.Line), "keep it in one of the two lists")
			continue
		}
		kept = append(kept, prefix)
		at.elements[excepted] = append(at.elements[excepted], c.at.elements[excepted][i])
		at.origins[excepted] = append(at.origins[excepted], c.at.origins[excepted][i])
	}
	return kept, &at
}
