//! HTTP filters: the router, which must be the last one.

use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::filters::http::router::v3 as pb;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm_pb;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::scalar::{bool_of, header_name, type_of, unpack};
use crate::model::RouterFilter;

/// The router at the end of the filters, and its name; `None`, and an error, when there is none.
pub(crate) fn filter_chain(
    cx: &Cx,
    path: &Path<'_>,
    messages: &[hcm_pb::HttpFilter],
) -> Option<(RouterFilter, Arc<str>)> {
    use hcm_pb::http_filter::ConfigType;
    let mut found = None;
    for (i, message) in messages.iter().enumerate() {
        let path = path.index(i);
        let hcm_pb::HttpFilter { name, is_optional, disabled, config_type } = message;
        let any = match config_type {
            Some(ConfigType::TypedConfig(any)) => any,
            Some(ConfigType::ConfigDiscovery(_)) => {
                cx.refuse(
                    &path.field("config_discovery"),
                    "filter discovery comes with xDS; write typed_config",
                );
                continue;
            }
            None => {
                cx.error(&path, format!("the filter {name:?} needs a typed_config with its @type"));
                continue;
            }
        };
        let path_of_config = path.field("typed_config");
        if !outrider_proto::any::is::<pb::Router>(any) {
            cx.refuse(
                &path_of_config,
                format!("the HTTP filter {} is not supported; remove the filter {name:?}", type_of(any)),
            );
            continue;
        }
        inert!(cx, path, "the router is always there"; is_optional);
        refuse!(cx, path, "without its router a connection manager serves nothing; remove it"; disabled);
        if i + 1 != messages.len() {
            cx.error(&path, format!("the router {name:?} must be the last HTTP filter"));
            continue;
        }
        if let Some(message) = unpack::<pb::Router>(cx, &path_of_config, any) {
            found = Some((router(cx, &path_of_config, &message), Arc::from(name.as_str())));
        }
    }
    if found.is_none() {
        cx.error(path, "the last HTTP filter must be envoy.filters.http.router");
    }
    found
}

fn router(cx: &Cx, path: &Path<'_>, message: &pb::Router) -> RouterFilter {
    let pb::Router {
        dynamic_stats,
        start_child_span,
        upstream_log,
        upstream_log_options,
        suppress_envoy_headers,
        strict_check_headers,
        respect_expected_rq_timeout,
        suppress_grpc_request_failure_code_stats,
        upstream_http_filters,
        reject_connect_request_early_data,
    } = message;
    inert!(cx, path, "tracing is not supported, so there are no spans"; start_child_span);
    refuse!(cx, path, UNSUPPORTED;
        upstream_log, upstream_log_options, suppress_grpc_request_failure_code_stats, upstream_http_filters,
        reject_connect_request_early_data);
    RouterFilter {
        dynamic_stats: bool_of(dynamic_stats).unwrap_or(true),
        upstream_logs: Vec::new(),
        suppress_envoy_headers: *suppress_envoy_headers,
        strict_check_headers: strict_check_headers
            .iter()
            .enumerate()
            .filter_map(|(i, name)| header_name(cx, &path.field("strict_check_headers").index(i), name))
            .collect(),
        respect_expected_rq_timeout: *respect_expected_rq_timeout,
    }
}
