package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// minResync is the least resyncInterval: the upstream agent spins below it.
const minResync = time.Second

// Parse reads the text of the configuration, YAML or JSON, with the meaning that
// the upstream agent's YAML 1.1 loader gives it, and reports every problem at
// once, ordered by position. With a fatal Problem the Config is the zero one.
// Absent keys hold defaults; an absent text is Default, not Parse.
func Parse(text []byte) (Config, []Problem) { return Agent.Parse(text) }

// parser reads one text.
type parser struct {
	source
	report
	consumer Consumer
	json     bool // the text is JSON
	config   Config
	noLimit  bool // what cidrLimit is cannot be told
}

// document is the text as a tree: what encoding/json makes of it, with positions.
type document struct {
	root   kind
	at     Position // of the root, if it is not a mapping
	fields []field  // in the order in which the upstream agent decodes them: the last one wins
}

// field is a key of the document with its value.
type field struct {
	name  string
	at    Position
	value value
}

func (p *parser) parse(size int) Config {
	if size > MaxBytes {
		p.fatal(CodeTooLarge, "", Position{}, "", fmt.Sprintf("the text has %d bytes, more than %d", size, MaxBytes), "")
		return Config{}
	}
	doc, ok := p.readPlain()
	if !ok {
		// Exactly so the upstream agent tells JSON: a BOM makes it YAML.
		p.json = strings.HasPrefix(strings.TrimLeftFunc(p.text, unicode.IsSpace), "{")
		if p.json {
			doc, ok = p.readJSON()
		} else {
			doc, ok = p.readYAML()
		}
	}
	p.checkLineEnds()
	if !ok {
		return Config{}
	}
	return p.interpret(doc)
}

func (p *parser) fatal(code Code, path string, at Position, text, message, remedy string) {
	p.add(Problem{code, Fatal, "", path, at.Line, at.Column, text, message, remedy})
}

func (p *parser) suspect(code Code, path string, at Position, text, message, remedy string) {
	p.add(Problem{code, Suspicious, "", path, at.Line, at.Column, text, message, remedy})
}

// checkLineEnds looks for blanks at line ends. They mean nothing to an agent, but a
// multi-line string that has them can only be shown quoted.
func (p *parser) checkLineEnds() {
	var first Position
	var blanks string
	var others []string
	count := 0
	number := 0
	for line := range strings.SplitSeq(p.text, "\n") {
		number++
		line = strings.TrimSuffix(line, "\r")
		bare := strings.TrimRight(line, " \t")
		if len(bare) == len(line) {
			continue
		}
		count++
		switch {
		case count == 1:
			first, blanks = Position{number, len(bare) + 1}, clip(line[len(bare):])
		case count <= 10:
			others = append(others, strconv.Itoa(number))
		}
	}
	if count == 0 {
		return
	}
	message := "the line ends in " + quote(blanks)
	switch {
	case count > 10:
		message += fmt.Sprintf(", as do %d more", count-1)
	case count > 1:
		message += ", as do lines " + strings.Join(others, ", ")
	}
	p.suspect(CodeTrailingSpace, "", first, blanks, message+"; kubectl edit then shows the whole text as one quoted line",
		"remove the blanks at line ends")
}

// interpret gives the document its meaning: each field in turn is decoded onto the
// defaults, as encoding/json does it.
func (p *parser) interpret(doc document) Config {
	switch doc.root {
	case mappingKind:
	case nullKind:
		if p.consumer == Cilium && p.text != "" {
			return p.consumer.listless() // defaults are for no text at all
		}
		p.suspect(CodeEmpty, "", Position{}, "", "the text is empty, so every default applies",
			"write the keys that you want, or {} if you want the defaults")
		return Default()
	case boolKind, numberKind, stringKind, listKind, brokenKind:
		p.notAMapping(doc)
		return Config{}
	}

	p.config = p.consumer.listless()
	p.config.at = &positions{}
	var lists [listCount]*value
	var overrides *value
	var seen [len(keys)]string // the names by which the keys were met
	manifest := p.checkManifest(doc)
	for i := range doc.fields {
		f := &doc.fields[i]
		key, known := knownKey(f.name)
		if !known {
			if !manifest[f.name] && !p.full(Suspicious) {
				p.suspect(CodeUnknownKey, pathOf(f.name), f.at, p.scalar(f.at, f.name),
					quote(f.name)+" is not a key of the configuration, so agents ignore it", suggestKey(f.name))
			}
			continue
		}
		if f.name != keys[key] {
			p.suspect(CodeKeyCase, keys[key], f.at, p.scalar(f.at, f.name),
				quote(f.name)+" works only because agents ignore case", "write "+keys[key])
		}
		if seen[key] != "" {
			p.duplicate(keys[key], seen[key], p.config.at.keys[key], f.at)
		}
		seen[key] = f.name
		p.config.at.keys[key] = f.at
		if p.consumer.ignores(keys[key]) {
			p.ignoredKey(keys[key], f)
			continue
		}
		switch keys[key] {
		case KeyNonMasqueradeCIDRs:
			if earlier := lists[spared]; earlier != nil && p.consumer == Cilium {
				p.readList(&p.config, spared, earlier.list) // it reads each range as it comes, also of a list that is overridden
			}
			if p.isList(keys[key], &f.value) {
				lists[spared] = &f.value
			}
		case KeyMasqueradeCIDRs:
			if p.isList(keys[key], &f.value) {
				lists[excepted] = &f.value
			}
		case KeyNodeOverrides:
			overrides = &f.value
		case KeyMasqLinkLocal:
			p.readBool(keys[key], f, &p.config.MasqueradeLinkLocal)
		case KeyMasqLinkLocalIPv6:
			p.readBool(keys[key], f, &p.config.MasqueradeLinkLocalIPv6)
		case KeyResyncInterval:
			p.readResync(f)
		case KeyCIDRLimit:
			p.readLimit(f)
		}
	}
	p.config.Defaulted = slices.DeleteFunc(p.config.Defaulted, func(name string) bool {
		return seen[slices.Index(keys[:], name)] != ""
	})
	if seen[0] != "" {
		p.config.NonMasquerade = nil // until readList
	}
	if lists[spared] != nil {
		p.config.NonMasquerade = p.readList(&p.config, spared, lists[spared].list)
	}
	if lists[excepted] != nil && len(lists[excepted].list) > 0 {
		p.config.Masquerade = p.readList(&p.config, excepted, lists[excepted].list)
	}
	p.checkLimit()
	p.config.contradictions(0, func(problem Problem) { p.add(p.shown(problem)) })
	if overrides != nil {
		p.readOverrides(overrides)
	}
	return p.config
}

