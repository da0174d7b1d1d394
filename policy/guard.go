package policy

import (
	"encoding/binary"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// guards tell of one set that it is empty without evaluating it in OPA: when of each rule
// that adds to it the conditions that are understood here have no solution. They are read
// off the compiled rules themselves, so what a rule means is said in Rego alone; what is
// not understood (see reader) is left to OPA, and so is whatever OPA might fail at. A set
// without guards (nil) is always evaluated.
type guards struct {
	rules []*guard
	begun []begun  // of rules that begin with a list
	later []*guard // the other rules
}

// begun is the walks with which some rules begin, all along one list: where none may find a
// solution, none of the rules has to be looked at.
type begun struct {
	among *elements
	list  expression
	walks bits
}

// guard is the conditions of one rule, from the first to the last one that is understood.
type guard struct {
	body  []step
	slots int
	walks []*walk // in body
}

// walk is what a body asks of each element of a list of the input, as far as only the
// element decides. The answer is remembered (see elements): an edit changes one CIDR of
// many.
type walk struct {
	source string // where the list is in the input
	inside []step // conditions on the element
	slot   int    // where inside finds the element
	slots  int
	reads  usage // of the element
	among  *elements
	bit    int // of this walk in what among remembers
}

// look is what one decision needs to find the sets that are empty. It is not safe for
// concurrent use.
type look struct {
	input    ast.Value
	frames   []ast.Value
	inputs   []remembered // by the index of reader.inputs
	virtuals []remembered // by virtual.index
	lists    []*verdicts  // by elements.index
	parsed   [2]parsed    // of look.prefix
	last     lastField
	steps    int  // since the clock was looked at
	left     int  // steps that one rule may take
	found    bool // of solved
	made     int  // by one rule, as volume counts
	kept     int  // in virtuals, as volume counts
	until    time.Time
	unknown  bool // what follows cannot be told: OPA may fail at it, or there is no time
	late     bool // there is no time, so that nothing further can be told
}

// Bounds of a look: past them OPA is asked, which can be stopped.
const (
	stepsBetween = 256     // looks at the clock
	maxSteps     = 1 << 16 // that one rule takes, or one of a walk for an element

	// The rest is in bytes, as volume counts them.
	maxPart       = 1000 * nodeVolume    // one value that is put into others
	maxMadeByRule = 1 << 16 * nodeVolume // what one rule makes
	maxRemembered = 1 << 18 * nodeVolume // what is remembered of all rules
	maxData       = 1 << 19 * nodeVolume // data.json, which then takes some milliseconds to compare
)

// lookSize is what a look has to find and remember.
type lookSize struct{ inputs, virtuals, lists int }

func newLook(input ast.Value, size lookSize, limit time.Duration) *look {
	all := make([]remembered, size.inputs+size.virtuals)
	return &look{
		input: input, inputs: all[:size.inputs], virtuals: all[size.inputs:], lists: make([]*verdicts, size.lists),
		frames: make([]ast.Value, 0, 64), until: time.Now().Add(limit), left: maxSteps,
	}
}

// empty tells whether the set is empty for certain.
func (g *guards) empty(l *look) bool {
	if g == nil {
		return false
	}
	rules := g.later
	if slices.ContainsFunc(g.begun, func(b begun) bool { return !b.fails(l) }) {
		rules = g.rules
	}
	return !slices.ContainsFunc(rules, func(rule *guard) bool { return !rule.fails(l) })
}

// fails tells whether none of the rules that begin so adds anything.
func (b *begun) fails(l *look) bool {
	return l.certain(func() bool {
		list := b.list(l, nil)
		array, ok := list.(*ast.Array)
		if !ok {
			return list == nil && !l.unknown
		}
		v := b.among.verdicts(l, array)
		return !l.unknown && !v.any.meet(b.walks)
	})
}

// fails tells whether the rule adds nothing for certain.
func (g *guard) fails(l *look) bool {
	return l.certain(func() bool {
		f, top := l.frame(g.slots)
		defer l.drop(top)
		return !solvable(l, f, g.body)
	})
}

// certain is what fails tells, with steps and terms of its own, or false where there is no
// time, or where it panics: then OPA is asked, which tells what happened.
func (l *look) certain(fails func() bool) (certain bool) {
	if l.late {
		return false
	}
	defer func() {
		if recover() != nil {
			certain = false
		}
	}()
	l.unknown, l.made, l.left = false, 0, maxSteps
	return fails()
}

// frame holds the variables of one body.
type frame []ast.Value

// frame makes one. It holds what was there before: a variable is bound before it is read.
func (l *look) frame(slots int) (f frame, top int) {
	top = len(l.frames)
	l.frames = slices.Grow(l.frames, slots)[:top+slots]
	return l.frames[top : top+slots : top+slots], top
}

func (l *look) drop(top int) { l.frames = l.frames[:top] }

// spend counts steps and tells whether there is time for more.
func (l *look) spend(steps int) bool {
	if l.left -= steps; l.left < 0 {
		l.unknown = true
	}
	if l.steps += steps; l.steps >= stepsBetween {
		l.steps = 0
		if time.Now().After(l.until) {
			l.late, l.unknown = true, true
		}
	}
	return !l.unknown
}

// expression is what a term is in a frame: nil where it is undefined, or unknown.
type expression func(l *look, f frame) ast.Value

// step is one condition of a body, a test or an iteration.
type step struct {
	test  func(l *look, f frame) bool
	binds bool      // test gives a variable what the rest needs
	cidr  *cidrTest // what test does, in another form; else nil
	each  *iteration
}

// iteration goes over what list holds, and binds both slots.
type iteration struct {
	list       expression
	key, value int
	walk       *walk // the first of a body over a list of the input; else nil
}

// solve looks for the solutions of a body and calls found for each, until that returns
// true or something is unknown; it tells whether either happened.
func solve(l *look, f frame, steps []step, found func(l *look) bool) bool {
	for i, s := range steps {
		if !l.spend(1) {
			return true
		}
		if s.each != nil {
			return s.each.solve(l, f, steps[i+1:], found)
		}
		if !s.test(l, f) {
			return l.unknown
		}
	}
	return found(l)
}

// solvable tells whether there is a solution, or something is unknown.
func solvable(l *look, f frame, steps []step) bool {
	return solve(l, f, steps, func(*look) bool { return true })
}

// solved tells whether there is a solution, and looks at all of them, as OPA does: one may
// fail.
func solved(l *look, f frame, steps []step) bool {
	outer := l.found
	l.found = false
	solve(l, f, steps, func(l *look) bool {
		l.found = true
		return false
	})
	found := l.found
	l.found = outer
	return found
}

func (each *iteration) solve(l *look, f frame, rest []step, found func(l *look) bool) bool {
	list := each.list(l, f)
	if list == nil {
		return l.unknown
	}
	array, ok := list.(*ast.Array)
	if !ok {
		return iterate(list, func(key, value ast.Value) bool {
			f[each.key], f[each.value] = key, value
			return solve(l, f, rest, found)
		})
	}
	var seen *verdicts
	if each.walk != nil && each.walk.among != nil {
		seen = each.walk.among.verdicts(l, array)
		if l.unknown || !seen.any.has(each.walk.bit) {
			return l.unknown
		}
	}
	for i := range array.Len() {
		if seen != nil && !seen.each[i].has(each.walk.bit) {
			continue
		}
		f[each.key], f[each.value] = ast.InternedTerm(i).Value, array.Elem(i).Value
		if solve(l, f, rest, found) {
			return true
		}
	}
	return false
}

// iterate calls visit for what a value holds, as a reference with a variable does, until
// it returns true; it tells whether it did.
func iterate(collection ast.Value, visit func(key, value ast.Value) bool) bool {
	switch c := collection.(type) {
	case *ast.Array:
		for i := range c.Len() {
			if visit(ast.InternedTerm(i).Value, c.Elem(i).Value) {
				return true
			}
		}
	case ast.Object:
		return c.Until(func(k, v *ast.Term) bool { return visit(k.Value, v.Value) })
	case ast.Set:
		return c.Until(func(member *ast.Term) bool { return visit(member.Value, member.Value) })
	}
	return false
}

func isCollection(v ast.Value) bool {
	switch v.(type) {
	case *ast.Array, ast.Object, ast.Set:
		return true
	}
	return false
}

// stored is what data.json has at key in a collection, or nil. OPA goes there by the text
// of keys, as if 1 and "1" were one, so what is not plain is left to it.
func stored(l *look, collection ast.Value, key *ast.Term) ast.Value {
	switch collection.(type) {
	case *ast.Array:
		if n, ok := key.Value.(ast.Number); ok {
			if i, whole := n.Int(); whole && i >= 0 && n == ast.Number(strconv.Itoa(i)) {
				return at(l, collection, key)
			}
		}
		l.unknown = true
	case ast.Object:
		if _, ok := key.Value.(ast.String); ok {
			return at(l, collection, key)
		}
		l.unknown = true
	}
	return nil
}

// at is what a collection has at key, or nil.
func at(_ *look, collection ast.Value, key *ast.Term) ast.Value {
	var found *ast.Term
	switch c := collection.(type) {
	case *ast.Array:
		found = c.Get(key)
	case ast.Object:
		found = c.Get(key)
	case ast.Set:
		if c.Contains(key) {
			found = key
		}
	}
	if found == nil {
		return nil
	}
	return found.Value
}

// lastField is what an object was found to have: many rules ask for the same field of the
// same element one after the other.
type lastField struct {
	object ast.Object
	path   *ast.Term
	value  ast.Value
}

// field is what v has at a path of one name, or nil.
func (l *look) field(v ast.Value, path ast.Ref) ast.Value {
	object, ok := v.(ast.Object)
	if !ok {
		if v == nil {
			return nil
		}
		found, err := v.Find(path)
		if err != nil {
			return nil // it has nothing there
		}
		return found
	}
	if l.last.object == object && l.last.path.Value == path[0].Value {
		return l.last.value
	}
	found, err := object.Find(path)
	if err != nil {
		found = nil
	}
	l.last = lastField{object, path[0], found}
	return found
}

// virtual is a rule that others read, or a function.
type virtual struct {
	index       int // of what a look remembers; functions are not remembered
	set         bool
	definitions []*definition
	otherwise   ast.Value // the default; may be nil
	touched     touched
	uses        []usage // of its arguments
}

// definition is one rule of a virtual.
type definition struct {
	arguments []argument
	body      []step
	value     expression
	constant  ast.Value // that value is; else nil
	slots     int
	otherwise *definition // else
}

// argument is bound to a slot, or has to be equal to a constant.
type argument struct {
	slot     int
	constant ast.Value
}

// remembered is the value of a virtual in one look.
type remembered struct {
	known   bool
	unknown bool
	value   ast.Value
	text    ast.String // the argument of a function
}

// get is the value of a virtual without arguments.
func (v *virtual) get(l *look) ast.Value {
	r := &l.virtuals[v.index]
	if !r.known {
		made := l.made
		*r = remembered{known: true, value: v.call(l, nil)}
		l.kept += l.made - made
		if r.unknown = l.unknown || l.kept > maxRemembered; r.unknown {
			r.value = nil
		}
	}
	l.unknown = l.unknown || r.unknown
	return r.value
}

// apply is the value of a function. The last value for a text is remembered: the rules of
// a team ask the same of an element.
func (v *virtual) apply(l *look, arguments []ast.Value) ast.Value {
	text, ok := arguments[0].(ast.String)
	if !ok || len(arguments) > 1 {
		return v.call(l, arguments)
	}
	r := &l.virtuals[v.index]
	if !r.known || r.text != text {
		value := v.call(l, arguments)
		*r = remembered{known: true, unknown: l.unknown, value: value, text: text}
	}
	l.unknown = l.unknown || r.unknown
	return r.value
}

func (v *virtual) call(l *look, arguments []ast.Value) ast.Value {
	if v.set {
		return v.members(l)
	}
	var value ast.Value
	for _, d := range v.definitions {
		one := d.call(l, arguments)
		if l.unknown {
			return nil
		}
		if one != nil && value != nil && ast.Compare(one, value) != 0 {
			l.unknown = true // a conflict: OPA tells
			return nil
		}
		if one != nil {
			value = one
		}
	}
	if value == nil {
		return v.otherwise
	}
	return value
}

func (v *virtual) members(l *look) ast.Value {
	all := ast.NewSet()
	for _, d := range v.definitions {
		f, top := l.frame(d.slots)
		solve(l, f, d.body, func(l *look) bool {
			if member := l.constructed(d.value(l, f)); member != nil {
				all.Add(ast.NewTerm(member))
			}
			return l.unknown
		})
		l.drop(top)
	}
	return all
}

func (d *definition) call(l *look, arguments []ast.Value) (value ast.Value) {
	f, top := l.frame(d.slots)
	defer l.drop(top)
	for i, a := range d.arguments {
		if a.constant == nil {
			f[a.slot] = arguments[i]
		} else if ast.Compare(a.constant, arguments[i]) != 0 {
			return nil
		}
	}
	if d.constant != nil {
		if solved(l, f, d.body) {
			value = d.constant
		}
	} else {
		solve(l, f, d.body, func(l *look) bool {
			one := d.value(l, f)
			if one != nil && value != nil && ast.Compare(one, value) != 0 {
				l.unknown = true // a conflict: OPA tells
			}
			if one != nil {
				value = one
			}
			return l.unknown
		})
	}
	if value == nil && d.otherwise != nil && !l.unknown {
		return d.otherwise.call(l, arguments)
	}
	return value
}

// constructed is a value that is put into another one. Values made of values can grow
// beyond all bounds, so there is one here.
func (l *look) constructed(v ast.Value) ast.Value {
	if v == nil {
		return nil
	}
	left := maxPart
	if !volume(v, &left) {
		l.unknown = true
		return nil
	}
	if l.made += maxPart - left; l.made > maxMadeByRule {
		l.unknown = true
		return nil
	}
	return v
}

// elements remembers for the elements of a list which of the walks along it may find a
// solution with them. What an element is to a walk is what the walk reads of it.
type elements struct {
	index  int
	whole  bool // more is read than fields
	fields []*ast.Term
	walks  []*walk
	tests  []elementTest // walks that compare a CIDR with a constant
	others []int         // bits of the other walks
	budget *elementBudget

	mu    sync.Mutex
	known map[string]bits
}

type elementTest struct {
	cidrTest
	bit int
}

// elementBudget bounds what all elements of an engine remember: past it they begin anew.
type elementBudget struct {
	mu   sync.Mutex
	left int
	all  []*elements
}

const (
	maxElementBytes = 4 << 20
	entryBytes      = 64 // of a map, about
)

// bits has one for each walk.
type bits []uint64

func (b bits) has(bit int) bool { return b[bit/64]&(1<<(bit%64)) != 0 }

func (b bits) set(bit int) { b[bit/64] |= 1 << (bit % 64) }

// meet tells whether any bit is set in both; other may have fewer.
func (b bits) meet(other bits) bool {
	for i, word := range other {
		if b[i]&word != 0 {
			return true
		}
	}
	return false
}

func (e *elements) bits() bits { return make(bits, (len(e.walks)+63)/64) }

// verdicts are the walks that may find a solution, with each element of a list and with any.
type verdicts struct {
	each []bits
	any  bits
}

// verdicts are those on the list that e is about, which is the same throughout a look.
func (e *elements) verdicts(l *look, list *ast.Array) *verdicts {
	if known := l.lists[e.index]; known != nil {
		return known
	}
	v := &verdicts{each: make([]bits, list.Len()), any: e.bits()}
	var key []byte
	var missing []int
	var keys []string
	for i := range v.each {
		key = e.key(key[:0], list.Elem(i).Value)
		e.mu.Lock()
		v.each[i] = e.known[string(key)]
		e.mu.Unlock()
		if v.each[i] == nil {
			missing, keys = append(missing, i), append(keys, string(key))
		}
	}
	for n, found := range e.ask(l, list, missing) {
		v.each[missing[n]] = found
		e.remember(keys[n], found)
	}
	if l.unknown = l.late; l.late {
		return v
	}
	for _, found := range v.each {
		for n, word := range found {
			v.any[n] |= word
		}
	}
	l.lists[e.index] = v
	return v
}

// ask is which walks may find a solution with each of some elements, as far as there is
// time.
func (e *elements) ask(l *look, list *ast.Array, which []int) []bits {
	made, left := l.made, l.left
	defer func() { l.made, l.left = made, left }()
	all := make([]bits, 0, len(which))
	for _, i := range which {
		element, found := list.Elem(i).Value, e.bits()
		cidr := e.cidr(element)
		for n := range e.tests {
			t := &e.tests[n]
			if holds, known := t.holds(cidr); holds || !known && e.walks[t.bit].finds(l, element) {
				found.set(t.bit)
			}
		}
		for _, bit := range e.others {
			if e.walks[bit].finds(l, element) {
				found.set(bit)
			}
		}
		if l.spend(len(e.tests) / 8); l.late {
			return all
		}
		all = append(all, found)
	}
	return all
}

// finds tells whether a walk may find a solution with an element.
func (w *walk) finds(l *look, element ast.Value) bool {
	l.unknown, l.made, l.left = l.late, 0, maxSteps
	f, top := l.frame(w.slots)
	f[w.slot] = element
	found := solvable(l, f, w.inside)
	l.drop(top)
	return found
}

// cidr is what the tests read of an element; without a prefix where it is no CIDR.
func (e *elements) cidr(element ast.Value) *parsed {
	if object, ok := element.(ast.Object); ok && !e.whole && len(e.fields) == 1 {
		if found := object.Get(e.fields[0]); found != nil {
			element = found.Value
		}
	}
	text, ok := element.(ast.String)
	if !ok {
		return &parsed{}
	}
	cidr := parsePrefix(text)
	return &cidr
}

func (e *elements) remember(key string, found bits) {
	b := e.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left -= len(key) + 8*len(found) + entryBytes; b.left < 0 {
		for _, one := range b.all {
			one.mu.Lock()
			one.known = map[string]bits{}
			one.mu.Unlock()
		}
		b.left = maxElementBytes
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.known[key] = found
}

// key appends what tells an element from others to b.
func (e *elements) key(b []byte, element ast.Value) []byte {
	object, ok := element.(ast.Object)
	if e.whole || !ok {
		return appendValue(append(b, 0), element)
	}
	b = append(b, 1)
	for _, field := range e.fields {
		if found := object.Get(field); found != nil {
			b = appendValue(b, found.Value)
		} else {
			b = append(b, 0)
		}
	}
	return b
}

// appendValue appends a form of v that no other value has.
func appendValue(b []byte, v ast.Value) []byte {
	if text, ok := v.(ast.String); ok {
		b = binary.AppendUvarint(append(b, 1), uint64(len(text)))
		return append(b, text...)
	}
	text := v.String()
	b = binary.AppendUvarint(append(b, 2), uint64(len(text)))
	return append(b, text...)
}
