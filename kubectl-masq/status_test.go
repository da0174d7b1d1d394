package main

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestStatusText tells of a cluster in which nearly everything is odd.
func TestStatusText(t *testing.T) {
	pod := func(node, name string) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	}
	stored := storedStatus{Found: true, Digest: "0123456789abcdef", Verdict: "refused", Causes: []string{`data["config"]:2 nonMasqueradeCIDRs[0]: wrong`}}
	s := clusterStatus{
		Stored: stored,
		Webhooks: []webhookStatus{
			webhookOf(pod("a", "webhook-1"), answer{body: []byte(`{"version":"v1","rules":{"revision":"aaaaaaaaaaaaaaaa","since":"2026-01-02T03:04:05Z","sets":[{"name":"team","state":"last-good"}]}}`)}),
			webhookOf(pod("a", "webhook-2"), answer{body: []byte(`{"rules":{"revision":"bbbbbbbbbbbbbbbb"}}`)}),
			webhookOf(pod("a", "webhook-3"), answer{err: errors.New("no route")}),
		},
		Agents: []agentStatus{
			agentOf(pod("node-1", "agent-1"), answer{body: []byte(`{"state":"in-force","config":{"digest":"0123456789abcdef","source":"file"}}`)}, stored),
			agentOf(pod("node-2", "agent-2"), answer{body: []byte(`{"state":"degraded","config":{"digest":"fedcba9876543210","source":"last-valid"}}`)}, stored),
			agentOf(pod("node-3", "agent-3"), answer{body: []byte(`{"state":"in-force","config":{"digest":"fedcba9876543210","source":"file"},"families":[{"family":"ipv6","error":"no table"}]}`)}, stored),
			agentOf(pod("node-4", "agent-4"), answer{body: []byte(`<html>`)}, stored),
			agentOf(pod("", "agent-5"), answer{err: errors.New("no host")}, stored),
		},
	}
	s.conclude([]appsv1.DaemonSet{{Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 6, CurrentNumberScheduled: 5}}})
	want := `webhook kube-system/webhook-1: revision aaaaaaaaaaaa, 1 rule set
webhook kube-system/webhook-2: revision bbbbbbbbbbbb, 0 rule sets
stored configuration 0123456789ab: refused
  data["config"]:2 nonMasqueradeCIDRs[0]: wrong
node-1: in-force, file 0123456789ab
node-2: degraded; the file is refused, and the last valid one holds
node-3: another configuration than the stored one; ipv6: no table
node-4: reading /status: invalid character '<' looking for beginning of value
kube-system/agent-5: it has no node yet
odd: webhook kube-system/webhook-1: rule set team: last-good
odd: webhook kube-system/webhook-3: /status does not answer: no route
odd: the webhooks decide by 2 different revisions of the rules
odd: 1 node has no agent
6 nodes, 4 odd
`
	if diff := cmp.Diff(want, s.text(painter{})); diff != "" {
		t.Errorf("status differs (-want +got):\n%s", diff)
	}
}
