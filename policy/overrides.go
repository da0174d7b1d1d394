package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// overridesLimit bounds the time for all overrides together. Rules take far less;
// those that do not end have each of them wait.
const overridesLimit = 2 * time.Second

// askOverrides judges the new text once more as it holds on the nodes of each override,
// by every rule. What known says already of the text is left out.
func (e *Engine) askOverrides(ctx context.Context, d *document, known []Finding) []Finding {
	var findings []Finding
	began := time.Now()
	for i := range d.new.overrides {
		if time.Since(began) > overridesLimit {
			return append(findings, undecided(errors.New("its overrides could not be judged in time")))
		}
		on := *d
		on.new = d.new.overrides[i]
		on.new.bytes, on.new.binary = d.new.bytes, d.new.binary
		on.override = &override{d.new.config.Place(i).String(), &d.new.config.Overrides[i]}
		labels := on.override.Labels()
		if d.old.loads {
			on.old = *d.old.on(labels)
		}
		on.facts = factsOf(on.new.config, on.new.layout, e.params.flags(), d.cluster)
		excused := e.params.waiveRanges(&on.facts, on.new.layout, d.cluster, d.request.Time)
		on.facts.effect = e.effect(on.new, on.old)
		for _, f := range append(e.ask(ctx, &on), excused...) {
			if !on.override.repeats(f, known) {
				findings = append(findings, on.override.locate(f, &d.new.config))
			}
		}
	}
	return findings
}

// override is the override that a document is about.
type override struct {
	path string // config.Place of it

	*config.Override
}

func (o *override) input() ast.Value {
	if o == nil {
		return ast.NullValue
	}
	labels := make([][2]*ast.Term, len(o.MatchLabels))
	for i, label := range o.MatchLabels {
		labels[i] = item(label.Key, label.Value)
	}
	return ast.NewObject(
		item("path", o.path), item("selector", o.Selector()), itemOf("match_labels", ast.NewObject(labels...)))
}

// sets tells whether what stands at a path is the override's own.
func (o *override) sets(path string) bool {
	key, _, _ := strings.Cut(path, "[")
	return slices.Contains(o.Sets, key)
}

// repeats tells whether the text has the same fault without the override.
func (o *override) repeats(f Finding, known []Finding) bool {
	return !o.sets(f.Path) && slices.ContainsFunc(known, func(other Finding) bool {
		return f.Rule == other.Rule && f.Action == other.Action && f.Key == other.Key && f.Path == other.Path && f.Message == other.Message
	})
}

// locate names the override in a finding. Rules name a key as it stands in a text of
// its own.
func (o *override) locate(f Finding, whole *config.Config) Finding {
	f.Message = fmt.Sprintf("on nodes with %s: %s", o.Selector(), f.Message)
	if f.Key != ConfigKey || f.Failed || strings.HasPrefix(f.Path, o.path) {
		return f
	}
	switch {
	case o.sets(f.Path):
		f.Path = o.path + "." + f.Path
	case !strings.Contains(f.Path, "["):
		f.Path = o.path
	}
	f.Position = whole.At(f.Path)
	return f
}
