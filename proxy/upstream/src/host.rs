//! Hosts: what a request can be sent to.

pub(crate) mod flags;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use outrider_config::model::{
    EndpointCheck, EndpointHealth, EndpointPolicy, LbPolicy, MetadataValue, TRANSPORT_SOCKET_MATCH,
};
use outrider_core::Metadata;
use outrider_core::stream::Address;

use crate::lb::HashTable;
use crate::outlier::Conduct;
use crate::priority::PriorityLoad;
use flags::Flags;

type Namespace = BTreeMap<Arc<str>, MetadataValue>;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One host of a cluster, as its last update described it. Its `id` and its `state` survive updates:
/// pools, active counts and the like hang on those.
#[derive(Debug)]
pub struct Host {
    /// Its identity in the process; never used twice.
    pub id: u64,
    /// Where connections go.
    pub address: Address,
    /// Its hostname; empty for none.
    pub hostname: Arc<str>,
    /// Its weight, at least 1.
    pub weight: u32,
    /// 0 is used first.
    pub priority: u32,
    /// Its locality; shared by the hosts of one.
    pub locality: Arc<Locality>,
    /// What the configuration says of its health.
    pub health: EndpointHealth,
    /// Its metadata.
    pub metadata: Option<Arc<Metadata>>,
    /// How it is checked; `None` as its cluster says.
    pub check: Option<Arc<EndpointCheck>>,
    /// What changes while it is used.
    pub state: Arc<HostState>,
    /// What active health checks found out. Each cluster of its name has its own: one that warms must not speak for the one in
    /// force.
    pub(crate) checks: Arc<Flags>,
}

/// Region, zone and sub-zone.
#[derive(Debug, Default, PartialEq)]
pub struct Locality {
    /// `region`
    pub region: String,
    /// `zone`
    pub zone: String,
    /// `sub_zone`
    pub sub_zone: String,
    /// What is said of all its hosts.
    pub metadata: Option<Arc<Metadata>>,
}

/// What changes while a host is used. Written by all workers.
#[derive(Debug, Default)]
pub struct HostState {
    /// Connections open.
    pub cx_active: AtomicU32,
    /// Requests (or TCP sessions) under way.
    pub rq_active: AtomicU32,
    /// Requests that wait for a connection.
    pub rq_pending_active: AtomicU32,
    /// Connections ever begun.
    pub cx_total: AtomicU64,
    /// Connects that failed.
    pub cx_connect_fail: AtomicU64,
    /// Requests ever begun.
    pub rq_total: AtomicU64,
    /// Responses below 500.
    pub rq_success: AtomicU64,
    /// Responses of 500 and above, and resets.
    pub rq_error: AtomicU64,
    /// Requests that timed out.
    pub rq_timeout: AtomicU64,
    /// Used since the last clean-up (ORIGINAL_DST).
    pub(crate) used: AtomicBool,
    /// What outlier detection found out about its health.
    flags: Flags,
    /// What outlier detection knows of it; made when it first hears of it.
    pub(crate) conduct: OnceLock<Box<Conduct>>,
}

/// Whether a host is used, from all that is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// It is.
    Healthy,
    /// After the healthy ones.
    Degraded,
    /// Only in panic.
    Unhealthy,
}

impl HostState {
    /// Whether any of `flags` is set, of those that all clusters of its name share.
    pub(crate) fn has(&self, flags: u32) -> bool {
        self.flags.has(flags)
    }

    /// Sets `flags` or takes them away, as [`Flags::set`] does.
    pub(crate) fn set(&self, flags: u32, on: bool) -> bool {
        self.flags.set(flags, on)
    }
}

/// The hosts of a cluster at one moment. Immutable: a change publishes another.
#[derive(Debug, Default)]
pub struct HostSet {
    /// By priority, 0 first.
    pub priorities: Vec<PriorityHosts>,
    /// How the load is spread over the priorities.
    pub load: PriorityLoad,
    /// What the load's spread comes from, besides the hosts.
    pub policy: EndpointPolicy,
    /// By priority, what a policy that hashes draws from; empty for other policies.
    pub tables: Vec<HashTable>,
}

/// The hosts of one priority.
#[derive(Debug, Default)]
pub struct PriorityHosts {
    /// All of them, in the order given.
    pub hosts: Vec<Arc<Host>>,
    /// Those that are healthy; `None` when all are.
    pub healthy: Option<Vec<Arc<Host>>>,
    /// Those that are degraded.
    pub degraded: Vec<Arc<Host>>,
    /// Those that do not count, in number and in weight: how healthy the priority is comes from the others.
    pub excluded: (u32, u32),
}

