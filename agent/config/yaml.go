package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const byteOrderMark = "\ufeff"

// readYAML reads everything else. The nodes come from go.yaml.in/yaml/v3, whose
// scanner is that of v2, which the upstream agent has; what they mean is said here,
// as v2 says it: YAML 1.1 scalars, the last of two keys, merges in textual order.
func (p *parser) readYAML() (document, bool) {
	if !p.checkEncoding() || !p.checkCharacters() || !p.checkIndentation() {
		return document{}, false
	}
	first, ignored := firstDocument(p.text)
	if ignored >= 0 {
		at := p.position(ignored)
		p.suspect(CodeSecondDocument, "", at, p.scalar(at, ""),
			"agents read the first YAML document only and ignore everything from "+quote(p.scalar(at, ""))+" on",
			"remove the other documents")
	}
	node, err := nodes(first)
	if err != nil && !errors.Is(err, errRest) {
		p.yamlSyntax(err, first)
		return document{}, false
	}
	if node == nil {
		return document{}, true
	}
	if errors.Is(err, errRest) {
		p.ignoredRest(first)
	}
	p.toBytes(node)

	r := &yamlReader{parser: p, decoded: 1}
	doc := document{root: mappingKind, at: p.nodeAt(node)}
	if node.Kind == yaml.MappingNode {
		r.decoded++
		doc.fields = r.fields(node)
	} else {
		doc.root = r.value(node, 0).kind
	}
	return doc, !r.stopped
}

// ignoredRest reports that a document ends where a line is indented less than its
// first key: loaders stop there.
func (p *parser) ignoredRest(text string) {
	var at Position
	var bare string
	if len(text) <= maxSearched {
		number := p.culprit(text, 1, func(prefix string) bool {
			_, err := nodes(prefix)
			return errors.Is(err, errRest)
		})
		line := p.line(number)
		bare = strings.TrimLeft(line, " \t")
		at = Position{number, len(line) - len(bare) + 1}
	}
	p.suspect(CodeSecondDocument, "", at, clip(strings.TrimRight(bare, " \t")),
		"agents end the configuration where a line is indented less than its first key, and ignore everything from "+
			quote(bare)+" on",
		"start all keys in the first column")
}

// errRest tells that a document ends before the text does, without a marker.
var errRest = errors.New("the document ends before the text")

// nodes parses one YAML document; the root is nil without one. With errRest it is
// valid.
func nodes(text string) (root *yaml.Node, err error) {
	defer func() {
		// The parser is written with panics; one that it does not catch itself
		// must not end an agent.
		if cause := recover(); cause != nil {
			err = fmt.Errorf("yaml: %v", cause)
		}
	}()
	decoder := yaml.NewDecoder(strings.NewReader(text))
	var document, rest yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if len(document.Content) > 0 {
		root = document.Content[0]
	}
	if err := decoder.Decode(&rest); !errors.Is(err, io.EOF) {
		return root, errRest
	}
	return root, nil
}

// yamlReader turns nodes into a document.
type yamlReader struct {
	*parser
	active   []*yaml.Node // the aliases that are being followed
	decoded  int          // nodes, each time they are met
	expanded int          // of these, those met through an alias
	path     string       // of the field that is being read
	stopped  bool         // a Problem was reported that makes going on pointless
}

// maxExpanded bounds the nodes that are met through aliases.
const maxExpanded = 4 * MaxCIDRs

const tooDeepMessage = "the text is nested too deep" // MaxDepth

// fields reads the top-level mapping. Of two fields of the same name the later one
// counts; encoding/json then meets them sorted by name.
func (r *yamlReader) fields(root *yaml.Node) []field {
	var fields []field
	index := make(map[string]int)
	r.mapping(root, 0, func(name string, at Position, v value) {
		i, again := index[name]
		if !again {
			index[name] = len(fields)
			fields = append(fields, field{name, at, v})
			return
		}
		r.duplicate(canonicalPath(name), name, fields[i].at, at)
		fields[i] = field{name, at, v}
	})
	slices.SortStableFunc(fields, func(a, b field) int { return cmp.Compare(a.name, b.name) })
	return fields
}

