{{/* Names, labels, images, and the questions that several templates ask of the values. */}}

{{- define "orchestr8.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* 40 characters at most: the longest suffix still fits into the 63 of a Service's name. */}}
{{- define "orchestr8.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "orchestr8.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What a Service, a policy or a Deployment selects by: never changes in an upgrade. (dict "root" $ "component" "…") */}}
{{- define "orchestr8.selector" -}}
app.kubernetes.io/name: {{ include "orchestr8.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "orchestr8.labels" -}}
{{ include "orchestr8.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Executors of all pools: what NATS and its policy let in. (the root) */}}
{{- define "orchestr8.executorsSelector" -}}
app.kubernetes.io/name: {{ include "orchestr8.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
orchestr8.role: executor
{{- end -}}

{{/* (dict "root" $ "image" .Values.coordinator.image): its own repository, tag and digest, else the chart's. */}}
{{- define "orchestr8.image" -}}
{{- $shared := .root.Values.image -}}
{{- $repository := .image.repository | default $shared.repository -}}
{{- $isOwn := or .image.repository .image.tag .image.digest -}}
{{- $digest := ternary .image.digest $shared.digest (not (empty $isOwn)) -}}
{{- if $digest -}}
{{ $repository }}@{{ $digest }}
{{- else -}}
{{ $repository }}:{{ .image.tag | default $shared.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The pools, as YAML; where none is named there is one that serves the queues that tasks go to by themselves. */}}
{{- define "orchestr8.executors" -}}
{{- .Values.executors | default (dict "default" (dict "queues" (list "default" "agents"))) | toYaml -}}
{{- end -}}

{{/* A pool's values over those of all pools, as YAML. (dict "root" $ "name" $name) */}}
{{- define "orchestr8.pool" -}}
{{- mergeOverwrite (deepCopy .root.Values.executorDefaults) (deepCopy (index (include "orchestr8.executors" .root | fromYaml) .name)) | toYaml -}}
{{- end -}}

{{- define "orchestr8.authSecret" -}}
{{- .Values.auth.existingSecret | default (printf "%s-auth" (include "orchestr8.fullname" .)) -}}
{{- end -}}

{{- define "orchestr8.natsSecret" -}}
{{- .Values.nats.existingSecret | default (printf "%s-nats-auth" (include "orchestr8.fullname" .)) -}}
{{- end -}}

{{- define "orchestr8.apiUrl" -}}
http://{{ include "orchestr8.fullname" . }}.{{ .Release.Namespace }}.svc:{{ .Values.coordinator.service.port }}
{{- end -}}

{{/* The variable in which nats-server finds the password of a pool. (the pool's name) */}}
{{- define "orchestr8.natsPasswordVariable" -}}
EXECUTOR_{{ . | upper | replace "-" "_" }}_PASSWORD
{{- end -}}

{{/* A secret that was drawn once stays: (dict "root" $ "secret" name "key" key "fresh" value), in base64. */}}
{{- define "orchestr8.kept" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- if and $found (index ($found.data | default dict) .key) -}}
{{- index $found.data .key -}}
{{- else -}}
{{- .fresh | b64enc -}}
{{- end -}}
{{- end -}}

{{/* What no schema can say: refuse it before anything is installed. */}}
{{- define "orchestr8.check" -}}
{{- if and (not .Values.postgres.enabled) (not .Values.database.urlSecret) -}}
{{- fail "no database: set database.urlSecret to a Secret whose key `url` is postgres://USER:PASSWORD@HOST:PORT/DATABASE, or postgres.enabled=true for a trial" -}}
{{- end -}}
{{- if and .Values.postgres.enabled .Values.database.urlSecret -}}
{{- fail "two databases: database.urlSecret and postgres.enabled=true; set one of them" -}}
{{- end -}}
{{- if and (not .Values.nats.enabled) (not .Values.nats.external.urlSecret) -}}
{{- fail "no NATS: set nats.external.urlSecret to a Secret whose key `url` is nats://HOST:PORT, or nats.enabled=true" -}}
{{- end -}}
{{- range $name, $_ := include "orchestr8.executors" $ | fromYaml -}}
{{- $pool := include "orchestr8.pool" (dict "root" $ "name" $name) | fromYaml -}}
{{- if not $pool.queues -}}
{{- fail (printf "executors.%s.queues is empty: name the queues that its executors serve" $name) -}}
{{- end -}}
{{- if and (not $.Values.nats.enabled) (not $pool.nats.urlSecret) -}}
{{- fail (printf "executors.%s.nats.urlSecret is empty: an executor never gets the coordinators' login; name a Secret with the NATS URL for executors" $name) -}}
{{- end -}}
{{- if gt (int $pool.scaling.minReplicas) (int $pool.scaling.maxReplicas) -}}
{{- fail (printf "executors.%s.scaling: minReplicas is above maxReplicas" $name) -}}
{{- end -}}
{{- if and (eq $pool.scaling.mode "keda") (eq $pool.scaling.trigger "prometheus") (not $pool.scaling.prometheusAddress) -}}
{{- fail (printf "executors.%s.scaling.prometheusAddress is empty: where does KEDA find Prometheus?" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
