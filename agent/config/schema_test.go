package config_test

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// beyondSchema are the codes of problems that a JSON Schema does not see: of the text
// rather than what it says, or of what values mean together.
//
//nolint:gochecknoglobals // a constant in all but the language
var beyondSchema = []config.Code{
	config.CodeSecondDocument, config.CodeTrailingSpace, config.CodeDuplicateKey, config.CodeYAML11Bool, config.CodeOctalNumber,
	config.CodeTag, config.CodeTab, config.CodeTooDeep, config.CodeAliases, config.CodeControlCharacter, config.CodeSyntax,
	config.CodeHostBits, config.CodeIPv4Mapped, config.CodeResyncTooShort, config.CodeCIDRLimit, config.CodeContradiction,
	config.CodeUnreachable, config.CodeIneffective,
}

// TestSchema compares the schema for editors with the parser: what has no problem
// satisfies it, and what satisfies it has no other problems than those it cannot see.
func TestSchema(t *testing.T) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(config.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err = compiler.AddResource("config.schema.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("config.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	texts := seeds()
	data, err := os.ReadFile("testdata/conformance.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct{ Text string }
	if err = json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		texts = append(texts, c.Text)
	}
	texts = append(texts, edgeAndBatch,
		"resyncInterval: 1h30m5.5s\n", "resyncInterval: .5h\n", "resyncInterval: 1µs\n", "resyncInterval: +60s\n", "resyncInterval: -60s\n", "resyncInterval: \"0\"\n",
		"nonMasqueradeCIDRs: [\"::ffff:0:0/96\", \"fd00::1.2.0.0/112\", 0.0.0.0/0, 255.255.255.255/32, 1.2.3.4/031, 256.0.0.0/8, 1.2.3/8, 10.0.0.0, \"::/129\", \"1::2::/64\"]\n",
		"nodeOverrides: [{matchLabels: {a/b: c, x: \"\"}}]\n", "nodeOverrides: [{matchLabels: {A/b: c}}]\n", "nodeOverrides: [{masqLinkLocal: true}]\n")
	accepted, refused := 0, 0
	for _, text := range texts {
		asJSON, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			continue // no editor gets as far as the schema
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(asJSON)))
		if err != nil {
			t.Fatal(err)
		}
		_, problems := config.Parse([]byte(text))
		failure := schema.Validate(value)
		if failure == nil {
			accepted++
			for _, p := range problems {
				if exponent := p.Code == config.CodeWrongType && p.Text == "1e2"; exponent {
					continue // a whole number to a schema, and to agents none
				}
				if !slices.Contains(beyondSchema, p.Code) {
					t.Errorf("the schema accepts %q, which has %s: %s", text, p.Code, p)
				}
			}
			continue
		}
		refused++
		if len(problems) == 0 {
			t.Errorf("the schema refuses %q, which has no problem: %v", text, failure)
		}
	}
	if accepted < 20 || refused < 20 {
		t.Errorf("%d texts are accepted, %d refused: too few", accepted, refused)
	}
}
