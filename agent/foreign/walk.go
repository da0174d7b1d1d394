package foreign

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
)

// Bounds of one walk. The kernel forbids loops and more than 16 nested jumps
// (NFT_JUMP_STACK_SIZE); iptables-legacy allows more, and nobody makes them.
const (
	maxDepth = 32
	maxSteps = 1 << 17 // rules met in one hook, each as often as it is met
)

// walker follows packets of one family. They begin as everything that leaves the node:
// what is for the node itself takes no jump to our chain, and matters to nobody else.
type walker struct {
	ours   Ours
	all    *netipx.IPSet
	spared *netipx.IPSet // destinations that our chain spares
	pods   *netipx.IPSet // sources that it masquerades

	at      Hook
	place   Position
	passed  bool      // our jump
	steps   int       // rules met in this hook
	pending []Finding // rules that accept packets, of interest if our jump comes later

	findings []Finding
	partial  []string
}

func newWalker(ours Ours) *walker {
	w := &walker{ours: ours, all: everything(ours.Decision.Family)}
	spared, err := ours.Decision.SparedSet()
	if err != nil { // an invalid prefix, which no Decision has
		spared = &netipx.IPSet{}
	}
	w.spared = spared
	w.pods = w.all
	if len(ours.Decision.Sources) > 0 {
		w.pods = setOf(ours.Decision.Sources...)
	}
	return w
}

// holdsOurs tells that our rules stand in this hook.
func (w *walker) holdsOurs(h Hook) bool {
	return h.Backend == w.ours.Backend && (h.Backend != Native || h.Table == w.ours.Table && h.Chain == w.ours.Chain)
}

func (w *walker) hook(h Hook) {
	if h.Backend == Native && w.holdsOurs(h) {
		return
	}
	w.at, w.passed, w.steps, w.pending = h, false, 0, nil
	start := region{{src: w.all, dst: w.all}}
	switch {
	case w.holdsOurs(h), h.Priority < w.ours.Priority:
		w.place = Before
	case h.Priority > w.ours.Priority:
		w.place = After
		start = w.beyond(start)
	default:
		w.place = Either
	}
	w.follow(h.Chain, start, nil)
}

// beyond is what our chain lets pass of a region.
func (w *walker) beyond(r region) region {
	var passed region
	d := w.ours.Decision
	for _, b := range r {
		others := b
		others.src = subtract(b.src, w.pods)
		passed = passed.add(others)

		b.src = intersect(b.src, w.pods)
		spared := b
		spared.dst = intersect(b.dst, w.spared)
		passed = passed.add(spared)

		elsewhere, some := b, len(d.Interfaces) > 0
		for _, name := range d.Interfaces {
			if some {
				elsewhere, some = elsewhere.with(fact{kind: out, text: name, negated: true})
			}
		}
		if some {
			passed = passed.add(elsewhere)
		}
	}
	return passed.compact()
}

// divide tells the destinations of a box that our chain masquerades, and those that it
// spares, as far as the packets are its business: of the sources that it is limited to.
func (w *walker) divide(b box) (taken, undone *netipx.IPSet) {
	if empty(intersect(b.src, w.pods)) {
		return &netipx.IPSet{}, &netipx.IPSet{}
	}
	if len(w.ours.Decision.Interfaces) > 0 && !w.leavesByOurs(b) {
		return &netipx.IPSet{}, b.dst
	}
	return subtract(b.dst, w.spared), intersect(b.dst, w.spared)
}

// leavesByOurs tells that all of a box leaves by interfaces that we masquerade.
func (w *walker) leavesByOurs(b box) bool {
	return slices.ContainsFunc(b.facts, func(f fact) bool {
		return f.kind == out && !f.negated && slices.ContainsFunc(w.ours.Decision.Interfaces, func(pattern string) bool {
			return covers(pattern, f.text)
		})
	})
}

// follow leads a region through a chain and returns what comes out at its end.
func (w *walker) follow(chain string, rest region, path []string) region {
	if len(path) >= maxDepth || slices.Contains(path, chain) {
		w.incomplete("chains that jump to each other too deeply")
		return rest
	}
	path = append(slices.Clip(path), chain)
	var back region
	for _, r := range w.at.chains[chain] {
		if w.steps++; w.steps > maxSteps {
			w.incomplete("too many rules to follow")
			return nil
		}
		hit, miss := rest.split(r.match)
		switch r.kind {
		case goesOn:
			continue
		case marks:
			for i := range hit {
				hit[i] = hit[i].remark()
			}
			miss = append(miss, hit...).compact()
		case jumps, goes:
			if len(hit) > 0 {
				came := w.enter(r, hit, path)
				if r.kind == goes {
					back = append(back, came...).compact()
				} else {
					miss = append(miss, came...).compact()
				}
			}
		case returns:
			if len(path) > 1 {
				back = append(back, hit...).compact()
			} else {
				w.accepted(r, chain, path, hit)
			}
		case accepts:
			w.accepted(r, chain, path, hit)
		case drops:
		case masquerade, translates:
			w.translated(r, chain, path, hit)
		}
		rest = miss
	}
	return append(back, rest...).compact()
}

