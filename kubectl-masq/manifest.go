package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// document is the ConfigMap to check, and where its parts stand in the file.
type document struct {
	file      string
	lines     []string // of the file, without line ends
	configMap *corev1.ConfigMap
	begin     int             // line of the object; 0 for a bare configuration
	several   bool            // the file has more of them
	start     place           // of the object's name; zero for a bare configuration
	values    map[string]mark // of data and binaryData, by "data" or "binaryData", "/" and key
	raw       bool            // the file is the value, not a manifest
}

// mark is where a value stands in the file.
type mark struct {
	key, begin place
	text       string // the value
	block      bool   // it is a literal block, `key: |`, whose lines stand in the file as they are
}

// place is a position in the file, both counted from 1, columns in bytes; the zero
// place is nowhere.
type place struct {
	line, column int
	inside       bool // what is meant is somewhere in the value that begins here
}

// rawDocument takes the whole text as the value of the ConfigMap's key.
func rawDocument(file string, text []byte, namespace, name string) *document {
	return &document{
		file:  file,
		lines: splitLines(text),
		raw:   true,
		configMap: &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Data:       map[string]string{policy.ConfigKey: string(text)},
		},
	}
}

// findConfigMap reads the one ConfigMap with this name out of a manifest: YAML with
// any number of documents, Lists, or JSON. A ConfigMap that states no namespace
// fits any.
func findConfigMap(file string, text []byte, namespace, name string) (*document, error) {
	m, err := findConfigMaps(file, text, namespace, name)
	switch {
	case err != nil:
		return nil, err
	case len(m.found) > 1:
		return nil, fmt.Errorf("%s has the ConfigMap %s/%s more than once, at lines %d and %d: name a file with one of them",
			file, namespace, name, m.found[0].begin, m.found[1].begin)
	case len(m.found) == 0:
		return nil, noneFound(file+" has", namespace, name, m.others)
	}
	return m.found[0], nil
}

// manifest is what a file holds.
type manifest struct {
	found  []*document // the ConfigMaps with the name looked for
	others []string    // the other ConfigMaps, and where they are
	passed int         // how many objects were passed over, of any kind
}

// findConfigMaps is findConfigMap for any number of them.
func findConfigMaps(file string, text []byte, namespace, name string) (manifest, error) {
	objects, err := readObjects(text)
	if err != nil {
		return manifest{}, fmt.Errorf("reading %s: %w", file, err)
	}
	var m manifest
	lines := splitLines(text)
	for _, object := range objects {
		isConfigMap := scalar(object, "kind") == "ConfigMap"
		stated := scalar(field(object, "metadata"), "namespace")
		named := scalar(field(object, "metadata"), "name")
		if !isConfigMap || named != name || stated != "" && stated != namespace {
			m.passed++
			if isConfigMap {
				m.others = append(m.others, fmt.Sprintf("%s (line %d)", strings.TrimPrefix(stated+"/"+named, "/"), object.Line))
			}
			continue
		}
		one := &document{file: file, lines: lines, begin: object.Line, start: placeOf(object)}
		if err := one.read(object, namespace, name); err != nil {
			return manifest{}, fmt.Errorf("reading %s: %w", file, err)
		}
		m.found = append(m.found, one)
	}
	return m, nil
}

// noneFound tells which other ConfigMaps there are where the one looked for is not.
func noneFound(whereHas, namespace, name string, others []string) error {
	if len(others) > 0 {
		return fmt.Errorf("%s no ConfigMap %s/%s, but %s: choose with --namespace and --name", whereHas, namespace, name, strings.Join(others, ", "))
	}
	return fmt.Errorf("%s no ConfigMap; for the bare configuration, use --raw", whereHas)
}

// readObjects returns the objects of all documents; those of a List one by one.
func readObjects(text []byte) ([]*yaml.Node, error) {
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	var objects []*yaml.Node
	for {
		var root yaml.Node
		err := decoder.Decode(&root)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(root.Content) == 0 {
			continue
		}
		object := resolved(root.Content[0])
		if items := field(object, "items"); items != nil && strings.HasSuffix(scalar(object, "kind"), "List") {
			for _, item := range items.Content {
				objects = append(objects, resolved(item))
			}
			continue
		}
		objects = append(objects, object)
	}
}

