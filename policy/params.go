package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// maxParamsBytes bounds a params file, which is a mounted ConfigMap as well.
const maxParamsBytes = 1 << 20

// Params is what a cluster owner sets: cluster ranges, agent flags, and for each
// rule its action and bounds. The zero Params holds every default. Treat it as
// read-only; an Engine keeps what it was made with. The file format is:
//
//	cluster:                       # beside what the API knows; absent and unknown to the API: unknown
//	  nodeCIDRs: [192.168.0.0/24]
//	  podCIDRs: [10.244.0.0/16]
//	  serviceCIDRs: [10.96.0.0/12]
//	consumer: ip-masq-guard        # who reads the ConfigMap on the nodes; or ip-masq-agent, cilium: a text has the meaning that it has to them
//	agent:                         # the flags the agents run with; of no account to cilium
//	  ipv6: false                  # --enable-ipv6
//	  reservedRanges: false        # --nomasq-all-reserved-ranges
//	configDirectory: false         # true: agents run with --config-dir, so every key that begins with ip-masq is merged
//	requireClusterRanges: false    # true: unknown ranges are judged as ranges that the list lacks, not a mere warning
//	rules:
//	  no-overlap: {action: warn}   # deny, warn or off; each rule has its own default
//	  no-duplicate: {action: off, until: 2026-12-31}  # the last day, or a moment; then the default again
//	  payments/no-public: {action: warn}  # a custom rule, or all of its package: payments/*
//	  resync-bounds: {action: deny, min: 5s, max: 1h}
//	  cidr-limit: {action: deny, max: 64}
//	exceptions:                    # each makes a warning of what a rule would deny
//	  - {rule: no-overlap, cidr: 10.9.0.0/16, reason: "moving DC 2", until: 2026-12-31}
//	  - {rule: resync-bounds, path: resyncInterval, reason: "load test", until: 2026-12-01T18:00:00Z}
//	ruleSets:                      # how sets of custom rules are judged when they are written
//	  liveDenied: warn             # warn or deny a set that would deny the stored configuration
//	  untested: warn               # warn, deny or off: a set without tests
//	custom: {}                     # handed to custom rules as input.params.custom
type Params struct {
	Cluster              ClusterRanges
	Consumer             config.Consumer
	Agent                config.Options // see flags
	RequireClusterRanges bool
	ConfigDirectory      bool
	Rules                map[string]RuleParams // by rule id; an absent rule has its defaults
	Waivers              []Waiver
	RuleSets             RuleSetParams
	Custom               map[string]any // what JSON can hold
}

// RuleSetParams are how sets of custom rules are judged when they are written.
type RuleSetParams struct {
	LiveDenied Action // of a set that would deny the stored configuration: Warn (the default) or Deny
	Untested   Action // of a set without tests: Warn (the default), Deny or Off
}

// ClusterRanges are the ranges an owner states. A nil slice states nothing; an
// empty one states that the cluster has none of the kind.
type ClusterRanges struct {
	Node    []netip.Prefix
	Pod     []netip.Prefix
	Service []netip.Prefix
}

// RuleParams are the settings of one rule. A zero field is the rule's default.
type RuleParams struct {
	Action   Action
	Until    time.Time     // when Action ends and the rule's default is back; zero: never
	Min, Max time.Duration // of resync-bounds
	MaxCount int           // of cidr-limit
}

// Bounds of the rules that have some, where params do not say otherwise.
const (
	defaultResyncMin = 5 * time.Second // below, agents spend their time in iptables-restore
	defaultResyncMax = time.Hour       // above, drift stays for hours
	defaultMaxCount  = 64              // the upstream agent's own default for cidrLimit
)

// Ids of rules whose params have bounds beside the action.
const (
	ruleResyncBounds = "resync-bounds"
	ruleCIDRLimit    = "cidr-limit"
)

// ParseParams reads a params file (YAML); unknown keys, rules and actions are errors
// that name them, all of them at once. No text is the default Params.
func ParseParams(text []byte) (Params, error) {
	if len(text) > maxParamsBytes {
		return Params{}, fmt.Errorf("reading params: %d bytes, more than %d", len(text), maxParamsBytes)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return Params{}, nil
	} else if err != nil {
		return Params{}, fmt.Errorf("reading params: %w", err)
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return Params{}, errors.New("reading params: more than one YAML document")
	}
	var reader paramsReader
	params := reader.params(document.Content[0])
	if err := errors.Join(reader.errs...); err != nil {
		return Params{}, fmt.Errorf("reading params: %w", err)
	}
	return params, nil
}

