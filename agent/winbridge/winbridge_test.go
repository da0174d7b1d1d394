package winbridge_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/winbridge"
)

var update = flag.Bool("update", false, "rewrite the golden files") //nolint:gochecknoglobals // a flag of the test binary

func prefixes(list ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(list))
	for i, s := range list {
		parsed[i] = netip.MustParsePrefix(s)
	}
	return parsed
}

func TestExceptions(t *testing.T) {
	tests := []struct {
		name   string
		config config.Config
		want   []string
		ipv6   []string
	}{
		{name: "empty list", want: []string{"169.254.0.0/16"}},
		{
			name:   "order kept, repeats once, IPv6 apart",
			config: config.Config{NonMasquerade: prefixes("192.168.0.0/16", "10.0.0.0/8", "fd00::/8", "192.168.0.0/16", "169.254.0.0/16")},
			want:   []string{"169.254.0.0/16", "192.168.0.0/16", "10.0.0.0/8"},
			ipv6:   []string{"fd00::/8"},
		},
		{
			name:   "link-local masqueraded",
			config: config.Config{NonMasquerade: prefixes("10.0.0.0/8"), MasqueradeLinkLocal: true},
			want:   []string{"10.0.0.0/8"},
		},
		{
			name: "exceptions of the list",
			config: config.Config{
				NonMasquerade: prefixes("10.0.0.0/8", "10.1.1.0/24"), Masquerade: prefixes("10.0.0.0/9", "fd00::/16"), MasqueradeLinkLocal: true,
			},
			want: []string{"10.1.1.0/24", "10.128.0.0/9"},
		},
		{
			name:   "everything",
			config: config.Config{NonMasquerade: prefixes("0.0.0.0/0"), MasqueradeLinkLocal: true},
			want:   []string{"0.0.0.0/0"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, ipv6 := winbridge.Exceptions(test.config)
			if diff := cmp.Diff(test.want, texts(got)); diff != "" {
				t.Errorf("exceptions (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.ipv6, texts(ipv6)); diff != "" {
				t.Errorf("IPv6 (-want +got):\n%s", diff)
			}
		})
	}
}

func texts(list []netip.Prefix) []string {
	var all []string
	for _, p := range list {
		all = append(all, p.String())
	}
	return all
}

// TestGolden has the configurations of the plugins' documentation, and their results.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) != 6 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, changes, err := winbridge.Edit(text, prefixes("169.254.0.0/16", "10.0.0.0/8", "192.168.0.0/16"))
			if err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(file, ".json") + ".golden"
			if *update {
				if err = os.WriteFile(golden, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("the text differs (-want +got):\n%s", diff)
			}
			keepsAllElse(t, text, got)

			// There and back again is the same, byte for byte.
			if len(changes) != 1 || len(changes[0].Before) == 0 {
				t.Fatalf("changes: %+v", changes)
			}
			back, _, err := winbridge.Edit(got, prefixes(changes[0].Before...))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(text), string(back)); diff != "" {
				t.Errorf("the round trip differs (-want +got):\n%s", diff)
			}
			same, _, err := winbridge.Edit(got, prefixes(changes[0].After...))
			if err != nil || !bytes.Equal(same, got) {
				t.Errorf("a second time changes something: %v", err)
			}
		})
	}
}

