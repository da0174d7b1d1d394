// Package nftables makes a native nftables table hold a Ruleset, one table of ours for
// each family. It renders purely; nft(8) is run to list a table and, by way of
// knftables, to carry out transactions. It knows neither iptables nor Kubernetes.
package nftables

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"go4.org/netipx"
	"sigs.k8s.io/knftables"

	"github.com/ip-masq-guard/ip-masq-guard/agent/notify"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// Kernel is nftables in this network namespace. It is for one goroutine at a time.
type Kernel struct {
	tables map[ruleset.Family]*table
}

// table is ours of one family.
//
// Another version of nft may print our rules in other words than we render them. So what
// it prints after each of two writes of ours is remembered and counts as ours too. That
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

// Drifts are the kinds of drift that a Kernel tells.
func Drifts() []ruleset.Drift {
	return []ruleset.Drift{ruleset.TableMissing, ruleset.ChainMissing, ruleset.ChainChanged, ruleset.SetMissing, ruleset.SetChanged}
}

// Version is how nft calls itself: "nftables v1.0.6 (Lester Gooch #5)". It is empty when
// it does not tell.
func (*Kernel) Version(ctx context.Context) string {
	nft, err := locate()
	if err != nil {
		return ""
	}
	version, err := query(ctx, nft, func(output io.Reader) (string, error) {
		text, failure := io.ReadAll(io.LimitReader(output, maxLine))
		return strings.TrimSpace(string(text)), failure
	}, "--version")
	if err != nil {
		return ""
	}
	return version
}

// Watch begins to listen for changes of the tables that stand for a chain, of these
// families.
func (*Kernel) Watch(chain string, families []ruleset.Family) (*notify.Watch, error) {
	var subjects []notify.Subject
	for _, family := range families {
		subjects = append(subjects, notify.Table(family, TableName(chain)))
	}
	return notify.New(subjects...)
}

// Inspect reads how the kernel differs from want; nothing is written.
func (k *Kernel) Inspect(ctx context.Context, want ruleset.Ruleset) ([]ruleset.Drift, error) {
	_, _, drift, err := k.inspect(ctx, want)
	return drift, err
}

func (k *Kernel) inspect(ctx context.Context, want ruleset.Ruleset) (Table, content, []ruleset.Drift, error) {
	defer took(ctx, ruleset.Inspect)()
	rendered, err := Render(want)
	if err != nil {
		return Table{}, content{}, nil, err
	}
	t := k.tables[want.Family]
	found, err := t.read(ctx, rendered.Name)
	if err != nil {
		return Table{}, content{}, nil, err
	}
	return rendered, found, t.compare(rendered, found), nil
}

// took tells the Trace of ctx how long it was until the function that it returns is called.
func took(ctx context.Context, phase ruleset.Phase) func() {
	began := time.Now()
	return func() { ruleset.TraceOf(ctx).Took(phase, time.Since(began)) }
}

// Apply makes the kernel hold want and returns what had drifted. Where nothing had,
// nothing is written. A change is one transaction, or several of which each leaves every
// packet treated as before or as afterwards; nft has checked each of them before.
func (k *Kernel) Apply(ctx context.Context, want ruleset.Ruleset) ([]ruleset.Drift, error) {
	rendered, found, drift, err := k.inspect(ctx, want)
	if err != nil || len(drift) == 0 {
		return nil, err
	}
	defer took(ctx, ruleset.Write)()
	t := k.tables[want.Family]
	if err := t.write(ctx, rendered, found); err != nil {
		return drift, fmt.Errorf("writing table %s: %w", rendered.Name, err)
	}
	return drift, nil
}

// Remove deletes the table of a family that stands for a chain, with all that is in it, and
// returns its name. Where there is none it does nothing.
func (k *Kernel) Remove(ctx context.Context, family ruleset.Family, chain string) ([]string, error) {
	return k.remove(ctx, family, func(name string) bool { return name == TableName(chain) })
}

// RemoveFormer deletes the tables of a family that an agent with another chain has left,
// and returns their names. With an empty chain all go that stand for any.
func (k *Kernel) RemoveFormer(ctx context.Context, family ruleset.Family, chain string) ([]string, error) {
	return k.remove(ctx, family, isFormer(chain))
}

