//go:build !windows

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	others "github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
)

// Bounds of one question to an agent.
const (
	askTimeout     = 10 * time.Second
	maxReportBytes = 4 << 20
)

// statusOptions are the flags of agent status, as values.
type statusOptions struct {
	address string
	output  string
	schema  bool
	help    bool
}

func (o *statusOptions) flagSet() *pflag.FlagSet {
	flags := pflag.NewFlagSet("status", pflag.ContinueOnError)
	flags.StringVar(&o.address, "address", "127.0.0.1"+defaultMetricsAddress, "`host:port` of the agent, its --metrics-bind-address")
	flags.StringVarP(&o.output, "output", "o", "text", "text or json")
	flags.BoolVar(&o.schema, "schema", false, "print the JSON Schema of -o json and exit; asks no agent")
	flags.BoolVarP(&o.help, "help", "h", false, "print this text and exit")
	return flags
}

const statusHelp = `Asks the agent that runs on this node what is in force, and prints it. The agent answers
over HTTP; nothing is changed.

Usage:
  agent status [flags]

Examples:
  # In the agent's pod, or on its node.
  kubectl exec -n kube-system ds/ip-masq-guard-agent -- agent status

  # For scripts: everything that there is to know.
  agent status -o json

Flags:
%s
Exit status: 0 in force; 1 the agent cannot be asked; 2 wrong usage; 3 not in force or degraded:
the kernel does not hold the rules, or not those of the file or of the expected digest, or
another program's rules are known to undo them.
`

// answerError ends a command that has done what it should, with an answer that is not
// the hoped for one. It is printed already.
type answerError struct{ error }

func (e answerError) Unwrap() error { return e.error }

// askStatus is agent status.
func askStatus(ctx context.Context, args []string, stdout, _ io.Writer) error {
	opts := statusOptions{}
	flags := opts.flagSet()
	if err := parseCommandFlags(flags, args); err != nil {
		return err
	}
	switch {
	case opts.help:
		_, err := fmt.Fprintf(stdout, statusHelp, flags.FlagUsages())
		return err
	case opts.schema:
		_, err := io.WriteString(stdout, reportSchema)
		return err
	case opts.output != "text" && opts.output != "json":
		return usageError{fmt.Errorf("status: --output=%q: unknown form; write text or json", opts.output)}
	}
	address, err := askable(opts.address)
	if err != nil {
		return usageError{fmt.Errorf("status: --address=%q: %w", opts.address, err)}
	}
	text, err := ask(ctx, address)
	if err != nil {
		return err
	}
	r, err := readReport(text)
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", address, err)
	}
	if opts.output == "text" {
		text = []byte(r.summary())
	}
	if _, err := stdout.Write(text); err != nil {
		return fmt.Errorf("printing the status: %w", err)
	}
	if r.State != allInForce {
		return answerError{errors.New(string(r.State))}
	}
	return nil
}

// askable is where to ask an agent that serves at an address: ":9178" is every address of
// the host, so loopback too.
func askable(address string) (string, error) {
	if err := checkAddress(address); err != nil {
		return "", err
	}
	if address == noAddress {
		return "", errors.New("an agent that serves nowhere cannot be asked")
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return net.JoinHostPort(host, port), nil
}

// ask returns what an agent answers to /status. The request is written by hand: a client of
// net/http would be half a megabyte of program, in the memory of every agent that runs.
func ask(ctx context.Context, address string) (_ []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("asking the agent: %w; does it run, and serve at --address?", err)
	}
	defer func() { err = errors.Join(err, connection.Close()) }()
	stop := context.AfterFunc(ctx, func() { _ = connection.SetDeadline(time.Now()) })
	defer stop()
	text, err := exchange(connection, address)
	if err != nil {
		return nil, fmt.Errorf("asking the agent at %s: %w", address, errors.Join(err, ctx.Err()))
	}
	return text, nil
}

func exchange(connection net.Conn, address string) (_ []byte, err error) {
	if _, err = fmt.Fprintf(connection, "GET /status HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", address); err != nil {
		return nil, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s; is it an agent of this version?", answer.Status)
	}
	return io.ReadAll(io.LimitReader(answer.Body, maxReportBytes))
}

// readReport reads an answer; fields that it does not know are those of a later agent.
func readReport(text []byte) (report, error) {
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return report{}, err
	}
	if r.Version != reportVersion {
		return report{}, fmt.Errorf("version %d, which this program does not know; ask with the agent's own", r.Version)
	}
	return r, nil
}

