// Package nftables makes a native nftables table hold a Ruleset, one table of ours for
// each family. It renders purely; nft(8) is run to list a table and, by way of
// knftables, to carry out transactions. It knows neither iptables nor Kubernetes.
package nftables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"go4.org/netipx"
	"sigs.k8s.io/knftables"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// Kernel is nftables in this network namespace. It is for one goroutine at a time.
type Kernel struct {
	tables map[ruleset.Family]*table
}

// table is ours of one family.
//
// Another version of nft may print our rules in other words than we render them. So what
// it prints right after a write of ours is remembered and counts as ours too. That
// costs a process, which is saved where a new table replaces an old one and this
// nft has been faithful, that is, has printed a table of ours in our own words.
type table struct {
	family   ruleset.Family
	name     string // that nft stands for
	nft      knftables.Interface
	faithful bool
	written  shape // the last one
	printed  shape // what nft printed of it; nil when it was not asked
}

// Open returns the nftables of this namespace. What is missing for it fails at the first
// use, not here.
func Open() *Kernel {
	k := &Kernel{tables: map[ruleset.Family]*table{}}
	for _, family := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
		k.tables[family] = &table{family: family}
	}
	return k
}

// locate finds nft, each time anew: it may come and go.
func locate() (string, error) {
	path, err := exec.LookPath("nft")
	if err != nil {
		return "", fmt.Errorf("looking for nft: %w; install the package nftables", err)
	}
	return path, nil
}

// Inspect reads how the kernel differs from want; nothing is written.
func (k *Kernel) Inspect(ctx context.Context, want ruleset.Ruleset) ([]ruleset.Drift, error) {
	rendered, err := Render(want)
	if err != nil {
		return nil, err
	}
	t := k.tables[want.Family]
	found, err := t.read(ctx, rendered.Name)
	if err != nil {
		return nil, err
	}
	return t.compare(rendered, found), nil
}

// Apply makes the kernel hold want and returns what had drifted. Where nothing had,
// nothing is written; a change is one transaction that nft has checked before.
func (k *Kernel) Apply(ctx context.Context, want ruleset.Ruleset) ([]ruleset.Drift, error) {
	rendered, err := Render(want)
	if err != nil {
		return nil, err
	}
	t := k.tables[want.Family]
	found, err := t.read(ctx, rendered.Name)
	if err != nil {
		return nil, err
	}
	drift := t.compare(rendered, found)
	if len(drift) == 0 {
		return nil, nil
	}
	if err := t.write(ctx, rendered, found); err != nil {
		return drift, fmt.Errorf("writing table %s: %w", rendered.Name, err)
	}
	return drift, nil
}

// Remove deletes the tables that stand for a chain, of both families, with all that is
// in them. Where there are none it does nothing.
func (k *Kernel) Remove(ctx context.Context, chain string) error {
	name := TableName(chain)
	var errs []error
	for _, family := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
		if err := k.tables[family].remove(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("removing table %s %s: %w", familyName(family), name, err))
		}
	}
	return errors.Join(errs...)
}

func (t *table) remove(ctx context.Context, name string) error {
	found, err := t.read(ctx, name)
	if err != nil || !found.exists {
		return err
	}
	if err := t.connect(name); err != nil {
		return err
	}
	t.written, t.printed = nil, nil
	deletion := t.nft.NewTransaction()
	deletion.Delete(&knftables.Table{})
	if err := t.nft.Run(ctx, deletion); err != nil && !knftables.IsNotFound(err) {
		return failed(ctx, "nft -f -", err)
	}
	return nil
}

func (t *table) read(ctx context.Context, name string) (content, error) {
	nft, err := locate()
	if err != nil {
		return content{}, err
	}
	found, err := list(ctx, nft, t.family, name)
	if err != nil {
		return content{}, fmt.Errorf("reading table %s: %w", name, err)
	}
	return found, nil
}

