package config

import (
	"strconv"
	"strings"
	"unicode"
)

// yamlSyntax explains an error of the YAML parser.
func (p *parser) yamlSyntax(err error, text string) {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	number := 1
	if rest, ok := strings.CutPrefix(message, "line "); ok {
		if digits, after, found := strings.Cut(rest, ": "); found {
			if n, err := strconv.Atoi(digits); err == nil {
				number, message = n, after
			}
		}
	}
	if strings.Contains(message, "exceeded max depth") {
		p.fatal(CodeTooDeep, "", Position{}, "", tooDeepMessage, "")
		return
	}
	_ = text
	number = min(number, len(p.lines()))
	line := p.line(number)
	indentation := len(line) - len(strings.TrimLeftFunc(line, unicode.IsSpace))
	at := Position{number, indentation + 1}
	p.fatal(CodeSyntax, "", at, clip(strings.TrimSpace(line)), message, "")
}
