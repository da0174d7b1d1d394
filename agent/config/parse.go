package config

// Code names a kind of Problem; it is stable, since rules and metrics use it.
type Code string

// Parse reads the text of the configuration, YAML or JSON, with the meaning that
// the upstream agent's YAML 1.1 loader gives it, and reports every problem at
// once, ordered by position. With a fatal Problem the Config is not usable.
// Absent keys hold defaults; an absent text is Default, not Parse.
func Parse(_ []byte) (Config, []Problem) { panic("to be built") }

// For returns what an agent with these flags makes of c. It reports what the
// flags make fatal: an IPv6 CIDR without IPv6, a default list over the limit.
func (c Config) For(_ Options) (Config, []Problem) { panic("to be built") }

// Format returns the canonical YAML text of c: Parse accepts it without a Problem
// and gives a Config that is Equal.
func (c Config) Format() []byte { panic("to be built") }
