package config

import (
	"encoding/json"
	"errors"
	"strings"
)

// readJSON reads a text that starts with a brace, which the upstream agent hands to
// encoding/json as it is.
func (p *parser) readJSON() (document, bool) {
	if !p.checkEncoding() {
		return document{}, false
	}
	// This checks all of the syntax, so that what follows need not.
	var raw json.RawMessage
	if err := json.Unmarshal([]byte(p.text), &raw); err != nil {
		p.jsonSyntax(err)
		return document{}, false
	}
	r := &jsonReader{parser: p, number: 1}
	doc := document{root: mappingKind}
	r.mapping(0, func(name string, at Position, v value) {
		doc.fields = append(doc.fields, field{name, at, v})
	})
	return doc, !r.tooDeep
}

// jsonReader walks through valid JSON.
type jsonReader struct {
	*parser
	offset    int
	number    int // of the line at offset
	lineStart int
	tooDeep   bool
}

// next skips blanks and separators, and returns the byte behind them.
func (r *jsonReader) next() byte {
	for ; ; r.offset++ {
		switch c := r.text[r.offset]; c {
		case '\n':
			r.number++
			r.lineStart = r.offset + 1
		case ' ', '\t', '\r', ',', ':':
		default:
			return c
		}
	}
}

func (r *jsonReader) here() Position { return Position{r.number, r.offset - r.lineStart + 1} }

func (r *jsonReader) mapping(depth int, add func(name string, at Position, v value)) {
	r.next()
	for r.offset++; r.next() != '}'; {
		at := r.here()
		name := r.string()
		v := r.value(depth + 1)
		if r.tooDeep {
			return
		}
		add(name, at, v)
	}
	r.offset++
}

func (r *jsonReader) value(depth int) value {
	c := r.next()
	v := value{at: r.here()}
	if depth > MaxDepth {
		r.tooDeep = true
		r.fatal(CodeTooDeep, "", v.at, string(c), tooDeepMessage, "")
		return v
	}
	switch c {
	case '{':
		v.kind = mappingKind
		r.mapping(depth, func(name string, _ Position, _ value) { v.keys = append(v.keys, name) })
	case '[':
		v.kind = listKind
		for r.offset++; r.next() != ']'; {
			e := r.value(depth + 1)
			if r.tooDeep {
				return v
			}
			v.list = append(v.list, e)
		}
		r.offset++
	case '"':
		v.kind, v.text = stringKind, r.string()
	default:
		start := r.offset
		for r.offset < len(r.text) && strings.IndexByte(" \t\r\n,]}", r.text[r.offset]) < 0 {
			r.offset++
		}
		v.text = r.text[start:r.offset]
		v.json = v.text
		switch c {
		case 'n':
			v.kind = nullKind
		case 't', 'f':
			v.kind = boolKind
		default:
			v.kind = numberKind
		}
	}
	return v
}

func (r *jsonReader) string() string {
	start := r.offset
	escaped := false
	for r.offset++; r.text[r.offset] != '"'; r.offset++ {
		if r.text[r.offset] == '\\' {
			escaped = true
			r.offset++
		}
	}
	r.offset++
	if !escaped {
		return r.text[start+1 : r.offset-1]
	}
	var s string
	if err := json.Unmarshal([]byte(r.text[start:r.offset]), &s); err != nil {
		return r.text[start:r.offset] // unreachable: the text is valid
	}
	return s
}

// jsonSyntax explains an error of encoding/json.
func (p *parser) jsonSyntax(err error) {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		p.fatal(CodeSyntax, "", Position{}, "", "reading JSON: "+err.Error(), "")
		return
	}
	if strings.Contains(err.Error(), "exceeded max depth") {
		p.fatal(CodeTooDeep, "", Position{}, "", tooDeepMessage, "")
		return
	}
	offset := min(max(int(syntax.Offset)-1, 0), len(p.text)) // the error counts the offending byte
	if strings.Contains(err.Error(), "unexpected end") {
		trimmed := strings.TrimRight(p.text, " \t\r\n")
		at := p.position(len(trimmed))
		p.fatal(CodeSyntax, "", at, "", "the JSON ends too early: a bracket, brace or quote is not closed", "close it")
		return
	}
	at := p.position(offset)
	rest := p.text[offset:]
	message, remedy := err.Error(), ""
	before := strings.TrimRight(p.text[:offset], " \t\r\n")
	switch {
	case strings.HasSuffix(before, ",") && strings.IndexByte("]}", p.text[offset]) >= 0:
		offset = len(before) - 1
		at, rest = p.position(offset), ","
		message, remedy = "a comma stands before the closing "+quote(p.text[syntax.Offset-1:syntax.Offset]), "remove the comma"
	case p.text[offset] == '\'':
		remedy = `write double quotes`
	case p.text[offset] == '#' || strings.HasPrefix(rest, "//") || strings.HasPrefix(rest, "/*"):
		message, remedy = "JSON has no comments", "remove the comment, or write the text as YAML"
	case strings.Contains(message, "after top-level value"):
		message, remedy = "something follows the closing brace", "remove it"
	case strings.Contains(message, "object key string"):
		message, remedy = "a key does not begin with a double quote", `write keys as "key": value`
	case strings.Contains(message, "after array element"), strings.Contains(message, "after object key:value pair"):
		message, remedy = "a comma is missing before "+quote(firstWord(rest)), "write a comma between two elements"
	}
	p.fatal(CodeSyntax, "", at, clip(firstWord(rest)), message, remedy)
}

// firstWord is what stands up to the next blank.
func firstWord(s string) string {
	if end := strings.IndexAny(s, " \t\r\n"); end >= 0 {
		return s[:end]
	}
	return s
}
