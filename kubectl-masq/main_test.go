package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

var update = flag.Bool("update", false, "rewrite the golden files") //nolint:gochecknoglobals // a flag of the test binary

const known = "--node-cidrs 192.168.0.0/24 --pod-cidrs 10.244.0.0/16 --service-cidrs 10.96.0.0/12"

const overridden = `nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]
nodeOverrides:
- matchLabels:
    pool: edge
  masqueradeCIDRs:
  - 10.244.0.0/17
`

// TestCheck compares what is printed with testdata/NAME.golden.
func TestCheck(t *testing.T) {
	revision := regexp.MustCompile(`"revision": "[0-9a-f]{64}"`)
	tests := []struct {
		name   string
		args   string
		stdin  string
		colour bool
		exit   int
	}{
		{name: "approved", args: "-f testdata/approved.yaml " + known, exit: 0},
		{name: "approved-with-warnings", args: "-f testdata/approved.yaml", exit: 0},
		{name: "refused", args: "-f testdata/refused.yaml " + known, exit: 1},
		{name: "refused-json", args: "-f testdata/refused.yaml -o json " + known, exit: 1},
		{name: "quoted", args: "-f testdata/quoted.yaml " + known, exit: 1},
		{name: "quoted-json", args: "-f testdata/quoted.yaml -o json " + known, exit: 1},
		{name: "list", args: "-f testdata/list.json " + known, exit: 1},
		{name: "other-name", args: "-f testdata/other.yaml -n infra --name masq " + known, exit: 1},
		{name: "misnamed-key", args: "-f testdata/misnamed.yaml " + known, exit: 1},
		{name: "binary", args: "-f testdata/binary.yaml " + known, exit: 1},
		{name: "params", args: "-f testdata/approved.yaml --params testdata/params.yaml", exit: 1},
		{name: "custom-rules", args: "-f testdata/approved.yaml --policy-dir testdata/rules " + known, exit: 1},
		{name: "raw", args: "--raw -f - " + known, stdin: "nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n  - 10.9.0.0/16\n", exit: 1},
		{name: "exceptions", args: "--raw -f - " + known, stdin: "nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n  - 192.168.0.0/16\nmasqueradeCIDRs:\n  - 10.200.0.0/16\n", exit: 0},
		{name: "exceptions-refused", args: "--raw -f - " + known, stdin: "nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n  - 192.168.0.0/16\nmasqueradeCIDRs:\n  - 10.128.0.0/9\n  - 192.168.0.0/16\n", exit: 1},
		{name: "exceptions-taken", args: "--raw -f - " + known, stdin: "nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n  - 192.168.0.0/16\nmasqueradeCIDRs:\n  - 10.128.0.0/9\n", exit: 1},
		{name: "overrides", args: "--raw -f - " + known, stdin: overridden, exit: 1},
		{name: "overrides-json", args: "--raw -f - -o json --node-cidrs= --pod-cidrs= --service-cidrs=", stdin: overridden, exit: 0},
		{name: "raw-crlf", args: "--raw -f - " + known, stdin: "nonMasqueradeCIDRs:\r\n  - 10.0.0.0/8\r\n  - 192.168.0.1/16\r\n", exit: 1},
		{name: "raw-json", args: "--raw -f - -o json " + known, stdin: "{\"nonMasqueradeCIDRs\": [\"10.0.0.0/8\", \"192.168.0.0/16\"]}", exit: 0},
		{name: "raw-empty", args: "--raw -f - " + known, stdin: "", exit: 1},
		{name: "manifest-as-raw", args: "--raw -f testdata/approved.yaml " + known, exit: 1},
		{name: "no-ranges-of-a-kind", args: "-f testdata/approved.yaml --node-cidrs= --pod-cidrs 10.0.0.0/16,10.1.0.0/16 --service-cidrs=", exit: 0},
		{name: "long-line", args: "--raw -f - " + known, stdin: "nonMasqueradeCIDRs: [" + strings.Repeat("10.0.0.0/8, ", 40) + "10.0.0.1/8" + strings.Repeat(", 10.0.0.0/8", 20) + "]\n", exit: 1},
		{name: "colours", args: "--raw -f -", stdin: "nonMasqueradeCIDRs: [10.0.0.1/8]\n", colour: true, exit: 1},
		{name: "stream", args: "- " + known, stdin: helmOutput(t), exit: 0},
		{name: "ipv6", args: "--raw -f - --node-cidrs= --pod-cidrs= --service-cidrs=", stdin: "nonMasqueradeCIDRs: [\"fd00::/8\"]\n", exit: 1},
		{name: "ipv6-enabled", args: "--raw -f - --enable-ipv6 --node-cidrs= --pod-cidrs= --service-cidrs=", stdin: "nonMasqueradeCIDRs: [\"fd00::/8\"]\n"},
		{name: "files", args: "-f testdata/files.yaml --config-dir " + known, exit: 1},
		{name: "byte-order-mark", args: "-f - " + known, stdin: "\ufeffkind: ConfigMap\r\nmetadata:\r\n  name: ip-masq-agent\r\ndata:\r\n  config: |\r\n    nonMasqueradeCIDRs:\r\n    - 10.0.0.1/8\r\n", exit: 1},
		{name: "several", args: "-f testdata/approved.yaml testdata/clusters " + known, exit: 1},
		{name: "several-json", args: "testdata/clusters -o json " + known, exit: 1},
		{name: "several-sarif", args: "testdata/clusters -o sarif " + known, exit: 1},
		{name: "several-github", args: "testdata/clusters -o github " + known, exit: 1},
		{name: "several-junit", args: "testdata/approved.yaml testdata/clusters -o junit --params testdata/ranges.yaml", exit: 1},
		{name: "one-sarif", args: "testdata/approved.yaml -o sarif " + known, exit: 0},
		{name: "hostile-github", args: "--raw - -o github " + known, stdin: "nonMasqueradeCIDRs:\n  - \"10.0.0.0/8\\n::error::%0A\"\n", exit: 1},
		{name: "hostile-text", args: "--raw -f - " + known, stdin: "nonMasqueradeCIDRs:\n  - \"10.0.0.0/8\\e[31m\"\n  - 10.0.0.0/8\u202e\n", exit: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			args := append([]string{"check"}, strings.Fields(tt.args)...)
			exit := run(t.Context(), args, streams{in: strings.NewReader(tt.stdin), out: &stdout, err: &stderr, colour: tt.colour})
			if exit != tt.exit || stderr.Len() > 0 {
				t.Errorf("exit %d, want %d; standard error: %s", exit, tt.exit, &stderr)
			}
			got := revision.ReplaceAll(stdout.Bytes(), []byte(`"revision": "HEX"`))
			if !tt.colour && bytes.ContainsAny(got, "\x1b\u202e") {
				t.Errorf("the report can steer a terminal:\n%q", got)
			}
			checkGolden(t, tt.name, string(got))
		})
	}
}

