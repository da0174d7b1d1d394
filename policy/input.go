package policy

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	corev1 "k8s.io/api/core/v1"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// Parts of the input that grow with the text or the cluster. No built-in rule reads
// them unless it has found something, so they are converted only when a rule does.
const (
	partConfig  = "config"
	partOld     = "old"
	partCluster = "cluster"
)

// document is a request as rules see it: input, version 1, as schema/input.json
// describes. It is made once per decision and read by each evaluation of it.
type document struct {
	request  Request
	new, old text
	facts    facts
	cluster  *Cluster
	params   ast.Value
	override *override       // that new is about; nil: on all other nodes
	read     map[string]bool // parts that custom rules read
	cidrs    *cidrTerms
}

// value makes the input of one evaluation. Each needs its own: OPA's lazy objects
// remember what they converted and are not safe for concurrent use, and an
// evaluation that was given up may still run.
func (d *document) value() ast.Value {
	cluster := any(clusterInput{d.cluster})
	if d.read[partCluster] {
		cluster = d.cluster.value()
	}
	return ast.LazyObject(map[string]any{
		"request":   d.requestInput(),
		partConfig:  d.configInput(),
		partOld:     d.oldInput(),
		"problems":  problemsInput(d.new.problems),
		"object":    objectInput(d.request, d.new.keys),
		partCluster: cluster,
		"derived":   d.derivedInput(),
		"override":  d.override.input(),
		"params":    d.params,
	})
}

// requestInput holds pointers where hardly any rule looks: OPA converts those, by
// way of JSON, when one does, and until then they cost nothing.
func (d *document) requestInput() map[string]any {
	return map[string]any{
		"annotations":     annotationsInput{d.request.Object},
		"old_annotations": annotationsInput{d.request.Old},
		"operation":       ast.InternedTerm(string(d.request.Operation)).Value,
		"namespace":       &d.request.Namespace,
		"name":            &d.request.Name,
		"user":            &d.request.User,
		"groups":          groupsInput{&d.request},
		"fieldManager":    &d.request.FieldManager,
		"dryRun":          &d.request.DryRun,
		"time":            &d.request.Time,
	}
}

// annotationsInput are the annotations of a ConfigMap, converted when a rule looks.
type annotationsInput struct{ of *corev1.ConfigMap }

// MarshalJSON gives an object in any case.
func (a annotationsInput) MarshalJSON() ([]byte, error) {
	if a.of == nil || a.of.Annotations == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(a.of.Annotations)
}

// groupsInput are the groups of the user, converted when a rule looks.
type groupsInput struct{ request *Request }

// MarshalJSON gives a list in any case.
func (g groupsInput) MarshalJSON() ([]byte, error) {
	return json.Marshal(append([]string{}, g.request.Groups...))
}

// cidrInput is one CIDR of a list.
type cidrInput struct {
	CIDR   string `json:"cidr"`
	Family string `json:"family"`
	Path   string `json:"path"`
	Line   int    `json:"line"` // 0: a default, not in the text
}

func cidrInputOf(c *config.Config, e element) cidrInput {
	place, prefix := c.Element(e.key, e.index), c.CIDRs(e.key)[e.index]
	return cidrInput{prefix.String(), familyOf(prefix), place.String(), place.Line}
}

// listed is an element of the list itself.
func listed(index int) element { return element{config.KeyNonMasqueradeCIDRs, index} }

// The keys of each of a long list, made once.
//
//nolint:gochecknoglobals // constants in all but the language
var (
	keyCIDR, keyFamily = ast.StringTerm("cidr"), ast.StringTerm("family")
	keyPath, keyLine   = ast.StringTerm("path"), ast.StringTerm("line")
	families           = map[string]*ast.Term{
		addressFamilies[0].name: ast.StringTerm(addressFamilies[0].name),
		addressFamilies[1].name: ast.StringTerm(addressFamilies[1].name),
	}
)

func (c cidrInput) items() [][2]*ast.Term {
	return [][2]*ast.Term{
		ast.Item(keyCIDR, ast.StringTerm(c.CIDR)), ast.Item(keyFamily, families[c.Family]),
		ast.Item(keyPath, ast.StringTerm(c.Path)), ast.Item(keyLine, ast.InternedTerm(c.Line)),
	}
}

func (c cidrInput) object() ast.Value {
	return ast.NewObject(c.items()...)
}

func familyOf(prefix netip.Prefix) string {
	if prefix.Addr().Is4() {
		return addressFamilies[0].name
	}
	return addressFamilies[1].name
}

func (d *document) configInput() any {
	if d.read[partConfig] {
		return d.new.input(d.cidrs)
	}
	return d.new.input(nil)
}

func (d *document) oldInput() any {
	if d.read[partOld] {
		return d.old.input(d.cidrs)
	}
	return textInput{&d.old}
}

