package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// replayOptions are the flags of replay.
type replayOptions struct {
	params     string
	policyDirs []string
	output     string
}

const replayExamples = `  # What would new rules have decided?
  kubectl masq replay decisions.log --policy-dir rules --params params.yaml`

const replayHelp = `Make the decisions of a decision log again, by other rules and params, and tell which of them change. The
webhook writes such a log with --decision-log and --decision-log-full; entries that are masked cannot be made again, and are
counted. Lines that are no decisions are passed over and counted.

Exit codes: 0 no decision changes; 1 some do; 2 wrong usage, a log without full entries, or rules that cannot be read.

JSON output is one object:
  revision                    of the new rules and params
  decisions, masked, other    how many could be made again, how many not, and how many lines are no decisions
  changed[]                   decision_id, timestamp, requested_by, allowed and was, bypass where its author asked for one, and
                              added[] and gone[]: the findings that are new, and those that are no more, with rule, action,
                              path, line and message`

func replayCommand(std streams) *cobra.Command {
	var opts replayOptions
	command := &cobra.Command{
		Use:     "replay LOG",
		Short:   "Tell which past decisions other rules would change",
		Long:    replayHelp,
		Example: replayExamples,
		Args:    oneArgument("a decision log, or - for standard input"),
		RunE: func(command *cobra.Command, args []string) error {
			return replay(command.Context(), opts, args[0], std)
		},
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringArrayVar(&opts.policyDirs, "policy-dir", nil, "`directory` of custom rules; may be given more than once")
	flags.StringVar(&opts.params, "params", "", "params `file`, as the webhook has it")
	addOutput(command, &opts.output, "text", "json")
	return command
}

// replayReport is the documented shape; fields may be added, but not changed.
type replayReport struct {
	Revision  string            `json:"revision"`
	Decisions int               `json:"decisions"`
	Masked    int               `json:"masked"`
	Other     int               `json:"other"`
	Changed   []changedDecision `json:"changed"`
}

type changedDecision struct {
	ID          string              `json:"decision_id"`
	Timestamp   string              `json:"timestamp"`
	RequestedBy string              `json:"requested_by"`
	Allowed     bool                `json:"allowed"`
	Was         bool                `json:"was"`
	Bypass      *policy.LogBypass   `json:"bypass,omitempty"`
	Added       []policy.LogFinding `json:"added"`
	Gone        []policy.LogFinding `json:"gone"`
}

func replay(ctx context.Context, opts replayOptions, file string, std streams) error {
	if opts.output != "text" && opts.output != "json" {
		return fmt.Errorf("-o %q: want text or json", opts.output)
	}
	params, err := readParams(opts.params)
	if err != nil {
		return err
	}
	sources, err := readRules(opts.policyDirs)
	if err != nil {
		return err
	}
	engine, err := policy.New(ctx, params, sources)
	if err != nil {
		return err
	}
	in := std.in
	if file != "-" {
		opened, unreadable := os.Open(file) //nolint:gosec // the user names it
		if unreadable != nil {
			return fmt.Errorf("reading the log: %w", unreadable)
		}
		defer opened.Close() //nolint:errcheck // read only: nothing can be lost
		in = opened
	}
	report, err := replayed(ctx, engine, in)
	if err != nil {
		return err
	}
	err = std.report(opts.output, report, report.text)
	switch {
	case err != nil:
		return err
	case report.Decisions == 0:
		return errors.New("no entry of the log can be replayed: the webhook writes such with --decision-log-full")
	case len(report.Changed) > 0:
		return errRefused
	}
	return nil
}

// replayed makes the decisions of a log again.
func replayed(ctx context.Context, engine *policy.Engine, log io.Reader) (replayReport, error) {
	report := replayReport{Revision: engine.Revision(), Changed: []changedDecision{}}
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, maxInput)
	for lines.Scan() {
		var entry policy.LogEntry
		if json.Unmarshal(lines.Bytes(), &entry) != nil || entry.DecisionID == "" {
			report.Other++
			continue
		}
		request, cluster, ok := entry.Request()
		if !ok {
			report.Masked++
			continue
		}
		report.Decisions++
		decision := engine.Decide(ctx, request, cluster)
		added, gone := entry.Differs(decision)
		if decision.Allowed == entry.Result.Allowed && len(added)+len(gone) == 0 {
			continue
		}
		report.Changed = append(report.Changed, changedDecision{
			ID: entry.DecisionID, Timestamp: entry.Timestamp.Format("2006-01-02T15:04:05Z07:00"), RequestedBy: entry.RequestedBy,
			Allowed: decision.Allowed, Was: entry.Result.Allowed, Bypass: entry.Result.Bypass,
			Added: append([]policy.LogFinding{}, added...), Gone: append([]policy.LogFinding{}, gone...),
		})
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return replayReport{}, fmt.Errorf("reading the log: line %d has more than %d bytes", report.Decisions+report.Masked+report.Other+1, maxInput)
	}
	if err := lines.Err(); err != nil {
		return replayReport{}, fmt.Errorf("reading the log: %w", err)
	}
	return report, nil
}

func (r replayReport) text(p painter) string {
	var b strings.Builder
	verdict := map[bool]string{true: "approved", false: "refused"}
	denied := 0
	for _, c := range r.Changed {
		said, colour := "still "+verdict[c.Allowed], bold
		if c.Allowed != c.Was {
			said, colour = verdict[c.Was]+" then, "+verdict[c.Allowed]+" now", yellow
		}
		if c.Was && !c.Allowed {
			denied, colour = denied+1, red
		}
		if c.Bypass != nil && c.Bypass.Refused == "" {
			said += ", bypassed then: " + printable(c.Bypass.Reason)
		}
		fmt.Fprintf(&b, "%s %s by %s: %s\n", printable(c.Timestamp), printable(c.ID), printable(c.RequestedBy), p.paint(colour, said))
		for _, side := range []struct {
			sign     string
			findings []policy.LogFinding
		}{{"+", c.Added}, {"-", c.Gone}} {
			for _, f := range side.findings {
				fmt.Fprintf(&b, "  %s %s[%s] %s\n", side.sign, f.Action, printable(f.Rule), printable(strings.TrimPrefix(f.Path+": "+f.Message, ": ")))
			}
		}
	}
	fmt.Fprintf(&b, "%s replayed, %d changed, %d of them refused now", plural(strconv.Itoa(r.Decisions), "decision", "decisions"), len(r.Changed), denied)
	if r.Masked > 0 {
		fmt.Fprintf(&b, "; %d masked, which cannot be replayed", r.Masked)
	}
	if r.Other > 0 {
		b.WriteString("; " + plural(strconv.Itoa(r.Other), "other line", "other lines"))
	}
	b.WriteString("\n")
	return b.String()
}
