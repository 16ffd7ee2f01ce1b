//! Clusters as one worker sees them: balancers and pools.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use outrider_config::model::Discovery;
use outrider_core::rng::{self, Rng};
use outrider_core::stream::{Protocol, SourceAddress};
use outrider_net::tls::AlpnDefault;

use crate::breaker::{Overflow, RetryPermit};
use crate::cluster::{ClusterShared, ClusterSlot};
use crate::error::{PickError, PoolError};
use crate::host::{Host, HostSet};
use crate::lb::Balancer;
use crate::manager::ClusterManager;
use crate::parked::Idle;
use crate::pool::{Lease, Pools, TcpLease};
use crate::priority::Source;

/// What a pick depends on.
#[derive(Debug, Clone, Copy, Default)]
pub struct PickContext<'a> {
    /// The address that the client asked for: ORIGINAL_DST clusters go there.
    pub original_dst: Option<SocketAddr>,
    /// Ids of hosts that earlier attempts used (`previous_hosts`).
    pub tried: &'a [u64],
    /// How often to draw again when the drawn host was tried (`host_selection_retry_max_attempts`).
    pub attempts: u32,
    /// The request has high priority.
    pub priority_high: bool,
    /// What policies that hash draw by; `None` for at random.
    pub hash: Option<u64>,
}

/// What the choice of a pool depends on, besides the host.
#[derive(Debug, Clone, Copy, Default)]
pub struct AcquireContext<'a> {
    /// The downstream request's version, for `use_downstream_protocol_config`.
    pub downstream_protocol: Option<Protocol>,
    /// The request has high priority.
    pub high_priority: bool,
    /// The authority (or the override header's value), for `auto_sni`. Looked at only when that is on.
    pub sni_from: Option<&'a str>,
    /// What the connection is to come from, in place of what the cluster says: it is shared with requests alone that want the same.
    pub source: Option<SourceAddress>,
}

/// The clusters of one worker.
pub struct WorkerClusters {
    manager: ClusterManager,
    by_id: RefCell<Vec<Option<Rc<WorkerCluster>>>>,
}

/// One cluster on one worker.
pub struct WorkerCluster {
    /// What all workers share.
    pub shared: Arc<ClusterShared>,
    slot: Arc<ClusterSlot>,
    lb: RefCell<Balancers>,
    pools: Rc<Pools>,
    original_dst: RefCell<HashMap<SocketAddr, Arc<Host>>>,
    /// As [`ClusterShared::narrowed`] was when its pools were last looked at.
    narrowed: Cell<u64>,
}

/// Balancers by priority and source, made when first drawn from.
struct Balancers {
    hosts: Arc<HostSet>,
    by_source: Vec<[Option<Balancer>; 3]>,
}

impl WorkerClusters {
    /// The clusters of this worker. To be called on the worker, inside its runtime.
    pub fn new(manager: ClusterManager) -> Rc<Self> {
        let mut changes = manager.changes();
        let clusters = Rc::new(Self { manager, by_id: RefCell::default() });
        let weak = Rc::downgrade(&clusters);
        // Pools of hosts that left are drained even when the cluster is not used any more.
        tokio::task::spawn_local(async move {
            let mut seen = *changes.borrow_and_update();
            while changes.changed().await.is_ok() {
                let Some(clusters) = Weak::upgrade(&weak) else { return };
                let last = *changes.borrow_and_update();
                clusters.sweep(clusters.manager.changed_since(std::mem::replace(&mut seen, last)));
            }
        });
        clusters
    }

    /// The cluster in `slot` now; `None` when there is none.
    #[inline]
    pub fn get(&self, slot: &Arc<ClusterSlot>) -> Option<Rc<WorkerCluster>> {
        let current = slot.current.load();
        let current = current.as_ref()?;
        if let Some(Some(known)) = self.by_id.borrow().get(slot.id as usize)
            && Arc::ptr_eq(&known.shared, current)
        {
            return Some(known.clone());
        }
        Some(self.renew(slot, current.clone()))
    }

    /// The cluster of `name`; looks the name up under a lock: for `cluster_header` alone.
    pub fn by_name(&self, name: &str) -> Option<Rc<WorkerCluster>> {
        self.get(&self.manager.slot(name)?)
    }

    /// The place of the cluster named `name`, if a cluster or a reference made one; looks the name up under a lock, so that who asks
    /// keeps it.
    pub fn slot(&self, name: &str) -> Option<Arc<ClusterSlot>> {
        self.manager.slot(name)
    }

    /// Takes idle connections that can pass to another process out of all pools.
    pub fn lend_idle(&self) -> Vec<Idle> {
        let clusters: Vec<_> = self.by_id.borrow().iter().flatten().cloned().collect();
        clusters.iter().flat_map(|cluster| cluster.pools.lend_idle()).collect()
    }

