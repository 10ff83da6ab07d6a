{{- define "touchstone.name" -}}
{{- printf "%s-touchstone" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "touchstone.labels" -}}
app.kubernetes.io/name: touchstone
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "touchstone.selector" -}}
app.kubernetes.io/name: touchstone
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "touchstone.image" -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag }}
{{- end -}}
{{- end -}}

{{/* The way out that every pod has: the cluster's name service, and the database. */}}
{{- define "touchstone.egress" -}}
- to:
    - namespaceSelector: {}
      podSelector:
        matchLabels: {k8s-app: kube-dns}
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
- ports:
    - {port: {{ .Values.networkPolicy.databasePort }}, protocol: TCP}
  {{- with .Values.networkPolicy.database }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "touchstone.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "touchstone.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "touchstone.environment" -}}
- name: TOUCHSTONE_HOME
  value: /data
- name: HOME
  value: /tmp
- name: TOUCHSTONE_GATE_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.database.secretName }}, key: gate}}
- name: TOUCHSTONE_MLFLOW_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.database.secretName }}, key: mlflow}}
{{- end -}}

{{- define "touchstone.registryEnvironment" -}}
- name: TOUCHSTONE_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.database.secretName }}, key: app}}
- name: TOUCHSTONE_LOGIN_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.database.secretName }}, key: login}}
{{ include "touchstone.environment" . }}
{{- end -}}

{{/* Limits, and the identity provider where there is one: the registry's alone. */}}
{{- define "touchstone.loginEnvironment" -}}
- name: TOUCHSTONE_LIMIT_FAILURES
  value: {{ .Values.limits.failures | quote }}
- name: TOUCHSTONE_LIMIT_LOGINS
  value: {{ .Values.limits.logins | quote }}
- name: TOUCHSTONE_LIMIT_POLLS
  value: {{ .Values.limits.polls | quote }}
- name: TOUCHSTONE_LIMIT_REQUESTS
  value: {{ .Values.limits.requests | quote }}
- name: TOUCHSTONE_TRUSTED_PROXIES
  value: {{ .Values.limits.trustedProxies | quote }}
{{- with .Values.login }}
{{- if or .publicUrl $.Values.ingress.host }}
- name: TOUCHSTONE_PUBLIC_URL
  value: {{ .publicUrl | default (printf "https://%s" $.Values.ingress.host) | quote }}
{{- else if .issuer }}
{{- fail "login.publicUrl or ingress.host is needed with login.issuer" }}
{{- end }}
{{- if .issuer }}
- name: TOUCHSTONE_OIDC_ISSUER
  value: {{ .issuer | quote }}
- name: TOUCHSTONE_OIDC_CLIENT_ID
  value: {{ required "login.clientId is needed with login.issuer" .clientId | quote }}
- name: TOUCHSTONE_OIDC_SCOPES
  value: {{ .scopes | quote }}
- name: TOUCHSTONE_OIDC_GROUP_CLAIM
  value: {{ .groupClaim | quote }}
- name: TOUCHSTONE_OIDC_GROUPS
  value: /etc/touchstone/groups/groups.yaml
- name: TOUCHSTONE_OIDC_CLAIM_GRANTS
  value: {{ join "," .claimGrants | quote }}
- name: TOUCHSTONE_LOGIN_HOURS
  value: {{ .hours | quote }}
{{- if .clientSecretName }}
- name: TOUCHSTONE_OIDC_CLIENT_SECRET_FILE
  value: /etc/touchstone/oidc/client-secret
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "touchstone.workerEnvironment" -}}
- name: TOUCHSTONE_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.database.secretName }}, key: worker}}
{{ include "touchstone.environment" . }}
{{- include "touchstone.objectStorage" . }}
{{- include "touchstone.keyEncryption" . }}
{{- include "touchstone.witnesses" . }}
{{- if .Values.inference.enabled }}
- name: TOUCHSTONE_INFERENCE
  value: http://{{ include "touchstone.name" . }}-inference:8600
