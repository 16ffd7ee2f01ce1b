//! Where hosts come from.

mod dns;
mod resolver;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use outrider_config::model::{
    self, Discovery, Endpoint, EndpointPolicy, Endpoints, LocalityEndpoints, SocketAddress,
};
use outrider_core::stream::Address;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::cluster::ClusterShared;
use crate::error::ClusterError;
use crate::host::{Host, Locality};
use crate::manager::ClusterManager;
use crate::{active, outlier};
use dns::Names;
use resolver::Resolvers;

/// Keeps the hosts of clusters that find them by themselves.
pub(crate) struct Discoverer {
    queue: mpsc::UnboundedSender<Work>,
    // Taken by the one who runs the discovery.
    due: Mutex<Option<mpsc::UnboundedReceiver<Work>>>,
    // Clusters whose names have not been tried yet.
    cold: watch::Sender<usize>,
}

/// What is to be begun for a cluster.
enum Work {
    /// Finding its hosts.
    Find(Arc<ClusterShared>),
    /// Keeping its outliers.
    Guard(Arc<ClusterShared>),
    /// Checking its hosts.
    Check(Arc<ClusterShared>),
}

impl Discoverer {
    pub(crate) fn new() -> Self {
        let (queue, due) = mpsc::unbounded_channel();
        Self { queue, due: Mutex::new(Some(due)), cold: watch::Sender::new(0) }
    }

    /// Takes a new cluster in; nothing to do for one that has all its hosts.
    pub(crate) fn watch(&self, cluster: &Arc<ClusterShared>) {
        let names = Names::of(cluster).is_some();
        if names {
            self.cold.send_modify(|cold| *cold += 1);
        }
        if cluster.checks.is_some() {
            if waits_for_checks(cluster) {
                self.cold.send_modify(|cold| *cold += 1);
            }
            let _ = self.queue.send(Work::Check(cluster.clone()));
        }
        if names || matches!(cluster.config.discovery, Discovery::OriginalDst(_)) {
            let _ = self.queue.send(Work::Find(cluster.clone()));
        }
    }

    /// Begins to look after the health of the hosts of a cluster that is in force.
    pub(crate) fn guard(&self, cluster: &Arc<ClusterShared>) {
        if cluster.outlier.is_some() {
            let _ = self.queue.send(Work::Guard(cluster.clone()));
        }
    }

    /// How many clusters have not been resolved for the first time.
    pub(crate) fn cold(&self) -> usize {
        *self.cold.borrow()
    }

    pub(crate) async fn run(&self, manager: &ClusterManager) {
        let due = self.due.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A second runner has nothing to do.
        let Some(mut due) = due else { return std::future::pending().await };
        let resolvers = Arc::new(Resolvers::default());
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                cluster = due.recv() => match cluster {
                    Some(Work::Find(cluster)) => self.begin(&cluster, manager, &resolvers, &mut tasks),
                    Some(Work::Check(cluster)) => {
                        let (counted, manager_too) = (waits_for_checks(&cluster), manager.clone());
                        let cold = self.cold.clone();
                        let warm = move || {
                            if counted {
                                cold.send_modify(|cold| *cold = cold.saturating_sub(1));
                            }
                            manager_too.count_warming();
                        };
                        tasks.spawn_local(active::keep(Arc::downgrade(&cluster), manager.clone(), warm));
                    }
                    Some(Work::Guard(cluster)) => {
                        tasks.spawn(outlier::watch(Arc::downgrade(&cluster), manager.clone()));
                    }
                    None => return,
                },
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    fn begin(
        &self,
        cluster: &Arc<ClusterShared>,
        manager: &ClusterManager,
        resolvers: &Arc<Resolvers>,
        tasks: &mut JoinSet<()>,
    ) {
        if let Discovery::OriginalDst(settings) = &cluster.config.discovery {
            let (cluster, manager) = (Arc::downgrade(cluster), manager.clone());
            let interval = settings.cleanup_interval.max(std::time::Duration::from_millis(1));
            tasks.spawn(async move {
                loop {
                    tokio::time::sleep(interval).await;
                    let Some(cluster) = cluster.upgrade() else { return };
                    if cluster.forget_unused() {
                        manager.changed(&cluster);
                    }
                }
            });
        } else if let Some(names) = Names::of(cluster) {
            let (cold, manager_too) = (self.cold.clone(), manager.clone());
            let warmed = Arc::downgrade(cluster);
            names.start(manager, resolvers, tasks, move || {
                if let Some(cluster) = warmed.upgrade() {
                    cluster.hosts_found();
                    manager_too.changed(&cluster);
                }
                cold.send_modify(|cold| *cold = cold.saturating_sub(1));
                manager_too.count_warming();
            });
        }
    }

    pub(crate) async fn wait_warm(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.cold.subscribe().wait_for(|cold| *cold == 0).await;
    }
}

impl std::fmt::Debug for Discoverer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discoverer").finish_non_exhaustive()
    }
}

