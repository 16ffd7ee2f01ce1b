//! The HTTP connection manager.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;

use super::access_log::{self, Protocol};
use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::hcm_settings::{
    client_cert, codec, escaped_slashes, head_limit, internal, pack_trace_reason, scheme, server_header,
    strip_port, underscore_action,
};
use super::http_options::{Common, common, http1, http2};
use super::route::route_configuration;
use super::runtime::REJECT_FRAGMENT;
use super::scalar::{bool_of, duration, header_value, runtime_flag, timeout};
use super::xds::config_source;
use super::{http_filter, local_reply, route_action, scope};
use crate::model::{HttpConnectionManager, Routes, UpgradeConfig};

/// A connection manager; `None`, and an error, when it lacks what it cannot do without.
#[expect(clippy::too_many_lines, reason = "one message of seventy fields, destructured and built once")]
pub(crate) fn manager(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::HttpConnectionManager,
) -> Option<HttpConnectionManager> {
    let pb::HttpConnectionManager {
        codec_type,
        stat_prefix,
        http_filters,
        add_user_agent,
        tracing,
        common_http_protocol_options,
        http1_safe_max_connection_duration,
        http_protocol_options,
        http2_protocol_options,
        http3_protocol_options,
        server_name,
        server_header_transformation,
        scheme_header_transformation,
        max_request_headers_kb,
        stream_idle_timeout,
        stream_flush_timeout,
        request_timeout,
        request_headers_timeout,
        drain_timeout,
        drain_timeout_jitter,
        delayed_close_timeout,
        access_log,
        access_log_flush_interval,
        flush_access_log_on_new_request,
        access_log_options,
        use_remote_address,
        xff_num_trusted_hops,
        original_ip_detection_extensions,
        early_header_mutation_extensions,
        internal_address_config,
        skip_xff_append,
        via,
        generate_request_id,
        preserve_external_request_id,
        always_set_request_id_in_response,
        forward_client_cert_details,
        set_current_client_cert_details,
        forward_client_cert_matcher,
        proxy_100_continue,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        upgrade_configs,
        normalize_path,
        merge_slashes,
        path_with_escaped_slashes_action,
        request_id_extension,
        local_reply_config,
        strip_matching_host_port,
        stream_error_on_invalid_http_message,
        path_normalization_options,
        strip_trailing_host_dot,
        proxy_status_config,
        typed_header_validation_config,
        append_x_forwarded_port,
        append_local_overload,
        add_proxy_protocol_connection_state,
        forward_proto_config,
        route_specifier,
        strip_port_mode,
    } = message;
    refuse!(cx, path, "tracing is not supported; remove it"; tracing);
    refuse!(cx, path, UNSUPPORTED;
        http1_safe_max_connection_duration, stream_flush_timeout, drain_timeout_jitter,
        original_ip_detection_extensions, early_header_mutation_extensions, forward_client_cert_matcher,
        path_normalization_options, proxy_status_config, typed_header_validation_config,
        forward_proto_config);
    if *proxy_100_continue {
        cx.inert(
            &path.field("proxy_100_continue"),
            "the upstream is asked, but 100 is answered when it takes the body, not when it says so",
        );
    }
    inert!(cx, path, "only HTTP/3 listeners read it, and those are refused"; http3_protocol_options);
    inert!(cx, path, "no overload action is supported, so the header is never due"; append_local_overload);
    inert!(cx, path, "only transport sockets that write PROXY protocol read it, and those are refused";
        add_proxy_protocol_connection_state);
    let Common {
        idle_timeout,
        max_connection_duration,
        max_headers_count,
        max_stream_duration,
        underscores,
        max_requests_per_connection,
    } = common(cx, &path.field("common_http_protocol_options"), common_http_protocol_options.as_ref());
    let logs = LogOptions::of(
        cx,
        path,
        access_log_options.as_ref(),
        access_log_flush_interval,
        *flush_access_log_on_new_request,
    );
    let routes = routes(cx, path, route_specifier.as_ref());
    let chain = http_filter::chain(cx, &path.field("http_filters"), http_filters);
    let (forward_client_cert, client_cert_details) =
        client_cert(cx, path, *forward_client_cert_details, set_current_client_cert_details.as_ref());
    let http_filter::Chain { filters, router, router_name } = chain?;
    Some(HttpConnectionManager {
        stat_prefix: Arc::from(stat_prefix.as_str()),
        codec: codec(cx, path, *codec_type),
        routes: routes?,
        http1: http1(cx, &path.field("http_protocol_options"), http_protocol_options.as_ref()),
        http2: http2(cx, &path.field("http2_protocol_options"), http2_protocol_options.as_ref()),
        server_name: match server_name.as_str() {
            "" => HeaderValue::from_static("envoy"),
            name => header_value(cx, &path.field("server_name"), name),
        },
        server_header: server_header(cx, path, *server_header_transformation),
        scheme_overwrite: scheme(cx, path, scheme_header_transformation.as_ref()),
        idle_timeout,
        max_connection_duration,
        max_requests_per_connection: max_requests_per_connection.unwrap_or(0),
        max_headers_count,
        max_request_headers_kb: head_limit(cx, path, max_request_headers_kb),
        max_stream_duration,
        underscores: underscore_action(underscores),
        stream_idle_timeout: timeout(
            cx,
            path,
            "stream_idle_timeout",
            stream_idle_timeout,
            Some(Duration::from_secs(300)),
        ),
        request_timeout: timeout(cx, path, "request_timeout", request_timeout, None),
        request_headers_timeout: timeout(cx, path, "request_headers_timeout", request_headers_timeout, None),
        drain_timeout: duration(cx, path, "drain_timeout", drain_timeout).unwrap_or(Duration::from_secs(5)),
        delayed_close_timeout: timeout(
            cx,
            path,
            "delayed_close_timeout",
            delayed_close_timeout,
            Some(Duration::from_secs(1)),
        ),
        access_logs: access_log::logs(cx, &path.field("access_log"), access_log, Protocol::Http),
        log_on_new_request: logs.on_new_request,
        log_interval: logs.interval,
        use_remote_address: bool_of(use_remote_address).unwrap_or(false),
        xff_num_trusted_hops: *xff_num_trusted_hops,
        skip_xff_append: *skip_xff_append,
        via: via.clone(),
        append_x_forwarded_port: *append_x_forwarded_port,
        add_user_agent: bool_of(add_user_agent).unwrap_or(false),
        local_replies: local_reply_config
            .as_ref()
            .map(|message| local_reply::config(cx, &path.field("local_reply_config"), message))
            .unwrap_or_default(),
        generate_request_id: bool_of(generate_request_id).unwrap_or(true),
        preserve_external_request_id: *preserve_external_request_id,
        always_set_request_id_in_response: *always_set_request_id_in_response,
        pack_trace_reason: pack_trace_reason(
            cx,
            &path.field("request_id_extension"),
            request_id_extension.as_ref(),
        ),
        forward_client_cert,
        client_cert_details,
        proxy_100_continue: *proxy_100_continue,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6: *represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        upgrades: upgrades(cx, &path.field("upgrade_configs"), upgrade_configs),
        normalize_path: bool_of(normalize_path)
            .unwrap_or_else(|| cx.drawn_now("http_connection_manager.normalize_path")),
        reject_path_with_fragment: runtime_flag(cx, REJECT_FRAGMENT, true),
        merge_slashes: *merge_slashes,
        escaped_slashes: escaped_slashes(cx, path, *path_with_escaped_slashes_action),
        strip_port: strip_port(cx, path, *strip_matching_host_port, strip_port_mode.as_ref()),
        strip_trailing_host_dot: *strip_trailing_host_dot,
        stream_error_on_invalid_http_message: bool_of(stream_error_on_invalid_http_message).unwrap_or(false),
        internal_addresses: internal(cx, path, internal_address_config.as_ref()),
        filters,
        router,
        router_name,
    })
}

