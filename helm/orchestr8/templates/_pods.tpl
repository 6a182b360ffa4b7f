{{/* What all pods of the chart have in common. Restricted Pod Security: nothing here may be overridden by values. */}}

{{/* (dict "user" 10001): the number of user and group, also of the volumes. */}}
{{- define "orchestr8.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ int .user }}
  runAsGroup: {{ int .user }}
  fsGroup: {{ int .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "orchestr8.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- define "orchestr8.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* (a mapping with nodeSelector, tolerations, priorityClassName, topologySpreadConstraints, runtimeClassName) */}}
{{- define "orchestr8.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Not two on one node, as a wish or as a must. (dict "root" $ "component" "…" "mode" "preferred") */}}
{{- define "orchestr8.antiAffinity" -}}
affinity:
  podAntiAffinity:
    {{- if eq .mode "required" }}
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "orchestr8.selector" . | nindent 12 }}
    {{- else }}
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {{- include "orchestr8.selector" . | nindent 14 }}
    {{- end }}
{{- end -}}

{{/* What coordinators and executors are told in the same words. (the root) */}}
{{- define "orchestr8.sharedEnv" -}}
- name: ORCHESTR8_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: ORCHESTR8_TIME_BASE
  value: {{ .Values.timeBase | quote }}
- name: ORCHESTR8_LOG
  value: {{ .Values.logFilter | quote }}
{{- end -}}

{{/* TLS to NATS: flags, mounts and volumes. (dict "root" $ "clientSecret" a Secret with a certificate of our own, or nothing) */}}
{{- define "orchestr8.natsTlsArgs" -}}
{{- if include "orchestr8.natsCaSecret" .root }}
- --nats-ca=/etc/orchestr8/nats-ca/ca.crt
{{- end }}
{{- if .clientSecret }}
- --nats-cert=/etc/orchestr8/nats-client/tls.crt
- --nats-key=/etc/orchestr8/nats-client/tls.key
{{- end }}
{{- end -}}

{{- define "orchestr8.natsTlsMounts" -}}
{{- if include "orchestr8.natsCaSecret" .root }}
- name: nats-ca
  mountPath: /etc/orchestr8/nats-ca
  readOnly: true
{{- end }}
{{- if .clientSecret }}
- name: nats-client
  mountPath: /etc/orchestr8/nats-client
  readOnly: true
{{- end }}
{{- end -}}

{{- define "orchestr8.natsTlsVolumes" -}}
{{- with include "orchestr8.natsCaSecret" .root }}
- name: nats-ca
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    # The authorities alone: the server's key may be in the same Secret.
    items:
      - key: {{ $.root.Values.nats.tls.caKey }}
        path: ca.crt
{{- end }}
{{- with .clientSecret }}
- name: nats-client
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{/* The address of NATS. (dict "root" $ "user" "coordinator" "password" "name: …, key: …" "urlSecret" "" "urlKey" "") */}}
{{- define "orchestr8.natsEnv" -}}
{{- if .urlSecret }}
- name: ORCHESTR8_NATS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .urlSecret }}
      key: {{ .urlKey }}
{{- else }}
- name: ORCHESTR8_NATS_PASSWORD
  valueFrom:
    secretKeyRef: {{- .password | nindent 6 }}
- name: ORCHESTR8_NATS_URL
  value: nats://{{ .user }}:$(ORCHESTR8_NATS_PASSWORD)@{{ include "orchestr8.fullname" .root }}-nats:4222
{{- end }}
{{- end -}}
