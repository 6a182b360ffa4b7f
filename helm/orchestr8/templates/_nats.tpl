{{/*
nats-server's configuration. Passwords come from its environment, so nothing in it is secret.
One server syncs every second: what a crash of the machine takes is published again. Three sync always, since a majority that lost
its tail would agree on what is not there.
*/}}
{{- define "orchestr8.natsConfiguration" -}}
{{- $isCluster := gt (int .Values.nats.replicas) 1 -}}
server_name: $POD_NAME
port: 4222
http_port: 8222
jetstream {
  store_dir: /data
  max_file_store: {{ .Values.nats.storage.maxFileStore }}
  max_memory_store: 64MB
  sync_interval: {{ ternary "always" "1s" $isCluster }}
}
{{- if .Values.nats.tls.secret }}
tls { cert_file: /etc/nats-tls/tls.crt, key_file: /etc/nats-tls/tls.key }
{{- end }}
{{- if $isCluster }}
cluster {
  name: {{ include "orchestr8.fullname" . }}
  port: 6222
  authorization { user: cluster, password: $CLUSTER_PASSWORD, timeout: 5 }
  {{- if .Values.nats.tls.secret }}
  tls { cert_file: /etc/nats-tls/tls.crt, key_file: /etc/nats-tls/tls.key, ca_file: /etc/nats-tls/{{ .Values.nats.tls.caKey }} }
  {{- end }}
  routes: [
    {{- range $index := until (int .Values.nats.replicas) }}
    $ROUTE_{{ $index }}
    {{- end }}
  ]
}
{{- end }}
authorization { timeout: 5 }
{{ include "orchestr8.natsAccounts" . }}
{{- end -}}

{{/*
What `orchestr8 nats-accounts` prints for these pools, without its reasons; a test holds the two together. Rights of users alone are
not enough: who may ask JetStream anything chooses the subject of the answer, and the server publishes there with rights of its own.
So the streams have an account, and each pool has one without JetStream, into which exactly its own subjects are imported.
*/}}
{{- define "orchestr8.natsAccounts" -}}
{{- $accounts := list -}}
{{- range $name, $_ := include "orchestr8.executors" $ | fromYaml -}}
{{- $accounts = append $accounts (printf "ORCHESTR8_EXECUTORS_%s" $name) -}}
{{- end -}}
{{- $accounts = join ", " $accounts -}}
accounts {
  ORCHESTR8 {
    jetstream: enabled
    users: [
      {
        user: coordinator, password: ${{ include "orchestr8.natsPasswordVariable" "coordinator" }}
        permissions {
          publish { allow: [
            "orchestr8.task.*.*"
            "orchestr8.outcome.*"
            "orchestr8.control.*.*"
            "orchestr8.control.all"
            "orchestr8.coordinator"
            "orchestr8.nudge"
            "_INBOX_coordinator.>"
            {{- range $stream := list "TASKS" "OUTCOMES" }}
            {{- range $action := list "INFO" "CREATE" "UPDATE" "DELETE" }}
            "$JS.API.STREAM.{{ $action }}.ORCHESTR8_{{ $stream }}"
            {{- end }}
            {{- end }}
            "$JS.API.STREAM.PURGE.ORCHESTR8_OUTCOMES"
            "$JS.API.STREAM.MSG.GET.ORCHESTR8_OUTCOMES"
            "$JS.API.CONSUMER.CREATE.ORCHESTR8_TASKS.>"
            "$JS.API.CONSUMER.INFO.ORCHESTR8_TASKS.*"
            "$JS.API.CONSUMER.CREATE.ORCHESTR8_OUTCOMES"
            "$JS.API.CONSUMER.CREATE.ORCHESTR8_OUTCOMES.>"
            "$JS.API.CONSUMER.INFO.ORCHESTR8_OUTCOMES.*"
            "$JS.API.CONSUMER.MSG.NEXT.ORCHESTR8_OUTCOMES.*"
            "$JS.API.CONSUMER.LIST.ORCHESTR8_OUTCOMES"
            "$JS.API.INFO"
            "$SYS.REQ.USER.INFO"
          ] }
          subscribe { allow: [
            "_INBOX_coordinator.>"
            "orchestr8.claim.*"
            "orchestr8.beat.*.*"
            "orchestr8.coordinator"
            "orchestr8.nudge"
            "$JS.EVENT.ADVISORY.>"
          ] }
        }
      }
    ]
    exports: [
      { service: "$JS.API.CONSUMER.MSG.NEXT.ORCHESTR8_TASKS.*", response_type: stream, accounts: [{{ $accounts }}] }
      {{- range $subject := list "$JS.ACK.ORCHESTR8_TASKS.*.>" "orchestr8.outcome.*" "orchestr8.claim.*" "orchestr8.beat.*.*" }}
      { service: "{{ $subject }}", accounts: [{{ $accounts }}] }
      {{- end }}
      {{- range $subject := list "orchestr8.control.*.*" "orchestr8.control.all" "orchestr8.coordinator" }}
      { stream: "{{ $subject }}", accounts: [{{ $accounts }}] }
      {{- end }}
    ]
  }
  {{- range $name, $_ := include "orchestr8.executors" $ | fromYaml }}
  {{- $pool := include "orchestr8.pool" (dict "root" $ "name" $name) | fromYaml }}
  {{- $seat := printf "orchestr8 seat of login %s" $name | sha256sum | trunc 16 }}
  {{- $requests := list }}
  {{- range $subject := list "$JS.API.CONSUMER.MSG.NEXT.ORCHESTR8_TASKS.%s-%s" "$JS.ACK.ORCHESTR8_TASKS.%s-%s.>" }}
  {{- range $queue := $pool.queues }}
  {{- range $priority := list "critical" "high" "normal" "low" }}
  {{- $requests = append $requests (printf $subject $queue $priority) }}
  {{- end }}
  {{- end }}
  {{- end }}
  {{- $requests = concat $requests (list "orchestr8.outcome.*" "orchestr8.claim.*" (printf "orchestr8.beat.%s.*" $seat)) }}
  {{- $heard := list (printf "orchestr8.control.%s.*" $seat) "orchestr8.control.all" "orchestr8.coordinator" }}
  ORCHESTR8_EXECUTORS_{{ $name }} {
    users: [
      {
        user: {{ $name }}, password: ${{ include "orchestr8.natsPasswordVariable" $name }}
        permissions {
          publish { allow: [
            {{- range $subject := append $requests "$SYS.REQ.USER.INFO" }}
            "{{ $subject }}"
            {{- end }}
          ] }
          subscribe { allow: [
            {{- range $subject := prepend $heard (printf "_INBOX_%s.>" $name) }}
            "{{ $subject }}"
            {{- end }}
          ] }
        }
      }
    ]
    imports: [
      {{- range $subject := $requests }}
      { service: { account: ORCHESTR8, subject: "{{ $subject }}" } }
      {{- end }}
      {{- range $subject := $heard }}
      { stream: { account: ORCHESTR8, subject: "{{ $subject }}" } }
      {{- end }}
    ]
  }
  {{- end }}
}
{{- end -}}
