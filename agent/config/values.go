package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// isList tells whether a value can be the list: null is an explicit empty one.
func (p *parser) isList(path string, v *value) bool {
	switch v.kind {
	case nullKind, listKind:
		if len(v.list) > MaxCIDRs {
			e := &v.list[MaxCIDRs]
			p.fatal(CodeTooManyCIDRs, path, e.at, p.scalar(e.at, e.text),
				fmt.Sprintf("the list has more than %d CIDRs", MaxCIDRs), "join neighbouring ranges into wider ones")
			return false
		}
		for i := range v.list { // types count even in a list that is overridden
			if e := &v.list[i]; e.kind != stringKind {
				p.badElement(elementPath(path, i), e)
			}
		}
		return true
	case brokenKind:
		return false
	case mappingKind:
		p.wrongType(path, v, "a list of CIDRs", p.listRemedy(lastKey(path), strings.Join(v.keys, " ")))
	case boolKind, numberKind, stringKind:
		p.wrongType(path, v, "a list of CIDRs", p.listRemedy(lastKey(path), v.text))
	}
	return false
}

func (p *parser) badElement(path string, e *value) {
	switch e.kind {
	case nullKind:
		text, at := p.emptyElement(e)
		message := "the element is empty; the upstream agent would put a default range in its place"
		if p.consumer == Cilium {
			message = "the element is empty, for which Cilium refuses the whole text"
		}
		p.fatal(CodeNullElement, path, at, text, message, "remove the element, or write a CIDR")
	case mappingKind:
		p.wrongType(path, e, "a CIDR", p.cidrRemedy(strings.Join(e.keys, " ")))
	case listKind:
		p.wrongType(path, e, "a CIDR", "write the CIDRs in one list, without a list inside")
	case boolKind, numberKind:
		p.wrongType(path, e, "a CIDR", "write a CIDR such as 10.0.0.0/8")
	case stringKind, brokenKind:
	}
}

// emptyElement is how an element without a value stands there.
func (p *parser) emptyElement(e *value) (text string, at Position) {
	text, at = p.scalar(e.at, e.text), e.at
	if offset := p.offset(at); !p.json && offset > 0 && p.text[offset-1] == '-' { // a dash and nothing behind it
		at.Column--
		text = "-"
	}
	return text, at
}

