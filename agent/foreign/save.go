package foreign

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go4.org/netipx"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// Native is the backend of a Hook in a table that is not iptables'. Those of iptables
// are named as in the package iptables.
const Native = "nftables"

const postrouting = "POSTROUTING"

// maxRules bounds what is kept of one hook: the rules of chains that are reachable
// from it. Those of a busy node's services are not.
const maxRules = 1 << 14

const (
	// setCondition begins the text of a condition on an ipset.
	setCondition = "--match-set "

	// loopBack is the set of kube-proxy in ipvs mode that holds endpoints with
	// themselves as the source.
	loopBack = "KUBE-LOOP-BACK"
)

// Sets resolves the name of an ipset to the addresses that it holds. It is nil, or
// returns false, for one that cannot be told.
type Sets func(name string) (*netipx.IPSet, bool)

// SaveScan reads what iptables-save prints of the nat table, line by line, and keeps
// the rules of POSTROUTING and of the chains that it leads to. A chain may be printed
// before the one that jumps to it, so the text may have to be read again: while Again
// says so. The zero value is not usable; see NewSaveScan.
type SaveScan struct {
	backend string
	family  ruleset.Family

	reachable map[string]bool // by this pass or an earlier one
	fresh     map[string]bool // found reachable in this pass, without rules since
	chains    map[string][]rule
	kept      int
	over      bool
}

// NewSaveScan begins to read one table: the backend is nft or legacy.
func NewSaveScan(backend string, family ruleset.Family) *SaveScan {
	return &SaveScan{
		backend: backend, family: family,
		reachable: map[string]bool{postrouting: true}, fresh: map[string]bool{}, chains: map[string][]rule{},
	}
}

// Line takes one line of the text.
func (s *SaveScan) Line(line string) {
	text, isRule := strings.CutPrefix(line, "-A ")
	if !isRule {
		return
	}
	chain, _, _ := strings.Cut(text, " ")
	if !s.reachable[chain] {
		return
	}
	delete(s.fresh, chain)
	if s.kept >= maxRules {
		s.over = true
		return
	}
	s.kept++
	r := parseRule(line, s.family, nil)
	s.chains[chain] = append(s.chains[chain], r)
	if (r.kind == jumps || r.kind == goes) && !s.reachable[r.chain] {
		s.reachable[r.chain], s.fresh[r.chain] = true, true
	}
}

// Again tells, after the last line, that the same text has to be read once more, and
// prepares for it. It ends: every pass reaches a chain that the one before did not.
func (s *SaveScan) Again() bool {
	if len(s.fresh) == 0 || s.over {
		return false
	}
	clear(s.fresh)
	clear(s.chains)
	s.kept = 0
	return true
}

// Hook is what has been read, with ipsets resolved by sets, which may be nil. Its bool
// is false when there are more rules than are kept.
func (s *SaveScan) Hook(sets Sets) (h Hook, whole bool) {
	for _, rules := range s.chains {
		for i, r := range rules {
			if sets != nil && strings.Contains(r.text, setCondition) {
				rules[i] = parseRule(r.text, s.family, sets)
			}
		}
	}
	return Hook{
		Backend: s.backend, Family: s.family, Table: "nat", Chain: postrouting, Priority: NATPriority, chains: s.chains,
	}, !s.over
}

// parseRule reads a rule as iptables-save prints it. What it does not know narrows the
// rule in a way that cannot be judged.
func parseRule(line string, family ruleset.Family, sets Sets) rule {
	p := saveParser{words: Words(line), rule: rule{text: line}, family: family, sets: sets}
	p.next() // -A
	p.next() // the chain
	for len(p.words) > 0 {
		p.option()
	}
	p.flush()
	return p.rule
}

type saveParser struct {
	words  []string
	rule   rule
	family ruleset.Family
	sets   Sets

	negated bool // the option at hand

	module string   // of the last -m
	other  []string // words of it that are not known
	proto  string
}

func (p *saveParser) next() string {
	if len(p.words) == 0 {
		return ""
	}
	word := p.words[0]
	p.words = p.words[1:]
	return word
}

// values are the words up to the next option.
func (p *saveParser) values() []string {
	n := 0
	for n < len(p.words) && p.words[n] != "!" && !strings.HasPrefix(p.words[n], "-") {
		n++
	}
	values := p.words[:n]
	p.words = p.words[n:]
	return values
}

