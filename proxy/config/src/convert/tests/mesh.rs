//! What a mesh's control plane sends to a sidecar without any wish of its users: what of it is still refused. A list to
//! make shorter; it does not grow.

use outrider_proto::load::{self, ParseOptions};
use outrider_proto::prost::Message as _;
use outrider_proto::{Descriptors, any};

use super::super::{Options, ResourceKind, from_any};

/// The paths that are refused, in order.
fn refused(kind: ResourceKind, yaml: &str) -> Vec<String> {
    let descs = Descriptors::load();
    let name = any::type_name(kind.type_url());
    let loaded = load::parse(&descs, yaml, "mesh.yaml", name, ParseOptions::default());
    let bytes = loaded.unwrap_or_else(|problems| panic!("{problems}")).message.encode_to_vec();
    let (result, _) = from_any(kind, &bytes, &Options { ads: true, ..Options::default() });
    result.err().unwrap_or_default().into_iter().map(|problem| problem.path).collect()
}

const ADS: &str = "{ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}";

fn manager(routes: &str, filters: &str) -> String {
    format!(
        r#"
"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
stat_prefix: outbound_0.0.0.0_80
{routes}
normalize_path: true
path_with_escaped_slashes_action: KEEP_UNCHANGED
use_remote_address: false
upgrade_configs: [{{upgrade_type: websocket}}]
stream_idle_timeout: 0s
append_x_forwarded_port: true
proxy_100_continue: true
forward_client_cert_details: APPEND_FORWARD
set_current_client_cert_details: {{subject: true, dns: true, uri: true}}
server_name: istio-envoy
request_id_extension: {{typed_config: {{"@type": type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig, use_request_id_for_trace_sampling: true}}}}
access_log:
- name: envoy.access_loggers.file
  typed_config: {{"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/stdout, log_format: {{text_format_source: {{inline_string: "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"}}}}}}
http_filters:
{filters}- {{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}
"#
    )
}

fn listener(config: &str, more: &str) -> String {
    format!(
        "name: 0.0.0.0_80\naddress: {{socket_address: {{address: 0.0.0.0, port_value: 80}}}}\n{more}\nfilter_chains:\n- filters:\n  - name: hcm\n    typed_config:\n{}",
        super::indent(config, 6)
    )
}

const ROUTES: &str = r#"
name: "80"
validate_clusters: false
ignore_port_in_host_matching: true
max_direct_response_body_size_bytes: 1048576
virtual_hosts:
- name: a.b.svc.cluster.local:80
  domains: [a.b.svc.cluster.local, a, a.b.svc, a.b, 10.0.0.1]
  include_request_attempt_count: true
  routes:
  - name: default
    match: {prefix: /}
    decorator: {operation: "a.b.svc.cluster.local:80/*"}
    metadata: {filter_metadata: {istio: {config: /apis/x}}}
    route:
      cluster: outbound|80||a.b.svc.cluster.local
      timeout: 0s
      max_grpc_timeout: 0s
      retry_policy:
        retry_on: connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes
        num_retries: 2
        retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts, typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]
        host_selection_retry_max_attempts: 5
- name: inbound|80||
  domains: ["in"]
  routes:
  - match: {prefix: /}
    route: {cluster: inbound|80||, timeout: 0s, max_stream_duration: {max_stream_duration: 0s, grpc_timeout_header_max: 0s}, retry_policy: {retry_on: reset-before-request, num_retries: 2}}
- name: allow_any
  domains: ["*"]
  include_request_attempt_count: true
  routes:
  - {name: allow_any, match: {prefix: /}, route: {cluster: PassthroughCluster, timeout: 0s, max_grpc_timeout: 0s}}
- name: block_all
  domains: ["block"]
  routes:
  - {name: block_all, match: {prefix: /}, direct_response: {status: 502}}
"#;

#[test]
fn routes_of_a_sidecar() {
    assert_eq!(refused(ResourceKind::RouteConfiguration, ROUTES), Vec::<String>::new());
}

#[test]
fn listeners_of_a_sidecar() {
    let rds = format!("rds: {{route_config_name: '80', config_source: {ADS}}}");
    let outbound = "bind_to_port: false\ntraffic_direction: OUTBOUND\ncontinue_on_listener_filters_timeout: true\nlistener_filters_timeout: 0s\nmetadata: {filter_metadata: {istio: {services: []}}}\nlistener_filters: [{name: tls, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector, initial_read_buffer_size: 512}}, {name: http, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}]";
    assert_eq!(
        refused(ResourceKind::Listener, &listener(&manager(&rds, ""), outbound)),
        Vec::<String>::new()
    );

    let tracing = "tracing: {client_sampling: {value: 100}, random_sampling: {value: 1}, overall_sampling: {value: 100}, custom_tags: [{tag: a, literal: {value: b}}]}\n";
    let filters = r#"- {name: grpc_stats, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig, emit_filter_state: true, stats_for_all_methods: false}}
- {name: fault, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault}}
- {name: cors, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}}
"#;
    let manager = manager(&format!("{rds}\n{tracing}"), filters);
    let at = "filter_chains[0].filters[0].typed_config";
    assert_eq!(refused(ResourceKind::Listener, &listener(&manager, outbound)), [format!("{at}.tracing")]);
}