// textInput becomes JSON only when a rule reads it. Like its kind below it is a
// struct of one pointer, not the pointer: OPA follows pointers before it looks for
// MarshalJSON.
type textInput struct{ text *text }

// MarshalJSON gives the configuration, or null.
func (i textInput) MarshalJSON() ([]byte, error) {
	return json.Marshal(i.text.input(nil))
}

// cidrsInput is a list that becomes JSON only when a rule reads it.
type cidrsInput struct {
	config *config.Config
	key    string
}

// MarshalJSON lists the CIDRs.
func (i cidrsInput) MarshalJSON() ([]byte, error) { return json.Marshal(i.list()) }

// value is the list converted at once.
func (i cidrsInput) value(known *cidrTerms) ast.Value { return ast.NewArray(known.of(i.list())...) }

func (i cidrsInput) list() []cidrInput {
	list := make([]cidrInput, len(i.config.CIDRs(i.key)))
	for n := range list {
		list[n] = cidrInputOf(i.config, element{i.key, n})
	}
	return list
}

// cidrTerms remembers CIDRs that were converted: an edit leaves most of a list as it was.
type cidrTerms struct {
	mu    sync.Mutex
	terms map[cidrInput]*ast.Term
}

// maxCIDRTerms are some hundred bytes each.
const maxCIDRTerms = 4096

func (k *cidrTerms) of(list []cidrInput) []*ast.Term {
	terms := make([]*ast.Term, len(list))
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, one := range list {
		if terms[i] = k.terms[one]; terms[i] != nil {
			continue
		}
		terms[i] = ast.NewTerm(one.object())
		if k.terms == nil || len(k.terms) >= maxCIDRTerms {
			k.terms = map[cidrInput]*ast.Term{}
		}
		k.terms[one] = terms[i]
	}
	return terms
}

// input is the configuration that t is, or null. Its lists are converted at once, or, without
// what remembers that, when they are read.
func (t *text) input(known *cidrTerms) any {
	if !t.loads {
		return nil
	}
	c := &t.config
	list := func(key string) any {
		if known == nil {
			return cidrsInput{c, key}
		}
		return cidrsInput{c, key}.value(known)
	}
	return map[string]any{
		config.KeyNonMasqueradeCIDRs: list(config.KeyNonMasqueradeCIDRs),
		config.KeyMasqueradeCIDRs:    list(config.KeyMasqueradeCIDRs),
		config.KeyMasqLinkLocal:      c.MasqueradeLinkLocal,
		config.KeyMasqLinkLocalIPv6:  c.MasqueradeLinkLocalIPv6,
		config.KeyResyncInterval:     c.Resync.Seconds(),
		config.KeyCIDRLimit:          &c.CIDRLimit,
		"defaulted":                  defaultedInput{c},
	}
}

// defaultedInput becomes JSON only when a rule reads it.
type defaultedInput struct{ config *config.Config }

// MarshalJSON lists the keys that the text does not have.
func (d defaultedInput) MarshalJSON() ([]byte, error) {
	return json.Marshal(nonNil(d.config.Defaulted))
}

func nonNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func problemsInput(problems []config.Problem) ast.Value {
	return array(problems, func(p config.Problem) ast.Value {
		return ast.NewObject(
			item("code", string(p.Code)), item("severity", p.Severity.String()), item("path", pathOf(p)),
			item("line", p.Line), item("column", p.Column), item("text", p.Text),
			item("message", p.Message), item("remedy", p.Remedy))
	})
}

func objectInput(request Request, several map[string]string) any {
	if request.Object == nil {
		return nil
	}
	if _, ok := request.Object.Data[ConfigKey]; ok && len(request.Object.Data)+len(request.Object.BinaryData) == 1 {
		return configAlone
	}
	if len(several) > 0 && len(several) == len(request.Object.Data) && len(request.Object.BinaryData) == 0 {
		return map[string]any{
			"config_alone": true, "data_keys": slices.Sorted(maps.Keys(request.Object.Data)), "binary_keys": []string{}, "likely_key": nil,
		}
	}
	data := slices.Sorted(maps.Keys(request.Object.Data))
	binary := slices.Sorted(maps.Keys(request.Object.BinaryData))
	likely := likelyKey(data, binary)
	if len(several) > 0 {
		likely = nil
	}
	return map[string]any{
		"config_alone": false,
		"data_keys":    nonNil(data),
		"binary_keys":  nonNil(binary),
		"likely_key":   likely,
	}
}

// configAlone is the ConfigMap as it should be.
//
//nolint:gochecknoglobals // a constant in all but the language
var configAlone = ast.NewObject(
	itemOf("config_alone", ast.Boolean(true)),
	itemOf("data_keys", ast.NewArray(ast.InternedTerm(ConfigKey))),
	itemOf("binary_keys", noElements),
	itemOf("likely_key", ast.NullValue),
)