// mapping reads the fields of a mapping in the order in which they take effect.
func (r *yamlReader) mapping(n *yaml.Node, depth int, add func(name string, at Position, v value)) {
	for i := 0; i+1 < len(n.Content) && !r.stopped; i += 2 {
		key, content := n.Content[i], n.Content[i+1]
		if isMerge(key) {
			r.merge(content, depth, add)
			continue
		}
		if depth == 0 {
			r.path = ""
		}
		name, ok := r.key(key, depth+1)
		if depth == 0 {
			r.path = canonicalPath(name)
		}
		v := r.value(content, depth+1)
		if ok && !r.stopped {
			add(name, r.start(resolveAlias(key)), v)
		}
	}
}

func isMerge(key *yaml.Node) bool {
	return key.Kind == yaml.ScalarNode && key.Value == "<<" && (key.Style&(quotes|yaml.TaggedStyle) == 0 || key.Tag == "!!merge")
}

// merge reads what << brings in, as if it stood there itself: it overrides what
// stands before it, and is overridden by what follows.
func (r *yamlReader) merge(n *yaml.Node, depth int, add func(name string, at Position, v value)) {
	sources := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		sources = slices.Clone(n.Content)
		slices.Reverse(sources) // the first of a list wins
	}
	for _, s := range sources {
		if r.stopped {
			return
		}
		target := resolveAlias(s)
		if target.Kind != yaml.MappingNode {
			at := r.nodeAt(s)
			r.fatal(CodeSyntax, "<<", at, r.scalar(at, ""), quote(r.scalar(at, ""))+" is no mapping, so it cannot be merged", "write the keys themselves instead of <<")
			return
		}
		if !r.enter(s, depth+1) {
			return
		}
		r.mapping(target, depth+1, add)
		r.leave(s)
	}
}

func resolveAlias(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// enter counts a node, and the one behind it if it is an alias. It tells whether to
// go on; then leave must follow.
func (r *yamlReader) enter(n *yaml.Node, depth int) bool {
	if depth > MaxDepth {
		at := r.nodeAt(n)
		r.stop(CodeTooDeep, at, tooDeepMessage)
		return false
	}
	r.decoded++
	if len(r.active) > 0 {
		r.expanded++
	}
	if n.Kind == yaml.AliasNode {
		at := r.nodeAt(n)
		if slices.Contains(r.active, n) {
			r.stop(CodeAliases, at, quote("*"+n.Value)+" is part of what it stands for")
			return false
		}
		r.active = append(r.active, n)
		r.decoded++
		r.expanded++
	}
	// The first condition is that of the upstream agent's loader.
	if r.expanded > 100 && r.decoded > 1000 && float64(r.expanded)/float64(r.decoded) > 0.99 || r.expanded > maxExpanded {
		r.stop(CodeAliases, r.nodeAt(n), "with its aliases written out, the text is too large")
		return false
	}
	return true
}

func (r *yamlReader) leave(n *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		r.active = r.active[:len(r.active)-1]
	}
}

func (r *yamlReader) stop(code Code, at Position, message string) {
	r.stopped = true
	r.fatal(code, r.path, at, r.scalar(at, ""), message, "write "+KeyNonMasqueradeCIDRs+" as a plain list")
}

// key reads the key of a field.
func (r *yamlReader) key(n *yaml.Node, depth int) (name string, ok bool) {
	v := r.value(n, depth)
	switch v.kind {
	case stringKind, boolKind:
		return v.text, true
	case numberKind:
		if plain := strings.ReplaceAll(v.text, "_", ""); !isUint64(plain) {
			return v.text, true
		}
		r.fatal(CodeSyntax, "", v.at, r.scalar(v.at, v.text), quote(v.text)+" is too large a number for a key", "write a name before the colon")
	case nullKind, listKind, mappingKind:
		text := r.scalar(v.at, v.text)
		why, remedy := " is "+v.kind.String()+", which cannot be a key", "write a name before the colon"
		if strings.HasPrefix(r.text[max(0, r.offset(v.at)-1):], "{{") {
			why, remedy = " is part of a template that has not been filled in", "fill in the template first"
		}
		r.fatal(CodeSyntax, "", v.at, text, quote(text)+why, remedy)
	case brokenKind:
	}
	return "", false
}

