// Package ruleset turns a Config into what the kernel must hold, as text: a chain
// and the one jump to it, per family. It is pure; the package iptables carries the
// text into the kernel.
package ruleset

import (
	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// Family is an IP version.
type Family int

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// PortRange is an inclusive range of source ports, 1 to 65535.
type PortRange struct{ First, Last uint16 }

// Options are the agent flags that shape the rules.
type Options struct {
	Chain       string      // --masq-chain
	RandomFully bool        // --random-fully
	ToPorts     []PortRange // --to-ports
}

// Ruleset is everything that the nat table of one family must hold of ours.
type Ruleset struct {
	Family Family
	Chain  string
	Rules  []string // the chain, each "-A CHAIN ...", exactly as iptables-save prints it
	Jump   []string // the rule specification of the jump in POSTROUTING, one argument an element
}

// Build computes the rules of one family.
func Build(_ config.Config, _ Family, _ Options) Ruleset { panic("to be built") }

// String is the input for iptables-restore --noflush: it replaces the whole chain
// in one transaction and touches nothing else.
func (r Ruleset) String() string { panic("to be built") }

// CheckChain tells why a chain name cannot be used, or nil.
func CheckChain(_ string) error { panic("to be built") }

// ParsePorts reads the value of --to-ports: "1024-29999,32768-65535" or "1024".
func ParsePorts(_ string) ([]PortRange, error) { panic("to be built") }
