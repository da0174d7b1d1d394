//go:build !windows

package main

import (
	"fmt"
	"slices"
	"strings"
)

// diffContext is how many lines a unified diff shows around what differs, as diff(1).
const diffContext = 3

// edit is a line of a difference: ' ' in both texts, '-' in the first alone, '+' in the
// second alone.
type edit struct {
	kind byte
	line string
}

// unified is the difference of two texts in the unified form of diff(1), below a header
// that names them; it is empty where they are equal.
func unified(fromName, toName string, from, to []string) string {
	edits := compare(nil, from, to)
	if !slices.ContainsFunc(edits, edit.differs) {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "--- %s\n+++ %s\n", fromName, toName)
	fromLine, toLine := 1, 1 // of edits[0], counted from one
	for len(edits) > 0 {
		first := slices.IndexFunc(edits, edit.differs)
		if first < 0 {
			break
		}
		skip := max(0, first-diffContext)
		fromLine, toLine, edits = fromLine+skip, toLine+skip, edits[skip:]
		end := hunkEnd(edits)
		fromCount, toCount := 0, 0
		for _, e := range edits[:end] {
			if e.kind != '+' {
				fromCount++
			}
			if e.kind != '-' {
				toCount++
			}
		}
		fmt.Fprintf(&b, "@@ -%s +%s @@\n", span(fromLine, fromCount), span(toLine, toCount))
		for _, e := range edits[:end] {
			b.WriteString(string(e.kind) + e.line + "\n")
		}
		fromLine, toLine, edits = fromLine+fromCount, toLine+toCount, edits[end:]
	}
	return b.String()
}

func (e edit) differs() bool { return e.kind != ' ' }

// hunkEnd is where a hunk ends that begins with edits: differences with less than twice
// the context between them are one.
func hunkEnd(edits []edit) int {
	last := 0
	for i, e := range edits {
		if e.differs() {
			last = i
		} else if i-last > 2*diffContext {
			break
		}
	}
	return min(len(edits), last+1+diffContext)
}

// span is a range of lines in a hunk's header. An empty one is named by the line before it.
func span(first, count int) string {
	switch count {
	case 0:
		return fmt.Sprintf("%d,0", first-1)
	case 1:
		return fmt.Sprint(first)
	default:
		return fmt.Sprintf("%d,%d", first, count)
	}
}

// compare appends the difference of two texts to edits: the patience algorithm, which
// takes lines that are once in each text for fixed points. Lists of ranges have no others.
func compare(edits []edit, from, to []string) []edit {
	for len(from) > 0 && len(to) > 0 && from[0] == to[0] {
		edits, from, to = append(edits, edit{' ', from[0]}), from[1:], to[1:]
	}
	var tail []edit
	for len(from) > 0 && len(to) > 0 && from[len(from)-1] == to[len(to)-1] {
		tail = append(tail, edit{' ', from[len(from)-1]})
		from, to = from[:len(from)-1], to[:len(to)-1]
	}
	fromAt, toAt := 0, 0
	for _, fixed := range fixedPoints(from, to) {
		edits = compare(edits, from[fromAt:fixed.from], to[toAt:fixed.to])
		edits = append(edits, edit{' ', from[fixed.from]})
		fromAt, toAt = fixed.from+1, fixed.to+1
	}
	for _, line := range from[fromAt:] {
		edits = append(edits, edit{'-', line})
	}
	for _, line := range to[toAt:] {
		edits = append(edits, edit{'+', line})
	}
	slices.Reverse(tail)
	return append(edits, tail...)
}

// fixed is a line at its places in both texts.
type fixed struct{ from, to int }

// fixedPoints are the longest row of lines that are once in each text, in the order
// of both.
func fixedPoints(from, to []string) []fixed {
	type count struct{ from, to, fromAt, toAt int }
	counts := map[string]*count{}
	of := func(line string) *count {
		if counts[line] == nil {
			counts[line] = &count{}
		}
		return counts[line]
	}
	for i, line := range from {
		c := of(line)
		c.from, c.fromAt = c.from+1, i
	}
	for i, line := range to {
		c := of(line)
		c.to, c.toAt = c.to+1, i
	}
	var (
		candidates []fixed
		before     []int // of each candidate, the one before it in the longest row that ends with it
		ends       []int // the candidate with the smallest place that ends a row, by length
	)
	for i, line := range from {
		c := counts[line]
		if c.from != 1 || c.to != 1 {
			continue
		}
		length, _ := slices.BinarySearchFunc(ends, c.toAt, func(end, toAt int) int { return candidates[end].to - toAt })
		previous := -1
		if length > 0 {
			previous = ends[length-1]
		}
		candidates, before = append(candidates, fixed{i, c.toAt}), append(before, previous)
		ends = append(ends[:length], append([]int{len(candidates) - 1}, ends[min(length+1, len(ends)):]...)...)
	}
	if len(ends) == 0 {
		return nil
	}
	var row []fixed
	for i := ends[len(ends)-1]; i >= 0; i = before[i] {
		row = append(row, candidates[i])
	}
	slices.Reverse(row)
	return row
}
