//! From a client to an upstream connection.

use std::sync::Arc;
use std::time::Instant;

use outrider_config::model::{Cluster, HashSource};
use outrider_core::stream::{Attempt, ConnInfo, StreamInfo, UpstreamInfo};
use outrider_core::{ResponseFlags, StreamMetadata};
use outrider_upstream::lb::hash::ip_hash;
use outrider_upstream::{Host, PickContext, PoolErrorKind, TcpLease};

use crate::proxy::TcpProxyWorker;

/// Connects, at most `max_connect_attempts` times. `None`: there is no connection; `log` says why.
pub(crate) async fn connect(
    worker: &TcpProxyWorker,
    conn: &ConnInfo,
    mut log: Option<&mut StreamInfo>,
) -> Option<TcpLease> {
    let flag = |log: &mut Option<&mut StreamInfo>, flags| {
        if let Some(log) = log {
            log.flags.insert(flags);
        }
    };
    let shared = &worker.shared;
    let cluster = shared.draw().and_then(|slot| worker.clusters.get(slot));
    let Some(cluster) = cluster else {
        shared.stats.downstream_cx_no_route().inc();
        flag(&mut log, ResponseFlags::NO_CLUSTER_FOUND);
        return None;
    };
    if let Some(log) = &mut log {
        log.upstream.cluster = Some(cluster.shared.config.name.clone());
        log.upstream.cluster_alt = cluster.shared.config.alt_stat_name.clone();
    }
    let original_dst = if conn.local_restored { conn.local.ip() } else { None };
    let hash = hash_of(&cluster.shared.config, shared.config.hash_source_ip, conn);
    for _ in 0..shared.config.max_connect_attempts.max(1) {
        let Ok(host) = cluster.pick(&PickContext { original_dst, hash, ..PickContext::default() }) else {
            flag(&mut log, ResponseFlags::NO_HEALTHY_UPSTREAM);
            return None;
        };
        if let Some(log) = &mut log {
            log.attempts += 1;
            note_host(&mut log.upstream, &host);
            if shared.logger.reads_metadata() {
                log.metadata = Some(Box::new(StreamMetadata {
                    cluster: cluster.shared.config.metadata.clone(),
                    host: host.metadata.clone(),
                    ..StreamMetadata::default()
                }));
            }
        }
        let begun = shared.logger.reads_attempts().then(Instant::now);
        match cluster.tcp_connect(&host, conn.source).await {
            Ok(lease) => {
                if let Some(log) = &mut log {
                    log.upstream.local = Some(lease.guard.local.clone());
                    log.upstream.tls = lease.guard.tls.clone();
                    log.upstream.connection_id = Some(lease.guard.connection_id);
                    log.upstream.transport_failure = None;
                    if let Some(begun) = begun {
                        log.upstream.ready_after = Some(begun.elapsed());
                        log.upstream.attempted.push(Attempt {
                            host: host.address.clone(),
                            hostname: host.hostname.clone(),
                            connection_id: lease.guard.connection_id,
                        });
                    }
                }
                return Some(lease);
            }
            Err(error) => {
                tracing::debug!(cluster = &*cluster.shared.config.name, %error, "no upstream connection");
                flag(&mut log, error.flags());
                if let Some(log) = &mut log {
                    log.upstream.transport_failure =
                        (!error.details.is_empty()).then(|| error.details.clone());
                }
                // An open breaker is no failure of the host: another attempt would meet it again.
                if error.kind == PoolErrorKind::Overflow {
                    return None;
                }
            }
        }
    }
    cluster.shared.stats().upstream_cx_connect_attempts_exceeded().inc();
    flag(&mut log, ResponseFlags::CONNECT_ATTEMPTS_EXCEEDED);
    None
}

/// What policies that hash draw by: the client's IP address, where the cluster's own hash policy or else that of the
/// filter says so. Of a session nothing else can be hashed.
fn hash_of(cluster: &Cluster, source_ip: bool, conn: &ConnInfo) -> Option<u64> {
    let own = &cluster.hash_policy;
    let by_ip = if own.is_empty() {
        source_ip
    } else {
        own.iter().any(|policy| matches!(policy.source, HashSource::SourceIp))
    };
    if !by_ip || !cluster.lb.is_hashed() {
        return None;
    }
    conn.remote.ip().map(|remote| ip_hash(remote.ip()))
}

fn note_host(upstream: &mut UpstreamInfo, host: &Arc<Host>) {
    upstream.host = Some(host.address.clone());
    upstream.hostname = Some(host.hostname.clone());
}
