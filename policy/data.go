package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// dataFile is the name of files whose top keys rules read as data.<key>, as stock opa
// reads them: registers, lists of owners and the like.
const dataFile = "data.json"

// paramsFile is the name of files of params for the custom rules beside it alone.
const paramsFile = "params.yaml"

func isParams(name string) bool { return path.Base(name) == paramsFile }

// join adds the params files among sources: actions and exceptions of custom rules, and
// keys of custom that nobody has. What is not theirs to set is an error.
func (p Params) join(sources []Source) (Params, error) {
	var errs []error
	fail := func(source Source, format string, args ...any) {
		errs = append(errs, &RuleError{File: source.Name, Message: fmt.Sprintf(format, args...)})
	}
	for _, source := range sources {
		if !isParams(source.Name) {
			continue
		}
		own, err := ParseParams(source.Text)
		if err != nil {
			fail(source, "%v", err)
			continue
		}
		rules, waivers, custom := own.Rules, own.Waivers, own.Custom
		own.Rules, own.Waivers, own.Custom = nil, nil, nil
		if !reflect.DeepEqual(own, Params{}) {
			fail(source, "only rules, exceptions and custom can be set beside rules; the rest is the webhook's --params")
		}
		merged := maps.Clone(p.Rules)
		for _, id := range slices.Sorted(maps.Keys(rules)) {
			_, taken := merged[id]
			switch {
			case !strings.Contains(id, "/"):
				fail(source, "rules.%s: a built-in rule is set by the webhook's --params", id)
			case taken:
				fail(source, "rules.%s: it is set elsewhere already", id)
			default:
				if merged == nil {
					merged = map[string]RuleParams{}
				}
				merged[id] = rules[id]
			}
		}
		p.Rules = merged
		for _, w := range waivers {
			if !strings.Contains(w.Rule, "/") {
				fail(source, "exceptions: %s is a built-in rule, whose exceptions are in the webhook's --params", w.Rule)
			}
		}
		p.Waivers = append(slices.Clip(p.Waivers), waivers...)
		joined := maps.Clone(p.Custom)
		for _, key := range slices.Sorted(maps.Keys(custom)) {
			if _, taken := joined[key]; taken {
				fail(source, "custom.%s: it is set elsewhere already", key)
				continue
			}
			if joined == nil {
				joined = map[string]any{}
			}
			joined[key] = custom[key]
		}
		p.Custom = joined
	}
	return p, errors.Join(errs...)
}

// checkOwnParams tells of actions and exceptions in params files that are not for a rule in
// the same directory or below it: those of other authors are not theirs to set.
func checkOwnParams(sources []Source, custom map[string]*ast.Module) error {
	var errs []error
	for _, source := range sources {
		if !isParams(source.Name) {
			continue
		}
		own, err := ParseParams(source.Text)
		if err != nil {
			return err // join has told it better
		}
		beside := map[string]bool{}
		for name, module := range custom {
			if directory := path.Dir(source.Name); directory == "." || strings.HasPrefix(name, directory+"/") {
				beside[idOf(module)] = true
			}
		}
		check := func(field, id string) {
			pkg, all := strings.CutSuffix(id, everyRule)
			for offered := range beside {
				if pkg == offered || strings.HasPrefix(pkg, offered+"/") && !all || strings.HasPrefix(offered, pkg+"/") && all {
					return
				}
			}
			errs = append(errs, &RuleError{File: source.Name, Message: fmt.Sprintf("%s: no package beside this file offers the rule %q; write package/rule, or package%s", field, id, everyRule)})
		}
		for _, id := range slices.Sorted(maps.Keys(own.Rules)) {
			check("rules", id)
		}
		for i, w := range own.Waivers {
			check(fmt.Sprintf("exceptions[%d]", i), w.Rule)
		}
	}
	return errors.Join(errs...)
}

func isData(name string) bool { return path.Base(name) == dataFile }

// reservedData are keys of data that are taken.
//
//nolint:gochecknoglobals // a constant in all but the language
var reservedData = []string{root, "schemas", "system"}

// dataOf joins the data of all sources. Two files cannot both have a key: who reads it
// could not tell whose it is.
func dataOf(sources []Source) (map[string]any, error) {
	all := map[string]any{}
	owner := map[string]string{}
	var errs []error
	for _, source := range sources {
		if !isData(source.Name) {
			continue
		}
		own, err := readData(source)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(own)) {
			switch {
			case slices.Contains(reservedData, key):
				errs = append(errs, &RuleError{File: source.Name, Message: fmt.Sprintf("the key %q is taken by the rules themselves; choose another", key)})
			case owner[key] != "":
				errs = append(errs, &RuleError{File: source.Name, Message: fmt.Sprintf("the key %q is in %s already; choose another", key, owner[key])})
			default:
				all[key], owner[key] = own[key], source.Name
			}
		}
	}
	return all, errors.Join(errs...)
}

func readData(source Source) (map[string]any, error) {
	if len(source.Text) > maxSourceBytes {
		return nil, &RuleError{File: source.Name, Message: fmt.Sprintf("%d bytes, more than %d", len(source.Text), maxSourceBytes)}
	}
	decoder := json.NewDecoder(bytes.NewReader(source.Text))
	decoder.UseNumber()
	var own map[string]any
	err := decoder.Decode(&own)
	if err == nil {
		if _, trailing := decoder.Token(); !errors.Is(trailing, io.EOF) {
			err = errors.New("more than one JSON value")
		}
	}
	if err != nil {
		offset := decoder.InputOffset()
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			offset = syntax.Offset
		}
		line := 1 + bytes.Count(source.Text[:min(int(offset), len(source.Text))], []byte("\n"))
		return nil, &RuleError{File: source.Name, Line: line, Message: fmt.Sprintf("reading JSON: %v; write an object, whose keys rules read as data.<key>", err)}
	}
	if number, err := oddNumber(own); err != nil {
		line := 1 + bytes.Count(source.Text[:max(0, bytes.Index(source.Text, []byte(number)))], []byte("\n"))
		return nil, &RuleError{File: source.Name, Line: line, Message: fmt.Sprintf("reading JSON: %s: %v", cut(string(number), maxDetailRunes), err)}
	}
	return own, nil
}

// oddNumber is the first number that rules cannot have, and why. JSON has no bound for
// them, rules do: 1e999999 has a million digits.
func oddNumber(value any) (json.Number, error) {
	switch value := value.(type) {
	case json.Number:
		if _, err := ast.NumberChecked(string(value)); err != nil {
			return value, err
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if number, err := oddNumber(value[key]); err != nil {
				return number, err
			}
		}
	case []any:
		for _, element := range value {
			if number, err := oddNumber(element); err != nil {
				return number, err
			}
		}
	}
	return "", nil
}
