{{- define "mcp-tunnel.fullname" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "mcp-tunnel.labels" -}}
app.kubernetes.io/name: mcp-tunnel
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "mcp-tunnel.selector" -}}
app.kubernetes.io/name: mcp-tunnel
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: stack
{{- end }}

{{- define "mcp-tunnel.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The Secret that the agent's token is read from. */}}
{{- define "mcp-tunnel.tokenSecret" -}}
{{- if .Values.setup.enabled }}{{ include "mcp-tunnel.fullname" . }}{{ else }}{{ required "external.tunnelTokenSecretName is required with setup.enabled=false" .Values.external.tunnelTokenSecretName }}{{ end -}}
{{- end }}

{{/* The Secret that the proxy's certificate is read from. */}}
{{- define "mcp-tunnel.certSecret" -}}
{{- if .Values.setup.enabled }}{{ include "mcp-tunnel.fullname" . }}{{ else }}{{ required "external.serverCertSecretName is required with setup.enabled=false" .Values.external.serverCertSecretName }}{{ end -}}
{{- end }}

{{/* The Secret with the CA of the edges, where an agent is told of one: the stock one knows none by its token, and setup wrote it. */}}
{{- define "mcp-tunnel.edgeCaSecret" -}}
{{- if .Values.edge.caSecretName }}{{ .Values.edge.caSecretName }}{{ else if and .Values.setup.enabled .Values.agent.image }}{{ include "mcp-tunnel.fullname" . }}{{ end -}}
{{- end }}

{{- define "mcp-tunnel.tunnelId" -}}
{{- .Values.tunnel.id | default .Values.api.wif.tunnelId -}}
{{- end }}

{{/* The proxy's settings: the user's, then what the chart insists on. */}}
{{- define "mcp-tunnel.config" -}}
{{- $config := deepCopy .Values.gateway.config -}}
{{- if not .Values.setup.enabled -}}
{{- $_ := required "gateway.config.tunnel_domain is required with setup.enabled=false" $config.tunnel_domain -}}
{{- else if not (hasKey $config "callers") -}}
{{- $_ := set $config "callers" (dict "mode" "require" "ca_file" "/tls/callers-ca.crt") -}}
{{- end -}}
{{- $_ := set $config "listen_addr" ":8080" -}}
{{- $_ := set $config "admin_addr" ":8081" -}}
{{- $_ := set $config "tls" (mergeOverwrite (dict) ($config.tls | default dict) (dict "cert_file" "/tls/tls.crt" "key_file" "/tls/tls.key")) -}}
{{ toYaml $config }}
{{- end }}

{{- define "mcp-tunnel.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "mcp-tunnel.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* What both jobs of setup are: one small container. */}}
{{- define "mcp-tunnel.smallResources" -}}
requests: {cpu: 100m, memory: 64Mi}
limits: {memory: 256Mi}
{{- end }}
