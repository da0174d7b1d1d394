package foreign

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go4.org/netipx"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// Object names a chain, set or map of nft: "chain ip flannel-ipv4 postrtg".
type Object struct {
	Kind   string // chain, set or map
	Family string // ip, ip6 or inet
	Table  string
	Name   string
}

// Arguments are those of "nft -j list".
func (o Object) Arguments() []string { return []string{o.Kind, o.Family, o.Table, o.Name} }

// NFTScan reads what nft -j lists, and keeps what belongs to chains that hook nat at
// postrouting: first "list chains", then, until there is none, every Object that is
// Wanted. A whole "list ruleset" holds all that in one text, which has to be read
// again as long as something is wanted, and is very large on a busy node. See NewNFTScan.
type NFTScan struct {
	skip func(family, table, chain string) bool

	bases []baseChain
	known map[Object]*nftObject // wanted ones; nil until it was read
	kept  int
	over  bool
}

// baseChain is a chain with a hook.
type baseChain struct {
	Object

	priority int
}

// nftObject is a chain with its rules, or a set or map with its elements.
type nftObject struct {
	rules    []nftRule
	elements []json.RawMessage
}

// nftRule is a rule as nft prints it.
type nftRule struct {
	Family  string                       `json:"family"`
	Table   string                       `json:"table"`
	Chain   string                       `json:"chain"`
	Comment string                       `json:"comment"`
	Expr    []map[string]json.RawMessage `json:"expr"`
}

// maxElements bounds a set or map that is looked into.
const maxElements = 1 << 14

// NewNFTScan begins to read. Base chains that skip tells are left out: those of
// iptables, which iptables-save prints in full, while nft shows parts of them only.
func NewNFTScan(skip func(family, table, chain string) bool) *NFTScan {
	return &NFTScan{skip: skip, known: map[Object]*nftObject{}}
}

// Wanted are the objects that have to be listed before Hooks tells everything, in a
// fixed order.
func (s *NFTScan) Wanted() []Object {
	var wanted []Object
	for _, o := range slices.SortedFunc(maps.Keys(s.known), compareObjects) {
		if s.known[o] == nil {
			wanted = append(wanted, o)
		}
	}
	return wanted
}

func compareObjects(a, b Object) int { return slices.Compare(a.Arguments(), b.Arguments()) }

// Missing tells that a wanted object is gone.
func (s *NFTScan) Missing(o Object) { s.known[o] = &nftObject{} }

// nftOutput is one element of what nft prints; it has one of the fields.
type nftOutput struct {
	Chain *struct {
		Family, Table, Name, Type, Hook string
		Prio                            json.RawMessage
	}
	Rule     *nftRule
	Set, Map *struct {
		Family, Table, Name string
		Elem                []json.RawMessage
	}
}

// ReadChains takes the output of "list chains", or a whole ruleset, and wants the base
// chains in it that hook nat at postrouting.
func (s *NFTScan) ReadChains(r io.Reader) error {
	return eachOutput(r, func(o nftOutput) {
		if o.Chain != nil && o.Chain.Type == "nat" && o.Chain.Hook == "postrouting" {
			s.base(Object{"chain", o.Chain.Family, o.Chain.Table, o.Chain.Name}, o.Chain.Prio)
		}
	})
}

// Read takes the output of "list" with a wanted object, or a whole ruleset, and wants
// what it leads to.
func (s *NFTScan) Read(r io.Reader) error {
	listed := map[Object]*nftObject{}
	err := eachOutput(r, func(o nftOutput) {
		switch {
		case o.Chain != nil:
			c := Object{"chain", o.Chain.Family, o.Chain.Table, o.Chain.Name}
			if read, wanted := s.known[c]; wanted && read == nil {
				listed[c] = &nftObject{}
			}
		case o.Rule != nil:
			s.rule(*o.Rule, listed)
		case o.Set != nil:
			s.elements(Object{"set", o.Set.Family, o.Set.Table, o.Set.Name}, o.Set.Elem, listed)
		case o.Map != nil:
			s.elements(Object{"map", o.Map.Family, o.Map.Table, o.Map.Name}, o.Map.Elem, listed)
		}
	})
	if err != nil {
		return err
	}
	maps.Copy(s.known, listed)
	return nil
}

