package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

func TestPlan(t *testing.T) {
	for _, name := range backendNames() {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, name)
			dir := t.TempDir()
			file := filepath.Join(dir, "ip-masq-agent")
			write := func(text string) { must(t, os.WriteFile(file, []byte(text), 0o600)) }
			write("nonMasqueradeCIDRs: [10.1.0.0/16, 10.2.0.0/16]\n")
			args := func(more ...string) []string {
				return append(more, "--config-path="+file, "--iptables-backend="+name)
			}
			planned := func(wantStatus int, more ...string) string {
				t.Helper()
				before := natTables(t, b.host)
				stdout, stderr, status := inNode(t, b.host, args(append([]string{"plan"}, more...)...)...)
				if status != wantStatus {
					t.Errorf("status %d, want %d: %q, %q", status, wantStatus, stdout, stderr)
				}
				if diff := cmp.Diff(before, natTables(t, b.host)); diff != "" {
					t.Errorf("planning wrote (-before +after):\n%s", diff)
				}
				return stdout
			}
			applied := func(more ...string) {
				t.Helper()
				if _, stderr, status := inNode(t, b.host, args(append([]string{"--once"}, more...)...)...); status != 0 {
					t.Fatalf("applying: status %d, %s", status, stderr)
				}
			}
			expect := func(want, got string) {
				t.Helper()
				want = strings.NewReplacer("BACKEND", name, "FILE", file).Replace(want)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("the plan differs (-want +got):\n%s", diff)
				}
			}

			expect(`--- IPv4, BACKEND: in the kernel
+++ IPv4, BACKEND: after FILE
@@ -0,0 +1,6 @@
+-A POSTROUTING -m comment --comment "ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom IP-MASQ-AGENT chain" -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT
+:IP-MASQ-AGENT - [0:0]
+-A IP-MASQ-AGENT -d 169.254.0.0/16 -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN
+-A IP-MASQ-AGENT -d 10.1.0.0/16 -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN
+-A IP-MASQ-AGENT -d 10.2.0.0/16 -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN
+-A IP-MASQ-AGENT -m comment --comment "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE --random-fully
`, planned(3))
			applied()
			expect("", planned(0))

			write("nonMasqueradeCIDRs: [10.1.0.0/16, 10.3.0.0/16]\n")
			edited := planned(3)
			for _, line := range []string{
				"\n@@ -2,5 +2,5 @@\n", "\n :IP-MASQ-AGENT - [0:0]\n",
				"\n--A IP-MASQ-AGENT -d 10.2.0.0/16 -m comment ", "\n+-A IP-MASQ-AGENT -d 10.3.0.0/16 -m comment ",
			} {
				if !strings.Contains(edited, line) {
					t.Errorf("the plan of an edit does not hold %q:\n%s", line, edited)
				}
			}
			var result struct {
				Source  string
				Changes []struct{ Family, Backend, Diff string }
			}
			must(t, json.Unmarshal([]byte(planned(3, "-o", "json")), &result))
			if len(result.Changes) != 1 || result.Source != "file" || result.Changes[0].Family != "IPv4" ||
				result.Changes[0].Backend != name || result.Changes[0].Diff != edited {
				t.Errorf("as JSON: %+v", result)
			}
			applied()
			expect("{\n  \"source\": \"file\",\n  \"changes\": []\n}\n", planned(0, "-o=json"))

			// Sets, and another chain whose former one goes.
			longer := []string{"--masq-chain=LONG", "--set-threshold=1"}
			long := planned(3, longer...)
			for _, line := range []string{"\n+:LONG - [0:0]\n", "\n-:IP-MASQ-AGENT - [0:0]\n", "\n+add masq-guard-4:LONG 10.3.0.0/16\n"} {
				if !strings.Contains(long, line) {
					t.Errorf("the plan of a set does not hold %q:\n%s", line, long)
				}
			}
			applied(longer...)
			expect("", planned(0, longer...))
			write("nonMasqueradeCIDRs: [10.1.0.0/16, 10.4.0.0/16]\n")
			for _, line := range []string{"\n-add masq-guard-4:LONG 10.3.0.0/16\n", "\n+add masq-guard-4:LONG 10.4.0.0/16\n"} {
				if got := planned(3, longer...); !strings.Contains(got, line) {
					t.Errorf("the plan of another set does not hold %q:\n%s", line, got)
				}
			}
			applied(longer...)

			// A refused file.
			write("nonMasqueradeCIDRs: [10.1.0.0/8]\n")
			planned(1, longer...)
			state := t.TempDir()
			must(t, (&store{dir: state}).save([]byte("nonMasqueradeCIDRs: [10.1.0.0/16, 10.4.0.0/16]\n")))
			expect("", planned(0, append(longer, "--state-dir="+state)...))
		})
	}
}

// TestPlanOfAChangeOfBackend: what goes from the other backends is told.
func TestPlanOfAChangeOfBackend(t *testing.T) {
	host := netns.ForTest(t)
	file := filepath.Join(t.TempDir(), "none")
	if _, stderr, status := inNode(t, host, "--once", "--config-path="+file, "--iptables-backend=legacy"); status != 0 {
		t.Fatal(stderr)
	}
	stdout, stderr, status := inNode(t, host, "plan", "--config-path="+file, "--iptables-backend=nft")
	if status != 3 {
		t.Errorf("status %d, %s", status, stderr)
	}
	for _, part := range []string{
		"--- IPv4, nft: in the kernel\n", "\n+:IP-MASQ-AGENT - [0:0]\n",
		"\n--- IPv4, legacy: in the kernel\n", "\n-:IP-MASQ-AGENT - [0:0]\n",
	} {
		if !strings.Contains(stdout, part) {
			t.Errorf("the plan does not hold %q:\n%s", part, stdout)
		}
	}
}

// TestPlanMakesNoTable: to read a legacy table makes it, so it is not read where it is not.
func TestPlanMakesNoTable(t *testing.T) {
	for _, name := range backendNames() {
		t.Run(name, func(t *testing.T) {
			host := netns.ForTest(t)
			stdout, stderr, status := inNode(t, host, "plan", "--enable-ipv6", "--config-path="+filepath.Join(t.TempDir(), "none"), "--iptables-backend="+name)
			if status != 3 || !strings.Contains(stdout, "--- IPv6, "+name+": in the kernel\n") {
				t.Errorf("status %d, %q, %q", status, stdout, stderr)
			}
			for _, command := range []string{"nft list ruleset", "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null || :"} {
				if made := host.Output(t, "sh", "-c", command); made != "" {
					t.Errorf("%s: %s", command, made)
				}
			}
		})
	}
}