func TestEdit(t *testing.T) {
	const nat = `{"Name":"EndpointPolicy","Value":{"Type":"OutBoundNAT"`
	list := prefixes("10.0.0.0/8", "192.168.0.0/16")
	tests := []struct {
		name string
		text string
		list []netip.Prefix
		want string
	}{
		{
			name: "no list, compact", text: `{"policies":[` + nat + `}}]}`, list: list,
			want: `{"policies":[` + nat + `,"ExceptionList":["10.0.0.0/8","192.168.0.0/16"]}}]}`,
		},
		{
			name: "no list, version 2", text: `{"policies": [{"Value": {"Type": "OutBoundNAT", "Settings": {}}}]}`, list: list,
			want: `{"policies": [{"Value": {"Type": "OutBoundNAT", "Settings": {"Exceptions": ["10.0.0.0/8", "192.168.0.0/16"]}}}]}`,
		},
		{
			name: "no list, a member a line", list: list,
			text: "{\n  \"value\": {\n    \"name\": \"x\",\n    \"type\": \"outboundnat\"\n  }\n}\n",
			want: "{\n  \"value\": {\n    \"name\": \"x\",\n    \"type\": \"outboundnat\",\n    \"ExceptionList\": [\"10.0.0.0/8\", \"192.168.0.0/16\"]\n  }\n}\n",
		},
		{
			name: "no list, one member a line", list: list,
			text: "{\r\n  \"value\": {\r\n    \"type\": \"OutBoundNAT\"\r\n  }\r\n}",
			want: "{\r\n  \"value\": {\r\n    \"type\": \"OutBoundNAT\",\r\n    \"ExceptionList\": [\"10.0.0.0/8\", \"192.168.0.0/16\"]\r\n  }\r\n}",
		},
		{
			name: "null", text: `{"p":{"Type":"OutBoundNAT","ExceptionList":null}}`, list: list,
			want: `{"p":{"Type":"OutBoundNAT","ExceptionList":["10.0.0.0/8","192.168.0.0/16"]}}`,
		},
		{
			name: "one element a line", list: list,
			text: "{\"p\": {\"Type\": \"OutBoundNAT\", \"ExceptionList\": [\n\t\"1.0.0.0/8\"\n]}}",
			want: "{\"p\": {\"Type\": \"OutBoundNAT\", \"ExceptionList\": [\n\t\"10.0.0.0/8\",\n\t\"192.168.0.0/16\"\n]}}",
		},
		{
			name: "emptied", text: `{"p":{"Type":"OutBoundNAT","ExceptionList":[ "1.0.0.0/8" ]}}`,
			want: `{"p":{"Type":"OutBoundNAT","ExceptionList":[]}}`,
		},
		{
			name: "several policies, a key twice, both versions", list: list,
			text: `{"a":{"Type":"OutBoundNAT","ExceptionList":["1.0.0.0/8"],"exceptionlist":[]},"b":[{"Type":"OutBoundNAT","ExceptionList":[],"Settings":{"Exceptions":[]}}]}`,
			want: `{"a":{"Type":"OutBoundNAT","ExceptionList":["10.0.0.0/8","192.168.0.0/16"],"exceptionlist":["10.0.0.0/8","192.168.0.0/16"]},` +
				`"b":[{"Type":"OutBoundNAT","ExceptionList":["10.0.0.0/8","192.168.0.0/16"],"Settings":{"Exceptions":["10.0.0.0/8","192.168.0.0/16"]}}]}`,
		},
		{
			name: "of two types the last counts", list: list,
			text: `{"p":{"Type":"OutBoundNAT","Type":"ROUTE"},"q":{"Type":"ROUTE","type":"OutBoundNAT"}}`,
			want: `{"p":{"Type":"OutBoundNAT","Type":"ROUTE"},"q":{"Type":"ROUTE","type":"OutBoundNAT","ExceptionList":["10.0.0.0/8","192.168.0.0/16"]}}`,
		},
		{
			name: "right already, however it is written", list: list,
			text: `{"p":{"Type":"OutBoundNAT","ExceptionList":[  "10.0.0.0\/8" , "192.168.0.0/16"]}}  `,
			want: `{"p":{"Type":"OutBoundNAT","ExceptionList":[  "10.0.0.0\/8" , "192.168.0.0/16"]}}  `,
		},
		{
			name: "brackets and quotes in other places", list: list,
			text: `{"x":"]}\"[{","p":{"Type":"OutBoundNAT","ExceptionList":["\u005d"]},"y":1e400}`,
			want: `{"x":"]}\"[{","p":{"Type":"OutBoundNAT","ExceptionList":["10.0.0.0/8","192.168.0.0/16"]},"y":1e400}`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, _, err := winbridge.Edit([]byte(test.text), test.list)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Errorf("the text differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestChanges(t *testing.T) {
	text := "{\"plugins\": [\n{\"AdditionalArgs\": [{}, {\"Value\": {\"Type\": \"OutBoundNAT\",\n\"ExceptionList\": [\"1.0.0.0/8\"]}}]},\n{\"delegate\": {\"policies\": [{\"Value\": {\"Type\": \"OutBoundNAT\"}}]}}]}"
	_, changes, err := winbridge.Edit([]byte(text), prefixes("10.0.0.0/8"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]winbridge.Change{
		{Path: "plugins[0].AdditionalArgs[1].Value", Line: 3, Before: []string{"1.0.0.0/8"}, After: []string{"10.0.0.0/8"}},
		{Path: "plugins[1].delegate.policies[0].Value", Line: 4, After: []string{"10.0.0.0/8"}},
	}, changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func TestEditRefuses(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 70) + "1" + strings.Repeat("}", 70)
	tests := []struct {
		name string
		text string
		want string
	}{
		{"empty", "", "reading the JSON text: line 1: unexpected EOF"},
		{"torn", "{\n\"a\": [1,\n", "reading the JSON text: line 2: unexpected EOF"},
		{"not JSON", "{\n\"a\": x}", "reading the JSON text: line 2: invalid character 'x'"},
		{"a comma too many", `{"a": [1,]}`, "reading the JSON text: line 1: invalid character ']'"},
		{"two documents", `{} {}`, "reading the JSON text: line 1: something follows the end of the configuration"},
		{"a list", `[{"Type":"OutBoundNAT"}]`, "reading the JSON text: it is no object, as a CNI configuration is"},
		{"too deep", deep, "reading the JSON text: line 1: it is nested more than 64 deep"},
		{"too large", `{"a":"` + strings.Repeat("x", 1<<20) + `"}`, "it has 1048584 bytes, more than 1048576"},
		{"UTF-16", "\xff\xfe{\x00}\x00", "it is UTF-16, which plugins do not read; save it as UTF-8 (Set-Content -Encoding utf8)"},
		{"Latin-1", "{\"a\":\"\xe9\"}", "it is no UTF-8; save it as UTF-8"},
		{"a text for a list", `{"p":{"Type":"OutBoundNAT","ExceptionList":"10.0.0.0/8"}}`, "line 1: ExceptionList of the policy p is no list; write []"},
		{"numbers", "{\"p\":{\"Type\":\"OutBoundNAT\",\n\"ExceptionList\":[10]}}", `line 2: ExceptionList of the policy p holds something that is no text; write CIDRs as "10.0.0.0/8"`},
		{"settings of another kind", `{"p":{"Type":"OutBoundNAT","Settings":[]}}`, `line 1: Settings of the policy p is no object; write {"Exceptions": []}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, _, err := winbridge.Edit([]byte(test.text), nil); err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("Edit: %v, want an error that begins %q", err, test.want)
			}
		})
	}
}

func TestNoPolicyTellsHowToAddOne(t *testing.T) {
	for _, test := range []struct{ name, text, key string }{
		{"win-bridge", `{"type": "win-bridge", "policies": [{"Value": {"Type": "ROUTE"}}]}`, "policies"},
		{"azure-vnet", `{"plugins": [{"type": "azure-vnet"}]}`, "AdditionalArgs"},
		{"sdnbridge", `{"plugins": [{"type": "sdnbridge", "AdditionalArgs": []}]}`, "AdditionalArgs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := winbridge.Edit([]byte(test.text), prefixes("10.0.0.0/8"))
			want := `it has no OutBoundNAT policy, so there is nothing that could except ranges; add to the plugin's ` + test.key +
				`: {"Name":"EndpointPolicy","Value":{"Type":"OutBoundNAT","ExceptionList":["10.0.0.0/8"]}}`
			if !errors.Is(err, winbridge.ErrNoPolicy) || err.Error() != want {
				t.Errorf("Edit: %v\nwant  %s", err, want)
			}
		})
	}
}

// keepsAllElse checks that two texts are valid JSON and differ in the lists alone.
func keepsAllElse(t *testing.T, before, after []byte) {
	t.Helper()
	mark := []byte("\ufeff")
	if bytes.HasPrefix(before, mark) != bytes.HasPrefix(after, mark) {
		t.Error("the byte order mark has changed")
	}
	read := func(text []byte) any {
		var value any
		decoder := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(text, mark)))
		decoder.UseNumber()
		if err := decoder.Decode(&value); err != nil {
			t.Fatalf("no JSON: %v\n%s", err, text)
		}
		return value
	}
	if diff := cmp.Diff(withoutLists(read(before)), withoutLists(read(after))); diff != "" {
		t.Errorf("more than the lists has changed (-before +after):\n%s", diff)
	}
}

// withoutLists takes the lists out of every policy.
func withoutLists(value any) any {
	switch v := value.(type) {
	case []any:
		for i := range v {
			v[i] = withoutLists(v[i])
		}
	case map[string]any:
		policy := false
		for key, inner := range v {
			text, isText := inner.(string)
			policy = policy || strings.EqualFold(key, "Type") && isText && strings.EqualFold(text, "OutBoundNAT")
		}
		for key, inner := range v {
			switch {
			case policy && isList(key):
				delete(v, key)
			case policy && strings.EqualFold(key, "Settings"):
				if settings, ok := inner.(map[string]any); ok {
					for key := range settings {
						if isList(key) {
							delete(settings, key)
						}
					}
				}
			case !policy:
				v[key] = withoutLists(inner)
			}
		}
	}
	return value
}

func isList(key string) bool {
	return strings.EqualFold(key, "ExceptionList") || strings.EqualFold(key, "Exceptions")
}

// FuzzEdit: what Edit takes stays valid JSON, and equal but for the lists; a second time
// changes nothing.
func FuzzEdit(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, uint8(2))
	}
	f.Add([]byte(`{"Type":"OutBoundNAT" , "Settings" : { } ,"exceptions": null}`), uint8(0))
	f.Add([]byte("{\"a\":[{\"type\":\"ROUTE\",\"TYPE\":\"outboundnat\"\n,\"x\":1}]}"), uint8(3))
	f.Fuzz(func(t *testing.T, text []byte, n uint8) {
		list := prefixes("10.0.0.0/8", "192.168.0.0/16", "169.254.0.0/16", "1.2.3.4/32", "0.0.0.0/0")
		list = list[:min(int(n), len(list))]
		original := slices.Clone(text)
		got, changes, err := winbridge.Edit(text, list)
		if !bytes.Equal(text, original) {
			t.Fatal("the input has been changed")
		}
		if err != nil {
			return
		}
		keepsAllElse(t, text, got)
		again, after, err := winbridge.Edit(got, list)
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("a second time: %v\n%s\n%s", err, got, again)
		}
		if len(after) != len(changes) {
			t.Fatalf("%d lists, then %d", len(changes), len(after))
		}
		for _, change := range after {
			if !slices.Equal(change.Before, texts(list)) {
				t.Fatalf("%s holds %q", change.Path, change.Before)
			}
		}
	})
}
