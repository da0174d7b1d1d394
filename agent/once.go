//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/nftables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// load reads the file once, prints its problems a line each, and fails when it is
// refused. A missing file means the defaults.
func load(opts options, stderr io.Writer) (config.Config, error) {
	if opts.configDir != "" {
		c, missing, err := loadDirectory(opts, func(p config.Problem) {
			tell(stderr, "agent: %s: %s: %s\n", opts.configDir, p.Severity, p)
		})
		if missing {
			tell(stderr, "agent: %s: no file whose name begins with %s, so the defaults are in force\n", opts.configDir, config.FilePrefix)
		}
		if err != nil {
			return c, err
		}
		return here(c, opts, stderr), nil
	}
	now := read(opts.configPath)
	if now.missing {
		tell(stderr, "agent: %s: no such file, so the defaults are in force\n", opts.configPath)
		c, _ := config.Default().For(opts.config) // flags cannot refuse the defaults
		return c, nil
	}
	v := now.judge(opts.config)
	for _, p := range v.problems {
		tell(stderr, "agent: %s: %s: %s\n", opts.configPath, p.Severity, p)
	}
	if n := count(v.problems, config.Fatal); n > 0 {
		return config.Config{}, fmt.Errorf("%s is refused: %d fatal problem(s); the kernel is untouched", opts.configPath, n)
	}
	return here(v.config, opts, stderr), nil
}

// here is what holds on this node.
func here(c config.Config, opts options, stderr io.Writer) config.Config {
	effective, index := c.On(labelsOnce(opts, stderr))
	if index >= 0 {
		tell(stderr, "agent: %s: %s holds on this node\n", opts.source(), c.Place(index))
	}
	return effective
}

// labelsOnce are the labels of this node; without a usable file there are none.
func labelsOnce(opts options, stderr io.Writer) map[string]string {
	if opts.labelsPath == "" {
		return nil
	}
	now := read(opts.labelsPath)
	labels, failure := now.labels()
	switch {
	case now.missing:
		tell(stderr, "agent: %s: no such file, so no override is in force\n", opts.labelsPath)
	case failure != "":
		tell(stderr, "agent: %s: ignored, so no override is in force: %s\n", opts.labelsPath, failure)
	}
	return labels
}

// once makes the kernel hold what the file says.
func once(ctx context.Context, opts options, h holder, stdout, stderr io.Writer) error {
	c, err := load(opts, stderr)
	if err != nil {
		return err
	}
	var errs []error
	for _, family := range opts.families() {
		rules := ruleset.Build(c, family, opts.rules)
		drift, err := applyOnce(ctx, h, rules)
		if err != nil {
			errs = append(errs, fmt.Errorf("applying %s rules: %w", family, err))
			continue
		}
		tell(stdout, "%s: %s; %s\n", family, h.holds(rules), written(drift))
	}
	return errors.Join(errs...)
}

// holds tells what the kernel holds for rules.
func (h holder) holds(rules ruleset.Ruleset) string {
	switch {
	case h.name == nativeTable:
		return fmt.Sprintf("table %s holds %d rules", nftables.TableName(rules.Chain), nftables.Rules(rules))
	case rules.Set != nil:
		return fmt.Sprintf("chain %s holds %d rules, set %s %d entries", rules.Chain, len(rules.Rules), rules.Set.Name, len(rules.Set.Entries))
	default:
		return fmt.Sprintf("chain %s holds %d rules", rules.Chain, len(rules.Rules))
	}
}

// tell prints what is of use, but not worth to fail for where nobody listens.
func tell(w io.Writer, format string, values ...any) {
	_, _ = fmt.Fprintf(w, format, values...)
}

func applyOnce(ctx context.Context, kernel kernel, rules ruleset.Ruleset) ([]iptables.Drift, error) {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	return kernel.Apply(ctx, rules)
}

func written(drift []iptables.Drift) string {
	if len(drift) == 0 {
		return "nothing was written"
	}
	kinds := make([]string, len(drift))
	for i, kind := range drift {
		kinds[i] = string(kind)
	}
	return "written because of " + strings.Join(kinds, ", ")
}

// dryRun prints what once would give iptables-restore, before it the set that the rules
// ask, and as a comment what it would add to POSTROUTING; or else the table that it would
// give nft. It asks nobody, so --backend=auto means iptables, as it does by default.
func dryRun(opts options, stdout, stderr io.Writer) error {
	c, err := load(opts, stderr)
	if err != nil {
		return err
	}
	printed := printedRules
	if opts.mechanism == byNFTables {
		printed = printedTable
	}
	for _, family := range opts.families() {
		text, err := printed(ruleset.Build(c, family, opts.rules))
		if err == nil {
			_, err = io.WriteString(stdout, text)
		}
		if err != nil {
			return fmt.Errorf("printing %s rules: %w", family, err)
		}
	}
	return nil
}

func printedRules(rules ruleset.Ruleset) (string, error) {
	command := "iptables"
	if rules.Family == ruleset.IPv6 {
		command = "ip6tables"
	}
	set := ""
	if rules.Set != nil {
		set = "# ipset restore\n" + rules.Set.String()
	}
	return fmt.Sprintf("%s# %s-restore --wait --noflush\n%s# %s --wait --table nat --append POSTROUTING %s\n",
		set, command, rules, command, shellWords(rules.Jump)), nil
}

func printedTable(rules ruleset.Ruleset) (string, error) {
	table, err := nftables.Render(rules)
	return "# nft -f -\n" + table.String(), err
}

// shellWords joins arguments so that a shell reads them as they are.
func shellWords(arguments []string) string {
	words := make([]string, len(arguments))
	for i, argument := range arguments {
		words[i] = argument
		if argument == "" || strings.ContainsAny(argument, " \t\n!\"#$&'()*;<>?[\\]^`{|}~") && argument != "!" {
			words[i] = "'" + strings.ReplaceAll(argument, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}
