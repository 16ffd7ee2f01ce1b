//! What is counted of each subscription to a named resource, and where it stands.
//!
//! There are as many as resources, so a subscription costs a line in a table; names of stats are made when somebody reads
//! them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use outrider_config::model::{ConfigSource, Listener, NetworkFilter, Routes};
use outrider_core::stats::{Kind as StatKind, Registry, Sample, Value};
use outrider_xds::{Kind, Refusal};

use super::streams::StreamId;

/// The subscriptions, by kind and name. Cloning gives another handle.
#[derive(Debug, Clone, Default)]
pub struct Subscriptions(Arc<Mutex<ByName>>);

type ByName = BTreeMap<(Kind, Arc<str>), Subscription>;

#[derive(Debug, Default)]
struct Subscription {
    owners: Vec<Owner>,
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

/// Who asked.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    /// A cluster (EDS) or the stat prefix of a connection manager (RDS); nobody in particular for secrets.
    pub(super) name: Arc<str>,
    /// What it is called in stats.
    pub(super) stat_name: Arc<str>,
    /// The stream that it asked on.
    pub(super) stream: Option<StreamId>,
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
    pub(super) fn asked(&self, kind: Kind, name: &Arc<str>, owner: Owner) {
        let mut all = self.lock();
        let subscription = all.entry((kind, name.clone())).or_default();
        if subscription.owners.is_empty() {
            subscription.attempt += 1;
        }
        let owners = &mut subscription.owners;
        let known = owners.iter_mut().find(|known| known.name == owner.name && known.stream == owner.stream);
        match known {
            // It may have been given another name in stats.
            Some(known) => *known = owner,
            None => owners.push(owner),
        }
    }

    /// The connection managers of `config` asked for their tables, each on the stream that `stream_of`
    /// finds for its source.
    pub(super) fn asked_for_routes(
        &self,
        config: &Listener,
        mut stream_of: impl FnMut(&ConfigSource) -> Option<StreamId>,
    ) {
        let chains = config.filter_chains.iter().chain(&config.default_filter_chain);
        for chain in chains {
            if let NetworkFilter::Http(manager) = &chain.filter
                && let Routes::Rds { source, name } = &manager.routes
            {
                let owner = manager.stat_prefix.clone();
                let owner = Owner { name: owner.clone(), stat_name: owner, stream: stream_of(source) };
                self.asked(Kind::Route, name, owner);
            }
        }
    }

    /// `owner` does not want a resource of `stream` any more.
    pub(super) fn left(&self, kind: Kind, name: &Arc<str>, owner: &str, stream: StreamId) {
        let goes = |known: &Owner| *known.name == *owner && known.stream == Some(stream);
        self.change(kind, name, |subscription| subscription.owners.retain(|known| !goes(known)));
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
    pub(super) fn disconnected(&self, stream: StreamId) {
        for subscription in self.lock().values_mut() {
            if subscription.owners.iter().any(|owner| owner.stream == Some(stream)) {
                subscription.failure += 1;
            }
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
            let mut told: Vec<&str> = Vec::with_capacity(subscription.owners.len());
            for Owner { stat_name: owner, .. } in &subscription.owners {
                // On two streams, or two of one name in stats.
                if told.contains(&&**owner) {
                    continue;
                }
                told.push(owner);
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

    fn owner(name: &str, stat_name: &str, stream: StreamId) -> Owner {
        Owner { name: name.into(), stat_name: stat_name.into(), stream: Some(stream) }
    }

    #[test]
    fn a_stream_that_ends_fails_what_is_asked_for_on_it() {
        let subscriptions = Subscriptions::default();
        let registry = Registry::new();
        subscriptions.expose(&registry);
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        subscriptions.asked(Kind::Endpoint, &one, owner("a", "a", 0));
        subscriptions.asked(Kind::Endpoint, &other, owner("b", "b", 1));
        subscriptions.disconnected(1);
        assert_eq!(registry.value("cluster.a.update_failure"), None);
        assert_eq!(registry.value("cluster.b.update_failure"), Some(1));
        // A cluster goes from one control plane to the other.
        subscriptions.asked(Kind::Endpoint, &one, owner("a", "a", 1));
        subscriptions.left(Kind::Endpoint, &one, "a", 0);
        subscriptions.disconnected(0);
        assert_eq!(registry.value("cluster.a.update_failure"), None);
        subscriptions.disconnected(1);
        assert_eq!(registry.value("cluster.a.update_failure"), Some(1));
    }

    #[test]
    fn a_subscription_shows_what_happened_under_each_of_its_owners() {
        let subscriptions = Subscriptions::default();
        let name: Arc<str> = "eds:one".into();
        subscriptions.asked(Kind::Endpoint, &name, owner("a", "a", 0));
        subscriptions.asked(Kind::Endpoint, &name, owner("b", "alternative", 0));
        assert_eq!(subscriptions.missing(Kind::Endpoint), [(name.clone(), Missing::Requested)]);
        subscriptions.timed_out(Kind::Endpoint, &name);
        assert_eq!(subscriptions.missing(Kind::Endpoint), [(name.clone(), Missing::TimedOut)]);
        subscriptions.answered(Kind::Endpoint, &name, &"v1".into(), &Ok(()));
        subscriptions.answered(Kind::Endpoint, &name, &"v2".into(), &Err(Vec::new()));
        assert_eq!(subscriptions.missing(Kind::Endpoint), []);
        subscriptions.left(Kind::Endpoint, &name, "b", 0);
        let registry = Registry::new();
        subscriptions.expose(&registry);
        let number = |name: &str| registry.value(&format!("cluster.a.{name}"));
        assert_eq!(number("update_attempt"), Some(3));
        assert_eq!((number("update_success"), number("update_rejected")), (Some(1), Some(1)));
        // As Envoy 1.40 shows `v1`.
        assert_eq!(number("version"), Some(9_194_640_092_791_331_756));
        let of_others = |name: &str| registry.value(&format!("cluster.{name}.update_attempt"));
        assert_eq!((of_others("b"), of_others("alternative")), (None, None), "it left, by whatever name");
        subscriptions.ended(Kind::Endpoint, &name);
        assert_eq!(number("update_attempt"), None);
    }
}