// value reads a node of any kind.
func (r *yamlReader) value(n *yaml.Node, depth int) value {
	if !r.enter(n, depth) {
		return value{kind: brokenKind}
	}
	defer r.leave(n)
	target := resolveAlias(n)
	switch target.Kind {
	case yaml.SequenceNode:
		v := value{kind: listKind, at: r.start(target), list: make([]value, 0, min(len(target.Content), MaxCIDRs+1))}
		for _, e := range target.Content {
			element := r.value(e, depth+1)
			if r.stopped {
				break
			}
			if len(v.list) <= MaxCIDRs {
				v.list = append(v.list, element)
			}
		}
		return v
	case yaml.MappingNode:
		v := value{kind: mappingKind, at: r.start(target)}
		before := len(r.problems)
		r.mapping(target, depth, func(name string, at Position, inner value) {
			v.keys = append(v.keys, name)
			v.fields = append(v.fields, field{name, at, inner})
		})
		if len(r.problems) > before {
			v.kind = brokenKind
		}
		return v
	case yaml.ScalarNode:
		return r.typed(target)
	case yaml.DocumentNode, yaml.AliasNode:
	}
	return value{kind: brokenKind} // unreachable: a document has no such nodes inside
}

// typed gives a scalar its type.
func (r *yamlReader) typed(n *yaml.Node) value {
	quoted := n.Style&quotes != 0
	v := value{kind: stringKind, text: n.Value, at: r.start(n)}
	if !quoted {
		v.kind, v.json = resolve(n.Value)
	}
	if n.Style&yaml.TaggedStyle != 0 {
		v.kind, v.json = resolveTagged(n.Tag, n.Value)
		if v.kind == brokenKind {
			r.badTag(n, n.Tag)
		}
		return v
	}
	if r.propertyTag(n) { // "!" alone, which makes text of anything; v3 does not tell
		v.kind = brokenKind
		r.badTag(n, "!")
		return v
	}
	if v.kind == brokenKind {
		r.fatal(CodeNotFinite, r.path, v.at, r.scalar(v.at, v.text), quote(v.text)+" is no number that JSON can express",
			"write a number, or put it in quotes")
	}
	return v
}

func (r *yamlReader) badTag(n *yaml.Node, tag string) {
	at := r.nodeAt(n)
	r.fatal(CodeTag, r.path, at, firstWord(r.scalar(at, "")), "the tag "+quote(tag)+" does not fit "+quote(n.Value)+" here", "remove the tag")
}

// quotes are the styles of scalars that are text whatever they hold.
const quotes = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle

// start returns where a node stands, behind its anchor and tag.
func (r *yamlReader) start(n *yaml.Node) Position {
	at := r.nodeAt(n)
	if n.Kind == yaml.ScalarNode && n.Value == "" && n.Style&quotes == 0 {
		return at
	}
	if n.Anchor == "" && n.Style&yaml.TaggedStyle == 0 && !r.propertyTag(n) {
		return at
	}
	return r.position(skipProperties(r.text, r.offset(at)))
}

// propertyTag tells whether a tag stands before a node.
func (r *yamlReader) propertyTag(n *yaml.Node) bool {
	offset := r.offset(r.nodeAt(n))
	if offset < len(r.text) && r.text[offset] == '&' && n.Anchor != "" {
		offset = skipProperty(r.text, offset)
	}
	return offset < len(r.text) && r.text[offset] == '!'
}

func skipProperties(s string, offset int) int {
	for offset < len(s) && (s[offset] == '&' || s[offset] == '!') {
		offset = skipProperty(s, offset)
	}
	return offset
}

// skipProperty skips an anchor or a tag, and the blanks and comments behind it.
func skipProperty(s string, offset int) int {
	const blanks = " \t" + yamlBreaks
	end := strings.IndexAny(s[offset:], blanks)
	for end >= 0 {
		offset += end
		rest := strings.TrimLeft(s[offset:], blanks+byteOrderMark)
		offset = len(s) - len(rest)
		if !strings.HasPrefix(rest, "#") {
			return offset
		}
		end = strings.IndexAny(rest, yamlBreaks)
	}
	return len(s)
}

// checkEncoding refuses what is not UTF-8: the API server does so in data, and
// encoding/json would put other characters in its place.
func (p *parser) checkEncoding() bool {
	offset := firstInvalid(p.text)
	if offset == len(p.text) {
		return true
	}
	p.fatal(CodeEncoding, "", p.position(offset), "", fmt.Sprintf("the byte 0x%02x is not UTF-8", p.text[offset]), "save the text as UTF-8")
	return false
}

