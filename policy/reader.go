package policy

import (
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// errForeign tells that a rule has something that the reader does not understand.
var errForeign = errors.New("not understood")

// reader makes guards of compiled rules. It understands what most rules begin with:
// comparisons, iteration, rules and functions of the author, negation, every,
// comprehensions, and the built-in functions of lookFunctions. OPA's compiler has
// resolved every name before, has given each call a line of its own, and has put the
// conditions in an order in which a variable is bound before it is read.
type reader struct {
	rules    map[string][]*ast.Rule // by path up to what varies
	data     ast.Value              // nil: not to be read
	params   bool                   // to be read
	virtuals map[string]*virtual    // nil: not understood
	indexes  int                    // of virtuals
	inputs   map[string]int         // indexes of the parts of the input that are read
	walked   map[string]*elements   // by list and what is read of its elements
	budget   *elementBudget
}

func newReader(modules map[string]*ast.Module, data, params ast.Value) *reader {
	r := &reader{
		params: isPlain(params),
		rules:  map[string][]*ast.Rule{}, virtuals: map[string]*virtual{}, walked: map[string]*elements{}, inputs: map[string]int{},
		budget: &elementBudget{left: maxElementBytes},
	}
	if left := maxData; isPlain(data) && volume(data, &left) {
		r.data = data
	}
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		for _, rule := range modules[name].Rules {
			path := rule.Ref().ConstantPrefix().String()
			r.rules[path] = append(r.rules[path], rule)
		}
	}
	return r
}

// size is what looks need for the guards that have been read.
func (r *reader) size() lookSize {
	return lookSize{inputs: len(r.inputs), virtuals: r.indexes, lists: len(r.walked)}
}

// guards are those of the set at this path: "data.ipmasq.no_overlap.deny".
func (r *reader) guards(path string) *guards {
	all := &guards{}
	for _, rule := range r.rules[path] {
		g := r.guard(rule)
		if len(g.body) == 0 {
			return nil
		}
		all.rules = append(all.rules, g)
	}
	if len(all.rules) == 0 {
		return nil
	}
	for _, g := range all.rules {
		r.join(g.walks)
		if first := g.body[0].each; first == nil || !all.begin(first) {
			all.later = append(all.later, g)
		}
	}
	return all
}

// begin notes that a rule begins with an iteration, if that is a walk.
func (g *guards) begin(each *iteration) bool {
	w := each.walk
	if w == nil || w.among == nil {
		return false
	}
	i := slices.IndexFunc(g.begun, func(b begun) bool { return b.among == w.among })
	if i < 0 {
		i = len(g.begun)
		g.begun = append(g.begun, begun{among: w.among, list: each.list})
	}
	for len(g.begun[i].walks) <= w.bit/64 {
		g.begun[i].walks = append(g.begun[i].walks, 0)
	}
	g.begun[i].walks.set(w.bit)
	return true
}

// guard reads the conditions of a rule up to one that is not understood: what stands
// behind that counts only once it has been evaluated.
func (r *reader) guard(rule *ast.Rule) *guard {
	s := newScope(r)
	_ = s.conditions(rule.Body) // what is understood is enough
	return &guard{body: s.steps, slots: s.next(), walks: s.walked()}
}

// join puts walks to those that read the same of the same list.
func (r *reader) join(walks []*walk) {
	for _, w := range walks {
		fields := slices.Sorted(maps.Keys(w.reads.fields))
		key := w.source + " " + strings.Join(fields, " ")
		if w.reads.whole {
			key = w.source
		}
		e := r.walked[key]
		if e == nil {
			e = &elements{index: len(r.walked), whole: w.reads.whole, budget: r.budget, known: map[string]bits{}}
			for _, field := range fields {
				e.fields = append(e.fields, ast.StringTerm(field))
			}
			r.walked[key] = e
			r.budget.all = append(r.budget.all, e)
		}
		w.among, w.bit = e, len(e.walks)
		e.walks = append(e.walks, w)
		if t := w.test(); t != nil {
			e.tests = append(e.tests, elementTest{*t, w.bit})
		} else {
			e.others = append(e.others, w.bit)
		}
	}
}

// test is all that a walk asks, where that is to compare the CIDR of the element with a
// constant; else nil.
func (w *walk) test() *cidrTest {
	last := w.inside[len(w.inside)-1].cidr
	if last == nil || last.slot != w.slot || len(w.inside) > 2 || (len(w.inside) == 2) != (last.field != "") {
		return nil
	}
	return last
}

