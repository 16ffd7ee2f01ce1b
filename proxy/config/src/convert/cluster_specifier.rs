//! Which cluster a route goes to.

use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::route::v3 as pb;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::header::{Lists, mutations};
use super::http_filter;
use super::scalar::{request_header, runtime_integer, u32_of};
use crate::model::{ClusterSpecifier, RuntimeInteger, Weighted, WeightedCluster};

/// The cluster, or clusters, of the route action at `path`.
pub(crate) fn specifier(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::route_action::ClusterSpecifier>,
) -> Option<ClusterSpecifier> {
    use pb::route_action::ClusterSpecifier as Kind;
    match message {
        Some(Kind::Cluster(name)) => {
            cx.cluster_reference(&path.field("cluster"), name);
            Some(ClusterSpecifier::Name(Arc::from(name.as_str())))
        }
        Some(Kind::ClusterHeader(name)) => {
            request_header(cx, &path.field("cluster_header"), name).map(ClusterSpecifier::Header)
        }
        Some(Kind::WeightedClusters(message)) => {
            weighted(cx, &path.field("weighted_clusters"), message).map(ClusterSpecifier::Weighted)
        }
        Some(Kind::ClusterSpecifierPlugin(_)) => {
            cx.refuse(&path.field("cluster_specifier_plugin"), UNSUPPORTED);
            None
        }
        Some(Kind::InlineClusterSpecifierPlugin(_)) => {
            cx.refuse(&path.field("inline_cluster_specifier_plugin"), UNSUPPORTED);
            None
        }
        None => {
            cx.error(path, "give one of cluster, cluster_header and weighted_clusters");
            None
        }
    }
}

fn weighted(cx: &Cx, path: &Path<'_>, message: &pb::WeightedCluster) -> Option<Weighted> {
    use pb::weighted_cluster::RandomValueSpecifier;
    let pb::WeightedCluster { clusters, total_weight, runtime_key_prefix, random_value_specifier } = message;
    inert!(cx, path, "the sum of the weights counts, in Envoy too"; total_weight);
    let header = match random_value_specifier {
        Some(RandomValueSpecifier::HeaderName(name)) => request_header(cx, &path.field("header_name"), name),
        Some(RandomValueSpecifier::UseHashPolicy(on)) => {
            if on.value {
                cx.refuse(
                    &path.field("use_hash_policy"),
                    "hash policies choose hosts, not clusters; use header_name",
                );
            }
            None
        }
        None => None,
    };
    let at = path.field("clusters");
    let clusters: Vec<WeightedCluster> = clusters
        .iter()
        .enumerate()
        .filter_map(|(i, message)| one(cx, &at.index(i), message, runtime_key_prefix))
        .collect();
    let total: u64 = clusters.iter().map(|cluster| cluster.weight.default).fold(0, u64::saturating_add);
    if total == 0 {
        cx.error(&at, "all weights are 0; at least one must be more");
        return None;
    }
    if total > u64::from(u32::MAX) {
        cx.error(&at, format!("the weights sum up to {total}; 4294967295 is the most there may be"));
    }
    let total = runtime_key_prefix.is_empty().then_some(total);
    Some(Weighted { clusters, total, header })
}

fn one(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::weighted_cluster::ClusterWeight,
    runtime_prefix: &str,
) -> Option<WeightedCluster> {
    use pb::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let pb::weighted_cluster::ClusterWeight {
        name,
        cluster_header,
        weight,
        metadata_match,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        typed_per_filter_config,
        host_rewrite_specifier,
    } = message;
    refuse!(cx, path, "a header names the cluster of the whole route only; use cluster_header of the route"; cluster_header);
    refuse!(cx, path, UNSUPPORTED; metadata_match);
    let filters = http_filter::overrides(cx, path, typed_per_filter_config);
    if name.is_empty() && cluster_header.is_empty() {
        cx.error(&path.field("name"), "a cluster is needed");
        return None;
    }
    cx.cluster_reference(&path.field("name"), name);
    let Some(weight) = u32_of(weight) else {
        cx.error(&path.field("weight"), "a weight is needed");
        return None;
    };
    let weight = if runtime_prefix.is_empty() {
        RuntimeInteger::fixed(u64::from(weight))
    } else {
        runtime_integer(cx, &format!("{runtime_prefix}.{name}"), u64::from(weight))
    };
    Some(WeightedCluster {
        name: Arc::from(name.as_str()),
        weight,
        headers: mutations(
            cx,
            path,
            &Lists {
                request_add: request_headers_to_add,
                request_remove: request_headers_to_remove,
                response_add: response_headers_to_add,
                response_remove: response_headers_to_remove,
            },
        ),
        host_rewrite: host_rewrite_specifier
            .as_ref()
            .map(|HostRewriteSpecifier::HostRewriteLiteral(text)| text.as_str().into()),
        filters,
    })
}
