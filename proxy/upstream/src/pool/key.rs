//! Which pool a request uses: by host, protocol, priority, and SNI where that follows the request.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::model::UpstreamProtocol;
use outrider_core::stream::{Protocol, SourceAddress};

use super::{Pool, Version};
use crate::cluster::ClusterShared;
use crate::host::{Host, HostSet};
use crate::parked::Idle;
use crate::worker::AcquireContext;

/// What pools of one host differ in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PoolKey {
    pub(super) protocol: PoolProtocol,
    pub(super) high: bool,
    /// The authority's name, where TLS sends or verifies it.
    pub(super) name: Option<Rc<str>>,
    /// What connections come from, where that follows the client.
    pub(super) source: Option<SourceAddress>,
}

/// With how many pools of clients' own addresses those without any connection are first looked for.
const SWEEP: usize = 64;

/// What a pool's connections speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PoolProtocol {
    Http1,
    Http2,
    /// What ALPN agrees on.
    Auto,
}

/// Pools by host and by the address that their connections come from.
type BySource = HashMap<(u64, SourceAddress), Vec<Rc<Pool>>>;

/// All pools of a cluster on one worker.
#[derive(Debug)]
pub(crate) struct Pools {
    cluster: RefCell<Version>,
    by_host: RefCell<HashMap<u64, Vec<Rc<Pool>>, BuildHasherDefault<IdHasher>>>,
    // Those whose connections come from a client's address. There are as many as clients: spent ones are swept.
    by_source: RefCell<BySource>,
    // With so many the next sweep is due.
    sweep_at: Cell<usize>,
    // Draining ones, kept until their last connection ends.
    leaving: RefCell<Vec<Rc<Pool>>>,
}

/// Host ids are counted up: they need no mixing beyond one multiplication.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Pools {
    pub(crate) fn new(cluster: Arc<ClusterShared>) -> Rc<Self> {
        Rc::new(Self {
            cluster: RefCell::new(Rc::new(cluster)),
            by_host: RefCell::default(),
            by_source: RefCell::default(),
            sweep_at: Cell::new(SWEEP),
            leaving: RefCell::default(),
        })
    }

    /// The pool for a request to `host`.
    pub(crate) fn of(&self, host: &Arc<Host>, context: &AcquireContext<'_>) -> Rc<Pool> {
        let cluster = self.cluster.borrow();
        let http = &cluster.config.http;
        let by_name = http.auto_sni || http.auto_san_validation;
        // Only asked where it matters: which socket a host has can take a look at its metadata.
        let tls = (by_name || http.protocol == UpstreamProtocol::Auto) && cluster.tls_for(host).is_some();
        let protocol = protocol_of(http.protocol, context.downstream_protocol, tls);
        // The one thing of the request that a pool may depend on, and only when configured so.
        let name = if by_name && tls {
            context.sni_from.map(without_port).filter(|name| !name.is_empty())
        } else {
            None
        };
        let known = |pools: Option<&Vec<Rc<Pool>>>| {
            let pool = pools?.iter().find(|pool| pool.key.is(protocol, context.high_priority, name))?;
            pool.renew_host(host);
            Some(pool.clone())
        };
        let found = match context.source {
            None => known(self.by_host.borrow().get(&host.id)),
            Some(source) => known(self.by_source.borrow().get(&(host.id, source))),
        };
        if let Some(pool) = found {
            return pool;
        }
        let source = context.source;
        let key = PoolKey { protocol, high: context.high_priority, name: name.map(Rc::from), source };
        let pool = Rc::new(Pool::new(key, cluster.clone(), host.clone()));
        match source {
            None => self.by_host.borrow_mut().entry(host.id).or_default().push(pool.clone()),
            Some(source) => {
                self.sweep_sources();
                self.by_source.borrow_mut().entry((host.id, source)).or_default().push(pool.clone());
            }
        }
        pool
    }

    /// Forgets pools of clients' addresses that nothing is left of, once there are twice as many as after the last time.
    fn sweep_sources(&self) {
        let mut by_source = self.by_source.borrow_mut();
        if by_source.len() < self.sweep_at.get() {
            return;
        }
        by_source.retain(|_, pools| {
            pools.retain(|pool| !pool.is_spent());
            !pools.is_empty()
        });
        self.sweep_at.set(SWEEP.max(by_source.len().saturating_mul(2)));
    }

    /// Goes on under a new version of the cluster.
    pub(crate) fn adopt(&self, cluster: &Arc<ClusterShared>) {
        let version = Rc::new(cluster.clone());
        self.cluster.borrow_mut().clone_from(&version);
        let (by_host, by_source) = (self.by_host.borrow(), self.by_source.borrow());
        for pool in by_host.values().chain(by_source.values()).flatten() {
            pool.cluster.borrow_mut().clone_from(&version);
        }
    }

    /// Drains the pools of hosts that are not in `hosts`.
    pub(crate) fn keep_only(&self, hosts: &HostSet) {
        if self.by_host.borrow().is_empty() && self.by_source.borrow().is_empty() {
            return;
        }
        let ids: HashSet<u64> = hosts.iter().map(|host| host.id).collect();
        self.drain_where(|id| !ids.contains(&id));
    }

    /// How many connections are open in pools that are not drained yet.
    pub(crate) fn open(&self) -> u64 {
        let (by_host, by_source) = (self.by_host.borrow(), self.by_source.borrow());
        by_host.values().chain(by_source.values()).flatten().map(|pool| pool.open()).sum()
    }

    /// Takes idle connections that can pass to another process out of the pools.
    pub(crate) fn lend_idle(&self) -> Vec<Idle> {
        let pools: Vec<_> = self.by_host.borrow().values().flatten().cloned().collect();
        pools.iter().flat_map(|pool| pool.lend_idle()).collect()
    }

    /// Drains all pools.
    pub(crate) fn drain_all(&self) {
        self.drain_where(|_| true);
    }

    fn drain_where(&self, gone: impl Fn(u64) -> bool) {
        let mut drained = Vec::new();
        self.by_host.borrow_mut().retain(|id, pools| {
            if gone(*id) {
                drained.append(pools);
                return false;
            }
            true
        });
        self.by_source.borrow_mut().retain(|(id, _), pools| {
            if gone(*id) {
                drained.append(pools);
                return false;
            }
            true
        });
        for pool in &drained {
            pool.drain();
        }
        let mut leaving = self.leaving.borrow_mut();
        leaving.append(&mut drained);
        leaving.retain(|pool| !pool.is_spent());
    }
}

