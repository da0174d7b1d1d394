//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/nftables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// mechanism is what --backend chooses.
type mechanism string

// The mechanisms; auto is only an input.
const (
	byIPTables  mechanism = "iptables"
	byNFTables  mechanism = "nftables"
	byWhatever  mechanism = "auto"
	nativeTable           = iptables.Backend(byNFTables) // beside nft and legacy, where all are named
)

// holder is a kernel with what is to be told of it.
type holder struct {
	kernel

	name    iptables.Backend
	reason  string // of the choice
	version string
	watched watchable
	planner planner
	left    func(ruleset.Family) []string // as iptables.Kernel.Left
	former  []former                      // where else an agent may have left rules
}

// openBackend chooses what holds the rules, and opens it.
func openBackend(ctx context.Context, opts options) (holder, error) {
	chosen, reason, err := chooseBackend(ctx, opts)
	if err != nil {
		return holder{}, err
	}
	native := nftables.Open()
	if chosen == nativeTable {
		return holder{
			kernel: native, name: chosen, reason: reason, version: native.Version(ctx),
			watched: native, planner: native,
			left: func(ruleset.Family) []string { return nil },
			former: []former{
				formerTables(native, opts.rules.Chain),
				formerChains(iptables.NFT, opts.rules.Chain), formerChains(iptables.Legacy, opts.rules.Chain), formerSets(opts.rules.Chain),
			},
		}, nil
	}
	kernel, err := iptables.Open(chosen)
	if err != nil {
		return holder{}, err
	}
	other := iptables.Legacy
	if chosen == iptables.Legacy {
		other = iptables.NFT
	}
	return holder{
		kernel: kernel, name: chosen, reason: reason, version: kernel.Version(ctx),
		watched: kernel, planner: kernel,
		left:   kernel.Left,
		former: []former{formerChains(other, opts.rules.Chain), formerTables(native, "")},
	}, nil
}

// chooseBackend returns nft, legacy or nativeTable, and why.
func chooseBackend(ctx context.Context, opts options) (iptables.Backend, string, error) {
	switch opts.mechanism {
	case byNFTables:
		return nativeTable, "--backend", nil
	case byWhatever:
		table, missing := nftables.KubeProxy(ctx)
		if table != "" {
			return nativeTable, "kube-proxy keeps its rules in " + table, nil
		}
		chosen, why, err := chooseIPTables(ctx, opts.iptables)
		if err == nil {
			return chosen, why, nil
		}
		if missing == nil {
			return nativeTable, "no iptables command is installed", nil
		}
		return "", "", errors.Join(err, missing)
	case byIPTables:
	}
	return chooseIPTables(ctx, opts.iptables)
}

func chooseIPTables(ctx context.Context, wanted iptables.Backend) (iptables.Backend, string, error) {
	if wanted != iptables.Auto {
		return wanted, "--iptables-backend", nil
	}
	chosen, why, err := iptables.Choose(ctx)
	if err != nil {
		return "", "", fmt.Errorf("%w; --iptables-backend=nft or legacy chooses by hand, --backend=nftables does without", err)
	}
	return chosen, why, nil
}

// drifts are the kinds of drift of every backend.
func drifts() []ruleset.Drift {
	return append(iptables.Drifts(), ruleset.TableMissing)
}

// former removes what agents have left of a family in one place, and tells what went;
// remains only tells.
type former struct {
	where           iptables.Backend
	remove, remains func(context.Context, ruleset.Family) (iptables.Removal, error)
}

// formerChains are those of every agent in a backend of iptables, with their ipsets but
// for those of one chain.
func formerChains(where iptables.Backend, kept string) former {
	return former{
		where: where,
		remove: func(ctx context.Context, family ruleset.Family) (iptables.Removal, error) {
			removal, err := iptables.RemoveAll(ctx, where, family)
			for _, chain := range removal.Chains {
				if chain == kept {
					continue
				}
				if _, failure := iptables.RemoveSets(family, chain); failure != nil {
					err = errors.Join(err, failure)
				}
			}
			return removal, err
		},
		remains: func(ctx context.Context, family ruleset.Family) (iptables.Removal, error) {
			return iptables.RemainsAll(ctx, where, family)
		},
	}
}

// formerSets are the ipsets of the chain.
func formerSets(chain string) former {
	return former{
		where: "ipset",
		remove: func(_ context.Context, family ruleset.Family) (iptables.Removal, error) {
			return iptables.RemoveSets(family, chain)
		},
		remains: func(_ context.Context, family ruleset.Family) (iptables.Removal, error) {
			return iptables.RemainingSets(family, chain)
		},
	}
}

// formerTables are native ones but for that of the chain.
func formerTables(native *nftables.Kernel, chain string) former {
	return former{
		where: nativeTable,
		remove: func(ctx context.Context, family ruleset.Family) (iptables.Removal, error) {
			names, err := native.RemoveFormer(ctx, family, chain)
			return removedTables(family, names), err
		},
		remains: func(ctx context.Context, family ruleset.Family) (iptables.Removal, error) {
			names, err := native.Former(ctx, family, chain)
			return removedTables(family, names), err
		},
	}
}

func removedTables(family ruleset.Family, names []string) iptables.Removal {
	removal := iptables.Removal{Backend: nativeTable, Family: family}
	for _, name := range names {
		removal.Lines = append(removal.Lines, "table "+name)
	}
	return removal
}
