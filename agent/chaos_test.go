package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// Variables of TestChaos: a seed to go through the same again, and another duration.
const (
	chaosSeed     = "CHAOS_SEED"
	chaosDuration = "CHAOS_DURATION"

	longChaos, shortChaos = 3 * time.Minute, 12 * time.Second
)

// Destinations of the traffic: one is spared by every text of the test and by the
// defaults, the other by none.
//
//nolint:gochecknoglobals // constants in all but the language
var (
	sparedDestination      = netip.MustParseAddr("10.0.0.5")
	masqueradedDestination = netip.MustParseAddr("203.0.113.5")
)

// TestChaos does to an agent under traffic, by chance and without a pause, what can
// go wrong on a node. Only while somebody else's change of the rules is not healed may
// packets have the wrong source, and only as that change makes them; each is put
// down to one. Restarts, torn files, full disks, missing programs and held locks
// cost no packet; rules are healed in the end, and a bad file never replaces the
// last valid one.
//
// The wall clock of a machine cannot be changed for one process. Nothing asks it but
// for timestamps to show; what the agent waits for are timers of the monotonic clock.
// That one jumps here: between runs by time namespaces, and within one by SIGSTOP,
// after which every timer is late. The file's time jumps into past and future as well.
func TestChaos(t *testing.T) {
	netns.Require(t)
	lasts := shortChaos
	if os.Getenv("REQUIRE_NETNS") == "1" {
		lasts = longChaos
	}
	if text := os.Getenv(chaosDuration); text != "" {
		var err error
		if lasts, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", chaosDuration, err)
		}
	}
	seed := rand.Uint64()
	if text := os.Getenv(chaosSeed); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", chaosSeed, err)
		}
	}
	t.Logf("%s=%d %s=%s", chaosSeed, seed, chaosDuration, lasts)
	agentBinary(t)
	for i, form := range forms() {
		t.Run(form.name, func(t *testing.T) {
			t.Parallel()
			c := newChaos(t, form, rand.New(rand.NewPCG(seed, uint64(i))))
			c.run(lasts)
		})
	}
}

// form is where rules of ours are, and what goes with it.
type form struct {
	name     string
	flag     string   // of an agent that has them there
	programs []string // that the agent runs
	rules    func(ctx context.Context, host *netns.Host) ([]string, error)
	harms    func(*chaos) []harm
}

func forms() []form {
	var all []form
	for _, backend := range backendNames() {
		all = append(all, form{
			backend, "--iptables-backend=" + backend, iptablesPrograms(),
			func(ctx context.Context, host *netns.Host) ([]string, error) {
				return iptablesRules(ctx, host, backend)
			},
			func(c *chaos) []harm { return c.iptablesHarms(backend) },
		})
	}
	return append(all, form{"nftables", natives()[0], []string{"nft"}, nativeRules, (*chaos).nativeHarms})
}

// chaos is one node, its agent, and what happens to them.
type chaos struct {
	*testing.T
	form   form
	lab    *netns.Lab
	chance *rand.Rand
	ctx    context.Context //nolint:containedctx // of the test, for every process in it

	programs string    // the agent's whole PATH
	holder   *exec.Cmd // holds the mount namespace in which the state's disk is
	state    string    // the disk, as the agent sees it
	volume   *volume
	agent    *exec.Cmd
	log      logBuffer

	texts []string            // valid ones
	fresh map[string][]string // our rules after a fresh start with a text
	text  string              // the last valid one

	traffic sync.WaitGroup
	mutex   sync.Mutex // for what traffic writes
	packets map[netip.Addr]int
	lost    int
	wrong   []packet

	windows []window
	acts    map[string]int
}

// packet had the wrong source.
type packet struct {
	destination, source netip.Addr
	sent, answered      time.Time
}

// window is the time from somebody's change until it was seen healed.
type window struct {
	name     string
	affects  netip.Addr // the destination whose packets may have the wrong source
	from, to time.Time
	wrong    int
}