- name: TOUCHSTONE_INFERENCE_TOKEN_FILE
  value: /etc/touchstone/inference/token
{{- end }}
{{- end -}}

{{/* Who co-signs the log: read anew at each look, so a change needs no new pods. */}}
{{- define "touchstone.witnesses" -}}
{{- if .Values.witnesses }}
- name: TOUCHSTONE_WITNESSES
  value: /etc/touchstone/witnesses/witnesses.txt
{{- end }}
{{- end -}}

{{/* The token of the inference server: its own pod's and the workers'. */}}
{{- define "touchstone.inferenceToken" -}}
- name: inference
  secret:
    secretName: {{ required "inference.tokenSecretName is needed" .Values.inference.tokenSecretName }}
    defaultMode: 0440
{{- end -}}

{{/* What wraps the cohorts' keys: the workers' alone. */}}
{{- define "touchstone.keyEncryption" -}}
{{- with .Values.keyEncryption }}
{{- if .name }}
- name: TOUCHSTONE_KEY_ENCRYPTION
  value: {{ .name | quote }}
{{- if hasPrefix "kms:" .name }}
{{- if .kms.endpoint }}
- name: TOUCHSTONE_KMS_ENDPOINT
  value: {{ .kms.endpoint | quote }}
{{- end }}
- name: TOUCHSTONE_KMS_REGION
  value: {{ .kms.region | quote }}
- name: TOUCHSTONE_KMS_CREDENTIALS
  value: /etc/touchstone/kms/credentials
{{- else }}
- name: TOUCHSTONE_PKCS11_MODULE
  value: {{ required "keyEncryption.pkcs11.module is needed" .pkcs11.module | quote }}
- name: TOUCHSTONE_PKCS11_PIN
  valueFrom: {secretKeyRef: {name: {{ required "keyEncryption.pkcs11.pinSecretName is needed" .pkcs11.pinSecretName }}, key: pin}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Objects and artifacts: two buckets, two identities. The migration needs neither. */}}
{{- define "touchstone.objectStorage" -}}
{{- with .Values.objectStorage }}
{{- if .endpoint }}
- name: TOUCHSTONE_S3_ENDPOINT
  value: {{ .endpoint | quote }}
- name: TOUCHSTONE_S3_REGION
  value: {{ .region | quote }}
- name: TOUCHSTONE_S3_RETENTION_DAYS
  value: {{ .retentionDays | quote }}
- name: TOUCHSTONE_S3_ARTIFACTS_RETENTION_DAYS
  value: {{ .artifactsRetentionDays | quote }}
{{- if .caSecretName }}
- name: TOUCHSTONE_S3_CA_FILE
  value: /s3-ca/ca.crt
{{- end }}
- name: TOUCHSTONE_S3_OBJECTS_BUCKET
  value: {{ required "objectStorage.objectsBucket is needed" .objectsBucket | quote }}
- name: TOUCHSTONE_S3_OBJECTS_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ required "objectStorage.objectsSecretName is needed" .objectsSecretName }}, key: accessKey}}
- name: TOUCHSTONE_S3_OBJECTS_SECRET_KEY
  valueFrom: {secretKeyRef: {name: {{ .objectsSecretName }}, key: secretKey}}
- name: TOUCHSTONE_S3_ARTIFACTS_BUCKET
  value: {{ required "objectStorage.artifactsBucket is needed" .artifactsBucket | quote }}
- name: TOUCHSTONE_S3_ARTIFACTS_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ required "objectStorage.artifactsSecretName is needed" .artifactsSecretName }}, key: accessKey}}
- name: TOUCHSTONE_S3_ARTIFACTS_SECRET_KEY
  valueFrom: {secretKeyRef: {name: {{ .artifactsSecretName }}, key: secretKey}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "touchstone.mounts" -}}