func (w *walker) incomplete(why string) {
	told := fmt.Sprintf("%s %s table %s: %s", familyName(w.at.Family), w.at.Backend, w.at.Table, why)
	if !slices.Contains(w.partial, told) {
		w.partial = append(w.partial, told)
	}
}

// remark is a box after its mark has been set to something.
func (b box) remark() box {
	facts := slices.Clone(b.facts)
	for i := range facts {
		if facts[i].kind == mark {
			facts[i].kind = markBefore
		}
	}
	b.facts, b.remarked = facts, true
	return b
}

// enter follows a jump.
func (w *walker) enter(r rule, hit region, path []string) region {
	if !w.holdsOurs(w.at) || r.chain != w.ours.Chain {
		return w.follow(r.chain, hit, path)
	}
	if !w.passed {
		w.findings = append(w.findings, w.pending...)
		w.pending = nil
	}
	w.passed, w.place = true, After
	return w.beyond(hit)
}

// accepted judges a rule that leaves the source as it is, and keeps packets from our
// chain if that comes later.
func (w *walker) accepted(r rule, chain string, path []string, hit region) {
	if w.passed || !w.holdsOurs(w.at) {
		return
	}
	f := w.finding(r, chain, path)
	var src, dst netipx.IPSetBuilder
	for _, b := range hit {
		taken, _ := w.divide(b)
		if empty(taken) || b.guard() != "" || b.only(localSource) || b.only(opaque) || b.loops() {
			continue
		}
		src.AddSet(b.src)
		dst.AddSet(taken)
	}
	f.tell(w.all, built(&src), built(&dst))
	if len(f.Ranges) == 0 {
		return
	}
	f.Verdict = ShadowsUs
	f.Why = "accepts packets before our chain sees them, so they keep their source" + narrowed(r)
	f.Remedy = remedy(f)
	w.pending = append(w.pending, f)
}

// translated judges a rule that rewrites sources.
func (w *walker) translated(r rule, chain string, path []string, hit region) {
	f := w.finding(r, chain, path)
	sums := map[Verdict]*struct{ src, dst netipx.IPSetBuilder }{}
	add := func(v Verdict, src, dst *netipx.IPSet) {
		if sums[v] == nil {
			sums[v] = &struct{ src, dst netipx.IPSetBuilder }{}
		}
		sums[v].src.AddSet(src)
		sums[v].dst.AddSet(dst)
	}
	var unclear []string
	harmless := "no packet comes to it: others decide before"
	if r.match.never {
		harmless = "it takes only packets to the node itself"
	}
	for _, b := range hit {
		if why := b.harmless(); why != "" {
			harmless = why
			continue
		}
		taken, undone := w.divide(b)
		if !empty(undone) {
			verdict := Undoes
			if b.only(opaque) {
				verdict = Unknown
				unclear = append(unclear, b.unclear()...)
			}
			add(verdict, b.src, undone)
		}
		if !empty(taken) {
			verdict := Duplicate
			if r.kind == translates || r.ports != (len(w.ours.Decision.ToPorts) > 0) {
				verdict = ShadowsUs
			}
			add(verdict, b.src, taken)
		}
		if empty(taken) && empty(undone) {
			harmless = "its packets are not from the sources that we masquerade"
		}
	}
	f.Verdict, f.Why = Harmless, harmless
	for _, v := range Verdicts() {
		if sum := sums[v]; sum != nil {
			f.Verdict = v
			dst := built(&sum.dst)
			f.tell(w.all, built(&sum.src), dst)
			f.Why = why(f, r, w.named(dst), unclear)
			break
		}
	}
	f.Remedy = remedy(f)
	w.findings = append(w.findings, f)
}

func (w *walker) finding(r rule, chain string, path []string) Finding {
	return Finding{
		Owner: owner(w.at, path, r), Family: familyName(w.at.Family), Backend: w.at.Backend, Table: w.at.Table,
		Chain: chain, Rule: r.text, Position: w.place, Sources: []string{}, Ranges: []string{},
	}
}

// tell sets sources and destinations; everything as a source is none.
func (f *Finding) tell(all, src, dst *netipx.IPSet) {
	if !src.Equal(all) {
		f.Sources = f.ranges(src)
	}
	f.Ranges = f.ranges(dst)
}

