package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/spf13/pflag"
)

// reference is the page that has to tell everything.
const reference = "../docs/agent.md"

// rows are those of the tables in a section of the reference, each without its last
// cell, which is prose. A subsection belongs to its section.
func rows(t *testing.T, section string) [][]string {
	t.Helper()
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n## "+section+"\n")
	if !found {
		t.Fatalf("%s has no section %q", reference, section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	var rows [][]string
	header := ""
	for line := range strings.Lines(rest) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") {
			header = line
			continue
		}
		if !strings.HasPrefix(header, "|") {
			header = line // the first row names the columns
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), " |")
		if meaning := strings.TrimSpace(cells[len(cells)-1]); meaning == "" {
			t.Errorf("%s, section %q: nothing is told of %s", reference, section, line)
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells[:len(cells)-1])
	}
	return rows
}

// documented compares a section with the program.
func documented(t *testing.T, section string, program []string) {
	t.Helper()
	var told []string
	for _, row := range rows(t, section) {
		told = append(told, strings.Join(row, " | "))
	}
	slices.Sort(told)
	slices.Sort(program)
	if diff := cmp.Diff(program, told); diff != "" {
		t.Errorf("%s, section %q: add the rows of - with their meaning, remove those of + (-program +page):\n%s", reference, section, diff)
	}
}

func TestReferenceNamesEveryFlag(t *testing.T) {
	all := (&rawFlags{}).flagSet(&options{})
	var flags []string
	for _, match := range regexp.MustCompile(`(?m)^ +(?:-(\w), )?--([\w-]+)`).FindAllStringSubmatch(helpText(), -1) {
		flag := all.Lookup(match[2])
		if flag == nil {
			t.Fatalf("--help names --%s, which is no flag", match[2])
		}
		name, value := "`--"+flag.Name+"`", ""
		if match[1] != "" {
			name += ", `-" + match[1] + "`"
		}
		if flag.DefValue != "" {
			value = "`" + flag.DefValue + "`"
		}
		flags = append(flags, name+" | "+value)
	}
	documented(t, "Flags", flags)
}

func TestReferenceNamesEveryCommand(t *testing.T) {
	var told []string
	plan := pflag.NewFlagSet("plan", pflag.ContinueOnError)
	addPlanFlags(plan, new(string))
	for _, flags := range []*pflag.FlagSet{new(cleanupOptions).flagSet(), new(statusOptions).flagSet(), plan} {
		flags.VisitAll(func(flag *pflag.Flag) {
			name, value := "`--"+flag.Name+"`", ""
			if flag.Shorthand != "" {
				name += ", `-" + flag.Shorthand + "`"
			}
			if flag.DefValue != "" {
				value = "`" + flag.DefValue + "`"
			}
			told = append(told, name+" | "+value)
		})
	}
	for _, c := range commands() {
		help, _, err := call(t, c.name, "--help")
		if err != nil {
			t.Fatal(err)
		}
		_, status, _ := strings.Cut(help, "\nExit status: ")
		told = append(told, regexp.MustCompile(`\b\d\b`).FindAllString(status, -1)...)
	}
	documented(t, "Commands", told)
}

func TestReferenceNamesEveryExitStatus(t *testing.T) {
	_, told, found := strings.Cut(helpText(), "\nExit status: ")
	if !found {
		t.Fatal("--help does not tell the exit status")
	}
	documented(t, "Exit status", regexp.MustCompile(`\b\d\b`).FindAllString(told, -1))
}

func TestReferenceNamesEveryEndpoint(t *testing.T) {
	var told []string
	w := newWorld(t, options{})
	for _, endpoint := range endpoints(w.syncer) {
		told = append(told, "`"+endpoint.path+"`")
	}
	for _, check := range checks() {
		told = append(told, "`"+check.name+"`")
	}
	documented(t, "Endpoints", told)
}

// described are the metrics of a registry, whether they have samples or not:
// "name | label, label".
func described(t *testing.T, registry *prometheus.Registry) []string {
	t.Helper()
	descriptions := make(chan *prometheus.Desc)
	go func() {
		defer close(descriptions)
		registry.Describe(descriptions)
	}()
	form := regexp.MustCompile(`^Desc{fqName: "(\w+)", .*, variableLabels: {([\w,]*)}}$`)
	var found []string
	for description := range descriptions {
		match := form.FindStringSubmatch(description.String())
		if match == nil {
			t.Fatalf("a description of an unknown form: %s", description)
		}
		if strings.HasPrefix(match[1], "go_") || strings.HasPrefix(match[1], "process_") {
			continue
		}
		found = append(found, fmt.Sprintf("`%s` | %s", match[1], strings.ReplaceAll(match[2], ",", ", ")))
	}
	return found
}

func TestReferenceNamesEveryMetric(t *testing.T) {
	documented(t, "Metrics", described(t, newWorld(t, options{}).syncer.metrics.registry))
}

// TestMetricsFollowConventions: names, units and help are as Prometheus wants them.
func TestMetricsFollowConventions(t *testing.T) {
	w := newWorld(t, options{})
	w.holds(t, goodText)
	w.syncer.pass(t.Context())
	families, err := w.syncer.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		if strings.HasPrefix(problem.Metric, namespace) {
			t.Errorf("%s: %s", problem.Metric, problem.Text)
		}
	}
}
