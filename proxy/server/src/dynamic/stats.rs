//! What is counted of a subscription.

use super::subscriptions::{now, version_number};

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
            self.version().set(version_number(version));
            self.scope().set_text("version_text", version);
            self.update_time().set(now());
        } else {
            self.update_rejected().inc();
        }
        // The answer is a request for the next.
        self.update_attempt().inc();
    }
}