// connect makes knftables work for a table.
func (t *table) connect(name string) error {
	if t.nft != nil && t.name == name {
		return nil
	}
	nft, err := knftables.New(knftables.Family(familyName(t.family)), name)
	if err != nil {
		return fmt.Errorf("probing nft: %w", err)
	}
	t.nft, t.name = nft, name
	return nil
}

// compare tells how what was listed differs from want.
func (t *table) compare(want Table, found content) []ruleset.Drift {
	if !found.exists {
		return []ruleset.Drift{ruleset.TableMissing}
	}
	drift := map[ruleset.Drift]bool{}
	if wanted := want.shape(); !t.knows(wanted, found.shape) {
		for block, lines := range wanted {
			has, ok := found.shape[block]
			missing, changed := kinds(block)
			drift[missing] = drift[missing] || !ok
			drift[changed] = drift[changed] || ok && !slices.Equal(has, lines)
		}
		for block := range found.shape {
			if _, ours := wanted[block]; !ours {
				_, changed := kinds(block)
				drift[changed] = true
			}
		}
	}
	for _, set := range want.Sets {
		if _, ok := found.shape[setBlock(set.Name)]; ok && !set.holds(found.elements[set.Name]) {
			drift[ruleset.SetChanged] = true
		}
	}
	var sorted []ruleset.Drift
	for _, kind := range []ruleset.Drift{ruleset.ChainMissing, ruleset.ChainChanged, ruleset.SetMissing, ruleset.SetChanged} {
		if drift[kind] {
			sorted = append(sorted, kind)
		}
	}
	return sorted
}

// knows tells that nft prints wanted in these words.
func (t *table) knows(wanted, found shape) bool {
	return found.equal(wanted) || t.printed != nil && t.written.equal(wanted) && t.printed.equal(found)
}

// kinds are those of drift of a block.
func kinds(block string) (missing, changed ruleset.Drift) {
	if strings.HasPrefix(block, "set ") {
		return ruleset.SetMissing, ruleset.SetChanged
	}
	return ruleset.ChainMissing, ruleset.ChainChanged
}

func setBlock(name string) string { return "set " + name }

const chainBlock = "chain " + chainName

// shape is what nft is to list, but for the elements.
func (t Table) shape() shape {
	s := shape{chainBlock: append([]string{chainHead}, t.Rules...)}
	for _, set := range t.Sets {
		s[setBlock(set.Name)] = set.head()
	}
	return s
}

// holds tells that these are the elements of the set.
func (s Set) holds(elements []string) bool {
	if s.typ == ifname {
		return slices.Equal(slices.Sorted(slices.Values(elements)), slices.Sorted(slices.Values(s.elements())))
	}
	ranges, err := parseRanges(elements)
	return err == nil && slices.Equal(ranges, s.Ranges)
}