// summary is the report for people.
func (r report) summary() string {
	var b strings.Builder
	line := func(title, format string, values ...any) {
		fmt.Fprintf(&b, "%-15s%s\n", title, fmt.Sprintf(format, values...))
	}
	if r.Node != "" {
		line("node", "%s", r.Node)
	}
	line("state", "%s", strings.ReplaceAll(string(r.State), "-", " "))
	for _, check := range r.Checks {
		if !check.OK {
			line("", "%s: %s", check.Name, check.Message)
		}
	}
	if r.Config.Source == "" {
		line("configuration", "none yet")
	} else {
		which := sources()[origin(r.Config.Source)]
		if r.Config.Override != "" {
			which += " with " + r.Config.Override
		}
		line("configuration", "%s, %s%s", which, named(r.Config.Digest), r.since(r.Config.Since))
	}
	if r.Applied == nil {
		line("applied", "nothing yet")
	} else {
		line("applied", "%s%s", named(r.Applied.Digest), r.since(&r.Applied.Since))
	}
	if r.Expected != nil && r.Expected.Digest != "" {
		line("expected", "%s%s", named(r.Expected.Digest), r.since(r.Expected.Since))
	}
	line("file", "%s: %s%s", r.File.Path, r.File.State, r.since(r.File.Since))
	for _, p := range r.File.Problems {
		line("", "%s", p.line())
	}
	if more := r.File.Fatal + r.File.Suspicious - len(r.File.Problems); more > 0 {
		line("", "and %d more problems", more)
	}
	for _, f := range r.Families {
		line(f.Family, "%s", r.family(f))
		if f.Error != "" {
			line("", "%s", f.Error)
		}
	}
	if r.Others.SurveyedAt != nil {
		line("masqueraders", "%d beside ours, looked for %s ago", len(r.Others.Findings)+r.Others.Left, r.ago(*r.Others.SurveyedAt))
	}
	for _, f := range r.Others.Findings {
		if f.Verdict == others.Undoes || f.Verdict == others.ShadowsUs || f.Verdict == others.Unknown {
			line("", "%s: %s, %s, %s of %s (%s): %s", f.Verdict, f.Owner, f.Family, f.Chain, f.Table, f.Backend, f.Why)
		}
	}
	line("backend", "%s: %s", r.Backend.Name, r.Backend.Reason)
	if r.Passes.Last == nil {
		line("passes", "none yet")
	} else {
		line("passes", "last %s ago, every %s", r.ago(*r.Passes.Last), time.Duration(r.Passes.Interval*float64(time.Second)))
	}
	line("versions", "agent %s, %s, kernel %s", r.Versions.Agent, orUnknown(r.Versions.Backend), orUnknown(r.Versions.Kernel))
	return b.String()
}

func (r report) family(f reportFamily) string {
	text := fmt.Sprintf("%d rules, ", f.Rules)
	if f.SetEntries > 0 {
		text += fmt.Sprintf("a set of %d entries, ", f.SetEntries)
	}
	switch {
	case f.Verified:
		text += "verified " + r.ago(*f.VerifiedAt) + " ago"
	case f.VerifiedAt == nil:
		text += "never verified"
	default:
		text += "not verified, last " + r.ago(*f.VerifiedAt) + " ago"
	}
	var lost []string
	for kind, n := range f.Drift {
		if n > 0 {
			lost = append(lost, fmt.Sprintf("%s %d", kind, n))
		}
	}
	if len(lost) > 0 {
		slices.Sort(lost)
		text += "; healed: " + strings.Join(lost, ", ")
	}
	return text
}

func (r report) since(t *time.Time) string {
	if t == nil {
		return ""
	}
	return fmt.Sprintf(", since %s (%s ago)", instant(*t), r.ago(*t))
}

// ago is how long before the answer t was.
func (r report) ago(t time.Time) string { return max(0, r.Time.Sub(t)).Round(time.Second).String() }

func (p reportProblem) line() string {
	return p.Severity + ": " + config.Problem{File: p.File, Path: p.Path, Line: p.Line, Message: p.Message, Remedy: p.Remedy}.String()
}

func sources() map[origin]string {
	return map[origin]string{fromFile: "of the file", fromLastValid: "the last valid one", fromDefaults: "defaults"}
}

// named is how people are told which configuration a digest means.
func named(digest string) string {
	if digest == "" {
		return "no file's"
	}
	return "sha256 " + digest
}

func orUnknown(text string) string {
	if text == "" {
		return "unknown"
	}
	return text
}