func newChaos(t *testing.T, form form, chance *rand.Rand) *chaos {
	t.Helper()
	lab, err := netns.NewLab(sparedDestination, masqueradedDestination)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	c := &chaos{
		T: t, form: form, lab: lab, chance: chance, ctx: ctx,
		packets: map[netip.Addr]int{}, acts: map[string]int{}, fresh: map[string][]string{},
	}
	t.Cleanup(func() {
		cancel()
		c.ends()
		if c.holder != nil {
			_ = c.holder.Wait()
		}
		if t.Failed() {
			log := c.log.String()
			t.Logf("end of the agents' log:\n%s", log[max(0, len(log)-20000):])
		}
	})
	c.privateDisk()
	c.privatePrograms()
	// Those of three and of five have a range in common, next to others. The last one is a set.
	for _, more := range []int{0, 1, 3, 5, 100} {
		list := `"10.0.0.0/16"`
		for i := range more {
			list += fmt.Sprintf(`, "172.16.%d.0/24"`, more+i)
		}
		// A JSON text that ends too early is never valid.
		c.texts = append(c.texts, `{"nonMasqueradeCIDRs": [`+list+`], "cidrLimit": 128, "resyncInterval": "1s"}`)
	}
	for _, text := range c.texts {
		c.fresh[text] = c.freshStart(text)
	}
	c.text = c.texts[0]
	c.volume = newVolume(t, c.text)
	return c
}

// privateDisk mounts a small disk for the state in a namespace that ends with its
// holder.
func (c *chaos) privateDisk() {
	c.Helper()
	c.state = c.TempDir()
	ready := filepath.Join(c.TempDir(), "ready")
	c.holder = c.lab.Node.Command(c.ctx, "sh", "-c", "mount -t tmpfs -o size=64k state "+c.state+" && : > "+ready+" && exec sleep 86400")
	c.holder.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	if err := c.lab.Node.Start(c.holder); err != nil {
		c.Fatal(err)
	}
	eventually(c, "the disk is mounted", func() string {
		if _, err := os.Stat(ready); err != nil {
			return err.Error()
		}
		return ""
	})
}

// onDisk is the path of the state for this process.
func (c *chaos) onDisk(name string) string {
	return fmt.Sprintf("/proc/%d/root%s", c.holder.Process.Pid, filepath.Join(c.state, name))
}

// privatePrograms gives the agent a folder with the commands that it runs.
func (c *chaos) privatePrograms() {
	c.Helper()
	c.programs = c.TempDir()
	c.installPrograms()
}

func iptablesPrograms() []string {
	var names []string
	for _, family := range []string{"iptables-", "ip6tables-"} {
		for _, backend := range backendNames() {
			names = append(names, family+backend, family+backend+"-save", family+backend+"-restore")
		}
	}
	return names
}

func (c *chaos) installPrograms() {
	c.Helper()
	for _, name := range c.form.programs {
		path, err := exec.LookPath(name)
		if err == nil {
			err = os.Symlink(path, filepath.Join(c.programs, name))
		}
		must(c.T, err)
	}
}

func (c *chaos) removePrograms() {
	c.Helper()
	for _, name := range c.form.programs {
		must(c.T, os.Remove(filepath.Join(c.programs, name)))
	}
}

// freshStart tells our rules on a node that had none.
func (c *chaos) freshStart(text string) []string {
	c.Helper()
	host, err := netns.New()
	must(c.T, err)
	file := filepath.Join(c.TempDir(), "ip-masq-agent")
	must(c.T, os.WriteFile(file, []byte(text), 0o600))
	_, err = host.Run(c.ctx, agentBinary(c), "--once", "--config-path="+file, c.form.flag)
	must(c.T, err)
	rules, err := c.form.rules(c.ctx, host)
	must(c.T, errors.Join(err, host.Close()))
	if len(rules) == 0 {
		c.Fatal("a fresh start leaves no rules")
	}
	return rules
}

