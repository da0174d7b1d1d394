package config

import (
	"sort"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxSearched bounds the text in which the line of a syntax error is searched, which
// takes several parses.
const maxSearched = 64 << 10 // bytes

// yamlSyntax explains an error of the YAML parser.
func (p *parser) yamlSyntax(err error, text string) {
	number, message := splitYAMLError(err)
	if strings.Contains(message, "exceeded max depth") {
		p.fatal(CodeTooDeep, "", Position{}, "", tooDeepMessage, "")
		return
	}
	number = p.culprit(text, number, func(prefix string) bool {
		_, err := nodes(prefix)
		if err == nil {
			return false
		}
		_, same := splitYAMLError(err)
		return same == message
	})
	line := p.line(number)
	bare := strings.TrimFunc(line, unicode.IsSpace)
	column := len(line) - len(strings.TrimLeftFunc(line, unicode.IsSpace)) + 1
	if number == 1 && strings.HasPrefix(bare, byteOrderMark) {
		bare, column = bare[len(byteOrderMark):], column+len(byteOrderMark)
	}

	if conflict := conflictLine(p.text); conflict > 0 {
		p.fatal(CodeSyntax, "", Position{conflict, 1}, clip(p.line(conflict)),
			quote(p.line(conflict))+" is left from a merge conflict", "keep one of the two versions, without the marks")
		return
	}
	if tab := strings.IndexByte(line, '\t'); tab >= 0 && strings.Trim(line[:tab], " -?:") == "" {
		p.tab(Position{number, tab + 1}, bare)
		return
	}
	if at := strings.IndexFunc(line, isInvisible); at >= 0 {
		p.invisible(Position{number, at + 1}, line[at:], bare)
		return
	}
	why, remedy := explainYAML(message, bare, column)
	p.fatal(CodeSyntax, "", Position{number, column}, clip(bare), quote(bare)+" "+why, remedy)
}

func (p *parser) tab(at Position, line string) {
	p.fatal(CodeTab, "", at, "\t", quote(line)+" is indented with a tab", "indent with blanks")
}

func (p *parser) invisible(at Position, rest, line string) {
	c, size := utf8.DecodeRuneInString(rest)
	p.fatal(CodeSyntax, "", at, rest[:size], quote(line)+" has the invisible character "+strconv.QuoteRuneToASCII(c)+", which is no blank",
		"put a blank in its place")
}

// conflictLine returns the line with the first mark of a merge conflict, or 0.
func conflictLine(text string) int {
	const mark = "<<<<<<< "
	if strings.HasPrefix(text, mark) {
		return 1
	}
	before, _, found := strings.Cut(text, "\n"+mark)
	if !found {
		return 0
	}
	return strings.Count(before, "\n") + 2
}

// splitYAMLError takes the line from an error of the YAML parser. It counts from 1 for
// an error of the scanner, from 0 for others, and is that where the construct with
// the error starts, or where it ends.
func splitYAMLError(err error) (number int, message string) {
	message = strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(message, "line "); ok {
		digits, after, _ := strings.Cut(rest, ": ")
		if n, err := strconv.Atoi(digits); err == nil {
			return n, after
		}
	}
	return 1, message
}

// culprit finds the line of an error: the text up to that line has the error, up to
// the line before it has not.
func (p *parser) culprit(text string, least int, fails func(prefix string) bool) int {
	lines := p.lines()
	least = min(max(least, 1), len(lines))
	if len(text) > maxSearched {
		return least
	}
	end := func(number int) int {
		if number >= len(lines) {
			return len(text)
		}
		return min(lines[number], len(text))
	}
	last := least
	for last < len(lines) && end(last) < len(text) {
		last++
	}
	return least + sort.Search(last-least, func(i int) bool { return fails(text[:end(least+i)]) })
}

func isInvisible(r rune) bool {
	return r > unicode.MaxASCII && (unicode.IsSpace(r) || unicode.Is(unicode.Cf, r)) && r != '\ufeff'
}

// explainYAML says in the author's terms what the YAML parser means by an error in
// this line; the sentence goes on after the line.
func explainYAML(message, line string, column int) (why, remedy string) {
	name, _, _ := strings.Cut(line, ":")
	_, isKey := knownKey(strings.TrimSpace(name))
	switch {
	case strings.HasPrefix(message, "unknown anchor"):
		return "has an alias without an anchor", "write the value itself instead of the alias"
	case message == "could not find expected ':'":
		return "is neither a key with a value nor an element of a list", lineRemedy(line)
	case message == "mapping values are not allowed in this context" && isKey && column > 1:
		return "is indented under the value of another key", "start the key in the first column"
	case message == "mapping values are not allowed in this context":
		return "has a colon and a blank where no key can be", "put the value in quotes, or begin a new line"
	case strings.HasPrefix(line, "- ") && message == "did not find expected key":
		return "is not aligned with the list above it", "indent all elements of a list alike"
	case isKey && message == "did not find expected '-' indicator":
		return "is a key inside a list", "write the list under a key, such as " + KeyNonMasqueradeCIDRs + ":"
	case message == "did not find expected key", message == "did not find expected '-' indicator":
		return "has something that belongs neither to the value before it nor to a new key", "remove it, or put the whole value in quotes"
	case strings.HasPrefix(message, "did not find expected ',' or"):
		bracket := message[len(message)-2 : len(message)-1]
		return "lacks a comma or the closing " + bracket, "close the bracket with " + bracket
	case message == "found unexpected end of stream", message == "found unexpected document indicator":
		return "opens a quote that is not closed", "close the quote"
	case message == "found character that cannot start any token":
		return "has a value that starts with one of the marks @ ` %", "put the value in quotes"
	case message == "did not find expected alphabetic or numeric character":
		return "has a * or & without a name behind it", "write - before an element of a list; put a value that starts with * or & in quotes"
	}
	return "is not YAML: " + message, ""
}

// lineRemedy writes a line that has no structure the way it was probably meant.
func lineRemedy(line string) string {
	if p, ok := meantCIDR(strings.TrimLeft(line, "-* ")); ok {
		return "write - " + p.String()
	}
	for _, key := range keys {
		rest, ok := strings.CutPrefix(line, key)
		if !ok {
			continue
		}
		switch value := strings.TrimLeft(rest, " :="); {
		case rest == "":
			return "write " + key + ":"
		case value != rest && value != "":
			return "write " + clip(key+": "+value)
		}
	}
	return "write it as key: value"
}
