package policy

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// allowedBuiltins is what rules may call: functions of their arguments alone that
// end soon, or stop at the deadline. Everything else is absent from the language,
// so a rule that wants it does not compile. The list is by name, not by exclusion:
// what a newer OPA adds stays out until somebody has looked at it.
//
//nolint:gochecknoglobals // a constant in all but the language
var allowedBuiltins = strings.Fields(`
	abs and array.concat array.flatten array.reverse array.slice assign
	base64.decode base64.encode base64.is_valid bits.and bits.negate bits.or bits.rsh bits.xor
	ceil concat contains count crypto.sha256 div endswith eq equal floor format_int
	glob.match glob.quote_meta graph.reachable gt gte hex.decode hex.encode indexof indexof_n
	internal.member_2 internal.member_3 internal.print internal.template_string internal.test_case
	intersection is_array is_boolean is_null is_number is_object is_set is_string
	json.filter json.is_valid json.marshal json.patch json.remove json.unmarshal
	lower lt lte max min minus mul neq
	net.cidr_contains net.cidr_intersects net.cidr_is_valid numbers.range numbers.range_step
	object.filter object.get object.keys object.remove object.subset object.union object.union_n
	or plus print product
	regex.find_all_string_submatch_n regex.find_n regex.is_valid regex.match regex.replace regex.split
	rego.metadata.chain rego.metadata.rule rem replace round semver.compare semver.is_valid set_diff sort
	split sprintf startswith strings.any_prefix_match strings.any_suffix_match strings.count
	strings.reverse strings.split_n substring sum
	time.add_date time.clock time.date time.diff time.format time.parse_duration_ns time.parse_ns
	time.parse_rfc3339_ns time.weekday to_number
	trim trim_left trim_prefix trim_right trim_space trim_suffix type_name union upper walk
`)

// bannedReasons tells why, for the built-ins that authors ask for; a name ending in
// a dot stands for the whole group.
//
//nolint:gochecknoglobals // a constant in all but the language
var bannedReasons = []struct{ name, reason string }{
	{"http.send", "decisions must not depend on the network"},
	{"net.lookup_ip_addr", "decisions must not depend on the network"},
	{"opa.runtime", "decisions must not depend on the environment of the webhook"},
	{"time.now_ns", "decisions must be repeatable; read input.request.time"},
	{"rand.", "decisions must be repeatable"},
	{"uuid.", "decisions must be repeatable"},
	{"net.cidr_contains_matches", "it ignores the deadline; read input.derived.overlaps and input.derived.uncovered"},
	{"net.cidr_expand", "it lists every address of a range; use net.cidr_contains"},
	{"net.cidr_merge", "it loses IPv4 ranges beside ::/0; read input.derived"},
	{"bits.lsh", "it ignores the deadline"},
	{"units.", "it ignores the deadline"},
	{"strings.replace_n", "it can fill the memory"},
	{"strings.render_template", "it can fill the memory"},
	{"yaml.", "agents read YAML 1.1 and OPA reads 1.2; read input.config"},
	{"io.jwt.", "a configuration carries no tokens"},
	{"crypto.", "a configuration carries no certificates; crypto.sha256 is there"},
	{"graphql.", "a configuration carries no GraphQL"},
	{"providers.aws.", "decisions must not depend on the network"},
	{"rego.parse_module", "a configuration carries no Rego"},
	{"json.match_schema", "it can fetch schemas from the network"},
	{"json.verify_schema", "it can fetch schemas from the network"},
}

// capabilities is the language that rules are written in.
func capabilities() *ast.Capabilities {
	all := ast.CapabilitiesForThisVersion()
	all.Builtins = slices.DeleteFunc(slices.Clone(all.Builtins), func(b *ast.Builtin) bool {
		return !slices.Contains(allowedBuiltins, b.Name)
	})
	all.AllowNet = []string{} // not nil: nil allows every host
	return all
}

// Capabilities is the language that rules are written in, as the JSON that
// opa check --capabilities and opa test --capabilities read.
func Capabilities() []byte {
	text, err := json.MarshalIndent(capabilities(), "", "  ")
	if err != nil {
		panic(fmt.Sprintf("encoding capabilities: %v", err)) // plain data, always encodable
	}
	return append(text, '\n')
}

var undefinedFunction = regexp.MustCompile(`undefined function ([\w.]+)`)

// localVariable is what the compiler calls an index that the author did not name.
var localVariable = regexp.MustCompile(`\[__local\d+__\]`)

type remedy struct{ says, remedy string }

// lastArgument is that of the arguments that a function wants.
var lastArgument = regexp.MustCompile(`, \w+: [^:]*\)$`)

// quoted are the names in a list of the compiler.
var quoted = regexp.MustCompile(`"([^"]+)"`)

// details are what the compiler found and what it wants. Of a call it counts the result
// among the arguments, which its author does not.
func details(lines []string) string {
	told, wrong := "", ""
	counted := false
	for _, line := range lines {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, `have: "`): // part of the reference that the message has
			wrong = strings.Trim(line[len("have: "):], `"`)
			continue
		case strings.HasPrefix(line, "want (one of): "):
			for _, name := range quoted.FindAllStringSubmatch(line, -1) {
				if similar(strings.ToLower(wrong), strings.ToLower(name[1])) {
					line += "; did you mean " + name[1] + "?"
					break
				}
			}
		case strings.HasPrefix(line, "have: ("):
			line, counted = strings.CutSuffix(line, ", ???)")
			if counted {
				line += ")"
			}
		case strings.HasPrefix(line, "left ") || strings.HasPrefix(line, "right "): // types that never match
			line = strings.Join(strings.Fields(line), " ")
		case strings.HasPrefix(line, "want: (") && counted:
			line = lastArgument.ReplaceAllString(line, ")")
		case !strings.HasPrefix(line, "want"):
			continue
		}
		told += ", " + line
	}
	return told
}

// remedies are for messages of the compiler that leave their reader alone.
func remedies() []remedy {
	return []remedy{
		{"`if` keyword is required", "rules are Rego version 1: opa fmt --v0-v1 --write makes it of older files"},
		{"`contains` keyword is required", "write deny contains v if { … }"},
		{"package annotation redeclared", "the METADATA of a package stands in one of its files"},
		{"yaml: ", "the comments below # METADATA are YAML, where a text with a colon stands in quotes"},
	}
}

// explainCompile tells a compile error, with the reason where the rule calls what is left
// out on purpose.
func explainCompile(err *ast.Error) *RuleError {
	message := localVariable.ReplaceAllString(err.Message, "")
	if match := undefinedFunction.FindStringSubmatch(message); match != nil {
		if ast.BuiltinMap[match[1]] != nil {
			message = match[1] + " is disabled: rules have the functions that kubectl masq capabilities lists"
		}
		for _, banned := range bannedReasons {
			if match[1] == banned.name || strings.HasSuffix(banned.name, ".") && strings.HasPrefix(match[1], banned.name) {
				message = fmt.Sprintf("%s is disabled: %s", match[1], banned.reason)
				break
			}
		}
	}
	if err.Details != nil {
		message += details(err.Details.Lines())
	}
	for _, known := range remedies() {
		if strings.Contains(message, known.says) {
			message += "; " + known.remedy
		}
	}
	told := &RuleError{Message: message}
	if err.Location != nil {
		told.File, told.Line, told.Column = err.Location.File, err.Location.Row, err.Location.Col
	}
	return told
}
