package winbridge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// document is a JSON text with the places of its values.
type document struct {
	text []byte
	root node
}

// node is a value: text[begin:end].
type node struct {
	begin, end int
	kind       byte   // '{', '[', '"', or 0 for numbers, booleans and null
	value      string // of a string; "null" for null
	members    []member
	elements   []node
}

// member is a key of an object with its value.
type member struct {
	key   string
	begin int // of the key
	value node
}

// parse reads a text. A byte order mark may stand before it.
func parse(text []byte) (document, error) {
	switch {
	case len(text) > MaxBytes:
		return document{}, fmt.Errorf("it has %d bytes, more than %d", len(text), MaxBytes)
	case bytes.HasPrefix(text, []byte("\xff\xfe")), bytes.HasPrefix(text, []byte("\xfe\xff")):
		return document{}, errors.New("it is UTF-16, which plugins do not read; save it as UTF-8 (Set-Content -Encoding utf8)")
	case !utf8.Valid(text):
		return document{}, errors.New("it is no UTF-8; save it as UTF-8")
	}
	mark := len(text) - len(bytes.TrimPrefix(text, []byte("\ufeff")))
	p := parser{text: text, base: mark, decoder: json.NewDecoder(bytes.NewReader(text[mark:]))}
	p.decoder.UseNumber()
	root, err := p.value(0)
	if err == nil {
		if _, more := p.decoder.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the end of the configuration")
		}
	}
	if err != nil {
		return document{}, fmt.Errorf("reading the JSON text: line %d: %w", p.line(p.offset()), err)
	}
	if root.kind != '{' {
		return document{}, errors.New("reading the JSON text: it is no object, as a CNI configuration is")
	}
	return document{text, root}, nil
}

type parser struct {
	text    []byte
	base    int // of what the decoder reads
	decoder *json.Decoder
}

func (p *parser) offset() int { return p.base + int(p.decoder.InputOffset()) }

func (p *parser) line(offset int) int { return lineOf(p.text, offset) }

func lineOf(text []byte, offset int) int {
	return 1 + bytes.Count(text[:min(offset, len(text))], []byte("\n"))
}

// next is where the next token begins.
func (p *parser) next() int {
	at := p.offset()
	for at < len(p.text) && strings.IndexByte(" \t\r\n,:", p.text[at]) >= 0 {
		at++
	}
	return at
}

func (p *parser) value(depth int) (node, error) {
	if depth > maxDepth {
		return node{}, fmt.Errorf("it is nested more than %d deep", maxDepth)
	}
	n := node{begin: p.next()}
	token, err := p.decoder.Token()
	if err != nil {
		return node{}, unexpected(err)
	}
	switch v := token.(type) {
	case string:
		n.kind, n.value = '"', v
	case nil:
		n.value = "null"
	case json.Delim:
		n.kind = '['
		if v == '{' {
			n.kind = '{'
		}
		if err := p.inside(&n, depth+1); err != nil {
			return node{}, err
		}
	}
	n.end = p.offset()
	return n, nil
}

// inside reads the content of an object or array, and its end.
func (p *parser) inside(n *node, depth int) error {
	for p.decoder.More() {
		if n.kind == '[' {
			element, err := p.value(depth)
			if err != nil {
				return err
			}
			n.elements = append(n.elements, element)
			continue
		}
		m := member{begin: p.next()}
		key, err := p.decoder.Token()
		if err != nil {
			return unexpected(err)
		}
		m.key, _ = key.(string) // the decoder takes nothing else there
		if m.value, err = p.value(depth); err != nil {
			return err
		}
		n.members = append(n.members, m)
	}
	_, err := p.decoder.Token()
	return unexpected(err)
}

// unexpected turns the end of the input, which is io.EOF between tokens, into an error
// that says so.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// get are the values of a key, in any case as the plugins take it; a key may stand there
// more than once.
func (n node) get(keys ...string) []member {
	var found []member
	for _, m := range n.members {
		for _, key := range keys {
			if strings.EqualFold(m.key, key) {
				found = append(found, m)
			}
		}
	}
	return found
}
