//! DNS discovery: STRICT_DNS and LOGICAL_DNS, as Envoy's "Service discovery" describes them.
//!
//! Each name is resolved by a task of its own on the control runtime, again and again. Answers of all names
//! of a cluster are put together and published. What fails leaves the earlier answer in place.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrider_config::model::{BackOff, Discovery, DnsSettings, Endpoint, SocketAddress};
use outrider_core::rng::{self, Rng};
use outrider_core::stream::Address;
use tokio::task::JoinSet;

use super::resolver::{Answer, Resolvers};
use super::{literal, locality_of};
use crate::cluster::ClusterShared;
use crate::host::{Host, Locality};
use crate::manager::ClusterManager;

/// The names of a cluster and what they resolved to last.
pub(super) struct Names {
    cluster: Arc<ClusterShared>,
    settings: DnsSettings,
    logical: bool,
    targets: Vec<Target>,
    found: Mutex<Vec<Vec<IpAddr>>>,
    // Targets that have not been tried yet.
    untried: AtomicUsize,
}

struct Target {
    endpoint: Endpoint,
    priority: u32,
    locality: Arc<Locality>,
}

/// When a name is resolved next, whatever the clock: exponential back-off on failure.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    failures: u32,
}

impl Schedule {
    /// How long to wait after `outcome`: the smallest TTL of an answer, `None` for a failure.
    pub(super) fn next(&mut self, settings: &DnsSettings, outcome: Option<u32>, rng: &impl Rng) -> Duration {
        let Some(ttl) = outcome else { return self.after_failure(settings, rng) };
        self.failures = 0;
        let rate = match ttl {
            ttl if settings.respect_ttl && ttl > 0 => Duration::from_secs(ttl.into()),
            _ => settings.refresh_rate,
        };
        rate + below(settings.jitter, rng)
    }

    fn after_failure(&mut self, settings: &DnsSettings, rng: &impl Rng) -> Duration {
        let Some(BackOff { base, max }) = settings.failure_refresh else { return settings.refresh_rate };
        let longest = base.saturating_mul(1 << self.failures.min(20)).min(max);
        self.failures = self.failures.saturating_add(1);
        // Fully jittered, but never a busy loop.
        below(longest, rng).max(Duration::from_millis(1))
    }
}

impl Names {
    /// The names of `cluster`; `None` when it has nothing to resolve.
    pub(super) fn of(cluster: &Arc<ClusterShared>) -> Option<Arc<Self>> {
        let (endpoints, settings, logical) = match &cluster.config.discovery {
            Discovery::StrictDns { endpoints, dns } => (endpoints, dns, false),
            Discovery::LogicalDns { endpoints, dns } => (endpoints, dns, true),
            Discovery::Static(_) | Discovery::OriginalDst(_) | Discovery::Eds { .. } => return None,
        };
        let mut targets = Vec::new();
        for group in &endpoints.localities {
            let locality = locality_of(group);
            targets.extend(group.endpoints.iter().map(|endpoint| Target {
                endpoint: endpoint.clone(),
                priority: group.priority,
                locality: locality.clone(),
            }));
        }
        let names = targets.iter().filter(|target| target.name().is_some()).count();
        (names > 0).then(|| {
            Arc::new(Self {
                cluster: cluster.clone(),
                settings: settings.clone(),
                logical,
                found: Mutex::new(vec![Vec::new(); targets.len()]),
                targets,
                untried: AtomicUsize::new(names),
            })
        })
    }

    /// Starts the tasks that resolve the names. `warm` is called once, after the first round.
    pub(super) fn start(
        self: &Arc<Self>,
        manager: &ClusterManager,
        resolvers: &Arc<Resolvers>,
        tasks: &mut JoinSet<()>,
        warm: impl Fn() + Clone + Send + 'static,
    ) {
        for index in 0..self.targets.len() {
            if self.targets.get(index).and_then(Target::name).is_some() {
                let (names, manager, resolvers) = (self.clone(), manager.clone(), resolvers.clone());
                let warm = warm.clone();
                tasks.spawn(async move { names.resolve_for_ever(index, &manager, &resolvers, warm).await });
            }
        }
    }

    async fn resolve_for_ever(
        &self,
        index: usize,
        manager: &ClusterManager,
        resolvers: &Resolvers,
        warm: impl Fn(),
    ) {
        let Some((name, _)) = self.targets.get(index).and_then(Target::name) else { return };
        let mut schedule = Schedule::default();
        let mut first = true;
        while self.is_current() {
            self.cluster.stats().update_attempt().inc();
            let answer = resolvers.resolve(&self.settings, name).await;
            let outcome = answer.as_ref().ok().map(|answer| answer.ttl);
            if let Err(error) = &answer {
                tracing::debug!(cluster = %self.cluster.config.name, name, %error, "DNS resolution failed");
            }
            if self.take(index, answer.ok()) {
                manager.changed(&self.cluster);
            }
            if std::mem::take(&mut first) && self.untried.fetch_sub(1, Relaxed) == 1 {
                warm();
            }
            let wait = rng::with(|rng| schedule.next(&self.settings, outcome, rng));
            tokio::time::sleep(wait).await;
        }
        if first && self.untried.fetch_sub(1, Relaxed) == 1 {
            warm();
        }
    }

    fn is_current(&self) -> bool {
        !self.cluster.retired.load(Relaxed)
    }