// eachOutput decodes element by element; the whole may be large.
func eachOutput(r io.Reader, take func(nftOutput)) error {
	decoder := json.NewDecoder(r)
	err := enterList(decoder)
	for err == nil && decoder.More() {
		var o nftOutput
		if err = decoder.Decode(&o); err == nil {
			take(o)
		}
	}
	if err == nil {
		_, err = decoder.Token() // the end of the list, without which it is torn
	}
	if err != nil {
		return fmt.Errorf("reading the output of nft: %w", err)
	}
	return nil
}

// enterList goes to the first element of {"nftables": [...]}.
func enterList(decoder *json.Decoder) error {
	for _, want := range []json.Token{json.Delim('{'), "nftables", json.Delim('[')} {
		token, err := decoder.Token()
		if err != nil {
			return err
		}
		if token != want {
			return fmt.Errorf("it has %v in the place of %v", token, want)
		}
	}
	return nil
}

func (s *NFTScan) base(o Object, priority json.RawMessage) {
	if s.skip(o.Family, o.Table, o.Name) || slices.ContainsFunc(s.bases, func(b baseChain) bool { return b.Object == o }) {
		return
	}
	b := baseChain{Object: o, priority: NATPriority}
	if n, err := strconv.Atoi(string(priority)); err == nil {
		b.priority = n
	}
	s.bases = append(s.bases, b)
	s.want(o)
}

func (s *NFTScan) want(o Object) {
	if _, known := s.known[o]; !known {
		s.known[o] = nil
	}
}

func (s *NFTScan) rule(r nftRule, listed map[Object]*nftObject) {
	chain := listed[Object{"chain", r.Family, r.Table, r.Chain}]
	if chain == nil {
		return
	}
	if s.kept >= maxRules {
		s.over = true
		return
	}
	s.kept++
	chain.rules = append(chain.rules, r)
	for _, o := range r.refersTo() {
		s.want(o)
	}
}

func (s *NFTScan) elements(o Object, elements []json.RawMessage, listed map[Object]*nftObject) {
	if read, wanted := s.known[o]; !wanted || read != nil {
		return
	}
	if len(elements) > maxElements {
		elements = nil
		s.over = true
	}
	listed[o] = &nftObject{elements: elements}
	for _, element := range elements {
		if pair := ([]json.RawMessage)(nil); json.Unmarshal(element, &pair) == nil && len(pair) == 2 {
			if _, chain := verdictOf(pair[1]); chain != "" {
				s.want(Object{"chain", o.Family, o.Table, chain})
			}
		}
	}
}

// refersTo are the chains, sets and maps that a rule names.
func (r nftRule) refersTo() []Object {
	var refers []Object
	for _, e := range r.Expr {
		for kind, value := range e {
			switch kind {
			case "jump", "goto":
				refers = append(refers, Object{"chain", r.Family, r.Table, targetOf(value)})
			case "match":
				var m nftMatch
				if json.Unmarshal(value, &m) != nil {
					continue
				}
				if set, named := setName(m.Right); named {
					refers = append(refers, Object{"set", r.Family, r.Table, set})
				}
			case "vmap":
				var v nftMap
				if json.Unmarshal(value, &v) != nil {
					continue
				}
				if name, named := setName(v.Data); named {
					refers = append(refers, Object{"map", r.Family, r.Table, name})
					continue
				}
				for _, pair := range v.pairs() {
					if _, chain := verdictOf(pair[1]); chain != "" {
						refers = append(refers, Object{"chain", r.Family, r.Table, chain})
					}
				}
			}
		}
	}
	return refers
}

type nftMatch struct {
	Op          string
	Left, Right json.RawMessage
}

type nftMap struct{ Key, Data json.RawMessage }

// pairs are key and verdict of a map that stands in its rule.
func (m nftMap) pairs() [][2]json.RawMessage {
	var data struct{ Set [][2]json.RawMessage }
	if json.Unmarshal(m.Data, &data) != nil {
		return nil
	}
	return data.Set
}

// setName is the name in "@name".
func setName(value json.RawMessage) (string, bool) {
	var text string
	if json.Unmarshal(value, &text) != nil {
		return "", false
	}
	return strings.CutPrefix(text, "@")
}

func targetOf(value json.RawMessage) string {
	var t struct{ Target string }
	if json.Unmarshal(value, &t) != nil {
		return ""
	}
	return t.Target
}

