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

{{/* A container that cleans its node: the chart's values, and how it is told to. */}}
{{- define "overlay-cni.uninstall" -}}
{{- $top := first . -}}
image: {{ include "overlay-cni.image" $top }}
imagePullPolicy: {{ $top.Values.image.pullPolicy }}
args: [uninstall, {{ rest . | join ", " }}, --config=/etc/overlay-cni/overlayd.yaml, --node-name=$(NODE_NAME)]
env:
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
securityContext:
  {{- include "overlay-cni.securityContext" (list "NET_ADMIN") | nindent 2 }}
resources:
  {{- toYaml $top.Values.resources | nindent 2 }}
volumeMounts:
- name: config
  mountPath: /etc/overlay-cni
  readOnly: true
- name: run
  mountPath: /run/overlay-cni
- name: cni-bin
  mountPath: /opt/cni/bin
- name: cni-conf
  mountPath: /etc/cni/net.d
{{- end }}
