package policy

import (
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"pgregory.net/rapid"
)

// TestVirtualCache does the same to our cache and to OPA's own.
func TestVirtualCache(t *testing.T) {
	ref := rapid.Custom(func(t *rapid.T) ast.Ref {
		ref := ast.Ref{ast.DefaultRootDocument}
		for range rapid.IntRange(0, 3).Draw(t, "length") {
			ref = append(ref, rapid.SampledFrom([]*ast.Term{
				ast.StringTerm("a"), ast.StringTerm("b"), ast.IntNumberTerm(1), ast.BooleanTerm(true),
				ast.ArrayTerm(ast.StringTerm("a")), ast.NullTerm(),
			}).Draw(t, "term"))
		}
		return ref
	})
	ours := newVirtualCache() // one for all: what is reset must be forgotten
	rapid.Check(t, func(t *rapid.T) {
		ours.reset()
		theirs := topdown.NewVirtualCache()
		depth := 1
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				key := ref.Draw(t, "ref")
				if _, undefined := theirs.Get(key); undefined {
					t.Skip("OPA never puts a value where it has put undefined")
				}
				value := rapid.SampledFrom([]*ast.Term{nil, ast.IntNumberTerm(1), ast.StringTerm("x")}).Draw(t, "value")
				if cached, _ := theirs.Get(key); cached != nil && value == nil {
					t.Skip("nor undefined where it has put a value")
				}
				ours.Put(key, value)
				theirs.Put(key, value)
			},
			"push": func(t *rapid.T) {
				if depth == 5 {
					t.Skip("deep enough")
				}
				ours.Push()
				theirs.Push()
				depth++
			},
			"pop": func(t *rapid.T) {
				if depth == 1 {
					t.Skip("the last frame stays")
				}
				ours.Pop()
				theirs.Pop()
				depth--
			},
			"": func(t *rapid.T) {
				key := ref.Draw(t, "ref")
				value, undefined := ours.Get(key)
				wantValue, wantUndefined := theirs.Get(key)
				if value != wantValue || undefined != wantUndefined {
					t.Fatalf("%s: %v, %t; want %v, %t", key, value, undefined, wantValue, wantUndefined)
				}
				// OPA's lists only values that have no undefined above them, in no order.
				keys := map[string]bool{}
				for _, key := range ours.Keys() {
					keys[key.String()] = true
				}
				for _, key := range theirs.Keys() {
					if !keys[key.String()] {
						t.Fatalf("no key %s", key)
					}
				}
			},
		})
	})
}

// TestVirtualCacheForgetsLargeFrames keeps one greedy evaluation from holding memory
// for ever.
func TestVirtualCacheForgetsLargeFrames(t *testing.T) {
	c := newVirtualCache()
	for i := range 2 * maxKept {
		c.Put(ast.Ref{ast.DefaultRootDocument, ast.IntNumberTerm(i)}, ast.NullTerm())
	}
	c.reset()
	if kept := cap(c.frames[0].entries); kept > maxKept {
		t.Errorf("%d entries kept", kept)
	}
}