// iptablesRules are ours on a host, in their order, and then what is in our sets.
func iptablesRules(ctx context.Context, host *netns.Host, backend string) ([]string, error) {
	saved, err := host.Run(ctx, "iptables-"+backend+"-save", "-t", "nat")
	var rules []string
	for line := range strings.Lines(saved) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "-A ") && strings.Contains(line, " IP-MASQ-AGENT") {
			rules = append(rules, line)
		}
	}
	if err != nil {
		return nil, err
	}
	sets, err := host.Run(ctx, "ipset", "save", "-sorted")
	for line := range strings.Lines(sets) {
		if strings.HasPrefix(line, "add ") {
			rules = append(rules, strings.TrimSpace(line))
		}
	}
	return rules, err
}

// nativeRules are the lines of our table.
func nativeRules(ctx context.Context, host *netns.Host) ([]string, error) {
	table, err := host.Run(ctx, "nft", "list", "table", "ip", "ip-masq-guard-IP-MASQ-AGENT")
	return strings.Split(table, "\n"), err
}

// starts the agent at another time of the monotonic clock.
func (c *chaos) starts() {
	c.Helper()
	unshare, err := exec.LookPath("unshare")
	must(c.T, err)
	days := strconv.Itoa(c.chance.IntN(100) * 86400)
	c.agent = c.lab.Node.Command(c.ctx, "nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", c.holder.Process.Pid),
		unshare, "--time", "--monotonic="+days, "--boottime="+days,
		agentBinary(c), "--config-path="+c.volume.file(), c.form.flag, "--state-dir="+c.state, "--metrics-bind-address=0")
	c.agent.Env = append(c.agent.Env, "PATH="+c.programs)
	c.agent.Stderr = &c.log
	must(c.T, c.lab.Node.Start(c.agent))
}

// ends kills the agent.
func (c *chaos) ends() {
	if c.agent != nil {
		_ = c.agent.Process.Kill()
		_ = c.agent.Wait()
		c.agent = nil
	}
}

func (c *chaos) sleeps(most time.Duration) { time.Sleep(time.Duration(c.chance.Int64N(int64(most)))) }

