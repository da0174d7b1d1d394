package foreign

import "strings"

// Words splits a rule of iptables-save into its arguments. What needs quotes is in
// double quotes there, and a backslash takes the next character as it is.
func Words(rule string) []string {
	var (
		all             []string
		word            strings.Builder
		quoted, escaped bool
		begun           bool
	)
	for _, r := range rule {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quoted:
			escaped = true
		case r == '"':
			quoted, begun = !quoted, true
		case r == ' ' && !quoted:
			if begun {
				all = append(all, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if begun {
		all = append(all, word.String())
	}
	return all
}
