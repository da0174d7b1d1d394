package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	others "github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

func TestSummary(t *testing.T) {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	before := func(d time.Duration) *time.Time {
		then := noon.Add(-d)
		return &then
	}
	digest, other := strings.Repeat("0a", 32), strings.Repeat("1b", 32)
	for _, test := range []struct {
		name string
		r    report
		want string
	}{
		{
			name: "before the first pass",
			r: report{
				State: notInForce, Time: noon, File: reportFile{Path: "/etc/config/ip-masq-agent", State: "unread"},
				Backend: reportBackend{"legacy", "--iptables-backend"}, Versions: reportVersions{Agent: "v1.2.3"},
				Checks: []reportCheck{{"rules", false, "not applied yet"}, {"file", true, ""}},
			},
			want: `state          not in force
               rules: not applied yet
configuration  none yet
applied        nothing yet
file           /etc/config/ip-masq-agent: unread
backend        legacy: --iptables-backend
passes         none yet
versions       agent v1.2.3, unknown, kernel unknown
`,
		},
		{
			name: "all is well",
			r: report{
				State: allInForce, Time: noon, Node: "node-1",
				Config:   reportConfig{Digest: digest, Source: "file", Override: "nodeOverrides[1]", Since: before(time.Hour)},
				Applied:  &reportApplied{digest, *before(time.Hour)},
				Expected: &reportExpected{digest, before(2 * time.Hour)},
				File:     reportFile{Path: "/etc/config/ip-masq-agent", State: "loaded", Since: before(time.Hour), Problems: []reportProblem{}},
				Backend:  reportBackend{"nft", "nft holds 3 rules in mangle and nat, legacy 0"},
				Families: []reportFamily{{Family: "ipv4", Verified: true, VerifiedAt: before(17 * time.Second), Rules: 5, SetEntries: 100}},
				Passes:   reportPasses{before(17 * time.Second), noon.Add(43 * time.Second), 60},
				Versions: reportVersions{"v1.2.3", "go1.26.0", "iptables v1.8.9 (nf_tables)", "6.1.0"},
				Checks:   []reportCheck{{"rules", true, ""}, {"file", true, ""}, {"digest", true, ""}},
			},
			want: `node           node-1
state          in force
configuration  of the file with nodeOverrides[1], sha256 ` + digest + `, since 2026-01-02T11:00:00Z (1h0m0s ago)
applied        sha256 ` + digest + `, since 2026-01-02T11:00:00Z (1h0m0s ago)
expected       sha256 ` + digest + `, since 2026-01-02T10:00:00Z (2h0m0s ago)
file           /etc/config/ip-masq-agent: loaded, since 2026-01-02T11:00:00Z (1h0m0s ago)
ipv4           5 rules, a set of 100 entries, verified 17s ago
backend        nft: nft holds 3 rules in mangle and nat, legacy 0
passes         last 17s ago, every 1m0s
versions       agent v1.2.3, iptables v1.8.9 (nf_tables), kernel 6.1.0
`,
		},
		{
			name: "nothing is well",
			r: report{
				State: notInForce, Time: noon,
				Config:   reportConfig{Source: "defaults", Since: before(time.Minute)},
				Applied:  &reportApplied{"", *before(time.Minute)},
				Expected: &reportExpected{other, before(time.Second)},
				File: reportFile{Path: "/f", State: "refused", Since: before(time.Minute), Fatal: 1, Suspicious: 20, Problems: []reportProblem{
					{"fatal", "host-bits", "", "nonMasqueradeCIDRs[0]", 1, 22, `"10.0.0.1/8" has host bits set`, "write 10.0.0.0/8"},
					{"suspicious", "unknown-key", "", "x", 2, 1, "odd", ""},
				}},
				Backend: reportBackend{"nft", "--iptables-backend"},
				Families: []reportFamily{
					{
						Family: "ipv4", Verified: true, VerifiedAt: before(time.Second), Rules: 5,
						Drift: map[ruleset.Drift]int{"jump-missing": 2, "chain-changed": 1, "chain-missing": 0},
					},
					{Family: "ipv6", VerifiedAt: before(time.Minute), Rules: 2, Error: "applying IPv6 rules: no such table"},
				},
				Others: reportOthers{SurveyedAt: before(time.Minute), Left: 1, Findings: []others.Finding{
					{Owner: "docker", Family: "ipv4", Backend: "nft", Table: "nat", Chain: "POSTROUTING", Verdict: others.Undoes, Why: "it comes after ours"},
					{Owner: "kube-proxy", Family: "ipv4", Backend: "nft", Table: "nat", Chain: "KUBE-POSTROUTING", Verdict: others.Harmless, Why: "marked"},
				}},
				Passes:   reportPasses{before(time.Second), noon, 60},
				Versions: reportVersions{"v1.2.3", "go1.26.0", "iptables v1.8.9 (nf_tables)", "6.1.0"},
				Checks: []reportCheck{
					{"rules", false, "applying IPv6 rules: no such table"}, {"file", false, "refused: line 1"}, {"digest", false, "expected another"},
				},
			},
			want: `state          not in force
               rules: applying IPv6 rules: no such table
               file: refused: line 1
               digest: expected another
configuration  defaults, no file's, since 2026-01-02T11:59:00Z (1m0s ago)
applied        no file's, since 2026-01-02T11:59:00Z (1m0s ago)
expected       sha256 ` + other + `, since 2026-01-02T11:59:59Z (1s ago)
file           /f: refused, since 2026-01-02T11:59:00Z (1m0s ago)
               fatal: line 1, nonMasqueradeCIDRs[0]: "10.0.0.1/8" has host bits set; write 10.0.0.0/8
               suspicious: line 2, x: odd
               and 19 more problems
ipv4           5 rules, verified 1s ago; healed: chain-changed 1, jump-missing 2
ipv6           2 rules, not verified, last 1m0s ago
               applying IPv6 rules: no such table
masqueraders   3 beside ours, looked for 1m0s ago
               undoes: docker, ipv4, POSTROUTING of nat (nft): it comes after ours
backend        nft: --iptables-backend
passes         last 1s ago, every 1m0s
versions       agent v1.2.3, iptables v1.8.9 (nf_tables), kernel 6.1.0
`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, test.r.summary()); diff != "" {
				t.Errorf("the summary differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStatusCommand(t *testing.T) {
	w := newWorld(t, options{})
	w.holds(t, goodText)
	w.syncer.pass(t.Context())
	agent := httptest.NewServer(newHandler(w.syncer))
	defer agent.Close()
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	later := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"version": 2, "state": "in-force"}`))
	}))
	defer later.Close()
	at := func(server *httptest.Server) string { return "--address=" + strings.TrimPrefix(server.URL, "http://") }

	_, body := get(t, w, "/status")
	same := func(out string) bool { // all but the time of the answer
		cut := func(s string) string { _, rest, _ := strings.Cut(s, `"node"`); return rest }
		return cut(out) == cut(body) && strings.HasPrefix(out, "{\n  \"version\": 1,\n")
	}
	for _, test := range []struct {
		name   string
		before func()
		args   []string
		code   int
		stdout func(string) bool
		stderr string
	}{
		{name: "in force", args: []string{at(agent)}, stdout: func(s string) bool {
			return strings.HasPrefix(s, "state          in force\nconfiguration  of the file, sha256 ad2f7ae2")
		}},
		{name: "as JSON", args: []string{at(agent), "-o", "json"}, stdout: same},
		{name: "the schema", args: []string{"--schema"}, stdout: func(s string) bool { return s == reportSchema }},
		{name: "help", args: []string{"--help"}, stdout: func(s string) bool { return strings.Contains(s, "3 not in force or degraded") }},
		{name: "unknown form", args: []string{"-o", "yaml"}, code: 2, stderr: `status: --output="yaml": unknown form; write text or json`},
		{name: "no address", args: []string{"--address=9178"}, code: 2, stderr: `status: --address="9178": not host:port: `},
		{name: "nowhere", args: []string{"--address=0"}, code: 2, stderr: `status: --address="0": an agent that serves nowhere cannot be asked`},
		{name: "a flag of the agent's", args: []string{"--once"}, code: 2, stderr: "status: unknown flag: --once; agent status --help lists the flags"},
		{name: "nobody there", args: []string{"--address=127.0.0.1:1"}, code: 1, stderr: "asking the agent: dial tcp 127.0.0.1:1: "},
		{name: "somebody else", args: []string{at(other)}, code: 1, stderr: "asking the agent at 127.0.0.1:"},
		{name: "a later agent", args: []string{at(later)}, code: 1, stderr: "reading the answer of 127.0.0.1:"},
		{
			name: "degraded", before: func() { w.holds(t, badText); w.syncer.pass(t.Context()) }, args: []string{at(agent)}, code: 3,
			stdout: func(s string) bool {
				return strings.HasPrefix(s, "state          degraded\n               file: refused: line 1, nonMasqueradeCIDRs[0]: ")
			},
			stderr: "degraded",
		},
		{
			name: "not in force", before: func() { w.kernel.refuses(ruleset.IPv4, "locked"); w.syncer.pass(t.Context()) },
			args: []string{at(agent), "-o=json"}, code: 3,
			stdout: func(s string) bool { return strings.Contains(s, `"state": "not-in-force"`) }, stderr: "not-in-force",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.before != nil {
				test.before()
			}
			stdout, _, err := call(t, append([]string{"status"}, test.args...)...)
			code, message := 0, ""
			if err != nil {
				code, message = exitCode(err), err.Error()
			}
			if code != test.code || !strings.HasPrefix(message, test.stderr) || (test.stderr == "") != (message == "") {
				t.Errorf("exit code %d, error %q; want %d, %q", code, message, test.code, test.stderr)
			}
			if test.stdout == nil {
				test.stdout = func(s string) bool { return s == "" }
			}
			if !test.stdout(stdout) {
				t.Errorf("standard output:\n%s", stdout)
			}
		})
	}
}

func TestAskable(t *testing.T) {
	for _, test := range []struct{ address, want string }{
		{":9178", "127.0.0.1:9178"},
		{"0.0.0.0:9178", "127.0.0.1:9178"},
		{"[::]:9178", "[::1]:9178"},
		{"192.0.2.1:80", "192.0.2.1:80"},
		{"localhost:80", "localhost:80"},
	} {
		if got, err := askable(test.address); got != test.want || err != nil {
			t.Errorf("%s: %s, %v; want %s", test.address, got, err, test.want)
		}
	}
}
