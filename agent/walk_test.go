package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// walkSeed is the environment variable that makes TestWalk go the way of an earlier run.
const walkSeed = "WALK_SEED"

// start is one start of the agent: its flags, and the file, if there is one.
type start struct {
	flags []string
	text  string
	file  bool
	ipv6  bool
}

func (s start) String() string {
	if !s.file {
		return fmt.Sprintf("%q without a file", s.flags)
	}
	return fmt.Sprintf("%q with\n%s", s.flags, s.text)
}

// walker starts the agent at random.
type walker struct{ *rand.Rand }

func (w walker) one(of ...string) string { return of[w.IntN(len(of))] }

func (w walker) often() bool { return w.IntN(4) > 0 }

// some are up to most of these, in any order.
func (w walker) some(most int, of ...string) []string {
	w.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
	return of[:w.IntN(min(most, len(of))+1)]
}

func (w walker) start() start {
	s := start{ipv6: w.IntN(2) == 0, file: w.IntN(12) > 0}
	add := func(format string, values ...any) { s.flags = append(s.flags, fmt.Sprintf(format, values...)) }
	s.flags = append(s.flags, strings.Fields(w.one(backendFlags()...))...)
	add("--masq-chain=%s", w.one("IP-MASQ-AGENT", "IP-MASQ", "OURS", "a.b+c/d:e=f*"))
	add("--enable-ipv6=%t", s.ipv6)
	add("--random-fully=%t", w.often())
	add("--nomasq-all-reserved-ranges=%t", !w.often())
	add("--nomasq-multicast=%t", !w.often())
	if w.often() {
		add("--set-threshold=%d", w.IntN(8))
	}
	if !w.often() {
		add("--to-ports=%s", w.one("1024-29999,32768-65535", "4000", "1-2,3-9,10"))
	}
	if !w.often() {
		sources := []string{"10.0.0.0/8", "172.16.0.0/12", "10.1.0.0/16"}
		if w.often() {
			sources = append(sources, "fd00::/8") // refused where IPv6 is off
		}
		add("--source-cidrs=%s", strings.Join(append(w.some(3, sources...), "192.0.2.0/24"), ","))
	}
	if !w.often() {
		add("--out-interfaces=%s", w.one("eth0", "eth+", "eth0,wan1", "+"))
	}

	list := []string{
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.51.100.0/24", "203.0.113.7/32", "0.0.0.0/0", "128.0.0.0/1",
		"10.0.0.0/8", "10.96.0.0/12", "169.254.0.0/16", "100.64.0.0/10", "192.0.2.128/25",
	}
	exceptions := []string{"10.200.0.0/16", "192.168.7.0/24", "198.51.100.9/32", "10.96.0.0/16"}
	if s.ipv6 {
		list = append(list, "fd00::/8", "2001:db8::/32", "2001:db8:1::1/128", "::/0", "fe80::/10", "fc00::/7")
		exceptions = append(exceptions, "2001:db8:7::/48", "fd00:1::/64")
	}
	var text strings.Builder
	if w.often() {
		fmt.Fprintf(&text, "nonMasqueradeCIDRs: [%s]\n", quoted(w.some(14, list...)))
	}
	if !w.often() {
		fmt.Fprintf(&text, "masqueradeCIDRs: [%s]\n", quoted(w.some(4, exceptions...)))
	}
	for _, key := range w.some(2, "masqLinkLocal", "masqLinkLocalIPv6") {
		fmt.Fprintf(&text, "%s: true\n", key)
	}
	if w.IntN(15) == 0 {
		text.WriteString("nonMasqueradeCIDRs: [10.0.0.1/8]\n") // refused
	}
	s.text = text.String()
	return s
}

func quoted(list []string) string {
	texts := make([]string, len(list))
	for i, s := range list {
		texts[i] = strconv.Quote(s)
	}
	return strings.Join(texts, ", ")
}

// backendFlags are those of every backend.
func backendFlags() []string {
	return []string{"--iptables-backend=nft", "--iptables-backend=legacy", "--backend=nftables"}
}

// take starts the agent once, and tells whether it was content with flags and file.
func (s start) take(tb testing.TB, ctx context.Context, host *netns.Host, dir string) (taken bool, output string, err error) {
	tb.Helper()
	path := filepath.Join(dir, "ip-masq-agent")
	if s.file {
		err = os.WriteFile(path, []byte(s.text), 0o600)
	} else if err = os.Remove(path); errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return false, "", err
	}
	command := host.Command(ctx, agentBinary(tb), append(s.flags, "--once", "--config-path="+path)...)
	var all strings.Builder
	command.Stdout, command.Stderr = &all, &all
	if err = host.Start(command); err != nil {
		return false, "", err
	}
	err = command.Wait()
	return err == nil, all.String(), nil
}

