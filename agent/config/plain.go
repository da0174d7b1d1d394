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
			text, quoted, skipped, ok := plainScalar(element)
			if !ok || text == "" {
				return document{}, false
			}
			if list.list == nil {
				list.list = make([]value, 0, min(1+strings.Count(rest, "\n-")+strings.Count(rest, " - "), MaxCIDRs+1))
				indent = column
			}
			if len(list.list) <= MaxCIDRs {
				list.list = append(list.list, scalarValue(text, quoted, Position{number, column + 2 + skipped}))
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
		text, quoted, skipped, ok := plainScalar(after)
		if !ok {
			return document{}, false
		}
		doc.root = mappingKind
		doc.fields = append(doc.fields, field{name: name, at: Position{number, 1}})
		f := &doc.fields[len(doc.fields)-1]
		if text == "" && !quoted {
			f.value.kind = listKind
			list = &f.value
			continue
		}
		f.value = scalarValue(text, quoted, Position{number, len(name) + 2 + skipped})
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

// plainScalar reads a scalar of letters, digits and the marks of an address, bare or
// in quotes, with nothing but a comment behind it. Skipped is how many blanks lead.
func plainScalar(s string) (text string, quoted bool, skipped int, ok bool) {
	body := strings.TrimLeft(s, " ")
	skipped = len(s) - len(body)
	if body == "" || body[0] == '#' {
		return "", false, skipped, body == "" || skipped > 0
	}
	end := 0
	if body[0] == '"' || body[0] == '\'' {
		end = strings.IndexByte(body[1:], body[0])
		if end < 0 {
			return "", false, 0, false
		}
		text, quoted = body[1:end+1], true
		end += 2
	} else {
		if end = strings.IndexByte(body, ' '); end < 0 {
			end = len(body)
		}
		text = body[:end]
		if !isAlphanumeric(text[0]) || text[end-1] == ':' {
			return "", false, 0, false
		}
	}
	for i := range len(text) {
		if c := text[i]; !isAlphanumeric(c) && c != '.' && c != '/' && c != ':' && c != '_' && c != '-' {
			return "", false, 0, false
		}
	}
	behind := strings.TrimLeft(body[end:], " ")
	ok = behind == "" || behind[0] == '#' && body[end] == ' '
	return text, quoted, skipped, ok
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// scalarValue gives a scalar its type; in quotes it is text.
func scalarValue(text string, quoted bool, at Position) value {
	v := value{kind: stringKind, text: text, at: at}
	if !quoted {
		v.kind, v.json = resolve(text)
	}
	return v
}