/// When entries are written beside the one at the end of a stream.
struct LogOptions {
    on_new_request: bool,
    interval: Option<Duration>,
}

impl LogOptions {
    fn of(
        cx: &Cx,
        path: &Path<'_>,
        message: Option<&pb::http_connection_manager::HcmAccessLogOptions>,
        old_interval: &Option<outrider_proto::pb::google::protobuf::Duration>,
        old_on_new_request: bool,
    ) -> Self {
        let old_interval = timeout(cx, path, "access_log_flush_interval", old_interval, None);
        let Some(message) = message else {
            return Self { on_new_request: old_on_new_request, interval: old_interval };
        };
        for (set, field) in [
            (old_on_new_request, "flush_access_log_on_new_request"),
            (old_interval.is_some(), "access_log_flush_interval"),
        ] {
            if set {
                cx.error(&path.field(field), "it excludes access_log_options; move it there");
            }
        }
        let path = path.field("access_log_options");
        let pb::http_connection_manager::HcmAccessLogOptions {
            access_log_flush_interval,
            flush_access_log_on_new_request,
            flush_log_on_tunnel_successfully_established,
        } = message;
        refuse!(cx, path, UNSUPPORTED; flush_log_on_tunnel_successfully_established);
        Self {
            on_new_request: *flush_access_log_on_new_request,
            interval: timeout(cx, &path, "access_log_flush_interval", access_log_flush_interval, None),
        }
    }
}

fn routes(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::http_connection_manager::RouteSpecifier>,
) -> Option<Routes> {
    use pb::http_connection_manager::RouteSpecifier;
    match message {
        Some(RouteSpecifier::RouteConfig(message)) => {
            Some(Routes::Inline(Arc::new(route_configuration(cx, &path.field("route_config"), message))))
        }
        Some(RouteSpecifier::Rds(pb::Rds { config_source: source, route_config_name })) => {
            let path = path.field("rds");
            let at = path.field("config_source");
            if route_config_name.is_empty() {
                cx.error(&path.field("route_config_name"), "the name of a route table is needed");
            }
            if route_config_name.starts_with("xdstp:") {
                cx.refuse(
                    &path.field("route_config_name"),
                    "xdstp:// resource names are not supported; name the resource plainly",
                );
            }
            let Some(source) = source else {
                cx.error(&at, "a source of the routes is needed");
                return None;
            };
            let source = config_source(cx, &at, source)?;
            Some(Routes::Rds { source, name: Arc::from(route_config_name.as_str()) })
        }
        Some(RouteSpecifier::ScopedRoutes(message)) => {
            scope::scoped_routes(cx, &path.field("scoped_routes"), message).map(Routes::Scoped)
        }
        None => {
            cx.error(path, "routes are needed: route_config, rds or scoped_routes");
            None
        }
    }
}

fn upgrades(
    cx: &Cx,
    path: &Path<'_>,
    messages: &[pb::http_connection_manager::UpgradeConfig],
) -> Vec<UpgradeConfig> {
    let mut upgrades = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        let path = path.index(i);
        let pb::http_connection_manager::UpgradeConfig { upgrade_type, filters, enabled } = message;
        refuse!(cx, path, "upgrades pass the connection manager's own filters; remove it"; filters);
        route_action::add_upgrade(cx, &path, &mut upgrades, upgrade_type, bool_of(enabled).unwrap_or(true));
    }
    upgrades
}
