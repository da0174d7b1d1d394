package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// migrating is the page whose commands are tried here.
const migrating = "../docs/migrating.md"

// upstreamVariable holds the path of the real upstream agent, if there is one; else what
// it does is done here.
const upstreamVariable = "UPSTREAM_IP_MASQ_AGENT"

const chartDirectory = "../charts/ip-masq-guard"

// agentJump and agentChain are what the upstream agent writes without a file, after
// its chain's name is put in.
const (
	agentJumpComment = "ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom CHAIN chain"
	agentChain       = `-A CHAIN -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -d 169.254.0.0/16 -j RETURN
-A CHAIN -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -d 10.0.0.0/8 -j RETURN
-A CHAIN -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -d 172.16.0.0/12 -j RETURN
-A CHAIN -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" -d 192.168.0.0/16 -j RETURN
-A CHAIN -m comment --comment "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE RANDOM
`
	gkeRules = `:IP-MASQ - [0:0]
-A POSTROUTING -m comment --comment "ip-masq: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom IP-MASQ chain" -m addrtype ! --dst-type LOCAL -j IP-MASQ
-A IP-MASQ -d 169.254.0.0/16 -m comment --comment "ip-masq: local traffic is not subject to MASQUERADE" -j RETURN
-A IP-MASQ -d 10.0.0.0/8 -m comment --comment "ip-masq: local traffic is not subject to MASQUERADE" -j RETURN
-A IP-MASQ -m comment --comment "ip-masq: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE
`
)

// starts does what an agent of that kind does when it starts: it makes its chain, appends
// its jump unless it finds it, and rewrites the chain.
func (b backend) starts(t *testing.T, chain, jumpComment, random string) {
	t.Helper()
	fill := strings.NewReplacer("CHAIN", chain, "RANDOM", random)
	_, _ = b.host.Run(t.Context(), "iptables-"+b.name, "-w", "-t", "nat", "-N", chain) // fails where it is there
	jump := []string{"POSTROUTING", "-m", "comment", "--comment", fill.Replace(jumpComment), "-m", "addrtype", "!", "--dst-type", "LOCAL", "-j", chain}
	if _, err := b.host.Run(t.Context(), "iptables-"+b.name, append([]string{"-w", "-t", "nat", "-C"}, jump...)...); err != nil {
		b.iptables(t, append([]string{"-A"}, jump...)...)
	}
	text := "*nat\n:" + chain + " - [0:0]\n" + fill.Replace(agentChain) + "COMMIT\n"
	if _, err := b.host.Feed(t.Context(), text, "iptables-"+b.name+"-restore", "-w", "5", "--noflush"); err != nil {
		t.Fatal(err)
	}
}

// upstreamStarts starts the upstream agent, the real one where its path is given.
func (b backend) upstreamStarts(t *testing.T, chain string) {
	t.Helper()
	program := os.Getenv(upstreamVariable)
	if program == "" {
		b.starts(t, chain, agentJumpComment, "--random-fully")
		return
	}
	commands := t.TempDir() // it runs the plain names
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			path, err := exec.LookPath(name + "-" + b.name + suffix)
			must(t, err)
			must(t, os.Symlink(path, filepath.Join(commands, name+suffix)))
		}
	}
	// Its pass is over when this is gone again from a chain that is there already.
	const marker = "192.0.2.99/32"
	_, _ = b.host.Run(t.Context(), "iptables-"+b.name, "-w", "-t", "nat", "-A", chain, "-s", marker, "-j", "RETURN")
	process := b.host.Command(t.Context(), program, "--masq-chain="+chain)
	process.Env = append(process.Env, "PATH="+commands)
	must(t, b.host.Start(process))
	eventually(t, "the upstream agent has its rules", func() string {
		rules := strings.Join(b.saved(t), "\n")
		jump := strings.ReplaceAll(agentJumpComment, "CHAIN", chain)
		if strings.Contains(rules, "-A "+chain+" -d 192.168.0.0/16 ") && strings.Contains(rules, jump) && !strings.Contains(rules, marker) {
			return ""
		}
		return rules
	})
	must(t, process.Process.Signal(syscall.SIGTERM))
	_ = process.Wait() // of the signal
}

