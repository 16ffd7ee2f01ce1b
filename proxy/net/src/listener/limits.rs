//! Limits on the number of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The process-wide count of downstream connections and its limit. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct GlobalConnections {
    active: Arc<AtomicU64>,
    limit: Option<u64>,
}

impl GlobalConnections {
    /// No connections yet, and at most `limit` of them (`None`: no limit).
    pub fn new(limit: Option<u64>) -> Self {
        Self { active: Arc::new(AtomicU64::new(0)), limit }
    }

    /// How many there are.
    pub fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }
}
