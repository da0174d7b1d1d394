package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// flowRecorder is a connection tracking that says what was to be forgotten.
type flowRecorder struct {
	refuse    error
	forgotten []string // "IPv4 -10.1.0.0/16 +10.2.0.0/16": -, now masqueraded; +, no longer
}

func (r *flowRecorder) Forget(_ context.Context, changed ruleset.Changed, after ruleset.Decision) (int, error) {
	text := after.Family.String()
	for _, prefix := range changed.NowMasqueraded.Prefixes() {
		text += " -" + prefix.String()
	}
	for _, prefix := range changed.NoLongerMasqueraded.Prefixes() {
		text += " +" + prefix.String()
	}
	r.forgotten = append(r.forgotten, text)
	if r.refuse != nil {
		return 0, r.refuse
	}
	return 3, nil
}

func TestFlowsFollowTheList(t *testing.T) {
	const (
		applied   = "configuration applied source=file"
		forgotten = "flows forgotten whose destinations are treated otherwise now family=IPv4"
	)
	synctest.Test(t, func(t *testing.T) {
		opts := options{flushConntrack: true, stateDir: t.TempDir()}
		w := newWorld(t, opts)
		recorder := &flowRecorder{}
		w.syncer.flows = recorder
		check := func(title string, flows, logs []string) {
			t.Helper()
			if diff := cmp.Diff(flows, recorder.forgotten); diff != "" {
				t.Errorf("%s: what is forgotten differs (-want +got):\n%s", title, diff)
			}
			recorder.forgotten = nil
			if diff := cmp.Diff(logs, w.logged(t)); diff != "" {
				t.Errorf("%s: the log differs (-want +got):\n%s", title, diff)
			}
		}

		w.holds(t, goodText)
		w.syncer.pass(t.Context())
		check("at the start", nil, []string{applied})

		w.holds(t, otherText)
		w.syncer.pass(t.Context())
		check("another list", []string{"IPv4 -10.1.0.0/16 +10.2.0.0/16"}, []string{forgotten, applied})

		w.holds(t, otherText+"# a comment\n")
		w.syncer.pass(t.Context())
		w.kernel.flush()
		w.syncer.pass(t.Context())
		check("the same list, and drift", nil, []string{
			applied, "drift healed: something else had changed the rules family=IPv4 drift=[chain-changed]",
		})

		w.kernel.refuses(ruleset.IPv4, "locked")
		w.holds(t, goodText)
		w.syncer.pass(t.Context())
		check("the kernel refuses", nil, []string{"kernel does not hold the rules family=IPv4 error=applying IPv4 rules: locked"})
		w.kernel.refuses(ruleset.IPv4, "")
		w.syncer.pass(t.Context())
		check("the kernel takes it", []string{"IPv4 -10.2.0.0/16 +10.1.0.0/16"}, []string{
			"kernel holds the rules again family=IPv4", forgotten, applied,
		})

		recorder.refuse = errors.New("no such module")
		for i, text := range []string{otherText, goodText, otherText} {
			w.holds(t, text)
			w.syncer.pass(t.Context())
			logs := []string{applied}
			if i == 0 {
				logs = []string{"flows keep the treatment of their first packet family=IPv4 error=no such module", applied}
			}
			if len(recorder.forgotten) != 1 {
				t.Errorf("%d attempts, want one a change", len(recorder.forgotten))
			}
			check("flows cannot be forgotten", recorder.forgotten, logs)
		}
		if _, body := get(t, w, "/metrics"); !strings.Contains(body, "\n"+`ip_masq_guard_agent_conntrack_flushed_total{family="ipv4"} 6`+"\n") {
			t.Errorf("the metric is wrong:\n%s", body)
		}

		again := newWorld(t, opts)
		again.syncer.flows = recorder
		recorder.refuse, recorder.forgotten = nil, nil
		again.holds(t, goodText)
		again.syncer.pass(t.Context())
		if diff := cmp.Diff([]string{"IPv4 -10.2.0.0/16 +10.1.0.0/16"}, recorder.forgotten); diff != "" {
			t.Errorf("a list that changed while no agent ran: what is forgotten differs (-want +got):\n%s", diff)
		}
	})
}

// TestFlushConntrack: a flow that stays, and only one in a changed range, follows the file.
func TestFlushConntrack(t *testing.T) {
	changing, spared := netip.MustParseAddr("10.72.0.1"), netip.MustParseAddr("10.71.0.1")
	changing6, spared6 := netip.MustParseAddr("fd00:72::1"), netip.MustParseAddr("fd00:71::1")
	lab := netns.LabForTest(t, changing, spared, changing6, spared6)
	v := newVolume(t, "nonMasqueradeCIDRs: [10.71.0.0/16, 'fd00:71::/32']\n")
	a := startAgent(t, lab.Node, "--config-path="+v.file(), "--iptables-backend=nft", "--enable-ipv6", "--flush-conntrack")
	ready := func() string {
		code, body := a.get(t, "/readyz")
		if code != 200 {
			return body
		}
		return ""
	}
	eventually(t, "the first file", ready)

	talk := map[netip.Addr]net.Conn{}
	for _, destination := range []netip.Addr{changing, spared, changing6, spared6} {
		must(t, lab.Pod.Do(func() (err error) {
			talk[destination], err = (&net.Dialer{}).DialContext(t.Context(), "udp", lab.At(destination).String())
			return err
		}))
		defer func() { _ = talk[destination].Close() }()
	}
	seen := func(title string, want map[netip.Addr]netip.Addr) {
		t.Helper()
		got := map[netip.Addr]netip.Addr{}
		for destination, socket := range talk {
			must(t, socket.SetDeadline(time.Now().Add(5*time.Second)))
			_, err := fmt.Fprint(socket, "?")
			must(t, err)
			answer := make([]byte, 128)
			n, err := socket.Read(answer)
			must(t, err)
			got[destination] = netip.MustParseAddrPort(string(answer[:n])).Addr()
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s: sources differ (-want +got):\n%s", title, diff)
		}
	}
	seen("before", map[netip.Addr]netip.Addr{
		changing: netns.NodeIPv4, spared: netns.PodIPv4, changing6: netns.NodeIPv6, spared6: netns.PodIPv6,
	})
	v.swap(t, "nonMasqueradeCIDRs: [10.71.0.0/16, 10.72.0.0/16, 'fd00:71::/32', 'fd00:72::/32']\n")
	eventually(t, "two flows are forgotten", func() string {
		_, body := a.get(t, "/metrics")
		for _, family := range []string{"ipv4", "ipv6"} {
			if !strings.Contains(body, "\n"+`ip_masq_guard_agent_conntrack_flushed_total{family="`+family+`"} 1`+"\n") {
				return a.log.String()
			}
		}
		return ""
	})
	seen("after", map[netip.Addr]netip.Addr{
		changing: netns.PodIPv4, spared: netns.PodIPv4, changing6: netns.PodIPv6, spared6: netns.PodIPv6,
	})
	a.stop(t)
}
