{{/* A pod's template, of root and role: one container, no rights, nothing to write to but /tmp. */}}
{{- define "tierstream.pod" -}}
{{- $values := .root.Values -}}
{{- $role := include "tierstream.role" . | fromYaml -}}
{{- $own := include "tierstream.ofRole" . | fromYaml -}}
{{- $settings := include "tierstream.settings" . | fromYaml -}}
{{- $secrets := (include "tierstream.secrets" . | fromYaml).secrets -}}
{{- $certificates := (include "tierstream.certificates" . | fromYaml).certificates -}}
{{- $command := $role.command -}}
{{- if eq .role "topics" }}{{ $command = list "topics" $values.setup.topics.run }}{{ end -}}
metadata:
  labels:
    {{- include "tierstream.labels" . | nindent 4 }}
    {{- with $values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    kubectl.kubernetes.io/default-container: {{ .role }}
    {{- if and (eq .role "normalise") $values.plans.tiers }}
    checksum/plans: {{ include "tierstream.plans" .root | sha256sum }}
    {{- end }}
    {{- if and $values.monitoring.annotations (not $role.once) }}
    prometheus.io/scrape: "true"
    prometheus.io/port: "9464"
    prometheus.io/path: /metrics
    {{- end }}
    {{- with $values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ if $role.hook }}{{ include "tierstream.setupAccount" .root }}{{ else }}{{ include "tierstream.serviceAccount" .root }}{{ end }}
  automountServiceAccountToken: false
  enableServiceLinks: false # a Service called tierstream-gateway would become TIERSTREAM_GATEWAY_PORT
  {{- if $role.once }}
  restartPolicy: Never
  {{- else }}
  terminationGracePeriodSeconds: {{ if eq .role "gateway" }}{{ add 20 $own.drainSeconds }}{{ else }}20{{ end }} # a stop in order takes up to 10 s
  {{- end }}
  securityContext:
    runAsNonRoot: true
    {{- if not (kindIs "invalid" $values.runAs.user) }}
    runAsUser: {{ int64 $values.runAs.user }}
    {{- end }}
    {{- if not (kindIs "invalid" $values.runAs.group) }}
    runAsGroup: {{ int64 $values.runAs.group }}
    {{- end }}
    seccompProfile: {type: RuntimeDefault}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  containers:
    - name: {{ .role }}
      image: {{ include "tierstream.image" .root | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args: {{ toJson $command }}
      env:
        {{- if and (not $role.once) (ne .role "gateway") }}
        - name: TIERSTREAM_INSTANCE_ID # the same member of its group after a restart
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        {{- end }}
        - {name: TIERSTREAM_ADMIN_PORT, value: "9464"}
        {{- if eq .role "gateway" }}
        - {name: TIERSTREAM_GATEWAY_PORT, value: "8080"}
        {{- end }}
        {{- if $role.plans }}
        - {name: TIERSTREAM_PLANS, value: /etc/tierstream/plans/plans.toml}
        {{- end }}
        {{- if has "kafka" $certificates }}
        - {name: TIERSTREAM_KAFKA_SSL_CAFILE, value: /etc/tierstream/certificates/kafka.pem}
        {{- end }}
        {{- range $secrets }}
        - {name: TIERSTREAM_{{ upper .setting }}_FILE, value: /etc/tierstream/secrets/{{ .setting }}}
        {{- end }}
        {{- range $name, $value := $settings }}
        {{- if and (not (kindIs "invalid" $value)) (ne (toString $value) "") }}
        - {name: TIERSTREAM_{{ upper $name }}, value: {{ include "tierstream.text" $value | quote }}}
        {{- end }}
        {{- end }}
      {{- if not $role.once }}
      ports:
        {{- if eq .role "gateway" }}
        - {name: http, containerPort: 8080}
        {{- end }}
        - {name: admin, containerPort: 9464}
      # /metrics answers while the process is alive, /readyz while it can work. A worker that waits for Kafka when it starts answers neither.
      startupProbe:
        httpGet: {path: /metrics, port: admin}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: {{ div (add 64 (ceil ($settings.kafka_wait_seconds | default 0))) 5 }}
      livenessProbe:
        httpGet: {path: /metrics, port: admin}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: admin}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 3
      {{- end }}
      {{- if eq .role "gateway" }}
      lifecycle:
        preStop:
          exec: {command: [sleep, "{{ $own.drainSeconds }}"]}
      {{- end }}
      resources:
        {{- toYaml $own.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- if $secrets }}
        - {name: secrets, mountPath: /etc/tierstream/secrets, readOnly: true}
        {{- end }}
        {{- if $certificates }}
        - {name: certificates, mountPath: /etc/tierstream/certificates, readOnly: true}
        {{- end }}
        {{- if $role.plans }}
        - {name: plans, mountPath: /etc/tierstream/plans, readOnly: true}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {{ if eq .role "ops" }}{sizeLimit: {{ $own.temporarySize }}}{{ else }}{medium: Memory, sizeLimit: 64Mi}{{ end }}
    {{- if $secrets }}
    - name: secrets
      projected:
        defaultMode: 0444 # the container's user may be any
        sources:
          {{- range $secrets }}
          - secret: {name: {{ .name }}, items: [{key: {{ .key }}, path: {{ .setting }}}]}
          {{- end }}
    {{- end }}
    {{- if $certificates }}
    - name: certificates
      projected:
        sources:
          {{- range $certificates }}
          {{- $from := get $values.certificates . }}
          - {{ if $from.secret }}secret{{ else }}configMap{{ end }}: {name: {{ $from.secret | default $from.configMap }}, items: [{key: {{ $from.key }}, path: {{ . }}.pem}]}
          {{- end }}
    {{- end }}
    {{- if $role.plans }}
    - name: plans
      configMap:
        name: {{ $values.plans.existingConfigMap | default (printf "%s-plans" (include "tierstream.name" .root)) }}
        items: [{key: {{ $values.plans.key }}, path: plans.toml}]
    {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- if not $role.once }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "tierstream.selector" . | nindent 10 }}
  {{- end }}
{{- end }}

{{/* Of which services a role gets the CA certificates. */}}
{{- define "tierstream.certificates" -}}
{{- $found := list -}}
{{- $role := include "tierstream.role" . | fromYaml -}}
{{- range $service, $from := .root.Values.certificates -}}
{{- if and (has $service $role.reaches) (or $from.configMap $from.secret) }}{{ $found = append $found $service }}{{ end -}}
{{- end -}}
{{ toYaml (dict "certificates" $found) }}
{{- end }}