// checkGolden compares what a command prints with testdata/NAME.golden.
func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	golden := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("transcript differs (-want +got):\n%s", diff)
	}
}

func helmOutput(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("testdata/helm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestTranscripts compares what the commands about traffic print with
// testdata/NAME.golden.
func TestTranscripts(t *testing.T) {
	tests := []struct {
		name  string
		args  string
		stdin string
		exit  int
	}{
		{name: "explain-spared", args: "explain 192.168.3.4 -f testdata/traffic-old.yaml " + known},
		{name: "explain-service", args: "explain 10.100.0.1 -f testdata/traffic-old.yaml " + known},
		{name: "explain-masqueraded", args: "explain 8.8.8.8 --raw -f -", stdin: "nonMasqueradeCIDRs: [10.0.0.0/8]\n"},
		{name: "explain-default-list", args: "explain 172.16.3.4 --raw -f -", stdin: "resyncInterval: 30s\n"},
		{name: "explain-reserved", args: "explain 100.64.3.4 --nomasq-all-reserved-ranges --raw -f -", stdin: "resyncInterval: 30s\n"},
		{name: "explain-link-local", args: "explain 169.254.169.254 --raw -f -", stdin: "nonMasqueradeCIDRs: [10.0.0.0/8]\n"},
		{name: "explain-source", args: "explain 8.8.8.8 --source-cidrs 10.1.0.0/16 --raw -f -", stdin: "nonMasqueradeCIDRs: [10.0.0.0/8]\n"},
		{name: "explain-from", args: "explain 8.8.8.8 --source-cidrs 10.1.0.0/16 --from 10.2.0.1 --raw -f -", stdin: "nonMasqueradeCIDRs: [10.0.0.0/8]\n"},
		{name: "explain-interface", args: "explain 8.8.8.8 --out-interfaces eth0,eth1 --raw -f -", stdin: "nonMasqueradeCIDRs: [10.0.0.0/8]\n"},
		{name: "explain-out-interface", args: "explain 8.8.8.8 --out-interfaces eth0,eth1 --out-interface wg0 --raw -f -", stdin: "nonMasqueradeCIDRs: [10.0.0.0/8]\n"},
		{name: "explain-ipv6-off", args: "explain 2001:db8::1 --raw -f -", stdin: "nonMasqueradeCIDRs: [10.0.0.0/8]\n"},
		{name: "explain-ipv6", args: "explain 2001:db8::1 --enable-ipv6 --raw -f -", stdin: "nonMasqueradeCIDRs: [10.0.0.0/8, 2001:db8::/32]\n"},
		{name: "explain-other-family", args: "explain 2001:db8::1 --enable-ipv6 --source-cidrs 10.1.0.0/16 --raw -f -", stdin: "nonMasqueradeCIDRs: [10.0.0.0/8]\n"},
		{name: "explain-json", args: "explain 192.168.3.4 -o json -f testdata/traffic-old.yaml " + known},
		{name: "explain-overrides", args: "explain 10.244.3.4 --raw -f testdata/overrides.yaml"},
		{name: "explain-overrides-same", args: "explain 8.8.8.8 --raw -f testdata/overrides.yaml"},
		{name: "explain-overrides-json", args: "explain 10.244.3.4 --raw -f testdata/overrides.yaml -o json"},
		{name: "explain-node-labels", args: "explain 10.244.3.4 --raw -f testdata/overrides.yaml --node-labels pool=edge,zone=a"},
		{name: "explain-node-without-labels", args: "explain 10.244.3.4 --raw -f testdata/overrides.yaml --node-labels="},
		{name: "explain-unread", args: "explain 172.16.1.1 -f testdata/beside.yaml"},
		{name: "explain-files", args: "explain 10.10.3.4 -f testdata/files.yaml --config-dir"},
		{name: "explain-files-json", args: "explain 10.10.3.4 -f testdata/files.yaml --config-dir --node-labels pool=edge -o json"},
		{name: "diff-overrides", args: "diff --raw testdata/overrides.yaml -", exit: 1, stdin: "nonMasqueradeCIDRs: [10.0.0.0/8]\nnodeOverrides:\n- matchLabels: {pool: edge}\n  nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n"},
		{name: "diff-overrides-json", args: "diff --raw testdata/overrides.yaml - -o json", exit: 1, stdin: "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n"},
		{name: "diff-node-labels", args: "diff --raw testdata/overrides.yaml - --node-labels zone=a", stdin: "nonMasqueradeCIDRs: [10.0.0.0/8]\n"},
		{name: "diff", args: "diff testdata/traffic-old.yaml testdata/traffic-new.yaml " + known, exit: 1},
		{name: "diff-json", args: "diff -o json testdata/traffic-old.yaml testdata/traffic-new.yaml " + known, exit: 1},
		{name: "diff-same", args: "diff --raw testdata/traffic-raw.yaml -", stdin: "nonMasqueradeCIDRs: [192.168.0.0/16, 10.0.0.0/9, 172.16.0.0/12, 10.128.0.0/9]\n"},
		{name: "diff-single-address", args: "diff --raw testdata/traffic-raw.yaml -", stdin: "nonMasqueradeCIDRs: [192.168.0.0/16, 10.0.0.0/8, 172.16.0.0/12, 8.8.8.8/32]\n", exit: 1},
		{name: "portability", args: "portability -f testdata/moving.yaml", exit: 1},
		{name: "portability-json", args: "portability -f testdata/moving.yaml --agents gke,cilium -o json", exit: 1},
		{name: "portability-refused", args: "portability -f testdata/refused.yaml", exit: 1},
		{name: "portability-same", args: "portability -f testdata/approved.yaml"},
		{name: "portability-ours", args: "portability --raw -f - --enable-ipv6", stdin: "nonMasqueradeCIDRs: [10.0.0.0/8, fd00::/8]\nmasqueradeCIDRs: [10.9.0.0/16, fd00:9::/32]\nresyncInterval: 30s\n", exit: 1},
		{name: "portability-files", args: "portability -f testdata/files.yaml", exit: 1},
		{name: "portability-files-json", args: "portability -f testdata/files.yaml --agents azure,upstream -o json", exit: 1},
		{name: "portability-config-beside", args: "portability -f testdata/beside.yaml", exit: 1},
		{name: "map", args: "map --within 8.0.0.0/6 -f testdata/traffic-old.yaml " + known},
		{name: "map-node-labels", args: "map --within 8.0.0.0/6 --raw -f testdata/overrides.yaml --node-labels pool=edge"},
		{name: "map-beside", args: "map --within 8.0.0.0/6 --old testdata/traffic-old.yaml -f testdata/traffic-new.yaml " + known},
		{name: "map-svg", args: "map --old testdata/traffic-old.yaml -f testdata/traffic-new.yaml -o svg " + known},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			exit := run(t.Context(), strings.Fields(tt.args), streams{in: strings.NewReader(tt.stdin), out: &stdout, err: &stderr})
			if exit != tt.exit || stderr.Len() > 0 {
				t.Errorf("exit %d, want %d; standard error: %s", exit, tt.exit, &stderr)
			}
			checkGolden(t, tt.name, stdout.String())
		})
	}
}

