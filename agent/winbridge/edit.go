package winbridge

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Words of the policies of HNS. Version 1 has the list beside the type, version 2 in
// Settings. https://learn.microsoft.com/windows-server/networking/technologies/hcn/hcn-json-document-schemas
const (
	outBoundNAT   = "OutBoundNAT"
	keyType       = "Type"
	keySettings   = "Settings"
	keyListV1     = "ExceptionList"
	keyListV2     = "Exceptions"
	keyPlugins    = "plugins"
	keyPolicies   = "policies"       // of win-bridge and sdnbridge
	keyAdditional = "AdditionalArgs" // of azure-vnet and newer sdnbridge
)

// editor finds the policies and plans what to write.
type editor struct {
	text    []byte
	want    []string
	changes []Change
	pieces  []piece
}

// piece replaces text[begin:end].
type piece struct {
	begin, end int
	text       string
}

// find looks for policies in a value and all that is in it: a plugin that delegates to
// another one has its configuration inside of its own.
func (e *editor) find(n node, path string) error {
	for i, element := range n.elements {
		if err := e.find(element, fmt.Sprintf("%s[%d]", path, i)); err != nil {
			return err
		}
	}
	if types := n.get(keyType); len(types) > 0 { // of several the plugins take the last
		if last := types[len(types)-1].value; last.kind == '"' && strings.EqualFold(last.value, outBoundNAT) {
			return e.policy(n, path)
		}
	}
	for _, m := range n.members {
		inner := m.key
		if path != "" {
			inner = path + "." + m.key
		}
		if err := e.find(m.value, inner); err != nil {
			return err
		}
	}
	return nil
}

func (e *editor) policy(n node, path string) error {
	home, key := n, keyListV1
	lists := n.get(keyListV1, keyListV2)
	for _, settings := range n.get(keySettings) {
		if settings.value.kind != '{' {
			return fmt.Errorf("line %d: %s of the policy %s is no object; write {\"%s\": []}",
				lineOf(e.text, settings.begin), settings.key, path, keyListV2)
		}
		home, key = settings.value, keyListV2
		lists = append(lists, settings.value.get(keyListV1, keyListV2)...)
	}
	if len(lists) == 0 {
		e.changes = append(e.changes, Change{Path: path, Line: lineOf(e.text, n.begin), After: e.want})
		e.insert(home, key)
		return nil
	}
	for _, list := range lists {
		if err := e.list(list, path); err != nil {
			return err
		}
	}
	return nil
}

// list replaces one list, unless it is right.
func (e *editor) list(m member, path string) error {
	change := Change{Path: path, Line: lineOf(e.text, m.value.begin), After: e.want}
	switch {
	case m.value.kind == '[':
		change.Before = []string{}
		for _, element := range m.value.elements {
			if element.kind != '"' {
				return fmt.Errorf("line %d: %s of the policy %s holds something that is no text; write CIDRs as \"10.0.0.0/8\"",
					lineOf(e.text, element.begin), m.key, path)
			}
			change.Before = append(change.Before, element.value)
		}
	case m.value.value == "null":
	default:
		return fmt.Errorf("line %d: %s of the policy %s is no list; write []", lineOf(e.text, m.value.begin), m.key, path)
	}
	e.changes = append(e.changes, change)
	if change.Before == nil || !slices.Equal(change.Before, e.want) {
		e.pieces = append(e.pieces, piece{m.value.begin, m.value.end, e.render(m.value)})
	}
	return nil
}

// render writes the list as the one that it replaces is written: in one line, or an
// element a line.
func (e *editor) render(old node) string {
	first, between, last := "", e.comma(), ""
	if n := len(old.elements); n > 0 {
		first = string(e.text[old.begin+1 : old.elements[0].begin])
		last = string(e.text[old.elements[n-1].end : old.end-1])
		switch {
		case n > 1:
			between = string(e.text[old.elements[0].end:old.elements[1].begin])
		case strings.Contains(first, "\n"):
			between = "," + first
		}
	}
	if len(e.want) == 0 {
		return "[]"
	}
	return "[" + first + strings.Join(quoted(e.want), between) + last + "]"
}

// comma is what stands between the elements of a list in one line.
func (e *editor) comma() string {
	if bytes.IndexByte(e.text, '\n') < 0 && !bytes.Contains(e.text, []byte(", ")) {
		return ","
	}
	return ", "
}

// insert adds a list to an object, after what it has, in its style.
func (e *editor) insert(home node, key string) {
	colon := ": "
	if e.comma() == "," {
		colon = ":"
	}
	list := `"` + key + `"` + colon + "[" + strings.Join(quoted(e.want), e.comma()) + "]"
	n := len(home.members)
	if n == 0 {
		e.pieces = append(e.pieces, piece{home.begin + 1, home.end - 1, list})
		return
	}
	before := e.comma()
	start := home.begin + 1
	if n > 1 {
		start = home.members[n-2].value.end
	}
	if space := string(e.text[start:home.members[n-1].begin]); strings.Contains(space, "\n") {
		before = "," + strings.ReplaceAll(space, ",", "")
	}
	end := home.members[n-1].value.end
	e.pieces = append(e.pieces, piece{end, end, before + list})
}

func quoted(texts []string) []string {
	all := make([]string, len(texts))
	for i, text := range texts {
		all[i] = `"` + text + `"`
	}
	return all
}

func (e *editor) result() []byte {
	slices.SortFunc(e.pieces, func(a, b piece) int { return a.begin - b.begin })
	var out bytes.Buffer
	at := 0
	for _, p := range e.pieces {
		out.Write(e.text[at:p.begin])
		out.WriteString(p.text)
		at = p.end
	}
	out.Write(e.text[at:])
	return out.Bytes()
}

// listOfPolicies is the key under which the plugins of a configuration have policies.
func (d document) listOfPolicies() string {
	plugins := []node{d.root}
	for _, m := range d.root.get(keyPlugins) {
		plugins = append(plugins, m.value.elements...)
	}
	for _, plugin := range plugins {
		if len(plugin.get(keyAdditional)) > 0 {
			return keyAdditional
		}
		for _, m := range plugin.get("type") {
			if strings.HasPrefix(m.value.value, "azure-vnet") {
				return keyAdditional
			}
		}
	}
	return keyPolicies
}
