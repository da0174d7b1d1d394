package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"go4.org/netipx"

	"github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// Bounds of one survey. With 20,000 chains nft takes 0.3 s to list them, and 43 MB.
const (
	surveyTimeout  = 30 * time.Second
	maxSavePasses  = 8         // of iptables-save; two are the most that programs of the field need
	maxNFTObjects  = 512       // chains, sets and maps that are listed; Docker needs three a network
	maxNFTOutput   = 128 << 20 // bytes of one listing
	maxSetElements = 1 << 14   // of an ipset that is looked into
)

// Survey finds the rules of others that rewrite sources beside ours, in the nat tables
// of both backends and in native tables of nft. There is one Ours a family; what cannot
// be read is told in the report. Nothing is written, and no table is made.
func Survey(ctx context.Context, ours []foreign.Ours) foreign.Report {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	native, partial := readNFT(ctx)
	report := foreign.Report{Partial: partial}
	for _, o := range ours {
		family := o.Decision.Family
		var hooks []foreign.Hook
		for _, backend := range []Backend{NFT, Legacy} {
			hook, told := readHook(ctx, backend, family)
			report.Partial = append(report.Partial, told...)
			hooks = append(hooks, hook...)
		}
		found, whole := native.Hooks(family)
		if !whole {
			report.Partial = append(report.Partial, fmt.Sprintf("%s: native tables have more rules at postrouting than are kept", family))
		}
		report.Merge(foreign.Judge(o, append(hooks, found...)))
	}
	return report
}

// readHook reads the nat table of a backend, unless that is not in use.
func readHook(ctx context.Context, backend Backend, family ruleset.Family) (hooks []foreign.Hook, partial []string) {
	if backend == Legacy && !legacyHas(family, natTable) {
		return nil, nil
	}
	commands, err := find(ctx, backend, family)
	switch {
	case err != nil && backend == NFT:
		return nil, nil // the native tables are looked at all the same, and that of iptables with them
	case err != nil:
		return nil, []string{fmt.Sprintf("%s has a legacy nat table that cannot be read: %v", family, err)}
	}
	scan := foreign.NewSaveScan(string(backend), family)
	for range maxSavePasses {
		take := func(line string) error {
			scan.Line(line)
			return nil
		}
		if err := run(ctx, command{path: commands.save, args: []string{"-t", natTable}, lines: take}); err != nil {
			return nil, []string{fmt.Sprintf("%s nat table of %s: %v", family, backend, err)}
		}
		if !scan.Again() {
			break
		}
	}
	hook, whole := scan.Hook(members)
	if !whole {
		partial = []string{fmt.Sprintf("%s nat table of %s: more rules at postrouting than are kept", family, backend)}
	}
	return []foreign.Hook{hook}, partial
}

// members asks the kernel what an ipset of networks or addresses holds. One with
// exceptions is not looked into.
func members(name string) (*netipx.IPSet, bool) {
	var held netipx.IPSetBuilder
	count, known := 0, true
	err := ask(nl.IPSET_CMD_LIST, 0, setName(nil, name), func(reply []byte) {
		for key, value := range attributes(reply) {
			if key == nl.IPSET_ATTR_TYPENAME {
				typ := string(bytes.TrimRight(value, "\x00"))
				known = known && (typ == "hash:net" || typ == "hash:ip")
			}
		}
		for _, entry := range within(reply, nl.IPSET_ATTR_ADT) {
			e, err := decodeEntry(entry)
			if count++; err != nil || e.Exception || count > maxSetElements {
				known = false
				return
			}
			held.AddPrefix(e.Prefix)
		}
	})
	if err != nil || !known {
		return nil, false
	}
	set, err := held.IPSet()
	return set, err == nil
}

// readNFT lists the chains that hook nat at postrouting in native tables and what they
// lead to, one by one: a whole ruleset may have a hundred thousand rules.
func readNFT(ctx context.Context) (scan *foreign.NFTScan, partial []string) {
	// What iptables-nft-save prints is left to it. Where it is not installed nft prints
	// its tables too, though not every condition.
	_, unreadable := locate(plain(ruleset.IPv4) + "-" + string(NFT))
	scan = foreign.NewNFTScan(func(family, table, chain string) bool {
		return unreadable == nil && table == natTable && chain == postrouting && family != "inet"
	})
	path, err := exec.LookPath("nft")
	if err != nil {
		return scan, []string{"native tables of nft were not looked at: nft is not installed"}
	}
	if err := listNFT(ctx, scan.ReadChains, path, "chains"); err != nil {
		return scan, []string{fmt.Sprintf("native tables of nft: %v", err)}
	}
	listed := 0
	for wanted := scan.Wanted(); len(wanted) > 0; wanted = scan.Wanted() {
		for _, o := range wanted {
			if listed++; listed > maxNFTObjects {
				return scan, append(partial, fmt.Sprintf("native tables of nft: more than %d chains, sets and maps at postrouting", maxNFTObjects))
			}
			if err := listNFT(ctx, scan.Read, path, o.Arguments()...); err != nil {
				if !vanished(err) {
					partial = append(partial, fmt.Sprintf("native tables of nft: %v", err))
				}
				scan.Missing(o)
			}
			if ctx.Err() != nil {
				return scan, append(partial, "native tables of nft: no time is left")
			}
		}
	}
	return scan, partial
}

// vanished tells that what was to be listed is gone since it was heard of.
func vanished(err error) bool {
	failed := (*failure)(nil)
	return errors.As(err, &failed) && strings.Contains(failed.stderr, syscall.ENOENT.Error())
}

// listNFT lets a scan read what nft lists.
func listNFT(ctx context.Context, read func(io.Reader) error, path string, what ...string) error {
	process := exec.CommandContext(ctx, path, append([]string{"-j", "list"}, what...)...) //nolint:gosec // it is nft, and names that nft has told
	process.Env = append(process.Environ(), "LC_ALL=C")                                   // its messages are read
	process.WaitDelay = outputDelay
	complaint := &boundedBuffer{}
	process.Stderr = complaint
	output, err := process.StdoutPipe()
	if err == nil {
		err = process.Start()
	}
	if err != nil {
		return &failure{command: process.String(), cause: err}
	}
	unread := read(io.LimitReader(output, maxNFTOutput))
	_, _ = io.Copy(io.Discard, output) // so that it ends by itself; what counts is its exit status
	if err := process.Wait(); err != nil {
		return &failure{command: process.String(), stderr: complaint.String(), cause: err}
	}
	return unread
}
