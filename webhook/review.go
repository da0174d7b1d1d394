package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// maxCauses bounds what one denial shows; a last cause counts the rest.
const maxCauses = 20

// maxWarnings is the API server's bound on the sum of all warnings, in runes; above
// it, it cuts each of them (k8s.io/apiserver/pkg/endpoints/filters/warning.go).
const maxWarnings = 4096

// Audit annotations of a decision. The API server puts "<webhook name>/" before
// each, so a key must not have a slash of its own.
const (
	auditRevision = "policy-revision"
	auditDecision = "decision-id"
	auditRules    = "violated-rules"
)

// target names the one ConfigMap that is judged.
type target struct{ namespace, name string }

// admissionReview is an admission.k8s.io/v1 AdmissionReview, as much of it as a
// decision needs. The API's own types keep both objects as raw copies, which would
// have to be decoded once more.
type admissionReview struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Request    *request `json:"request"`
}

type request struct {
	envelope

	Object    *configMap `json:"object"`
	OldObject *configMap `json:"oldObject"`
}

// envelope is a request without its objects, which may be of any kind.
type envelope struct {
	UID         types.UID                   `json:"uid"`
	Kind        metav1.GroupVersionKind     `json:"kind"`
	Resource    metav1.GroupVersionResource `json:"resource"`
	SubResource string                      `json:"subResource"`
	Name        string                      `json:"name"`
	Namespace   string                      `json:"namespace"`
	Operation   admissionv1.Operation       `json:"operation"`
	UserInfo    authenticationv1.UserInfo   `json:"userInfo"`
	DryRun      *bool                       `json:"dryRun"`
	Options     struct {
		FieldManager string `json:"fieldManager"`
	} `json:"options"`
}

