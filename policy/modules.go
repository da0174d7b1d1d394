package policy

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"
)

// files holds one built-in rule a file with its test beside it; tests are left out
// when rules are loaded.
//
//go:embed rules schema samples/*.yaml
var files embed.FS

// root is the package that every rule is below.
const root = "ipmasq"

// libPackage is what built-in rules share.
const libPackage = "lib"

// entry is one set of violations that a rule offers: what the engine asks for.
type entry struct {
	rule    string // the id, or of custom rules their package below ipmasq
	action  Action // unless params say otherwise
	fixed   bool   // params do not change it: warnings beside denials
	builtin bool
	docs    string        // URL; may be empty
	query   string        // "data.ipmasq.no_overlap.deny"
	place   *ast.Location // where the set begins, for authors of rules
	guards  *guards       // tell when it need not be asked for
	behind  *atomic.Int32 // evaluations of it that were told to stop and have not
}

// builtinIDs are the ids of the built-in rules, sorted: the names of their files.
func builtinIDs() []string {
	var ids []string
	for _, file := range ruleFiles() {
		if path.Dir(file) == "rules" {
			ids = append(ids, strings.TrimSuffix(path.Base(file), ".rego"))
		}
	}
	return ids
}

// ruleFiles are the embedded Rego files without tests, sorted.
func ruleFiles() []string {
	var names []string
	for _, pattern := range []string{"rules/*.rego", "rules/lib/*.rego"} {
		matches, err := fs.Glob(files, pattern)
		if err != nil {
			panic(fmt.Sprintf("listing rules: %v", err)) // the pattern is a constant
		}
		names = append(names, matches...)
	}
	return slices.DeleteFunc(names, isTest)
}

func isTest(name string) bool { return strings.HasSuffix(name, "_test.rego") }

// isRules tells that a file decides.
func isRules(name string) bool { return strings.HasSuffix(name, ".rego") && !isTest(name) }

// parseModule reads one file of rules.
func parseModule(name string, text []byte) (*ast.Module, error) {
	module, err := ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{
		ProcessAnnotation: true,
		Capabilities:      capabilities(),
		RegoVersion:       ast.RegoV1,
	})
	if err != nil {
		return nil, explain(err)
	}
	if module == nil {
		return nil, &RuleError{File: name, Message: "no rules inside"}
	}
	return module, nil
}

// RuleError is one thing that is wrong with a file of rules.
type RuleError struct {
	File    string
	Line    int // counted from 1; 0: the file as a whole
	Column  int // in bytes, counted from 1; 0: the line as a whole
	Message string
}

// Error is "FILE:LINE:COLUMN: MESSAGE", as compilers write it.
func (e *RuleError) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		for _, number := range []int{e.Line, e.Column} {
			if number == 0 {
				break
			}
			fmt.Fprintf(&b, ":%d", number)
		}
		b.WriteString(": ")
	}
	return b.String() + e.Message
}

// ruleErrorf is a RuleError on a place.
func ruleErrorf(at *ast.Location, format string, args ...any) *RuleError {
	e := &RuleError{Message: fmt.Sprintf(format, args...)}
	if at != nil {
		e.File, e.Line, e.Column = at.File, at.Row, at.Col
	}
	return e
}

// explain makes one error of what the parser or compiler reports, a line each.
func explain(err error) error {
	var several ast.Errors
	var single *ast.Error
	switch {
	case errors.As(err, &several):
	case errors.As(err, &single):
		several = ast.Errors{single}
	default:
		return err
	}
	slices.SortStableFunc(several, func(a, b *ast.Error) int {
		if a.Location == nil || b.Location == nil {
			return 0
		}
		return cmp.Or(cmp.Compare(a.Location.File, b.Location.File), cmp.Compare(a.Location.Row, b.Location.Row))
	})
	lines := make([]error, len(several))
	for i, one := range several {
		lines[i] = explainCompile(one)
	}
	return errors.Join(lines...)
}

// builtinModules are the embedded rules, in a map of the caller's own. The modules are
// everybody's: compilers copy them.
func builtinModules() (map[string]*ast.Module, error) {
	modules, err := parseBuiltin()
	return maps.Clone(modules), err
}