// verdictOf reads {"jump": {"target": "x"}}, {"return": null} and the like.
func verdictOf(value json.RawMessage) (kind targetKind, chain string) {
	var verdict map[string]json.RawMessage
	if json.Unmarshal(value, &verdict) != nil {
		return goesOn, ""
	}
	for word, argument := range verdict {
		switch word {
		case "jump":
			return jumps, targetOf(argument)
		case "goto":
			return goes, targetOf(argument)
		case "return":
			return returns, ""
		case "accept":
			return accepts, ""
		case "drop", "queue":
			return drops, ""
		}
	}
	return goesOn, ""
}

// Hooks is what has been read, for one family. Its bool is false when there is more
// than is kept.
func (s *NFTScan) Hooks(family ruleset.Family) (hooks []Hook, whole bool) {
	for _, base := range s.bases {
		if base.Family != "inet" && (base.Family == "ip6") != (family == ruleset.IPv6) {
			continue
		}
		hook := Hook{
			Backend: Native, Family: family, Table: base.Family + " " + base.Table, Chain: base.Name, Priority: base.priority,
			chains: map[string][]rule{},
		}
		for o, content := range s.known {
			if o.Kind != "chain" || o.Family != base.Family || o.Table != base.Table || content == nil {
				continue
			}
			for _, r := range content.rules {
				hook.chains[o.Name] = append(hook.chains[o.Name], s.parse(r, family)...)
			}
		}
		hooks = append(hooks, hook)
	}
	return hooks, !s.over
}

// parse reads a rule; one with a verdict map becomes a rule an element.
func (s *NFTScan) parse(from nftRule, family ruleset.Family) []rule {
	p := nftParser{scan: s, from: from, family: family}
	if from.Comment != "" {
		p.rule.comments = []string{from.Comment}
	}
	for _, e := range from.Expr {
		for _, kind := range slices.Sorted(maps.Keys(e)) {
			p.expression(kind, e[kind])
		}
	}
	p.rule.text = strings.Join(p.words, " ")
	if from.Comment != "" {
		p.rule.text += " comment " + strconv.Quote(from.Comment)
	}
	switch {
	case p.others:
		return nil
	case p.branches == nil:
		return []rule{p.rule}
	}
	for i := range p.branches {
		p.branches[i].text = p.rule.text
		p.branches[i].comments = p.rule.comments
	}
	return p.branches
}

type nftParser struct {
	scan     *NFTScan
	from     nftRule
	family   ruleset.Family
	rule     rule
	branches []rule // of a verdict map; not nil when there is one
	words    []string
	others   bool // it is for packets of the other family
	marked   bool // it has set the mark that it looks at afterwards
}

func (p *nftParser) expression(kind string, value json.RawMessage) {
	switch kind {
	case "match":
		var m nftMatch
		if err := json.Unmarshal(value, &m); err != nil {
			p.puzzled(kind, value)
			return
		}
		p.match(m)
	case "jump", "goto":
		p.rule.chain = targetOf(value)
		p.rule.kind = jumps
		if kind == "goto" {
			p.rule.kind = goes
		}
		p.words = append(p.words, kind, p.rule.chain)
	case "return", "accept", "drop":
		p.rule.kind, _ = verdictOf(json.RawMessage(`{"` + kind + `":null}`))
		p.words = append(p.words, kind)
	case "queue", "reject":
		p.rule.kind = drops
		p.words = append(p.words, kind)
	case "masquerade":
		p.rule.kind = masquerade
		p.translation(kind, value)
	case "snat":
		p.rule.kind = translates
		p.translation(kind, value)
	case "mangle":
		if strings.Contains(string(value), `"mark"`) {
			p.rule.kind = marks
			p.marked = true
		}
		p.words = append(p.words, mangleWords(value))
	case "vmap":
		p.vmap(value)
	case "counter", "comment":
	case "log", "notrack", "ct helper", "tproxy", "dup", "fwd", "set", "map", "flow", "synproxy", "ct timeout", "ct expectation":
		p.words = append(p.words, kind)
	case "limit", "quota", "ct count", "meter":
		p.words = append(p.words, kind)
		p.rule.match.facts = append(p.rule.match.facts, fact{kind: fickle, text: kind})
	case "xt":
		p.xt(value)
	default:
		p.puzzled(kind, value)
	}
}

// mangleWords is "meta mark set 0x4".
func mangleWords(value json.RawMessage) string {
	var m struct{ Key, Value json.RawMessage }
	_ = json.Unmarshal(value, &m) // of nothing there are no words
	return condition{left: words(m.Key), right: m.Value}.words("set")
}