// heals waits until the rules are those of a fresh start with the last valid text.
func (c *chaos) heals(what string) {
	c.Helper()
	const patience = 40 * time.Second
	want := c.fresh[c.text]
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		got, err := c.form.rules(c.ctx, c.lab.Node)
		if err == nil && slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			_ = c.agent.Process.Signal(syscall.SIGQUIT) // it logs where its goroutines are
			_ = c.agent.Wait()
			c.agent = nil
			c.Fatalf("after %s: not healed within %s (%v): the rules are\n%s\nand should be\n%s", what, patience, err,
				strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// harm is what somebody else does to our rules.
type harm struct {
	name    string
	affects netip.Addr
	command []string
	input   string // of the command
}

func (c *chaos) iptablesHarms(backend string) []harm {
	list := slices.IndexFunc(c.fresh[c.text], func(rule string) bool {
		return strings.Contains(rule, " 10.0.0.0/16 ") || strings.Contains(rule, " --match-set ")
	})
	jump := slices.IndexFunc(c.fresh[c.text], func(rule string) bool { return strings.HasPrefix(rule, "-A POSTROUTING ") })
	restores := func(name string, affects netip.Addr, lines string) harm {
		return harm{name, affects, []string{"iptables-" + backend + "-restore", "-w", "--noflush"}, "*nat\n" + lines + "\nCOMMIT\n"}
	}
	all := []harm{
		restores("chain flushed", masqueradedDestination, "-F IP-MASQ-AGENT"),
		restores("jump removed", masqueradedDestination, "-D"+strings.TrimPrefix(c.fresh[c.text][jump], "-A")),
		restores("POSTROUTING flushed", masqueradedDestination, "-F POSTROUTING"),
		restores("table flushed", masqueradedDestination, "-F"),
		restores("table emptied", masqueradedDestination, "-F\n-X"),
		restores("list removed", sparedDestination, "-D"+strings.TrimPrefix(c.fresh[c.text][list], "-A")),
		restores("masqueraded before the list", sparedDestination, "-I IP-MASQ-AGENT 1 -j MASQUERADE"),
		restores("spared before all", masqueradedDestination, "-I IP-MASQ-AGENT 1 -j RETURN"),
	}
	if c.text == c.texts[len(c.texts)-1] {
		all = append(all, harm{"set flushed", sparedDestination, []string{"ipset", "flush"}, ""})
	}
	return all
}

// nativeHarms are each a transaction. Whoever flushes the set, or takes our range out of it,
// makes spared packets masqueraded; whoever takes the rules away, the chain or the table, the
// other way round.
func (*chaos) nativeHarms() []harm {
	const table = "ip ip-masq-guard-IP-MASQ-AGENT"
	feeds := func(name string, affects netip.Addr, lines ...string) harm {
		return harm{name, affects, []string{"nft", "-f", "-"}, strings.Join(lines, "\n") + "\n"}
	}
	return []harm{
		feeds("table deleted", masqueradedDestination, "delete table "+table),
		feeds("table flushed", masqueradedDestination, "flush table "+table),
		feeds("table dormant", masqueradedDestination, "add table "+table+" { flags dormant; }"),
		feeds("ruleset flushed", masqueradedDestination, "flush ruleset"),
		feeds("chain flushed", masqueradedDestination, "flush chain "+table+" postrouting"),
		feeds("base chain deleted", masqueradedDestination,
			"flush chain "+table+" postrouting", "delete chain "+table+" postrouting"),
		feeds("base chain and set deleted", masqueradedDestination,
			"flush chain "+table+" postrouting", "delete chain "+table+" postrouting", "delete set "+table+" spared"),
		feeds("spared before all", masqueradedDestination, "insert rule "+table+" postrouting return"),
		feeds("masqueraded before the list", sparedDestination, "insert rule "+table+" postrouting masquerade"),
		feeds("set flushed", sparedDestination, "flush set "+table+" spared"),
		feeds("element deleted", sparedDestination, "delete element "+table+" spared { 10.0.0.0/16 }"),
	}
}

// hurts does one harm, and opens a window for it, which the function that it returns
// closes. The agent may be faster, so that there is nothing to harm.
func (c *chaos) hurts(while string) (healed func()) {
	c.Helper()
	all := c.form.harms(c)
	harm := all[c.chance.IntN(len(all))]
	name := harm.name + while
	w := window{name: name, affects: harm.affects, from: time.Now()}
	_, _ = c.lab.Node.Feed(c.ctx, harm.input, harm.command[0], harm.command[1:]...)
	return func() {
		c.Helper()
		c.heals(name)
		w.to = time.Now()
		c.windows = append(c.windows, w)
	}
}

// swaps brings another valid text.
func (c *chaos) swaps() {
	c.Helper()
	c.text = c.texts[c.chance.IntN(len(c.texts))]
	c.volume.swap(c.T, c.text)
}

// tears leaves the beginning of another text in the file, once the last valid one is
// kept: that comes after the kernel, so that an agent killed between them does not
// know it any more.
func (c *chaos) tears() {
	c.Helper()
	c.kept()
	text := c.texts[c.chance.IntN(len(c.texts))]
	must(c.T, os.WriteFile(filepath.Join(c.volume.dir, "..data", "ip-masq-agent"), []byte(text[:1+c.chance.IntN(len(text)-1)]), 0o600))
}

// mends what was torn: by the last valid text, or another one.
func (c *chaos) mends() {
	c.Helper()
	if c.chance.IntN(2) == 0 {
		c.swaps()
		return
	}
	c.volume.swap(c.T, c.text)
}

// kept waits until the last valid text is in the state.
func (c *chaos) kept() {
	c.Helper()
	eventually(c, "the state keeps the last valid text", func() string {
		text, err := readState(c.onDisk(stateFile))
		if err != nil {
			return err.Error()
		}
		if string(text) != c.text {
			return string(text)
		}
		return ""
	})
}

// act is one thing that happens. It leaves the agent running.
type act struct {
	name string
	does func(*chaos)
	rare bool // it takes seconds
}

func acts() []act {
	return []act{
		{"file changed", func(c *chaos) { c.swaps() }, false},
		{"harm", func(c *chaos) { c.hurts("")() }, false},
		{"harm while the file changes", func(c *chaos) {
			c.swaps()
			c.sleeps(30 * time.Millisecond)
			c.hurts(" while the file changes")()
		}, false},
		{"killed", func(c *chaos) {
			c.swaps()
			c.sleeps(60 * time.Millisecond)
			c.ends()
			c.sleeps(200 * time.Millisecond)
			c.starts()
		}, false},
		{"killed while it heals", func(c *chaos) {
			healed := c.hurts(", agent killed while it heals")
			c.sleeps(40 * time.Millisecond)
			c.ends()
			c.starts()
			healed()
		}, false},
		{"harm while it is dead", func(c *chaos) {
			c.ends()
			healed := c.hurts(" while no agent runs")
			c.sleeps(200 * time.Millisecond)
			c.starts()
			healed()
		}, false},
		{"file torn", func(c *chaos) {
			c.tears()
			c.sleeps(100 * time.Millisecond)
			c.hurts(" while the file is torn")()
			c.mends()
		}, false},
		{"file torn over a restart", func(c *chaos) {
			c.tears()
			c.sleeps(50 * time.Millisecond)
			c.ends()
			healed := c.hurts(" while the file is torn and no agent runs")
			c.starts()
			healed()
			c.mends()
		}, false},
		{"state corrupted", func(c *chaos) {
			c.kept()
			content, err := os.ReadFile(c.onDisk(stateFile))
			must(c.T, err)
			content[c.chance.IntN(len(content))] ^= 1 << c.chance.IntN(8)
			must(c.T, os.WriteFile(c.onDisk(stateFile), content[:c.chance.IntN(len(content)+1)], 0o600))
			if c.chance.IntN(2) == 0 {
				c.swaps()
			}
			c.ends()
			c.starts()
		}, false},
		{"disk full", func(c *chaos) {
			must(c.T, fill(c.onDisk("ballast")))
			c.swaps()
			c.sleeps(100 * time.Millisecond)
			if c.chance.IntN(2) == 0 {
				c.ends()
				c.starts()
			}
			c.hurts(" while the disk is full")()
			must(c.T, os.Remove(c.onDisk("ballast")))
			c.volume.swap(c.T, c.text)
		}, false},
		{"programs missing", func(c *chaos) {
			c.removePrograms()
			healed := c.hurts(" while they are missing")
			if c.chance.IntN(2) == 0 {
				c.ends()
				c.starts()
			}
			c.sleeps(time.Second)
			c.installPrograms()
			healed()
		}, true},
		{"frozen", func(c *chaos) {
			must(c.T, c.agent.Process.Signal(syscall.SIGSTOP))
			healed := c.hurts(" while the agent is frozen")
			c.sleeps(2 * time.Second)
			must(c.T, c.agent.Process.Signal(syscall.SIGCONT))
			healed()
		}, true},
		{"file's time jumps", func(c *chaos) {
			at := time.Unix(c.chance.Int64N(1<<32), 0)
			must(c.T, os.Chtimes(filepath.Join(c.volume.dir, "..data", "ip-masq-agent"), at, at))
			c.sleeps(50 * time.Millisecond)
			c.hurts(" while the file's time jumps")()
		}, false},
		{"lock held for 10 s", func(c *chaos) {
			lock, err := os.OpenFile(c.lab.Node.LockFile(), os.O_RDWR, 0)
			must(c.T, err)
			healed := func() {}
			if c.chance.IntN(2) == 0 {
				healed = c.hurts(" while the lock is held")
			}
			c.swaps()
			must(c.T, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
			c.sleeps(8 * time.Second)
			if c.chance.IntN(2) == 0 {
				c.ends()
				c.starts()
			}
			time.Sleep(2 * time.Second)
			must(c.T, lock.Close()) // and let go
			healed()
		}, true},
	}
}

// fill writes until there is no space.
func fill(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if errors.Is(err, unix.ENOSPC) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// run does acts for a while: first each once, then by chance.
func (c *chaos) run(lasts time.Duration) {
	c.Helper()
	c.starts()
	c.heals("the start")
	stop := make(chan struct{})
	c.traffic.Go(func() { c.asks(stop, max(8*time.Millisecond, lasts/(netns.MaxFlows/2))) })
	defer func() {
		close(stop)
		c.traffic.Wait()
		c.judge()
	}()

	all := acts()
	first := c.chance.Perm(len(all))
	for began := time.Now(); time.Since(began) < lasts; {
		next := all[c.chance.IntN(len(all))]
		switch {
		case len(first) > 0 && (lasts > shortChaos || !all[first[0]].rare):
			next = all[first[0]]
		case next.rare && c.chance.IntN(4) > 0:
			continue
		}
		if len(first) > 0 {
			first = first[1:]
		}
		next.does(c)
		c.acts[next.name]++
		c.heals(next.name)
		c.sleeps(100 * time.Millisecond)
	}
}

// asks sends packets, each of a new flow, to one destination and the other.
func (c *chaos) asks(stop <-chan struct{}, every time.Duration) {
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-ticks.C:
		}
		destination, want := sparedDestination, netns.PodIPv4
		if i%2 == 1 {
			destination, want = masqueradedDestination, netns.NodeIPv4
		}
		sent := time.Now()
		source, err := c.lab.Pod.Ask(c.ctx, "udp", c.lab.At(destination))
		c.mutex.Lock()
		c.packets[destination]++
		switch {
		case err != nil:
			c.lost++
		case source.Addr() != want:
			c.wrong = append(c.wrong, packet{destination, source.Addr(), sent, time.Now()})
		}
		c.mutex.Unlock()
	}
}

// judge puts every wrong packet down to a window.
func (c *chaos) judge() {
	c.Helper()
	attributed := map[string]int{}
	for _, p := range c.wrong {
		i := slices.IndexFunc(c.windows, func(w window) bool {
			return w.affects == p.destination && !p.answered.Before(w.from) && !p.sent.After(w.to)
		})
		if i < 0 {
			c.Errorf("a packet to %s had the source %s at %s, and nobody had changed the rules so", p.destination, p.source, p.sent)
			continue
		}
		c.windows[i].wrong++
		attributed[c.windows[i].name]++
	}
	if c.lost > 0 {
		c.Errorf("%d packets were lost", c.lost)
	}
	var open []time.Duration
	for _, w := range c.windows {
		open = append(open, w.to.Sub(w.from))
	}
	slices.Sort(open)
	if len(open) > 0 {
		c.Logf("changes by others: %d; from before until seen healed p50 %s, p90 %s, most %s",
			len(open), open[len(open)/2], open[len(open)*9/10], open[len(open)-1])
	}
	c.Logf("packets: %d to spared, %d to masqueraded destinations; %d wrong, all of them while a change was not healed",
		c.packets[sparedDestination], c.packets[masqueradedDestination], len(c.wrong))
	c.Logf("acts: %v", c.acts)
	c.Logf("wrong packets by change: %v", attributed)
}
