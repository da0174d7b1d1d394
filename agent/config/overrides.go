package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Bounds of overrides. Each has a configuration of its own, which is checked, and
// judged by the webhook, as a whole.
const (
	MaxOverrides   = 64
	maxMatchLabels = 16
	maxEffective   = 4 * MaxCIDRs // CIDRs and exceptions of the text and of all overrides, each with what it takes over
)

// Override is what holds on nodes with given labels.
type Override struct {
	MatchLabels []Label  // all of which a node must have; sorted, each key once
	Sets        []string // the keys that it has of its own; the others are those of the text
	Config      Config   // what holds on these nodes

	at     Position
	file   string // which of several files
	number int    // which of the overrides in its file
}

// place is where the override stands; i is its index if it is of one text.
func (o Override) place(i int) Place {
	if o.file != "" {
		i = o.number
	}
	return Place{o.file, OverridePath(i), o.at}
}

// Place is where an override stands, by its index.
func (c Config) Place(override int) Place { return c.Overrides[override].place(override) }

// Label is a label of a node.
type Label struct{ Key, Value string }

// Selector is "pool=edge,zone=a".
func (o Override) Selector() string {
	labels := make([]string, len(o.MatchLabels))
	for i, label := range o.MatchLabels {
		labels[i] = label.Key + "=" + label.Value
	}
	return strings.Join(labels, ",")
}

// Labels are MatchLabels as a node has them.
func (o Override) Labels() map[string]string {
	labels := make(map[string]string, len(o.MatchLabels))
	for _, label := range o.MatchLabels {
		labels[label.Key] = label.Value
	}
	return labels
}

func (o Override) equal(other Override) bool {
	return slices.Equal(o.MatchLabels, other.MatchLabels) && slices.Equal(o.Sets, other.Sets) && o.Config.Equal(other.Config)
}

// matches tells whether a node with these labels is one of those that o is for.
func (o Override) matches(labels map[string]string) bool {
	return !slices.ContainsFunc(o.MatchLabels, func(want Label) bool {
		value, ok := labels[want.Key]
		return !ok || value != want.Value
	})
}

// On is what holds on a node with these labels: the first override that matches, or
// the text without any; index tells which override, or is -1.
func (c Config) On(labels map[string]string) (effective Config, index int) {
	for i, o := range c.Overrides {
		if o.matches(labels) {
			return o.Config, i
		}
	}
	c.Overrides = nil
	return c, -1
}

// OverridePath is the path of an override: "nodeOverrides[1]".
func OverridePath(i int) string { return elementPath(KeyNodeOverrides, i) }

// keyMatchLabels and the keys that an override may have of its own.
const keyMatchLabels = "matchLabels"

//nolint:gochecknoglobals // a constant in all but the language
var overrideKeys = [...]string{KeyNonMasqueradeCIDRs, KeyMasqLinkLocal, KeyMasqLinkLocalIPv6, KeyMasqueradeCIDRs}

// readOverrides reads the key nodeOverrides, when all others have been read.
func (p *parser) readOverrides(v *value) {
	switch v.kind {
	case nullKind, brokenKind:
		return
	case boolKind, numberKind, stringKind, mappingKind:
		p.wrongType(KeyNodeOverrides, v, "a list of overrides", "write each override as an element, with a dash before it")
		return
	case listKind:
	}
	if len(v.list) > MaxOverrides {
		e := &v.list[MaxOverrides]
		p.fatal(CodeTooManyOverrides, KeyNodeOverrides, e.at, p.scalar(e.at, e.text),
			fmt.Sprintf("there are more than %d overrides", MaxOverrides), "join those that say the same by a label of their own")
		return
	}
	var overrides []Override
	effective := len(p.config.NonMasquerade) + len(p.config.Masquerade)
	for i := range v.list {
		e := &v.list[i]
		if e.kind != mappingKind {
			p.badOverride(i, e)
			continue
		}
		o := p.readOverride(i, e)
		p.checkOverride(i, o.Config)
		if earlier := slices.IndexFunc(overrides, o.within); earlier >= 0 {
			p.suspect(CodeUnreachable, OverridePath(i), e.at, p.scalar(e.at, ""),
				fmt.Sprintf("no node gets as far as here: %s in line %d matches every node that this one does",
					OverridePath(earlier), overrides[earlier].at.Line),
				"put it before that one, or remove it")
		}
		overrides = append(overrides, o)
		effective += len(o.Config.NonMasquerade) + len(o.Config.Masquerade)
	}
	if effective > maxEffective {
		at := p.config.Key(KeyNodeOverrides)
		p.fatal(CodeTooManyCIDRs, at.Path, at.Position, p.scalar(at.Position, at.Path),
			fmt.Sprintf("the text and its overrides have %d CIDRs, each override with those that it takes over, more than %d", effective, maxEffective),
			"join neighbouring ranges into wider ones, or make fewer overrides")
	}
	p.config.Overrides = overrides
}