// usage is what is read of a variable.
type usage struct {
	whole  bool
	fields map[string]bool
}

func (u usage) clone() usage { return usage{u.whole, maps.Clone(u.fields)} }

func (u *usage) add(other usage) {
	u.whole = u.whole || other.whole
	for field := range other.fields {
		u.field(field)
	}
}

func (u *usage) field(name string) {
	if u.fields == nil {
		u.fields = map[string]bool{}
	}
	u.fields[name] = true
}

// touched is what conditions look at, beside constants, data and params.
type touched struct {
	input  bool
	walked bool // a list of the input, by a walk
	lowest int  // of the slots
}

func nothing() touched { return touched{lowest: math.MaxInt} }

func (t *touched) add(other touched) {
	t.input = t.input || other.input
	t.walked = t.walked || other.walked
	t.lowest = min(t.lowest, other.lowest)
}

// scope is a body while it is read. The bodies inside of it share its slots.
type scope struct {
	reader *reader
	slots  map[ast.Var]int
	steps  []step
	outer  *scope
	walk   *walk // the first iteration, if that is over a list of the input

	// Of the outermost alone:
	uses    []usage           // by slot
	fields  map[int]fieldSlot // slots that hold a field of another's value
	touched touched
	walks   []*walk
}

// fieldSlot is a field of what a slot holds.
type fieldSlot struct {
	slot  int
	field string
}

func newScope(r *reader) *scope {
	return &scope{reader: r, slots: map[ast.Var]int{}, fields: map[int]fieldSlot{}, touched: nothing()}
}

func (s *scope) root() *scope {
	for s.outer != nil {
		s = s.outer
	}
	return s
}

func (s *scope) next() int { return len(s.root().uses) }

func (s *scope) slot() int {
	root := s.root()
	root.uses = append(root.uses, usage{})
	return len(root.uses) - 1
}

// bind gives a variable a slot.
func (s *scope) bind(name ast.Var) int {
	slot := s.slot()
	s.slots[name] = slot
	return slot
}

func (s *scope) touch(slot int) {
	t := &s.root().touched
	t.lowest = min(t.lowest, slot)
}

func (s *scope) inner() *scope {
	return &scope{reader: s.reader, slots: maps.Clone(s.slots), outer: s}
}

// body reads a body inside of s.
func (s *scope) body(body ast.Body) (*scope, error) {
	inner := s.inner()
	return inner, inner.conditions(body)
}

// conditions reads a body, or what is understood of its beginning.
func (s *scope) conditions(body ast.Body) error {
	root := s.root()
	outer := root.touched
	defer func() { root.touched.add(outer) }()
	all := nothing()
	through := false // the walk has all the conditions that it will
	for _, expr := range body {
		root.touched = nothing()
		from, walks := len(s.steps), len(root.walks)
		if err := s.expr(expr); err != nil {
			s.steps, root.walks = s.steps[:from], root.walks[:walks]
			return err
		}
		t := root.touched
		all.add(t)
		w := s.walk
		if w == nil {
			continue
		}
		through = through || t.input || t.lowest < w.slot
		if last := len(s.steps) - 1; !through && last >= from && s.steps[last].test != nil && !s.steps[last].binds {
			// What only prepares the message is left out, since it is of the element's place.
			at := slices.IndexFunc(s.steps, func(one step) bool { return one.each != nil && one.each.walk == w })
			w.inside = slices.Clone(s.steps[at+1:])
			w.reads = root.uses[w.slot].clone()
		}
	}
	all.input, all.walked = all.input || all.walked, false
	root.touched = all
	return nil
}

// walked are the walks of a body that is read, with something to remember.
func (s *scope) walked() []*walk {
	for _, w := range s.walks {
		w.slots = s.next()
	}
	return slices.DeleteFunc(s.walks, func(w *walk) bool { return len(w.inside) == 0 })
}

func (s *scope) test(test func(l *look, f frame) bool) { s.steps = append(s.steps, step{test: test}) }

