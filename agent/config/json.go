package config

import (
	"cmp"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// readJSON reads a text that starts with a brace, which the upstream agent hands to
// encoding/json as it is.
func (p *parser) readJSON() (document, bool) {
	if !p.checkEncoding() {
		return document{}, false
	}
	if text := []byte(p.text); !json.Valid(text) { // so that what follows need not look
		var raw json.RawMessage
		p.jsonSyntax(json.Unmarshal(text, &raw))
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
		r.fatal(CodeTooDeep, "", v.at, string(c), tooDeepMessage, "write "+KeyNonMasqueradeCIDRs+" as a plain list")
		return v
	}
	switch c {
	case '{':
		v.kind = mappingKind
		r.mapping(depth, func(name string, at Position, inner value) {
			v.keys = append(v.keys, name)
			v.fields = append(v.fields, field{name, at, inner})
		})
	case '[':
		v.kind = listKind
		elements, _, _ := strings.Cut(r.text[r.offset:], "]")
		v.list = make([]value, 0, min(1+strings.Count(elements, ","), MaxCIDRs+1))
		for r.offset++; r.next() != ']'; {
			e := r.value(depth + 1)
			if r.tooDeep {
				return v
			}
			if len(v.list) <= MaxCIDRs {
				v.list = append(v.list, e)
			}
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
		p.fatal(CodeSyntax, "", p.position(len(strings.TrimRight(p.text, jsonBlanks))), "",
			"the JSON ends before every bracket, brace and quote is closed", "close them")
		return
	}
	before, rest := strings.TrimRight(p.text[:offset], jsonBlanks), p.text[offset:]
	at := p.position(offset)
	c, size := utf8.DecodeRuneInString(rest)
	if isInvisible(c) {
		p.invisible(at, rest, p.line(at.Line))
		return
	}
	text := clip(firstWord(rest))
	why, remedy := explainJSON(err.Error(), before, rest)
	if why == "" { // the comma before it is what is wrong
		at, text = p.position(len(before)-1), ","
		why, remedy = "stands before the closing "+rest[:size], "remove the comma"
	}
	p.fatal(CodeSyntax, "", at, text, quote(cmp.Or(text, rest[:size]))+" "+why, remedy)
}

const jsonBlanks = " \t\r\n"

// explainJSON says in the author's terms what encoding/json means by an error between
// before and rest; the sentence goes on after the first word of rest. It is empty for
// a comma at the end of a list or mapping.
func explainJSON(message, before, rest string) (why, remedy string) {
	switch {
	case strings.HasSuffix(before, ",") && strings.IndexByte("]}", rest[0]) >= 0:
		return "", ""
	case strings.HasPrefix(strings.TrimLeft(before, jsonBlanks)+rest, "{{"):
		return "is part of a template that has not been filled in", "fill in the template first"
	case rest[0] == '\'':
		return "has single quotes", "write double quotes"
	case rest[0] == '#', strings.HasPrefix(rest, "//"), strings.HasPrefix(rest, "/*"):
		return "starts a comment, which JSON does not have", "remove the comment, or write the text as YAML"
	case strings.Contains(message, "after top-level value"):
		return "follows the closing brace", "remove it"
	case strings.Contains(message, "object key string"):
		return "is not a key in double quotes", `write keys as "key": value`
	case strings.HasSuffix(message, "after object key"):
		return "follows a key without a colon", "write a colon after the key"
	case strings.Contains(message, "after array element"), strings.Contains(message, "after object key:value pair"):
		return "follows a value without a comma", "write a comma between two values"
	}
	return "is not JSON: " + message, ""
}

// firstWord is what stands up to the next blank.
func firstWord(s string) string {
	if end := strings.IndexAny(s, jsonBlanks); end >= 0 {
		return s[:end]
	}
	return s
}