    #[cold]
    fn renew(&self, slot: &Arc<ClusterSlot>, shared: Arc<ClusterShared>) -> Rc<WorkerCluster> {
        let mut by_id = self.by_id.borrow_mut();
        let index = slot.id as usize;
        if by_id.len() <= index {
            by_id.resize_with(index + 1, || None);
        }
        let earlier = by_id.get_mut(index).and_then(Option::take);
        let renewed = Rc::new(WorkerCluster::new(slot.clone(), shared, earlier.as_deref()));
        if let Some(place) = by_id.get_mut(index) {
            *place = Some(renewed.clone());
        }
        renewed
    }

    /// Looks at the clusters of `slots`, or at all, as far as they are known here.
    fn sweep(&self, slots: Option<Vec<u32>>) {
        let known: Vec<_> = {
            let by_id = self.by_id.borrow();
            match slots {
                Some(slots) => {
                    let known = slots.iter().filter_map(|slot| by_id.get(*slot as usize)?.clone());
                    known.collect()
                }
                None => by_id.iter().flatten().cloned().collect(),
            }
        };
        for cluster in known {
            let slot = &cluster.slot;
            match self.get(slot) {
                Some(cluster) => cluster.refresh(),
                None => {
                    cluster.pools.drain_all();
                    if let Some(place) = self.by_id.borrow_mut().get_mut(slot.id as usize) {
                        *place = None;
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for WorkerClusters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerClusters").finish_non_exhaustive()
    }
}

impl WorkerCluster {
    fn new(slot: Arc<ClusterSlot>, shared: Arc<ClusterShared>, earlier: Option<&Self>) -> Self {
        let narrowed = shared.narrowed();
        let pools = match earlier {
            Some(earlier) if earlier.shared.same_connections(&shared) => {
                // What the secrets took away before it was replaced.
                earlier.drop_narrowed();
                earlier.pools.adopt(&shared);
                earlier.pools.clone()
            }
            Some(earlier) => {
                earlier.pools.drain_all();
                Pools::new(shared.clone())
            }
            None => Pools::new(shared.clone()),
        };
        let hosts = shared.hosts.load_full();
        pools.keep_only(&hosts);
        Self {
            slot,
            shared,
            lb: RefCell::new(Balancers { hosts, by_source: Vec::new() }),
            pools,
            original_dst: RefCell::default(),
            narrowed: Cell::new(narrowed),
        }
    }

    /// Drains the pools whose servers may not be believed any more.
    fn drop_narrowed(&self) {
        let narrowed = self.shared.narrowed();
        if self.narrowed.replace(narrowed) != narrowed {
            self.shared.closed_by_update(self.pools.open());
            self.pools.drain_all();
        }
    }

    /// Picks the host for a request or a connection.
    ///
    /// # Errors
    /// There is no usable host (counted as `upstream_cx_none_healthy`), or no original destination.
    pub fn pick(&self, context: &PickContext<'_>) -> Result<Arc<Host>, PickError> {
        self.refresh();
        if let Discovery::OriginalDst(settings) = &self.shared.config.discovery {
            let mut address = context.original_dst.ok_or(PickError::NoOriginalDst)?;
            if let Some(port) = settings.port_override {
                address.set_port(port);
            }
            return self.pick_original(address);
        }
        let picked = rng::with(|rng| {
            let mut lb = self.lb.borrow_mut();
            if !lb.hosts.tables.is_empty() {
                let hash = context.hash.unwrap_or_else(|| rng.next_u64());
                let (picked, panic) = lb.hosts.by_hash(hash, context.tried, context.attempts);
                if panic {
                    self.shared.stats().lb_healthy_panic().inc();
                }
                return picked.cloned();
            }
            let mut picked = lb.pick(&self.shared, rng);
            if !context.tried.is_empty() {
                for _ in 0..context.attempts {
                    match &picked {
                        Some(host) if context.tried.contains(&host.id) => {
                            picked = lb.pick(&self.shared, rng);
                        }
                        _ => break,
                    }
                }
            }
            picked
        });
        picked.ok_or_else(|| {
            self.shared.stats().upstream_cx_none_healthy().inc();
            PickError::NoHealthyHost
        })
    }

    fn pick_original(&self, address: SocketAddr) -> Result<Arc<Host>, PickError> {
        use std::sync::atomic::Ordering::Relaxed;

        if let Some(host) = self.original_dst.borrow().get(&address) {
            host.state.used.store(true, Relaxed);
            return Ok(host.clone());
        }
        let host = self.shared.original_dst_host(address).ok_or(PickError::NoHealthyHost)?;
        self.original_dst.borrow_mut().insert(address, host.clone());
        Ok(host)
    }

    /// A connection to `host` for one HTTP request: an idle one, a stream of a shared one, or a new one.
    /// Takes the request's place in the `max_requests` breaker, and holds it as long as the lease lives.
    ///
    /// # Errors
    /// A breaker is open, or connecting failed.
    pub async fn acquire(&self, host: &Arc<Host>, context: &AcquireContext<'_>) -> Result<Lease, PoolError> {
        let pool = self.pools.of(host, context);
        pool.acquire().await
    }

    /// A connection to `host` for one TCP session, from `source` if there is one.
    ///
    /// # Errors
    /// A breaker is open, or connecting failed.
    pub async fn tcp_connect(
        &self,
        host: &Arc<Host>,
        source: Option<SourceAddress>,
    ) -> Result<TcpLease, PoolError> {
        crate::pool::tcp::connect(&self.shared, host, source, AlpnDefault::None).await
    }

    /// A connection to `host` that somebody else speaks HTTP/2 on.
    ///
    /// # Errors
    /// A breaker is open, or connecting failed.
    pub async fn http2_connect(&self, host: &Arc<Host>) -> Result<TcpLease, PoolError> {
        crate::pool::tcp::connect(&self.shared, host, None, AlpnDefault::Http2).await
    }

    /// The address that the header of an ORIGINAL_DST cluster with `use_http_header` names. One that is no
    /// address is counted as `original_dst_host_invalid`.
    pub fn original_dst_of(&self, headers: &http::HeaderMap) -> Option<SocketAddr> {
        let Discovery::OriginalDst(settings) = &self.shared.config.discovery else { return None };
        let value = headers.get(settings.http_header.as_ref()?)?;
        let address = value.to_str().ok().and_then(|value| value.parse().ok());
        if address.is_none() {
            self.shared.stats().original_dst_host_invalid().inc();
        }
        address
    }

    /// The right to make one more retry; given back when dropped.
    ///
    /// # Errors
    /// `max_retries` or the retry budget is used up.
    pub fn retry_permit(&self, high_priority: bool) -> Result<RetryPermit, Overflow> {
        RetryPermit::take(&self.shared, high_priority)
    }

    /// Notices that the hosts changed, or that fewer of them are to be believed.
    fn refresh(&self) {
        self.drop_narrowed();
        let current = self.shared.hosts.load();
        let mut lb = self.lb.borrow_mut();
        if !Arc::ptr_eq(&lb.hosts, &current) {
            lb.renew(current.clone(), &self.shared);
            drop(lb);
            self.original_dst.borrow_mut().clear();
            self.pools.keep_only(&current);
        }
    }
}

impl std::fmt::Debug for WorkerCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerCluster").field("name", &self.shared.config.name).finish_non_exhaustive()
    }
}

impl Balancers {
    /// Takes new hosts on; turns go on where they stand.
    fn renew(&mut self, hosts: Arc<HostSet>, shared: &ClusterShared) {
        let sources = [Source::Healthy, Source::Degraded, Source::All];
        let mut by_source = std::mem::take(&mut self.by_source);
        for (priority, balancers) in by_source.iter_mut().enumerate() {
            for (balancer, source) in balancers.iter_mut().zip(sources) {
                let position = balancer.as_ref().and_then(Balancer::position);
                *balancer = position.map(|position| {
                    Balancer::new(&shared.config.lb, list(&hosts, priority, source), position)
                });
            }
        }
        self.hosts = hosts;
        self.by_source = by_source;
    }

    fn pick(&mut self, shared: &ClusterShared, rng: &impl Rng) -> Option<Arc<Host>> {
        let (priority, source) = self.hosts.load.choose(|| rng.below(100))?;
        if source == Source::All {
            if shared.config.fail_traffic_on_panic {
                return None;
            }
            shared.stats().lb_healthy_panic().inc();
        }
        let hosts = list(&self.hosts, priority, source);
        if self.by_source.len() <= priority {
            self.by_source.resize_with(priority + 1, Default::default);
        }
        let slot = self.by_source.get_mut(priority)?.get_mut(source as usize)?;
        let balancer = slot.get_or_insert_with(|| {
            Balancer::new(&shared.config.lb, hosts, rng.below(u64::from(u32::MAX)) as usize)
        });
        balancer.pick(hosts, rng).cloned()
    }
}

fn list(hosts: &HostSet, priority: usize, source: Source) -> &[Arc<Host>] {
    let Some(level) = hosts.priorities.get(priority) else { return &[] };
    match source {
        Source::Healthy => level.healthy(),
        Source::Degraded => &level.degraded,
        Source::All => &level.hosts,
    }
}