// expr reads one condition.
func (s *scope) expr(expr *ast.Expr) error {
	if len(expr.With) > 0 {
		return errForeign
	}
	if expr.Negated {
		positive := *expr
		positive.Negated = false
		return s.not(ast.Body{&positive})
	}
	switch terms := expr.Terms.(type) {
	case *ast.Not:
		return s.not(terms.Body)
	case *ast.Every:
		return s.every(terms)
	case *ast.Term:
		value, err := s.term(terms)
		if err != nil {
			return err
		}
		s.test(func(l *look, f frame) bool { return isTrue(value(l, f)) })
		return nil
	case []*ast.Term:
		if expr.IsEquality() {
			return s.unify(terms[1], terms[2])
		}
		return s.call(terms)
	default:
		return errForeign
	}
}

// isTrue tells that a condition holds: in Rego all but false and undefined do.
func isTrue(v ast.Value) bool { return v != nil && v != ast.Value(ast.Boolean(false)) }

func (s *scope) not(body ast.Body) error {
	inner, err := s.body(body)
	if err != nil {
		return err
	}
	s.test(func(l *look, f frame) bool { return !solved(l, f, inner.steps) && !l.unknown })
	return nil
}

func (s *scope) every(every *ast.Every) error {
	domain, err := s.term(every.Domain)
	if err != nil {
		return err
	}
	inner := s.inner()
	key := inner.slot()
	if every.Key != nil {
		name, ok := every.Key.Value.(ast.Var)
		if !ok {
			return errForeign
		}
		inner.slots[name] = key
	}
	name, ok := every.Value.Value.(ast.Var)
	if !ok {
		return errForeign
	}
	value := inner.bind(name)
	body, err := inner.body(every.Body)
	if err != nil {
		return err
	}
	s.test(func(l *look, f frame) bool {
		all := domain(l, f)
		return isCollection(all) && !iterate(all, func(k, v ast.Value) bool {
			f[key], f[value] = k, v
			return !solvable(l, f, body.steps) || l.unknown
		})
	})
	return nil
}

// unify makes two terms equal: a variable without a value takes the other's.
func (s *scope) unify(left, right *ast.Term) error {
	if _, free := s.free(left); !free {
		if _, free = s.free(right); !free {
			return s.equal(left, right)
		}
		left, right = right, left
	}
	name, _ := s.free(left)
	var value expression
	var err error
	slot := -1
	if ref, ok := right.Value.(ast.Ref); ok {
		value, slot, err = s.ref(ref)
	} else {
		value, err = s.term(right)
	}
	if err != nil {
		return err
	}
	own, bound := s.slots[name]
	switch {
	case bound: // by the other side: x = list[x]
		s.touch(own)
		s.root().uses[own].whole = true
		s.test(func(l *look, f frame) bool { return l.isEqual(f[own], value(l, f)) })
	case slot >= 0:
		s.slots[name] = slot // another name for the same
	default:
		s.assign(name, value)
		if ref, ok := right.Value.(ast.Ref); ok {
			s.noteField(s.slots[name], ref)
		}
	}
	return nil
}

// noteField notes that a slot holds a field of a variable, or of what the last iteration,
// which ends in front of the field, gives: range.cidr, list[_].cidr.
func (s *scope) noteField(slot int, ref ast.Ref) {
	if len(ref) < 2 {
		return
	}
	field, ok := ref[len(ref)-1].Value.(ast.String)
	before, variable := ref[len(ref)-2].Value.(ast.Var)
	own, bound := s.slots[before]
	if !ok || !variable || !bound {
		return
	}
	if len(ref) == 2 {
		s.root().fields[slot] = fieldSlot{own, string(field)}
		return
	}
	if i := len(s.steps) - 2; i >= 0 && s.steps[i].each != nil && s.steps[i].each.key == own {
		s.root().fields[slot] = fieldSlot{s.steps[i].each.value, string(field)}
	}
}

// equal compares two terms, neither of them a variable without a value. As in OPA the left
// one is evaluated before the right one iterates: it may fail.
func (s *scope) equal(left, right *ast.Term) error {
	a, err := s.term(left)
	if err != nil {
		return err
	}
	if _, ok := left.Value.(ast.Ref); ok {
		slot := s.slot()
		s.bound(slot, a)
		s.touch(slot) // a walk on the right does not remember it
		a = valueOf(slot)
	}
	b, err := s.term(right)
	if err != nil {
		return err
	}
	s.test(func(l *look, f frame) bool { return l.isEqual(a(l, f), b(l, f)) })
	return nil
}

// free is the variable that a term is, if it has no value yet.
func (s *scope) free(t *ast.Term) (ast.Var, bool) {
	name, ok := t.Value.(ast.Var)
	if !ok {
		return "", false
	}
	_, bound := s.slots[name]
	return name, !bound
}