func (p *saveParser) option() {
	option := p.next()
	p.negated = option == "!"
	if p.negated {
		option = p.next()
	}
	switch option {
	case "-s", "-d":
		p.address(option, p.next())
	case "-o":
		p.rule.match.leaves(p.next(), p.negated)
	case "-i":
		p.fact(fact{kind: plain, text: "-i " + p.next(), negated: p.negated})
	case "-p":
		p.proto = p.next()
		p.fact(fact{kind: plain, text: "-p " + p.proto, negated: p.negated})
	case "-m":
		p.flush()
		p.module = p.next()
	case "--comment":
		p.rule.comments = append(p.rule.comments, p.next())
	case "-j", "-g":
		p.flush()
		p.target(option, p.next())
	default:
		p.condition(option)
	}
}

// condition is an option of a match.
func (p *saveParser) condition(option string) {
	values := p.values()
	first := ""
	if len(values) > 0 {
		first = values[0]
	}
	switch {
	case p.module == "mark" && option == "--mark":
		p.mark(first)
	case p.module == "addrtype" && option == "--dst-type" && first == "LOCAL":
		// Packets that leave the node are for somewhere else.
		p.rule.match.never = p.rule.match.never || !p.negated
	case p.module == "addrtype" && option == "--src-type" && first == "LOCAL":
		p.fact(fact{kind: localSource, text: "--src-type LOCAL", negated: p.negated})
	case p.module == "addrtype" && option == "--limit-iface-out":
		// The type that stands before it is that of the outgoing interface alone.
		if n := len(p.rule.match.facts); n > 0 && p.rule.match.facts[n-1].kind == localSource {
			p.rule.match.facts[n-1].kind = plain
			p.rule.match.facts[n-1].text += " " + option
		}
	case (p.module == "conntrack" && option == "--ctstate" || p.module == "state") && !strings.Contains(first, "NAT"):
		// The nat table sees the first packets of connections alone, which are new, or
		// related to another connection.
		if p.negated || !strings.Contains(first, "NEW") {
			p.fact(fact{kind: plain, text: option + " " + first, negated: p.negated})
		}
	case p.module == "iprange" && (option == "--src-range" || option == "--dst-range"):
		p.addressRange(option, first)
	case p.module == "set" && option == "--match-set" && len(values) == 2:
		p.set(values[0], values[1])
	default:
		if p.negated {
			p.other = append(p.other, "!")
		}
		p.other = append(append(p.other, option), values...)
	}
}

// flush makes a fact of what is not known of a module.
func (p *saveParser) flush() {
	if len(p.other) == 0 {
		return
	}
	f := fact{kind: opaque, text: strings.Join(p.other, " ")}
	switch p.module {
	case p.proto, "tcp", "udp", "sctp", "multiport", "icmp", "icmp6", "icmpv6", "dccp", "udplite", "esp", "ah":
		f.kind = plain
	case "limit", "hashlimit", "statistic", "quota", "connlimit", "recent", "nth":
		f.kind = fickle
		f.text = "-m " + p.module + " " + f.text
	default:
		if p.module != "" {
			f.text = "-m " + p.module + " " + f.text
		}
	}
	p.fact(f)
	p.other = nil
}

func (p *saveParser) fact(f fact) { p.rule.match.facts = append(p.rule.match.facts, f) }

func (p *saveParser) address(option, text string) {
	prefix, err := parsePrefix(text)
	if err != nil || prefix.Addr().Is4() != (p.family == ruleset.IPv4) {
		// A mask with holes.
		p.fact(fact{kind: opaque, text: option + " " + text, negated: p.negated})
		return
	}
	p.narrow(option, setOf(prefix))
}

func (p *saveParser) addressRange(option, text string) {
	r, err := netipx.ParseIPRange(text)
	if err != nil || r.From().Is4() != (p.family == ruleset.IPv4) {
		p.fact(fact{kind: opaque, text: option + " " + text, negated: p.negated})
		return
	}
	var b netipx.IPSetBuilder
	b.AddRange(r)
	p.narrow(option, built(&b))
}

func (p *saveParser) set(name, directions string) {
	if p.sets != nil && (directions == "src" || directions == "dst") {
		if members, ok := p.sets(name); ok {
			p.narrow(directions, members)
			return
		}
	}
	f := fact{kind: opaque, text: strings.TrimSpace(setCondition + name + " " + directions), negated: p.negated}
	if name == loopBack {
		f.kind = hairpin
	}
	p.fact(f)
}

