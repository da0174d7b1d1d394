package config

import (
	"strings"
	"unicode"
)

// flagsAsKeys are flags of the agent that people look for in the file.
//
//nolint:gochecknoglobals // a constant in all but the language
var flagsAsKeys = map[string]string{
	"enableipv6":              "--enable-ipv6",
	"ipv6":                    "--enable-ipv6",
	"masqchain":               "--masq-chain",
	"nomasqallreservedranges": "--nomasq-all-reserved-ranges",
	"randomfully":             "--random-fully",
	"toports":                 "--to-ports",
}

// suggestKey tells what the author of an unknown key may have meant.
func suggestKey(name string) string {
	if flag, ok := flagsAsKeys[bareName(name)]; ok {
		return "remove it; " + flag + " is a flag of the agent, not a key"
	}
	return suggest(name, keys[:])
}

// suggest tells which of some names may be meant.
func suggest(name string, known []string) string {
	bare := bareName(name)
	best, least := "", len(bare)+1
	for _, key := range known {
		if len(bare) >= 4 && strings.HasPrefix(strings.ToLower(key), bare) {
			return "did you mean " + key + "?"
		}
		least = min(least, max(len(bare), len(key))/3+1) // a third of the letters may be wrong
		if d := distance(bare, strings.ToLower(key), least); d < least {
			best, least = key, d
		}
	}
	if best == "" {
		return "remove it; the keys are " + strings.Join(known, ", ")
	}
	return "did you mean " + best + "?"
}

// bareName is a name in the letters that count.
func bareName(name string) string {
	return strings.ToLower(strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return -1
	}, name))
}

// distance counts the letters to insert, remove, replace or swap to turn a into b;
// it gives up at the limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	before, previous, current := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range current {
		current[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, previous, current = previous, current, before
		current[0] = i
		for j := 1; j <= len(b); j++ {
			replace := previous[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			current[j] = min(replace, previous[j]+1, current[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], before[j-2]+1)
			}
		}
	}
	return current[len(b)]
}
