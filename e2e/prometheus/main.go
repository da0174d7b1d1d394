// Command promrules reads rules and dashboards with Prometheus's own parsers, and
// prints what they ask for: a line for each metric of each expression, its name and
// then the labels that it is selected by.
//
//	promrules RULES... DASHBOARD.json...
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	for _, file := range os.Args[1:] {
		if err := read(file); err != nil {
			fmt.Fprintf(os.Stderr, "reading %s: %v\n", file, err)
			os.Exit(1)
		}
	}
}

func read(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	expressions := ofDashboard
	if filepath.Ext(file) != ".json" {
		expressions = ofRules
	}
	all, err := expressions(text)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New("it asks for nothing")
	}
	for _, expression := range all {
		parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expression)
		if err != nil {
			return fmt.Errorf("%s: %w", expression, err)
		}
		printMetrics(parsed)
	}
	return nil
}

// ofRules are the expressions of a file of rules, all of whose texts Prometheus takes.
func ofRules(text []byte) ([]string, error) {
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var all []string
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			all = append(all, rule.Expr)
		}
	}
	return all, nil
}

// ofDashboard are the expressions of a Grafana dashboard, wherever they stand in it.
func ofDashboard(text []byte) ([]string, error) {
	var dashboard any
	if err := json.Unmarshal(text, &dashboard); err != nil {
		return nil, err
	}
	var all []string
	var walk func(any)
	walk = func(node any) {
		switch node := node.(type) {
		case map[string]any:
			if text, ok := node["expr"].(string); ok {
				all = append(all, strings.ReplaceAll(text, "$__rate_interval", "5m")) // Grafana fills it in
			}
			for _, value := range node {
				walk(value)
			}
		case []any:
			for _, value := range node {
				walk(value)
			}
		}
	}
	walk(dashboard)
	return all, nil
}

func printMetrics(expression parser.Expr) {
	for _, selectors := range parser.ExtractSelectors(expression) {
		var name string
		var by []string
		for _, matcher := range selectors {
			if matcher.Name == labels.MetricName {
				name = matcher.Value
			} else {
				by = append(by, matcher.Name)
			}
		}
		slices.Sort(by)
		fmt.Println(strings.Join(append([]string{name}, by...), " "))
	}
}
