package iptables

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// marks are chains in the mangle table by which the kubelet tells others which
// backend it uses (KEP-3178); newer kubelets make the first, older ones the second.
//
//nolint:gochecknoglobals // a constant in all but the language
var marks = []string{"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"}

// Choose returns the backend that this node uses already, and why. Rules of both
// backends are in force beside each other, so ours have to be where those of the
// kubelet and kube-proxy are. A backend that cannot be read counts as empty; it fails
// only where there is none.
func Choose(ctx context.Context) (Backend, string, error) {
	var surveys []survey
	var errs []error
	for _, family := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
		for _, backend := range []Backend{NFT, Legacy} {
			s, err := look(ctx, backend, family)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			surveys = append(surveys, s)
		}
	}
	if len(surveys) == 0 {
		return "", "", fmt.Errorf("choosing an iptables backend: %w", errors.Join(errs...))
	}
	backend, why := decide(surveys, usual(ctx))
	return backend, why, nil
}

// survey is what one backend holds of one family.
type survey struct {
	backend Backend
	family  ruleset.Family
	chains  []string // of the mangle table
	rules   int      // in mangle and nat
}

// decide chooses from the surveys, IPv4 first and nft first. The usual backend is that
// of the plain command, or empty.
func decide(surveys []survey, usual Backend) (Backend, string) {
	for _, mark := range marks {
		for _, s := range surveys {
			if slices.Contains(s.chains, mark) {
				return s.backend, fmt.Sprintf("the kubelet's chain %s is in its %s mangle table", mark, s.family)
			}
		}
	}

	rules := map[Backend]int{}
	for _, s := range surveys {
		rules[s.backend] += s.rules
	}
	switch {
	case rules[NFT] > rules[Legacy]:
		return NFT, fmt.Sprintf("nft holds %d rules in mangle and nat, legacy %d", rules[NFT], rules[Legacy])
	case rules[NFT] < rules[Legacy]:
		return Legacy, fmt.Sprintf("legacy holds %d rules in mangle and nat, nft %d", rules[Legacy], rules[NFT])
	}

	for _, s := range surveys {
		if s.backend == usual {
			return usual, "no rules of others tell, and the command iptables is of this backend"
		}
	}
	return surveys[0].backend, "no rules of others tell, and its commands are installed"
}

// usual is the backend of the plain command, or empty.
func usual(ctx context.Context) Backend {
	found, err := locate(plain(ruleset.IPv4))
	if err != nil {
		return ""
	}
	return version(ctx, found.main)
}

// look reads what a backend holds of a family.
func look(ctx context.Context, backend Backend, family ruleset.Family) (survey, error) {
	s := survey{backend: backend, family: family}
	commands, err := find(ctx, backend, family)
	if err != nil {
		return s, err
	}
	for _, table := range []string{"mangle", natTable} {
		if backend == Legacy && !legacyHas(family, table) {
			continue
		}
		read := func(line string) error {
			name, isChain := strings.CutPrefix(line, ":")
			switch {
			case isChain && table == "mangle" && len(s.chains) < maxRules:
				name, _, _ = strings.Cut(name, " ")
				s.chains = append(s.chains, name)
			case strings.HasPrefix(line, "-A "):
				s.rules++
			}
			return nil
		}
		if err := run(ctx, command{path: commands.save, args: []string{"-t", table}, lines: read}); err != nil {
			return s, fmt.Errorf("reading the %s table: %w", table, err)
		}
	}
	return s, nil
}

// legacyHas tells whether the legacy table is there. Reading it with iptables-legacy
// would make it: modules are loaded, and from then on every packet passes its hooks.
func legacyHas(family ruleset.Family, table string) bool {
	name := "/proc/thread-self/net/ip_tables_names"
	if family == ruleset.IPv6 {
		name = "/proc/thread-self/net/ip6_tables_names"
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false // the kernel has no legacy iptables, or has not loaded it
	}
	// Where it cannot be told, iptables-legacy has to be asked.
	return err != nil || slices.Contains(strings.Fields(string(text)), table)
}