// TestExplainAgreesWithTheDecision asks for random addresses under random lists and
// flags: explain, which looks for the line, says what the agents' own arithmetic does.
func TestExplainAgreesWithTheDecision(t *testing.T) {
	address := rapid.Custom(func(t *rapid.T) netip.Addr {
		if rapid.Bool().Draw(t, "IPv6") {
			return netip.AddrFrom16([16]byte{0x20, 1, 15: rapid.Byte().Draw(t, "octet")})
		}
		first := rapid.SampledFrom([]byte{10, 169, 224}).Draw(t, "first")
		return netip.AddrFrom4([4]byte{first, 254, 0, rapid.Byte().Draw(t, "octet")})
	})
	list := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) netip.Prefix {
		addr := address.Draw(t, "address")
		return netip.PrefixFrom(addr, addr.BitLen()-rapid.IntRange(0, 9).Draw(t, "free")).Masked()
	}), 0, 6)
	rapid.Check(t, func(t *rapid.T) {
		treated := &treatment{
			document: rawDocument("FILE", nil, "", ""),
			config: config.Config{
				NonMasquerade:       list.Draw(t, "list"),
				Masquerade:          list.Draw(t, "exceptions"),
				MasqueradeLinkLocal: rapid.Bool().Draw(t, "masqLinkLocal"),
			},
			rules: ruleset.Options{
				Sources:        list.Draw(t, "sources"),
				Interfaces:     rapid.SliceOfN(rapid.SampledFrom([]string{"eth0", "eth1"}), 0, 2).Draw(t, "interfaces"),
				SpareMulticast: rapid.Bool().Draw(t, "multicast"),
			},
		}
		for _, family := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
			treated.families = append(treated.families, ruleset.Decide(treated.config, family, treated.rules))
		}
		to, from, out := address.Draw(t, "to"), address.Draw(t, "from"), rapid.SampledFrom([]string{"eth0", "eth1", "eth2"}).Draw(t, "out")
		if to.Is4() != from.Is4() {
			t.Skip("two families")
		}
		decision, _ := treated.family(to)
		want := map[bool]verdict{true: masqueraded, false: notMasqueraded}[decision.Masquerades(from, to, out)]
		if got := treated.explain(to, from, out); got.Verdict != want {
			t.Fatalf("explained as %+v, want %s", got, want)
		}
		unknown := treated.explain(to, netip.Addr{}, "")
		if unknown.Verdict != depends && unknown.Verdict != want {
			t.Fatalf("without source and interface explained as %+v, and one gives %s", unknown, want)
		}
	})
}

