// Package iptables makes the nat table hold a Ruleset. It is the only package that
// runs a process: iptables-restore for the chain (one transaction), go-iptables for
// the jump, listing and probing.
package iptables

import (
	"context"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// Backend is the kernel interface behind the iptables commands.
type Backend string

// The backends; Auto is only an input.
const (
	Auto   Backend = "auto"
	NFT    Backend = "nft"
	Legacy Backend = "legacy"
)

// Drift is one way in which the kernel differed from a Ruleset.
type Drift string

// The kinds of drift.
const (
	ChainMissing  Drift = "chain-missing"
	ChainChanged  Drift = "chain-changed"
	JumpMissing   Drift = "jump-missing"
	JumpDuplicate Drift = "jump-duplicate" // more than one jump to our chain, or one in another form
)

// Kernel is the nat table of this network namespace, through one backend. It is
// for one goroutine at a time.
type Kernel struct{}

// Choose returns the backend that this node uses already, and why.
func Choose(_ context.Context) (Backend, string, error) { panic("to be built") }

// Open probes the commands of a backend for both families; a family whose
// commands are missing fails at its first use, not here.
func Open(_ Backend) (*Kernel, error) { panic("to be built") }

// Inspect reads how the kernel differs from want; nothing is written.
func (k *Kernel) Inspect(_ context.Context, _ ruleset.Ruleset) ([]Drift, error) {
	panic("to be built")
}

// Apply makes the kernel hold want and returns what had drifted. Where nothing
// had, nothing is written. A refused restore changes nothing: the chain is replaced
// in one transaction, and only then is the jump ensured.
func (k *Kernel) Apply(_ context.Context, _ ruleset.Ruleset) ([]Drift, error) {
	panic("to be built")
}
