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
    active: AtomicU64,
}

/// A request's place among those that have a fault; given back when dropped.
#[derive(Debug)]
pub(crate) struct Active(Arc<Shared>);

impl Shared {
    pub(super) fn new(scope: &Scope) -> Arc<Self> {
        let stats = FaultStats::new(scope.child("fault."));
        Arc::new(Self { stats, by_cluster: Named::default(), active: AtomicU64::new(0) })
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
