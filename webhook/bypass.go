package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// bypassAnnotation on an edit gives the reason why its author overrides the rules. It
// counts in the edit that brings or changes it, and in no later one.
const bypassAnnotation = "ip-masq-guard.io/bypass" //nolint:gosec // a name, no credential

// bypassVerb on the ConfigMap is what its author must have the right to.
const bypassVerb = "bypass"

// Audit annotations of a bypass.
const (
	auditBypass         = "bypass-reason"
	auditBypassed       = "bypassed-rules"
	auditBypassRejected = "bypass-refused"
)

// bypasser tells whether a user may bypass the rules for one ConfigMap.
type bypasser interface {
	mayBypass(ctx context.Context, user authenticationv1.UserInfo, t target) (bool, error)
}

// accessReviews asks the API server, whose RBAC decides.
type accessReviews struct {
	client authorizationclient.SubjectAccessReviewInterface
}

func (a accessReviews) mayBypass(ctx context.Context, user authenticationv1.UserInfo, t target) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for key, value := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(value)
	}
	review, err := a.client.Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: t.namespace, Name: t.name, Verb: bypassVerb, Version: "v1", Resource: "configmaps",
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("asking whether %s may %s: %w", user.Username, bypassVerb, err)
	}
	return review.Status.Allowed, nil
}

// receipt is what a bypass, or the refusal of one, leaves in the response.
type receipt struct {
	warning string
	audit   map[string]string
	bypass  *policy.LogBypass // nil: nobody asked for one
}

func (r receipt) add(response *admissionv1.AdmissionResponse) {
	maps.Copy(response.AuditAnnotations, r.audit)
	if r.warning != "" {
		response.Warnings = boundWarnings(slices.Insert(response.Warnings, 0, policy.WarningLine(r.warning)))
	}
}

// withBypass lets a denied edit through that asks for it with a reason, if its author has
// the right to: with its denials as warnings. What no agent would load stays denied.
func (g *guard) withBypass(ctx context.Context, req *request, decision policy.Decision) (policy.Decision, receipt) {
	if decision.Allowed || req.Object == nil || g.bypass == nil {
		return decision, receipt{}
	}
	reason := strings.TrimSpace(req.Object.Metadata.Annotations[bypassAnnotation])
	if reason == "" {
		return decision, receipt{}
	}
	refused := func(why string) (policy.Decision, receipt) {
		g.metrics.bypasses.WithLabelValues("false").Inc()
		g.log.LogAttrs(ctx, slog.LevelWarn, "bypass refused", slog.String("id", decision.ID), slog.String("user", req.UserInfo.Username),
			slog.String("reason", reason), slog.String("why", why))
		return decision, receipt{
			warning: "not bypassed: " + why,
			audit:   map[string]string{auditBypassRejected: why},
			bypass:  &policy.LogBypass{Reason: reason, Refused: why},
		}
	}
	if req.OldObject != nil && req.OldObject.Metadata.Annotations[bypassAnnotation] == req.Object.Metadata.Annotations[bypassAnnotation] {
		return refused("the annotation " + bypassAnnotation + " is that of an earlier edit; write the reason for this one")
	}
	bypassed := decision.Bypassed(reason)
	if !bypassed.Allowed {
		return refused("agents would not load the configuration, or it could not be judged")
	}
	allowed, err := g.bypass.mayBypass(ctx, req.UserInfo, g.target)
	if err != nil {
		return refused(err.Error())
	}
	if !allowed {
		return refused(fmt.Sprintf("%s has no right to the verb %s on configmap %s in %s", req.UserInfo.Username, bypassVerb, g.target.name, g.target.namespace))
	}
	rules := strings.Join(violatedRules(decision.Findings), ",")
	g.metrics.bypasses.WithLabelValues("true").Inc()
	g.log.LogAttrs(ctx, slog.LevelWarn, "rules bypassed", slog.String("id", decision.ID), slog.String("user", req.UserInfo.Username),
		slog.String("reason", reason), slog.String("rules", rules))
	return bypassed, receipt{
		audit:  map[string]string{auditBypass: reason, auditBypassed: rules},
		bypass: &policy.LogBypass{Reason: reason},
	}
}