// Former are the tables that RemoveFormer would delete.
func (k *Kernel) Former(ctx context.Context, family ruleset.Family, chain string) ([]string, error) {
	return k.present(ctx, family, isFormer(chain))
}

// Remaining are the tables that Remove would delete.
func (k *Kernel) Remaining(ctx context.Context, family ruleset.Family, chain string) ([]string, error) {
	return k.present(ctx, family, func(name string) bool { return name == TableName(chain) })
}

func isFormer(chain string) func(name string) bool {
	return func(name string) bool { return chain == "" || name != TableName(chain) }
}

func (k *Kernel) present(ctx context.Context, family ruleset.Family, goes func(name string) bool) ([]string, error) {
	names, err := k.tables[family].names(ctx)
	return slices.DeleteFunc(names, func(name string) bool { return !goes(name) }), err
}

func (k *Kernel) remove(ctx context.Context, family ruleset.Family, goes func(name string) bool) ([]string, error) {
	names, err := k.present(ctx, family, goes)
	if err != nil {
		return nil, err
	}
	var removed []string
	for _, name := range names {
		if err := k.tables[family].remove(ctx, name); err != nil {
			return removed, fmt.Errorf("removing table %s %s: %w", familyName(family), name, err)
		}
		removed = append(removed, name)
	}
	return removed, nil
}

// names are the tables of the family that stand for a chain.
func (t *table) names(ctx context.Context) ([]string, error) {
	nft, err := locate()
	if err != nil {
		return nil, err
	}
	names, err := listTables(ctx, nft, func(family, name string) bool {
		return family == familyName(t.family) && strings.HasPrefix(name, tablePrefix)
	})
	if err != nil {
		return nil, fmt.Errorf("looking for tables of ours: %w", err)
	}
	for i, name := range names {
		_, names[i], _ = strings.Cut(name, " ")
	}
	return names, nil
}