// write makes the table hold want, by the first of these transactions that passes nft's
// check; a kernel or an nft may refuse the finer ones.
func (t *table) write(ctx context.Context, want Table, found content) error {
	if err := t.connect(want.Name); err != nil {
		return err
	}
	healing := t.written.equal(want.shape())
	t.printed = nil
	var err error
	for _, transaction := range t.transactions(want, found) {
		if err = t.run(ctx, transaction); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	t.written = want.shape()
	if t.faithful && !healing {
		return nil
	}
	back, err := t.read(ctx, want.Name)
	if err != nil {
		return fmt.Errorf("reading it back: %w", err)
	}
	if !back.exists {
		return errors.New("reading it back: it is not there; does another program remove it?")
	}
	t.printed = back.shape
	t.faithful = back.shape.equal(t.written)
	return nil
}

// run carries a transaction out, after a check.
func (t *table) run(ctx context.Context, transaction *knftables.Transaction) error {
	if err := t.nft.Check(ctx, transaction); err != nil {
		return failed(ctx, "nft --check -f -", err)
	}
	if err := t.nft.Run(ctx, transaction); err != nil {
		return failed(ctx, "nft -f -", err)
	}
	return nil
}

// failed is an error of knftables in one line. It holds what nft has printed.
func failed(ctx context.Context, command string, err error) error {
	cause := errors.Unwrap(err)
	switch {
	case ctx.Err() != nil:
		cause = ctx.Err() // rather than "signal: killed"
	case cause == nil:
		return fmt.Errorf("running %s: %w", command, err)
	}
	return &failure{command: command, stderr: oneLine(err.Error()), cause: cause}
}

// transactions are the ways from what was found to want, the finest first. Packets meet
// either the old rules or the new ones in each of them, and never a set that is half
// of both: in a set that is changed in place, kernels before 6.17 may not find an
// address whose element is replaced by another one. So only elements that have no
// address in common are changed in place, and else the set itself is replaced.
func (t *table) transactions(want Table, found content) []*knftables.Transaction {
	var ways []*knftables.Transaction
	if deleted, added, ok := t.elementsOnly(want, found); ok {
		way := t.nft.NewTransaction()
		if len(deleted) > 0 {
			way.Delete(elements(sparedSet, rangeTexts(deleted)))
		}
		if len(added) > 0 {
			way.Add(elements(sparedSet, rangeTexts(added)))
		}
		ways = append(ways, way)
	}
	if found.exists && !found.strange() {
		way := t.nft.NewTransaction()
		t.replace(way, want, found)
		ways = append(ways, way)
	}
	way := t.nft.NewTransaction()
	if found.exists {
		way.Delete(&knftables.Table{})
	}
	t.replace(way, want, content{})
	return append(ways, way)
}

// elementsOnly tells that nothing but elements of the set spared differ, and none that
// have an address in common.
func (t *table) elementsOnly(want Table, found content) (deleted, added []netipx.IPRange, ok bool) {
	if !found.exists || !t.knows(want.shape(), found.shape) {
		return nil, nil, false
	}
	for _, set := range want.Sets {
		if set.Name == sparedSet {
			ranges, err := parseRanges(found.elements[sparedSet])
			if err != nil {
				return nil, nil, false
			}
			deleted, added = difference(ranges, set.Ranges)
		} else if !set.holds(found.elements[set.Name]) {
			return nil, nil, false
		}
	}
	return deleted, added, disjoint(deleted, added)
}

// strange tells that the table has what is nothing of ours and is not flushed with our
// chain.
func (c content) strange() bool {
	for block := range c.shape {
		if block != chainBlock && !strings.HasPrefix(block, "set ") {
			return true
		}
	}
	return false
}

// replace writes the whole table. The base chain stays where it is hooked; a chain that
// was deleted and made again would let a packet pass between the two.
func (t *table) replace(way *knftables.Transaction, want Table, found content) {
	way.Add(&knftables.Table{})
	way.Add(&knftables.Chain{
		Name: chainName, Type: new(knftables.NATType), Hook: new(knftables.PostroutingHook),
		Priority: new(knftables.BaseChainPriority(strconv.Itoa(priority))), Policy: new(knftables.AcceptPolicy),
	})
	way.Flush(&knftables.Chain{Name: chainName})
	for _, block := range slices.Sorted(maps.Keys(found.shape)) {
		if name, ok := strings.CutPrefix(block, "set "); ok {
			way.Delete(&knftables.Set{Name: name})
		}
	}
	for _, set := range want.Sets {
		made := &knftables.Set{Name: set.Name, Type: set.typ}
		if set.interval() {
			made.Flags = []knftables.SetFlag{knftables.IntervalFlag}
		}
		way.Add(made)
		if all := set.elements(); len(all) > 0 {
			way.Add(elements(set.Name, all))
		}
	}
	for _, rule := range want.Rules {
		way.Add(&knftables.Rule{Chain: chainName, Rule: rule})
	}
}

// elements are many in one, since nft reads a command with many elements many times as
// fast as many commands.
func elements(set string, texts []string) *knftables.Element {
	return &knftables.Element{Set: set, Key: []string{strings.Join(texts, ", ")}}
}
