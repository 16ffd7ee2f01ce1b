//! Clusters as all threads see them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use outrider_config::model::{
    self, CircuitBreaker, Discovery, DynamicSecret, EndpointPolicy, FindSecret, Runtime, UpstreamProtocol,
};
use outrider_core::Metadata;
use outrider_core::stats::{Counter, Registry, Scope, StatSlot};
use outrider_core::stream::Address;
use outrider_net::tls::{AlpnDefault, ClientTls};

use crate::active::Checks;
use crate::breaker::{self, Breakers};
use crate::error::ClusterError;
use crate::host::{Host, HostSet};
use crate::outlier::Detector;
use crate::stats::ClusterStats;

/// The place of a cluster's name: what routes hold on to. The cluster in it comes, changes and goes.
#[derive(Debug)]
pub struct ClusterSlot {
    /// Its number; workers index by it.
    pub id: u32,
    /// The cluster's name.
    pub name: Arc<str>,
    /// The cluster, when there is one.
    pub current: ArcSwapOption<ClusterShared>,
}

/// The hosts of an ORIGINAL_DST cluster.
pub(crate) type Destinations = Mutex<HashMap<SocketAddr, Arc<Host>>>;

/// A cluster: what all workers share of it.
pub struct ClusterShared {
    /// As configured.
    pub config: Arc<model::Cluster>,
    /// Its hosts now.
    pub hosts: ArcSwap<HostSet>,
    /// TLS to hosts that none of `tls_matches` is for; `None` for plain.
    tls: Option<ArcSwap<ClientTls>>,
    /// As in `config.tls_matches`.
    tls_matches: Vec<Option<ArcSwap<ClientTls>>>,
    pub(crate) registry: Registry,
    runtime: Runtime,
    // Made on first use: most clusters of a mesh's sidecar are never used.
    stats: OnceLock<Box<ClusterStats>>,
    breakers: OnceLock<Box<Breakers>>,
    pub(crate) original_dst: Option<Box<Destinations>>,
    /// Its outlier detection, where it has one.
    pub(crate) outlier: Option<Arc<Detector>>,
    /// Its active health checks, where it has any.
    pub(crate) checks: Option<Arc<Checks>>,
    /// Its hosts have been found, checked or not.
    pub(crate) found: AtomicBool,
    /// The share of requests to drop: an `f64`'s bits.
    pub(crate) drop_overload: AtomicU64,
    /// How many were dropped so.
    dropped: AtomicU64,
    /// The slot that it is made for.
    pub(crate) slot: AtomicU32,
    /// Its hosts have been found, or will not be for now.
    pub(crate) warm: AtomicBool,
    /// A control plane sent it.
    pub(crate) via_api: AtomicBool,
    /// Another took its place, or none.
    pub(crate) retired: AtomicBool,
    narrowed: AtomicU64,
}

impl ClusterShared {
    /// The cluster of `config`, without hosts. Reads its TLS files; `secrets` finds those that come from elsewhere.
    ///
    /// # Errors
    /// Its TLS context cannot be built.
    pub fn build(
        config: Arc<model::Cluster>,
        registry: &Registry,
        runtime: &Runtime,
        secrets: FindSecret<'_>,
    ) -> Result<Self, ClusterError> {
        let build = |tls: &Option<Arc<model::UpstreamTls>>| match tls {
            None => Ok(None),
            Some(tls) => {
                let scope = registry.scope(scope_of(&config));
                build_tls(&config, tls, secrets, &scope).map(|tls| Some(ArcSwap::new(tls)))
            }
        };
        let tls = build(&config.tls)?;
        let tls_matches = config.tls_matches.iter().map(|one| build(&one.tls)).collect::<Result<_, _>>()?;
        let original_dst = matches!(config.discovery, Discovery::OriginalDst(_)).then(Box::default);
        let tracked = config.breaker_default.track_remaining || config.breaker_high.track_remaining;
        let outlier = config
            .outlier
            .as_deref()
            .map(|outlier| Arc::new(Detector::new(outlier.clone(), &registry.scope(scope_of(&config)))));
        let checks = config
            .checks
            .as_deref()
            .map(|checks| Arc::new(Checks::new(checks.clone(), &registry.scope(scope_of(&config)))));
        let cluster = Self {
            config,
            hosts: ArcSwap::default(),
            tls,
            tls_matches,
            registry: registry.clone(),
            runtime: runtime.clone(),
            stats: OnceLock::new(),
            breakers: OnceLock::new(),
            original_dst,
            outlier,
            checks,
            found: AtomicBool::new(false),
            drop_overload: AtomicU64::default(),
            dropped: AtomicU64::default(),
            slot: AtomicU32::new(u32::MAX),
            warm: AtomicBool::new(false),
            via_api: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            narrowed: AtomicU64::default(),
        };
        if tracked {
            // What remains is shown from the start.
            cluster.breakers();
        }
        Ok(cluster)
    }