// read fills the ConfigMap the way the API server would.
func (d *document) read(object *yaml.Node, namespace, name string) error {
	d.configMap = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	d.values = map[string]mark{}
	if named := field(field(object, "metadata"), "name"); named != nil {
		d.start = placeOf(named)
	}
	err := eachValue(object, "data", func(key, value *yaml.Node) error {
		text, err := textOf(key, value)
		if err != nil {
			return err
		}
		if d.configMap.Data == nil {
			d.configMap.Data = map[string]string{}
		}
		d.configMap.Data[key.Value] = text
		d.mark("data", key, value)
		return nil
	})
	if err != nil {
		return err
	}
	return eachValue(object, "binaryData", func(key, value *yaml.Node) error {
		// Base64 may be wrapped over lines, and Go's decoder skips line ends only.
		decoded, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(value.Value, " ", ""))
		if err != nil {
			return fmt.Errorf("line %d: binaryData[%q] is not base64: %w", value.Line, key.Value, err)
		}
		if d.configMap.BinaryData == nil {
			d.configMap.BinaryData = map[string][]byte{}
		}
		d.configMap.BinaryData[key.Value] = decoded
		d.mark("binaryData", key, value)
		return nil
	})
}

func (d *document) mark(section string, key, value *yaml.Node) {
	d.values[section+"/"+key.Value] = mark{
		key:   placeOf(key),
		begin: placeOf(value),
		text:  value.Value,
		block: section == "data" && value.Style&yaml.LiteralStyle != 0,
	}
}

// eachValue calls do for the keys and values of one section of the object.
func eachValue(object *yaml.Node, section string, do func(key, value *yaml.Node) error) error {
	values := field(object, section)
	if values == nil || values.Tag == "!!null" {
		return nil
	}
	if values.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: %s is not a mapping", values.Line, section)
	}
	for i := 0; i+1 < len(values.Content); i += 2 {
		if err := do(values.Content[i], resolved(values.Content[i+1])); err != nil {
			return err
		}
	}
	return nil
}

// textOf is the text of a value of data. kubectl reads YAML 1.1 and sends what is
// no text there as what it is, and the API server takes nothing but text.
func textOf(key, value *yaml.Node) (string, error) {
	switch {
	case value.Kind != yaml.ScalarNode:
		return "", fmt.Errorf("line %d: data[%q] is not text; write %s: |", value.Line, key.Value, key.Value)
	case value.Tag == "!!null":
		return "", nil
	case value.Tag == "!!str" && !booleanBefore(value), value.Tag == "!!timestamp":
		return value.Value, nil
	}
	return "", fmt.Errorf("line %d: data[%q] is not text but %s; put it in quotes", value.Line, key.Value, value.Value)
}

// booleanBefore tells whether a plain scalar is a boolean in YAML 1.1 and text in
// YAML 1.2.
func booleanBefore(value *yaml.Node) bool {
	return value.Style == 0 && slices.Contains([]string{"yes", "no", "on", "off"}, strings.ToLower(value.Value))
}

// locate returns where in the file a finding points to. Of a value that is not a
// literal block only the begin is known.
func (d *document) locate(finding policy.Finding) place {
	if d.raw {
		return place{line: finding.Position.Line, column: finding.Position.Column}
	}
	section := "data/"
	if finding.Binary {
		section = "binaryData/"
	}
	value, ok := d.values[section+finding.Key]
	switch {
	case finding.Key == "" || !ok:
		return d.start
	case finding.Position.Line == 0:
		return value.key
	}
	inside := value.begin
	inside.inside = true
	if !value.block {
		return inside
	}
	lines := splitLines([]byte(value.text))
	line := value.begin.line + finding.Position.Line
	if finding.Position.Line > len(lines) || line > len(d.lines) {
		return inside
	}
	// The indentation that YAML took away is what the file's line has before the
	// value's line.
	indentation, ok := strings.CutSuffix(d.lines[line-1], lines[finding.Position.Line-1])
	if !ok || strings.Trim(indentation, " ") != "" {
		return inside
	}
	return place{line: line, column: len(indentation) + max(finding.Position.Column, 1)}
}

// text is what a node has as the file of a key, of data or of binaryData.
func (d *document) text(key string) (_ []byte, ok bool) {
	if text, data := d.configMap.Data[key]; data {
		return []byte(text), true
	}
	text, ok := d.configMap.BinaryData[key]
	return text, ok
}

// value is the text of the value that a finding is about.
func (d *document) value(finding policy.Finding) string {
	if finding.Binary {
		return string(d.configMap.BinaryData[finding.Key])
	}
	return d.configMap.Data[finding.Key]
}

func splitLines(text []byte) []string {
	lines := strings.Split(string(text), "\n")
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
	}
	return lines
}

func placeOf(node *yaml.Node) place { return place{line: node.Line, column: node.Column} }

func resolved(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

// field is the value of a key of a mapping, or nil.
func field(node *yaml.Node, key string) *yaml.Node {
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return resolved(node.Content[i+1])
		}
	}
	return nil
}

// scalar is the text of a key of a mapping, or empty.
func scalar(node *yaml.Node, key string) string {
	value := field(node, key)
	if value == nil || value.Kind != yaml.ScalarNode {
		return ""
	}
	return value.Value
}
