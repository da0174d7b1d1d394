package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// liveTimeout bounds the reading of the stored configuration, which a vetting can do
// without.
const liveTimeout = 2 * time.Second

// vetter judges writes of rule sets before they come into force.
type vetter struct {
	rules   *ruleWatch
	target  target
	live    coreclient.ConfigMapsGetter
	cluster func() *policy.Cluster
	metrics *metrics
	log     *slog.Logger
}

// isRuleSet tells whether a ConfigMap holds rules.
func (c *configMap) isRuleSet() bool {
	return c != nil && c.Metadata.Labels[ruleLabel] == ruleLabelValue
}

// mislabelled warns of a ConfigMap whose label has another value: its author takes it for
// a rule set.
func (c *configMap) mislabelled() []string {
	if c == nil {
		return nil
	}
	value, labelled := c.Metadata.Labels[ruleLabel]
	if !labelled || value == ruleLabelValue {
		return nil
	}
	return []string{policy.WarningLine(fmt.Sprintf("no rules are taken from this ConfigMap: the label %s is %q; write %s", ruleLabel, value, ruleLabelValue))}
}

// review judges a write of a ConfigMap that is, or was, a rule set.
func (v *vetter) review(ctx context.Context, req *request, received time.Time) (*admissionv1.AdmissionResponse, error) {
	response := &admissionv1.AdmissionResponse{UID: req.UID, Allowed: true, AuditAnnotations: map[string]string{}}
	if !req.isConfigMap() || req.Namespace != v.rules.store.namespace {
		v.metrics.unjudged.WithLabelValues("other_object").Inc()
		return response, nil
	}
	if req.Operation != admissionv1.Delete {
		response.Warnings = req.Object.mislabelled()
	}
	if !req.Object.isRuleSet() && !req.OldObject.isRuleSet() {
		v.metrics.unjudged.WithLabelValues("other_object").Inc()
		return response, nil
	}
	name := req.subject()
	if !req.Object.isRuleSet() || req.Operation == admissionv1.Delete {
		v.leaving(ctx, req, response)
	} else {
		v.vet(ctx, req, response)
	}
	v.metrics.vetted(req.Operation, response.Allowed)
	v.log.LogAttrs(ctx, slog.LevelInfo, "rule set judged", slog.String("uid", string(req.UID)), slog.String("set", name),
		slog.String("user", req.UserInfo.Username), slog.String("operation", string(req.Operation)), slog.Bool("allowed", response.Allowed),
		slog.Int("warnings", len(response.Warnings)), slog.Float64("seconds", time.Since(received).Seconds()))
	return response, nil
}

// vet judges a set that comes or changes.
func (v *vetter) vet(ctx context.Context, req *request, response *admissionv1.AdmissionResponse) {
	name := req.subject()
	set := setOf(req.Object.Data, req.Object.BinaryData)
	vetting := policy.Vetting{
		Params: v.rules.params, Beside: v.rules.beside(name), InForce: v.rules.engine.Load(),
		Live: v.stored(ctx, req.UserInfo), Cluster: v.cluster(),
	}
	if req.OldObject.isRuleSet() {
		vetting.Before = setOf(req.OldObject.Data, req.OldObject.BinaryData).sources(name)
	}
	engine, complaints := vetting.Vet(ctx, set.sources(name))
	for key := range set {
		if !policy.IsSource(key) {
			complaints = append(complaints, policy.Complaint{
				Action: policy.Warn, RuleError: policy.RuleError{File: name + "/" + key, Message: "the key has no part in rules"},
				Hint: "keys are NAME.rego, NAME_test.rego, data.json and params.yaml",
			})
		}
	}
	if engine != nil {
		response.AuditAnnotations[auditRevision] = engine.Revision()
	}
	for _, c := range complaints {
		if c.Action != policy.Deny {
			response.Warnings = append(response.Warnings, policy.WarningLine(inField(c, name).String()))
		}
	}
	slices.Sort(response.Warnings)
	response.Warnings = boundWarnings(slices.Compact(response.Warnings))
	if policy.Denied(complaints) {
		v.deny(req, response, complaints)
	}
}

// inField names the key of a complaint as kubectl's users know it.
func inField(c policy.Complaint, set string) policy.Complaint {
	if key, ok := strings.CutPrefix(c.File, set+"/"); ok {
		c.File = key
	}
	return c
}

