package policy

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// office is a custom rule that denies two ranges.
const office = `package ipmasq.payments

deny contains v if {
	some cidr in input.config.nonMasqueradeCIDRs
	cidr.cidr in {"203.0.113.0/24", "198.51.100.0/24"}
	v := {"msg": $"{cidr.cidr} is the office", "path": cidr.path, "rule": "no-office"}
}
`

// TestRelief asks on the last day, at its end, and right after it.
func TestRelief(t *testing.T) {
	overlapping := "nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 10.9.0.0/16\n- 10.10.0.0/16\n- 192.168.0.0/16\n"
	lastDay := time.Date(2026, 12, 31, 23, 59, 59, 0, time.UTC)
	dayAfter := lastDay.Add(time.Second)
	for _, c := range []struct {
		name    string
		params  string
		text    string
		time    time.Time
		allowed bool
		want    []string // action, rule, message
	}{
		{
			name:   "off until a day",
			params: "rules: {no-overlap: {action: off, until: 2026-12-31}}",
			text:   overlapping, time: lastDay, allowed: true,
		},
		{
			name:   "off until a day, after it",
			params: "rules: {no-overlap: {action: off, until: 2026-12-31}}",
			text:   overlapping, time: dayAfter,
			want: []string{
				"deny no-overlap: 10.9.0.0/16 lies inside 10.0.0.0/8 (nonMasqueradeCIDRs[0], line 2), so it has no effect | drop the line \"- 10.9.0.0/16\" | action off of this rule ended 2026-12-31",
				"deny no-overlap: 10.10.0.0/16 lies inside 10.0.0.0/8 (nonMasqueradeCIDRs[0], line 2), so it has no effect | drop the line \"- 10.10.0.0/16\" | action off of this rule ended 2026-12-31",
			},
		},
		{
			name:   "an exception for a range",
			params: "exceptions: [{rule: no-overlap, cidr: 10.9.0.0/16, reason: moving, until: 2026-12-31}]",
			text:   overlapping, time: lastDay,
			want: []string{
				"warn no-overlap: 10.9.0.0/16 lies inside 10.0.0.0/8 (nonMasqueradeCIDRs[0], line 2), so it has no effect; excepted until 2026-12-31: moving | drop the line \"- 10.9.0.0/16\"",
				"deny no-overlap: 10.10.0.0/16 lies inside 10.0.0.0/8 (nonMasqueradeCIDRs[0], line 2), so it has no effect | drop the line \"- 10.10.0.0/16\"",
			},
		},
		{
			name:   "an exception for both",
			params: "exceptions: [{rule: no-overlap, cidr: 10.8.0.0/14, reason: moving, until: 2026-12-31T23:59:59.5Z}]",
			text:   overlapping, time: lastDay, allowed: true,
			want: []string{
				"warn no-overlap: 10.9.0.0/16 lies inside 10.0.0.0/8 (nonMasqueradeCIDRs[0], line 2), so it has no effect; excepted until 2026-12-31T23:59:59Z: moving | drop the line \"- 10.9.0.0/16\"",
				"warn no-overlap: 10.10.0.0/16 lies inside 10.0.0.0/8 (nonMasqueradeCIDRs[0], line 2), so it has no effect; excepted until 2026-12-31T23:59:59Z: moving | drop the line \"- 10.10.0.0/16\"",
			},
		},
		{
			name:   "an exception that ended",
			params: "exceptions: [{rule: no-overlap, cidr: 10.9.0.0/16, reason: moving, until: 2026-12-31}]",
			text:   "nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 10.9.0.0/16\n- 192.168.0.0/16\n", time: dayAfter,
			want: []string{
				"deny no-overlap: 10.9.0.0/16 lies inside 10.0.0.0/8 (nonMasqueradeCIDRs[0], line 2), so it has no effect | drop the line \"- 10.9.0.0/16\" | the exception for 10.9.0.0/16 ended 2026-12-31 (moving)",
			},
		},
		{
			name:   "an exception for a path",
			params: "exceptions: [{rule: resync-bounds, path: resyncInterval, reason: load test, until: 2026-12-31}]",
			text:   "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\nresyncInterval: 2s\n", time: lastDay, allowed: true,
			want: []string{"warn resync-bounds: 2s is below 5s: every node would be busy rebuilding rules; excepted until 2026-12-31: load test | write resyncInterval: 5s or more"},
		},
		{
			name:   "an exception for a part of the pods' ranges",
			params: "exceptions: [{rule: pod-cidrs-present, cidr: 10.244.1.0/25, reason: lab, until: 2026-12-31}]",
			text:   "nonMasqueradeCIDRs: [10.96.0.0/12, 192.168.0.0/16]\n", time: lastDay,
			want: []string{
				"warn pod-cidrs-present: the list does not cover all of 10.244.1.0/25; excepted until 2026-12-31: lab",
				"deny pod-cidrs-present: the list does not cover pod range 10.244.1.128/25 (Node worker-1): pods would be seen there with the address of their node, and dropped by firewalls | add to nonMasqueradeCIDRs: | - 10.244.1.128/25",
			},
		},
		{
			name:   "an exception for all of the pods' ranges",
			params: "exceptions: [{rule: pod-cidrs-present, cidr: 10.244.0.0/16, reason: lab, until: 2026-12-31}]",
			text:   "nonMasqueradeCIDRs: [10.96.0.0/12, 192.168.0.0/16]\n", time: lastDay, allowed: true,
			want: []string{"warn pod-cidrs-present: the list does not cover all of 10.244.0.0/16; excepted until 2026-12-31: lab"},
		},
		{
			name:   "an exception that is not needed",
			params: "exceptions: [{rule: pod-cidrs-present, cidr: 10.244.0.0/16, reason: lab, until: 2026-12-31}]",
			text:   "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n", time: lastDay, allowed: true,
		},
		{
			name:   "no exception for what does not load",
			params: "exceptions: [{rule: no-overlap, cidr: 10.0.0.0/8, reason: r, until: 2026-12-31}]",
			text:   "nonMasqueradeCIDRs: [10.0.0.1/8]\n", time: lastDay,
			want: []string{"deny config-loads: \"10.0.0.1/8\" has host bits set | write 10.0.0.0/8"},
		},
		{
			name: "a custom rule", text: "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16, 203.0.113.0/24]\n", time: lastDay,
			want: []string{"deny payments/no-office: 203.0.113.0/24 is the office"},
		},
		{
			name:   "a custom rule that warns",
			params: "rules: {payments/no-office: {action: warn}}",
			text:   "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16, 203.0.113.0/24]\n", time: lastDay, allowed: true,
			want: []string{"warn payments/no-office: 203.0.113.0/24 is the office"},
		},
		{
			name:   "a package that is off for a time",
			params: "rules: {payments/*: {action: off, until: 2026-12-31}}",
			text:   "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16, 203.0.113.0/24]\n", time: lastDay, allowed: true,
		},
		{
			name:   "one rule of a package that is off",
			params: "rules: {payments/*: {action: off}, payments/no-office: {action: warn}}",
			text:   "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16, 203.0.113.0/24]\n", time: lastDay, allowed: true,
			want: []string{"warn payments/no-office: 203.0.113.0/24 is the office"},
		},
		{
			name:   "an exception from a custom rule, by the range at the path",
			params: "exceptions: [{rule: payments/no-office, cidr: 203.0.113.0/24, reason: audit, until: 2026-12-31}]",
			text:   "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16, 203.0.113.0/24, 198.51.100.0/24]\n", time: lastDay,
			want: []string{
				"warn payments/no-office: 203.0.113.0/24 is the office; excepted until 2026-12-31: audit",
				"deny payments/no-office: 198.51.100.0/24 is the office",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := engine(t, c.params, Source{Name: "office.rego", Text: []byte(office)})
			request := update(c.text)
			request.Old, request.Operation, request.Time = nil, Create, c.time
			d := e.Decide(context.Background(), request, smallCluster())
			var got []string
			for _, f := range d.Findings {
				line := string(f.Action) + " " + f.Rule + ": " + f.Message
				if f.Hint != "" {
					line += " | " + strings.ReplaceAll(f.Hint, "\n", " | ")
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("findings differ (-want +got):\n%s", diff)
			}
			if d.Allowed != c.allowed {
				t.Errorf("allowed: %v", d.Allowed)
			}
		})
	}
}
