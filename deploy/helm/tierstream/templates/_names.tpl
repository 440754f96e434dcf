{{/* Names and labels. A StatefulSet's name with "-normalise-0" behind it stays under 63 characters. */}}
{{- define "tierstream.name" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $full | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Of root and role. */}}
{{- define "tierstream.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{- define "tierstream.labels" -}}
{{ include "tierstream.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "tierstream.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "tierstream.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "tierstream.name" .) }}
{{- else -}}
{{ .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{/* What files/roles.yaml has of a role. */}}
{{- define "tierstream.role" -}}
{{ toYaml (get (.root.Files.Get "files/roles.yaml" | fromYaml) .role) }}
{{- end }}

{{/* The part of the values that belongs to a role. */}}
{{- define "tierstream.ofRole" -}}
{{- if has .role (list "gateway" "ops") -}}
{{ toYaml (get .root.Values .role) }}
{{- else if hasKey .root.Values.stages .role -}}
{{ toYaml (get .root.Values.stages .role) }}
{{- else -}}
{{ toYaml (merge (dict "resources" .root.Values.setup.resources) (get .root.Values.setup .role)) }}
{{- end -}}
{{- end }}

{{/* The settings that a role gets: those of all, and its own over them. One without Kafka gets no login for it, of which it has no password. */}}
{{- define "tierstream.settings" -}}
{{- $own := (include "tierstream.ofRole" . | fromYaml).settings | default dict -}}
{{- $given := merge (deepCopy $own) .root.Values.settings -}}
{{- if not (has "kafka" (include "tierstream.role" . | fromYaml).reaches) -}}
{{- range keys $given }}{{ if hasPrefix "kafka_" . }}{{ $given = omit $given . }}{{ end }}{{ end -}}
{{- end -}}
{{ toYaml $given }}
{{- end }}

{{/* The Secrets that a role gets, those without a name left out: setting, name, key. */}}
{{- define "tierstream.secrets" -}}
{{- $own := (include "tierstream.ofRole" . | fromYaml).secrets | default dict -}}
{{- $settings := include "tierstream.settings" . | fromYaml -}}
{{- $given := merge (deepCopy $own) .root.Values.secrets -}}
{{- $role := include "tierstream.role" . | fromYaml -}}
{{- $found := list -}}
{{- range $role.secrets -}}
{{- $secret := get $given . -}}
{{- $unused := or (and (eq . "kafka_sasl_password") (not (hasPrefix "SASL" ($settings.kafka_security_protocol | default "")))) (and (eq . "loops_api_key") (eq ($settings.forward | default "on") "off")) -}}
{{- if and $secret.name (not $unused) -}}
{{- $found = append $found (dict "setting" . "name" $secret.name "key" $secret.key) -}}
{{- end -}}
{{- end -}}
{{ toYaml (dict "secrets" $found) }}
{{- end }}

{{/* A value as the text of a variable. Helm's numbers are floats: 86400000 must not become 8.64e+07. */}}
{{- define "tierstream.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{ int64 . }}
{{- else -}}
{{ toString . }}
{{- end -}}
{{- end }}
