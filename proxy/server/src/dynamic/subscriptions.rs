//! What is counted of each subscription to a named resource, and where it stands.
//!
//! There are as many as resources, so a subscription costs a line in a table; names of stats are made when somebody reads
//! them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use outrider_config::model::{Listener, NetworkFilter, Routes};
use outrider_core::stats::{Kind as StatKind, Registry, Sample, Value};
use outrider_xds::{Kind, Refusal};

/// The subscriptions, by kind and name. Cloning gives another handle.
#[derive(Debug, Clone, Default)]
pub struct Subscriptions(Arc<Mutex<ByName>>);

type ByName = BTreeMap<(Kind, Arc<str>), Subscription>;

#[derive(Debug, Default)]
struct Subscription {
    /// Who asked: a cluster (EDS) or the stat prefix of a connection manager (RDS); nobody in particular for secrets.
    owners: Vec<Arc<str>>,
    attempt: u32,
    success: u32,
    rejected: u32,
    failure: u32,
    timeouts: u32,
    reloads: u32,
    reloaded_at: u64,
    updated_at: u64,
    version: Option<Arc<str>>,
    /// The last answer said that there is no such resource.
    absent: bool,
}

/// Where a subscription stands whose resource is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It was asked for.
    Requested,
    /// It did not come in time.
    TimedOut,
    /// There is none.
    Absent,
}

impl Subscriptions {
    /// Makes the counts readable in `registry`.
    pub(crate) fn expose(&self, registry: &Registry) {
        let this = self.clone();
        registry.add_source(Box::new(move |samples| this.samples(samples)));
    }

    /// `owner` asked for a resource.
    pub(super) fn asked(&self, kind: Kind, name: &Arc<str>, owner: &Arc<str>) {
        let mut all = self.lock();
        let subscription = all.entry((kind, name.clone())).or_default();
        if !subscription.owners.contains(owner) {
            if subscription.owners.is_empty() {
                subscription.attempt += 1;
            }
            subscription.owners.push(owner.clone());
        }
    }

    /// The connection managers of `config` asked for their tables.
    pub(super) fn asked_for_routes(&self, config: &Listener) {
        let chains = config.filter_chains.iter().chain(&config.default_filter_chain);
        for chain in chains {
            if let NetworkFilter::Http(manager) = &chain.filter
                && let Routes::Rds { name, .. } = &manager.routes
            {
                self.asked(Kind::Route, name, &manager.stat_prefix);
            }
        }
    }

    /// `owner` does not want a resource any more.
    pub(super) fn left(&self, kind: Kind, name: &Arc<str>, owner: &str) {
        let owner = stat_name(owner);
        self.change(kind, name, |subscription| subscription.owners.retain(|known| **known != *owner));
    }

    /// Nobody wants a resource any more.
    pub(super) fn ended(&self, kind: Kind, name: &Arc<str>) {
        self.lock().remove(&(kind, name.clone()));
    }

    /// An answer came. It counts as one for the next, too.
    pub(super) fn answered(
        &self,
        kind: Kind,
        name: &Arc<str>,
        version: &Arc<str>,
        outcome: &Result<(), Vec<Refusal>>,
    ) {
        self.change(kind, name, |subscription| {
            subscription.attempt += 1;
            subscription.absent = false;
            if outcome.is_ok() {
                subscription.success += 1;
                subscription.version = Some(version.clone());
                subscription.updated_at = now();
            } else {
                subscription.rejected += 1;
            }
        });
    }

    /// What came is in force, and differs from what was.
    pub(super) fn reloaded(&self, kind: Kind, name: &Arc<str>) {
        self.change(kind, name, |subscription| {
            subscription.reloads += 1;
            subscription.reloaded_at = now();
        });
    }

    /// The control plane says that there is none.
    pub(super) fn removed(&self, kind: Kind, name: &Arc<str>) {
        self.change(kind, name, |subscription| {
            (subscription.absent, subscription.version) = (true, None);
        });
    }

    /// It did not come within `initial_fetch_timeout`.
    pub(super) fn timed_out(&self, kind: Kind, name: &Arc<str>) {
        self.change(kind, name, |subscription| subscription.timeouts += 1);
    }

    /// A stream to a control plane ended or could not be opened.
    pub(super) fn disconnected(&self) {
        for subscription in self.lock().values_mut() {
            subscription.failure += 1;
        }
    }