- {name: data, mountPath: /data}
- {name: root, mountPath: /data/root.pem, subPath: root.pem, readOnly: true}
- {name: scratch, mountPath: /tmp}
{{- if .Values.objectStorage.caSecretName }}
- {name: s3-ca, mountPath: /s3-ca, readOnly: true}
{{- end }}
{{- if .Values.witnesses }}
- {name: witnesses, mountPath: /etc/touchstone/witnesses, readOnly: true}
{{- end }}
{{- end -}}

{{- define "touchstone.volumes" -}}
- name: data
  persistentVolumeClaim:
    claimName: {{ .Values.storage.existingClaim | default (include "touchstone.name" .) }}
- name: root
  secret: {secretName: {{ .Values.rootCertificate.secretName }}}
- name: scratch
  emptyDir: {sizeLimit: 4Gi}
{{- with .Values.objectStorage.caSecretName }}
- name: s3-ca
  secret: {secretName: {{ . }}}
{{- end }}
{{- if .Values.witnesses }}
- name: witnesses
  configMap: {name: {{ include "touchstone.name" . }}-witnesses}
{{- end }}
{{- end -}}

{{- define "touchstone.workerPod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "touchstone.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  automountServiceAccountToken: false
  serviceAccountName: {{ include "touchstone.name" $root }}
  {{- with .part.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .part.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .part.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  terminationGracePeriodSeconds: 60
  securityContext: {{- include "touchstone.podSecurity" $root | nindent 4 }}
  containers:
    - name: worker
      image: {{ .image }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command: [touchstone]
      args: [worker{{ with .queue }}, --queue={{ . }}{{ end }}]
      securityContext: {{- include "touchstone.containerSecurity" $root | nindent 8 }}
      env:
        {{- if contains "@" .image }}
        - {name: TOUCHSTONE_IMAGE_DIGEST, value: {{ splitList "@" .image | last | quote }}}
        {{- end }}
        {{- include "touchstone.workerEnvironment" $root | nindent 8 }}
        {{- if and (eq .component "gpu-worker") (not $root.Values.inference.enabled) }}
        - name: TOUCHSTONE_DEVICE
          value: {{ .part.device | quote }}
        {{- end }}
      resources: {{- toYaml .part.resources | nindent 8 }}
      volumeMounts:
        {{- include "touchstone.mounts" $root | nindent 8 }}
        - {name: cohort-keys, mountPath: /data/cohort-keys}
        {{- if $root.Values.linking.keySecretName }}
        - {name: links, mountPath: /data/links}
        - {name: linking-key, mountPath: /data/linking.key, subPath: linking.key, readOnly: true}
        {{- end }}
        {{- if $root.Values.inference.enabled }}
        - {name: inference, mountPath: /etc/touchstone/inference, readOnly: true}
        {{- end }}
        {{- if hasPrefix "kms:" $root.Values.keyEncryption.name }}
        - {name: kms, mountPath: /etc/touchstone/kms, readOnly: true}
        {{- end }}
  volumes:
    {{- include "touchstone.volumes" $root | nindent 4 }}
    - name: cohort-keys
      persistentVolumeClaim:
        claimName: {{ $root.Values.cohortKeys.existingClaim | default (printf "%s-cohort-keys" (include "touchstone.name" $root)) }}
    {{- with $root.Values.linking }}
    {{- if .keySecretName }}
    - name: links
      persistentVolumeClaim:
        claimName: {{ .existingClaim | default (printf "%s-links" (include "touchstone.name" $root)) }}
    - name: linking-key
      secret: {secretName: {{ .keySecretName }}, defaultMode: 0440}
    {{- end }}
    {{- end }}
    {{- if $root.Values.inference.enabled }}
    {{- include "touchstone.inferenceToken" $root | nindent 4 }}
    {{- end }}
    {{- if hasPrefix "kms:" $root.Values.keyEncryption.name }}
    - name: kms
      secret:
        secretName: {{ required "keyEncryption.kms.credentialsSecretName is needed" $root.Values.keyEncryption.kms.credentialsSecretName }}
        defaultMode: 0440  # what everybody may read is refused
    {{- end }}
{{- end -}}