// TestUnusable has no verdict to report.
func TestUnusable(t *testing.T) {
	tests := []struct{ name, args, stdin, want string }{
		{name: "no subcommand", args: "", want: "a subcommand is missing"},
		{name: "unknown subcommand", args: "chekc", want: `unknown command "chekc" for "kubectl masq"`},
		{name: "unknown help", args: "help chekc", want: `unknown command "chekc" for "kubectl masq"; did you mean check?`},
		{name: "unknown help below", args: "help new rul", want: `unknown command "rul" for "kubectl masq new"; did you mean rule?`},
		{name: "no shell", args: "completion", want: "the shell is missing: bash, fish, powershell or zsh"},
		{name: "unknown shell", args: "completion tcsh", want: `unknown command "tcsh" for "kubectl masq completion"`},
		{name: "argument of status", args: "status --live x", want: `no argument is wanted; "x" is too much`},
		{name: "two schemas", args: "schema input config", want: `one schema is printed at a time; "config" is too much`},
		{name: "interfaces", args: "explain 1.2.3.4 --raw -f testdata/overrides.yaml --out-interfaces eth/0", want: `--out-interfaces: reading interface 1 of "eth/0": "eth/0" holds '/'`},
		{name: "labels that exclude each other", args: "explain 1.2.3.4 --raw -f testdata/overrides.yaml --node-labels a=b,a=c", want: `--node-labels: a node has the label a once, not "b" and "c"`},
		{name: "no rules", args: "check -f testdata/approved.yaml --policy-dir testdata/sarif", want: "--policy-dir: there are no rules in testdata/sarif"},
		{name: "unknown flag", args: "check --files x", want: "unknown flag: --files"},
		{name: "argument", args: "check x.yaml", want: "reading the manifest: open x.yaml: no such file or directory"},
		{name: "standard input twice", args: "check - -f -", want: "standard input is named twice"},
		{name: "no manifests", args: "check testdata/rules", want: "testdata/rules has no *.yaml, *.yml or *.json file"},
		{name: "every unreadable file", args: "check a.yaml testdata/number.yaml", want: "reading the manifest: open a.yaml: no such file or directory\nreading testdata/number.yaml: line 8"},
		{
			name: "none of several", args: "check testdata/other.yaml testdata/params.yaml",
			want: "the 2 files have no ConfigMap kube-system/ip-masq-agent, but infra/masq (line 1) of testdata/other.yaml: choose with --namespace and --name",
		},
		{name: "explain nothing", args: "explain -f -", want: "an argument is missing: an address, such as 192.168.3.4"},
		{name: "explain two", args: "explain 1.2.3.4 1.2.3.5 -f -", want: `one argument is wanted, an address, such as 192.168.3.4; "1.2.3.5" is too much`},
		{name: "explain a CIDR", args: "explain 10.0.0.0/8 -f -", want: `"10.0.0.0/8" is not an IP address; write one such as 192.168.3.4 or fd00::1`},
		{name: "explain from another family", args: "explain 10.0.0.1 --from fd00::1 -f -", want: `--from "fd00::1" is not an address of the family of 10.0.0.1`},
		{
			name: "explain IPv6", args: "explain fd00::1 --raw -f -", stdin: "nonMasqueradeCIDRs: [\"fd00::/8\"]\n",
			want: "the configuration does not load; check tells how to mend it:\n<stdin>:1:22: \"fd00::/8\" is an IPv6 range, but the agent runs without IPv6, so it refuses the whole text\n" +
				"if the agents run with --enable-ipv6, say so with this flag\n",
		},
		{
			name: "explain what does not load", args: "explain 10.0.0.1 --raw -f -", stdin: "nonMasqueradeCIDRs:\n- 10.0.0.1/8\n",
			want: "the configuration does not load; check tells how to mend it:\n<stdin>:2:3: \"10.0.0.1/8\" ",
		},
		{name: "node of a file", args: "explain 10.0.0.1 -f testdata/approved.yaml --node a", want: "--node is for --live; for a file, state the labels of the node with --node-labels"},
		{name: "node and labels", args: "explain 10.0.0.1 --live --node a --node-labels b=c", want: "--node and --node-labels exclude each other"},
		{name: "labels", args: "explain 10.0.0.1 -f testdata/approved.yaml --node-labels a=b,c", want: `--node-labels: "c" is not key="value"`},
		{
			name: "keys of a directory", args: "explain 10.0.0.1 -f testdata/files.yaml",
			want: `testdata/files.yaml: the ConfigMap has no key "config", so agents have their defaults; those that run with --config-dir read others: say so with this flag`,
		},
		{
			name: "no keys of a directory", args: "explain 10.0.0.1 -f - --config-dir", stdin: "kind: ConfigMap\nmetadata: {name: ip-masq-agent}\ndata: {other: x}\n",
			want: "<stdin>: the ConfigMap has no key that begins with ip-masq, so agents with --config-dir have their defaults",
		},
		{
			name: "one of several files", args: "explain 10.0.0.1 --config-dir -f -",
			stdin: "kind: ConfigMap\nmetadata: {name: ip-masq-agent}\ndata:\n  ip-masq-a: |\n    masqLinkLocal: false\n  ip-masq-b: |\n    nonMasqueradeCIDRs:\n    - 10.0.0.1/8\n",
			want:  "the configuration does not load; check tells how to mend it:\n<stdin>:8:7: ip-masq-b: \"10.0.0.1/8\" ",
		},
		{name: "diff one", args: "diff old.yaml", want: "two files are wanted, the old and the new one, and there are 1"},
		{name: "diff standard input", args: "diff - -", want: "both files are standard input; name one of them"},
		{name: "file and live", args: "explain 10.0.0.1 -f - --live", want: "-f and --live exclude each other"},
		{name: "neither file nor live", args: "map", want: "-f is missing: name a manifest, or - for standard input; or read the cluster with --live"},
		{name: "diff live with two", args: "diff --live a b", want: `one argument is wanted, the new file, as --live has the old one; "b" is too much`},
		{name: "no kubeconfig", args: "explain 10.0.0.1 --live --kubeconfig testdata/missing", want: "reading the kubeconfig: stat testdata/missing: no such file or directory"},
		{name: "status of nothing", args: "status", want: "--live is missing: there is a status of clusters alone"},
		{
			name: "portability without keys", args: "portability -f -", stdin: "kind: ConfigMap\nmetadata: {name: ip-masq-agent}\ndata: {other: x}\n",
			want: `<stdin>: the ConfigMap has no key that an agent reads, "config" or one that begins with ip-masq`,
		},
		{name: "portability agents", args: "portability -f - --agents gke,calico", want: `--agents "calico": want upstream, gke, azure or cilium`},
		{name: "map too small", args: "map -f - --within 10.0.0.0/24", want: "--within: drawing 10.0.0.0/24: it is too small for a picture; write 10.0.0.0/22 or a shorter prefix"},
		{name: "map output", args: "map -f - -o png", want: `-o "png": want text or svg`},
		{name: "no file", args: "check", want: "-f is missing: name a manifest, or - for standard input"},
		{name: "output", args: "check -f - -o yaml", want: `-o "yaml": want text, json, sarif, github or junit`},
		{name: "missing file", args: "check -f testdata/missing.yaml", want: "reading the manifest: open testdata/missing.yaml: no such file or directory"},
		{name: "no YAML", args: "check -f -", stdin: "a: [", want: "reading <stdin>: yaml: line 1: did not find expected node content"},
		{name: "nothing", args: "check -f -", stdin: "", want: "<stdin> has no ConfigMap; for the bare configuration, use --raw"},
		{name: "bare configuration", args: "check -f -", stdin: "nonMasqueradeCIDRs: []", want: "<stdin> has no ConfigMap; for the bare configuration, use --raw"},
		{
			name: "other ConfigMap", args: "check -f testdata/other.yaml",
			want: "testdata/other.yaml has no ConfigMap kube-system/ip-masq-agent, but infra/masq (line 1): choose with --namespace and --name",
		},
		{
			name: "two", args: "explain 10.0.0.1 -f testdata/two.yaml",
			want: "testdata/two.yaml has the ConfigMap kube-system/ip-masq-agent more than once, at lines 1 and 6: name a file with one of them",
		},
		{name: "number", args: "check -f testdata/number.yaml", want: `reading testdata/number.yaml: line 8: data["revision"] is not text but 3; put it in quotes`},
		{
			name: "boolean of YAML 1.1", args: "check -f -", stdin: "kind: ConfigMap\nmetadata: {name: ip-masq-agent}\ndata: {config: yes}\n",
			want: `reading <stdin>: line 3: data["config"] is not text but yes; put it in quotes`,
		},
		{
			name: "mapping", args: "check -f -", stdin: "kind: ConfigMap\nmetadata: {name: ip-masq-agent}\ndata:\n  config:\n    resyncInterval: 60s\n",
			want: `reading <stdin>: line 5: data["config"] is not text; write config: |`,
		},
		{
			name: "no base64", args: "check -f -", stdin: "kind: ConfigMap\nmetadata: {name: ip-masq-agent}\nbinaryData: {config: '?'}\n",
			want: `reading <stdin>: line 3: binaryData["config"] is not base64: illegal base64 data at input byte 0`,
		},
		{name: "CIDR", args: "check -f - --pod-cidrs 10.0.0.0", want: `--pod-cidrs: "10.0.0.0" is not a CIDR`},
		{name: "host bits", args: "check -f - --node-cidrs 10.0.0.0/8,192.168.0.1/24", want: `--node-cidrs: "192.168.0.1/24" has host bits set; write 192.168.0.0/24`},
		{name: "missing params", args: "check -f - --params testdata/missing.yaml", want: "reading --params: open testdata/missing.yaml: no such file or directory"},
		{name: "wrong params", args: "check -f - --params testdata/other.yaml", want: "--params testdata/other.yaml: reading params: line 1: apiVersion: unknown"},
		{name: "missing rules", args: "check -f - --policy-dir testdata/missing", want: "reading custom rules: open testdata/missing: no such file or directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			exit := run(t.Context(), strings.Fields(tt.args), streams{in: strings.NewReader(tt.stdin), out: &stdout, err: &stderr})
			if exit != 2 || !strings.HasPrefix(stderr.String(), "kubectl-masq: "+tt.want) {
				t.Errorf("exit %d, standard error %q; want 2, %q", exit, &stderr, "kubectl-masq: "+tt.want)
			}
		})
	}
}

