package policy

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// TestNewTakes holds that the bounds are far from what people write; hostile rules are
// those of TestNewRefuses.
func TestNewTakes(t *testing.T) {
	var table strings.Builder
	for i := range 6000 {
		fmt.Fprintf(&table, "\t{\"cidr\": \"10.%d.%d.0/24\", \"owner\": [\"team\", \"%d\"]},\n", i/256, i%256, i)
	}
	for _, test := range []struct {
		name    string
		sources []Source
	}{
		{"a table in a rule", []Source{hostile("a", "register := [\n"+table.String()+"]\n\nowners := {entry.cidr: entry.owner | some entry in register}\n\n"+
			`deny contains {"msg": range.cidr, "path": range.path} if { some range in input.config.nonMasqueradeCIDRs; not owners[range.cidr] }`)}},
		{"a chain of 400", []Source{hostile("a", chainOf(400, "r%d if r%d")+"r0 if input.request.name\n\ndeny contains \"x\" if r400")}},
		{"nested ten deep", []Source{hostile("a", `deny contains "x" if count(`+strings.Repeat("[1 | ", 10)+"true"+strings.Repeat("]", 10)+") == 0")}},
		{"the same value in many places", []Source{hostile("a", "part := {\"a\": input.request.name, \"b\": input.request.user}\n\nwhole := {\"x\": [part, part], \"y\": {\"z\": part}}\n\n"+
			`deny contains {"msg": "x", "details": [whole, whole, whole]} if whole.x != []`)}},
		{"functions of functions", []Source{hostile("a", "f(x) := {\"f\": x, \"n\": count(x)}\n\ng(x) := [f(x), f([x])]\n\ndeny contains \"x\" if count(g(g(g(input.request.name)))) == 0")}},
		{"an if of many else", []Source{hostile("a", "zone(n) := 1 if n == 0"+strings.Repeat(" else := 2 if n == 7", 500)+"\n\ndeny contains \"x\" if zone(3) == 4")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := New(context.Background(), Params{}, test.sources); err != nil {
				t.Error(err)
			}
		})
	}
}