func (f *Finding) ranges(set *netipx.IPSet) []string {
	told := []string{}
	for _, r := range set.Ranges() {
		if len(told) == maxRanges {
			f.More++
			continue
		}
		text := r.String()
		if p, one := r.Prefix(); one {
			text = p.String()
		}
		told = append(told, text)
	}
	return told
}

// harmless tells why the packets of a box are none of our business, or nothing.
func (b box) harmless() string {
	if guard := b.guard(); guard != "" {
		return "only packets with " + guard + ", which its owner gives them"
	}
	switch {
	case b.only(localSource):
		return "only packets of the node itself"
	case b.loops(), b.only(hairpin):
		return "only packets that come back to their own source"
	}
	return ""
}

// guard is the mark that packets need, or nothing.
func (b box) guard() string {
	for _, f := range b.facts {
		if f.negated != (f.value == 0) || f.kind != markBefore && (f.kind != mark || b.remarked) {
			continue
		}
		if f.negated {
			return "a mark"
		}
		return "the mark " + f.text
	}
	return ""
}

// only tells that a fact of this kind holds, not its negation.
func (b box) only(kind factKind) bool {
	return slices.ContainsFunc(b.facts, func(f fact) bool { return f.kind == kind && (!f.negated || kind == opaque) })
}

// loops tells of packets from one address to itself, whose source has to be rewritten
// for the answer to come back, and of those from loopback.
func (b box) loops() bool {
	src := b.src.Prefixes()
	if len(src) == 1 && src[0].IsSingleIP() && b.src.Equal(b.dst) {
		return true
	}
	return !slices.ContainsFunc(src, func(p netip.Prefix) bool {
		return !loopbackIPv4.Contains(p.Addr()) || p.Bits() < loopbackIPv4.Bits()
	}) || len(src) == 1 && src[0].IsSingleIP() && src[0].Addr().IsLoopback()
}

// loopbackIPv4 is RFC 1122 section 3.2.1.3's.
//
//nolint:gochecknoglobals // a constant in all but the language
var loopbackIPv4 = netip.MustParsePrefix("127.0.0.0/8")

// why is a verdict that is not harmless, in one line.
func why(f Finding, r rule, named string, unclear []string) string {
	does, would := "masquerades", "masquerade"
	if r.kind == translates {
		does, would = "gives another source address to", "give another source address to"
	}
	switch f.Verdict {
	case Undoes:
		return fmt.Sprintf("%s packets to %s, which our list spares%s", does, named, narrowed(r))
	case Unknown:
		return fmt.Sprintf("may %s packets to %s, which our list spares: that depends on %s", would, named, several(unclear))
	case ShadowsUs:
		return fmt.Sprintf("%s packets that our chain masquerades%s, %s%s", does, portsDiffer(r), order(f.Position), narrowed(r))
	case Duplicate, Harmless:
	}
	return fmt.Sprintf("masquerades only what our chain masquerades anyway, %s", order(f.Position))
}

func portsDiffer(r rule) string {
	if r.kind == masquerade {
		return " with other source ports"
	}
	return ""
}

func order(p Position) string {
	switch p {
	case Before:
		return "before it"
	case After:
		return "after it"
	case Either:
	}
	return "before it if this table was made later"
}

// named are the entries of our list that overlap, at most four.
func (w *walker) named(dst *netipx.IPSet) string {
	const most = 4
	var names []string
	for _, p := range w.ours.Decision.Spared {
		if !dst.OverlapsPrefix(p) || slices.Contains(names, p.String()) {
			continue
		}
		if len(names) == most {
			return strings.Join(names, ", ") + " and more"
		}
		names = append(names, p.String())
	}
	if len(names) == 0 {
		return "destinations beyond other interfaces"
	}
	return strings.Join(names, ", ")
}

// narrowed tells of the conditions that do not change the verdict.
func narrowed(r rule) string {
	if told := conditions(r, plain, out, fickle); told != "" {
		return " (only with " + told + ")"
	}
	return ""
}

func conditions(r rule, kinds ...factKind) string {
	var told []string
	for _, f := range r.match.facts {
		if slices.Contains(kinds, f.kind) {
			told = append(told, f.String())
		}
	}
	return strings.Join(told, " ")
}

// unclear are the conditions of a box that cannot be judged.
func (b box) unclear() []string {
	var told []string
	for _, f := range b.facts {
		if f.kind == opaque {
			told = append(told, f.String())
		}
	}
	return told
}

// several tells up to three different conditions.
func several(conditions []string) string {
	slices.Sort(conditions)
	conditions = slices.Compact(conditions)
	const most = 3
	if len(conditions) > most {
		return strings.Join(conditions[:most], ", ") + " and more"
	}
	return strings.Join(conditions, ", ")
}