// populate gives a host what others have there, in every backend and both families.
func populate(ctx context.Context, host *netns.Host) error {
	rules := func(address string) string {
		return "*nat\n:KUBE-POSTROUTING - [0:0]\n:IP-MASQ-NOT-OURS - [0:0]\n" +
			"-A POSTROUTING -s " + address + " -j RETURN\n-A POSTROUTING -j KUBE-POSTROUTING\n" +
			"-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n" +
			"-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n" +
			"-A IP-MASQ-NOT-OURS -j RETURN\nCOMMIT\n"
	}
	for _, backend := range []string{"nft", "legacy"} {
		if _, err := host.Feed(ctx, rules("192.0.2.1/32"), "iptables-"+backend+"-restore"); err != nil {
			return err
		}
		if _, err := host.Feed(ctx, rules("2001:db8::1/128"), "ip6tables-"+backend+"-restore"); err != nil {
			return err
		}
	}
	const others = "table inet others { set some { type ipv4_addr; elements = { 192.0.2.1 } }; " +
		"chain postrouting { type nat hook postrouting priority 90; ip saddr @some accept; }; }\n"
	if _, err := host.Feed(ctx, others, "nft", "-f", "-"); err != nil {
		return err
	}
	_, err := host.Feed(ctx, "create others hash:ip\nadd others 192.0.2.1\n", "ipset", "restore")
	return err
}

// random is what the kernel chooses at random or counts for a set or a rule.
var random = regexp.MustCompile(`(?m) initval 0x[0-9a-f]+|^#.*\n`)

// inKernel is what a host holds in every backend, all of it, by family.
func inKernel(ctx context.Context, host *netns.Host) (map[string]string, error) {
	state := map[string]string{}
	for family, commands := range map[string][]string{
		"IPv4": {"iptables-nft-save", "iptables-legacy-save", "nft list ruleset ip"},
		"IPv6": {"ip6tables-nft-save", "ip6tables-legacy-save", "nft list ruleset ip6"},
		"both": {"nft list ruleset inet"},
	} {
		for _, command := range commands {
			words := strings.Fields(command)
			text, err := host.Run(ctx, words[0], words[1:]...)
			if err != nil {
				return nil, err
			}
			if words[0] == "nft" {
				tables := strings.SplitAfter(text, "\n}\n")
				slices.Sort(tables)
				text = strings.Join(tables, "")
			}
			state[family] += "[" + command + "]\n" + random.ReplaceAllString(text, "")
		}
	}
	sets, err := host.Run(ctx, "ipset", "save")
	if err != nil {
		return nil, err
	}
	lines := slices.Sorted(strings.Lines(random.ReplaceAllString(sets, "")))
	for _, line := range lines {
		family := "both"
		if name := strings.Fields(line)[1]; strings.HasPrefix(name, "masq-guard-4") {
			family = "IPv4"
		} else if strings.HasPrefix(name, "masq-guard-6") {
			family = "IPv6"
		}
		state[family] += line
	}
	return state, nil
}

// fresh is what the kernel of a new host holds after one step.
func (s start) fresh(tb testing.TB, ctx context.Context, dir string) (state map[string]string, taken bool, err error) {
	tb.Helper()
	host, err := netns.New()
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	if err = populate(ctx, host); err != nil {
		return nil, false, err
	}
	if taken, _, err = s.take(tb, ctx, host, dir); err != nil {
		return nil, false, err
	}
	state, err = inKernel(ctx, host)
	return state, taken, err
}

// TestWalk starts the agent again and again with other flags and another file, on a node
// where others have rules too. After each step the kernel holds what it would hold
// after this start alone: nothing of an earlier one is left, in no backend, and nothing
// of others is touched. A family that the agent is not to hold stays as it was, and so does
// everything where flags or file are refused.
func TestWalk(t *testing.T) {
	const steps = 200
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(walkSeed); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	t.Logf("%s=%d goes this way again", walkSeed, seed)
	w := walker{rand.New(rand.NewPCG(seed, 0))}

	host := netns.ForTest(t)
	ctx := t.Context()
	must(t, populate(ctx, host))
	before, err := inKernel(ctx, host)
	must(t, err)
	dirs := [2]string{t.TempDir(), t.TempDir()}
	agentBinary(t) // not from another goroutine
	taken := 0
	for i := range steps {
		s := w.start()
		type outcome struct {
			state map[string]string
			taken bool
			err   error
		}
		alone := make(chan outcome, 1)
		go func() {
			var o outcome
			o.state, o.taken, o.err = s.fresh(t, ctx, dirs[1])
			alone <- o
		}()
		content, output, err := s.take(t, ctx, host, dirs[0])
		must(t, err)
		after, err := inKernel(ctx, host)
		must(t, err)
		want := <-alone
		must(t, want.err)
		if content != want.taken {
			t.Fatalf("step %d: content %t, and alone %t: %v\n%s", i, content, want.taken, s, output)
		}
		expected := want.state
		switch {
		case !content:
			expected = before
		case !s.ipv6:
			expected = maps.Clone(expected)
			expected["IPv6"] = before["IPv6"]
		}
		if diff := cmp.Diff(expected, after); diff != "" {
			t.Fatalf("step %d of %s=%d: the kernel differs from that of a fresh start (-fresh +walk):\n%s\n%v\n%s", i, walkSeed, seed, diff, s, output)
		}
		if content {
			taken++
		}
		before = after
	}
	if taken < steps/2 {
		t.Errorf("only %d of %d steps were taken", taken, steps)
	}
	t.Logf("%d steps, %d of them refused", steps, steps-taken)
}
