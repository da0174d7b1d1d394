package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

func TestParseLabels(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       map[string]string
		err        string
	}{
		{name: "none", want: map[string]string{}},
		{
			name: "as the downward API writes them",
			text: "kubernetes.io/hostname=\"node-1\"\npool=\"edge\"\ntopology.kubernetes.io/zone=\"1\"\nempty=\"\"",
			want: map[string]string{"kubernetes.io/hostname": "node-1", "pool": "edge", "topology.kubernetes.io/zone": "1", "empty": ""},
		},
		{name: "by hand", text: "\npool=edge\r\n  zone=a \n\n", want: map[string]string{"pool": "edge", "zone": "a"}},
		{name: "the last one counts", text: "a=b\na=c\n", want: map[string]string{"a": "c"}},
		{name: "no pair", text: "a=\"b\"\npool\n", err: `line 2: "pool" is not key="value"`},
		{name: "quotes", text: "a=\"b\n", err: `line 1: the quotes of "\"b" do not fit`},
		{name: "key", text: "=b\n", err: `line 1: "" is no key of a label: its name is empty`},
		{name: "value", text: "a=b c\n", err: `line 1: "b c" is no value of a label: it has to be letters and digits, with - _ . between them`},
		{name: "too long a value", text: "a=" + strings.Repeat("b", 64), err: `line 1: "` + strings.Repeat("b", 64) + `" is no value of a label: it has more than 63 characters`},
		{name: "too long", text: strings.Repeat("\n", 256<<10+1), err: "262145 bytes, more than 262144"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := config.ParseLabels(test.text)
			if (err == nil) != (test.err == "") || err != nil && err.Error() != test.err {
				t.Errorf("error %v, want %q", err, test.err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("labels (-want +got):\n%s", diff)
			}
		})
	}
}