// lastKey is the key at the end of a path.
func lastKey(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// readList reads a list that is in force; isList has looked at the types.
func (p *parser) readList(c *Config, l list, values []value) []netip.Prefix {
	prefixes := make([]netip.Prefix, 0, len(values))
	c.at.elements[l] = make([]Position, len(values))
	path := c.Key(l.key()).Path
	for i := range values {
		e := &values[i]
		c.at.elements[l][i] = e.at
		if e.kind != stringKind {
			prefixes = append(prefixes, netip.Prefix{}) // refused already; it counts, and keeps its index
			continue
		}
		prefix, f := readCIDR(e.text)
		if f == nil && p.readsRaw(e) {
			f = &fault{CodeBadCIDR, "is written with escapes, which Cilium does not read", "write " + strconv.Quote(e.text)}
		}
		if f != nil {
			severity := Fatal
			if taken, ok := p.consumer.takesNevertheless(e.text, f); ok {
				prefix, severity = taken, Suspicious
			}
			if !p.full(severity) {
				p.add(Problem{
					Code: f.code, Severity: severity, Path: elementPath(path, i), Line: e.at.Line, Column: e.at.Column,
					Text: p.scalar(e.at, e.text), Message: say(e.text, f.why), Remedy: f.remedy,
				})
			}
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes
}

// checkLimit refuses more CIDRs than cidrLimit, as the upstream agent does, also
// for the default list. Exceptions count: each is a rule as well.
func (p *parser) checkLimit() {
	if p.noLimit || !p.config.exceeds(len(p.config.NonMasquerade)) {
		return
	}
	p.add(p.shown(overLimit(p.config)))
}

// exceeds tells whether a list of this length, with the exceptions, is too long.
func (c Config) exceeds(listed int) bool { return listed+len(c.Masquerade) > c.CIDRLimit }

// overLimit is the Problem of lists that are longer than cidrLimit.
func overLimit(c Config) Problem {
	count := len(c.NonMasquerade) + len(c.Masquerade)
	what, key := "the list has", KeyNonMasqueradeCIDRs
	if c.ListAbsent() {
		what, key = "the default list, which applies, has", KeyCIDRLimit
	}
	if len(c.Masquerade) > 0 {
		what = strings.TrimSuffix(what, "has") + "and its exceptions have"
		if c.ListAbsent() {
			what, key = "the default list, which applies, and its exceptions have", KeyMasqueradeCIDRs
		}
	}
	problem := Problem{
		Code:    CodeCIDRLimit,
		Message: fmt.Sprintf("%s %d CIDRs, more than cidrLimit, which is %d", what, count, c.CIDRLimit),
		Remedy:  fmt.Sprintf("write %s: %d, or join neighbouring ranges into wider ones", KeyCIDRLimit, count),
	}
	if limit := Default().CIDRLimit; count <= limit {
		problem.Remedy = fmt.Sprintf("remove %s, which is %d then", KeyCIDRLimit, limit)
	}
	return problem.at(c.Key(key))
}

func (p *parser) readBool(key string, f *field, to *bool) {
	v := &f.value
	remedy := "write true or false"
	switch v.kind {
	case boolKind:
		*to = v.json == "true"
		if !strings.EqualFold(v.text, v.json) {
			p.suspect(CodeYAML11Bool, key, v.at, p.scalar(v.at, v.text),
				fmt.Sprintf("%s is %s here, but text to newer YAML loaders", quote(v.text), v.json), "write "+v.json)
		}
		return
	case nullKind:
		p.keepsDefault(key, f, strconv.FormatBool(*to))
		return
	case numberKind, stringKind:
		switch strings.ToLower(strings.TrimSpace(v.text)) {
		case "true", "yes", "y", "on", "1", "enabled":
			remedy = "write true"
		case "false", "no", "n", "off", "0", "disabled":
			remedy = "write false"
		}
		if v.kind == stringKind {
			remedy += ", without quotes"
		}
	case listKind, mappingKind, brokenKind:
	}
	p.wrongType(key, v, "a boolean", remedy)
}

func (p *parser) keepsDefault(key string, f *field, in string) {
	p.suspect(CodeNullValue, key, f.at, p.scalar(f.at, f.name), quote(f.name)+" has no value, so "+in+" stays in force",
		"write "+p.pair(lastKey(key), in)+", or remove the key")
}

func (p *parser) readLimit(f *field) {
	v := &f.value
	remedy := "write a whole number, such as 64"
	switch v.kind {
	case numberKind:
		if limit, err := strconv.Atoi(v.json); err == nil {
			p.config.CIDRLimit, p.noLimit = limit, false
			if digits := strings.TrimLeft(v.text, "+-"); len(digits) > 1 && digits[0] == '0' && strings.IndexByte("0123456789_oO", digits[1]) >= 0 {
				p.suspect(CodeOctalNumber, KeyCIDRLimit, v.at, p.scalar(v.at, v.text),
					fmt.Sprintf("%s is %s: agents read a number with a leading zero as octal if they can", quote(v.text), v.json),
					"write "+v.json)
			}
			return
		}
		p.noLimit = true
		why := "is not a whole number"
		if isDigits(strings.TrimPrefix(v.json, "-")) {
			why = "is too large a number"
		}
		p.fatal(CodeWrongType, KeyCIDRLimit, v.at, p.scalar(v.at, v.text), quote(v.text)+" "+why, remedy)
		return
	case nullKind:
		p.keepsDefault(KeyCIDRLimit, f, strconv.Itoa(p.config.CIDRLimit))
		return
	case stringKind:
		if n, err := strconv.Atoi(strings.TrimSpace(v.text)); err == nil {
			remedy = fmt.Sprintf("write %d, without quotes", n)
		}
	case boolKind, listKind, mappingKind, brokenKind:
	}
	p.noLimit = true
	p.wrongType(KeyCIDRLimit, v, "a whole number", remedy)
}

func isDigits(s string) bool {
	return strings.Trim(s, "0123456789") == ""
}

func (p *parser) readResync(f *field) {
	v, key := &f.value, KeyResyncInterval
	switch v.kind {
	case stringKind:
		d, err := time.ParseDuration(v.text)
		if err != nil {
			why, remedy := explainDuration(v.text)
			p.fatal(CodeBadDuration, key, v.at, p.scalar(v.at, v.text), say(v.text, why), p.writeText(remedy))
			return
		}
		p.config.Resync = d
		if d < minResync {
			p.fatal(CodeResyncTooShort, key, v.at, p.scalar(v.at, v.text),
				quote(v.text)+" is below one second, so agents would rewrite the rules without a pause", p.writeText("60s"))
		}
	case nullKind:
		p.fatal(CodeBadDuration, key, f.at, p.scalar(f.at, f.name), quote(f.name)+" has no value",
			"write "+p.pair(key, p.str("60s"))+", or remove the key")
	case numberKind:
		remedy := "60s"
		if n, err := strconv.Atoi(v.json); err == nil && n > 0 {
			remedy = v.json + "s"
		}
		p.wrongType(key, v, "a duration with a unit", p.writeText(remedy))
	case boolKind, listKind, mappingKind, brokenKind:
		p.wrongType(key, v, "a duration", p.writeText("60s"))
	}
}

// durationUnits are units as people write them, with those of time.ParseDuration
// and how many of these one is.
//
//nolint:gochecknoglobals // a constant in all but the language
var durationUnits = map[string]struct {
	unit   string
	factor float64
}{
	"": {"s", 1}, "s": {"s", 1}, "sec": {"s", 1}, "secs": {"s", 1}, "second": {"s", 1}, "seconds": {"s", 1},
	"m": {"m", 1}, "min": {"m", 1}, "mins": {"m", 1}, "minute": {"m", 1}, "minutes": {"m", 1},
	"h": {"h", 1}, "hr": {"h", 1}, "hrs": {"h", 1}, "hour": {"h", 1}, "hours": {"h", 1},
	"d": {"h", 24}, "day": {"h", 24}, "days": {"h", 24},
	"w": {"h", 168}, "week": {"h", 168}, "weeks": {"h", 168},
	"ms": {"ms", 1}, "millisecond": {"ms", 1}, "milliseconds": {"ms", 1},
}

// explainDuration tells what is wrong with a duration, and how it is written.
func explainDuration(s string) (why, remedy string) {
	const fallback = "60s"
	bare := strings.ToLower(strings.TrimFunc(s, isFiller))
	if bare == "" {
		return "is empty", fallback
	}
	var meant strings.Builder
	next := map[string]string{"h": "m", "m": "s"} // 1h30 is 1h30m
	last := ""
	for rest := bare; rest != ""; {
		end := strings.IndexFunc(rest, func(r rune) bool { return !unicode.IsDigit(r) && r != '.' })
		if end < 0 {
			end = len(rest)
		}
		number, err := strconv.ParseFloat(rest[:end], 64)
		if err != nil {
			return "is not a duration", fallback
		}
		rest = strings.TrimLeft(rest[end:], " ")
		end = strings.IndexFunc(rest, func(r rune) bool { return !unicode.IsLetter(r) })
		if end < 0 {
			end = len(rest)
		}
		unit, ok := durationUnits[cmp.Or(rest[:end], next[last])]
		if !ok {
			return "is not a duration", fallback
		}
		rest = strings.TrimLeft(rest[end:], " ")
		last = unit.unit
		meant.WriteString(strconv.FormatFloat(number*unit.factor, 'f', -1, 64) + unit.unit)
	}
	d, err := time.ParseDuration(meant.String())
	if err != nil || d < minResync {
		return "is not a duration", fallback
	}
	remedy = meant.String()
	if len(remedy) > len("24h60m60s") {
		remedy = formatDuration(d)
	}
	if strings.IndexFunc(bare, unicode.IsLetter) < 0 {
		return "has no unit", remedy
	}
	return "is not a duration: the units are s, m and h", remedy
}

// wrongType reports a value that is not what a key wants.
func (p *parser) wrongType(path string, v *value, want, remedy string) {
	message := "the value is " + v.kind.String() + ", not " + want
	switch v.kind {
	case boolKind, numberKind, stringKind:
		message = quote(v.text) + " is " + v.kind.String() + ", not " + want
	case nullKind, listKind, mappingKind:
	case brokenKind:
		return
	}
	p.fatal(CodeWrongType, path, v.at, p.scalar(v.at, v.text), message, remedy)
}

// say begins a sentence with the offending text.
func say(text, why string) string {
	if text == "" {
		return "the value " + why
	}
	return quote(text) + " " + why
}

// listRemedy writes the CIDRs of a text as a list, ready to paste.
func (p *parser) listRemedy(key, s string) string {
	cidrs := splitCIDRs(s)
	if len(cidrs) == 0 || len(cidrs) > maxCover {
		cidrs = []string{"10.0.0.0/8"}
		if strings.HasPrefix(s, "-") {
			return "put a blank after each dash"
		}
		return "write a list, such as " + p.pair(key, p.flowList(cidrs))
	}
	return "write " + p.pair(key, p.flowList(cidrs))
}

// cidrRemedy writes the CIDR that a text holds.
func (p *parser) cidrRemedy(s string) string {
	if cidrs := splitCIDRs(s); len(cidrs) == 1 {
		return p.writeText(cidrs[0])
	}
	return "write a CIDR such as 10.0.0.0/8"
}

func (p *parser) flowList(cidrs []string) string {
	quoted := make([]string, len(cidrs))
	for i, cidr := range cidrs {
		quoted[i] = p.str(cidr)
		if strings.Contains(cidr, ":") { // a colon may end a flow scalar
			quoted[i] = strconv.Quote(cidr)
		}
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// pair writes a key and its value, str a text, in the language of the text.
func (p *parser) pair(key, in string) string { return p.str(key) + ": " + in }

func (p *parser) str(s string) string {
	if p.json {
		return strconv.Quote(s)
	}
	return s
}

func (p *parser) writeText(s string) string { return "write " + p.str(s) }