func (b backend) azureStarts(t *testing.T, chain string) {
	t.Helper()
	b.starts(t, chain, `"`+agentJumpComment+`"`, "")
}

// section is the text of the page from a title to the next one.
func section(t *testing.T, title string) string {
	t.Helper()
	text, err := os.ReadFile(migrating)
	must(t, err)
	_, rest, found := strings.Cut(string(text), "\n## "+title+"\n")
	if !found {
		t.Fatalf("%s has no section %q", migrating, title)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	return rest
}

// helm are the commands for our chart in a text that begin so.
func helm(text, verb string) []string {
	return regexp.MustCompile(`(?m)^helm `+verb+` ip-masq-guard charts/ip-masq-guard .*$`).FindAllString(text, -1)
}

// agentFlags are the flags that the values of a helm command give the agent, after
// those that it has.
func agentFlags(t *testing.T, command string, flags map[string]string) map[string]string {
	t.Helper()
	names := map[string]string{
		"masqChain": "masq-chain", "reservedRanges": "nomasq-all-reserved-ranges", "setThreshold": "set-threshold", "cleanupOnUninstall": "",
	}
	set := func(key, value string) {
		flag, known := names[key]
		if !known {
			t.Errorf("%s: this test does not know agent.%s", command, key)
		}
		if flag != "" {
			flags[flag] = value
		}
	}
	for _, match := range regexp.MustCompile(`--values charts/ip-masq-guard/(\S+)`).FindAllStringSubmatch(command, -1) {
		text, err := os.ReadFile(filepath.Join(chartDirectory, match[1]))
		must(t, err)
		var values struct{ Agent map[string]any }
		must(t, yaml.Unmarshal(text, &values))
		for key, value := range values.Agent {
			if value, ok := value.(string); ok {
				set(key, value)
			} else if value, ok := values.Agent[key].(bool); ok && value {
				set(key, "true")
			}
		}
	}
	text, err := os.ReadFile(filepath.Join(chartDirectory, "values.yaml"))
	must(t, err)
	var values struct{ Agent map[string]any }
	must(t, yaml.Unmarshal(text, &values))
	for _, match := range regexp.MustCompile(`--set agent\.(\w+)=(\S+)`).FindAllStringSubmatch(command, -1) {
		if _, known := values.Agent[match[1]]; !known {
			t.Errorf("%s: the chart has no agent.%s", command, match[1])
		}
		set(match[1], match[2])
	}
	return flags
}

// TestMigratingPage goes there and back as the page says, on nodes that these agents have
// left; at the end the kernel is as if ours had never been there.
func TestMigratingPage(t *testing.T) {
	for _, name := range backendNames() {
		for _, test := range []struct {
			title  string
			before func(*testing.T, backend)
			again  func(*testing.T, backend) // the agent of before, after ours
			jumps  int                       // at the end
		}{
			{
				"From the upstream ip-masq-agent",
				func(t *testing.T, b backend) { t.Helper(); b.upstreamStarts(t, "MY-MASQ") },
				func(t *testing.T, b backend) { t.Helper(); b.upstreamStarts(t, "IP-MASQ-AGENT") }, 1,
			},
			{
				"From GKE",
				func(t *testing.T, b backend) {
					t.Helper()
					if _, err := b.host.Feed(t.Context(), "*nat\n"+gkeRules+"COMMIT\n", "iptables-"+b.name+"-restore", "--noflush"); err != nil {
						t.Fatal(err)
					}
				},
				func(t *testing.T, b backend) { t.Helper(); b.upstreamStarts(t, "IP-MASQ") }, 1,
			},
			{
				"From Azure's ip-masq-agent-v2",
				func(t *testing.T, b backend) { t.Helper(); b.azureStarts(t, "IP-MASQ-AGENT") },
				func(t *testing.T, b backend) { t.Helper(); b.azureStarts(t, "IP-MASQ-AGENT") }, 2,
			},
			{
				"From Cilium's ipMasqAgent", func(*testing.T, backend) {},
				func(t *testing.T, b backend) { // none: our rules are removed
					t.Helper()
					if _, stderr, status := inNode(t, b.host, "cleanup"); status != 0 {
						t.Error(stderr)
					}
				}, 0,
			},
		} {
			t.Run(name+"/"+test.title, func(t *testing.T) {
				text := section(t, test.title)
				b := newBackend(t, name)
				alone := b.saved(t)
				test.before(t, b)
				file := filepath.Join(t.TempDir(), "none")
				start := func(flags map[string]string) {
					t.Helper()
					args := []string{"--once", "--config-path=" + file, "--iptables-backend=" + name}
					for flag, value := range flags {
						args = append(args, "--"+flag+"="+value)
					}
					if _, stderr, status := inNode(t, b.host, args...); status != 0 {
						t.Fatalf("%q: status %d, %s", args, status, stderr)
					}
				}

				installs := helm(text, "install")
				flags := agentFlags(t, installs[len(installs)-1], map[string]string{})
				start(flags)
				chain := "IP-MASQ-AGENT"
				if flags["masq-chain"] != "" {
					chain = flags["masq-chain"]
				}
				if got := jumpsTo(b.saved(t)); !cmp.Equal(got, map[string]int{chain: 1}) {
					t.Errorf("after %s the jumps are %v", installs[len(installs)-1], got)
				}
				for _, upgrade := range helm(text, "upgrade") {
					flags = agentFlags(t, upgrade, flags)
				}
				start(flags)
				test.again(t, b)

				clean := newBackend(t, name)
				if test.jumps > 0 {
					test.again(t, clean)
				}
				saved := clean.saved(t)
				switch test.jumps {
				case 0:
					saved = alone
				case 2: // ours stays beside, to the same chain
					saved = append(saved, strings.NewReplacer("COMMENT", strings.ReplaceAll(agentJumpComment, "CHAIN", "IP-MASQ-AGENT")).Replace(
						`-A POSTROUTING -m comment --comment "COMMENT" -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT`))
				}
				if diff := cmp.Diff(slices.Sorted(slices.Values(saved)), b.saved(t)); diff != "" {
					t.Errorf("back again, the table differs (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// jumpsTo counts the jumps of agents in POSTROUTING by their chain.
func jumpsTo(rules []string) map[string]int {
	jumps := map[string]int{}
	for _, rule := range rules {
		if match := regexp.MustCompile(`^-A POSTROUTING .*ip-masq.* -j (\S+)$`).FindStringSubmatch(rule); match != nil {
			jumps[match[1]]++
		}
	}
	return jumps
}

// TestMigratingCommands runs the page's commands of the agent: each is one, and does
// what its status says.
func TestMigratingCommands(t *testing.T) {
	text, err := os.ReadFile(migrating)
	must(t, err)
	host := netns.ForTest(t)
	agentBinary(t) // which is built from this directory
	t.Chdir(t.TempDir())
	must(t, os.WriteFile("config.yaml", []byte("nonMasqueradeCIDRs: [10.0.0.0/8]\n"), 0o600))
	commands := regexp.MustCompile("(?m)^agent ((?:plan|cleanup) .*)$|`agent ((?:plan|cleanup) [^`]*)`").FindAllStringSubmatch(string(text), -1)
	if len(commands) < 4 {
		t.Fatalf("the page has %d commands of the agent", len(commands))
	}
	for _, match := range commands {
		args := strings.Fields(match[1] + match[2])
		want := 0
		if args[0] == "plan" {
			want = 3 // there is nothing yet
		}
		if stdout, stderr, status := inNode(t, host, args...); status != want {
			t.Errorf("agent %q: status %d, want %d: %s%s", args, status, want, stdout, stderr)
		}
	}
}
