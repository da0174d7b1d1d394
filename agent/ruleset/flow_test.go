package ruleset

import (
	"net/netip"
	"testing"
)

func TestOutdated(t *testing.T) {
	before := Decision{Family: IPv4, Spared: cidrs("10.0.0.0/8", "172.16.0.0/12"), Exceptions: cidrs("10.9.0.0/16")}
	after := Decision{Family: IPv4, Spared: cidrs("10.0.0.0/9", "198.51.100.0/24"), Exceptions: cidrs("10.8.0.0/16")}
	changed, err := Compare(before, after)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name        string
		destination string
		masqueraded bool // by the rules of old
		outdated    bool
	}{
		{"spared, and still is", "10.1.2.3", false, false},
		{"masqueraded, and still is", "192.0.2.1", true, false},
		{"its range left the list", "172.16.0.1", false, true},
		{"half of its range left the list", "10.200.0.1", false, true},
		{"an exception came", "10.8.0.1", false, true},
		{"an exception went", "10.9.0.1", true, true},
		{"its range came to the list", "198.51.100.255", true, true},
		{"next to that range", "198.51.101.0", true, false},
		{"of a range that left, and masqueraded by somebody else", "172.16.0.1", true, false},
		{"of a range that came, and nobody had masqueraded it", "198.51.100.1", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			flow := Flow{netip.MustParseAddr("10.244.0.1"), netip.MustParseAddr(tt.destination), tt.masqueraded}
			if got := changed.Outdated(flow); got != tt.outdated {
				t.Errorf("outdated: %v, want %v", got, tt.outdated)
			}
		})
	}
	if changed.Empty() {
		t.Error("the change is empty")
	}
	if same, err := Compare(before, before); err != nil || !same.Empty() {
		t.Errorf("error %v; no change is not empty: %+v", err, same)
	}
}

func TestJudges(t *testing.T) {
	for _, tt := range []struct {
		name    string
		sources []netip.Prefix
		source  string
		want    bool
	}{
		{"every source", nil, "203.0.113.1", true},
		{"a pod", cidrs("10.244.0.0/16", "10.245.0.0/16"), "10.245.0.1", true},
		{"somebody else", cidrs("10.244.0.0/16", "10.245.0.0/16"), "10.246.0.1", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := (Decision{Sources: tt.sources}).Judges(netip.MustParseAddr(tt.source)); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}
