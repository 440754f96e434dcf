{{/* What the schema can not say: values that do not fit together. Each ends the rendering with one sentence. */}}
{{- define "tierstream.check" -}}
{{- $values := .Values -}}
{{- $settings := $values.settings -}}
{{- if not $values.image.repository }}
{{- fail "image.repository is empty: name the image that you have built, such as registry.example.com/tierstream." }}
{{- end }}
{{- if not $settings.kafka_bootstrap_servers }}
{{- fail "settings.kafka_bootstrap_servers is empty: name Kafka's addresses, such as kafka-1.example.com:9093." }}
{{- end }}
{{- if and $values.plans.tiers $values.plans.existingConfigMap }}
{{- fail "plans.tiers and plans.existingConfigMap are both set: leave out one of them." }}
{{- end }}
{{- if not (or $values.plans.tiers $values.plans.existingConfigMap) }}
{{- fail "plans.tiers is empty: give each Razorpay plan its tier, such as plans.tiers.plan_pro=pro, or name a ConfigMap in plans.existingConfigMap." }}
{{- end }}
{{- range $label, $_ := $values.podLabels }}
{{- if or (hasPrefix "app.kubernetes.io/" $label) (hasPrefix "helm.sh/" $label) }}
{{- fail (printf "podLabels has %s, which the chart sets itself: leave it out." $label) }}
{{- end }}
{{- end }}
{{- range $service, $from := $values.certificates }}
{{- if and $from.configMap $from.secret }}
{{- fail (printf "certificates.%s names a ConfigMap and a Secret: leave out one of them." $service) }}
{{- end }}
{{- end }}
{{- $copies := int ($settings.replication_factor | default 3) }}
{{- with $settings.min_insync_replicas }}
{{- if gt (int .) $copies }}
{{- fail (printf "settings.min_insync_replicas is %d, more than settings.replication_factor (%d): no record would ever be acknowledged." (int .) $copies) }}
{{- end }}
{{- end }}
{{- $grace := 7 }}{{ if hasKey $settings "grace_days" }}{{ $grace = int $settings.grace_days }}{{ end }}
{{- $reminders := $settings.grace_reminder_days | default "3,6" }}
{{- if and $grace (ne $reminders "none") }}
{{- range splitList "," $reminders }}
{{- if ge (int (trim .)) $grace }}
{{- fail (printf "settings.grace_reminder_days reminds on day %d, when the grace of settings.grace_days (%d) has ended: write smaller days." (int (trim .)) $grace) }}
{{- end }}
{{- end }}
{{- end }}
{{- $partitions := int ($settings.partitions | default 32) }}
{{- range $name, $stage := $values.stages }}
{{- if gt (int $stage.replicas) $partitions }}
{{- fail (printf "stages.%s.replicas is %d, more than settings.partitions (%d): the pods beyond would have nothing to do and never be ready." $name (int $stage.replicas) $partitions) }}
{{- end }}
{{- end }}
{{- $scaling := $values.gateway.autoscaling }}
{{- if and $scaling.enabled (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) }}
{{- fail (printf "gateway.autoscaling.minReplicas is %d, more than maxReplicas (%d)." (int $scaling.minReplicas) (int $scaling.maxReplicas)) }}
{{- end }}
{{- if and $scaling.enabled (not (dig "resources" "requests" "cpu" "" $values.gateway)) }}
{{- fail "gateway.resources.requests.cpu is not set: autoscaling measures the use of CPU against it." }}
{{- end }}
{{- if and $values.gateway.ingress.enabled (not $values.gateway.ingress.host) }}
{{- fail "gateway.ingress.host is empty: name the host that Razorpay sends to, such as hooks.example.com." }}
{{- end }}
{{- if not (or $values.serviceAccount.create $values.serviceAccount.name) }}
{{- fail "serviceAccount.name is empty: name an existing one, or set serviceAccount.create." }}
{{- end }}
{{- range $role, $about := .Files.Get "files/roles.yaml" | fromYaml }}
{{- $of := dict "root" $ "role" $role }}
{{- $own := include "tierstream.settings" $of | fromYaml }}
{{- $given := list }}
{{- range (include "tierstream.secrets" $of | fromYaml).secrets }}{{ $given = append $given .setting }}{{ end }}
{{- $runs := not (or (and (eq $role "topics") (eq $values.setup.topics.run "none")) (and (eq $role "migrate") (not $values.setup.migrate.run))) }}
{{- $needs := $about.needs }}
{{- if eq ($own.forward | default "on") "off" }}{{ $needs = without $needs "loops_api_key" }}{{ end }}
{{- if and (has "kafka" $about.reaches) (hasPrefix "SASL" ($own.kafka_security_protocol | default "")) }}
{{- $needs = append $needs "kafka_sasl_password" }}
{{- range list "kafka_sasl_mechanism" "kafka_sasl_username" }}
{{- if and $runs (not (get $own .)) }}
{{- fail (printf "settings.kafka_security_protocol is %s, which needs a login: set settings.%s." $own.kafka_security_protocol .) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $needs }}
{{- if and $runs (not (has . $given)) }}
{{- fail (printf "secrets.%s.name is empty, and %s does not start without it: name the Secret that holds it." . $role) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
