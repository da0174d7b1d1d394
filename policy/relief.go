package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// Waiver turns what one rule denies into a warning, for one place or range and for a
// time: an entry of exceptions in params. It always ends: a standing one is a bound of
// the rule that should change.
type Waiver struct {
	Rule   string       // id of the rule, of custom rules as findings show it: "payments/no-public"
	Path   string       // "nonMasqueradeCIDRs[2]", "resyncInterval"; empty when CIDR says what
	CIDR   netip.Prefix // what the finding is about lies inside; zero when Path says what
	Reason string
	Until  time.Time // the first moment at which it no longer holds
}

// about is what the waiver is for, in words.
func (w Waiver) about() string {
	if w.Path != "" {
		return w.Path
	}
	return w.CIDR.String()
}

// coverageRules judge ranges of the cluster all at once, so that a waiver takes its
// range out of what they judge.
const (
	ruleNodeCIDRs    = "node-cidrs-present"
	rulePodCIDRs     = "pod-cidrs-present"
	ruleServiceCIDRs = "service-cidrs-present"
)

// inForce is the action of a rule at a moment: what params say until that ends, and
// fallback after it or without it.
func (p RuleParams) inForce(fallback Action, now time.Time) Action {
	if p.Until.IsZero() || now.Before(p.Until) {
		return cmp.Or(p.Action, fallback)
	}
	return fallback
}

// everyRule at the end of a name in params means every rule of that custom package and of
// those below it.
const everyRule = "/*"

// paramsOf are the params of a rule: its own, or else those of the narrowest custom
// package around it.
func (p Params) paramsOf(rule string) RuleParams {
	own, ok := p.Rules[rule]
	for around := rule; !ok; own, ok = p.Rules[around+everyRule] {
		slash := strings.LastIndexByte(around, '/')
		if slash < 0 {
			// The package itself, for violations that name no rule.
			return p.Rules[rule+everyRule]
		}
		around = around[:slash]
	}
	return own
}

// waiveRanges takes waived ranges out of what the coverage rules judge, and tells
// which waivers that used.
func (p Params) waiveRanges(f *facts, l layout, cluster *Cluster, now time.Time) []Finding {
	var used []Finding
	for _, kind := range []struct {
		rule   string
		ranges *required
		found  *coverage
	}{
		{ruleNodeCIDRs, &cluster.node, &f.node},
		{rulePodCIDRs, &cluster.pod, &f.pod},
		{ruleServiceCIDRs, &cluster.service, &f.service},
	} {
		ranges := *kind.ranges
		for _, w := range p.Waivers {
			if w.Rule != kind.rule || !w.CIDR.IsValid() || !now.Before(w.Until) || len(kind.found.uncovered) == 0 {
				continue
			}
			ranges.merged = subtract(ranges.merged, union(w.CIDR))
			left := ranges.minus(l)
			if slices.Equal(left.uncovered, kind.found.uncovered) && left.omitted == kind.found.omitted {
				continue
			}
			*kind.found = left
			used = append(used, w.finding(Finding{
				Rule: w.Rule, Key: ConfigKey, Path: config.KeyNonMasqueradeCIDRs, Docs: docsOf(w.Rule),
				Message: "the list does not cover all of " + w.CIDR.String(),
			}))
		}
	}
	return used
}

// relieve applies to findings what params say of custom rules, and waivers.
func (p Params) relieve(findings []Finding, c config.Config, now time.Time) []Finding {
	if len(p.Waivers) == 0 && len(p.Rules) == 0 {
		return findings
	}
	kept := findings[:0]
	for _, f := range findings {
		own := p.paramsOf(f.Rule)
		if f.fixed || f.Rule == ruleLoads || f.Rule == ruleEngine {
			kept = append(kept, f)
			continue
		}
		if f.Action = own.inForce(f.Action, now); f.Action == Off {
			continue
		}
		if !own.Until.IsZero() && !now.Before(own.Until) {
			f.Hint = withLine(f.Hint, fmt.Sprintf("action %s of this rule ended %s", own.Action, untilText(own.Until)))
		}
		kept = append(kept, p.waive(f, c, now))
	}
	return kept
}

// waive applies the waivers to one finding. What does not load, and a rule that failed,
// cannot be waived.
func (p Params) waive(f Finding, c config.Config, now time.Time) Finding {
	if f.Action != Deny || f.Failed || f.Rule == ruleLoads || f.Rule == ruleEngine {
		return f
	}
	for _, w := range p.Waivers {
		switch {
		case !w.covers(f, c):
		case now.Before(w.Until):
			return w.finding(f)
		default:
			f.Hint = withLine(f.Hint, fmt.Sprintf("the exception for %s ended %s (%s)", w.about(), untilText(w.Until), w.Reason))
		}
	}
	return f
}

// covers tells whether the waiver is for what a finding is about.
func (w Waiver) covers(f Finding, c config.Config) bool {
	if w.Rule != f.Rule {
		return false
	}
	if w.Path != "" {
		return w.Path == f.Path
	}
	about, err := netip.ParsePrefix(strings.TrimSpace(f.Text))
	if err != nil {
		var ok bool
		if about, ok = prefixAt(c, f.Path); !ok {
			return false
		}
	}
	return w.CIDR.Bits() <= about.Bits() && w.CIDR.Contains(about.Addr())
}

// prefixAt is the CIDR that a path names, as "nonMasqueradeCIDRs[2]", in an override too.
func prefixAt(c config.Config, path string) (netip.Prefix, bool) {
	if strings.HasPrefix(path, config.KeyNodeOverrides) {
		for i, o := range c.Overrides {
			if strings.HasPrefix(path, config.OverridePath(i)+".") {
				return prefixAt(o.Config, path)
			}
		}
	}
	for _, key := range listKeys {
		for i, prefix := range c.CIDRs(key) {
			if c.Element(key, i).Path == path {
				return prefix, true
			}
		}
	}
	return netip.Prefix{}, false
}

// finding is f as a warning that tells of the waiver.
func (w Waiver) finding(f Finding) Finding {
	f.Action = Warn
	f.Message = fmt.Sprintf("%s; excepted until %s: %s", f.Message, untilText(w.Until), oneLine(w.Reason))
	return f
}

func withLine(hint, line string) string {
	if hint == "" {
		return line
	}
	return hint + "\n" + line
}

// parseUntil reads the end of something in params: a day, which is the last one, in UTC,
// or a moment (RFC 3339).
func parseUntil(text string) (time.Time, error) {
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day.AddDate(0, 0, 1), nil
	}
	moment, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is neither a day such as 2026-12-31 nor a time such as 2026-12-31T18:00:00Z", text)
	}
	return moment.UTC(), nil
}

// untilText is the text that parseUntil reads.
func untilText(until time.Time) string {
	if until.Equal(until.Truncate(24 * time.Hour)) {
		return until.AddDate(0, 0, -1).Format(time.DateOnly)
	}
	return until.Format(time.RFC3339)
}
