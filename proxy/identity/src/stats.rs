//! `identity.` statistics.

outrider_core::stat_struct! {
    /// `identity.`
    pub(crate) struct AgentStats {
        counters { issued, failed, bundle_updates }
        gauges { not_after_seconds, roots }
        histograms {}
    }
}