// inOther tells of a complaint about another set than the one that is written, which would not
// work with this one or without it.
func inOther(c policy.Complaint) policy.Complaint {
	c.Message = "other rules would not work any more: " + c.Error()
	c.File, c.Line, c.Column = "", 0, 0
	c.Hint = "change those first"
	return c
}

// holds is the field that has a key.
func (c *configMap) holds(key string) string {
	if c != nil {
		if _, binary := c.BinaryData[key]; binary {
			return "binaryData"
		}
	}
	return "data"
}

// deny makes a response that kubectl edit reopens its editor for.
func (v *vetter) deny(req *request, response *admissionv1.AdmissionResponse, complaints []policy.Complaint) {
	name := req.subject()
	var shown []metav1.StatusCause
	var lines []string
	denials := 0
	for _, c := range complaints {
		if c.Action != policy.Deny {
			continue
		}
		if denials++; len(shown) == maxCauses {
			continue
		}
		c = inField(c, name)
		field := "data"
		switch {
		case strings.Contains(c.File, "/"):
			field, c = "metadata.name", inOther(c)
		case c.File != "":
			field = fmt.Sprintf("%s[%q]", req.Object.holds(c.File), c.File)
		}
		message := c.Message
		switch {
		case c.Column > 0:
			message = fmt.Sprintf("line %d, column %d: %s", c.Line, c.Column, message)
		case c.Line > 0:
			message = fmt.Sprintf("line %d: %s", c.Line, message)
		}
		if text := strings.TrimSpace(c.Text); text != "" {
			message += "\n  | " + text
		}
		if c.Hint != "" {
			message += "\n  " + c.Hint
		}
		shown = append(shown, metav1.StatusCause{Type: metav1.CauseTypeFieldValueInvalid, Field: field, Message: message})
		lines = append(lines, c.String())
	}
	if denials > len(shown) {
		shown = append(shown, metav1.StatusCause{
			Type: metav1.CauseTypeFieldValueInvalid, Field: "data", Message: fmt.Sprintf("and %d more; `kubectl masq test` lists them all", denials-len(shown)),
		})
	}
	summary := fmt.Sprintf("the rule set %s would not work: %d thing(s) to mend; the rules in force stay as they are", name, denials)
	if !req.Object.isRuleSet() || req.Operation == admissionv1.Delete {
		summary = fmt.Sprintf("the rule set %s has to stay, since others need it", name)
	}
	response.Allowed = false
	response.Result = &metav1.Status{
		Status: metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity,
		Message: policy.Bounded(summary + "\n" + strings.Join(lines, "\n")),
		Details: &metav1.StatusDetails{Kind: "ConfigMap", Name: name, Causes: shown},
	}
	if req.Options.FieldManager == "kubectl-edit" {
		response.Warnings = boundWarnings(slices.Insert(response.Warnings, 0, policy.WarningLine(summary)))
	}
}

// leaving warns of what nobody checks any more once a set is gone. A set that others
// need to compile stays.
func (v *vetter) leaving(ctx context.Context, req *request, response *admissionv1.AdmissionResponse) {
	name := req.subject()
	var offered []string
	if req.OldObject != nil {
		offered = policy.Offered(setOf(req.OldObject.Data, req.OldObject.BinaryData).sources(name))
	}
	if _, err := policy.New(ctx, v.rules.params, v.rules.beside(name)); err != nil {
		vetting := policy.Vetting{Params: v.rules.params, Beside: v.rules.beside(name), Cluster: v.cluster()}
		_, complaints := vetting.Vet(ctx, nil)
		v.deny(req, response, complaints)
		return
	}
	for _, rule := range offered {
		response.Warnings = append(response.Warnings, policy.WarningLine("no longer checked: "+rule))
	}
	response.Warnings = boundWarnings(response.Warnings)
}

// stored is the configuration in the cluster as a write by user that changes nothing, or nil.
func (v *vetter) stored(ctx context.Context, user authenticationv1.UserInfo) *policy.Request {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	object, err := v.live.ConfigMaps(v.target.namespace).Get(ctx, v.target.name, metav1.GetOptions{})
	if err != nil {
		if !apierrors.IsNotFound(err) {
			v.log.LogAttrs(ctx, slog.LevelWarn, "stored configuration not read, so the rule set is not tried on it", slog.String("err", err.Error()))
		}
		return nil
	}
	return &policy.Request{
		Operation: policy.Update, Namespace: v.target.namespace, Name: v.target.name, User: user.Username, Groups: user.Groups, Time: time.Now(),
		Object: object, Old: object,
	}
}
