//! The filter itself: what all workers share of it, and what each has.

use std::rc::Rc;
use std::sync::Arc;

use outrider_config::model;
use outrider_core::StreamInfo;
use outrider_core::rng::{self, Rng};
use outrider_core::stats::Registry;
use outrider_net::handler::{ConnectionHandler, Downstream, LocalFuture};
use outrider_telemetry::access_log::{AccessLogger, LogFileError, LogFiles};
use outrider_upstream::{ClusterManager, ClusterSlot, WorkerClusters};

use crate::session;

outrider_core::stat_struct! {
    /// `tcp.<prefix>.`
    pub(crate) struct TcpStats {
        counters {
            downstream_cx_total, downstream_cx_no_route, downstream_cx_tx_bytes_total,
            downstream_cx_rx_bytes_total, downstream_flow_control_paused_reading_total,
            downstream_flow_control_resumed_reading_total, idle_timeout,
            max_downstream_connection_duration, upstream_flush_total,
        }
        gauges { downstream_cx_tx_bytes_buffered, downstream_cx_rx_bytes_buffered, upstream_flush_active }
        histograms {}
    }
}

/// A `tcp_proxy` that cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("tcp_proxy {prefix:?}: {source}")]
pub struct TcpProxyError {
    /// Its `stat_prefix`.
    pub prefix: Arc<str>,
    /// Why.
    pub source: LogFileError,
}

/// What all workers share of a `tcp_proxy`.
#[derive(Debug)]
pub struct TcpProxyShared {
    pub(crate) config: Arc<model::TcpProxy>,
    pub(crate) stats: TcpStats,
    pub(crate) logger: AccessLogger,
    /// Each cluster with the sum of the weights up to it.
    clusters: Vec<(u64, Arc<ClusterSlot>)>,
}

/// A `tcp_proxy` on one worker.
pub struct TcpProxyWorker {
    pub(crate) shared: Arc<TcpProxyShared>,
    pub(crate) clusters: Rc<WorkerClusters>,
}

impl TcpProxyShared {
    /// Resolves the names in `config`; a cluster that does not exist yet has an empty slot.
    ///
    /// # Errors
    /// An access log cannot be opened.
    pub fn build(
        config: &Arc<model::TcpProxy>,
        manager: &ClusterManager,
        registry: &Registry,
        logs: &LogFiles,
    ) -> Result<Arc<Self>, TcpProxyError> {
        let logger = AccessLogger::new(&config.access_logs, logs)
            .map_err(|source| TcpProxyError { prefix: config.stat_prefix.clone(), source })?;
        let mut sum = 0;
        let clusters = config.clusters.iter().map(|cluster| {
            sum += cluster.weight.get();
            (sum, manager.slot_or_empty(&cluster.name))
        });
        Ok(Arc::new(Self {
            clusters: clusters.collect(),
            stats: TcpStats::new(registry.scope(format!("tcp.{}.", config.stat_prefix))),
            logger,
            config: config.clone(),
        }))
    }

    /// The clusters that it sends to.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<ClusterSlot>> {
        self.clusters.iter().map(|(_, slot)| slot)
    }

    /// The cluster for a new session: drawn by weight.
    pub(crate) fn draw(&self) -> Option<&Arc<ClusterSlot>> {
        let (total, last) = self.clusters.last()?;
        if self.clusters.len() == 1 || *total == 0 {
            return Some(last);
        }
        let point = rng::with(|rng| rng.below(*total));
        self.clusters.iter().find(|(sum, _)| point < *sum).map(|(_, slot)| slot)
    }
}

impl TcpProxyWorker {
    /// The filter on the calling worker.
    pub fn new(shared: Arc<TcpProxyShared>, clusters: Rc<WorkerClusters>) -> Rc<Self> {
        Rc::new(Self { shared, clusters })
    }
}

impl ConnectionHandler for TcpProxyWorker {
    fn as_any(self: Rc<Self>) -> Rc<dyn std::any::Any> {
        self
    }

    fn handle(self: Rc<Self>, downstream: Downstream) -> LocalFuture<()> {
        Box::pin(session::serve(self, downstream))
    }

    fn refused(&self, info: &StreamInfo) {
        self.shared.stats.downstream_cx_total().inc();
        session::write_log(self, info, "TcpConnectionEnd");
    }
}

impl std::fmt::Debug for TcpProxyWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpProxyWorker").field("shared", &self.shared).finish_non_exhaustive()
    }
}