// xt is an extension of iptables, of which nft tells the name alone, and whether it is
// a match or a target.
func (p *nftParser) xt(value json.RawMessage) {
	var x struct{ Type, Name string }
	_ = json.Unmarshal(value, &x) // empty then, which is a puzzle
	switch {
	case x.Type == "target" && x.Name == "MASQUERADE":
		p.rule.kind = masquerade
	case x.Type == "target" && (x.Name == "SNAT" || x.Name == "NETMAP"):
		p.rule.kind = translates
	case x.Type == "target" && (x.Name == "MARK" || x.Name == "CONNMARK"):
		p.rule.kind = marks
	case x.Type == "target", x.Type == "match" && x.Name == "comment":
	default:
		p.puzzled("xt "+x.Name, value)
		return
	}
	p.words = append(p.words, "xt "+x.Name)
}

func (p *nftParser) translation(kind string, value json.RawMessage) {
	var t struct{ Addr, Port, Flags json.RawMessage }
	_ = json.Unmarshal(value, &t) // null, mostly
	p.rule.ports = len(t.Port) > 0
	to := words(t.Addr)
	if len(t.Port) > 0 {
		to += ":" + words(t.Port)
	}
	if to != "" {
		to = "to " + to
	}
	p.words = append(p.words, p.clip(strings.TrimSpace(strings.TrimSpace(kind+" "+to)+" "+words(t.Flags))))
}

func (p *nftParser) puzzled(kind string, value json.RawMessage) {
	told := p.told(kind, value)
	p.words = append(p.words, told)
	p.rule.match.facts = append(p.rule.match.facts, fact{kind: opaque, text: told})
}

func (p *nftParser) told(kind string, value json.RawMessage) string {
	return p.clip(strings.TrimSpace(kind + " " + words(value)))
}

