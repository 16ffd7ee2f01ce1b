//! What is counted of a subscription.

use std::hash::{Hash, Hasher};

outrider_core::stat_struct! {
    /// `cluster_manager.cds.`, `listener_manager.lds.`, `http.<prefix>.rds.<table>.`
    pub(super) struct SubscriptionStats {
        counters { update_attempt, update_success, update_failure, update_rejected, init_fetch_timeout }
        gauges { version, update_time }
        histograms {}
    }
}

impl SubscriptionStats {
    /// An answer came, in `version`; `good` when nothing of it was refused.
    pub(super) fn answered(&self, version: &str, good: bool) {
        if good {
            self.update_success().inc();
            self.version().set(number(version));
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            self.update_time().set(now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX)));
        } else {
            self.update_rejected().inc();
        }
        // The answer is a request for the next.
        self.update_attempt().inc();
    }
}

/// A version as a number that differs where versions differ.
fn number(version: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    version.hash(&mut hasher);
    hasher.finish() >> 1
}
