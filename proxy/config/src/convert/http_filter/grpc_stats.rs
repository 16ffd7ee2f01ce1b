//! `envoy.filters.http.grpc_stats`

use std::collections::HashSet;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::extensions::filters::http::grpc_stats::v3 as pb;

use crate::convert::cx::Cx;
use crate::model::{GrpcMethods, GrpcStats};

/// The filter at `path`.
pub(super) fn filter(cx: &Cx, path: &Path<'_>, message: &pb::FilterConfig) -> GrpcStats {
    use core_pb::grpc_method_list::Service;
    use pb::filter_config::PerMethodStatSpecifier as Methods;
    let pb::FilterConfig {
        emit_filter_state,
        enable_upstream_stats,
        replace_dots_in_grpc_service_name: replace_dots,
        per_method_stat_specifier,
    } = message;
    let methods = match per_method_stat_specifier {
        Some(Methods::StatsForAllMethods(on)) if on.value => GrpcMethods::All { replace_dots: *replace_dots },
        Some(Methods::IndividualMethodStatsAllowlist(core_pb::GrpcMethodList { services })) => {
            let of = |service: &Service| -> Vec<Box<str>> {
                let Service { name, method_names } = service;
                method_names.iter().map(|method| format!("{name}/{method}").into()).collect()
            };
            GrpcMethods::Listed(services.iter().flat_map(of).collect())
        }
        Some(Methods::StatsForAllMethods(_)) | None => GrpcMethods::Listed(HashSet::new()),
    };
    if *replace_dots && !matches!(methods, GrpcMethods::All { .. }) {
        cx.inert(
            &path.field("replace_dots_in_grpc_service_name"),
            "it changes the names of stats_for_all_methods alone, in Envoy too",
        );
    }
    GrpcStats { emit_filter_state: *emit_filter_state, methods, upstream_stats: *enable_upstream_stats }
}
