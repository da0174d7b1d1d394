package nftables

import (
	"context"
	"testing"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/agent/notify"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// TestForeignChangesAreTold: all of our table, and none of others' that come before.
func TestForeignChangesAreTold(t *testing.T) {
	for _, test := range []struct{ name, commands string }{
		{"chain flushed", "flush chain OURS postrouting"},
		{"rule added", "add rule OURS postrouting accept"},
		{"set flushed", "flush set OURS spared"},
		{"set deleted", "flush chain OURS postrouting; delete set OURS spared"},
		{"chain of theirs", "add chain OURS theirs"},
		{"table deleted", "delete table OURS"},
		{"table dormant", "add table OURS { flags dormant; }"},
		{"ruleset flushed", "flush ruleset"},
	} {
		for _, family := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
			t.Run(test.name+" "+family.String(), func(t *testing.T) {
				n := newNode(t, family)
				n.apply(t, n.spare("10.0.0.0/8", "172.16.0.0/12", "fd00::/8", "fc00:1::/32"))
				var watch *notify.Watch
				err := n.Do(func() (err error) {
					watch, err = n.kernel.Watch("IP-MASQ-AGENT", []ruleset.Family{family})
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- watch.Run(ctx) }()
				defer func() {
					cancel()
					if err := <-ended; err != nil {
						t.Error(err)
					}
				}()

				n.other(t, "add table FAMILY ip-masq-guard-IP; add chain FAMILY ip-masq-guard-IP c; add rule FAMILY ip-masq-guard-IP c accept")
				n.other(t, "add table inet ip-masq-guard-IP-MASQ-AGENT; delete table inet ip-masq-guard-IP-MASQ-AGENT")
				n.other(t, test.commands)
				select {
				case <-watch.Changes():
				case <-time.After(10 * time.Second):
					t.Fatal("the change is not told")
				}
				if by, pending := watch.Pending(); !pending || by.Program != "nft" || by.PID == 0 {
					t.Errorf("pending %v, told to be by %+v", pending, by)
				}
				if counts := watch.Counts(); counts != (notify.Counts{Changes: 1}) {
					t.Errorf("told: %+v, want the one change of ours", counts)
				}
			})
		}
	}
}