// likelyKey is the key that its author may have meant to be config, or null.
func likelyKey(data, binary []string) any {
	if slices.Contains(data, ConfigKey) || slices.Contains(binary, ConfigKey) {
		return nil
	}
	best, least := "", 4
	for _, key := range slices.Concat(data, binary) {
		rank := least
		switch name := strings.ToLower(key); {
		case name == ConfigKey:
			rank = 0
		case strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, ".yaml"), ".yml"), ".json") == ConfigKey:
			rank = 1
		case strings.HasPrefix(name, "ip-masq-agent"):
			rank = 2 // the name of the file that the key is mounted as
		case similar(name, ConfigKey) || strings.Contains(name, ConfigKey):
			rank = 3
		}
		if rank < least {
			best, least = key, rank
		}
	}
	if best == "" {
		return nil
	}
	return best
}

// rangeInput is a cluster range.
type rangeInput struct {
	CIDR   string `json:"cidr"`
	Source string `json:"source"`
}

// rangesInput becomes JSON only when a rule reads it.
type rangesInput []Range

// MarshalJSON lists the ranges; nil is null.
func (l rangesInput) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("null"), nil
	}
	list := make([]rangeInput, len(l))
	for i, one := range l {
		list[i] = rangeInput{one.Prefix.String(), one.Source}
	}
	return json.Marshal(list)
}

func (l rangesInput) value() ast.Value {
	if l == nil {
		return ast.NullValue
	}
	return array(l, Range.object)
}

func (r Range) object() ast.Value { return ast.NewObject(r.items()...) }

func (r Range) items() [][2]*ast.Term {
	return [][2]*ast.Term{item("cidr", r.Prefix.String()), item("source", r.Source)}
}

// clusterInput is the cluster for rules that most likely do not read it.
type clusterInput struct{ cluster *Cluster }

// MarshalJSON lists the ranges of each kind.
func (i clusterInput) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{
		"node_cidrs":    rangesInput(i.cluster.node.ranges),
		"pod_cidrs":     rangesInput(i.cluster.pod.ranges),
		"service_cidrs": rangesInput(i.cluster.service.ranges),
	})
}

// value is the cluster for rules that read it, converted once.
func (c *Cluster) value() ast.Value {
	c.once.Do(func() {
		c.converted = ast.NewObject(
			itemOf("node_cidrs", rangesInput(c.node.ranges).value()),
			itemOf("pod_cidrs", rangesInput(c.pod.ranges).value()),
			itemOf("service_cidrs", rangesInput(c.service.ranges).value()),
		)
	})
	return c.converted
}

func (d *document) derivedInput() map[string]any {
	f, c := &d.facts, &d.new.config
	derived := map[string]any{
		"cidr_count":          nil,
		"entry_count":         nil,
		"list_absent":         false,
		"overlaps":            overlapsInput(c, f.overlaps),
		"duplicates":          duplicatesInput(c, f.duplicates),
		"uncovered":           f.uncoveredInput(c),
		"diff":                nil,
		"disables_masquerade": len(f.disabled) > 0,
		"disabled":            d.disabledInput(),
		"link_local":          d.linkLocalInput(),
		"refused_ipv6":        cidrsAt(c, f.ipv6),
	}
	if d.new.loads {
		derived["cidr_count"] = len(c.NonMasquerade)
		derived["entry_count"] = len(c.NonMasquerade) + len(c.Masquerade)
		derived["list_absent"] = c.ListAbsent()
	}
	if f.effect.Known {
		derived["diff"] = diffInput{&f.effect}
	}
	return derived
}

// diffInput becomes JSON only when a rule reads it.
type diffInput struct{ effect *Effect }

// MarshalJSON lists the prefixes.
func (i diffInput) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{
		"now_masqueraded":       prefixTexts(i.effect.NowMasqueraded),
		"no_longer_masqueraded": prefixTexts(i.effect.NoLongerMasqueraded),
	})
}

func overlapsInput(c *config.Config, overlaps []overlap) ast.Value {
	if len(overlaps) == 0 {
		return noElements
	}
	return array(overlaps, func(o overlap) ast.Value {
		return with(cidrInputOf(c, listed(o.inner)), "within", cidrInputOf(c, listed(o.outer)))
	})
}

func duplicatesInput(c *config.Config, duplicates []duplicate) ast.Value {
	if len(duplicates) == 0 {
		return noElements
	}
	return array(duplicates, func(o duplicate) ast.Value {
		return with(cidrInputOf(c, o.again), "first", cidrInputOf(c, o.first))
	})
}

func cidrsAt(c *config.Config, elements []element) ast.Value {
	if len(elements) == 0 {
		return noElements
	}
	return array(elements, func(e element) ast.Value { return cidrInputOf(c, e).object() })
}

