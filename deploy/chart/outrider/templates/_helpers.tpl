{{/* The image. */}}
{{- define "outrider.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end -}}
{{- end -}}

{{/* Where it is from, in a pod. */}}
{{- define "outrider.pull" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "outrider.labels" -}}
app.kubernetes.io/part-of: outrider
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What the control plane's pods are known by. */}}
{{- define "outrider.control.selector" -}}
app.kubernetes.io/name: outrider-control
{{- end -}}

{{/* The name in the control plane's certificate. */}}
{{- define "outrider.control.host" -}}
outrider-control.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* Where it listens, for a port: (list . 15010). */}}
{{- define "outrider.listen" -}}
{{- $host := (index . 0).Values.control.listen -}}
{{- if contains ":" $host }}[{{ $host }}]{{ else }}{{ $host }}{{ end }}:{{ index . 1 }}
{{- end -}}

{{/* Names of Secrets. */}}
{{- define "outrider.secret.tls" -}}
{{ .Values.secrets.tls.existing | default "outrider-control-tls" }}
{{- end -}}
{{- define "outrider.secret.authority" -}}
{{ .Values.secrets.authority.existing | default "outrider-control-authority" }}
{{- end -}}
{{- define "outrider.secret.tokens" -}}
{{ .Values.secrets.tokens.existing | default "outrider-control-tokens" }}
{{- end -}}

{{/* What every container may do: nothing. */}}
{{- define "outrider.container.security" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* A user without rights, for a pod: its number. */}}
{{- define "outrider.pod.security" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* What sidecars are like, as YAML. */}}
{{- define "outrider.injection.settings" -}}
{{- $image := include "outrider.image" . -}}
{{- $skip := append .Values.injection.skipNamespaces .Release.Namespace | uniq -}}
{{- $own := dict
    "image" $image
    "controlPlane" (printf "outrider-control.%s.svc.%s:15010" .Release.Namespace .Values.clusterDomain)
    "serverName" (include "outrider.control.host" .)
    "clusterDomain" .Values.clusterDomain
    "tokenAudience" .Values.tokenAudience
    "trustConfigMap" .Values.injection.trustConfigMap
    "skipNamespaces" $skip -}}
{{- with .Values.image.pullPolicy }}{{ $_ := set $own "imagePullPolicy" . }}{{ end -}}
{{- if .Values.cni.enabled }}{{ $_ := set $own "capture" "cni" }}{{ end -}}
{{- mergeOverwrite $own (deepCopy .Values.injection.settings) | toYaml -}}
{{- end -}}