/// Whether the start waits for its first checks. Those of EDS wait for their endpoints first, which is not ours to see.
fn waits_for_checks(cluster: &ClusterShared) -> bool {
    !matches!(cluster.config.discovery, Discovery::Eds { .. })
}

/// The hosts that `config` names by address; `None` when they are yet to be found.
pub(crate) fn fixed_hosts(config: &model::Cluster) -> Result<Option<Vec<Host>>, ClusterError> {
    let (endpoints, dns) = match &config.discovery {
        Discovery::Static(endpoints) => (endpoints, false),
        Discovery::StrictDns { endpoints, .. } | Discovery::LogicalDns { endpoints, .. } => (endpoints, true),
        Discovery::OriginalDst(_) | Discovery::Eds { .. } => return Ok(None),
    };
    let mut hosts = Vec::new();
    for locality in &endpoints.localities {
        let shared = locality_of(locality);
        for endpoint in &locality.endpoints {
            let Some(address) = literal(&endpoint.address) else {
                if dns {
                    return Ok(None);
                }
                return Err(ClusterError::NameInStatic {
                    cluster: config.name.clone(),
                    address: endpoint.address.to_string(),
                });
            };
            hosts.push(host(endpoint, address, locality.priority, &shared, dns));
        }
    }
    Ok(Some(hosts))
}

/// The hosts of endpoints that EDS brought. Their addresses are literals: the conversion sees to that.
pub(crate) fn eds_hosts(endpoints: &Endpoints) -> Vec<Host> {
    let mut hosts = Vec::new();
    for locality in &endpoints.localities {
        let shared = locality_of(locality);
        let found = locality.endpoints.iter().filter_map(|endpoint| {
            Some(host(endpoint, literal(&endpoint.address)?, locality.priority, &shared, false))
        });
        hosts.extend(found);
    }
    hosts
}

/// What `config` says of the spread over its endpoints.
pub(crate) fn policy(config: &model::Cluster) -> EndpointPolicy {
    endpoints(config).map(|endpoints| endpoints.policy).unwrap_or_default()
}

pub(crate) const fn endpoints(config: &model::Cluster) -> Option<&Endpoints> {
    match &config.discovery {
        Discovery::Static(endpoints)
        | Discovery::StrictDns { endpoints, .. }
        | Discovery::LogicalDns { endpoints, .. } => Some(endpoints),
        Discovery::OriginalDst(_) | Discovery::Eds { .. } => None,
    }
}

fn locality_of(locality: &LocalityEndpoints) -> Arc<Locality> {
    // Most clusters of a file have none: they share it.
    static NOWHERE: LazyLock<Arc<Locality>> = LazyLock::new(Arc::default);

    let named = !(locality.region.is_empty() && locality.zone.is_empty() && locality.sub_zone.is_empty());
    if !named && locality.metadata.is_none() {
        return NOWHERE.clone();
    }
    Arc::new(Locality {
        region: locality.region.clone(),
        zone: locality.zone.clone(),
        sub_zone: locality.sub_zone.clone(),
        metadata: locality.metadata.clone(),
    })
}

/// The address, when it is one and not a name.
fn literal(address: &SocketAddress) -> Option<Address> {
    match address {
        SocketAddress::Ip(ip) => Some(Address::Ip(*ip)),
        SocketAddress::Pipe { path, .. } => Some(Address::Pipe(path.clone())),
        SocketAddress::Name { host, port } => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            bare.parse().ok().map(|ip| Address::Ip(std::net::SocketAddr::new(ip, *port)))
        }
    }
}

/// The host of `endpoint` at `address`. In DNS clusters the name resolved is the hostname, unless one is given.
fn host(endpoint: &Endpoint, address: Address, priority: u32, locality: &Arc<Locality>, dns: bool) -> Host {
    let hostname = match &endpoint.address {
        _ if !dns || !endpoint.hostname.is_empty() => endpoint.hostname.clone(),
        SocketAddress::Name { host, .. } => host.clone(),
        SocketAddress::Ip(ip) => ip.ip().to_string().into(),
        SocketAddress::Pipe { .. } => endpoint.hostname.clone(),
    };
    Host {
        metadata: endpoint.metadata.clone(),
        check: endpoint.check.clone(),
        ..Host::new(address, hostname, endpoint.weight, priority, locality.clone(), endpoint.health)
    }
}