    /// The subscriptions of `kind` that have no resource, by name.
    pub fn missing(&self, kind: Kind) -> Vec<(Arc<str>, Missing)> {
        let all = self.lock();
        let of_kind =
            all.iter().filter(|((of, _), subscription)| *of == kind && subscription.version.is_none());
        let state = |subscription: &Subscription| match subscription {
            Subscription { absent: true, .. } => Missing::Absent,
            Subscription { timeouts: 1.., .. } => Missing::TimedOut,
            _ => Missing::Requested,
        };
        of_kind.map(|((_, name), subscription)| (name.clone(), state(subscription))).collect()
    }

    fn change(&self, kind: Kind, name: &Arc<str>, change: impl FnOnce(&mut Subscription)) {
        if let Some(subscription) = self.lock().get_mut(&(kind, name.clone())) {
            change(subscription);
        }
    }

    fn samples(&self, samples: &mut Vec<Sample>) {
        for ((kind, name), subscription) in &*self.lock() {
            for owner in &subscription.owners {
                let scope = match kind {
                    Kind::Endpoint => format!("cluster.{owner}."),
                    Kind::Route => format!("http.{owner}.rds.{}.", stat_name(name)),
                    Kind::Secret => format!("sds.{}.", stat_name(name)),
                    _ => continue,
                };
                subscription.write(&scope, samples);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ByName> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// As elsewhere: what never happened is no stat.
    fn write(&self, scope: &str, samples: &mut Vec<Sample>) {
        let counters = [
            ("update_attempt", self.attempt),
            ("update_success", self.success),
            ("update_rejected", self.rejected),
            ("update_failure", self.failure),
            ("init_fetch_timeout", self.timeouts),
            ("config_reload", self.reloads),
        ];
        let counters = counters.map(|(name, value)| (name, StatKind::Counter, u64::from(value)));
        let version = self.version.as_deref().map_or(0, version_number);
        let gauges = [
            ("update_time", StatKind::Gauge, self.updated_at),
            ("version", StatKind::Gauge, version),
            ("config_reload_time_ms", StatKind::Gauge, self.reloaded_at),
        ];
        for (name, kind, value) in counters.into_iter().chain(gauges).filter(|(_, _, value)| *value > 0) {
            samples.push(Sample { name: format!("{scope}{name}").into(), kind, value: Value::Number(value) });
        }
        if let Some(version) = &self.version {
            let name = format!("{scope}version_text").into();
            samples.push(Sample { name, kind: StatKind::TextReadout, value: Value::Text(version.clone()) });
        }
    }
}

/// A version as a number, as Envoy makes it one.
pub(super) fn version_number(version: &str) -> u64 {
    xxhash_rust::xxh64::xxh64(version.as_bytes(), 0)
}

/// Milliseconds of the wall clock.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A name inside a stat's.
fn stat_name(name: &str) -> String {
    name.replace(':', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_shows_what_happened_under_each_of_its_owners() {
        let subscriptions = Subscriptions::default();
        let name: Arc<str> = "eds:one".into();
        let owners: [Arc<str>; 2] = ["a".into(), "b".into()];
        owners.iter().for_each(|owner| subscriptions.asked(Kind::Endpoint, &name, owner));
        assert_eq!(subscriptions.missing(Kind::Endpoint), [(name.clone(), Missing::Requested)]);
        subscriptions.timed_out(Kind::Endpoint, &name);
        assert_eq!(subscriptions.missing(Kind::Endpoint), [(name.clone(), Missing::TimedOut)]);
        subscriptions.answered(Kind::Endpoint, &name, &"v1".into(), &Ok(()));
        subscriptions.answered(Kind::Endpoint, &name, &"v2".into(), &Err(Vec::new()));
        assert_eq!(subscriptions.missing(Kind::Endpoint), []);
        subscriptions.left(Kind::Endpoint, &name, "b");
        let registry = Registry::new();
        subscriptions.expose(&registry);
        let number = |name: &str| registry.value(&format!("cluster.a.{name}"));
        assert_eq!(number("update_attempt"), Some(3));
        assert_eq!((number("update_success"), number("update_rejected")), (Some(1), Some(1)));
        // As Envoy 1.40 shows `v1`.
        assert_eq!(number("version"), Some(9_194_640_092_791_331_756));
        assert_eq!(registry.value("cluster.b.update_attempt"), None);
        subscriptions.ended(Kind::Endpoint, &name);
        assert_eq!(number("update_attempt"), None);
    }
}