// knownKey returns which of the keys a name is, the way encoding/json compares.
func knownKey(name string) (key int, known bool) {
	if key = slices.Index(keys[:], name); key >= 0 {
		return key, true
	}
	key = slices.IndexFunc(keys[:], func(k string) bool { return strings.EqualFold(k, name) })
	return key, key >= 0
}

// pathOf makes a path of a key that anybody may have written.
func pathOf(name string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' || r == '"' }
	if name == "" || len(name) > maxText || strings.ContainsFunc(name, odd) {
		return quote(name)
	}
	return name
}

// canonicalPath is the path of a key, whatever its case.
func canonicalPath(name string) string {
	if key, known := knownKey(name); known {
		return keys[key]
	}
	return pathOf(name)
}

func (p *parser) duplicate(path, name string, loser, winner Position) {
	if p.full(Suspicious) {
		return
	}
	p.suspect(CodeDuplicateKey, path, loser, p.scalar(loser, name),
		fmt.Sprintf("%s is set again in line %d, which wins", quote(name), winner.Line), "keep one of the two")
}

func (p *parser) notAMapping(doc document) {
	text := p.scalar(doc.at, "")
	switch doc.root {
	case listKind:
		p.fatal(CodeNotAMapping, "", doc.at, text, quote(text)+" begins a list, but the text has to be keys with values",
			"write "+KeyNonMasqueradeCIDRs+": above the list")
	case boolKind, numberKind, stringKind:
		p.fatal(CodeNotAMapping, "", doc.at, text, quote(text)+" is no key with a value", lineRemedy(text))
	case nullKind, mappingKind, brokenKind:
	}
}

// checkManifest looks for a ConfigMap, or its data, where the configuration alone
// should be; it returns the keys that are thereby explained.
func (p *parser) checkManifest(doc document) map[string]bool {
	var explained map[string]bool
	has := func(name string) *field {
		i := slices.IndexFunc(doc.fields, func(f field) bool { return f.name == name })
		if i < 0 {
			return nil
		}
		return &doc.fields[i]
	}
	remedy := "put what stands under config: alone here, without its indentation"
	if kind := has("kind"); kind != nil && has("apiVersion") != nil {
		explained = map[string]bool{
			"apiVersion": true, "kind": true, "metadata": true, "data": true, "binaryData": true, "immutable": true,
		}
		p.suspect(CodePastedManifest, "kind", kind.at, p.scalar(kind.at, kind.name),
			"a whole "+manifestKind(kind.value)+" stands inside the value, so agents ignore it", remedy)
	} else if data := has("data"); data != nil && slices.Contains(data.value.keys, "config") {
		explained = map[string]bool{"data": true}
		p.suspect(CodePastedManifest, "data", data.at, p.scalar(data.at, data.name),
			"the data of a ConfigMap stands inside the value, so agents ignore it", remedy)
	}
	if config := has("config"); config != nil && (config.value.kind == mappingKind || config.value.kind == stringKind) {
		if explained == nil {
			explained = map[string]bool{}
		}
		explained["config"] = true
		p.suspect(CodePastedManifest, "config", config.at, p.scalar(config.at, config.name),
			"the keys stand under config:, so agents ignore them", remedy)
	}
	return explained
}

func manifestKind(v value) string {
	if v.kind == stringKind && v.text == "ConfigMap" {
		return v.text
	}
	return "manifest"
}