// within tells whether every node that o matches is matched by an earlier one.
func (o Override) within(earlier Override) bool {
	return len(earlier.MatchLabels) > 0 && !slices.ContainsFunc(earlier.MatchLabels, func(label Label) bool {
		return !slices.Contains(o.MatchLabels, label)
	})
}

func (p *parser) badOverride(i int, e *value) {
	const want, remedy = "an override", "write matchLabels: and the keys that differ on such nodes"
	if e.kind == nullKind {
		text, at := p.emptyElement(e)
		p.fatal(CodeNullElement, OverridePath(i), at, text, "the override is empty", remedy)
		return
	}
	p.wrongType(OverridePath(i), e, want, remedy)
}

// readOverride reads one override onto the text that has been read.
func (p *parser) readOverride(i int, v *value) Override {
	path := OverridePath(i)
	o := Override{Config: p.config, at: v.at, number: i}
	c := &o.Config
	c.at = new(positions)
	*c.at = *p.config.at
	c.Overrides = nil
	seen := map[string]*field{}
	for n := range v.fields {
		f := &v.fields[n]
		key, known := overrideKey(f.name)
		if !known {
			p.unknownInOverride(path, f)
			continue
		}
		if f.name != key {
			p.suspect(CodeKeyCase, path+"."+key, f.at, p.scalar(f.at, f.name), quote(f.name)+" works only because agents ignore case", "write "+key)
		}
		if before := seen[key]; before != nil {
			p.duplicate(path+"."+key, before.name, before.at, f.at)
		}
		seen[key] = f
	}
	if labels := seen[keyMatchLabels]; labels != nil {
		o.MatchLabels = p.readLabels(path+"."+keyMatchLabels, &labels.value)
	} else {
		p.fatal(CodeNoLabels, path, v.at, p.scalar(v.at, ""), "the override has no "+keyMatchLabels+", so it would be for every node",
			"write "+keyMatchLabels+", or set its keys for all nodes, outside "+KeyNodeOverrides)
	}
	for k, key := range keys {
		f := seen[key]
		if f == nil {
			continue
		}
		o.Sets = append(o.Sets, key)
		c.at.keys[k], c.at.scopes[k] = f.at, path+"."
		c.Defaulted = slices.DeleteFunc(slices.Clone(c.Defaulted), func(name string) bool { return name == key })
		switch key {
		case KeyNonMasqueradeCIDRs:
			c.NonMasquerade = nil
			if p.isList(path+"."+key, &f.value) {
				c.NonMasquerade = p.readList(c, spared, f.value.list)
			}
		case KeyMasqueradeCIDRs:
			c.Masquerade = nil
			if p.isList(path+"."+key, &f.value) && len(f.value.list) > 0 {
				c.Masquerade = p.readList(c, excepted, f.value.list)
			}
		case KeyMasqLinkLocal:
			p.readBool(path+"."+key, f, &c.MasqueradeLinkLocal)
		case KeyMasqLinkLocalIPv6:
			p.readBool(path+"."+key, f, &c.MasqueradeLinkLocalIPv6)
		}
	}
	return o
}

// overrideKey is the key of an override that a name means.
func overrideKey(name string) (key string, known bool) {
	if strings.EqualFold(name, keyMatchLabels) {
		return keyMatchLabels, true
	}
	k := slices.IndexFunc(overrideKeys[:], func(key string) bool { return strings.EqualFold(key, name) })
	if k < 0 {
		return "", false
	}
	return overrideKeys[k], true
}

func (p *parser) unknownInOverride(path string, f *field) {
	if p.full(Suspicious) {
		return
	}
	message, remedy := " is not a key of an override, so agents ignore it", suggest(f.name, append([]string{keyMatchLabels}, overrideKeys[:]...))
	if key, known := knownKey(f.name); known {
		message, remedy = " is no key of an override: it is the same on every node", "write "+keys[key]+" outside "+KeyNodeOverrides
	}
	p.suspect(CodeUnknownKey, path+"."+pathOf(f.name), f.at, p.scalar(f.at, f.name), quote(f.name)+message, remedy)
}