    /// How often it was told to believe fewer servers than before: pools of earlier times are drained.
    pub(crate) fn narrowed(&self) -> u64 {
        self.narrowed.load(Acquire)
    }

    /// Counts connections that an update closes.
    pub(crate) fn closed_by_update(&self, connections: u64) {
        let scope = self.registry.scope(format!("{}outrider.closed_by_update.", scope_of(&self.config)));
        Counter::new(&scope, &StatSlot::new(), "server_certificate").add(connections);
    }

    /// Builds its TLS context anew if `changed` is part of it: connections from now on use it. Those that are open stay, but
    /// where it may refuse servers that the one before believed: there they finish what they do, and close.
    ///
    /// # Errors
    /// One cannot be built with it: that in force stays. The others are renewed all the same.
    pub fn renew_tls(&self, changed: &DynamicSecret, secrets: FindSecret<'_>) -> Result<(), ClusterError> {
        let mut renewed = Ok(());
        let matches = self.config.tls_matches.iter().map(|one| &one.tls).zip(&self.tls_matches);
        for (config, tls) in std::iter::once((&self.config.tls, &self.tls)).chain(matches) {
            let (Some(config), Some(tls)) = (config, tls) else { continue };
            if config.dynamic_secrets().iter().any(|secret| ***secret == *changed) {
                let scope = self.registry.scope(scope_of(&self.config));
                match build_tls(&self.config, config, secrets, &scope) {
                    Ok(built) => {
                        let before = tls.swap(built.clone());
                        if built.narrows(&before) {
                            self.narrowed.fetch_add(1, Release);
                        }
                    }
                    Err(error) => renewed = Err(error),
                }
            }
        }
        renewed
    }

    /// The TLS contexts in force.
    pub fn tls_contexts(&self) -> impl Iterator<Item = Arc<ClientTls>> {
        let all = self.tls.iter().chain(self.tls_matches.iter().flatten());
        all.map(|tls| tls.load_full())
    }

    /// TLS to `host`, with its configuration; `None` for plain. The first of `transport_socket_matches` that the metadata of
    /// the host has, else the first that its locality's has, else the cluster's own.
    pub(crate) fn tls_for(&self, host: &Host) -> Option<(&ArcSwap<ClientTls>, &Arc<model::UpstreamTls>)> {
        let matches = &self.config.tls_matches;
        let found = if matches.is_empty() {
            None
        } else {
            let of = |metadata: Option<&Metadata>| {
                matches.iter().position(|one| match metadata {
                    Some(metadata) => metadata.has(model::TRANSPORT_SOCKET_MATCH, &one.criteria),
                    None => one.criteria.is_empty(),
                })
            };
            of(host.metadata.as_deref()).or_else(|| of(host.locality.metadata.as_deref()))
        };
        let (tls, config) = match found {
            None => (&self.tls, &self.config.tls),
            Some(at) => (self.tls_matches.get(at)?, &matches.get(at)?.tls),
        };
        Some((tls.as_ref()?, config.as_ref()?))
    }

    /// Whether its hosts have been found, or will not be for now: before that it is not used.
    pub fn is_warm(&self) -> bool {
        self.warm.load(Relaxed)
    }

    /// Notes that a control plane sent it, for `/clusters`.
    pub fn sent_by_api(&self) {
        self.via_api.store(true, Relaxed);
    }

    /// Its stats.
    #[inline]
    pub fn stats(&self) -> &ClusterStats {
        self.stats.get_or_init(|| Box::new(ClusterStats::new(self.registry.scope(scope_of(&self.config)))))
    }

    /// Its circuit breakers.
    #[inline]
    pub fn breakers(&self) -> &Breakers {
        self.breakers.get_or_init(|| {
            let scope = self.registry.scope(scope_of(&self.config));
            let breakers = Breakers::new(self.limits(false), self.limits(true), &scope);
            Box::new(breakers.following(&self.runtime, &self.config.name))
        })
    }

    /// The limits of its circuit breakers: the configuration's with the runtime's word over them.
    pub fn limits(&self, high: bool) -> CircuitBreaker {
        let config = if high { self.config.breaker_high } else { self.config.breaker_default };
        breaker::overridden(config, &self.config.name, high, &self.runtime.values())
    }

    /// Requests that circuit breakers did not let through, ever. Takes a lock: not for every request.
    pub fn dropped_requests(&self) -> u64 {
        let scope = scope_of(&self.config);
        let counter = |name: &str| self.registry.counter(&format!("{scope}{name}"));
        counter("upstream_rq_pending_overflow") + counter("upstream_rq_active_overflow")
    }

