//go:build !windows

package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"

	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// successor is a kernel that takes over from the agents before it. In its own table
// Apply does so by itself; this removes what they have left elsewhere, whose rules are in
// force as well, once ours are in force. No transaction spans two backends, so
// for a moment there are both: a new flow then is spared only where both spare it, that
// is, it is treated as before or as afterwards.
type successor struct {
	holder

	report succession
	done   map[placeOf]bool
	told   map[ruleset.Family][]string // what was last told of a family
}

// placeOf is where a former agent may have left something.
type placeOf struct {
	family ruleset.Family
	former int
}

// succession tells what became of the rules of former agents.
type succession struct {
	removed func(context.Context, iptables.Removal)
	left    func(ctx context.Context, family ruleset.Family, why []string)
	unseen  func(ctx context.Context, family ruleset.Family, why error) // there are no commands to look with
}

func newSuccessor(h holder, report succession) *successor {
	return &successor{holder: h, report: report, done: map[placeOf]bool{}, told: map[ruleset.Family][]string{}}
}

// Apply is that of the kernel. Failing to remove what others have left is told, tried
// again at the next pass, and no failure: our rules are in force.
func (s *successor) Apply(ctx context.Context, want ruleset.Ruleset) ([]ruleset.Drift, error) {
	drift, err := s.kernel.Apply(ctx, want)
	if err != nil {
		return drift, err
	}
	left := s.left(want.Family)
	for i, former := range s.former {
		place := placeOf{want.Family, i}
		if s.done[place] {
			continue
		}
		removal, err := former.remove(ctx, want.Family)
		if errors.Is(err, iptables.ErrMissing) {
			s.report.unseen(ctx, want.Family, err)
			s.done[place] = true
			continue
		}
		if len(removal.Lines) > 0 {
			s.report.removed(ctx, removal)
		}
		if slices.Contains(removal.Chains, want.Chain) {
			// Sets that it asked, and ours does not, could not go before it.
			_, failure := s.kernel.Apply(ctx, want)
			err = errors.Join(err, failure)
		}
		left = append(left, removal.Left...)
		s.done[place] = err == nil
		if err != nil {
			left = append(left, "what another agent may have in the backend "+string(former.where)+" stays: "+err.Error())
		}
	}
	if len(left) > 0 && !slices.Equal(left, s.told[want.Family]) {
		s.report.left(ctx, want.Family, left)
	}
	s.told[want.Family] = left
	return drift, nil
}

// logged is the succession of a daemon.
func logged(log *slog.Logger) succession {
	return succession{
		removed: func(ctx context.Context, r iptables.Removal) {
			log.InfoContext(ctx, "rules of a former agent removed", "family", r.Family.String(), "backend", r.Backend, "lines", len(r.Lines))
		},
		left: func(ctx context.Context, family ruleset.Family, why []string) {
			log.WarnContext(ctx, "rules of a former agent stay", "family", family.String(), "reasons", why)
		},
		unseen: func(ctx context.Context, family ruleset.Family, why error) {
			log.InfoContext(ctx, "rules of a former agent not looked for", "family", family.String(), "reason", why)
		},
	}
}

// printed is the succession of a run that ends.
func printed(stdout, stderr io.Writer) succession {
	return succession{
		removed: func(_ context.Context, r iptables.Removal) {
			tell(stdout, "%s: %d lines of a former agent removed from the backend %s\n", r.Family, len(r.Lines), r.Backend)
		},
		left: func(_ context.Context, family ruleset.Family, why []string) {
			for _, reason := range why {
				tell(stderr, "agent: %s: %s\n", family, reason)
			}
		},
		unseen: func(context.Context, ruleset.Family, error) {},
	}
}
