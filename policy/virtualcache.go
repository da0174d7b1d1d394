package policy

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// virtualCache remembers what rules evaluated to during one evaluation. It does
// what OPA's own does, but in slices that outlive the evaluation: OPA's is a tree of
// maps, and building it anew was half of all that a decision allocates.
type virtualCache struct {
	frames []*cacheFrame
	spare  []*cacheFrame

	tooLarge func() // ends the evaluation, because of a value above maxVolume
	exceeded bool   // there was one
}

// cacheFrame is the cache for one setting of input: rules with the keyword with
// push a frame and pop it.
type cacheFrame struct {
	entries []cacheEntry
	terms   []*ast.Term       // the refs of all entries, one after the other
	heads   map[int]cacheLink // by hash of the ref
}

// cacheLink is a place in entries plus one, so that the zero is none.
type cacheLink int

type cacheEntry struct {
	from, to int // of the ref in terms
	value    *ast.Term
	next     cacheLink
}

var _ topdown.VirtualCache = (*virtualCache)(nil)

func newVirtualCache() *virtualCache {
	c := &virtualCache{}
	c.Push()
	return c
}

// Push adds an empty frame.
func (c *virtualCache) Push() {
	if n := len(c.spare); n > 0 {
		c.frames, c.spare = append(c.frames, c.spare[n-1]), c.spare[:n-1]
		return
	}
	c.frames = append(c.frames, &cacheFrame{heads: map[int]cacheLink{}})
}

// Pop drops the last frame.
func (c *virtualCache) Pop() {
	last := len(c.frames) - 1
	frame := c.frames[last]
	c.frames = c.frames[:last]
	if frame.reset() {
		c.spare = append(c.spare, frame)
	}
}

// reset makes the cache as good as new.
func (c *virtualCache) reset() {
	for len(c.frames) > 0 {
		c.Pop()
	}
	c.Push()
	c.tooLarge, c.exceeded = nil, false
}

// maxKept bounds what a frame keeps for the next evaluation.
const maxKept = 4096

// reset empties f and tells whether it is worth keeping.
func (f *cacheFrame) reset() bool {
	if len(f.entries) > maxKept || len(f.terms) > maxKept {
		return false
	}
	clear(f.entries)
	clear(f.terms)
	clear(f.heads)
	f.entries, f.terms = f.entries[:0], f.terms[:0]
	return true
}

// Get is the value of ref; with nil, true it is known to be undefined, with nil,
// false nothing is known.
func (c *virtualCache) Get(ref ast.Ref) (*ast.Term, bool) {
	frame := c.frames[len(c.frames)-1]
	entry := frame.find(ref, ref.Hash())
	if entry == nil {
		return nil, false
	}
	return entry.value, entry.value == nil
}

// Put remembers the value of ref; nil is undefined. Every value of a rule comes by here,
// so this is where one is found that is too large to be compared or written.
func (c *virtualCache) Put(ref ast.Ref, value *ast.Term) {
	if left := maxVolume; value != nil && c.tooLarge != nil && !c.exceeded && !volume(value.Value, &left) {
		c.exceeded = true
		c.tooLarge()
	}
	frame := c.frames[len(c.frames)-1]
	hash := ref.Hash()
	if entry := frame.find(ref, hash); entry != nil {
		entry.value = value
		return
	}
	from := len(frame.terms)
	frame.terms = append(frame.terms, ref...)
	frame.entries = append(frame.entries, cacheEntry{from, len(frame.terms), value, frame.heads[hash]})
	frame.heads[hash] = cacheLink(len(frame.entries))
}

// Keys lists the refs that have a value.
func (c *virtualCache) Keys() []ast.Ref {
	frame := c.frames[len(c.frames)-1]
	var keys []ast.Ref
	for i := range frame.entries {
		if entry := &frame.entries[i]; entry.value != nil {
			keys = append(keys, slices.Clone(ast.Ref(frame.terms[entry.from:entry.to])))
		}
	}
	return keys
}

func (f *cacheFrame) find(ref ast.Ref, hash int) *cacheEntry {
	for link := f.heads[hash]; link != 0; {
		entry := &f.entries[link-1]
		if ast.Ref(f.terms[entry.from:entry.to]).Equal(ref) {
			return entry
		}
		link = entry.next
	}
	return nil
}
