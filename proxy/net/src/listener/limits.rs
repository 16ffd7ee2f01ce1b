//! Limits on the number of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use outrider_config::model::RuntimeInteger;

/// The process-wide count of downstream connections and its limit. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct GlobalConnections {
    active: Arc<AtomicU64>,
    limit: RuntimeInteger,
}

impl GlobalConnections {
    /// No connections yet, and at most `limit` of them (`u64::MAX`: no limit).
    pub fn new(limit: RuntimeInteger) -> Self {
        Self { active: Arc::new(AtomicU64::new(0)), limit }
    }

    /// How many there are, over all listeners that do not ignore the limit.
    pub fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }

    pub(super) fn acquire(&self) -> bool {
        acquire(&self.active, self.limit.get())
    }

    pub(super) fn release(&self) {
        self.active.fetch_sub(1, Relaxed);
    }
}

/// Counts one more on `active`, unless there are `limit` already.
pub(super) fn acquire(active: &AtomicU64, limit: u64) -> bool {
    let before = active.fetch_add(1, Relaxed);
    let ok = before < limit;
    if !ok {
        active.fetch_sub(1, Relaxed);
    }
    ok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_a_release_makes_room() {
        let global = GlobalConnections::new(RuntimeInteger::fixed(2));
        assert!(global.acquire() && global.acquire() && !global.acquire());
        assert_eq!(global.active(), 2);
        global.release();
        assert!(global.acquire());
    }
}
