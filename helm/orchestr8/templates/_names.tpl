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

{{- define "orchestr8.metricsSecret" -}}
{{- .Values.metrics.existingSecret | default (printf "%s-metrics" (include "orchestr8.fullname" .)) -}}
{{- end -}}

{{- define "orchestr8.externalMetricsSecret" -}}
{{- .Values.externalMetrics.tls.secret | default (printf "%s-external-metrics" (include "orchestr8.fullname" .)) -}}
{{- end -}}

{{/* Who vouches for the API server's front proxy, and what it may be called: as given, else as the cluster itself says. */}}
{{- define "orchestr8.frontProxy" -}}
{{- $given := .Values.externalMetrics.requestHeader -}}
{{- $found := (lookup "v1" "ConfigMap" "kube-system" "extension-apiserver-authentication").data | default dict -}}
{{- $names := $given.allowedNames -}}
{{- if and (not $given.ca) (not $names) -}}
{{- $names = index $found "requestheader-allowed-names" | default "[]" | fromJsonArray -}}
{{- end -}}
ca: {{ $given.ca | default (index $found "requestheader-client-ca-file") | default "" | quote }}
names: {{ $names | toJson }}
{{- end -}}

{{- define "orchestr8.natsSecret" -}}
{{- .Values.nats.existingSecret | default (printf "%s-nats-auth" (include "orchestr8.fullname" .)) -}}
{{- end -}}

{{/* The API speaks TLS where it has a certificate. */}}
{{- define "orchestr8.apiScheme" -}}
{{- ternary "https" "http" (not (empty .Values.coordinator.tls.secret)) -}}
{{- end -}}

{{- define "orchestr8.apiUrl" -}}
{{ include "orchestr8.apiScheme" . }}://{{ include "orchestr8.fullname" . }}.{{ .Release.Namespace }}.svc:{{ .Values.coordinator.service.port }}
{{- end -}}

{{/* The Secret with the authorities that may vouch for nats-server; empty: there is no TLS to it. */}}
{{- define "orchestr8.natsCaSecret" -}}
{{- .Values.nats.tls.caSecret | default (ternary .Values.nats.tls.secret "" .Values.nats.enabled) -}}
{{- end -}}

{{/* The variable in which nats-server finds the password of a login. (its name) */}}
{{- define "orchestr8.natsPasswordVariable" -}}
ORCHESTR8_NATS_PASSWORD_{{ . | upper | replace "-" "_" }}
{{- end -}}

{{/* The Secret and key with the password of a pool's login: its own Secret, unless one was brought for all. (dict "root" $ "name" $name) */}}
{{- define "orchestr8.natsLogin" -}}
{{- $pool := include "orchestr8.pool" . | fromYaml -}}
{{- if $pool.nats.passwordSecret -}}
name: {{ $pool.nats.passwordSecret }}
key: {{ $pool.nats.passwordKey }}
{{- else if .root.Values.nats.existingSecret -}}
name: {{ .root.Values.nats.existingSecret }}
key: executor-{{ .name }}
{{- else -}}
name: {{ include "orchestr8.fullname" .root }}-nats-executor-{{ .name }}
key: password
{{- end -}}
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
{{- if and .Values.externalMetrics.enabled (not (include "orchestr8.frontProxy" . | fromYaml).ca) -}}
{{- fail "externalMetrics.requestHeader.ca is empty, and the cluster was not asked: set it to what `kubectl --namespace kube-system get configmap extension-apiserver-authentication --output jsonpath='{.data.requestheader-client-ca-file}'` prints" -}}
{{- end -}}
{{- if and .Values.database.caSecret (not (has .Values.database.sslMode (list "verify-ca" "verify-full"))) -}}
{{- fail (printf "database.caSecret is believed by database.sslMode=verify-full alone; it is %q" .Values.database.sslMode) -}}
{{- end -}}
{{- range $name, $_ := include "orchestr8.executors" $ | fromYaml -}}
{{- $pool := include "orchestr8.pool" (dict "root" $ "name" $name) | fromYaml -}}
{{- if and $.Values.nats.enabled (eq $name "coordinator") -}}
{{- fail "executors.coordinator: that is the coordinators' login to NATS; give the pool another name" -}}
{{- end -}}
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
