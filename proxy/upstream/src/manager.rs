//! The cluster manager: all clusters by name, on the control side.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use outrider_config::model::{self, FindSecret, Runtime};
use outrider_core::stats::Registry;
use tokio::sync::watch;

use crate::cluster::{ClusterShared, ClusterSlot};
use crate::discovery::{self, Discoverer};
use crate::error::ClusterError;

outrider_core::stat_struct! {
    /// `cluster_manager.`
    pub struct ManagerStats {
        counters { cluster_added, cluster_modified, cluster_removed, cluster_updated }
        gauges { active_clusters, warming_clusters }
        histograms {}
    }
}

/// All clusters. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub struct ClusterManager(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    runtime: Runtime,
    stats: ManagerStats,
    names: Mutex<Names>,
    log: Mutex<ChangeLog>,
    // The number of the last entry of the log: workers wake and look.
    changes: watch::Sender<u64>,
    discoverer: Discoverer,
}

#[derive(Debug, Default)]
struct Names {
    by_name: HashMap<Arc<str>, Arc<ClusterSlot>>,
    // In the order of adding, as the admin pages list them.
    slots: Vec<Arc<ClusterSlot>>,
}

/// Which clusters changed of late: so that one change costs a worker as much with ten thousand clusters as with one.
#[derive(Debug, Default)]
struct ChangeLog {
    // How many changes there were in all.
    last: u64,
    slots: VecDeque<u32>,
}

impl ChangeLog {
    /// Who is further behind looks at everything.
    const LENGTH: usize = 1024;

    fn push(&mut self, slot: u32) -> u64 {
        self.last += 1;
        if self.slots.len() == Self::LENGTH {
            self.slots.pop_front();
        }
        self.slots.push_back(slot);
        self.last
    }

    fn since(&self, seen: u64) -> Option<Vec<u32>> {
        let missed = usize::try_from(self.last.saturating_sub(seen)).ok()?;
        let known = self.slots.len().checked_sub(missed)?;
        Some(self.slots.iter().skip(known).copied().collect())
    }
}

impl ClusterManager {
    /// A manager without clusters, whose stats go to `registry`.
    pub fn new(registry: Registry) -> Self {
        Self::with_runtime(registry, Runtime::default())
    }

    /// The same, with circuit breakers that follow `runtime`; see [`Self::runtime_changed`].
    pub fn with_runtime(registry: Registry, runtime: Runtime) -> Self {
        let stats = ManagerStats::new(registry.scope("cluster_manager."));
        Self(Arc::new(Inner {
            registry,
            runtime,
            stats,
            names: Mutex::default(),
            log: Mutex::default(),
            changes: watch::Sender::new(0),
            discoverer: Discoverer::new(),
        }))
    }

    /// Adds the cluster of `config`, or replaces the one of its name; hosts that stay keep their identity.
    /// DNS clusters have no hosts until [`Self::run_discovery`] runs.
    ///
    /// # Errors
    /// Its TLS context cannot be built, or an endpoint needs DNS where there is none. The cluster of that
    /// name that was there, if any, stays.
    pub fn add(&self, config: Arc<model::Cluster>) -> Result<Arc<ClusterSlot>, ClusterError> {
        let shared = self.prepare(config, &|_| None)?;
        Ok(self.promote(&shared))
    }

