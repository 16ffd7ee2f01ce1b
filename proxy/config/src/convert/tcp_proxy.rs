//! `tcp_proxy`.

use std::sync::Arc;
use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3 as pb;
use outrider_proto::pb::envoy::r#type::v3 as type_pb;
use outrider_proto::pb::google::protobuf as google;

use super::access_log::{self, Protocol};
use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::scalar::{timeout, u32_of};
use crate::model::{HeaderMutations, RuntimeInteger, TcpProxy, WeightedCluster};

/// A tcp_proxy; `None`, and an error, when it names no cluster.
pub(crate) fn tcp_proxy(cx: &Cx, path: &Path<'_>, message: &pb::TcpProxy) -> Option<TcpProxy> {
    let pb::TcpProxy {
        stat_prefix,
        on_demand,
        metadata_match,
        idle_timeout,
        downstream_idle_timeout,
        upstream_idle_timeout,
        access_log,
        max_connect_attempts,
        backoff_options,
        hash_policy,
        tunneling_config,
        max_downstream_connection_duration,
        max_downstream_connection_duration_jitter_percentage,
        access_log_flush_interval,
        flush_access_log_on_connected,
        access_log_options,
        proxy_protocol_tlvs,
        proxy_protocol_tlv_merge_policy,
        upstream_connect_mode,
        max_early_data_bytes,
        check_drain_close,
        cluster_specifier,
    } = message;
    refuse!(cx, path, UNSUPPORTED;
        on_demand, metadata_match, downstream_idle_timeout, upstream_idle_timeout, backoff_options,
        tunneling_config, max_downstream_connection_duration_jitter_percentage, upstream_connect_mode,
        max_early_data_bytes, check_drain_close);
    inert!(cx, path, "only transport sockets that write PROXY protocol read it, and those are refused";
        proxy_protocol_tlvs, proxy_protocol_tlv_merge_policy);
    let attempts = u32_of(max_connect_attempts).unwrap_or(1);
    if attempts == 0 {
        cx.error(&path.field("max_connect_attempts"), "it must be 1 or more");
    }
    let (log_on_connected, log_interval) = log_options(
        cx,
        path,
        access_log_options.as_ref(),
        *flush_access_log_on_connected,
        access_log_flush_interval,
    );
    Some(TcpProxy {
        stat_prefix: Arc::from(stat_prefix.as_str()),
        idle_timeout: timeout(cx, path, "idle_timeout", idle_timeout, Some(Duration::from_secs(3600))),
        max_duration: timeout(
            cx,
            path,
            "max_downstream_connection_duration",
            max_downstream_connection_duration,
            None,
        ),
        max_connect_attempts: attempts.max(1),
        hash_source_ip: hashes_source(cx, &path.field("hash_policy"), hash_policy),
        access_logs: access_log::logs(cx, &path.field("access_log"), access_log, Protocol::Tcp),
        log_on_connected,
        log_interval,
        clusters: clusters(cx, path, cluster_specifier.as_ref())?,
    })
}

/// Whether an entry is written when the upstream is connected, and how often while the session lives.
/// Whether the client's address is hashed, for policies that choose hosts by a hash.
fn hashes_source(cx: &Cx, path: &Path<'_>, messages: &[type_pb::HashPolicy]) -> bool {
    use type_pb::hash_policy::{PolicySpecifier, SourceIp};
    let mut hashes = false;
    for (i, type_pb::HashPolicy { policy_specifier }) in messages.iter().enumerate() {
        let path = path.index(i);
        if i > 0 {
            cx.error(&path, "one hash policy is taken; remove the others");
        }
        match policy_specifier {
            Some(PolicySpecifier::SourceIp(SourceIp {})) => hashes = true,
            Some(PolicySpecifier::FilterState(_)) => {
                cx.refuse(
                    &path.field("filter_state"),
                    "no filter keeps state that could be hashed; remove it",
                );
            }
            None => cx.error(&path, "give one of source_ip and filter_state"),
        }
    }
    hashes
}

fn log_options(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::tcp_proxy::TcpAccessLogOptions>,
    old_on_connected: bool,
    old_interval: &Option<google::Duration>,
) -> (bool, Option<Duration>) {
    let old_interval = timeout(cx, path, "access_log_flush_interval", old_interval, None);
    let Some(message) = message else { return (old_on_connected, old_interval) };
    for (set, field) in [
        (old_on_connected, "flush_access_log_on_connected"),
        (old_interval.is_some(), "access_log_flush_interval"),
    ] {
        if set {
            cx.error(&path.field(field), "it excludes access_log_options; move it there");
        }
    }
    let path = path.field("access_log_options");
    let pb::tcp_proxy::TcpAccessLogOptions {
        access_log_flush_interval,
        flush_access_log_on_connected,
        flush_access_log_on_start,
    } = message;
    refuse!(cx, path, UNSUPPORTED; flush_access_log_on_start);
    let interval = timeout(cx, &path, "access_log_flush_interval", access_log_flush_interval, None);
    (*flush_access_log_on_connected, interval)
}

fn clusters(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::tcp_proxy::ClusterSpecifier>,
) -> Option<Vec<WeightedCluster>> {
    use pb::tcp_proxy::ClusterSpecifier;
    let one = |name: &str, weight: u32| WeightedCluster {
        name: Arc::from(name),
        weight: RuntimeInteger::fixed(u64::from(weight)),
        headers: HeaderMutations::default(),
        host_rewrite: None,
        filters: Vec::new(),
    };
    match message {
        Some(ClusterSpecifier::Cluster(name)) if !name.is_empty() => Some(vec![one(name, 1)]),
        Some(ClusterSpecifier::WeightedClusters(pb::tcp_proxy::WeightedCluster { clusters })) => {
            let path = path.field("weighted_clusters");
            let path = path.field("clusters");
            let clusters: Vec<WeightedCluster> = clusters
                .iter()
                .enumerate()
                .map(|(i, message)| {
                    let pb::tcp_proxy::weighted_cluster::ClusterWeight { name, weight, metadata_match } =
                        message;
                    let path = path.index(i);
                    refuse!(cx, path, UNSUPPORTED; metadata_match);
                    if name.is_empty() {
                        cx.error(&path.field("name"), "a cluster is needed");
                    }
                    if *weight == 0 {
                        cx.error(&path.field("weight"), "it must be 1 or more");
                    }
                    one(name, *weight)
                })
                .collect();
            if clusters.is_empty() {
                cx.error(&path, "a cluster is needed");
                return None;
            }
            Some(clusters)
        }
        Some(ClusterSpecifier::Cluster(_)) | None => {
            cx.error(path, "a cluster is needed: cluster or weighted_clusters");
            None
        }
    }
}
