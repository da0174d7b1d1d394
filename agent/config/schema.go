package config

import (
	_ "embed"
	"slices"
)

//go:embed config.schema.json
var schema []byte

// Schema is the JSON Schema of the text, for editors (2020-12). What Parse has nothing to
// say of satisfies it.
func Schema() []byte { return slices.Clone(schema) }