func TestBrokenRulesAreUnusable(t *testing.T) {
	directory := t.TempDir()
	if err := os.WriteFile(filepath.Join(directory, "broken.rego"), []byte("package ipmasq.team\n\ndeny contains \"x\" if {\n\tnothing_of_the_kind\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	exit := run(t.Context(), []string{"check", "-f", "testdata/approved.yaml", "--policy-dir", directory}, streams{out: &bytes.Buffer{}, err: &stderr})
	if exit != 2 || !strings.Contains(stderr.String(), filepath.Join(directory, "broken.rego")+":4") {
		t.Errorf("exit %d, standard error %q; want 2, naming file and line", exit, &stderr)
	}
}

// TestReportNotWritten: a verdict that nobody can read is none.
func TestReportNotWritten(t *testing.T) {
	var stderr bytes.Buffer
	exit := run(t.Context(), []string{"check", "-f", "testdata/approved.yaml"}, streams{out: failingWriter{}, err: &stderr})
	if exit != 2 || stderr.String() != "kubectl-masq: writing the report: disk full\n" {
		t.Errorf("exit %d, standard error %q; want 2", exit, &stderr)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestVersion(t *testing.T) {
	for _, arg := range []string{"version", "--version"} {
		var stdout bytes.Buffer
		if exit := run(t.Context(), []string{arg}, streams{out: &stdout, err: &stdout}); exit != 0 || stdout.String() != "dev\n" {
			t.Errorf("%s: exit %d, %q; want 0, dev", arg, exit, &stdout)
		}
	}
}

func TestHelpHasExamples(t *testing.T) {
	var stdout bytes.Buffer
	exit := run(t.Context(), []string{"check", "--help"}, streams{out: &stdout, err: &stdout})
	if exit != 0 || !strings.Contains(stdout.String(), "kubectl masq check -f ip-masq-agent.yaml --node-cidrs") || !strings.Contains(stdout.String(), "Exit codes:") {
		t.Errorf("exit %d, help:\n%s", exit, &stdout)
	}
}

// TestSameWordsAsWebhook checks offline what the webhook denied in its own tests,
// and compares the causes that it sent.
func TestSameWordsAsWebhook(t *testing.T) {
	for _, name := range []string{"edit-denied", "create-gke-example", "edit-soft-and-hard"} {
		t.Run(name, func(t *testing.T) {
			var review, answer admissionv1.AdmissionReview
			readJSON(t, filepath.Join("..", "webhook", "testdata", name+".json"), &review)
			readJSON(t, filepath.Join("..", "webhook", "testdata", name+".response.json"), &answer)
			var object corev1.ConfigMap
			if err := json.Unmarshal(review.Request.Object.Raw, &object); err != nil {
				t.Fatal(err)
			}
			params := filepath.Join(t.TempDir(), "params.yaml")
			if err := os.WriteFile(params, []byte("cluster: {nodeCIDRs: [], podCIDRs: [], serviceCIDRs: []}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout bytes.Buffer
			run(t.Context(), []string{"check", "--raw", "-f", "-", "-o", "json", "--params", params},
				streams{in: strings.NewReader(object.Data["config"]), out: &stdout, err: os.Stderr})
			var report jsonReport
			if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
				t.Fatal(err)
			}
			var want, got []string
			for _, cause := range answer.Response.Result.Details.Causes {
				if !strings.Contains(cause.Message, "-cidrs-present]") { // the ranges differ
					want = append(want, cause.Field+": "+cause.Message)
				}
			}
			for _, f := range report.Findings {
				finding := policy.Finding{
					Rule: f.Rule, Action: f.Action, Key: f.Key, Path: f.Path, Text: f.Text, Message: f.Message, Hint: f.Hint, Docs: f.Docs,
					Position: config.Position{Line: f.ValueLine, Column: f.ValueColumn},
				}
				if finding.Action == policy.Deny {
					got = append(got, finding.Field()+": "+finding.Detail())
				}
			}
			if diff := cmp.Diff(want, got); diff != "" || len(got) == 0 {
				t.Errorf("words differ (-webhook +kubectl-masq):\n%s", diff)
			}
		})
	}
}

func readJSON(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}
