//! The connection manager: what all workers share of it, and what each has for itself.

use std::rc::Rc;
use std::sync::Arc;

use outrider_config::model;
use outrider_core::stats::Registry;
use outrider_telemetry::access_log::{AccessLogger, LogFileError, LogFiles};
use outrider_upstream::WorkerClusters;

use crate::routing::RouteTable;
use crate::stats::HcmStats;

/// What all workers share of one connection manager.
#[derive(Debug)]
pub struct HcmShared {
    /// Its configuration.
    pub config: Arc<model::HttpConnectionManager>,
    /// `http.<stat_prefix>.`
    pub stats: HcmStats,
    /// Its routes.
    pub routes: Arc<RouteTable>,
    /// Its access logs.
    pub logger: AccessLogger,
}

/// A connection manager cannot be built from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum HcmError {
    /// An access log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogFileError),
}

impl HcmShared {
    /// Builds what can fail, on the control thread.
    ///
    /// # Errors
    /// An access log cannot be opened, or the routes cannot be compiled.
    pub fn build(
        config: &Arc<model::HttpConnectionManager>,
        registry: &Registry,
        files: &LogFiles,
    ) -> Result<Arc<Self>, HcmError> {
        let logger = AccessLogger::new(&config.access_logs, files)?;
        let stats = HcmStats::new(registry.scope(format!("http.{}.", config.stat_prefix)));
        let routes = Arc::new(RouteTable::default());
        Ok(Arc::new(Self { config: config.clone(), stats, routes, logger }))
    }
}

/// A connection manager on one worker.
#[derive(Debug)]
pub struct HcmWorker {
    /// What all workers share.
    pub shared: Arc<HcmShared>,
    /// The worker's clusters.
    pub clusters: Rc<WorkerClusters>,
}

impl HcmWorker {
    /// The worker's part of `shared`.
    pub fn new(shared: Arc<HcmShared>, clusters: Rc<WorkerClusters>) -> Rc<Self> {
        Rc::new(Self { shared, clusters })
    }

    /// Whether something reads request heads after they were forwarded.
    pub fn wants_head(&self) -> bool {
        !self.shared.logger.is_empty()
    }
}