type configMap struct {
	Metadata struct {
		Name        string            `json:"name"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Data       map[string]string `json:"data"`
	BinaryData map[string][]byte `json:"binaryData"`
}

// refusal is an answer without a decision: the body is not a review that could be
// answered, so the API server's failurePolicy decides.
type refusal struct {
	status int    // of HTTP
	reason string // label of a metric
	detail string // for the log and the caller
}

func (r *refusal) Error() string { return r.detail }

// decodeReview reads the request out of the body of a review. Its error is always
// a *refusal.
func decodeReview(body []byte) (*request, error) {
	var review admissionReview
	if err := json.Unmarshal(body, &review); err != nil {
		return decodeOther(body, err)
	}
	if err := checkReview(review.APIVersion, review.Kind, review.Request != nil); err != nil {
		return nil, err
	}
	if review.Request.UID == "" {
		return nil, &refusal{http.StatusBadRequest, "no_uid", "the request has no uid, so it cannot be answered"}
	}
	return review.Request, nil
}

// decodeOther reads a body that does not fit admissionReview because of cause: the
// objects of other kinds may well have fields named data that hold no text.
func decodeOther(body []byte, cause error) (*request, error) {
	notJSON := &refusal{http.StatusBadRequest, "malformed", "reading the AdmissionReview: " + cause.Error()}
	if _, mismatch := errors.AsType[*json.UnmarshalTypeError](cause); !mismatch {
		return nil, notJSON
	}
	var review struct {
		APIVersion string    `json:"apiVersion"`
		Kind       string    `json:"kind"`
		Request    *envelope `json:"request"`
	}
	if err := json.Unmarshal(body, &review); err != nil {
		return nil, notJSON
	}
	if err := checkReview(review.APIVersion, review.Kind, review.Request != nil); err != nil {
		return nil, err
	}
	if review.Request.UID == "" || review.Request.isConfigMap() {
		return nil, notJSON
	}
	return &request{envelope: *review.Request}, nil
}

func checkReview(apiVersion, kind string, hasRequest bool) error {
	switch {
	case kind != "AdmissionReview":
		return &refusal{http.StatusBadRequest, "kind", fmt.Sprintf("the body is a %q, want an AdmissionReview", kind)}
	case apiVersion != "admission.k8s.io/v1":
		return &refusal{http.StatusBadRequest, "version", fmt.Sprintf(
			"the AdmissionReview is of version %q, want admission.k8s.io/v1: set admissionReviewVersions: [v1]", apiVersion)}
	case !hasRequest:
		return &refusal{http.StatusBadRequest, "no_request", "the AdmissionReview has no request"}
	}
	return nil
}

// isConfigMap tells whether the request is about a ConfigMap itself.
func (e *envelope) isConfigMap() bool {
	return e.Kind.Group == "" && e.Kind.Kind == "ConfigMap" && e.SubResource == ""
}

// concerns tells whether r is about the one ConfigMap that t names. The API server
// leaves the request's name empty when an object is created with generateName and
// when a whole collection is deleted; then the object tells it.
func (r *request) concerns(t target) bool {
	if !r.isConfigMap() || r.Namespace != t.namespace {
		return false
	}
	return r.subject() == t.name
}

func (r *request) subject() string {
	switch {
	case r.Name != "":
		return r.Name
	case r.Object != nil:
		return r.Object.Metadata.Name
	case r.OldObject != nil:
		return r.OldObject.Metadata.Name
	}
	return ""
}

// policyRequest turns r, which concerns the ConfigMap that is judged, into the
// request that policy judges. Its error is always a *refusal.
func (r *request) policyRequest(received time.Time) (policy.Request, error) {
	judged := policy.Request{
		Operation:    policy.Operation(r.Operation),
		Namespace:    r.Namespace,
		Name:         r.subject(),
		User:         r.UserInfo.Username,
		Groups:       r.UserInfo.Groups,
		FieldManager: r.Options.FieldManager,
		DryRun:       r.DryRun != nil && *r.DryRun,
		Time:         received,
		Object:       r.Object.typed(),
		Old:          r.OldObject.typed(),
	}
	switch judged.Operation {
	case policy.Create, policy.Update:
		if judged.Object == nil {
			return judged, &refusal{http.StatusBadRequest, "no_object", fmt.Sprintf("the %s request has no object", r.Operation)}
		}
	case policy.Delete:
		judged.Object = nil
	default: // of a newer API server: what is not understood is not approved
		return judged, &refusal{http.StatusBadRequest, "operation", fmt.Sprintf("the operation %q is not known", r.Operation)}
	}
	return judged, nil
}

// typed is c as policy takes it; nil stays nil.
func (c *configMap) typed() *corev1.ConfigMap {
	if c == nil {
		return nil
	}
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: c.Metadata.Name, Annotations: c.Metadata.Annotations},
		Data:       c.Data,
		BinaryData: c.BinaryData,
	}
}

// reviewOf wraps response as the API server wants it.
func reviewOf(response *admissionv1.AdmissionResponse) *admissionv1.AdmissionReview {
	return &admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Response: response,
	}
}

// respond turns a decision on judged into the response with this uid.
func respond(uid types.UID, judged policy.Request, decision policy.Decision) *admissionv1.AdmissionResponse {
	response := &admissionv1.AdmissionResponse{
		UID:      uid,
		Allowed:  decision.Allowed,
		Warnings: decision.Warnings(),
		AuditAnnotations: map[string]string{
			auditRevision: decision.Revision,
			auditDecision: decision.ID,
		},
	}
	if decision.Allowed {
		return response
	}
	// Reason Invalid makes `kubectl edit` reopen its editor with the causes on top;
	// any other closes it (k8s.io/kubectl/pkg/cmd/util/editor/editoptions.go).
	response.Result = &metav1.Status{
		Status:  metav1.StatusFailure,
		Reason:  metav1.StatusReasonInvalid,
		Code:    http.StatusUnprocessableEntity,
		Message: decision.Message(),
		Details: &metav1.StatusDetails{
			Kind:   "ConfigMap",
			Name:   judged.Name,
			Causes: causes(decision.Findings),
		},
	}
	response.AuditAnnotations[auditRules] = strings.Join(violatedRules(decision.Findings), ",")
	if judged.FieldManager == "kubectl-edit" {
		// A scripted editor never shows the reopened buffer.
		response.Warnings = boundWarnings(slices.Insert(response.Warnings, 0, decision.Summary()))
	}
	return response
}

// causes are the violations for `kubectl`, which shows nothing but them.
func causes(findings []policy.Finding) []metav1.StatusCause {
	var shown []metav1.StatusCause
	rest := 0
	for _, finding := range findings {
		switch {
		case finding.Action != policy.Deny:
		case len(shown) == maxCauses:
			rest++
		default:
			shown = append(shown, metav1.StatusCause{
				Type:    causeType(finding),
				Field:   finding.Field(),
				Message: finding.Detail(),
			})
		}
	}
	if rest > 0 {
		shown = append(shown, metav1.StatusCause{
			Type:    metav1.CauseTypeFieldValueInvalid,
			Field:   fmt.Sprintf("data[%q]", policy.ConfigKey),
			Message: fmt.Sprintf("and %d more; `kubectl masq check` lists them all", rest),
		})
	}
	return shown
}

// causeType is the machine-readable kind of a finding. Clients use no more of it
// than to tell a missing value from a wrong one.
func causeType(finding policy.Finding) metav1.CauseType {
	if finding.Failed {
		return metav1.CauseTypeInternal
	}
	switch finding.Rule {
	case "config-key-present", "config-not-empty", "list-explicit", "list-not-empty",
		"pod-cidrs-present", "node-cidrs-present", "service-cidrs-present":
		return metav1.CauseTypeFieldValueRequired
	case "no-duplicate":
		return metav1.CauseTypeFieldValueDuplicate
	case "no-unknown-keys":
		return metav1.CauseTypeFieldValueNotSupported
	case "cidr-limit":
		return metav1.CauseTypeTooMany
	case "no-delete":
		return metav1.CauseTypeForbidden
	}
	return metav1.CauseTypeFieldValueInvalid
}

// violatedRules are the rules that deny, each once, in order of their findings.
func violatedRules(findings []policy.Finding) []string {
	var rules []string
	for _, finding := range findings {
		if finding.Action == policy.Deny && !slices.Contains(rules, finding.Rule) {
			rules = append(rules, finding.Rule)
		}
	}
	return rules
}

// boundWarnings drops the last warnings that the API server would make it cut all
// of them for.
func boundWarnings(warnings []string) []string {
	runes := 0
	for i, warning := range warnings {
		runes += utf8.RuneCountInString(warning)
		if runes > maxWarnings {
			return warnings[:i]
		}
	}
	return warnings
}

// deniedFor is a denial that no rule decided: status code and reason tell clients
// whether to try again.
func deniedFor(uid types.UID, code int32, reason metav1.StatusReason, retry time.Duration, message string) *admissionv1.AdmissionResponse {
	status := &metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}
	if retry > 0 {
		status.Details = &metav1.StatusDetails{RetryAfterSeconds: int32(retry.Seconds())}
	}
	return &admissionv1.AdmissionResponse{UID: uid, Allowed: false, Result: status}
}
