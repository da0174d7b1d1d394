package config_test

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// stricter are the codes of texts that the upstream agent may accept.
//
//nolint:gochecknoglobals // a constant in all but the language
var stricter = []config.Code{
	config.CodeTooLarge, config.CodeEncoding, config.CodeControlCharacter, config.CodeTab, config.CodeTooDeep,
	config.CodeAliases, config.CodeTag, config.CodeNotFinite, config.CodeNullElement, config.CodeTooManyCIDRs,
	config.CodeMaskLeadingZero, config.CodeIPv4Mapped, config.CodeResyncTooShort,
}

//nolint:gochecknoglobals // a flag of the test
var composed = flag.Int("composed", 20000, "texts that TestParseComposed puts together")

func FuzzParse(f *testing.F) {
	for _, text := range seeds() {
		f.Add([]byte(text))
	}
	f.Fuzz(checkText)
}

// TestParseComposed asserts the same of texts that are put together from parts, which
// get further than mutated bytes do.
func TestParseComposed(t *testing.T) {
	parts := []string{
		"nonMasqueradeCIDRs:", "nonmasqueradecidrs:", "masqLinkLocal:", "resyncInterval:", "cidrLimit:", "CIDRLIMIT:", "masqueradeCIDRs:", "masqueradecidrs:", "nodeOverrides:", "nodeOverrides: [{matchLabels: {a: b}, ", "- matchLabels: {a: b}", "matchLabels: {a: b}", "x:", "\"x\":", "?", ":", "-", "- -",
		"10.0.0.0/8", "10.0.0.1/8", "'fd00::/8'", "\"10.0.0.0/8\"", "::/0", "true", "yes", "Off", "y", "~", "null", "''", "60s", "0s", "5", "010", "0x1f", "1e2", "1_0", ".nan", "08",
		"&a", "*a", "<<:", "<<: *a", "!!str", "!!int", "!x", "!", "{", "}", "[", "]", ",", "[]", "{}", "{a: b}", "[a, b]", "|", ">", "|-", "\"", "'", "\\", "#", "# c", "---", "...", "%YAML 1.1",
		"\n", "\n", "\n", "\n", "\n", "\n", "\n  ", "\n ", "\n    ", "\n- ", "\n  - ", " ", " ", " ", "\t", "\r\n", "\r", "\u0085", "\ufeff", "\u00a0", "ü",
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	var text string
	defer func() {
		if t.Failed() {
			t.Logf("seed %d: %q", seed, text)
		}
	}()
	for range *composed {
		var b strings.Builder
		for range 1 + random.IntN(30) {
			b.WriteString(parts[random.IntN(len(parts))])
			if random.IntN(3) > 0 {
				b.WriteByte(' ')
			}
		}
		text = b.String()
		checkText(t, []byte(text))
		if t.Failed() {
			return
		}
	}
}

// checkText compares what Parse makes of a text with what the upstream agent does.
func checkText(t *testing.T, text []byte) {
	t.Helper()
	if plain, yaml, ok := config.ReadBoth(string(text)); ok {
		if diff := cmp.Diff(yaml, plain); diff != "" {
			t.Fatalf("the reader for plain texts disagrees (-yaml +plain):\n%s", diff)
		}
	}
	checkCilium(t, text)
	c, problems := config.Parse(text)
	checkProblems(t, string(text), problems)
	fatal := isFatal(problems)
	want, err := upstreamParse(text)
	switch {
	case err != nil && !fatal:
		t.Fatalf("accepted, but upstream refuses: %v\nproblems: %v", err, problems)
	case err != nil:
		return
	case fatal:
		if !slices.ContainsFunc(problems, func(p config.Problem) bool { return slices.Contains(stricter, p.Code) || ofOurs(p) }) &&
			!ignoresRest(text) {
			t.Fatalf("refused with %v, but upstream accepts: %v", problems, want)
		}
		return
	}
	if diff := cmp.Diff(effective(want), meaningOf(c)); diff != "" {
		t.Fatalf("not what upstream makes of it (-upstream +ours):\n%s\nproblems: %v", diff, problems)
	}
	if len(problems) == 0 {
		strict, err := upstreamStrict(text)
		if err != nil {
			t.Fatalf("no problem, but a strict loader has: %v", err)
		}
		if diff := cmp.Diff(effective(strict), meaningOf(c)); diff != "" {
			t.Fatalf("not what a strict loader makes of it:\n%s", diff)
		}
	}
	checkAccepted(t, c)
}

// ofOurs tells that a problem is about a key that the upstream agent does not read.
func ofOurs(p config.Problem) bool {
	return strings.HasPrefix(p.Path, "masqueradeCIDRs") || strings.HasPrefix(p.Path, "nodeOverrides") || p.Code == config.CodeCIDRLimit && strings.Contains(p.Message, "exceptions")
}

// checkCilium compares what Parse makes of a text for Cilium with what that does.
func checkCilium(t *testing.T, text []byte) {
	t.Helper()
	c, problems := config.Cilium.Parse(text)
	checkProblems(t, string(text), problems)
	if len(text) == 0 {
		if want := config.Default(); !c.Equal(want) {
			t.Errorf("no text is %+v, want the defaults", c)
		}
		return
	}
	want, err := ciliumParse(text)
	switch fatal := isFatal(problems); {
	case err != nil && !fatal:
		t.Fatalf("accepted, but Cilium refuses: %v\nproblems: %v", err, problems)
	case err == nil && fatal:
		lenient := slices.DeleteFunc(slices.Clone(stricter), func(code config.Code) bool {
			return code == config.CodeNullElement || code == config.CodeIPv4Mapped || code == config.CodeResyncTooShort || code == config.CodeMaskLeadingZero
		})
		if !slices.ContainsFunc(problems, func(p config.Problem) bool { return slices.Contains(lenient, p.Code) }) && !ciliumIgnoresRest(text) {
			t.Fatalf("refused with %v, but Cilium accepts: %v", problems, want)
		}
	case err == nil:
		var list []netip.Prefix
		for _, prefix := range want.NonMasqCIDRs {
			list = append(list, netip.Prefix(prefix))
		}
		if got := c.NonMasquerade; !slices.Equal(got, list) || c.MasqueradeLinkLocal != want.MasqLinkLocal ||
			c.MasqueradeLinkLocalIPv6 != want.MasqLinkLocalIPv6 || c.ListAbsent() {
			t.Fatalf("ours: %+v, Cilium's: %+v\nproblems: %v", c, want, problems)
		}
	}
}

// ciliumIgnoresRest is ignoresRest for Cilium.
func ciliumIgnoresRest(text []byte) bool {
	_, err := ciliumParse(append(slices.Clone(text), "\n@"...))
	return err == nil
}

// ignoresRest tells that upstream does not read this text to its end: it stops where
// a line is indented less than the first key. A syntax error there we report.
func ignoresRest(text []byte) bool {
	_, err := upstreamParse(append(slices.Clone(text), "\n@"...))
	return err == nil
}

// meaning is a configuration in a form in which ours and upstream's compare.
type meaning struct {
	CIDRs         []netip.Prefix
	Limit         int
	LinkLocal     bool
	LinkLocalIPv6 bool
	Resync        time.Duration
}

func meaningOf(c config.Config) string {
	return fmt.Sprintf("%+v", meaning{c.NonMasquerade, c.CIDRLimit, c.MasqueradeLinkLocal, c.MasqueradeLinkLocalIPv6, c.Resync})
}

func effective(c upstreamConfig) string {
	m := meaning{nil, c.CIDRLimit, c.MasqLinkLocal, c.MasqLinkLocalIPv6, time.Duration(c.ResyncInterval)}
	for _, s := range c.NonMasqueradeCIDRs {
		m.CIDRs = append(m.CIDRs, netip.MustParsePrefix(s))
	}
	return fmt.Sprintf("%+v", m)
}

// checkProblems asserts what holds for the problems of any text.
func checkProblems(t *testing.T, text string, problems []config.Problem) {
	t.Helper()
	lines := strings.Split(text, "\n")
	for i, p := range problems {
		if p.Code == "" || p.Message == "" || strings.ContainsAny(p.String(), "\n\r") {
			t.Errorf("problem without a code, or not on one line: %q", p)
		}
		if utf8.RuneCountInString(p.Text) > 64 {
			t.Errorf("the text has more than 64 characters: %q", p)
		}
		if len(p.Path)+len(p.Message)+len(p.Remedy) > 4096 {
			t.Errorf("longer than anybody reads: %.300s", p)
		}
		if (p.Line == 0) != (p.Column == 0) || p.Line > len(lines) {
			t.Fatalf("the position is not in the text: %+v", p)
		}
		if p.Line > 0 {
			if line := lines[p.Line-1]; p.Column > len(line)+1 || !strings.HasPrefix(line[p.Column-1:], p.Text) {
				t.Errorf("not at its position: %+v", p)
			}
			if i > 0 && (problems[i-1].Line > p.Line || problems[i-1].Line == p.Line && problems[i-1].Column > p.Column) {
				t.Errorf("not in order: %v", problems)
			}
		}
	}
	if len(problems) > config.MaxProblems+1 {
		t.Errorf("%d problems", len(problems))
	}
}

// checkAccepted asserts what holds for any Config that Parse gives without a fatal
// Problem.
func checkAccepted(t *testing.T, c config.Config) {
	t.Helper()
	for i, prefix := range c.NonMasquerade {
		if prefix != prefix.Masked() || !prefix.IsValid() || prefix.Addr().Is4In6() {
			t.Errorf("not canonical: %v", prefix)
		}
		if at := c.At(fmt.Sprintf("nonMasqueradeCIDRs[%d]", i)); (at.Line == 0) != c.ListAbsent() {
			t.Errorf("element %d is at %v", i, at)
		}
	}
	for i, prefix := range c.Masquerade {
		if prefix != prefix.Masked() || !prefix.IsValid() || prefix.Addr().Is4In6() || slices.Contains(c.NonMasquerade, prefix) {
			t.Errorf("no proper exception: %v", prefix)
		}
		if at := c.At(fmt.Sprintf("masqueradeCIDRs[%d]", i)); at.Line == 0 {
			t.Errorf("exception %d has no position", i)
		}
	}
	for i, o := range c.Overrides {
		if len(o.MatchLabels) == 0 || len(o.Config.Overrides) > 0 || c.At(fmt.Sprintf("nodeOverrides[%d]", i)).Line == 0 {
			t.Errorf("no proper override: %+v", o)
		}
		if len(o.Config.NonMasquerade)+len(o.Config.Masquerade) > c.CIDRLimit || o.Config.Resync != c.Resync {
			t.Errorf("override %d beyond limits: %+v", i, o)
		}
		for n, prefix := range o.Config.Masquerade {
			if slices.Contains(o.Config.NonMasquerade, prefix) || o.Config.Element("masqueradeCIDRs", n).Line == 0 {
				t.Errorf("no proper exception in override %d: %v", i, prefix)
			}
		}
	}
	if len(c.NonMasquerade)+len(c.Masquerade) > min(c.CIDRLimit, 2*config.MaxCIDRs) || c.Resync < time.Second {
		t.Errorf("beyond limits: %+v", c)
	}
	text := c.Format()
	again, problems := config.Parse(text)
	if len(problems) > 0 || !again.Equal(c) {
		t.Errorf("formatted and parsed again: %v, %v\n%s", meaningOf(again), problems, text)
	}
	if !bytes.Equal(again.Format(), text) {
		t.Errorf("formatted twice:\n%s\n%s", text, again.Format())
	}
	for _, options := range []config.Options{{}, {IPv6: true}, {ReservedRanges: true}, {ReservedRanges: true, IPv6: true}} {
		got, problems := c.For(options)
		if !isFatal(problems) && len(got.NonMasquerade)+len(got.Masquerade) > c.CIDRLimit {
			t.Errorf("for %+v over the limit: %+v", options, got)
		}
	}
}

// seeds is a corpus of everything that has a meaning to somebody.
func seeds() []string {
	return []string{
		"", "\n", "---\n", "# nothing\n", "{}", "{}\n", "~", "null\n", "hello\n", "- 10.0.0.0/8\n", "[]", "42",
		"nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 172.16.0.0/12\nmasqLinkLocal: true\nmasqLinkLocalIPv6: false\nresyncInterval: 5m\ncidrLimit: 100\n",
		"nonMasqueradeCIDRs:\n  - \"10.0.0.0/8\"  # office\n  - 'fd00::/8'\nresyncInterval: '60s'\r\n",
		"nonMasqueradeCIDRs: [10.0.0.0/8, \"fd00::/8\"]\n",
		"nonMasqueradeCIDRs: [10.0.0.0/33]\nnonmasqueradecidrs: [10.0.0.1/8]\ncidrLimit: 0\nresyncInterval: [x]\n",
		"{\"nonMasqueradeCIDRs\":[\"10.0.0.0\\/8\", \"10.0.0.1/8\"], \"cidrLimit\": {}}",
		"nonMasqueradeCIDRs: 10.0.0.0/8, 172.16.0.0/12\n",
		"nodeOverrides:\n- matchLabels: {pool: edge, \"a.b/c\": \"1\"}\n  nonMasqueradeCIDRs: [10.0.0.0/8]\n  masqueradeCIDRs:\n  - 10.1.0.0/16\n  masqLinkLocal: true\n- matchLabels:\n    pool: \"\"\n  masqLinkLocalIPv6: yes\n",
		"nodeOverrides: [{matchLabels: {a: b}, cidrLimit: 5}, ~, x, {}, {matchLabels: {}}, {matchLabels: {a: 1, -: c, d: []}}]\nmasqueradeCIDRs: [10.1.0.0/16]\n",
		"{\"nodeOverrides\": [{\"matchLabels\": {\"a\": \"b\"}, \"nonMasqueradeCIDRs\": []}, {\"MatchLabels\": {\"a\": \"b\", \"a\": \"c\"}}]}",
		"nonMasqueradeCIDRs:\n- 10.0.0.0/8\nmasqueradeCIDRs:\n- 10.1.0.0/16\n- 10.0.0.0/8\n", "masqueradeCIDRs: [10.0.0.0/8, 10.1.0.1/16, ~]\n",
		"masqueradeCIDRs:\n- \"fd00::/8\"\nMasqueradeCIDRs: []\ncidrLimit: 3\n", "{\"masqueradeCIDRs\":[\"10.9.0.0/16\"],\"cidrLimit\":4}",
		"nonMasqueradeCIDRs:\nmasqLinkLocal:\ncidrLimit: ~\n",
		"nonMasqueradeCIDRs:\n-\n- 1.2.3.0/24\n-\n",
		"nonMasqueradeCIDRs:\n- 10.0.0.1/8\n- 10.0.0.0/08\n- ::ffff:10.0.0.0/104\n- 10.0.0.0/33\n- fe80::%eth0/64\n- 10.0.0.0-10.0.0.255\n",
		"x: &a\n- 10.5.0.0/16\nnonMasqueradeCIDRs: *a\n",
		"base: &b {cidrLimit: 5, masqLinkLocal: yes}\ncidrLimit: 6\n<<: *b\nmasqLinkLocal: off\n",
		"a: &a {x: 1}\nb: &b {y: 2}\n<<: [*a, *b, {masqLinkLocal: true}]\n",
		"a: &a [*a]\n", "a: &a\n  <<: *a\n", "*a", "nonMasqueradeCIDRs: *nobody\n",
		"%YAML 1.1\n---\ncidrLimit: 0x10\n...\njunk: [\n", "%YAML 1.2\n---\n{}\n", "---\n---\ncidrLimit: 5\n", "...\n", "--- {cidrLimit: 3}\n",
		"cidrLimit: 010\n", "cidrLimit: 08\n", "cidrLimit: 1e2\n", "cidrLimit: 1_0\n", "cidrLimit: 0b11\n", "cidrLimit: 0o17\n", "cidrLimit: .5\n", "cidrLimit: -1\n",
		"cidrLimit: !!int \"7\"\n", "cidrLimit: !!float 7\n", "masqLinkLocal: !!str yes\n", "resyncInterval: !foo 60s\n", "masqLinkLocal: ! \"yes\"\n", "cidrLimit: !\n",
		"a: .nan\n", "a: -.inf\n", "1: 2\n3.5: 4\ntrue: 5\n~: 6\n", "? [a]\n: b\n", "? a\n: b\n", "18446744073709551615: a\n",
		"masqLinkLocal: yes\nmasqLinkLocalIPv6: Off\nresyncInterval: 1d\n", "masqLinkLocal: \"true\"\ncidrLimit: \"100\"\nresyncInterval: 60\n",
		"resyncInterval: 0s\n", "resyncInterval: \"\"\n", "resyncInterval:\n", "resyncInterval: 1ns\n", "resyncInterval: 5min\n", "resyncInterval: 1h30\n",
		"NONMASQUERADECIDRS: []\nnonmasqueradecidrs: [1.2.3.0/24]\nnonMasqueradeCIDRs: [1.2.4.0/24]\n", "ma\u017fqLin\u212aLocal: true\n",
		"cidrLimit: 5\ncidrLimit: 6\n", "cidrLimit: x\ncidrLimit: 6\n", "resyscInterval: 60s\nenableIPv6: true\n",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ip-masq-agent}\ndata:\n  config: |\n    cidrLimit: 5\n",
		"config:\n  nonMasqueradeCIDRs:\n  - 10.5.0.0/16\n", "config: |\n  cidrLimit: 5\n", "data:\n  config: x\n",
		"nonMasqueradeCIDRs:\n\t- 10.0.0.0/8\n", "nonMasqueradeCIDRs:\n-\u00a010.5.0.0/16\n", "nonMasqueradeCIDRs:\n- \u00a010.5.0.0/16\u200b\n",
		"\ufeffcidrLimit: 5\n", "\ufeff{\"cidrLimit\": 5}\n", "cidrLimit: 5\r\nmasqLinkLocal: true\r\n", "cidrLimit: 5\rmasqLinkLocal: true\r", "cidrLimit: 5\u0085masqLinkLocal: true\u2028",
		"cidrLimit: 5 \nmasqLinkLocal: true\t\n  \n", "cidrLimit: 5\t# five\n", "cidrLimit: 5\n\t# five\n", "- a # b\n\n # c\n#d\nx: # y\n  - z\n",
		"nonMasqueradeCIDRs: [\n  10.0.0.0/8, # a\n  # b\n  172.16.0.0/12 # c\n]\n", "a: |\n # no comment\n b\ncidrLimit: 5\n", "a: >-\n  b\n\n  c\n", "a: \"b\n  c\\\n  d\\u00e9\"\n", "a: 'b\n\n  c''d'\n",
		"{\"nonMasqueradeCIDRs\":[\"10.1.0.0/16\"],\"nonMasqueradeCIDRs\":[\"10.2.0.0/16\"]}", "{\"cidrLimit\":1e2}", "{\"cidrLimit\":100,\"masqLinkLocal\":null}",
		"\t{\n\t\"nonMasqueradeCIDRs\": [\"10.1.0.0/16\", null, 5, {}, []], \"x\": {\"y\": [1, {\"z\": \"\\u00e9\\ud800\"}]}\n}\n", "{\"nonMasqueradeCIDRs\":[\"10.5.0.0/16\",]}", "{\"a\":1} x", "{*", "{'a': 1}", "{a: 1}", "{ // c\n}", "\u00a0{}", "{\"CIDRLIMIT\": 5, \"cidrLimit\": 6}",
		"[" + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "]", "{\"a\":" + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "}",
		" resyncInterval: 60s\nmasqLinkLocal: true\n", "--- {a: 1}\nfoo: 2\n", "  cidrLimit: 3\n# c\n@\n",
		"nonMasqueradeCIDRs:\n- 10.0.0.0/8\nmasqLinkLocal true\nresyncInterval: 60s\n", "nonMasqueradeCIDRs: [10.0.0.0/8, 172.16.0.0/12\nresyncInterval: 60s\n",
		"nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n - 172.16.0.0/12\n", "cidrLimit: 5\n  masqLinkLocal: true\n", "nonMasqueradeCIDRs:\n- \"10.0.0.0/8\n- 172.16.0.0/12\n",
		"resyncInterval: @60s\n", "nonMasqueradeCIDRs: {{ .Values.x }}\n", "resyncInterval: \"60s\" oops\n", "nonMasqueradeCIDRs:\n* 10.0.0.0/8\n", "%FOO\n---\na: 1\n", "a: !x!y z\n",
		"a: {b: {c: [1, 2, {d: e}]}}\ncidrLimit: 7\n", "é: ü\ncidrLimit: \"ö\" # ä\nnonMasqueradeCIDRs: [\"é\", 10.0.0.1/8]\n", "\x00", "\xff\xfea\x00", "a: \"\xff\"",
	}
}