impl Host {
    /// A new host with an identity of its own.
    pub fn new(
        address: Address,
        hostname: Arc<str>,
        weight: u32,
        priority: u32,
        locality: Arc<Locality>,
        health: EndpointHealth,
    ) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            address,
            hostname,
            weight: weight.max(1),
            priority,
            locality,
            health,
            metadata: None,
            check: None,
            state: Arc::default(),
            checks: Arc::default(),
        }
    }

    /// The same host with the identity and the state of `earlier`.
    #[must_use]
    pub fn succeeding(mut self, earlier: &Self) -> Self {
        self.id = earlier.id;
        self.state = earlier.state.clone();
        self.checks = earlier.checks.clone();
        self
    }

    /// The same host for another cluster of its name, for whose checks `known` of what was found out holds.
    #[must_use]
    pub(crate) fn for_checks(&self, known: u32) -> Self {
        Self {
            id: self.id,
            address: self.address.clone(),
            hostname: self.hostname.clone(),
            weight: self.weight,
            priority: self.priority,
            locality: self.locality.clone(),
            health: self.health,
            metadata: self.metadata.clone(),
            check: self.check.clone(),
            state: self.state.clone(),
            checks: Arc::new(Flags::of(&self.checks, known)),
        }
    }

    /// Whether any of `flags` is set.
    pub(crate) fn has(&self, flags: u32) -> bool {
        self.checks.has(flags) || self.state.has(flags)
    }

    /// Requests under way, over all workers.
    pub fn active_requests(&self) -> u32 {
        self.state.rq_active.load(Relaxed)
    }

    /// Counts the outcome of a request for `/clusters`: a status, or a reset (`None`).
    pub fn count_response(&self, status: Option<u16>) {
        match status {
            Some(status) if status < 500 => self.state.rq_success.fetch_add(1, Relaxed),
            _ => self.state.rq_error.fetch_add(1, Relaxed),
        };
    }

    /// Counts a request that timed out.
    pub fn count_timeout(&self) {
        self.state.rq_timeout.fetch_add(1, Relaxed);
    }

    /// Whether it is used, from all that is known of it. `heeds`: the [`flags`] that its cluster goes by.
    pub(crate) fn availability(&self, heeds: u32) -> Availability {
        match self.health {
            _ if self.has((flags::FAILED_ACTIVE | flags::FAILED_OUTLIER) & heeds) => Availability::Unhealthy,
            EndpointHealth::Unhealthy | EndpointHealth::Draining => Availability::Unhealthy,
            _ if self.has(flags::DEGRADED_ACTIVE & heeds) => Availability::Degraded,
            EndpointHealth::Degraded => Availability::Degraded,
            EndpointHealth::Healthy => Availability::Healthy,
        }
    }

    /// Whether active health checks ask it, where there are any.
    pub(crate) fn is_checked(&self) -> bool {
        self.check.as_ref().is_none_or(|check| !check.disabled)
    }

    /// Envoy's `health_flags`, as far as its cluster heeds them.
    pub(crate) fn health_flags(&self, heeds: u32) -> String {
        let mut text = String::new();
        let mut show = |is: bool, flag: &str| {
            if is {
                text.push_str(flag);
            }
        };
        let has = |flag| self.has(flag & heeds);
        show(has(flags::FAILED_ACTIVE), "/failed_active_hc");
        show(has(flags::FAILED_OUTLIER), "/failed_outlier_check");
        show(
            matches!(self.health, EndpointHealth::Unhealthy | EndpointHealth::Draining),
            "/failed_eds_health",
        );
        show(has(flags::DEGRADED_ACTIVE), "/degraded_active_hc");
        show(self.health == EndpointHealth::Degraded, "/degraded_eds_health");
        show(has(flags::PENDING_REMOVAL), "/pending_dynamic_removal");
        show(has(flags::PENDING_ACTIVE), "/pending_active_hc");
        show(has(flags::EXCLUDED), "/excluded_via_immediate_hc_fail");
        show(has(flags::ACTIVE_TIMEOUT), "/active_hc_timeout");
        if text.is_empty() { "healthy".to_owned() } else { text }
    }
}

impl PriorityHosts {
    /// The hosts that are healthy.
    pub fn healthy(&self) -> &[Arc<Host>] {
        self.healthy.as_deref().unwrap_or(&self.hosts)
    }

