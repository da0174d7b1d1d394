package nftables

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"

	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

// Bounds of listing a table.
const (
	listTimeout  = 30 * time.Second
	outputDelay  = time.Second // for the output of a killed command
	maxLine      = 64 << 10    // bytes; nft breaks the lines of elements
	maxLines     = 1 << 18     // of a table: 16,384 CIDRs have as many lines at most
	maxErrorText = 4 << 10     // bytes
	maxTables    = 1 << 10     // of ours
)

// content is what nft lists of a table.
type content struct {
	exists   bool
	shape    shape
	elements map[string][]string // of sets, by name, as they are written
}

// shape is a table but for the elements of its sets: the lines of each block by its
// kind and name ("chain postrouting"). The table's own lines, such as flags, have an
// empty key.
type shape map[string][]string

func (s shape) equal(other shape) bool { return maps.EqualFunc(s, other, slices.Equal) }

// like tells that the blocks are the same, and of the same numbers of lines.
func (s shape) like(other shape) bool {
	return maps.EqualFunc(s, other, func(a, b []string) bool { return len(a) == len(b) })
}

// list reads a table. One process reads all of it at one moment, and none of the others'.
func list(ctx context.Context, nft string, family ruleset.Family, name string) (content, error) {
	found, err := query(ctx, nft, parse, "list", "table", familyName(family), name)
	if failed := (*failure)(nil); errors.As(err, &failed) && strings.Contains(failed.stderr, "No such file or directory") {
		return content{}, nil
	}
	return found, err
}

// failure is a command that could not be run or ended badly.
type failure struct {
	command string
	stderr  string
	cause   error
}

func (f *failure) Error() string {
	if f.stderr == "" {
		return fmt.Sprintf("running %s: %v", f.command, f.cause)
	}
	return fmt.Sprintf("running %s: %v: %s", f.command, f.cause, f.stderr)
}

func (f *failure) Unwrap() error { return f.cause }

// query runs nft and reads its output as it comes.
func query[T any](ctx context.Context, nft string, read func(io.Reader) (T, error), args ...string) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	process := exec.CommandContext(ctx, nft, args...) //nolint:gosec // the path is that of nft
	process.WaitDelay = outputDelay
	complaint := &bytes.Buffer{}
	process.Stderr = &limitedWriter{complaint}
	var none T
	output, err := process.StdoutPipe()
	if err == nil {
		err = process.Start()
	}
	if err != nil {
		return none, &failure{command: process.String(), cause: err}
	}
	found, readErr := read(output)
	if readErr != nil {
		cancel() // it need not go on
	}
	err = process.Wait()
	switch {
	case readErr != nil:
		return none, fmt.Errorf("reading the output of %s: %w", process.String(), readErr)
	case ctx.Err() != nil:
		err = ctx.Err() // rather than "signal: killed"
	case err == nil:
		return found, nil
	}
	return none, &failure{command: process.String(), stderr: oneLine(complaint.String()), cause: err}
}

// limitedWriter keeps the beginning of what is written to it.
type limitedWriter struct{ kept *bytes.Buffer }

func (w *limitedWriter) Write(p []byte) (int, error) {
	w.kept.Write(p[:min(len(p), maxErrorText-w.kept.Len())])
	return len(p), nil
}

// oneLine drops the lines in which nft points at a place.
func oneLine(text string) string {
	var told []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.Trim(line, "^~ ") != "" {
			told = append(told, line)
		}
	}
	return strings.Join(told, "; ")
}

// parse reads the output of `nft list table`:
//
//	table ip NAME {
//		set NAME {
//			type ipv4_addr
//			flags interval
//			elements = { 10.0.0.0/8,
//				     172.16.0.0-172.16.255.255 }
//		}
//
//		chain NAME {
//			type nat hook postrouting priority srcnat + 1; policy accept;
//			masquerade
//		}
//	}
func parse(output io.Reader) (content, error) {
	found := content{shape: shape{}, elements: map[string][]string{}}
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, maxLine)
	var blockName, set string // that are open; empty outside of them
	inElements := false
	for count := 0; lines.Scan(); count++ {
		if count == maxLines {
			return content{}, fmt.Errorf("it has more than %d lines", maxLines)
		}
		line := strings.TrimSpace(lines.Text())
		name, begins := strings.CutSuffix(line, " {")
		list, elements := strings.CutPrefix(line, "elements = {")
		switch {
		case line == "":
		case !strings.HasPrefix(lines.Text(), "\t"): // the table's own braces
			found.exists = true
		case lines.Text() == "\t}":
			blockName, set, inElements = "", "", false
		case blockName == "" && begins:
			blockName = name
			set, _ = strings.CutPrefix(name, "set ")
			found.shape[blockName] = []string{}
		case strings.HasPrefix(blockName, "set ") && (inElements || elements):
			inElements = true
			if !elements {
				list = line
			}
			found.elements[set] = appendElements(found.elements[set], list)
		default:
			found.shape[blockName] = append(found.shape[blockName], line)
		}
	}
	return found, lines.Err()
}

// appendElements reads a line of elements.
func appendElements(all []string, line string) []string {
	for element := range strings.SplitSeq(strings.TrimSuffix(line, "}"), ",") {
		if element = strings.TrimSpace(element); element != "" {
			all = append(all, element)
		}
	}
	return all
}

// parseRanges reads elements; it fails where one is more than an address, a prefix or a
// range.
func parseRanges(elements []string) ([]netipx.IPRange, error) {
	ranges := make([]netipx.IPRange, 0, len(elements))
	for _, text := range elements {
		r, err := parseRange(text)
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, r)
	}
	slices.SortFunc(ranges, compareRanges)
	return ranges, nil
}

func parseRange(text string) (netipx.IPRange, error) {
	if strings.Contains(text, "-") {
		return netipx.ParseIPRange(text)
	}
	if strings.Contains(text, "/") {
		prefix, err := netip.ParsePrefix(text)
		return netipx.RangeOfPrefix(prefix), err
	}
	address, err := netip.ParseAddr(text)
	return netipx.IPRangeFrom(address, address), err
}

// kubeProxyTable is that of kube-proxy in its mode nftables, one for each family.
const kubeProxyTable = "kube-proxy"

// KubeProxy tells the table in which kube-proxy keeps its rules, or an empty text where
// it does not use nftables.
func KubeProxy(ctx context.Context) (string, error) {
	nft, err := locate()
	if err != nil {
		return "", err
	}
	tables, err := listTables(ctx, nft, func(family, name string) bool {
		return (family == "ip" || family == "ip6") && name == kubeProxyTable
	})
	if err != nil || len(tables) == 0 {
		return "", err
	}
	return "table " + tables[0], nil
}

// listTables are the tables that fit, as "ip NAME".
func listTables(ctx context.Context, nft string, fits func(family, name string) bool) ([]string, error) {
	return query(ctx, nft, func(output io.Reader) ([]string, error) {
		var tables []string
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			// "table ip kube-proxy"
			if words := strings.Fields(lines.Text()); len(words) >= 3 && fits(words[1], words[2]) && len(tables) < maxTables {
				tables = append(tables, words[1]+" "+words[2])
			}
		}
		return tables, lines.Err()
	}, "list", "tables")
}
