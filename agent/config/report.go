package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxText is how much of an offending text a Problem shows, in runes.
const maxText = 64

// report collects problems, up to MaxProblems; of the others it keeps the number.
type report struct {
	problems     []Problem
	omitted      int
	omittedFatal bool
	anyFatal     bool
}

func (r *report) add(p Problem) {
	if r.full(p.Severity) {
		return
	}
	r.anyFatal = r.anyFatal || p.Severity == Fatal
	r.problems = append(r.problems, p)
}

// full tells that a problem of this severity only counts, so that who reports many
// can spare the words.
func (r *report) full(severity Severity) bool {
	if len(r.problems) < MaxProblems {
		return false
	}
	r.omitted++
	r.omittedFatal = r.omittedFatal || severity == Fatal
	r.anyFatal = r.anyFatal || severity == Fatal
	return true
}

// list returns the problems by file and position; those without a position come first.
func (r *report) list() []Problem {
	slices.SortStableFunc(r.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if r.omitted > 0 {
		severity := Suspicious
		if r.omittedFatal {
			severity = Fatal
		}
		r.problems = append(r.problems, Problem{
			Code:     CodeTooManyProblems,
			Severity: severity,
			Message:  fmt.Sprintf("%d more problems are not listed", r.omitted),
			Remedy:   "mend those that are listed first",
		})
	}
	return r.problems
}

// source is the text, with what it takes to turn offsets into Positions and back.
type source struct {
	text   string
	starts []int // the offset of each line; made by lines
}

func (s *source) lines() []int {
	if s.starts == nil {
		s.starts = make([]int, 1, 2+strings.Count(s.text, "\n"))
		for i := range len(s.text) {
			if s.text[i] == '\n' {
				s.starts = append(s.starts, i+1)
			}
		}
	}
	return s.starts
}

func (s *source) position(offset int) Position {
	line, found := slices.BinarySearch(s.lines(), offset)
	if found {
		line++
	}
	return Position{Line: line, Column: offset - s.starts[line-1] + 1}
}

func (s *source) offset(at Position) int {
	if at.Line == 0 {
		return 0
	}
	return min(s.lines()[at.Line-1]+at.Column-1, len(s.text))
}

// line returns a line without its end; lines count from 1. A carriage return inside,
// which ends a line in YAML, ends it too.
func (s *source) line(number int) string {
	rest := s.text[s.lines()[number-1]:]
	if end := strings.IndexAny(rest, "\r\n"); end >= 0 {
		return rest[:end]
	}
	return rest
}

// scalar returns how the scalar with this content stands at a place: with its
// quotes, and up to the end of the line.
func (s *source) scalar(at Position, content string) string {
	rest := s.text[s.offset(at):]
	rest = rest[:min(len(rest), (maxText+1)*utf8.UTFMax)] // more is not shown
	if end := strings.IndexAny(rest, "\r\n"); end >= 0 {
		rest = rest[:end]
	}
	if rest == "" {
		return ""
	}
	if quote := rest[0]; quote == '"' || quote == '\'' {
		for i := 1; i < len(rest); i++ {
			switch {
			case rest[i] == '\\' && quote == '"':
				i++
			case rest[i] == quote:
				return clip(rest[:i+1])
			}
		}
		return clip(rest)
	}
	if content != "" && strings.HasPrefix(rest, content) {
		return clip(content)
	}
	return clip(strings.TrimRight(rest, " \t"))
}

// clip cuts a text after maxText runes.
func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	runes := 0
	for i := range s {
		if runes == maxText {
			return s[:i]
		}
		runes++
	}
	return s
}

// quote shows an offending text inside a message, on one line.
func quote(s string) string {
	short := clip(s)
	if len(short) < len(s) {
		return strconv.Quote(short) + "…"
	}
	return strconv.Quote(short)
}

// firstInvalid returns the offset of the first byte that is not UTF-8.
func firstInvalid(s string) int {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return i
			}
		}
	}
	return len(s)
}
