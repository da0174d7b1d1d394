package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// The memory of the webhook's container in the chart, in KiB, and what the webhook makes
// the Go memory limit of that. prlimit ends what gets out of hand altogether.
const (
	containerMemory = 256 << 10
	memoryLimit     = "GOMEMLIMIT=214748364" // bytes
	addressSpace    = "--as=4294967296"      // bytes; the runtime reserves much more than it uses
)

// lines is count lines, each of a number and the one below it.
func lines(count int, format string) string {
	var b strings.Builder
	for i := count; i > 0; i-- {
		fmt.Fprintf(&b, format+"\n", i, i-1)
	}
	return b.String()
}

// aliases is 10^10 values as YAML.
func aliases() string {
	bomb := "custom:\n  a0: &a0 [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
	for i := range 9 {
		bomb += fmt.Sprintf("  a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	return bomb
}

// hostilePackage is a file of rules in a package of its own.
func hostilePackage(team, rules string) string {
	return "# METADATA\n# title: The rule of " + team + "\npackage ipmasq." + team + "\n\n" + rules + "\n"
}

// TestHostileRuleSets writes rule sets that are made to end the webhook, or to fill its
// memory: none comes into force, each author is told why, and the process goes on within
// the memory of its container.
func TestHostileRuleSets(t *testing.T) {
	i := install(t, "--set", "configMap.create=true")
	k := i.kubectl()
	i.under = []string{"prlimit", addressSpace, "env", memoryLimit}
	i.runWebhook(t)
	k.must(t, ruleSet(i.namespace, "payments", "partners.rego", partnerRules, "partners_test.rego", partnerTests), "create", "-f", "-")
	revision := untilSet(t, i.metrics, "in-force")

	rules := func(text string) []string { return []string{"rules.rego", hostilePackage("hostile", text)} }
	tests := func(text string) []string {
		return []string{"rules.rego", hostilePackage("hostile", `deny contains "x" if input.request.name == ""`), "rules_test.rego", "package ipmasq.hostile_test\n\n" + text + "\n"}
	}
	for _, hostile := range []struct {
		name  string
		files []string
		says  string
	}{
		{"brackets", rules(`deny contains "x" if ` + strings.Repeat("[", 400_000) + "1" + strings.Repeat("]", 400_000) + " == 1"), "max parsing recursion depth exceeded"},
		{"comprehensions in one another", rules(`deny contains "x" if ` + strings.Repeat("[1 | ", 3000) + "1" + strings.Repeat("]", 3000) + " == 1"), "inside one another"},
		{"a long body", rules("deny contains \"x\" if {\n" + strings.Repeat("\tinput.request.name\n", 40_000) + "}"), "too large to be compiled"},
		{"a long chain", rules(lines(20_000, "r%d if r%d") + "r0 if input.request.name\ndeny contains \"x\" if r20000"), "a chain of more than 500 rules"},
		{"many else", rules("f(x) := 1 if x == 0" + strings.Repeat(" else := 2 if x == 7", 10_000) + "\n\ndeny contains \"x\" if f(3) == 4"), "too large to be compiled"},
		{"doubling rules", rules(lines(40, "x%d := [x%[2]d, x%[2]d]") + "x0 := [input.request.name]\n\ndeny contains {\"msg\": \"x\", \"details\": x40}"), "more than 4096 parts"},
		{"doubling variables", rules("deny contains \"x\" if {\n\tx0 := [input.request.name]\n" + lines(40, "\tx%d := [x%[2]d, x%[2]d]") + "\tjson.marshal(x40) == \"x\"\n}"), "more than 4096 parts"},
		{"a large literal", rules("numbers := {" + strings.Repeat("1, ", 200_000) + "1}\n\ndeny contains \"x\" if numbers == 1"), ""},
		{"a number out of the world", []string{"data.json", `{"limit": 1e999999999}`}, "number too big"},
		{"deep data", []string{"data.json", `{"a":` + strings.Repeat("[", 400_000) + strings.Repeat("]", 400_000) + "}"}, "exceeded max depth"},
		{"aliases of aliases", []string{"params.yaml", aliases()}, "excessive aliasing"},
		{"a message of megabytes", rules(`deny contains concat("", [x | some _ in numbers.range(1, 200000); x := "0123456789abcdef0123456789abcdef0123456789abcdef"])`), ""},
		{"rules that fill the memory", rules(`deny contains "x" if count({[i, j] | some i in numbers.range(1, 200000); some j in numbers.range(1, 200000)}) == 0`), "the rule fails on the sample"},
		{"a stack that grows", rules(lines(40, "f%d(x) := f%[2]d(x * 2) + f%[2]d((x * 2) + 1)") + "f0(x) := x if x >= 0\n\ndeny contains \"x\" if f40(1) == 1"), "the rule fails on the sample"},
		{"tests that never end", tests(lines(4, `test_x%d if { some i in numbers.range(1, 1000); some j in numbers.range(1, 1000); some k in numbers.range(1, 1000 + %d); i + j + k < 0 }`)), "the test ipmasq.hostile_test.test_x4 ends in an error"},
		{"a test that fills the memory", tests(`test_x if count({[i, j] | some i in numbers.range(1, 200000); some j in numbers.range(1, 200000)}) == 0`), "ipmasq.hostile_test.test_x"},
		{"a test that prints", tests(`test_x if { some i in numbers.range(1, 100000); print(input, [i, "0123456789abcdef0123456789abcdef0123456789abcdef"]); i < 0 }`), "print: it would take more than 4 MiB"},
	} {
		t.Run(hostile.name, func(t *testing.T) {
			i.clearPeak(t)
			began := time.Now()
			got := k.run(t.Context(), ruleSet(i.namespace, "hostile", hostile.files...), "create", "--dry-run=server", "-f", "-")
			took := time.Since(began)
			if hostile.says != "" && (got.exit != 1 || !strings.Contains(got.stderr, hostile.says)) || strings.Contains(got.stderr, "failed calling webhook") {
				t.Errorf("not refused with %q: exit %d, %.2000s", hostile.says, got.exit, got.stderr)
			}
			if len(got.stderr) > 32<<10 {
				t.Errorf("the answer has %d bytes", len(got.stderr))
			}
			i.wellAfter(t, took)
		})
	}
	if now := untilSet(t, i.metrics, "in-force"); now != revision {
		t.Errorf("revision %s, and was %s", now, revision)
	}
	i.refusedBy(t, partnerConfig, "203.0.113.0/24 spares the partners")
	k.must(t, "", "delete", "configmap", "payments", "-n", i.namespace)
	i.turnHostile(t)
}

// turnHostile puts rules in force that are sound for every sample, and turn on the webhook
// for one configuration each: that write is refused by the name of the rule, and other
// rules speak.
func (i *installation) turnHostile(t *testing.T) {
	t.Helper()
	k := i.kubectl()
	cases := []struct{ name, rules, says string }{
		{"violations", `deny contains sprintf("%d", [i]) if { now; some i in numbers.range(1, 260000) }`, "failed: it "},
		{"messages", `deny contains concat("", [x | some _ in numbers.range(1, 200000); x := $"{i}0123456789abcdef0123456789abcdef0123456789abcdef"]) if { now; some i in numbers.range(1, 100) }`, "failed: it "},
		{"joined", `deny contains "x" if { now; count(concat("", [text | some _ in numbers.range(1, 5000)])) == 0 }`, "concat: it would take more than 32 MiB"},
		{"repeated", `deny contains "x" if { now; sprintf(concat("", ["%[1]s" | some _ in numbers.range(1, 5000)]), [text]) == "" }`, "sprintf: it would take more than 32 MiB"},
		{"replaced", `deny contains "x" if { now; replace(text, "0", text) == "" }`, "replace: it would take more than 32 MiB"},
		{"regexreplaced", `deny contains "x" if { now; regex.replace(text, ".", concat("", ["$0" | some _ in numbers.range(1, 1000)])) == "" }`, "regex.replace: it would take more than 32 MiB"},
		{"patterns", `deny contains "x" if { now; some i in numbers.range(1, 200000); regex.match(sprintf("((a|b%d){10}){99}", [i]), text) }`, "failed: it "},
		{"globs", `deny contains "x" if { now; some i in numbers.range(1, 200000); glob.match(sprintf("*%d*{a,b}*", [i]), [], text) }`, "glob.match: it would take more than 32 MiB"},
		{"doubled", "deny contains \"x\" if { now; s40 == \"\" }\n\n" + lines(40, `s%d := concat("", [s%[2]d, s%[2]d])`) + "s0 := text", "concat: it would take more than 32 MiB"},
		{"nested", "deny contains {\"msg\": \"x\", \"details\": x40} if now\n\n" + lines(40, `x%d := [x%[2]d | some _ in [1, 2]]`) + "x0 := [text]", "what it gives is larger than 32 MiB"},
		{"marshalled", "deny contains \"x\" if { now; json.marshal(x12) == \"\" }\n\n" + lines(12, `x%d := [x%[2]d, x%[2]d]`) + "x0 := [text]", "larger than 32 MiB"},
		{"crossed", `deny contains "x" if { now; count({[i, j] | some i in numbers.range(1, 200000); some j in numbers.range(1, 200000)}) == 0 }`, "failed: it "},
		{"remembered", `deny contains "x" if { now; some i in numbers.range(1, 200000); f(i) == "" }` + "\n\nf(i) := concat(text, [$\"{i}\", \"\"])", "failed: it "},
		{"walked", `deny contains "x" if { now; count([1 | walk(g, _); walk(g, _)]) == 0 }` + "\n\ng := [[i, [i]] | some i in numbers.range(1, 50000)]", "failed: it "},
		{"reached", `deny contains "x" if { now; count(graph.reachable({$"{i}": [$"{j}" | some j in numbers.range(1, 1000)] | some i in numbers.range(1, 1000)}, {"1"})) == 0 }`, "failed: it "},
		{"recursing", "deny contains \"x\" if { now; f40(1) == 1 }\n\n" + lines(40, "f%d(x) := f%[2]d(x * 2) + f%[2]d((x * 2) + 1)") + "f0(x) := x if x >= 0", "failed: it "},
		{"numbered", "deny contains \"x\" if { now; m40 == 1 }\n\n" + lines(40, "m%d := m%[2]d * m%[2]d") + "m0 := 3333333333333333333333", "failed: it "},
	}
	const sound = `deny contains "the sound rule speaks" if input.request.name`
	files := []string{"sound.rego", hostilePackage("sound", sound)}
	for n, c := range cases {
		files = append(files, c.name+".rego", hostilePackage(c.name, fmt.Sprintf(`now if {
	some range in input.config.nonMasqueradeCIDRs
	range.cidr == "203.0.113.%d/32"
}

text := concat("", [x | some _ in numbers.range(1, 2000); x := "0123456789"])

`, n)+c.rules))
	}
	k.must(t, ruleSet(i.namespace, "payments", files...), "create", "-f", "-")
	revision := untilSet(t, i.metrics, "in-force")
	i.refusedBy(t, partnerConfig, "the sound rule speaks")

	turned := func(n int) output {
		text := fmt.Sprintf("nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 192.168.0.0/16\n- 203.0.113.%d/32\n", n)
		return k.run(t.Context(), manifestOf(i.guarded, configMap, "data", "config", text), "apply", "--dry-run=server", "-f", "-")
	}
	for n, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			i.clearPeak(t)
			began := time.Now()
			got := turned(n)
			took := time.Since(began)
			for _, want := range []string{"the rule at payments/" + c.name + ".rego:", c.says, "the sound rule speaks"} {
				// On a busy machine time may run out before memory does.
				late := want == c.says && strings.Contains(got.stderr, "failed: it did not end in time")
				if got.exit != 1 || !late && !strings.Contains(got.stderr, want) {
					t.Errorf("not refused with %q: exit %d, %.2000s", want, got.exit, got.stderr)
				}
			}
			i.wellAfter(t, took)
		})
	}
	t.Run("all at once", func(t *testing.T) {
		i.clearPeak(t)
		began := time.Now()
		var several errgroup.Group
		several.SetLimit(8)
		for n := range cases {
			several.Go(func() error {
				if got := turned(n); got.exit != 1 || !strings.Contains(got.stderr, "the sound rule speaks") {
					return fmt.Errorf("%s: not refused: %s", cases[n].name, got)
				}
				return nil
			})
		}
		if err := several.Wait(); err != nil {
			t.Error(err)
		}
		i.wellAfter(t, time.Since(began)/time.Duration(len(cases)))
	})
	if now := untilSet(t, i.metrics, "in-force"); now != revision {
		t.Errorf("revision %s, and was %s", now, revision)
	}
}

