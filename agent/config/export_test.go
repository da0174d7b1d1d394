package config

// ReadBoth reads a text with the reader for plain texts and with the YAML parser, so
// that a test can compare; ok tells that the text is plain.
func ReadBoth(text string) (plain, yaml []any, ok bool) {
	p := &parser{source: source{text: text}}
	fast, ok := p.readPlain()
	if !ok {
		return nil, nil, false
	}
	q := &parser{source: source{text: text}}
	full, read := q.readYAML()
	if full.root == nullKind || !read {
		full.fields = nil
	}
	return tree(fast, len(p.problems)), tree(full, len(q.problems)), true
}

func tree(d document, problems int) []any {
	out := []any{d.root.String(), problems}
	fields := make(map[string]any, len(d.fields))
	for _, f := range d.fields {
		fields[f.name] = []any{f.at, leaves(f.value)}
	}
	return append(out, fields)
}

func leaves(v value) []any {
	out := []any{v.kind.String(), v.text, v.json}
	if v.kind != listKind { // of a list only the elements need a position
		out = append(out, v.at)
	}
	for _, e := range v.list {
		out = append(out, leaves(e))
	}
	return out
}