func (t *table) remove(ctx context.Context, name string) error {
	nft, err := knftables.New(knftables.Family(familyName(t.family)), name)
	if err != nil {
		return fmt.Errorf("probing nft: %w", err)
	}
	if t.name == name {
		t.written, t.printed = nil, nil
	}
	deletion := nft.NewTransaction()
	deletion.Delete(&knftables.Table{})
	if err := nft.Run(ctx, deletion); err != nil && !knftables.IsNotFound(err) {
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
	if _, ok := found.shape[setBlock]; ok && !want.holds(found) {
		drift[ruleset.SetChanged] = true
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
	if strings.HasPrefix(block, setPrefix) {
		return ruleset.SetMissing, ruleset.SetChanged
	}
	return ruleset.ChainMissing, ruleset.ChainChanged
}

// Blocks of the listing.
const (
	setPrefix   = "set "
	chainPrefix = "chain "
	setBlock    = setPrefix + sparedSet
)

// shape is what nft is to list, but for the elements.
func (t *Table) shape() shape {
	s := shape{setBlock: t.setHead()}
	for _, chain := range t.Chains {
		s[chainPrefix+chain.Name] = chain.lines()
	}
	return s
}

// holds tells that the set has the right elements.
func (t *Table) holds(found content) bool {
	ranges, err := parseRanges(found.elements[sparedSet])
	return err == nil && slices.Equal(ranges, t.Spared)
}

// write makes the table hold want, by the first of these transactions that passes nft's
// check; a kernel or an nft may refuse the finer ones.
func (t *table) write(ctx context.Context, want Table, found content) error {
	if err := t.connect(want.Name); err != nil {
		return err
	}
	healing := t.written.equal(want.shape())
	t.printed = nil
	err := t.run(ctx, t.steps(want, found)...)
	if err != nil && found.exists {
		err = t.run(ctx, t.rebuild(want))
	}
	if err != nil {
		return err
	}
	t.written = want.shape()
	if t.faithful && !healing {
		return nil
	}
	printed, err := t.readBack(ctx, want.Name)
	if err != nil {
		return err
	}
	if t.faithful = printed.equal(t.written); t.faithful || !printed.like(t.written) {
		return nil
	}
	// This is our table in other words, or somebody has changed it meanwhile. Only
	// words come back when it is written again.
	if err = t.run(ctx, t.rebuild(want)); err != nil {
		return err
	}
	again, err := t.readBack(ctx, want.Name)
	if err != nil {
		return err
	}
	if again.equal(printed) {
		t.printed = printed
	}
	return nil
}

// readBack tells what a write has left.
func (t *table) readBack(ctx context.Context, name string) (shape, error) {
	back, err := t.read(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("reading it back: %w", err)
	}
	if !back.exists {
		return nil, errors.New("reading it back: it is not there; does another program remove it?")
	}
	return back.shape, nil
}

// step fills one transaction.
type step func(*knftables.Transaction)

// run carries steps out, each after a check, until one fails.
func (t *table) run(ctx context.Context, steps ...step) error {
	for _, fill := range steps {
		transaction := t.nft.NewTransaction()
		fill(transaction)
		if err := t.nft.Check(ctx, transaction); err != nil {
			return failed(ctx, "nft --check -f -", err)
		}
		if err := t.nft.Run(ctx, transaction); err != nil {
			return failed(ctx, "nft -f -", err)
		}
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

// steps are the transactions from what was found to want; most changes take one. A
// packet meets all the old rules or all the new ones, but sets are another matter:
//
//   - A kernel that looks elements up in the tree they are written to may miss one
//     while a transaction adds or deletes another with an address in common.
//   - A kernel that looks them up in an array, written at the end of a transaction,
//     misses all elements of a new set until then, although the new rules count already.
//
// Either would be a packet with a wrong source. So a set is filled before a rule refers to
// it, and only elements with no address in common change at once. Where some have, as
// when a range grows, what is spared before and after is kept so by another set meanwhile.
func (t *table) steps(want Table, found content) []step {
	held, err := parseRanges(found.elements[sparedSet])
	asFound := found
	finish := func(way *knftables.Transaction) { rewrite(way, want, asFound, nil) }
	_, filled := found.shape[setBlock]
	switch {
	case !found.exists:
		return []step{
			func(way *knftables.Transaction) {
				way.Add(&knftables.Table{})
				addSet(way, want, sparedSet, want.Spared)
			},
			finish,
		}
	case err != nil || t.strange(want, found):
		return []step{t.rebuild(want)}
	case !filled:
		return []step{func(way *knftables.Transaction) { addSet(way, want, sparedSet, want.Spared) }, finish}
	}

	var steps []step
	rewritten := t.knows(want.shape(), found.shape)
	if _, left := found.shape[setPrefix+keptSet]; left { // by an agent that was killed
		steps, rewritten, found = append(steps, finish), true, content{}
	}
	deleted, added := difference(held, want.Spared)
	if len(deleted)+len(added) > maxInPlace {
		return append(steps, t.exchange(want, found)...)
	}
	kept := common(deleted, added)
	if len(kept) == 0 {
		if len(deleted)+len(added) > 0 {
			steps = append(steps, func(way *knftables.Transaction) { deleteElements(way, deleted); addElements(way, sparedSet, added) })
		}
		if !rewritten {
			steps = append(steps, finish)
		}
		return steps
	}
	return append(steps,
		func(way *knftables.Transaction) { addSet(way, want, keptSet, kept) },
		func(way *knftables.Transaction) {
			rewrite(way, want, found, &knftables.Rule{
				Chain: BaseChain, Rule: want.protocol() + " daddr @" + keptSet + " return",
			})
		},
		// Not in one, since nft compares what is added with what is there.
		func(way *knftables.Transaction) { deleteElements(way, deleted) },
		func(way *knftables.Transaction) { addElements(way, sparedSet, added) },
		func(way *knftables.Transaction) {
			rewrite(way, want, content{}, nil)
			way.Delete(&knftables.Set{Name: keptSet})
		})
}

// maxInPlace bounds how many elements are changed in a set: nft takes the longer for each,
// the more there are.
const maxInPlace = 256

// exchange are the steps by which the whole set is made anew, since two cannot have one
// name: the rules ask another one meanwhile.
func (t *table) exchange(want Table, found content) []step {
	meanwhile := want
	meanwhile.Chains = nil
	for _, chain := range want.Chains {
		rules := make([]string, len(chain.Rules))
		for i, rule := range chain.Rules {
			rules[i] = strings.Replace(rule, " @"+sparedSet+" ", " @"+keptSet+" ", 1)
		}
		meanwhile.Chains = append(meanwhile.Chains, Chain{chain.Name, rules})
	}
	return []step{
		func(way *knftables.Transaction) { addSet(way, want, keptSet, want.Spared) },
		func(way *knftables.Transaction) {
			rewrite(way, meanwhile, found, nil)
			way.Delete(&knftables.Set{Name: sparedSet})
		},
		func(way *knftables.Transaction) { addSet(way, want, sparedSet, want.Spared) },
		func(way *knftables.Transaction) {
			rewrite(way, want, content{}, nil)
			way.Delete(&knftables.Set{Name: keptSet})
		},
	}
}

// strange tells that the table has what cannot be mended in it: neither chains nor sets,
// or ours in another form.
func (t *table) strange(want Table, found content) bool {
	if t.knows(want.shape(), found.shape) {
		return false
	}
	for block, lines := range found.shape {
		switch {
		case block == setBlock && !slices.Equal(lines, want.setHead()),
			block == chainPrefix+BaseChain && (len(lines) == 0 || lines[0] != chainHead),
			!strings.HasPrefix(block, setPrefix) && !strings.HasPrefix(block, chainPrefix):
			return true
		}
	}
	return false
}

// rebuild replaces a table that is there.
func (t *table) rebuild(want Table) step {
	return func(way *knftables.Transaction) {
		way.Add(&knftables.Table{})
		way.Delete(&knftables.Table{})
		way.Add(&knftables.Table{})
		addSet(way, want, sparedSet, want.Spared)
		rewrite(way, want, content{}, nil)
	}
}

// rewrite replaces all chains but leaves the base chain where it is hooked; one that was
// deleted and made again would let a packet pass between the two. What was found beside
// our chains and the set is deleted. A first rule may come before ours.
func rewrite(way *knftables.Transaction, want Table, found content, first *knftables.Rule) {
	for _, chain := range want.Chains {
		made := &knftables.Chain{Name: chain.Name}
		if chain.Name == BaseChain {
			made.Type, made.Hook = new(knftables.NATType), new(knftables.PostroutingHook)
			made.Priority = new(knftables.BaseChainPriority(strconv.Itoa(Priority))) // the policy is accept where none is said
		}
		way.Add(made)
		way.Flush(&knftables.Chain{Name: chain.Name})
	}
	wanted := want.shape()
	var others []knftables.Object
	for _, block := range slices.Sorted(maps.Keys(found.shape)) {
		if _, ours := wanted[block]; ours {
			continue
		}
		if name, ok := strings.CutPrefix(block, chainPrefix); ok {
			way.Flush(&knftables.Chain{Name: name})
			others = append(others, &knftables.Chain{Name: name})
		} else if name, ok := strings.CutPrefix(block, setPrefix); ok {
			others = append(others, &knftables.Set{Name: name})
		}
	}
	for _, other := range others {
		way.Delete(other)
	}
	if first != nil {
		way.Add(first)
	}
	for _, chain := range want.Chains {
		for _, rule := range chain.Rules {
			way.Add(&knftables.Rule{Chain: chain.Name, Rule: rule})
		}
	}
}

func addSet(way *knftables.Transaction, want Table, name string, ranges []netipx.IPRange) {
	way.Add(&knftables.Set{Name: name, Type: want.setType(), Flags: []knftables.SetFlag{knftables.IntervalFlag}})
	addElements(way, name, ranges)
}

func addElements(way *knftables.Transaction, set string, ranges []netipx.IPRange) {
	if len(ranges) > 0 {
		way.Add(elements(set, ranges))
	}
}

func deleteElements(way *knftables.Transaction, ranges []netipx.IPRange) {
	if len(ranges) > 0 {
		way.Delete(elements(sparedSet, ranges))
	}
}

// elements are many in one, since nft reads a command with many elements many times as
// fast as many commands.
func elements(set string, ranges []netipx.IPRange) *knftables.Element {
	return &knftables.Element{Set: set, Key: []string{strings.Join(rangeTexts(ranges), ", ")}}
}
