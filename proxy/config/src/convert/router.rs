//! The router, which ends every connection manager's HTTP filters.

use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::filters::http::router::v3 as pb;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::scalar::{bool_of, header_name};
use crate::model::RouterFilter;

/// The router's settings.
pub(crate) fn router(cx: &Cx, path: &Path<'_>, message: &pb::Router) -> RouterFilter {
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