    /// Builds the cluster of `config` and begins to find its hosts; nothing is sent to it before it is
    /// [promoted](Self::promote). Of the cluster of its name that is in force it takes the hosts over. `secrets` finds
    /// those that come from elsewhere.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn prepare(
        &self,
        config: Arc<model::Cluster>,
        secrets: FindSecret<'_>,
    ) -> Result<Arc<ClusterShared>, ClusterError> {
        let shared = ClusterShared::build(config.clone(), &self.0.registry, &self.0.runtime, secrets)?;
        let fixed = discovery::fixed_hosts(&config)?;
        let slot = self.slot_or_empty(&config.name);
        shared.slot.store(slot.id, Relaxed);
        if let Some(earlier) = slot.current.load_full() {
            shared.inherit(&earlier);
        }
        let shared = Arc::new(shared);
        if let Some(hosts) = fixed {
            shared.publish(hosts, discovery::policy(&config));
            shared.hosts_found();
        }
        if matches!(config.discovery, model::Discovery::OriginalDst(_)) {
            shared.hosts_found();
        }
        self.0.discoverer.watch(&shared);
        self.count_warming();
        Ok(shared)
    }

    /// Puts a cluster that was [prepared](Self::prepare) in force, in the place of the one of its name.
    pub fn promote(&self, shared: &Arc<ClusterShared>) -> Arc<ClusterSlot> {
        let slot = self.slot_or_empty(&shared.config.name);
        let stats = &self.0.stats;
        match slot.current.swap(Some(shared.clone())) {
            Some(earlier) => {
                earlier.retire();
                shared.count_again();
                stats.cluster_modified().inc();
            }
            None => {
                stats.cluster_added().inc();
                stats.active_clusters().inc();
            }
        }
        self.0.discoverer.guard(shared);
        self.changed(shared);
        slot
    }

    /// Gives up a cluster that was prepared and is not wanted any more.
    pub fn abandon(&self, shared: &ClusterShared) {
        shared.retire();
        if let Some(current) = self.slot(&shared.config.name).and_then(|slot| slot.current.load_full()) {
            current.count_again();
        }
    }

    /// Publishes the endpoints that discovery found for an EDS cluster.
    pub fn set_endpoints(&self, shared: &ClusterShared, endpoints: &model::Endpoints) {
        let changed = shared.publish(discovery::eds_hosts(endpoints), endpoints.policy);
        if shared.hosts_found() || changed {
            self.changed(shared);
        }
    }

    /// Tells all clusters of a secret that changed; what cannot be built with it keeps what it has, and is logged.
    pub fn renew_tls(&self, changed: &model::DynamicSecret, secrets: FindSecret<'_>) {
        for cluster in self.clusters() {
            let before = cluster.narrowed();
            if let Err(error) = cluster.renew_tls(changed, secrets) {
                tracing::error!(secret = &*changed.name, "the certificate in force stays: {error}");
            }
            if cluster.narrowed() != before {
                // Workers drain its pools, also where nobody asks anything of it.
                self.changed(&cluster);
            }
        }
    }

    /// To be called when the runtime changed: circuit breakers take its limits.
    pub fn runtime_changed(&self) {
        for cluster in self.clusters() {
            cluster.runtime_changed();
        }
    }

    /// Removes the cluster of `name`. Its slot stays, empty.
    pub fn remove(&self, name: &str) -> bool {
        let Some(slot) = self.slot(name) else { return false };
        let Some(removed) = slot.current.swap(None) else { return false };
        removed.retire();
        self.0.stats.cluster_removed().inc();
        self.0.stats.active_clusters().dec();
        self.changed(&removed);
        true
    }

    /// The slot of `name`, if a cluster or a reference made one.
    pub fn slot(&self, name: &str) -> Option<Arc<ClusterSlot>> {
        self.names().by_name.get(name).cloned()
    }

    /// The slot of `name`, made empty if there is none.
    pub fn slot_or_empty(&self, name: &str) -> Arc<ClusterSlot> {
        let mut names = self.names();
        if let Some(slot) = names.by_name.get(name) {
            return slot.clone();
        }
        let id = u32::try_from(names.slots.len()).unwrap_or(u32::MAX);
        let name: Arc<str> = name.into();
        let slot = Arc::new(ClusterSlot { id, name: name.clone(), current: None.into() });
        names.by_name.insert(name, slot.clone());
        names.slots.push(slot.clone());
        slot
    }

    /// All clusters, in the order in which they were added.
    pub fn clusters(&self) -> Vec<Arc<ClusterShared>> {
        self.names().slots.iter().filter_map(|slot| slot.current.load_full()).collect()
    }

    /// The registry that stats go to.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Resolves names again and again, and forgets unused ORIGINAL_DST hosts. Never ends. Control runtime.
    pub async fn run_discovery(&self) {
        self.0.discoverer.run(self).await;
    }

    /// Waits until every cluster that needs DNS has had its first answer or failure. [`Self::run_discovery`]
    /// must be running.
    pub async fn wait_warm(&self) {
        self.0.discoverer.wait_warm().await;
    }

    /// A watcher of changes, for workers. The value is what [`Self::changed_since`] takes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// The slots of the clusters that changed (themselves or their hosts) behind change number `seen`, each at least
    /// once; `None` when that is too long ago: then any may have.
    pub fn changed_since(&self, seen: u64) -> Option<Vec<u32>> {
        self.log().since(seen)
    }

    /// Tells the workers that `cluster`, or its hosts, changed.
    pub(crate) fn changed(&self, cluster: &ClusterShared) {
        let last = self.log().push(cluster.slot.load(Relaxed));
        self.0.changes.send_replace(last);
    }

    fn log(&self) -> std::sync::MutexGuard<'_, ChangeLog> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes how many clusters are not warm.
    pub(crate) fn count_warming(&self) {
        self.0.stats.warming_clusters().set(self.0.discoverer.cold() as u64);
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Names> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::ChangeLog;

    #[test]
    fn the_log_says_what_changed_or_that_it_does_not_know() {
        let mut log = ChangeLog::default();
        assert_eq!(log.since(0), Some(Vec::new()));
        let numbers: Vec<u64> = [7, 8, 7].into_iter().map(|slot| log.push(slot)).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(log.since(0), Some(vec![7, 8, 7]));
        assert_eq!(log.since(2), Some(vec![7]));
        assert_eq!(log.since(3), Some(Vec::new()));
        (0..ChangeLog::LENGTH as u32).for_each(|slot| _ = log.push(slot));
        assert_eq!(log.since(2), None, "that entry is gone");
        assert_eq!(log.since(3).map(|slots| slots.len()), Some(ChangeLog::LENGTH));
    }
}
