{{/*
The bootstrap of a gateway's proxy, as an argument: $(NAME) in it is the variable of that name, which Kubernetes puts in. Like that of a
sidecar, but for the node. (dict "root" $ "namespace" NAMESPACE "name" NAME "labels" LABELS)
*/}}
{{- define "outrider.gateway.bootstrap" -}}
{{- $root := .root -}}
{{- $host := include "outrider.control.host" $root -}}
node:
  id: "router~$(POD_IP)~$(POD_NAME).$(POD_NAMESPACE)~$(POD_NAMESPACE).svc.{{ $root.Values.clusterDomain }}"
  cluster: "{{ .name }}.{{ .namespace }}"
  metadata:
    NAMESPACE: "$(POD_NAMESPACE)"
    SERVICE_ACCOUNT: "$(SERVICE_ACCOUNT)"
    NODE_NAME: "$(NODE_NAME)"
    GATEWAY: {{ printf "%s/%s" .namespace .name | quote }}
    LABELS: {{- .labels | toYaml | nindent 6 }}
admin: { address: { socket_address: { address: 127.0.0.1, port_value: 15000 } } }
bootstrap_extensions:
  - name: identity
    typed_config:
      "@type": type.googleapis.com/outrider.extensions.bootstrap.identity.v1.IdentityAgent
      address: "{{ $host }}.{{ $root.Values.clusterDomain }}:15010"
      server_name: {{ $host }}
      ca_file: /etc/outrider/ca/ca.pem
      service_account_token_file: /var/run/secrets/outrider/token
      socket_path: /run/outrider/sds
      state_dir: /run/outrider/identity
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{ envoy_grpc: { cluster_name: control-plane } }]
  cds_config: { ads: {}, resource_api_version: V3, initial_fetch_timeout: 0s }
  lds_config: { ads: {}, resource_api_version: V3, initial_fetch_timeout: 0s }
static_resources:
  listeners:
    {{- range $listener := list (dict "name" "ready" "port" 15021 "path" "/healthz/ready" "to" "/ready") (dict "name" "stats" "port" 15090 "path" "/stats/prometheus" "to" "/stats/prometheus") }}
    - name: {{ .name }}
      address: { socket_address: { address: "$(POD_IP)", port_value: {{ .port }} } }
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: {{ .name }}
                route_config:
                  name: {{ .name }}
                  virtual_hosts:
                    - name: {{ .name }}
                      domains: ["*"]
                      routes: [{ match: { path: {{ .path }} }, route: { cluster: admin, prefix_rewrite: {{ .to }} } }]
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
    {{- end }}
  clusters:
    - name: sds-grpc
      type: STATIC
      typed_extension_protocol_options: &http2
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: { http2_protocol_options: {} }
      load_assignment:
        cluster_name: sds-grpc
        endpoints: [{ lb_endpoints: [{ endpoint: { address: { pipe: { path: /run/outrider/sds } } } }] }]
    - name: control-plane
      type: STRICT_DNS
      connect_timeout: 5s
      typed_extension_protocol_options: *http2
      load_assignment:
        cluster_name: control-plane
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address: { socket_address: { address: "{{ $host }}.{{ $root.Values.clusterDomain }}", port_value: 15010 } }
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          sni: {{ $host }}
          common_tls_context:
            alpn_protocols: [h2]
            tls_certificate_sds_secret_configs:
              - name: default
                sds_config:
                  resource_api_version: V3
                  api_config_source:
                    api_type: GRPC
                    transport_api_version: V3
                    grpc_services: [{ envoy_grpc: { cluster_name: sds-grpc } }]
            validation_context:
              trusted_ca: { filename: /etc/outrider/ca/ca.pem }
              match_typed_subject_alt_names: [{ san_type: DNS, matcher: { exact: {{ $host }} } }]
    - name: admin
      type: STATIC
      load_assignment:
        cluster_name: admin
        endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 15000 } } } }] }]
{{- end -}}
