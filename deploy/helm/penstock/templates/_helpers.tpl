{{- define "penstock.fullname" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "penstock.labels" -}}
app.kubernetes.io/name: penstock
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Of one role: a list of the root and the role's name. */}}
{{- define "penstock.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: penstock
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "penstock.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "penstock.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "penstock.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "penstock.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 1
  failureThreshold: 120
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 3
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 3
{{- end }}

{{- define "penstock.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "penstock.controlConfig" -}}
{{- $own := dict "data_dir" "/data" "listen_addr" ":8700" "admin_addr" ":8701" "master_key_file" "/keys/master.key" "public_url" (required "control.publicUrl is required: what clients dial, e.g. https://penstock.example.com" .Values.control.publicUrl) "tunnel_domain" .Values.control.tunnelDomain "database_url" (dict "file" "/database/database-url") -}}
{{- if .Values.control.tlsSecretName -}}
{{- $_ := set $own "tls" (dict "cert_file" "/tls/tls.crt" "key_file" "/tls/tls.key") -}}
{{- end -}}
{{ toYaml (mergeOverwrite (dict) .Values.control.config $own) }}
{{- end }}

{{- define "penstock.edgeConfig" -}}
{{- $name := include "penstock.fullname" . -}}
{{- $scheme := ternary "https" "http" (not (empty .Values.control.tlsSecretName)) -}}
{{- $own := dict "control_url" (printf "%s://%s-control:%v" $scheme $name .Values.control.service.port) "enrolment_token_file" "/initial/enrolment-token" "state_dir" "/data" "callers_addr" ":8443" "agents_addr" ":7844" "admin_addr" ":8444" -}}
{{- if and .Values.control.tlsSecretName .Values.control.tlsSecretHasCa -}}
{{- $_ := set $own "control_ca_file" "/control-ca/ca.crt" -}}
{{- end -}}
{{ toYaml (mergeOverwrite (dict) .Values.edge.config $own) }}
{{- end }}

{{/* Of a list of the root and the name of the ConfigMap. */}}
{{- define "penstock.controlVolumes" -}}
{{- $root := index . 0 -}}
- name: config
  configMap:
    name: {{ include "penstock.fullname" $root }}-{{ index . 1 }}
- name: data
  emptyDir: {}
- name: keys
  secret:
    secretName: {{ $root.Values.control.masterKeySecretName }}
    defaultMode: 0440
    items: [{key: master.key, path: master.key}]
- name: database
  secret:
    secretName: {{ $root.Values.control.databaseSecretName }}
    defaultMode: 0440
    items: [{key: database-url, path: database-url}]
{{- if $root.Values.control.tlsSecretName }}
- name: tls
  secret:
    secretName: {{ $root.Values.control.tlsSecretName }}
    defaultMode: 0440
    items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
{{- end }}
{{- end }}

{{- define "penstock.controlMounts" -}}
- {name: config, mountPath: /etc/penstock, readOnly: true}
- {name: data, mountPath: /data}
- {name: keys, mountPath: /keys, readOnly: true}
- {name: database, mountPath: /database, readOnly: true}
{{- if .Values.control.tlsSecretName }}
- {name: tls, mountPath: /tls, readOnly: true}
{{- end }}
{{- end }}