// paramsReader walks the nodes of a params file and keeps every error, so that an
// owner mends the file once.
type paramsReader struct{ errs []error }

func (r *paramsReader) fail(node *yaml.Node, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("line %d: %s", node.Line, fmt.Sprintf(format, args...)))
}

func (r *paramsReader) params(root *yaml.Node) Params {
	var params Params
	r.mapping(root, "", fields{
		"cluster": func(path string, value *yaml.Node) {
			r.mapping(value, path, fields{
				"nodeCIDRs":    r.prefixes(&params.Cluster.Node),
				"podCIDRs":     r.prefixes(&params.Cluster.Pod),
				"serviceCIDRs": r.prefixes(&params.Cluster.Service),
			})
		},
		"agent": func(path string, value *yaml.Node) {
			r.mapping(value, path, fields{
				"ipv6":           r.boolean(&params.Agent.IPv6),
				"reservedRanges": r.boolean(&params.Agent.ReservedRanges),
			})
		},
		"consumer":             r.consumer(&params.Consumer),
		"requireClusterRanges": r.boolean(&params.RequireClusterRanges),
		"configDirectory":      r.boolean(&params.ConfigDirectory),
		"rules": func(path string, value *yaml.Node) {
			params.Rules = map[string]RuleParams{}
			known := fields{}
			for _, id := range builtinIDs() {
				known[id] = func(path string, value *yaml.Node) { params.Rules[id] = r.rule(id, path, value) }
			}
			for _, id := range customIDs(value) {
				known[id] = func(path string, value *yaml.Node) { params.Rules[id] = r.rule(id, path, value) }
			}
			r.mapping(value, path, known)
		},
		"ruleSets": func(path string, value *yaml.Node) {
			r.mapping(value, path, fields{
				"liveDenied": r.action(&params.RuleSets.LiveDenied, Warn, Deny),
				"untested":   r.action(&params.RuleSets.Untested, Warn, Deny, Off),
			})
		},
		"exceptions": func(path string, value *yaml.Node) { params.Waivers = r.waivers(path, value) },
		"custom":     func(path string, value *yaml.Node) { params.Custom = r.custom(path, value) },
	})
	return params
}

// fields maps each key that a mapping may have to what reads its value.
type fields map[string]func(path string, value *yaml.Node)

func (r *paramsReader) mapping(node *yaml.Node, path string, known fields) {
	node = resolve(node)
	if isNull(node) {
		return
	}
	if node.Kind != yaml.MappingNode {
		r.fail(node, "%s: not a mapping", orParams(path))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		at := join(path, key.Value)
		read, ok := known[key.Value]
		switch {
		case seen[key.Value]:
			r.fail(key, "%s: set twice", at)
		case ok:
			read(at, value)
		default:
			r.fail(key, "%s: unknown%s", at, suggestion(key.Value, known))
		}
		seen[key.Value] = true
	}
}

func (r *paramsReader) consumer(target *config.Consumer) func(string, *yaml.Node) {
	return func(path string, value *yaml.Node) {
		value = resolve(value)
		var names []string
		for _, consumer := range config.Consumers() {
			if value.Value == consumer.String() {
				*target = consumer
				return
			}
			names = append(names, consumer.String())
		}
		r.fail(value, "%s: %q is none of %s", path, value.Value, strings.Join(names, ", "))
	}
}

func (r *paramsReader) boolean(target *bool) func(string, *yaml.Node) {
	return func(path string, value *yaml.Node) {
		value = resolve(value)
		if value.Kind != yaml.ScalarNode || value.Tag != "!!bool" {
			r.fail(value, "%s: %q is not true or false", path, value.Value)
			return
		}
		if err := value.Decode(target); err != nil {
			r.fail(value, "%s: %v", path, err)
		}
	}
}

