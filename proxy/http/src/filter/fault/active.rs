//! What a fault filter counts, and the requests that have a fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use outrider_core::stats::Scope;

use crate::filter::named::Named;

outrider_core::stat_struct! {
    /// `http.<stat_prefix>.fault.`
    pub(super) struct FaultStats {
        counters { aborts_injected, delays_injected, faults_overflow, response_rl_injected }
        gauges { active_faults }
        histograms { }
    }
}

outrider_core::stat_struct! {
    /// `http.<stat_prefix>.fault.<downstream cluster>.`
    struct ClusterStats {
        counters { aborts_injected, delays_injected }
        gauges { }
        histograms { }
    }
}

/// What all workers share of a fault filter.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) stats: FaultStats,
    by_cluster: Named<ClusterStats>,
    /// Envoy compares the gauge, which filters of one stat prefix share, those of earlier configurations among them.
    active: Arc<AtomicU64>,
}

/// A request's place among those that have a fault; given back when dropped.
#[derive(Debug)]
pub(crate) struct Active(Arc<Shared>);

impl Shared {
    pub(super) fn new(scope: &Scope) -> Arc<Self> {
        let scope = scope.child("fault.");
        let active = scope.shared_number("active_faults");
        Arc::new(Self { stats: FaultStats::new(scope), by_cluster: Named::default(), active })
    }

    /// A place, if fewer than `most` are taken; a limit that may be passed a little, as Envoy's.
    pub(super) fn enter(self: &Arc<Self>, most: u64) -> Option<Active> {
        if self.active.load(Relaxed) >= most {
            self.stats.faults_overflow().inc();
            return None;
        }
        self.active.fetch_add(1, Relaxed);
        self.stats.active_faults().inc();
        Some(Active(self.clone()))
    }

    /// Counts a delay.
    pub(super) fn delayed(&self, cluster: Option<&str>) {
        self.of_cluster(cluster, |stats| stats.delays_injected().inc());
        self.stats.delays_injected().inc();
    }

    /// Counts an abort.
    pub(super) fn aborted(&self, cluster: Option<&str>) {
        self.of_cluster(cluster, |stats| stats.aborts_injected().inc());
        self.stats.aborts_injected().inc();
    }

    fn of_cluster(&self, cluster: Option<&str>, count: impl FnOnce(&ClusterStats)) {
        let Some(cluster) = cluster else { return };
        let make = || ClusterStats::new(self.stats.scope().child(&format!("{cluster}.")));
        if let Some(stats) = self.by_cluster.get(cluster, make) {
            count(&stats);
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
        self.0.stats.active_faults().dec();
    }
}

#[cfg(test)]
mod tests {
    use outrider_core::stats::Registry;

    use super::*;

    #[test]
    fn faults_of_an_earlier_configuration_count_against_the_limit_of_the_next() {
        let registry = Registry::new();
        let (before, other) =
            (Shared::new(&registry.scope("http.a.")), Shared::new(&registry.scope("http.b.")));
        let active = before.enter(1);
        assert!(active.is_some());
        drop(before);
        let after = Shared::new(&registry.scope("http.a."));
        assert!(after.enter(1).is_none());
        assert_eq!(registry.value("http.a.fault.faults_overflow"), Some(1));
        assert!(other.enter(1).is_some(), "another prefix has room of its own");
        drop(active);
        assert!(after.enter(1).is_some());
        drop(after);
        assert_eq!(registry.value("http.a.fault.active_faults"), Some(0));
    }
}
