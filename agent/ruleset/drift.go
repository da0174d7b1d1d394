package ruleset

// Drift is one way in which the kernel differed from a Ruleset.
type Drift string

// The kinds of drift, over all backends.
const (
	TableMissing  Drift = "table-missing" // a table of our own (nftables)
	ChainMissing  Drift = "chain-missing"
	ChainChanged  Drift = "chain-changed"
	JumpMissing   Drift = "jump-missing"
	JumpDuplicate Drift = "jump-duplicate" // more than one jump to our chain, or one in another form
	ChainFormer   Drift = "chain-former"   // an ip-masq-agent has left another chain in force, or lying about
	SetMissing    Drift = "set-missing"
	SetChanged    Drift = "set-changed" // its elements, or its kind
)
