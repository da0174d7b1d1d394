package config

import "strings"

// readPlain reads the text if it has the plain shape that nearly every
// configuration has, many times faster than a YAML parser and with the same result:
// known keys in the first column, each once, a scalar on its line or a list of one
// scalar a line below, comments. It understands nothing else, and says so.
func (p *parser) readPlain() (document, bool) {
	if !plainBytes(p.text) {
		return document{}, false
	}
	doc := document{root: nullKind, fields: make([]field, 0, len(keys))}
	var list *value // where elements go
	indent := 0     // of the elements of list
	rest := p.text
	for number := 1; rest != ""; number++ {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		body := strings.TrimLeft(line, " ")
		column := len(line) - len(body) + 1
		body = strings.TrimSuffix(body, "\r")
		if body == "" || body[0] == '#' {
			continue
		}

		if element, ok := strings.CutPrefix(body, "- "); ok {
			if list == nil || len(list.list) > 0 && column != indent {
				return document{}, false
			}
			scalar, ok := readScalar(element)
			if !ok || scalar.text == "" {
				return document{}, false
			}
			if list.list == nil {
				list.list = make([]value, 0, min(1+strings.Count(rest, "\n-")+strings.Count(rest, " - "), MaxCIDRs+1))
				indent = column
			}
			if len(list.list) <= MaxCIDRs {
				list.list = append(list.list, scalar.value(number, column+2))
			}
			continue
		}

		if list != nil && len(list.list) == 0 {
			return document{}, false // a key without a value
		}
		list = nil
		name, after, ok := strings.Cut(body, ":")
		if !ok || column > 1 || after != "" && after[0] != ' ' || !doc.lacks(name) {
			return document{}, false
		}
		scalar, ok := readScalar(after)
		if !ok {
			return document{}, false
		}
		doc.root = mappingKind
		doc.fields = append(doc.fields, field{name: name, at: Position{number, 1}})
		f := &doc.fields[len(doc.fields)-1]
		if scalar.text == "" && !scalar.quoted {
			f.value.kind = listKind
			list = &f.value
			continue
		}
		f.value = scalar.value(number, len(name)+2)
	}
	return doc, list == nil || len(list.list) > 0
}

// plainBytes tells whether all of a text is printable ASCII with usual line ends;
// tabs are for the YAML parser to judge.
func plainBytes(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case ' ' <= c && c <= '~', c == '\n':
		case c == '\r' && i+1 < len(s) && s[i+1] == '\n':
		default:
			return false
		}
	}
	return true
}

// lacks tells that a name is a key of ours, and new.
func (d *document) lacks(name string) bool {
	for i := range d.fields {
		if d.fields[i].name == name {
			return false
		}
	}
	for _, key := range keys {
		if key == name {
			return true
		}
	}
	return false
}

// plainText is a scalar on its line.
type plainText struct {
	text    string
	quoted  bool
	skipped int // blanks before it
}

// readScalar reads a scalar of letters, digits and the marks of an address, bare or in
// quotes, with nothing but a comment behind it. Without a scalar the text is empty.
func readScalar(s string) (scalar plainText, ok bool) {
	body := strings.TrimLeft(s, " ")
	scalar.skipped = len(s) - len(body)
	if body == "" || body[0] == '#' {
		return scalar, body == "" || scalar.skipped > 0
	}
	var behind string
	if body[0] == '"' || body[0] == '\'' {
		end := strings.IndexByte(body[1:], body[0])
		if end < 0 {
			return scalar, false
		}
		scalar.text, scalar.quoted, behind = body[1:end+1], true, body[end+2:]
	} else {
		end := strings.IndexByte(body, ' ')
		if end < 0 {
			end = len(body)
		}
		scalar.text, behind = body[:end], body[end:]
		if !isAlphanumeric(body[0]) || body[end-1] == ':' {
			return scalar, false
		}
	}
	for i := range len(scalar.text) {
		if c := scalar.text[i]; !isAlphanumeric(c) && strings.IndexByte("./:_-", c) < 0 {
			return scalar, false
		}
	}
	comment := strings.TrimLeft(behind, " ")
	return scalar, comment == "" || comment[0] == '#' && behind[0] == ' '
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// value gives a scalar its type; in quotes it is text.
func (s plainText) value(line, column int) value {
	v := value{kind: stringKind, text: s.text, at: Position{line, column + s.skipped}}
	if !s.quoted {
		v.kind, v.json = resolve(s.text)
	}
	return v
}