// TestHostileTests runs kubectl masq test on the like.
func TestHostileTests(t *testing.T) {
	for _, hostile := range []struct {
		name, tests string
		exit        int // 0: one of failure, 1 or 2
		says        string
	}{
		{"a stack that grows", lines(40, "f%d(x) := f%[2]d(x * 2) + f%[2]d((x * 2) + 1)") + "f0(x) := x if x >= 0\n\ntest_x if f40(1) == 1", 0, ""},
		{"a value that fills the memory", "test_x if count({[i, j] | some i in numbers.range(1, 200000); some j in numbers.range(1, 200000)}) == 0", 0, ""}, // of memory or time
		{"a value that doubles", lines(40, "x%d := [x%[2]d, x%[2]d]") + "x0 := [1]\n\ntest_x if { print(x40) }", 2, "more than 4096 parts"},
		{"a test that prints", `test_x if { some i in numbers.range(1, 100000); print([i, "0123456789abcdef0123456789abcdef0123456789abcdef"]); i < 0 }`, 1, "print: it would take more than 4 MiB"},
	} {
		t.Run(hostile.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for name, text := range map[string]string{
				"rules.rego":      hostilePackage("hostile", `deny contains "x" if input.request.name == ""`),
				"rules_test.rego": "package ipmasq.hostile_test\n\n" + hostile.tests + "\n",
			} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "prlimit", addressSpace, program(t, "kubectl-masq"), "test", dir)
			cmd.Env = []string{memoryLimit, "HOME=" + dir, "PATH=" + os.Getenv("PATH")}
			out, err := cmd.CombinedOutput()
			if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) {
				t.Fatal(err)
			}
			exit := cmd.ProcessState.ExitCode()
			if exit != hostile.exit && (hostile.exit != 0 || exit != 1 && exit != 2) || !strings.Contains(string(out), hostile.says) {
				t.Errorf("exit %d, want %d with %q: %.2000s", exit, hostile.exit, hostile.says, out)
			}
			usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
			if !ok || usage.Maxrss > containerMemory {
				t.Errorf("it had %d KiB, more than %d", usage.Maxrss, containerMemory)
			}
			t.Logf("%s, %d KiB", cmd.ProcessState.UserTime(), usage.Maxrss)
		})
	}
}

// clearPeak forgets how much memory the webhook has had (proc_pid_clear_refs(5)).
func (i *installation) clearPeak(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", i.webhook.cmd.Process.Pid), []byte("5"), 0o200); err != nil {
		t.Fatal(err)
	}
}

// wellAfter tells whether the webhook is as well as before something that took so long.
func (i *installation) wellAfter(t *testing.T, took time.Duration) {
	t.Helper()
	if err := i.webhook.alive(); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", i.webhook.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if match == nil {
		t.Fatalf("no VmHWM in %s", status)
	}
	peak, err := strconv.Atoi(string(match[1]))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("answered after %s, with at most %d KiB", took, peak)
	if peak > containerMemory {
		t.Errorf("the webhook had %d KiB, more than %d", peak, containerMemory)
	}
	if took > 10*time.Second {
		t.Errorf("answered after %s, when an API server has given up", took)
	}
}