const INBOUND: &str = r#"
name: virtualInbound
address: {socket_address: {address: 0.0.0.0, port_value: 15006}}
traffic_direction: INBOUND
continue_on_listener_filters_timeout: true
listener_filters_timeout: 0s
max_connections_to_accept_per_socket_event: 1
listener_filters:
- {name: od, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}
- name: tls
  filter_disabled: {or_match: {rules: [{destination_port_range: {start: 22, end: 23}}, {not_match: {destination_port_range: {start: 1, end: 65536}}}]}}
  typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}
access_log:
- name: f
  filter: {response_flag_filter: {flags: [NR]}}
  typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/stdout}
default_filter_chain:
  filters: [{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: p, cluster: InboundPassthroughCluster}}]
  name: catchall
filter_chains:
- name: virtualInbound-blackhole
  filter_chain_match: {destination_port: 15006}
  filters: [{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: BlackHoleCluster, cluster: BlackHoleCluster}}]
- name: 0.0.0.0_8080
  filter_chain_match: {destination_port: 8080, transport_protocol: tls, application_protocols: [istio-peer-exchange, istio]}
  transport_socket_connect_timeout: 15s
  filters: [{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: p, cluster: inbound|8080||}}]
  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
      require_client_certificate: true
      common_tls_context:
        alpn_protocols: [istio-peer-exchange, h2, http/1.1]
        tls_params: {tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3, cipher_suites: [ECDHE-ECDSA-AES256-GCM-SHA384, ECDHE-RSA-AES256-GCM-SHA384, ECDHE-ECDSA-AES128-GCM-SHA256, ECDHE-RSA-AES128-GCM-SHA256, AES256-GCM-SHA384, AES128-GCM-SHA256]}
        tls_certificate_sds_secret_configs: [{name: default, sds_config: {api_config_source: {api_type: GRPC, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: sds-grpc}}]}, initial_fetch_timeout: 0s, resource_api_version: V3}}]
        combined_validation_context:
          default_validation_context: {}
          validation_context_sds_secret_config: {name: ROOTCA, sds_config: {api_config_source: {api_type: GRPC, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: sds-grpc}}]}, initial_fetch_timeout: 0s, resource_api_version: V3}}
"#;

#[test]
fn the_inbound_listener_of_a_sidecar() {
    assert_eq!(refused(ResourceKind::Listener, INBOUND), Vec::<String>::new());
}

#[test]
fn clusters_of_a_sidecar() {
    let common = "connect_timeout: 10s, lb_policy: LEAST_REQUEST, circuit_breakers: {thresholds: [{max_connections: 4294967295, max_pending_requests: 4294967295, max_requests: 4294967295, max_retries: 4294967295, track_remaining: true}]}";
    let http = |options: &str| {
        format!(
            "typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, {options}}}}}"
        )
    };
    for cluster in [
        "{name: BlackHoleCluster, type: STATIC, connect_timeout: 10s}".to_owned(),
        "{name: InboundPassthroughCluster, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, connect_timeout: 10s, upstream_bind_config: {source_address: {address: 127.0.0.6, port_value: 0}, extra_source_addresses: [{address: {address: '::6', port_value: 0}}]}}".to_owned(),
        format!(
            "{{name: PassthroughCluster, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, connect_timeout: 10s, {}}}",
            http(
                "common_http_protocol_options: {idle_timeout: 300s}, use_downstream_protocol_config: {http_protocol_options: {}, http2_protocol_options: {}}"
            )
        ),
        format!(
            "{{name: 'outbound|80||a', type: EDS, eds_cluster_config: {{eds_config: {ADS}, service_name: 'outbound|80||a'}}, {common}, common_lb_config: {{}}}}"
        ),
    ] {
        assert_eq!(refused(ResourceKind::Cluster, &cluster), Vec::<String>::new(), "{cluster}");
    }
    let exchange = r#"filters: [{name: istio.metadata_exchange, typed_config: {"@type": type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange, value: {protocol: istio-peer-exchange}}}]"#;
    let weighted = "common_lb_config: {locality_weighted_lb_config: {}}";
    for (cluster, wanted) in [
        (
            format!(
                "{{name: 'outbound|80||a', type: EDS, eds_cluster_config: {{eds_config: {ADS}}}, {common}, {exchange}}}"
            ),
            "filters",
        ),
        (
            format!(
                "{{name: 'outbound|80||a', type: EDS, eds_cluster_config: {{eds_config: {ADS}}}, {common}, {weighted}}}"
            ),
            "common_lb_config.locality_weighted_lb_config",
        ),
    ] {
        assert_eq!(refused(ResourceKind::Cluster, &cluster), [wanted], "{cluster}");
    }
}
