{{/* The name of everything that is the release's own. */}}
{{- define "guard.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What finds the pods of a component: (dict "root" $ "component" "webhook"). */}}
{{- define "guard.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "guard.labels" -}}
{{ include "guard.selector" . }}
app.kubernetes.io/part-of: ip-masq-guard
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* name, namespace and labels of an object: (dict "root" $ "component" "webhook"),
     with "namespace" for another than the release's, "" for none, and "suffix". */}}
{{- define "guard.metadata" -}}
name: {{ include "guard.fullname" .root }}{{ .suffix | default "" }}
{{- $namespace := .root.Release.Namespace -}}
{{- if hasKey . "namespace" -}}{{- $namespace = .namespace -}}{{- end -}}
{{- with $namespace }}
namespace: {{ . }}
{{- end }}
labels:
  {{- include "guard.labels" . | nindent 2 }}
{{- end -}}

{{/* The reference of an image: (dict "root" $ "image" .Values.agent.image). */}}
{{- define "guard.image" -}}
{{- .image.repository -}}
{{- with .image.digest -}}@{{ . }}{{- else -}}:{{ .image.tag | default .root.Chart.AppVersion }}{{- end -}}
{{- end -}}

{{/* Names that the webhook's flags, its rights and its objects share. */}}
{{- define "guard.certsSecret" -}}
{{- if eq .Values.certs.mode "provided" -}}
{{- .Values.certs.provided.secretName -}}
{{- else -}}
{{- include "guard.fullname" . }}-certs
{{- end -}}
{{- end -}}

{{- define "guard.config" -}}
{{- toYaml .Values.configMap.config }}
{{- end -}}

{{/* The SHA-256 that agents are to have applied, or nothing. The text in the ConfigMap ends with a line break. */}}
{{- define "guard.expectedDigest" -}}
{{- if ne .Values.agent.expectedDigest "release" -}}
{{- .Values.agent.expectedDigest }}
{{- else if .Values.configMap.create -}}
{{- printf "%s\n" (include "guard.config" .) | sha256sum }}
{{- else -}}
{{- fail "agent.expectedDigest: the release has no ConfigMap; write the SHA-256, or set configMap.create" }}
{{- end -}}
{{- end -}}

{{- define "guard.configMapName" -}}ip-masq-agent{{- end -}}

{{/* The file that --params names: what the cluster's owner sets, and the flags that
     the agents have, from the same values. */}}
{{- define "guard.params" -}}
consumer: {{ default "ip-masq-guard" .Values.consumer }}
agent:
  ipv6: {{ .Values.agent.ipv6 }}
  reservedRanges: {{ .Values.agent.reservedRanges }}
{{- $cluster := dict -}}
{{- range $kind, $ranges := .Values.cluster -}}
{{- if kindIs "slice" $ranges -}}{{- $_ := set $cluster $kind $ranges -}}{{- end -}}
{{- end }}
{{- with $cluster }}
cluster:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.custom }}
custom:
  {{- toYaml . | nindent 2 }}
{{- end }}
requireClusterRanges: {{ .Values.requireClusterRanges }}
{{- if .Values.configMap.directory }}
configDirectory: true
{{- end }}
{{- with .Values.ruleSets }}
ruleSets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.exceptions }}
exceptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.rules }}
rules:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