// checkCharacters refuses what YAML does not allow (YAML 1.1, section 5.1), also
// where the upstream agent's loader does not get to see it.
func (p *parser) checkCharacters() bool {
	for offset, c := range p.text {
		switch {
		case c == '\t', c == '\n', c == '\r', ' ' <= c && c <= '~':
		case c == 0x85, 0xa0 <= c && c <= 0xfffd, c >= 0x10000:
		default:
			p.fatal(CodeControlCharacter, "", p.position(offset), p.text[offset:offset+utf8.RuneLen(c)],
				fmt.Sprintf("the control character %U is not allowed", c), "remove it")
			return false
		}
	}
	return true
}

// checkIndentation refuses a tab before a comment where only indentation and the marks
// of a list or mapping stand before it. There the upstream agent's loader refuses it
// nearly everywhere, v3 nowhere.
func (p *parser) checkIndentation() bool {
	for offset := 0; offset < len(p.text); {
		line := yamlLine(p.text[offset:])
		before, _, commented := strings.Cut(line, "#")
		tab := strings.IndexByte(before, '\t')
		if commented && tab >= 0 && strings.Trim(before, " \t-?:") == "" && !documentMarker(line) {
			p.tab(p.position(offset+tab), strings.TrimSpace(line))
			return false
		}
		offset += len(line)
	}
	return true
}

// firstDocument returns the text up to the end of the first YAML document, and where
// the next one starts, or -1.
func firstDocument(text string) (first string, ignored int) {
	offset := len(text) - len(strings.TrimPrefix(text, byteOrderMark))
	for started := false; offset < len(text); {
		line := yamlLine(text[offset:])
		isMarker := documentMarker(line)
		if isMarker && started {
			return text[:offset], nextContent(text, offset)
		}
		if isMarker || !outsideDocument(line) {
			started = true
		}
		offset += len(line)
	}
	return text, -1
}

// nextContent returns where a line with the next document's marker stands if there
// is a document, or -1.
func nextContent(text string, offset int) int {
	marker := offset
	for offset < len(text) {
		line := yamlLine(text[offset:])
		if rest := line; !outsideDocument(rest) {
			if documentMarker(line) {
				rest = line[3:]
			}
			if !outsideDocument(rest) {
				return marker
			}
		}
		offset += len(line)
	}
	return -1
}

// yamlLine returns the first line with its break, any of those of YAML 1.1.
func yamlLine(s string) string {
	end := strings.IndexAny(s, yamlBreaks)
	if end < 0 {
		return s
	}
	if strings.HasPrefix(s[end:], "\r\n") {
		return s[:end+2]
	}
	_, size := utf8.DecodeRuneInString(s[end:])
	return s[:end+size]
}

const yamlBreaks = "\n\r\u0085\u2028\u2029"

// documentMarker tells whether a line starts with --- or ... and a blank.
func documentMarker(line string) bool {
	if !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "...") {
		return false
	}
	return len(line) == 3 || strings.IndexAny(line[3:], " \t"+yamlBreaks) == 0
}

// outsideDocument tells whether a line is no part of a document: blank, a comment, a
// directive.
func outsideDocument(line string) bool {
	bare := strings.Trim(line, " \t"+yamlBreaks)
	return bare == "" || bare[0] == '#' || line[0] == '%'
}

// nodeAt returns where a node starts. The parser puts what is missing at the end of
// the text into the line behind it.
func (p *parser) nodeAt(n *yaml.Node) Position {
	if n.Line > len(p.lines()) {
		return p.position(len(p.text))
	}
	return Position{n.Line, n.Column}
}

// toBytes turns the columns of nodes, which count characters, into bytes, and lines,
// which YAML 1.1 ends at more characters than others do, into those of an editor.
func (p *parser) toBytes(root *yaml.Node) {
	if plainBytes(p.text) {
		return
	}
	var starts []int
	offset := len(p.text) - len(strings.TrimPrefix(p.text, byteOrderMark))
	for starts = append(starts, offset); offset < len(p.text); {
		offset += len(yamlLine(p.text[offset:]))
		starts = append(starts, offset)
	}
	line, column := 0, 0 // of offset; nodes come in textual order
	var convert func(n *yaml.Node)
	convert = func(n *yaml.Node) {
		if n.Line != line || n.Column < column {
			line, column = n.Line, 1
			offset = starts[min(line, len(starts))-1]
		}
		for ; column < n.Column && offset < len(p.text); column++ {
			_, size := utf8.DecodeRuneInString(p.text[offset:])
			offset += size
		}
		at := p.position(offset)
		n.Line, n.Column = at.Line, at.Column
		for _, child := range n.Content {
			convert(child)
		}
	}
	convert(root)
}
