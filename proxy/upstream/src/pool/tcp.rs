//! Connections for TCP sessions: not pooled.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use outrider_core::stream::{Address, SourceAddress, TlsInfo};
use outrider_net::io::IoStream;
use outrider_net::tls::AlpnDefault;

use super::connect::{self, Wanted};
use super::io::{Token, next_id};
use crate::breaker::Resource;
use crate::cluster::ClusterShared;
use crate::error::{PoolError, PoolErrorKind};
use crate::host::Host;
use crate::outlier::Event;

/// A connection for one TCP session.
#[derive(Debug)]
pub struct TcpLease {
    /// Its bytes.
    pub stream: IoStream,
    /// What is known of it, and its place in breakers and gauges: to be kept until the stream is closed.
    pub guard: TcpGuard,
}

/// A TCP session's place in breakers and gauges; given back when dropped.
#[derive(Debug)]
pub struct TcpGuard {
    /// Our address on the connection.
    pub local: Address,
    /// The address it goes to.
    pub remote: Address,
    /// Its TLS session.
    pub tls: Option<Rc<TlsInfo>>,
    /// Its number.
    pub connection_id: u64,
    token: Token,
    host: Arc<Host>,
}

impl TcpGuard {
    /// The most that should wait to be written to the upstream, bytes.
    pub fn buffer_limit(&self) -> usize {
        self.token.cluster.config.per_connection_buffer_limit
    }

    /// Counts how often reading from the upstream waited for the client, and went on.
    pub fn paused(&self, times: u64) {
        let stats = self.token.cluster.stats();
        stats.upstream_flow_control_paused_reading_total().add(times);
        stats.upstream_flow_control_resumed_reading_total().add(times);
    }

    /// Counts bytes that came from the upstream.
    pub fn received(&self, bytes: u64) {
        self.token.cluster.stats().upstream_cx_rx_bytes_total().add(bytes);
    }

    /// Counts bytes that went to the upstream.
    pub fn sent(&self, bytes: u64) {
        self.token.cluster.stats().upstream_cx_tx_bytes_total().add(bytes);
    }

    /// Tells that the upstream ended the session.
    pub fn ended_by_peer(&self) {
        self.token.life.ended_by_peer.store(true, Relaxed);
    }
}

impl Drop for TcpGuard {
    fn drop(&mut self) {
        self.token.life.active.store(0, Relaxed);
        self.host.state.rq_active.fetch_sub(1, Relaxed);
        self.token.cluster.stats().upstream_rq_active().dec();
        self.token.cluster.breakers().default.give(Resource::Requests);
    }
}

/// A connection to `host`; `connect_timeout` at most.
pub(crate) async fn connect(
    cluster: &Arc<ClusterShared>,
    host: &Arc<Host>,
    source: Option<SourceAddress>,
    alpn: AlpnDefault,
) -> Result<TcpLease, PoolError> {
    let error = |kind, details: &str| PoolError { kind, details: details.into(), host: host.clone() };
    let breakers = &cluster.breakers().default;
    let stats = cluster.stats();
    let most = cluster.config.per_host_max_connections;
    let host_is_full = most.is_some_and(|most| host.state.cx_active.load(Relaxed) >= most);
    if host_is_full || breakers.take(Resource::Connections).is_err() {
        stats.upstream_cx_overflow().inc();
        return Err(error(PoolErrorKind::Overflow, ""));
    }
    let token = Token::begin(cluster.clone(), host.state.clone(), false);
    stats.upstream_rq_pending_total().inc();
    let pending = Pending::new(cluster);
    let opened = connect::open(cluster, host, Wanted { source, ..Wanted::default() }, alpn).await;
    drop(pending);
    match opened {
        Ok((stream, tls)) => {
            token.connected();
            cluster.report(host, Event::SessionOpened);
            if breakers.take(Resource::Requests).is_err() {
                stats.upstream_rq_active_overflow().inc();
                return Err(error(PoolErrorKind::Overflow, ""));
            }
            stats.upstream_rq_total().inc();
            stats.upstream_rq_active().inc();
            host.state.rq_total.fetch_add(1, Relaxed);
            host.state.rq_active.fetch_add(1, Relaxed);
            let guard = TcpGuard {
                local: stream.local_addr(),
                remote: host.address.clone(),
                tls,
                connection_id: next_id(),
                token,
                host: host.clone(),
            };
            Ok(TcpLease { stream, guard })
        }
        Err(failure) => {
            token.connect_failed(failure.kind);
            cluster.report(
                host,
                match failure.kind {
                    PoolErrorKind::ConnectTimeout => Event::TimedOut(504),
                    _ => Event::ConnectFailed,
                },
            );
            stats.upstream_rq_pending_failure_eject().inc();
            Err(error(failure.kind, &failure.details))
        }
    }
}

/// A session that waits for its connection.
struct Pending<'a>(&'a ClusterShared);

impl<'a> Pending<'a> {
    fn new(cluster: &'a ClusterShared) -> Self {
        cluster.stats().upstream_rq_pending_active().inc();
        Self(cluster)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.stats().upstream_rq_pending_active().dec();
    }
}