// clip bounds words that may hold a whole map.
func (p *nftParser) clip(text string) string {
	const most = 120 // bytes
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

// condition is one match: its left side in the words of nft, with "meta" before its
// keys.
type condition struct {
	left    string
	right   json.RawMessage
	negated bool
}

func (c condition) fact(kind factKind) fact {
	return fact{kind: kind, text: c.words("=="), negated: c.negated}
}

// words are those of nft, which leaves == out, but for numbers behind a mask, and
// "meta" before the names of interfaces.
func (c condition) words(op string) string {
	left, right := c.left, words(c.right)
	for _, key := range []string{"oifname", "iifname", "oif", "iif"} {
		if left == "meta "+key {
			left = key
		}
	}
	if number, err := strconv.ParseUint(right, 10, 64); err == nil && strings.HasPrefix(left, "meta mark") {
		right = fmt.Sprintf("%#x", number)
	}
	if (op == "==" || op == "in") && !strings.Contains(left, " & ") {
		return left + " " + right
	}
	return left + " " + op + " " + right
}

func (p *nftParser) match(m nftMatch) {
	c := condition{words(m.Left), m.Right, m.Op == "!="}
	told := c.words(m.Op)
	p.words = append(p.words, told)
	switch m.Op {
	case "<", ">", "<=", ">=":
		p.fact(fact{kind: opaque, text: told})
	default:
		p.condition(c)
	}
}

func (p *nftParser) fact(f fact) { p.rule.match.facts = append(p.rule.match.facts, f) }

func (p *nftParser) condition(c condition) {
	family, side, _ := strings.Cut(c.left, " ")
	if family == "ip" || family == "ip6" {
		if (family == "ip6") != (p.family == ruleset.IPv6) {
			p.others = true // negated or not
			return
		}
		if side == "saddr" || side == "daddr" {
			p.address(c, side)
			return
		}
	}
	switch side {
	case "protocol", "nexthdr", "dport", "sport":
		p.fact(c.fact(plain))
		return
	}
	if bits, masked := strings.CutPrefix(c.left, "meta mark & "); masked {
		p.mark(c, bits)
		return
	}
	switch {
	case c.left == "meta mark":
		p.mark(c, "")
	case c.left == "meta oifname" || c.left == "meta oif":
		p.interfaces(c)
	case c.left == "meta nfproto" || c.left == "meta protocol":
		p.protocol(c)
	case c.left == "ct state":
		// The nat table sees the first packets of connections alone, which are new, or
		// related to another connection.
		if c.negated || !strings.Contains(words(c.right), "new") {
			p.fact(c.fact(plain))
		}
	case strings.HasPrefix(c.left, "fib ") && strings.HasSuffix(c.left, " type") && words(c.right) == "local":
		p.local(c)
	case c.left == "meta l4proto" || c.left == "meta iifname" || c.left == "meta iif" || c.left == "meta iifgroup":
		p.fact(c.fact(plain))
	default:
		p.fact(c.fact(opaque))
	}
}

func (p *nftParser) address(c condition, field string) {
	set, ok := p.addresses(c.right)
	if !ok {
		p.fact(c.fact(opaque))
		return
	}
	if c.negated {
		set = subtract(everything(p.family), set)
	}
	side := &p.rule.match.dst
	if field == "saddr" {
		side = &p.rule.match.src
	}
	narrow(side, set)
}

// local is a condition on an address being one of the node. Packets that leave it are
// for somewhere else.
func (p *nftParser) local(c condition) {
	switch {
	case strings.HasPrefix(c.left, "fib saddr"):
		p.fact(c.fact(localSource))
	case !strings.HasPrefix(c.left, "fib daddr"):
		p.fact(c.fact(opaque))
	case !c.negated:
		p.rule.match.never = true
	}
}

// protocol is a condition on the family of the packet.
func (p *nftParser) protocol(c condition) {
	ours, theirs := []string{"ipv4", "ip"}, []string{"ipv6", "ip6"}
	if p.family == ruleset.IPv6 {
		ours, theirs = theirs, ours
	}
	switch name := words(c.right); {
	case slices.Contains(ours, name):
		p.others = p.others || c.negated
	case slices.Contains(theirs, name):
		p.others = p.others || !c.negated
	default:
		p.fact(c.fact(opaque))
	}
}

// mark is a condition on the mark, under these bits where there are any.
func (p *nftParser) mark(c condition, bits string) {
	f := c.fact(mark)
	f.bits = 1<<32 - 1
	var value uint32
	err := json.Unmarshal(c.right, &value)
	f.value = value
	f.text = "0x" + strconv.FormatUint(uint64(value), 16)
	if bits != "" && err == nil {
		var mask uint64
		mask, err = strconv.ParseUint(bits, 0, 32)
		f.bits = uint32(mask)
		f.text += "/0x" + strconv.FormatUint(mask, 16)
	}
	if err != nil || p.marked {
		f = c.fact(opaque)
	}
	p.fact(f.positive())
}

// interfaces is a condition on the outgoing one. Of several names one condition is
// made that is not looked into, but for the negation: that is one a name.
func (p *nftParser) interfaces(c condition) {
	names, ok := texts(c.right)
	if !ok || len(names) > 1 && !c.negated {
		p.fact(c.fact(plain))
		return
	}
	for _, name := range names {
		if prefix, cut := strings.CutSuffix(name, "*"); cut {
			name = prefix + "+"
		}
		p.rule.match.leaves(name, c.negated)
	}
}

// texts are one string or those of a set.
func texts(value json.RawMessage) ([]string, bool) {
	var one string
	if json.Unmarshal(value, &one) == nil {
		return []string{one}, !strings.HasPrefix(one, "@")
	}
	var several struct{ Set []string }
	err := json.Unmarshal(value, &several)
	return several.Set, err == nil && len(several.Set) > 0
}

// addresses are those on the right side of a match, of the family.
func (p *nftParser) addresses(right json.RawMessage) (*netipx.IPSet, bool) {
	var b netipx.IPSetBuilder
	if name, named := setName(right); named {
		set := p.scan.known[Object{"set", p.from.Family, p.from.Table, name}]
		if set == nil || p.scan.over {
			return nil, false
		}
		for _, element := range set.elements {
			if !addAddresses(&b, element) {
				return nil, false
			}
		}
		return built(&b), true
	}
	if !addAddresses(&b, right) {
		return nil, false
	}
	return built(&b), true
}

// addAddresses adds an address, a prefix, a range, or a set of them, or an element with
// properties of its own.
func addAddresses(b *netipx.IPSetBuilder, value json.RawMessage) bool {
	var text string
	if json.Unmarshal(value, &text) == nil {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return false
		}
		b.Add(addr)
		return true
	}
	var o struct {
		Prefix *struct {
			Addr string
			Len  int
		}
		Range []string
		Set   []json.RawMessage
		Elem  *struct{ Val json.RawMessage }
	}
	if json.Unmarshal(value, &o) != nil {
		return false
	}
	switch {
	case o.Prefix != nil:
		addr, err := netip.ParseAddr(o.Prefix.Addr)
		if err != nil {
			return false
		}
		prefix, err := addr.Prefix(o.Prefix.Len)
		if err != nil {
			return false
		}
		b.AddPrefix(prefix)
	case len(o.Range) == 2:
		from, err := netip.ParseAddr(o.Range[0])
		to, toErr := netip.ParseAddr(o.Range[1])
		r := netipx.IPRangeFrom(from, to)
		if errors.Join(err, toErr) != nil || !r.IsValid() {
			return false
		}
		b.AddRange(r)
	case o.Elem != nil:
		return addAddresses(b, o.Elem.Val)
	case o.Set != nil:
		for _, element := range o.Set {
			if !addAddresses(b, element) {
				return false
			}
		}
	default:
		return false
	}
	return true
}