func (s *scope) assign(name ast.Var, value expression) {
	s.bound(s.bind(name), value)
}

// bound puts a value into a slot, or fails where it is undefined.
func (s *scope) bound(slot int, value expression) {
	s.steps = append(s.steps, step{binds: true, test: func(l *look, f frame) bool {
		f[slot] = value(l, f)
		return f[slot] != nil
	}})
}

func (l *look) isEqual(a, b ast.Value) bool {
	return a != nil && b != nil && l.weigh(a) && ast.Compare(a, b) == 0
}

// call reads the call of a function, built in or the author's, with or without a last
// operand that is its result.
func (s *scope) call(terms []*ast.Term) error {
	ref, ok := terms[0].Value.(ast.Ref)
	if !ok {
		return errForeign
	}
	var arity int
	var call func(l *look, arguments []ast.Value) ast.Value
	var uses []usage
	if ref.HasPrefix(ast.DefaultRootRef) {
		v, err := s.reader.virtual(ref)
		if err != nil {
			return err
		}
		arity, call, uses = len(v.uses), v.apply, v.uses
		s.root().touched.add(v.touched)
	} else {
		builtin := ast.BuiltinMap[ref.String()]
		if builtin == nil {
			return errForeign
		}
		arity = builtin.Decl.Arity()
		if call = lookFunction(builtin.Name, terms[1:]); builtin.Name == ast.RegexMatch.Name {
			call = matcher(terms[1].Value)
		}
		if call == nil {
			return errForeign
		}
	}
	operands := terms[1:]
	if len(operands) != arity && len(operands) != arity+1 || arity == 0 {
		return errForeign
	}
	arguments := make([]expression, arity)
	for i, operand := range operands[:arity] {
		var use *usage
		if uses != nil {
			use = &uses[i]
		}
		var err error
		if arguments[i], err = s.argument(operand, use); err != nil {
			return err
		}
	}
	value := func(l *look, f frame) ast.Value {
		values, top := l.frame(arity)
		defer l.drop(top)
		for i, argument := range arguments {
			if values[i] = argument(l, f); values[i] == nil {
				return nil
			}
		}
		return call(l, values)
	}
	if uses == nil && !slices.ContainsFunc(operands[:arity], func(t *ast.Term) bool { return !ast.IsConstant(t.Value) }) {
		once := newLook(nil, lookSize{}, time.Second)
		if constant := value(once, nil); constant != nil && !once.unknown && sizeOf(constant) <= maxFolded {
			value = func(*look, frame) ast.Value { return constant }
		}
	}
	if len(operands) == arity {
		s.test(func(l *look, f frame) bool { return isTrue(value(l, f)) })
		s.steps[len(s.steps)-1].cidr = s.cidrTestOf(ref.String(), operands)
		return nil
	}
	if name, free := s.free(operands[arity]); free {
		s.assign(name, value)
		return nil
	}
	result, err := s.term(operands[arity])
	if err != nil {
		return err
	}
	s.test(func(l *look, f frame) bool { return l.isEqual(value(l, f), result(l, f)) })
	return nil
}

// argument is a term of which a function reads no more than use says; nil: all of it.
func (s *scope) argument(t *ast.Term, use *usage) (expression, error) {
	name, ok := t.Value.(ast.Var)
	slot, bound := s.slots[name]
	if !ok || !bound || use == nil {
		return s.term(t)
	}
	s.touch(slot)
	s.root().uses[slot].add(*use)
	return valueOf(slot), nil
}

// term is what a term is in a frame. For a reference with free variables there are steps
// before it that bind them.
func (s *scope) term(t *ast.Term) (expression, error) {
	switch v := t.Value.(type) {
	case ast.Var:
		slot, bound := s.slots[v]
		if !bound {
			return nil, errForeign
		}
		s.touch(slot)
		s.root().uses[slot].whole = true
		return valueOf(slot), nil
	case ast.Ref:
		value, slot, err := s.ref(v)
		if slot >= 0 {
			s.root().uses[slot].whole = true
		}
		return value, err
	case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
		return s.comprehension(v)
	case ast.Call:
		return nil, errForeign
	}
	if ast.IsConstant(t.Value) {
		if !isPlain(t.Value) {
			return nil, errForeign
		}
		constant := t.Value
		return func(*look, frame) ast.Value { return constant }, nil
	}
	return s.composite(t.Value)
}

