package config_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// TestParseHostile gives Parse the texts that are meant to exhaust it.
func TestParseHostile(t *testing.T) {
	fill := func(unit string) string { return strings.Repeat(unit, config.MaxBytes/len(unit)) }
	bomb := "a0: &a0 [a, b, c, d, e, f, g, h, i, j]\n"
	for i := 1; i < 9; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	tests := []struct {
		name string
		text string
		code config.Code // of the first problem, or of none
	}{
		{"100,000 CIDRs", textOf(100000), config.CodeTooLarge},
		{"40,000 CIDRs", textOf(40000), config.CodeTooManyCIDRs},
		{"40,000 CIDRs through the YAML parser", "---\n" + textOf(40000), config.CodeTooManyCIDRs},
		{"40,000 CIDRs in JSON", jsonOf(40000), config.CodeTooManyCIDRs},
		{"brackets", fill("["), config.CodeTooDeep},
		{"braces", fill("{"), config.CodeSyntax},
		{"braces with keys", fill(`{"a":`), config.CodeTooDeep},
		{"brackets in JSON", `{"a":` + fill("[")[6:], config.CodeTooDeep},
		{"dashes", fill("- "), config.CodeTooDeep},
		{"question marks", fill("? "), config.CodeTooDeep},
		{"flow mappings", "a: " + fill("{a: ")[4:], config.CodeTooDeep},
		{"flow keys", "- " + fill("[a,")[3:], config.CodeTooDeep},
		{"alias bomb", bomb, config.CodeAliases},
		{"merge bomb", mergeBomb(), config.CodeAliases},
		{"comments", fill("#\n"), config.CodeEmpty},
		{"comments behind values", fill("- a #\n"), config.CodeNotAMapping},
		{"comments in a list", "[" + fill("# a\n")[5:] + "]", config.CodeNotAMapping},
		{"comment without an end", "a: 1 #" + fill("#")[6:], config.CodeUnknownKey},
		{"line breaks", fill("\n"), config.CodeEmpty},
		{"blanks", fill(" "), config.CodeEmpty},
		{"blanks at line ends", "a: 1 \n" + fill(" \n")[6:], config.CodeUnknownKey},
		{"quote", `a: "` + fill("x")[4:], config.CodeSyntax},
		{"escapes", `a: "` + fill(`\x41`)[8:] + `"`, config.CodeUnknownKey},
		{"quotes in JSON", `{"a":"` + fill(`\"`)[8:] + `"}`, config.CodeUnknownKey},
		{"one key", fill("a"), config.CodeNotAMapping},
		{"the same key", fill("a:\n"), config.CodeDuplicateKey},
		{"keys", manyKeys(), config.CodeUnknownKey},
		{"anchors", fill("- &a b\n"), config.CodeNotAMapping},
		{"aliases", "- &a b\n" + fill("- *a\n")[10:], config.CodeAliases},
		{"aliases on one line of umlauts", "x: [ü, &a b" + fill(", *a")[16:] + "]\n", config.CodeAliases},
		{"tags", fill("- !t x\n"), config.CodeTag},
		{"umlauts", "[" + fill("ü, ")[4:] + "]", config.CodeNotAMapping},
		{"line separators", "x: [" + fill("ü,\u2028 ")[10:] + "]\n", config.CodeUnknownKey},
		{"bad elements", "nonMasqueradeCIDRs: [" + fill("x, ")[24:] + "]", config.CodeTooManyCIDRs},
		{"bad CIDRs", "nonMasqueradeCIDRs:\n" + strings.Repeat("- 10.0.0.1/8\n", config.MaxCIDRs), config.CodeHostBits},
		{"null elements", "nonMasqueradeCIDRs: [" + fill("~, ")[24:] + "]", config.CodeTooManyCIDRs},
		{"null elements in bounds", "nonMasqueradeCIDRs: [" + strings.Repeat("~, ", config.MaxCIDRs) + "]" + fill(" ")[16*config.MaxCIDRs:], config.CodeNullElement},
		{"colons", fill(": "), config.CodeSyntax},
		{"documents", "---\n" + fill("---\n")[8:], config.CodeEmpty},
		{"ignored rest", " a: 1\n" + fill("b: 1\n")[10:], config.CodeSecondDocument},
		{"directives", fill("%a b\n"), config.CodeSyntax},
		{"block scalar", "a: |\n" + fill(" b\n")[9:], config.CodeUnknownKey},
		{"folded", "a: >\n" + fill(" b\n")[9:], config.CodeUnknownKey},
		{"plain over many lines", "a: b\n" + fill(" b\n")[9:], config.CodeUnknownKey},
		{"a duration of a megabyte", "resyncInterval: " + fill("9h")[20:], config.CodeBadDuration},
		{"a duration of many days", "resyncInterval: 1m" + strings.Repeat("1d", 10000), config.CodeBadDuration},
		{"CIDRs in one element", "nonMasqueradeCIDRs: ['" + fill("1.0.0.0/8,")[30:] + "']", config.CodeBadCIDR},
		{"a number of a megabyte", "cidrLimit: " + fill("1")[12:], config.CodeWrongType},
		{"a CIDR of a megabyte", "nonMasqueradeCIDRs: [" + fill("1.")[24:] + "]", config.CodeBadCIDR},
		{"CIDRs in one text of a megabyte", "nonMasqueradeCIDRs: '" + fill("1.0.0.0/8,")[24:] + "'", config.CodeWrongType},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			start := time.Now()
			_, problems := config.Parse([]byte(test.text))
			took := time.Since(start)
			t.Logf("%d bytes took %v", len(test.text), took)
			checkProblems(t, test.text, problems)
			if len(problems) == 0 || problems[0].Code != test.code {
				t.Errorf("want %s first, got %.300s", test.code, fmt.Sprint(problems))
			}
			if took > 30*time.Second { // far above what it takes even on a busy machine, so that only growth fails
				t.Errorf("took %v", took)
			}
		})
	}
}

func mergeBomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 {k: v}\n")
	for i := 1; i < 20; i++ {
		fmt.Fprintf(&b, "a%d: &a%d {<<: [*a%d, *a%d, *a%d]}\n", i, i, i-1, i-1, i-1)
	}
	return b.String()
}

func manyKeys() string {
	var b strings.Builder
	for i := 0; b.Len() < config.MaxBytes-20; i++ {
		fmt.Fprintf(&b, "k%d: 1\n", i)
	}
	return b.String()
}
