package policy

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLogEntry writes decisions on every sample as JSON, and makes them again.
func TestLogEntry(t *testing.T) {
	e := engine(t, "")
	if len(Samples()) < 10 {
		t.Fatalf("only %d samples", len(Samples()))
	}
	for _, sample := range Samples() {
		t.Run(sample.Name, func(t *testing.T) {
			decision := e.Decide(context.Background(), sample.Request, SampleCluster())
			entry, err := NewLogEntry(sample.Request, SampleCluster(), decision)
			if err != nil {
				t.Fatal(err)
			}
			line, err := json.Marshal(entry)
			if err != nil {
				t.Fatal(err)
			}
			var read LogEntry
			if err = json.Unmarshal(line, &read); err != nil {
				t.Fatal(err)
			}
			request, cluster, ok := read.Request()
			if !ok {
				t.Fatal("it cannot be made again")
			}
			again := e.Decide(context.Background(), request, cluster)
			if again.Allowed != decision.Allowed || told(again) != told(decision) {
				t.Errorf("decided %s\nand again %s", told(decision), told(again))
			}
			if added, gone := read.Differs(again); len(added)+len(gone) > 0 {
				t.Errorf("differs by %v and %v", added, gone)
			}
			if same, err := NewLogEntry(request, cluster, again); err != nil || same.InputDigest != entry.InputDigest {
				t.Errorf("the digest was %s and is %s (%v)", entry.InputDigest, same.InputDigest, err)
			}
		})
	}
}

func TestLogEntryMasked(t *testing.T) {
	request := update("nonMasqueradeCIDRs:\n- 203.0.113.77/24\nsecretKey: 5\n")
	decision := engine(t, "").Decide(context.Background(), request, nil)
	entry, err := NewLogEntry(request, nil, decision)
	if err != nil {
		t.Fatal(err)
	}
	full, err := json.Marshal(entry)
	if err != nil {
		t.Fatal(err)
	}
	masked, err := json.Marshal(entry.Masked())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"203.0.113", "secretKey"} {
		if !strings.Contains(string(full), text) || strings.Contains(string(masked), text) {
			t.Errorf("%q:\nfull   %s\nmasked %s", text, full, masked)
		}
	}
	if !strings.Contains(string(masked), entry.InputDigest) || !strings.Contains(string(masked), `"rule":"config-loads","action":"deny"`) {
		t.Errorf("masked %s", masked)
	}
	if _, _, ok := entry.Masked().Request(); ok {
		t.Error("a masked entry gives a request")
	}
	if diff := cmp.Diff("/input", entry.Masked().Erased[0]); diff != "" {
		t.Error(diff)
	}
}
