package config

import (
	"math"
	"regexp"
	"strconv"
	"strings"
)

// kind is the type of a value, as JSON has them.
type kind uint8

const (
	nullKind kind = iota
	boolKind
	numberKind
	stringKind
	listKind
	mappingKind
	brokenKind // a Problem has been reported already
)

func (k kind) String() string {
	return [...]string{"null", "a boolean", "a number", "text", "a list", "a mapping", "broken"}[k]
}

// value is a value of the text.
type value struct {
	kind kind
	text string  // of a string its content, of other scalars how they are spelled
	json string  // of a number or boolean, the way JSON spells it: "8" for 010
	list []value // of a list its elements

	keys   []string // of a mapping the names of its fields, and these
	fields []field

	at Position
}

// yamlFloat is what YAML 1.1 takes for a number if it is not an integer.
var yamlFloat = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)

// resolve gives a plain scalar the type that the upstream agent's loader,
// go.yaml.in/yaml/v2, gives it. A number that JSON cannot express is of
// brokenKind.
func resolve(s string) (_ kind, json string) {
	if s == "" {
		return nullKind, ""
	}
	switch c := s[0]; {
	case strings.IndexByte("yYnNtTfFoO~", c) >= 0:
		return resolveWord(s)
	case c == '.', c == '+', c == '-', '0' <= c && c <= '9':
		return resolveNumber(s)
	}
	return stringKind, ""
}

func resolveWord(s string) (_ kind, json string) {
	switch s {
	case "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON":
		return boolKind, "true"
	case "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF":
		return boolKind, "false"
	case "~", "null", "Null", "NULL":
		return nullKind, ""
	}
	return stringKind, ""
}

// resolveNumber reads integers in the bases that a prefix 0, 0x, 0o or 0b names,
// with underscores anywhere, and floats.
func resolveNumber(s string) (_ kind, json string) {
	switch s {
	case ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF", ".nan", ".NaN", ".NAN":
		return brokenKind, ""
	}
	for i := range len(s) { // most scalars here are CIDRs and durations: tell them early
		if strings.IndexByte("0123456789abcdefABCDEFxXoO._+-", s[i]) < 0 {
			return stringKind, ""
		}
	}
	if s[0] == '.' {
		f, err := strconv.ParseFloat(s, 64)
		return float(f, err)
	}
	plain := strings.ReplaceAll(s, "_", "")
	if i, err := strconv.ParseInt(plain, 0, 64); err == nil {
		return numberKind, strconv.FormatInt(i, 10)
	}
	if u, err := strconv.ParseUint(plain, 0, 64); err == nil {
		return numberKind, strconv.FormatUint(u, 10)
	}
	if yamlFloat.MatchString(plain) {
		if f, err := strconv.ParseFloat(plain, 64); err == nil {
			return float(f, nil)
		}
	}
	// The loader cuts these prefixes off itself, so 0b-1 is a number too.
	if digits, ok := strings.CutPrefix(plain, "0b"); ok {
		if i, err := strconv.ParseInt(digits, 2, 64); err == nil {
			return numberKind, strconv.FormatInt(i, 10)
		}
	}
	return stringKind, ""
}

// float spells a float as encoding/json does.
func float(f float64, err error) (_ kind, json string) {
	if err != nil {
		return stringKind, ""
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return numberKind, strconv.FormatFloat(f, format, -1, 64)
}

func isUint64(s string) bool {
	if _, err := strconv.ParseInt(s, 0, 64); err == nil {
		return false
	}
	_, err := strconv.ParseUint(s, 0, 64)
	return err == nil
}

// resolveTagged gives a scalar the type that a tag demands, brokenKind if it does
// not fit. Tags that no configuration needs do not fit anything.
func resolveTagged(tag, s string) (_ kind, json string) {
	k, json := resolve(s)
	switch tag {
	case "!!str":
		return stringKind, ""
	case "!!null":
		if k == nullKind {
			return k, ""
		}
	case "!!bool":
		if k == boolKind {
			return k, json
		}
	case "!!int":
		if i, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 0, 64); err == nil && k == numberKind {
			return numberKind, strconv.FormatInt(i, 10)
		}
	case "!!float":
		plain := strings.ReplaceAll(s, "_", "")
		if i, err := strconv.ParseInt(plain, 0, 64); err == nil && k == numberKind {
			return float(float64(i), nil)
		}
		if k == numberKind && !isUint64(plain) {
			return k, json
		}
	}
	return brokenKind, ""
}
