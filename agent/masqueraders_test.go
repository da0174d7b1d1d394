package main

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	others "github.com/ip-masq-guard/ip-masq-guard/agent/foreign"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

// surveys counts surveys, and gives each the same report until it is changed.
type surveys struct {
	at     []time.Duration // since the start
	start  time.Time
	chains []string // for which they were

	mu     sync.Mutex
	report others.Report
}

func (s *surveys) find(report others.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report = report
}

func (s *surveys) survey(_ context.Context, ours []others.Ours) others.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = append(s.at, time.Since(s.start))
	s.chains = append(s.chains, ours[0].Chain)
	return s.report
}

func foundReport(verdicts ...others.Verdict) others.Report {
	r := others.Report{Counts: map[others.Kind]int{}}
	for _, v := range verdicts {
		r.Findings = append(r.Findings, others.Finding{Owner: "flannel", Family: "ipv4", Backend: "nft", Rule: string(v), Verdict: v})
		r.Counts[others.Kind{Family: "ipv4", Owner: "flannel", Verdict: v}]++
	}
	return r
}

func TestSurveysWhenAskedAndFromTimeToTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logBuffer{}
		s := &surveys{start: time.Now(), report: foundReport(others.Undoes, others.Harmless)}
		m := newMasqueraders(newMetrics("v1", []ruleset.Family{ruleset.IPv4}), slog.New(slog.NewJSONHandler(log, nil)))
		m.survey = s.survey
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go m.run(ctx)
		look := func(chain string) { m.look([]others.Ours{{Chain: chain}}) }

		time.Sleep(20 * time.Minute) // nothing is known of our rules yet
		look("A")
		time.Sleep(time.Second / 2)
		look("B")
		look("C")
		time.Sleep(2 * time.Second)
		look("D") // too soon after the last survey
		time.Sleep(20 * time.Second)
		s.find(foundReport(others.Undoes, others.Duplicate))
		time.Sleep(10 * time.Minute)
		s.find(others.Report{Partial: []string{"nft is not installed"}})
		time.Sleep(5 * time.Minute)
		cancel()
		synctest.Wait()

		const first = 20*time.Minute + 1500*time.Millisecond
		want := []time.Duration{
			first, first + surveyPause, first + surveyPause + 5*time.Minute, first + surveyPause + 10*time.Minute, first + surveyPause + 15*time.Minute,
		}
		if diff := cmp.Diff(want, s.at); diff != "" {
			t.Errorf("surveys (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"C", "D", "D", "D", "D"}, s.chains); diff != "" {
			t.Errorf("for our chain (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{
			"a rule of another program meets packets of ours", // harmless ones are for debugging
			"a rule of another program meets packets of ours", // the duplicate
			"rules of other programs are gone, or do something else now",
			"rules of other programs are gone, or do something else now",
			"the survey of other programs' rules does not see everything",
		}, log.messages(t)); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
		if got := m.latest.Load().status(); len(got.Findings) != 0 || len(got.Partial) != 1 || got.SurveyedAt == nil {
			t.Errorf("status: %+v", got)
		}
	})
}

func TestMasqueradersMetric(t *testing.T) {
	m := newMetrics("v1", []ruleset.Family{ruleset.IPv4})
	m.masqueraders(foundReport(others.Undoes, others.Undoes, others.Harmless))
	m.masqueraders(foundReport(others.Undoes))
	families, err := m.registry.Gather()
	must(t, err)
	got := map[string]float64{}
	for _, family := range families {
		if family.GetName() != "ip_masq_guard_agent_foreign_masqueraders" {
			continue
		}
		for _, series := range family.GetMetric() {
			var labels []string
			for _, pair := range series.GetLabel() {
				labels = append(labels, pair.GetValue())
			}
			got[strings.Join(labels, "/")] = series.GetGauge().GetValue()
		}
	}
	if diff := cmp.Diff(map[string]float64{
		"ipv4/flannel/undoes": 1, "ipv4/unknown/duplicate": 0, "ipv4/unknown/harmless": 0, "ipv4/unknown/shadows-us": 0,
		"ipv4/unknown/undoes": 0, "ipv4/unknown/unknown": 0,
	}, got); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}

// TestDaemonNamesMasqueraders: log, /status and /metrics tell of what is in the kernel,
// and the rules are held all the same.
func TestDaemonNamesMasqueraders(t *testing.T) {
	schema := validator(t)
	tests := []struct {
		name, flag string
		theirs     string // the backend of the other rule
		position   others.Position
	}{
		{"nft", "--iptables-backend=nft", "nft", others.Before},
		{"legacy", "--iptables-backend=legacy", "legacy", others.Before},
		{"nftables", "--backend=nftables", "nft", others.Before},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := backend{test.theirs, netns.ForTest(t)}
			name := test.theirs
			b.iptables(t, "-A", "POSTROUTING", "-s", "172.17.0.0/16", "!", "-o", "docker0", "-j", "MASQUERADE")
			v := newVolume(t, "nonMasqueradeCIDRs: [10.1.0.0/16]\n")
			a := startAgent(t, b.host, "--config-path="+v.file(), test.flag)
			eventually(t, "the finding is logged", func() string {
				if text := a.log.String(); !strings.Contains(text, `"verdict":"undoes","owner":"docker","family":"ipv4","backend":"`+name+`"`) {
					return text
				}
				return ""
			})
			_, body := a.get(t, "/status")
			got := parseReport(t, schema, body).Others
			want := []others.Finding{{
				Owner: "docker", Family: "ipv4", Backend: name, Table: "nat", Chain: "POSTROUTING",
				Rule: "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", Position: test.position, Verdict: "undoes",
				Why:     "masquerades packets to 169.254.0.0/16, 10.1.0.0/16, which our list spares (only with ! -o docker0)",
				Sources: []string{"172.17.0.0/16"}, Ranges: []string{"10.1.0.0/16", "169.254.0.0/16"},
				Remedy: `start docker with --ip-masq=false ("ip-masq": false in daemon.json), or give its networks ` +
					`com.docker.network.bridge.enable_ip_masquerade=false`,
			}}
			if diff := cmp.Diff(want, got.Findings); diff != "" {
				t.Errorf("/status (-want +got):\n%s", diff)
			}
			if _, body := a.get(t, "/metrics"); !strings.Contains(body,
				`ip_masq_guard_agent_foreign_masqueraders{family="ipv4",owner="docker",verdict="undoes"} 1`) {
				t.Errorf("/metrics does not tell of it:\n%s", body)
			}
			if code, body := a.get(t, "/readyz"); code != 200 {
				t.Errorf("/readyz: %d %s", code, body)
			}
			a.stop(t)
		})
	}
}