    /// Takes over what the runtime says now.
    pub(crate) fn runtime_changed(&self) {
        if let Some(breakers) = self.breakers.get() {
            breakers.default.set_limits(self.limits(false));
            breakers.high.set_limits(self.limits(true));
        }
    }

    /// The registry that its stats are in.
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The share of requests that are answered 503 instead of being sent (`drop_overloads`), from 0 to 1.
    #[inline]
    pub fn drop_overload(&self) -> f64 {
        f64::from_bits(self.drop_overload.load(Relaxed))
    }

    /// Counts a request that was dropped so, for load reports.
    pub fn count_dropped(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    /// How many requests were dropped since it came.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Another takes its place, or none: nothing is done for it any more.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
        if let Some(outlier) = &self.outlier {
            outlier.count_none();
            outlier.rouse();
        }
        if let Some(checks) = &self.checks {
            checks.count(&[]);
            checks.news.notify_one();
        }
    }

    /// The host of an ORIGINAL_DST cluster for `address`, made if there is none.
    pub(crate) fn original_dst_host(&self, address: SocketAddr) -> Option<Arc<Host>> {
        let mut known = self.original_dst.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = known.get(&address) {
            host.state.used.store(true, Relaxed);
            return Some(host.clone());
        }
        let name: Arc<str> = address.to_string().into();
        let host =
            Host::new(Address::Ip(address), name, 1, 0, Arc::default(), model::EndpointHealth::Healthy);
        host.state.used.store(true, Relaxed);
        let host = Arc::new(host);
        known.insert(address, host.clone());
        let hosts = known.values().cloned().collect();
        self.publish_set(hosts, EndpointPolicy::default());
        Some(host)
    }

    /// Forgets the hosts of an ORIGINAL_DST cluster that were not used since the last call. Returns whether any.
    pub(crate) fn forget_unused(&self) -> bool {
        let Some(known) = &self.original_dst else { return false };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.len();
        known.retain(|_, host| {
            let busy = host.state.cx_active.load(Relaxed) > 0 && host.state.rq_active.load(Relaxed) > 0;
            host.state.used.swap(false, Relaxed) || busy
        });
        if known.len() == before {
            return false;
        }
        let hosts = known.values().cloned().collect();
        self.publish_set(hosts, EndpointPolicy::default());
        true
    }

    /// Whether connections of `self` serve just as well for `other`: nothing that shapes one differs.
    pub fn same_connections(&self, other: &Self) -> bool {
        let (a, b) = (&self.config, &other.config);
        let same = |a: &Option<Arc<model::UpstreamTls>>, b: &Option<_>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        let tls = same(&a.tls, &b.tls)
            && a.tls_matches.len() == b.tls_matches.len()
            && a.tls_matches
                .iter()
                .zip(&b.tls_matches)
                .all(|(a, b)| a.criteria == b.criteria && same(&a.tls, &b.tls));
        tls && a.http.protocol == b.http.protocol
            && a.http.http1 == b.http.http1
            && a.http.http2 == b.http.http2
            && a.http.auto_sni == b.http.auto_sni
            && a.http.auto_san_validation == b.http.auto_san_validation
            && a.http.max_headers_count == b.http.max_headers_count
            && a.bind == b.bind
            && a.bind_other == b.bind_other
            && a.socket_options == b.socket_options
            && a.keepalive == b.keepalive
    }
}

impl std::fmt::Debug for ClusterShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterShared").field("name", &self.config.name).finish_non_exhaustive()
    }
}

fn build_tls(
    config: &model::Cluster,
    tls: &Arc<model::UpstreamTls>,
    secrets: FindSecret<'_>,
    scope: &Scope,
) -> Result<Arc<ClientTls>, ClusterError> {
    let built = tls
        .resolve(secrets)
        .map_err(outrider_net::tls::TlsError::from)
        .and_then(|tls| ClientTls::build(&tls, alpn_of(config), scope));
    if built.is_ok() && !tls.dynamic_secrets().is_empty() {
        let scope = scope.child("client_ssl_socket_factory.");
        Counter::new(&scope, &StatSlot::new(), "ssl_context_update_by_sds").inc();
    }
    built.map_err(|error| ClusterError::Tls { cluster: config.name.clone(), error: Box::new(error) })
}

pub(crate) fn scope_of(config: &model::Cluster) -> String {
    format!("cluster.{}.", config.stat_name)
}

/// What is offered when the context lists nothing: the pools' protocols, as in Envoy.
const fn alpn_of(config: &model::Cluster) -> AlpnDefault {
    match config.http.protocol {
        UpstreamProtocol::Auto => AlpnDefault::Auto,
        UpstreamProtocol::Http2 => AlpnDefault::Http2,
        UpstreamProtocol::Http1 | UpstreamProtocol::UseDownstream => AlpnDefault::Http1,
    }
}