// readLabels reads the labels that an override asks for.
func (p *parser) readLabels(path string, v *value) []Label {
	const example = "write labels, such as pool: edge"
	switch v.kind {
	case mappingKind:
	case nullKind:
		p.fatal(CodeNoLabels, path, v.at, p.scalar(v.at, v.text), "the override asks for no label, so it would be for every node", example)
		return nil
	case boolKind, numberKind, stringKind, listKind, brokenKind:
		p.wrongType(path, v, "a mapping of labels", example)
		return nil
	}
	if len(v.fields) == 0 || len(v.fields) > maxMatchLabels {
		p.fatal(CodeNoLabels, path, v.at, p.scalar(v.at, ""),
			fmt.Sprintf("the override asks for %d labels, not for 1 to %d", len(v.fields), maxMatchLabels), example)
		return nil
	}
	var labels []Label
	for i := range v.fields {
		f := &v.fields[i]
		if why := badLabelKey(f.name); why != "" {
			p.fatal(CodeBadLabel, path, f.at, p.scalar(f.at, f.name), quote(f.name)+" is no key of a label: "+why,
				"write it as in kubectl get nodes --show-labels")
			continue
		}
		label := Label{f.name, f.value.text}
		switch at := path + "." + f.name; {
		case f.value.kind == brokenKind:
			continue
		case f.value.kind == boolKind || f.value.kind == numberKind:
			p.wrongType(at, &f.value, "text", "put it in quotes")
			continue
		case f.value.kind == nullKind:
			p.wrongType(at, &f.value, "text", `write the label's value, or "" if it is empty`)
			continue
		case f.value.kind != stringKind:
			p.wrongType(at, &f.value, "text", "write one value; make an override for each")
			continue
		case badLabelValue(label.Value) != "":
			p.fatal(CodeBadLabel, at, f.value.at, p.scalar(f.value.at, label.Value),
				quote(label.Value)+" is no value of a label: "+badLabelValue(label.Value), "write it as in kubectl get nodes --show-labels")
			continue
		}
		if before := slices.IndexFunc(labels, func(l Label) bool { return l.Key == label.Key }); before >= 0 {
			p.fatal(CodeBadLabel, path, f.at, p.scalar(f.at, f.name), quote(f.name)+" stands twice, but a node has a label once", "keep one of the two")
			continue
		}
		labels = append(labels, label)
	}
	slices.SortFunc(labels, func(a, b Label) int { return cmp.Compare(a.Key, b.Key) })
	return labels
}

const (
	maxLabelName   = 63  // of a label's name and of its value (Kubernetes, labels and selectors)
	maxLabelPrefix = 253 // of what stands before the slash, a DNS name
)

// badLabelKey tells why no node can have a label with this key.
func badLabelKey(key string) string {
	prefix, name, slash := strings.Cut(key, "/")
	if !slash {
		prefix, name = "", key
	}
	switch {
	case slash && (prefix == "" || len(prefix) > maxLabelPrefix || badWord(prefix, ".-") || prefix != strings.ToLower(prefix)):
		return "what stands before the slash is no DNS name"
	case name == "":
		return "its name is empty"
	}
	return badLabelWord(name)
}

// badLabelValue tells why no node can have this value.
func badLabelValue(value string) string {
	if value == "" {
		return ""
	}
	return badLabelWord(value)
}

func badLabelWord(word string) string {
	switch {
	case len(word) > maxLabelName:
		return fmt.Sprintf("it has more than %d characters", maxLabelName)
	case badWord(word, "-_."):
		return "it has to be letters and digits, with - _ . between them"
	}
	return ""
}

// badWord tells whether a word is not made of letters and digits with marks between.
func badWord(word, marks string) bool {
	if word == "" || !isAlphanumeric(word[0]) || !isAlphanumeric(word[len(word)-1]) {
		return true
	}
	for i := range len(word) {
		if !isAlphanumeric(word[i]) && strings.IndexByte(marks, word[i]) < 0 {
			return true
		}
	}
	return false
}

// checkOverride reports what is wrong with what an override and the text say
// together.
func (p *parser) checkOverride(i int, c Config) {
	add := func(problem Problem) {
		if slices.ContainsFunc(p.problems, problem.same) {
			return // so it is without the override
		}
		p.add(problem.within(Place{Path: OverridePath(i)}))
	}
	if !p.noLimit && c.exceeds(len(c.NonMasquerade)) {
		add(p.shown(overLimit(c)))
	}
	c.contradictions(0, func(problem Problem) { add(p.shown(problem)) })
}

// same tells whether two problems are one, of a text and of an override of it.
func (p Problem) same(other Problem) bool {
	return p.Code == other.Code && p.File == other.File && p.Path == other.Path && p.Message == other.Message
}

// within names the override with which alone there is the problem.
func (p Problem) within(override Place) Problem {
	if !strings.HasPrefix(p.Path, override.Path) || p.File != override.File {
		p.Message = "with " + override.String() + ": " + p.Message
	}
	return p
}

// shown is a problem with its text as it stands there.
func (p *parser) shown(problem Problem) Problem {
	if problem.Line > 0 {
		problem.Text = p.scalar(Position{problem.Line, problem.Column}, cmp.Or(problem.Text, lastKey(problem.Path)))
	}
	return problem
}

// overridesFor is For of each override.
func (c Config) overridesFor(options Options, r *report) []Override {
	overrides := slices.Clone(c.Overrides)
	for i := range overrides {
		effective, problems := overrides[i].Config.For(options)
		overrides[i].Config = effective
		for _, problem := range problems {
			if !slices.ContainsFunc(r.problems, problem.same) {
				r.add(problem.within(overrides[i].place(i)))
			}
		}
	}
	return overrides
}