impl PoolKey {
    fn is(&self, protocol: PoolProtocol, high: bool, name: Option<&str>) -> bool {
        self.protocol == protocol && self.high == high && self.name.as_deref() == name
    }
}

impl Pool {
    fn new(key: PoolKey, cluster: Version, host: Arc<Host>) -> Self {
        Self {
            key,
            cluster: RefCell::new(cluster),
            state: host.state.clone(),
            host: RefCell::new(host),
            idle: RefCell::default(),
            shared: RefCell::default(),
            pending: RefCell::default(),
            connecting: Cell::new(0),
            connections: Cell::new(0),
            last_protocol: Cell::new(None),
            draining: Cell::new(false),
            sweeping: Cell::new(false),
        }
    }

    /// New connections go where the latest version of the host says.
    fn renew_host(&self, host: &Arc<Host>) {
        if !Arc::ptr_eq(&self.host.borrow(), host) {
            self.host.borrow_mut().clone_from(host);
        }
    }
}

fn protocol_of(config: UpstreamProtocol, downstream: Option<Protocol>, tls: bool) -> PoolProtocol {
    match config {
        UpstreamProtocol::Http1 => PoolProtocol::Http1,
        UpstreamProtocol::Http2 => PoolProtocol::Http2,
        UpstreamProtocol::UseDownstream => match downstream {
            Some(Protocol::Http2) => PoolProtocol::Http2,
            _ => PoolProtocol::Http1,
        },
        // Without TLS there is no ALPN to agree by.
        UpstreamProtocol::Auto if tls => PoolProtocol::Auto,
        UpstreamProtocol::Auto => PoolProtocol::Http1,
    }
}

/// The name of an authority without its port, and without the brackets of an IPv6 address.
fn without_port(authority: &str) -> &str {
    if let Some((address, _)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => authority,
    }
}