//nolint:gochecknoglobals // what is embedded does not change
var parseBuiltin = sync.OnceValues(func() (map[string]*ast.Module, error) {
	modules := map[string]*ast.Module{}
	for _, name := range ruleFiles() {
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if modules[name], err = parseModule(name, text); err != nil {
			return nil, err
		}
	}
	return modules, nil
})

// customModules parses the owner's rules; tests among them are left out.
func customModules(sources []Source, builtin map[string]*ast.Module) (map[string]*ast.Module, error) {
	if len(sources) > maxSources {
		return nil, fmt.Errorf("%d files of rules, more than %d", len(sources), maxSources)
	}
	reserved := map[string]string{}
	for name, module := range builtin {
		reserved[packageOf(module)] = name
	}
	modules := map[string]*ast.Module{}
	var errs []error
	for _, source := range sources {
		if !isRules(source.Name) {
			continue
		}
		if len(source.Text) > maxSourceBytes {
			errs = append(errs, &RuleError{File: source.Name, Message: fmt.Sprintf("%d bytes, more than %d", len(source.Text), maxSourceBytes)})
			continue
		}
		module, err := parseModule(source.Name, source.Text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := checkPackage(module, reserved); err != nil {
			errs = append(errs, err)
			continue
		}
		if _, twice := modules[source.Name]; twice || builtin[source.Name] != nil {
			errs = append(errs, &RuleError{File: source.Name, Message: "two files have this name"})
			continue
		}
		modules[source.Name] = module
	}
	return modules, errors.Join(errs...)
}

// packageOf is the path of a module's package without data: "ipmasq.no_overlap".
func packageOf(module *ast.Module) string {
	return strings.TrimPrefix(module.Package.Path.String(), "data.")
}

// checkPackage tells whether custom rules may live in their package.
func checkPackage(module *ast.Module, reserved map[string]string) error {
	name := packageOf(module)
	at := module.Package.Location
	if !strings.HasPrefix(name, root+".") {
		return ruleErrorf(at, "package %s is not below %s; write package %s.<team>", name, root, root)
	}
	for _, other := range slices.Sorted(maps.Keys(reserved)) {
		if name == other || strings.HasPrefix(name, other+".") {
			return ruleErrorf(at, "package %s belongs to the built-in %s", name, reserved[other])
		}
	}
	for _, term := range module.Package.Path[2:] {
		part, ok := term.Value.(ast.String)
		if !ok || !isTeam(string(part)) {
			return ruleErrorf(at, "package %s: %s is not made of letters, digits, _ and -", name, term)
		}
	}
	return nil
}

// isTeam tells whether a part of a package path can stand in an id of a rule.
func isTeam(part string) bool {
	return part != "" && strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

func placeOf(location *ast.Location) string {
	if location == nil {
		return "rule"
	}
	return fmt.Sprintf("%s:%d", location.File, location.Row)
}

// builtinEntries are the sets of the built-in rules. What a rule has in deny has the
// rule's action; what it has in warn beside that is a warning whatever the action. A
// rule that has warn alone means its action by it.
func builtinEntries(modules map[string]*ast.Module, params Params) ([]entry, error) {
	var entries []entry
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		module := modules[name]
		if packageOf(module) == root+"."+libPackage {
			continue
		}
		meta, err := metadataOf(module)
		if err != nil {
			return nil, err
		}
		if own := params.Rules[meta.id]; own.Action == Off && own.Until.IsZero() {
			continue
		}
		sets, err := setsOf(module, string(Deny), string(Warn))
		if err != nil {
			return nil, err
		}
		for _, set := range slices.Sorted(maps.Keys(sets)) {
			e := entry{
				rule: meta.id, action: meta.action, builtin: true, docs: meta.docs,
				query: module.Package.Path.String() + "." + set, place: sets[set],
				behind: &atomic.Int32{},
			}
			if set == string(Warn) && len(sets) > 1 {
				e.action, e.fixed = Warn, true
			}
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// metadata is what the METADATA of a built-in rule's package tells.
type metadata struct {
	id, title, description, docs string
	mend                         string // what authors of a configuration do
	action                       Action
}

func metadataOf(module *ast.Module) (metadata, error) {
	at := placeOf(module.Package.Location)
	for _, a := range module.Annotations {
		if a.Scope != "package" {
			continue
		}
		id, _ := a.Custom["id"].(string)
		action, _ := a.Custom["action"].(string)
		mend, _ := a.Custom["mend"].(string)
		m := metadata{id: id, title: a.Title, description: a.Description, docs: docsIn(a), mend: mend, action: Action(action)}
		if packageOf(module) != root+"."+strings.ReplaceAll(id, "-", "_") || m.action != Deny && m.action != Warn {
			return metadata{}, fmt.Errorf("%s: METADATA without the custom id of the package, or without an action", at)
		}
		return m, nil
	}
	return metadata{}, fmt.Errorf("%s: no METADATA", at)
}

// docsIn is the first link of an annotation.
func docsIn(a *ast.Annotations) string {
	if len(a.RelatedResources) == 0 {
		return ""
	}
	return a.RelatedResources[0].Ref.String()
}

// customEntries are the sets that the owner's packages offer. A package that offers
// none and is read by no other is a mistake that would go unnoticed for ever.
func customEntries(modules map[string]*ast.Module) ([]entry, error) {
	packages := map[string][]*ast.Module{}
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		packages[packageOf(modules[name])] = append(packages[packageOf(modules[name])], modules[name])
	}
	var entries []entry
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		sets := map[string]*ast.Location{}
		docs := ""
		broken := false
		for _, module := range packages[name] {
			own, err := setsOf(module, "deny", "violation", "warn")
			broken = broken || err != nil
			errs = append(errs, err)
			for set, location := range own {
				if sets[set] == nil {
					sets[set] = location
				}
			}
			for _, a := range module.Annotations {
				if a.Scope == "package" && docs == "" {
					docs = docsIn(a)
				}
			}
		}
		if len(sets) == 0 && !broken && !isRead(packages[name][0].Package.Path, modules) {
			errs = append(errs, ruleErrorf(packages[name][0].Package.Location,
				"package %s offers none of deny, warn and violation, and no other package reads it", name))
		}
		for _, set := range slices.Sorted(maps.Keys(sets)) {
			e := entry{
				rule: strings.ReplaceAll(strings.TrimPrefix(name, root+"."), ".", "/"), action: Deny, docs: docs,
				query: packages[name][0].Package.Path.String() + "." + set, place: sets[set], behind: &atomic.Int32{},
			}
			if set == "warn" {
				e.action = Warn
			}
			entries = append(entries, e)
		}
	}
	return entries, errors.Join(errs...)
}

// setsOf finds which of the named sets a module defines, and where first.
func setsOf(module *ast.Module, names ...string) (map[string]*ast.Location, error) {
	sets := map[string]*ast.Location{}
	var errs []error
	for _, rule := range module.Rules {
		ref := rule.Head.Ref()
		if len(ref) == 0 {
			continue
		}
		name := strings.Trim(ref[0].String(), `"`)
		if !slices.Contains(names, name) {
			continue
		}
		if len(ref) != 1 || rule.Head.RuleKind() != ast.MultiValue || rule.Default || len(rule.Head.Args) > 0 {
			errs = append(errs, ruleErrorf(rule.Location, "%s is not a set; write %s contains message if { … }", name, name))
			continue
		}
		if sets[name] == nil {
			sets[name] = rule.Location
		}
	}
	return sets, errors.Join(errs...)
}

// isRead tells whether a module outside of the package refers to it.
func isRead(pkg ast.Ref, modules map[string]*ast.Module) bool {
	for _, module := range modules {
		if module.Package.Path.Equal(pkg) {
			continue
		}
		found := false
		ast.WalkRefs(module, func(ref ast.Ref) bool {
			found = found || ref.HasPrefix(pkg)
			return found
		})
		if found {
			return true
		}
	}
	return false
}

// partsRead are the parts of the input that custom rules refer to, of those that
// are costly to convert. It errs on the side of more: a reference to input as a
// whole, or with a variable, reads every part.
func partsRead(modules map[string]*ast.Module) map[string]bool {
	read := map[string]bool{}
	for _, module := range modules {
		ast.WalkRefs(module, func(ref ast.Ref) bool {
			if !ref.HasPrefix(ast.InputRootRef) {
				return false
			}
			for _, part := range []string{partConfig, partOld, partCluster} {
				if len(ref) < 2 || ref[1].Value.Compare(ast.String(part)) == 0 || !ref[1].IsGround() {
					read[part] = true
				}
			}
			return false
		})
	}
	return read
}

// Schema is the JSON Schema of the input of rules, version 1, as opa check --schema reads it.
func Schema() []byte {
	text, err := files.ReadFile("schema/input.json")
	if err != nil {
		panic(fmt.Sprintf("reading the input schema: %v", err)) // embedded
	}
	return text
}

func schemaSet(schema any) *ast.SchemaSet {
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, schema)
	return set
}

func decodedSchema() any {
	var schema any
	if err := util.NewJSONDecoder(bytes.NewReader(Schema())).Decode(&schema); err != nil {
		panic(fmt.Sprintf("decoding the input schema: %v", err)) // embedded
	}
	return schema
}

// nonNull is a schema without the null of what may be null.
func nonNull(schema any) any {
	switch schema := schema.(type) {
	case map[string]any:
		if either, ok := schema["anyOf"].([]any); ok && len(either) == 2 {
			return nonNull(either[0]) // null stands second throughout the schema
		}
		without := map[string]any{}
		for key, value := range schema {
			without[key] = nonNull(value)
		}
		return without
	case []any:
		without := make([]any, len(schema))
		for i, value := range schema {
			without[i] = nonNull(value)
		}
		return without
	default:
		return schema
	}
}

// checkRefs finds references to what the input does not have, which would be
// undefined for ever. OPA's type checker knows no null: it takes what may be null for
// anything, and finds nothing below. So this looks at the input as if nothing were
// null, and only for such references, since other errors of types, as in a
// comparison with null, come from that.
func checkRefs(modules map[string]*ast.Module) error {
	compiler := ast.NewCompiler().WithCapabilities(capabilities()).WithSchemas(schemaSet(nonNull(decodedSchema()))).
		WithOnlyStagesUpTo(ast.StageCheckTypes)
	compiler.SetErrorLimit(0)
	compiler.Compile(modules)
	undefined := slices.DeleteFunc(compiler.Errors, func(err *ast.Error) bool {
		return err.Code != ast.TypeErr || !strings.HasPrefix(err.Message, "undefined ref: ")
	})
	if len(undefined) == 0 {
		return nil
	}
	return explain(undefined)
}

// checkDataRefs finds references of custom rules to data that no file has, and to rules that no
// module has: undefined for ever, they would switch a rule off without a word. Inside of data
// a key may be missing on purpose.
func checkDataRefs(compiler *ast.Compiler, custom map[string]*ast.Module, data map[string]any) error {
	var errs []error
	told := map[string]bool{}
	check := func(ref ast.Ref) bool {
		if !ref.HasPrefix(ast.DefaultRootRef) || len(ref) < 2 {
			return false
		}
		key, ok := ref[1].Value.(ast.String)
		if _, known := data[string(key)]; known || !ok {
			return false
		}
		ground := ref.GroundPrefix()
		at, why := ref[1].Location, fmt.Sprintf("no data.json has the key %q%s", string(key), meant(string(key), data))
		if string(key) == root {
			if len(compiler.GetRules(ground)) > 0 {
				return false
			}
			// The first terms may be those of an import.
			at, why = ground[len(ground)-1].Location, "no package has such a rule"
		}
		err := ruleErrorf(at, "undefined ref: %s: %s", ground, why)
		if !told[err.Error()] {
			told[err.Error()] = true
			errs = append(errs, err)
		}
		return false
	}
	for _, name := range slices.Sorted(maps.Keys(custom)) {
		for _, rule := range compiler.Modules[name].Rules {
			ast.WalkRefs(rule, check)
		}
	}
	return errors.Join(errs...)
}

// Titles are what the built-in rules want, in a line each, by their ids.
func Titles() map[string]string {
	modules, err := builtinModules()
	if err != nil {
		panic(fmt.Sprintf("reading built-in rules: %v", err)) // they are part of the program
	}
	titles := map[string]string{
		ruleLoads:  "Agents load the configuration",
		ruleEngine: "The write could be judged",
	}
	for _, module := range modules {
		if meta, err := metadataOf(module); err == nil { // all but the library have it
			titles[meta.id] = meta.title
		}
	}
	return titles
}
