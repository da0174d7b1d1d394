package ruleset_test

import (
	"testing"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

func TestJumpTarget(t *testing.T) {
	const comment = "ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom MASQ chain"
	jump := func(chain, comment, target string) []string {
		return []string{"-A", chain, "-m", "comment", "--comment", comment, "-m", "addrtype", "!", "--dst-type", "LOCAL", "-j", target}
	}
	for _, test := range []struct {
		name string
		rule []string
		want string
	}{
		{"ours and upstream's", jump("POSTROUTING", comment, "MASQ"), "MASQ"},
		{"Azure's", jump("POSTROUTING", `"`+comment+`"`, "MASQ"), "MASQ"},
		{"GKE's", jump("POSTROUTING", comment[len("ip-masq-agent"):], "MASQ"), ""},
		{"of another chain", jump("OUTPUT", comment, "MASQ"), ""},
		{"to another chain than it says", jump("POSTROUTING", comment, "OTHER"), ""},
		{"without a comment", []string{"-A", "POSTROUTING", "-j", "MASQ"}, ""},
		{"without a target", []string{"-A", "POSTROUTING", "--comment", comment}, ""},
		{"nothing", nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, ok := ruleset.JumpTarget(test.rule)
			if ok != (test.want != "") || got != test.want {
				t.Errorf("jumps to %q, %t; want %q", got, ok, test.want)
			}
		})
	}
}
