{{/* Names are fixed: a cluster has one pod network. */}}
{{- define "overlay-cni.labels" -}}
app.kubernetes.io/name: overlay-cni
{{- end }}

{{- define "overlay-cni.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Where the probes ask: health.address, taken apart. */}}
{{- define "overlay-cni.healthPort" -}}
{{ .Values.config.health.address | splitList ":" | last }}
{{- end }}
{{- define "overlay-cni.healthHost" -}}
{{ .Values.config.health.address | trimSuffix (include "overlay-cni.healthPort" . | printf ":%s") | trimAll "[]" | default "127.0.0.1" | quote }}
{{- end }}

{{/* Root, with no capability but those given. */}}
{{- define "overlay-cni.securityContext" -}}
runAsUser: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- with . }}
  add: {{ toJson . }}
{{- end }}
{{- end }}