// composite is an array, a set or an object with parts that are not constants.
func (s *scope) composite(v ast.Value) (expression, error) {
	var terms []*ast.Term
	var build func(values []*ast.Term) ast.Value
	switch v := v.(type) {
	case *ast.Array:
		v.Foreach(func(t *ast.Term) { terms = append(terms, t) })
		build = func(values []*ast.Term) ast.Value { return ast.NewArray(values...) }
	case ast.Set:
		v.Foreach(func(t *ast.Term) { terms = append(terms, t) })
		build = func(values []*ast.Term) ast.Value { return ast.NewSet(values...) }
	case ast.Object:
		v.Foreach(func(key, value *ast.Term) { terms = append(terms, key, value) })
		build = func(values []*ast.Term) ast.Value {
			object := ast.NewObject()
			for i := 0; i < len(values); i += 2 {
				object.Insert(values[i], values[i+1])
			}
			return object
		}
	default:
		return nil, errForeign
	}
	parts := make([]expression, len(terms))
	for i, t := range terms {
		var err error
		if parts[i], err = s.term(t); err != nil {
			return nil, err
		}
	}
	return func(l *look, f frame) ast.Value {
		values := make([]*ast.Term, len(parts))
		for i, part := range parts {
			value := l.constructed(part(l, f))
			if value == nil {
				return nil
			}
			values[i] = ast.NewTerm(value)
		}
		return build(values)
	}, nil
}

func (s *scope) comprehension(v ast.Value) (expression, error) {
	var body ast.Body
	var terms []*ast.Term
	switch v := v.(type) {
	case *ast.ArrayComprehension:
		body, terms = v.Body, []*ast.Term{v.Term}
	case *ast.SetComprehension:
		body, terms = v.Body, []*ast.Term{v.Term}
	case *ast.ObjectComprehension:
		body, terms = v.Body, []*ast.Term{v.Key, v.Value}
	}
	inner, err := s.body(body)
	if err != nil {
		return nil, err
	}
	parts := make([]expression, len(terms))
	for i, t := range terms {
		if parts[i], err = inner.term(t); err != nil {
			return nil, err
		}
	}
	// collect calls add for each solution, and tells whether that is all of them.
	collect := func(l *look, f frame, add func(values []*ast.Term)) bool {
		solve(l, f, inner.steps, func(l *look) bool {
			values := make([]*ast.Term, len(parts))
			for i, part := range parts {
				value := l.constructed(part(l, f))
				if value == nil {
					return l.unknown
				}
				values[i] = ast.NewTerm(value)
			}
			add(values)
			return l.unknown
		})
		return !l.unknown
	}
	switch v.(type) {
	case *ast.ArrayComprehension:
		return func(l *look, f frame) ast.Value {
			var all []*ast.Term
			if !collect(l, f, func(values []*ast.Term) { all = append(all, values...) }) {
				return nil
			}
			return ast.NewArray(all...)
		}, nil
	case *ast.SetComprehension:
		return func(l *look, f frame) ast.Value {
			all := ast.NewSet()
			if !collect(l, f, func(values []*ast.Term) { all.Add(values[0]) }) {
				return nil
			}
			return all
		}, nil
	default:
		return func(l *look, f frame) ast.Value {
			all := ast.NewObject()
			if !collect(l, f, func(values []*ast.Term) {
				if other := all.Get(values[0]); other != nil && !other.Equal(values[1]) {
					l.unknown = true // a conflict: OPA tells
				}
				all.Insert(values[0], values[1])
			}) {
				return nil
			}
			return all
		}, nil
	}
}