func (r *paramsReader) prefixes(target *[]netip.Prefix) func(string, *yaml.Node) {
	return func(path string, value *yaml.Node) {
		value = resolve(value)
		if isNull(value) {
			return
		}
		if value.Kind != yaml.SequenceNode {
			r.fail(value, "%s: not a list", path)
			return
		}
		*target = make([]netip.Prefix, 0, len(value.Content))
		for i, element := range value.Content {
			element = resolve(element)
			at := fmt.Sprintf("%s[%d]", path, i)
			prefix, err := netip.ParsePrefix(element.Value)
			switch {
			case err != nil && netip.Addr.IsValid(addressOf(element.Value)):
				r.fail(element, "%s: %q has no prefix length; write %s", at, element.Value, single(addressOf(element.Value)))
			case err != nil:
				r.fail(element, "%s: %q is not a CIDR", at, element.Value)
			case prefix.Addr().Is4In6():
				r.fail(element, "%s: %q is an IPv4 range in IPv6 notation", at, element.Value)
			case prefix != prefix.Masked():
				r.fail(element, "%s: %q has host bits set; write %s", at, element.Value, prefix.Masked())
			default:
				*target = append(*target, prefix)
			}
		}
	}
}

func (r *paramsReader) rule(id, path string, value *yaml.Node) RuleParams {
	var rule RuleParams
	known := fields{
		"action": func(path string, value *yaml.Node) {
			rule.Action = Action(resolve(value).Value)
			if !slices.Contains([]Action{Deny, Warn, Off}, rule.Action) {
				// YAML 1.1 readers take a bare off for false; yaml.v3 keeps the text.
				r.fail(value, "%s: %q is not deny, warn or off", path, value.Value)
			}
		},
	}
	known["until"] = r.until(&rule.Until)
	switch id {
	case ruleResyncBounds:
		known["min"] = r.duration(&rule.Min)
		known["max"] = r.duration(&rule.Max)
	case ruleCIDRLimit:
		known["max"] = func(path string, value *yaml.Node) {
			n, err := strconv.Atoi(resolve(value).Value)
			if err != nil || n < 1 || n > config.MaxCIDRs {
				r.fail(value, "%s: %q is not a number from 1 to %d", path, value.Value, config.MaxCIDRs)
				return
			}
			rule.MaxCount = n
		}
	}
	r.mapping(value, path, known)
	if rule.Action == "" && !rule.Until.IsZero() {
		r.fail(value, "%s: until without an action that would end then", path)
	}
	if least, most := rule.resyncBounds(); least > most {
		r.fail(value, "%s: min %s is above max %s", path, least, most)
	}
	return rule
}