// narrow adds a condition on the side that an option is about: -s, --src-range, src.
func (p *saveParser) narrow(option string, set *netipx.IPSet) {
	if p.negated {
		set = subtract(everything(p.family), set)
	}
	side := &p.rule.match.dst
	if strings.HasPrefix(strings.TrimLeft(option, "-"), "s") {
		side = &p.rule.match.src
	}
	narrow(side, set)
}

// narrow adds a condition on one side of a match: the address is in the set.
func narrow(side **netipx.IPSet, set *netipx.IPSet) {
	if *side != nil {
		set = intersect(*side, set)
	}
	*side = set
}

// leaves adds a condition on the outgoing interface. What leaves the node does not do
// so through loopback.
func (m *match) leaves(name string, negated bool) {
	if name == "lo" {
		m.never = m.never || !negated
		return
	}
	m.facts = append(m.facts, fact{kind: out, text: name, negated: negated})
}

func (p *saveParser) mark(text string) {
	value, bits, masked := strings.Cut(text, "/")
	f := fact{kind: mark, text: text, negated: p.negated, bits: 1<<32 - 1}
	number, err := strconv.ParseUint(value, 0, 32)
	f.value = uint32(number)
	if masked && err == nil {
		number, err = strconv.ParseUint(bits, 0, 32)
		f.bits = uint32(number)
	}
	if err != nil {
		f = fact{kind: opaque, text: "--mark " + text, negated: p.negated}
	}
	p.fact(f.positive())
}

// positive turns "a single bit is not set" into "it is zero" and back, so that one
// condition has one form: ! 0x4000/0x4000 is 0x0/0x4000.
func (f fact) positive() fact {
	single := f.bits != 0 && f.bits&(f.bits-1) == 0
	if f.kind != mark || !single || f.value&^f.bits != 0 || f.value != 0 {
		return f
	}
	f.value, f.negated = f.bits, !f.negated
	hex := "0x" + strconv.FormatUint(uint64(f.bits), 16)
	f.text = hex + "/" + hex
	return f
}

// target reads what the rule does; its options are not of interest, but for ports.
func (p *saveParser) target(option, name string) {
	options := p.words
	p.words = nil
	r := &p.rule
	r.ports = slices.Contains(options, "--to-ports")
	switch name {
	case "MASQUERADE":
		r.kind = masquerade
	case "SNAT", "NETMAP", "SAME", "SNPT":
		r.kind = translates
	case "RETURN":
		r.kind = returns
	case "ACCEPT":
		r.kind = accepts
	case "DROP", "REJECT", "QUEUE", "NFQUEUE":
		r.kind = drops
	case "MARK", "CONNMARK", "CONNSECMARK":
		r.kind = marks
	case "", "LOG", "NFLOG", "ULOG", "TRACE", "SET", "CLASSIFY", "DSCP", "TOS", "TTL", "HL", "CHECKSUM", "TCPMSS", "AUDIT",
		"IDLETIMER", "LED", "RATEEST", "TEE", "HMARK", "SECMARK", "NOTRACK", "CT", "DNAT", "REDIRECT":
		r.kind = goesOn
	default:
		r.kind, r.chain = jumps, name
		if option == "-g" {
			r.kind = goes
		}
	}
}

// parsePrefix reads an address or a prefix, the length or mask of which may be in
// dotted form.
func parsePrefix(text string) (netip.Prefix, error) {
	address, mask, masked := strings.Cut(text, "/")
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}, err
	}
	bits := addr.BitLen()
	if masked {
		if bits, err = maskBits(mask); err != nil {
			return netip.Prefix{}, err
		}
	}
	return addr.Prefix(bits)
}

func maskBits(mask string) (int, error) {
	if n, err := strconv.Atoi(mask); err == nil {
		return n, nil
	}
	addr, err := netip.ParseAddr(mask)
	if err != nil {
		return 0, err
	}
	ones := allOnes(addr.BitLen())
	for bits := range addr.BitLen() + 1 {
		if p, err := ones.Prefix(bits); err == nil && p.Addr() == addr {
			return bits, nil
		}
	}
	return 0, fmt.Errorf("reading the mask %s: it has holes", mask)
}

func allOnes(bits int) netip.Addr {
	ones := slices.Repeat([]byte{0xff}, bits/8)
	addr, _ := netip.AddrFromSlice(ones) // of a valid length
	return addr
}