// ref is what a reference leads to: a part of the input, of data, of a rule of the
// author or of a variable. It gives the slot too where that is the value of one.
func (s *scope) ref(ref ast.Ref) (value expression, slot int, err error) {
	source := "" // of a list that a rule walks
	from := 1
	slot = -1
	base := false // data.json, which OPA does not read as it reads values
	switch head := ref[0].Value; {
	case head.Compare(ast.InputRootDocument.Value) == 0:
		if source, err = s.input(ref); err != nil {
			return nil, -1, err
		}
		fields := fieldsOf(ref[1:])
		from = 1 + len(fields)
		value = s.reader.input(ref[:from])
	case head.Compare(ast.DefaultRootDocument.Value) == 0:
		if value, from, base, err = s.document(ref); err != nil {
			return nil, -1, err
		}
	default:
		name, ok := head.(ast.Var)
		var bound bool
		if slot, bound = s.slots[name]; !ok || !bound {
			return nil, -1, errForeign
		}
		s.touch(slot)
		value = valueOf(slot)
	}
	for path := ref[from:]; len(path) > 0; {
		fields := fieldsOf(path)
		if slot >= 0 {
			if len(fields) > 0 {
				s.root().uses[slot].field(string(fields[0].Value.(ast.String))) //nolint:forcetypeassert // fieldsOf
			} else {
				s.root().uses[slot].whole = true
			}
			slot = -1
		}
		switch {
		case len(fields) > 0 && base:
			path, value = path[1:], storedBelow(value, fields[:1])
			continue
		case len(fields) > 0:
			path, value = path[len(fields):], below(value, fields)
			continue
		}
		t := path[0]
		path = path[1:]
		if name, free := s.free(t); free {
			each := &iteration{list: value, key: s.bind(name)}
			each.value = s.slot()
			if source != "" {
				each.walk = &walk{source: source, slot: each.value}
				s.walk = each.walk
				s.root().walks = append(s.root().walks, each.walk)
			}
			s.steps = append(s.steps, step{each: each})
			source, slot, value = "", each.value, valueOf(each.value)
			continue
		}
		get := at
		if base {
			get = stored
		}
		if value, err = s.key(value, t, get); err != nil {
			return nil, -1, err
		}
	}
	return value, slot, nil
}

// input is a part of the input, found once in a look.
func (r *reader) input(ref ast.Ref) expression {
	name := ref.String()
	index, ok := r.inputs[name]
	if !ok {
		index = len(r.inputs)
		r.inputs[name] = index
	}
	path := ref[1:]
	return func(l *look, _ frame) ast.Value {
		part := &l.inputs[index]
		if !part.known {
			part.known = true
			if found, err := l.input.Find(path); err == nil {
				part.value = found
			}
		}
		return part.value
	}
}

// fieldsOf is what path begins with that are names.
func fieldsOf(path ast.Ref) ast.Ref {
	if i := slices.IndexFunc(path, func(t *ast.Term) bool { _, ok := t.Value.(ast.String); return !ok }); i >= 0 {
		return path[:i]
	}
	return path
}

// below is what a value has at a path.
func below(value expression, path ast.Ref) expression {
	if len(path) == 1 {
		return func(l *look, f frame) ast.Value { return l.field(value(l, f), path) }
	}
	return func(l *look, f frame) ast.Value {
		from := value(l, f)
		if from == nil {
			return nil
		}
		found, err := from.Find(path)
		if err != nil {
			return nil // it has nothing there
		}
		return found
	}
}

func valueOf(slot int) expression {
	return func(_ *look, f frame) ast.Value { return f[slot] }
}

// input notes what a reference reads of the input. It gives the list if that is the one
// that a rule walks.
func (s *scope) input(ref ast.Ref) (source string, err error) {
	t := &s.root().touched
	params := ref.HasPrefix(paramsRef)
	if !s.reader.params && (params || len(ref) < 2 || !ref[1].IsGround()) {
		return "", errForeign
	}
	if ground := ref.GroundPrefix(); !params && len(ground) < len(ref) {
		_, free := s.free(ref[len(ground)])
		if free && !slices.ContainsFunc(s.steps, func(one step) bool { return one.each != nil }) {
			t.walked = true
			return ground.String(), nil
		}
	}
	t.input = t.input || !params
	return "", nil
}

// document is the rule that a reference below data leads to, or data.json, and how much
// of the reference that is.
func (s *scope) document(ref ast.Ref) (value expression, length int, base bool, err error) {
	r := s.reader
	for length = 2; length <= len(ref); length++ {
		if _, ok := ref[length-1].Value.(ast.String); !ok {
			break
		}
		if _, ok := r.rules[ref[:length].String()]; !ok {
			continue
		}
		var v *virtual
		v, err = r.virtual(ref[:length])
		if err != nil || len(v.uses) > 0 {
			return nil, 0, false, errForeign
		}
		s.root().touched.add(v.touched)
		return func(l *look, _ frame) ast.Value { return v.get(l) }, length, false, nil
	}
	if len(ref) < 2 || r.data == nil {
		return nil, 0, false, errForeign
	}
	if name, ok := ref[1].Value.(ast.String); !ok || name == root {
		return nil, 0, false, errForeign
	}
	found := r.data
	for length = 1; length < len(ref); length++ {
		object, ok := found.(ast.Object)
		if _, text := ref[length].Value.(ast.String); !ok || !text {
			break
		}
		below := object.Get(ref[length])
		if below == nil {
			break // undefined, as is what stands behind it
		}
		found = below.Value
	}
	return func(*look, frame) ast.Value { return found }, length, true, nil
}