// customIDs are the keys of rules that can only be custom rules or their packages. Whether
// there are such rules is known when they are compiled.
func customIDs(rules *yaml.Node) []string {
	var ids []string
	rules = resolve(rules)
	if rules.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(rules.Content); i += 2 {
		id := rules.Content[i].Value
		name := strings.TrimSuffix(id, everyRule)
		if strings.Contains(id, "/") && !slices.ContainsFunc(strings.Split(name, "/"), func(part string) bool { return !isTeam(part) }) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (r *paramsReader) action(target *Action, choice ...Action) func(string, *yaml.Node) {
	return func(path string, value *yaml.Node) {
		if *target = Action(resolve(value).Value); !slices.Contains(choice, *target) {
			r.fail(value, "%s: %q is none of %s", path, value.Value, strings.Trim(fmt.Sprint(choice), "[]"))
		}
	}
}

func (r *paramsReader) until(target *time.Time) func(string, *yaml.Node) {
	return func(path string, value *yaml.Node) {
		until, err := parseUntil(resolve(value).Value)
		if err != nil {
			r.fail(value, "%s: %v", path, err)
			return
		}
		*target = until
	}
}

// maxWaivers bounds the exceptions of a params file.
const maxWaivers = 1000

func (r *paramsReader) waivers(path string, value *yaml.Node) []Waiver {
	value = resolve(value)
	if isNull(value) {
		return nil
	}
	if value.Kind != yaml.SequenceNode || len(value.Content) > maxWaivers {
		r.fail(value, "%s: not a list of at most %d", path, maxWaivers)
		return nil
	}
	var waivers []Waiver
	for i, element := range value.Content {
		waivers = append(waivers, r.waiver(fmt.Sprintf("%s[%d]", path, i), element))
	}
	return waivers
}

func (r *paramsReader) waiver(path string, value *yaml.Node) Waiver {
	var w Waiver
	text := func(target *string) func(string, *yaml.Node) {
		return func(_ string, value *yaml.Node) { *target = strings.TrimSpace(resolve(value).Value) }
	}
	before := len(r.errs)
	r.mapping(value, path, fields{
		"rule":   text(&w.Rule),
		"path":   text(&w.Path),
		"reason": text(&w.Reason),
		"until":  r.until(&w.Until),
		"cidr": func(path string, value *yaml.Node) {
			var one []netip.Prefix
			r.prefixes(&one)(path, &yaml.Node{Kind: yaml.SequenceNode, Line: value.Line, Content: []*yaml.Node{value}})
			if len(one) == 1 {
				w.CIDR = one[0]
			}
		},
	})
	if len(r.errs) > before {
		return w
	}
	switch {
	case w.Rule == "":
		r.fail(value, "%s: no rule; name the rule that the exception is from", path)
	case w.Rule == ruleLoads || w.Rule == ruleEngine:
		r.fail(value, "%s: %s has no exceptions: agents would not load the text", path, w.Rule)
	case !strings.Contains(w.Rule, "/") && !slices.Contains(builtinIDs(), w.Rule):
		r.fail(value, "%s: no rule %q; of a custom rule write package/rule", path, w.Rule)
	case (w.Path == "") == !w.CIDR.IsValid():
		r.fail(value, "%s: want path or cidr, and one of them", path)
	case w.Reason == "":
		r.fail(value, "%s: no reason; those who read the warning want to know", path)
	case w.Until.IsZero():
		r.fail(value, "%s: no until; an exception ends, with a day such as 2026-12-31", path)
	case w.Path != "" && (w.Rule == ruleNodeCIDRs || w.Rule == rulePodCIDRs || w.Rule == ruleServiceCIDRs):
		r.fail(value, "%s: %s judges the list as a whole; name the cidr that may be uncovered", path, w.Rule)
	}
	return w
}

func (r *paramsReader) duration(target *time.Duration) func(string, *yaml.Node) {
	return func(path string, value *yaml.Node) {
		duration, err := time.ParseDuration(resolve(value).Value)
		if err != nil || duration < time.Second {
			r.fail(value, "%s: %q is not a duration of at least 1s, like 90s or 5m", path, value.Value)
			return
		}
		*target = duration
	}
}

func (r *paramsReader) custom(path string, value *yaml.Node) map[string]any {
	if isNull(resolve(value)) {
		return nil
	}
	var custom map[string]any
	if err := value.Decode(&custom); err != nil {
		r.fail(value, "%s: not a mapping with text keys: %v", path, err)
		return nil
	}
	// JSON has no infinity and no keys but text: what it cannot hold, no rule can read.
	if _, err := json.Marshal(custom); err != nil {
		r.fail(value, "%s: %v", path, err)
		return nil
	}
	return custom
}

// resyncBounds are the bounds in force.
func (p RuleParams) resyncBounds() (least, most time.Duration) {
	least, most = defaultResyncMin, defaultResyncMax
	if p.Min != 0 {
		least = p.Min
	}
	if p.Max != 0 {
		most = p.Max
	}
	return least, most
}

// maxCount is the bound in force. Cilium looks ranges up in a map, so to it a long list
// costs no more than a short one, up to the size of the map.
func (p Params) maxCount() int {
	switch n := p.Rules[ruleCIDRLimit].MaxCount; {
	case n != 0:
		return n
	case p.Consumer == config.Cilium:
		return config.MaxCIDRs
	default:
		return defaultMaxCount
	}
}

// flags are those that texts have their meaning with.
func (p Params) flags() config.Options { return p.Consumer.Flags(p.Agent) }

func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.Tag == "!!null" }

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func orParams(path string) string {
	if path == "" {
		return "params"
	}
	return path
}

// addressOf is the address that text is, or the zero Addr.
func addressOf(text string) netip.Addr {
	address, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return address
}

func single(address netip.Addr) netip.Prefix { return netip.PrefixFrom(address, address.BitLen()) }