    /// Takes what `index` resolved to (`None`: nothing, it failed). Returns whether hosts changed.
    fn take(&self, index: usize, answer: Option<Answer>) -> bool {
        let stats = self.cluster.stats();
        let Some(answer) = answer else {
            stats.update_failure().inc();
            return false;
        };
        stats.update_success().inc();
        // The one host of LOGICAL_DNS stays when its name resolves to nothing; those of STRICT_DNS go.
        if answer.addresses.is_empty() {
            stats.update_empty().inc();
            if self.logical {
                return false;
            }
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = found.get_mut(index) {
            *place = answer.addresses;
        }
        let changed = if self.logical { self.publish_one(&found) } else { self.publish_all(&found) };
        if !changed {
            stats.update_no_rebuild().inc();
        }
        changed
    }

    fn publish_all(&self, found: &[Vec<IpAddr>]) -> bool {
        let mut hosts: Vec<Host> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for (target, addresses) in self.targets.iter().zip(found) {
            for address in target.addresses(addresses) {
                if seen.insert((target.priority, address.clone())) {
                    hosts.push(target.host(address));
                }
            }
        }
        let changed = self.cluster.publish(hosts, super::policy(&self.cluster.config));
        let heaviest = self.cluster.hosts.load().iter().map(|host| host.weight).max().unwrap_or(1);
        self.cluster.stats().max_host_weight().set(heaviest.into());
        changed
    }

    /// The one host of LOGICAL_DNS stays the same host when its address changes: only new connections go there.
    fn publish_one(&self, found: &[Vec<IpAddr>]) -> bool {
        let Some((target, addresses)) = self.targets.iter().zip(found).next() else { return false };
        let Some(address) = target.addresses(addresses).next() else { return false };
        let hosts = self.cluster.hosts.load_full();
        let host = target.host(address);
        let host = match hosts.iter().next() {
            Some(earlier) if earlier.address == host.address => return false,
            Some(earlier) => host.succeeding(earlier),
            None => host,
        };
        self.cluster.publish_set(vec![Arc::new(host)], super::policy(&self.cluster.config));
        true
    }
}

impl Target {
    /// The name and port to resolve; `None` for an address.
    fn name(&self) -> Option<(&str, u16)> {
        match &self.endpoint.address {
            SocketAddress::Name { host, port } if literal(&self.endpoint.address).is_none() => {
                Some((host, *port))
            }
            _ => None,
        }
    }

    fn addresses<'a>(&'a self, found: &'a [IpAddr]) -> impl Iterator<Item = Address> + 'a {
        let port = self.name().map(|(_, port)| port);
        let fixed = literal(&self.endpoint.address);
        let resolved = port
            .into_iter()
            .flat_map(move |port| found.iter().map(move |ip| Address::Ip(SocketAddr::new(*ip, port))));
        fixed.into_iter().chain(resolved)
    }

    fn host(&self, address: Address) -> Host {
        super::host(&self.endpoint, address, self.priority, &self.locality, true)
    }
}

fn below(bound: Duration, rng: &impl Rng) -> Duration {
    Duration::from_millis(rng.below(bound.as_millis() as u64))
}

#[cfg(test)]
mod tests {
    use outrider_config::model::DnsFamily;
    use outrider_core::rng::FastRng;

    use super::*;

    fn settings() -> DnsSettings {
        DnsSettings {
            refresh_rate: Duration::from_secs(5),
            failure_refresh: None,
            respect_ttl: false,
            jitter: Duration::ZERO,
            family: DnsFamily::Auto,
            resolvers: Vec::new(),
            no_default_search_domain: false,
            use_tcp: false,
        }
    }

    #[test]
    fn the_refresh_rate_holds_unless_the_ttl_is_respected() {
        let rng = FastRng::seeded(1);
        let mut schedule = Schedule::default();
        assert_eq!(schedule.next(&settings(), Some(60), &rng), Duration::from_secs(5));
        assert_eq!(schedule.next(&settings(), None, &rng), Duration::from_secs(5));
        let respecting = DnsSettings { respect_ttl: true, ..settings() };
        assert_eq!(schedule.next(&respecting, Some(60), &rng), Duration::from_secs(60));
        assert_eq!(schedule.next(&respecting, Some(0), &rng), Duration::from_secs(5));
    }

    #[test]
    fn failures_back_off_within_their_bounds_and_a_success_forgets_them() {
        let rng = FastRng::seeded(1);
        let back_off = BackOff { base: Duration::from_millis(100), max: Duration::from_secs(1) };
        let settings = DnsSettings { failure_refresh: Some(back_off), ..settings() };
        let mut schedule = Schedule::default();
        for bound in [100, 200, 400, 800, 1000, 1000] {
            assert!(schedule.next(&settings, None, &rng) < Duration::from_millis(bound));
        }
        schedule.next(&settings, Some(1), &rng);
        assert!(schedule.next(&settings, None, &rng) < Duration::from_millis(100));
    }

    #[test]
    fn jitter_is_added() {
        let rng = FastRng::seeded(1);
        let settings = DnsSettings { jitter: Duration::from_secs(1), ..settings() };
        let waits: Vec<_> =
            (0..20).map(|_| Schedule::default().next(&settings, Some(1), &rng).as_millis()).collect();
        assert!(waits.iter().all(|ms| (5000..6000).contains(ms)));
        assert!(waits.iter().any(|ms| *ms > 5000));
    }
}