// storedBelow is what data.json has at a path of one name.
func storedBelow(value expression, path ast.Ref) expression {
	return func(l *look, f frame) ast.Value {
		switch c := value(l, f).(type) {
		case nil:
			return nil
		case ast.Object:
			return l.field(c, path)
		default:
			return stored(l, c, path[0])
		}
	}
}

// key is what a collection has at the key that t is.
func (s *scope) key(collection expression, t *ast.Term, get func(l *look, collection ast.Value, key *ast.Term) ast.Value) (expression, error) {
	key, err := s.term(t)
	if err != nil {
		return nil, err
	}
	return func(l *look, f frame) ast.Value {
		c, k := collection(l, f), key(l, f)
		if c == nil || k == nil {
			return nil
		}
		return get(l, c, ast.NewTerm(k))
	}, nil
}

//nolint:gochecknoglobals // a constant in all but the language
var paramsRef = ast.MustParseRef("input.params")

// virtual reads the rules or the function at a path, once.
func (r *reader) virtual(path ast.Ref) (*virtual, error) {
	name := path.String()
	if v, ok := r.virtuals[name]; ok {
		if v == nil {
			return nil, errForeign
		}
		return v, nil
	}
	r.virtuals[name] = nil
	v, err := r.readVirtual(r.rules[name])
	if err != nil {
		return nil, err
	}
	v.index = r.indexes
	r.indexes++
	r.virtuals[name] = v
	return v, nil
}

func (r *reader) readVirtual(rules []*ast.Rule) (*virtual, error) {
	if len(rules) == 0 {
		return nil, errForeign
	}
	v := &virtual{touched: nothing(), set: rules[0].Head.RuleKind() == ast.MultiValue, uses: make([]usage, len(rules[0].Head.Args))}
	for _, rule := range rules {
		if len(rule.Head.Args) != len(v.uses) || !rule.Ref().IsGround() || v.set != (rule.Head.RuleKind() == ast.MultiValue) {
			return nil, errForeign
		}
		if rule.Default {
			if len(v.uses) > 0 || !ast.IsConstant(rule.Head.Value.Value) || !isPlain(rule.Head.Value.Value) {
				return nil, errForeign
			}
			v.otherwise = rule.Head.Value.Value
			continue
		}
		d, err := r.definition(v, rule)
		if err != nil {
			return nil, err
		}
		v.definitions = append(v.definitions, d)
	}
	return v, nil
}

func (r *reader) definition(v *virtual, rule *ast.Rule) (*definition, error) {
	s := newScope(r)
	d := &definition{}
	for _, term := range rule.Head.Args {
		slot := s.slot()
		switch value := term.Value.(type) {
		case ast.Var:
			if _, twice := s.slots[value]; twice {
				return nil, errForeign
			}
			s.slots[value] = slot
			d.arguments = append(d.arguments, argument{slot: slot})
		default:
			if !ast.IsConstant(value) || !isPlain(value) {
				return nil, errForeign
			}
			s.uses[slot].whole = true
			d.arguments = append(d.arguments, argument{constant: value})
		}
	}
	if err := s.conditions(rule.Body); err != nil {
		return nil, err
	}
	head := rule.Head.Value
	if v.set {
		head = rule.Head.Key
	}
	switch {
	case head == nil:
		d.constant = ast.Boolean(true)
	case ast.IsConstant(head.Value) && isPlain(head.Value) && !v.set:
		d.constant = head.Value
	default:
		var err error
		if d.value, err = s.term(head); err != nil {
			return nil, err
		}
	}
	d.body, d.slots = s.steps, s.next()
	v.touched.add(touched{input: s.touched.input || s.touched.walked, lowest: math.MaxInt})
	r.join(s.walked())
	for i := range v.uses {
		v.uses[i].add(s.uses[i])
	}
	if rule.Else != nil {
		var err error
		if d.otherwise, err = r.definition(v, rule.Else); err != nil {
			return nil, err
		}
	}
	return d, nil
}