// with is a CIDR of the list and another one that it relates to.
func with(c cidrInput, key string, other cidrInput) ast.Value {
	return ast.NewObject(append(c.items(), itemOf(key, other.object()))...)
}

func (d *document) disabledInput() ast.Value {
	if len(d.facts.disabled) == 0 {
		return noElements
	}
	return array(d.facts.disabled, func(name string) ast.Value {
		i := slices.IndexFunc(d.new.config.NonMasquerade, func(p netip.Prefix) bool {
			return p.Bits() == 0 && familyOf(p) == name
		})
		path := config.KeyNonMasqueradeCIDRs // several CIDRs together
		if i >= 0 {
			path = d.new.config.Element(path, i).String()
		}
		family := addressFamilies[0]
		if name != family.name {
			family = addressFamilies[1]
		}
		return ast.NewObject(item("family", name), item("path", path), item("all", family.all.String()))
	})
}

func (d *document) linkLocalInput() ast.Value {
	if len(d.facts.linkLocal) == 0 {
		return noElements
	}
	return array(d.facts.linkLocal, func(l linkLocal) ast.Value {
		cidr, path := "", config.KeyNonMasqueradeCIDRs
		if l.index >= 0 {
			cidr, path = d.new.config.NonMasquerade[l.index].String(), d.new.config.Element(path, l.index).String()
		}
		return ast.NewObject(
			item("key", l.key), item("range", l.within.String()), item("cidr", cidr), item("path", path))
	})
}

func (f *facts) uncoveredInput(c *config.Config) ast.Value {
	if f.node.covered() && f.pod.covered() && f.service.covered() {
		return allCovered
	}
	return ast.NewObject(
		itemOf("node", f.node.input(c)), itemOf("pod", f.pod.input(c)), itemOf("service", f.service.input(c)))
}

// allCovered is the coverage of a good list.
//
//nolint:gochecknoglobals // a constant in all but the language
var allCovered = ast.NewObject(itemOf("node", noElements), itemOf("pod", noElements), itemOf("service", noElements))

func (c *coverage) covered() bool { return c.known && len(c.uncovered) == 0 }

// input is null when nobody knows the ranges.
func (c *coverage) input(in *config.Config) ast.Value {
	if !c.known {
		return ast.NullValue
	}
	return array(c.uncovered, func(u uncovered) ast.Value {
		if u.exception < 0 {
			return u.object()
		}
		exception := cidrInputOf(in, element{config.KeyMasqueradeCIDRs, u.exception})
		return ast.NewObject(append(u.items(), itemOf("exception", exception.object()))...)
	})
}

func prefixTexts(prefixes []netip.Prefix) []string {
	texts := make([]string, len(prefixes))
	for i, prefix := range prefixes {
		texts[i] = prefix.String()
	}
	return texts
}

// paramsInput is input.params, every rule with its action and bounds.
func paramsInput(params Params, rules map[string]Action) (ast.Value, error) {
	byID := map[string]any{}
	for id, action := range rules {
		rule := map[string]any{"action": string(action)}
		switch id {
		case ruleResyncBounds:
			least, most := params.Rules[id].resyncBounds()
			rule["min"], rule["max"] = least.Seconds(), most.Seconds()
		case ruleCIDRLimit:
			rule["max"] = params.maxCount()
		}
		byID[id] = rule
	}
	custom := params.Custom
	if custom == nil {
		custom = map[string]any{}
	}
	flags := params.flags()
	return ast.InterfaceToValue(map[string]any{
		"consumer":               params.Consumer.String(),
		"agent":                  map[string]any{"ipv6": flags.IPv6, "reserved_ranges": flags.ReservedRanges},
		"require_cluster_ranges": params.RequireClusterRanges,
		"config_directory":       params.ConfigDirectory,
		"rules":                  byID,
		"custom":                 custom,
	})
}

// noElements is shared by every empty list of an input; ast values are immutable.
//
//nolint:gochecknoglobals // a constant in all but the language
var noElements = ast.NewArray()

func array[T any](list []T, convert func(T) ast.Value) ast.Value {
	if len(list) == 0 {
		return noElements
	}
	terms := make([]*ast.Term, len(list))
	for i, element := range list {
		terms[i] = ast.NewTerm(convert(element))
	}
	return ast.NewArray(terms...)
}

// item is one key of an object with its text or number.
func item[T string | int](key string, value T) [2]*ast.Term {
	return ast.Item(ast.InternedTerm(key), ast.InternedTerm(value))
}

// itemOf is one key of an object with a value.
func itemOf(key string, value ast.Value) [2]*ast.Term {
	return ast.Item(ast.InternedTerm(key), ast.NewTerm(value))
}