    fn new(hosts: Vec<Arc<Host>>, heeds: u32) -> Self {
        // Read once: it may change meanwhile.
        let found: Vec<_> = hosts.iter().map(|host| host.availability(heeds)).collect();
        let of = |wanted| {
            let hosts = hosts.iter().zip(&found).filter(|(_, is)| **is == wanted);
            hosts.map(|(host, _)| host.clone()).collect::<Vec<_>>()
        };
        let healthy = found.iter().any(|is| *is != Availability::Healthy).then(|| of(Availability::Healthy));
        let degraded = if healthy.is_some() { of(Availability::Degraded) } else { Vec::new() };
        let left_out = (flags::PENDING_ACTIVE | flags::EXCLUDED) & heeds;
        let excluded = hosts.iter().filter(|host| left_out != 0 && host.has(left_out));
        let excluded = excluded
            .fold((0, 0), |(n, weight): (u32, u32), host| (n + 1, weight.saturating_add(host.weight)));
        Self { hosts, healthy, degraded, excluded }
    }
}

impl HostSet {
    /// The set of `hosts`, whatever their order. `panic_threshold` is a percentage; `heeds` are the [`flags`] that count.
    pub(crate) fn new(
        hosts: Vec<Arc<Host>>,
        policy: EndpointPolicy,
        panic_threshold: f64,
        heeds: u32,
        lb: &LbPolicy,
    ) -> Self {
        let levels = hosts.iter().map(|host| host.priority as usize + 1).max().unwrap_or(1);
        let mut priorities: Vec<Vec<Arc<Host>>> = Vec::new();
        priorities.resize_with(levels, Vec::new);
        for host in hosts {
            if let Some(level) = priorities.get_mut(host.priority as usize) {
                level.push(host);
            }
        }
        let priorities: Vec<_> =
            priorities.into_iter().map(|hosts| PriorityHosts::new(hosts, heeds)).collect();
        let load = PriorityLoad::of(&priorities, policy, panic_threshold);
        // As Envoy's: over the healthy hosts, or all in panic; degraded ones are in none.
        let tables = priorities.iter().enumerate().map_while(|(priority, level)| {
            HashTable::build(lb, if load.in_panic(priority) { &level.hosts } else { level.healthy() })
        });
        Self { tables: tables.collect(), priorities, load, policy }
    }

    /// The host of a request with this hash: the first drawn that is none of `tried`, or else the last of `attempts` more.
    /// Also whether its priority is in panic.
    pub(crate) fn by_hash(&self, hash: u64, tried: &[u64], attempts: u32) -> (Option<&Arc<Host>>, bool) {
        let Some((priority, _)) = self.load.choose(|| hash) else { return (None, false) };
        let panic = self.load.in_panic(priority);
        let (Some(level), Some(table)) = (self.priorities.get(priority), self.tables.get(priority)) else {
            return (None, panic);
        };
        let hosts = if panic { &level.hosts } else { level.healthy() };
        let mut drawn = None;
        for attempt in 0..=if tried.is_empty() { 0 } else { attempts } {
            drawn = table.pick(hash, attempt).and_then(|index| hosts.get(index));
            if drawn.is_none_or(|host| !tried.contains(&host.id)) {
                break;
            }
        }
        (drawn, panic)
    }

    /// All hosts, by priority.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.priorities.iter().flat_map(|level| &level.hosts)
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.priorities.iter().map(|level| level.hosts.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives each of `hosts` the identity of the host of this set with the same address and hostname, unless other
    /// connections may be due to it now.
    pub fn adopt(&self, hosts: Vec<Host>) -> Vec<Arc<Host>> {
        let key = |host: &Host| (host.address.clone(), host.hostname.clone());
        let mut known: HashMap<(Address, Arc<str>), &Arc<Host>> =
            self.iter().map(|host| (key(host), host)).collect();
        hosts
            .into_iter()
            .map(|host| match known.remove(&key(&host)) {
                Some(earlier) if earlier.same(&host) => earlier.clone(),
                Some(earlier) if earlier.same_socket(&host) => Arc::new(host.succeeding(earlier)),
                Some(_) => Arc::new(host),
                None => Arc::new(host),
            })
            .collect()
    }
}

impl Host {
    /// Whether transport socket matches say the same of both.
    fn same_socket(&self, other: &Self) -> bool {
        fn read(metadata: &Option<Arc<Metadata>>) -> Option<&Namespace> {
            metadata.as_ref()?.namespaces.get(TRANSPORT_SOCKET_MATCH)
        }
        read(&self.metadata) == read(&other.metadata)
            && read(&self.locality.metadata) == read(&other.locality.metadata)
    }

    fn same(&self, other: &Self) -> bool {
        self.weight == other.weight
            && self.priority == other.priority
            && self.health == other.health
            && self.locality == other.locality
            && self.metadata == other.metadata
            && self.check == other.check
    }
}