// vmap makes a rule of every element of a verdict map.
func (p *nftParser) vmap(value json.RawMessage) {
	var m nftMap
	if json.Unmarshal(value, &m) != nil {
		p.puzzled("vmap", value)
		return
	}
	left := words(m.Key)
	pairs := m.pairs()
	if name, named := setName(m.Data); named {
		p.words = append(p.words, left, "vmap", "@"+name)
		if o := p.scan.known[Object{"map", p.from.Family, p.from.Table, name}]; o != nil {
			for _, element := range o.elements {
				if pair := ([2]json.RawMessage{}); json.Unmarshal(element, &pair) == nil {
					pairs = append(pairs, pair)
				}
			}
		}
	} else {
		p.words = append(p.words, left, "vmap", words(m.Data))
	}
	branches := []rule{}
	for _, pair := range pairs {
		branch := nftParser{scan: p.scan, from: p.from, family: p.family, rule: p.rule}
		branch.rule.match.facts = slices.Clone(p.rule.match.facts)
		branch.condition(condition{left: left, right: pair[0]})
		if branch.others {
			continue
		}
		branch.rule.kind, branch.rule.chain = verdictOf(pair[1])
		branches = append(branches, branch.rule)
	}
	p.branches = branches
}

// words prints a part of nft's JSON much as nft's own language has it.
func words(value json.RawMessage) string {
	var parsed any
	if json.Unmarshal(value, &parsed) != nil {
		return string(value)
	}
	return wordsOf(parsed)
}

func wordsOf(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case bool:
		return strconv.FormatBool(v)
	case []any:
		return list(v, ", ")
	case map[string]any:
		return objectWords(v)
	}
	return fmt.Sprint(value)
}

func list(values []any, separator string) string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = wordsOf(v)
	}
	return strings.Join(all, separator)
}

func objectWords(o map[string]any) string {
	if len(o) == 1 {
		for kind, value := range o {
			inner, isObject := value.(map[string]any)
			items, isList := value.([]any)
			switch {
			case kind == "payload" && isObject:
				return strings.TrimSpace(wordsOf(inner["protocol"]) + " " + wordsOf(inner["field"]))
			case kind == "meta" && isObject, kind == "ct" && isObject:
				return kind + " " + wordsOf(inner["key"])
			case kind == "prefix" && isObject:
				return wordsOf(inner["addr"]) + "/" + wordsOf(inner["len"])
			case kind == "range" && isList:
				return list(items, "-")
			case kind == "set" && isList:
				return "{ " + list(items, ", ") + " }"
			case kind == "concat" && isList:
				return list(items, " . ")
			case (kind == "&" || kind == "|" || kind == "^") && isList:
				for i, item := range items {
					if number, isNumber := item.(float64); isNumber && number >= 0 {
						items[i] = fmt.Sprintf("%#x", uint64(number))
					}
				}
				return list(items, " "+kind+" ")
			case kind == "fib" && isObject:
				return "fib " + wordsOf(inner["flags"]) + " " + wordsOf(inner["result"])
			case kind == "jump" && isObject, kind == "goto" && isObject:
				return kind + " " + wordsOf(inner["target"])
			case kind == "elem" && isObject:
				return wordsOf(inner["val"])
			case value == nil:
				return kind
			}
			return kind + " " + wordsOf(value)
		}
	}
	parts := make([]string, 0, len(o))
	for _, key := range slices.Sorted(maps.Keys(o)) {
		parts = append(parts, key+" "+wordsOf(o[key]))
	}
	return strings.Join(parts, " ")
}
