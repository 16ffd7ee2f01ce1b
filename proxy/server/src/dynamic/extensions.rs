//! Filters whose settings come by themselves (ECDS).
//!
//! A listener that names such filters is kept as it came. What is built is a copy with what came in their places; a
//! change of one is an update of the listeners that use it, which leaves their sockets and connections alone and
//! everything that did not change as it is.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use outrider_config::model::{
    ConfigSource, Discovered, Extension, ExtensionFilter, FilterChain, HttpFilterKind, Listener,
    ListenerFilterKind, NetworkFilter,
};
use outrider_xds::{Kind, Refusal, Resource};

use super::controller::{Controller, version_of};
use super::stats::SubscriptionStats;
use super::streams::StreamId;

outrider_core::stat_struct! {
    /// `extension_config_discovery.<kind>.<name>.`
    struct ExtensionStats {
        counters { config_reload, config_fail }
        gauges {}
        histograms {}
    }
}

/// Where settings come from, and their name.
type Key = (ConfigSource, Arc<str>);

/// What is known of filters that come by themselves.
#[derive(Default)]
pub(super) struct Extensions {
    /// The listeners that use some, as they came, and how.
    users: HashMap<Arc<str>, (Arc<Listener>, Vec<Use>)>,
    places: HashMap<Key, Place>,
}

struct Place {
    stream: StreamId,
    came: Option<Came>,
    /// It came, or will not in time.
    settled: bool,
    stats: ExtensionStats,
    subscription: SubscriptionStats,
}

#[derive(Clone)]
struct Came {
    extension: Arc<Extension>,
    body: Bytes,
}

/// A place that a filter of a listener has.
#[derive(Clone)]
pub(super) struct Use {
    key: Key,
    kind: FilterKind,
    types: Vec<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FilterKind {
    Http,
    Network,
    Listener,
}

impl FilterKind {
    /// As stats have it.
    const fn name(self) -> &'static str {
        match self {
            Self::Http => "http_filter",
            Self::Network => "network_filter",
            Self::Listener => "tcp_listener_filter",
        }
    }

    const fn of(filter: &ExtensionFilter) -> Self {
        match filter {
            ExtensionFilter::Http(_) => Self::Http,
            ExtensionFilter::Network(_) => Self::Network,
            ExtensionFilter::Listener(_) => Self::Listener,
        }
    }
}

/// Whether `config` has filters that come by themselves.
pub(super) fn has_extensions(config: &Listener) -> bool {
    let chains = config.filter_chains.iter().chain(&config.default_filter_chain);
    let listens = |filter: &ListenerFilterKind| matches!(filter, ListenerFilterKind::Discovered(_));
    config.listener_filters.iter().any(|filter| listens(&filter.kind)) || { chains }.any(|chain| match &chain
        .filter
    {
        NetworkFilter::Discovered(_) => true,
        NetworkFilter::Http(manager) => {
            manager.filters.iter().any(|filter| matches!(filter.kind, HttpFilterKind::Discovered(_)))
        }
        NetworkFilter::TcpProxy(_) | NetworkFilter::Missing => false,
    })
}

impl Controller {
    /// `config` with what came in the places of the filters that come by themselves, `None` while it must wait for one;
    /// and those places. [`Self::use_extensions`] is to be told once it is good.
    pub(super) fn with_extensions(&mut self, config: &Arc<Listener>) -> (Option<Arc<Listener>>, Vec<Use>) {
        if !has_extensions(config) {
            return (Some(config.clone()), Vec::new());
        }
        let (_, uses) = self.extensions.fill(config);
        for used in &uses {
            self.want_extension(used);
        }
        self.extensions.fill(config)
    }

    /// `config` is in force with its filters in these places, or waits for them.
    pub(super) fn use_extensions(&mut self, config: &Arc<Listener>, uses: Vec<Use>) {
        let before = if uses.is_empty() {
            self.extensions.users.remove(&config.name)
        } else {
            self.extensions.users.insert(config.name.clone(), (config.clone(), uses))
        };
        if before.is_some() {
            self.drop_unused_extensions();
        }
    }

    fn want_extension(&mut self, used: &Use) {
        if self.extensions.places.contains_key(&used.key) {
            return;
        }
        let (source, name) = &used.key;
        let Some((stream, handle)) = self.stream(source, Kind::Extension) else { return };
        let prefix = format!("extension_config_discovery.{}.{name}.", used.kind.name());
        let place = Place {
            stream,
            came: None,
            settled: false,
            stats: ExtensionStats::new(self.control.registry.scope(prefix.as_str())),
            subscription: SubscriptionStats::new(self.control.registry.scope(prefix)),
        };
        place.subscription.update_attempt().inc();
        self.extensions.places.insert(used.key.clone(), place);
        handle.subscribe(Kind::Extension, name, source.initial_fetch_timeout);
    }

    /// The listener `name` is gone, or uses none any more.
    pub(super) fn forget_extensions(&mut self, name: &Arc<str>) {
        if self.extensions.users.remove(name).is_some() {
            self.drop_unused_extensions();
        }
    }

    pub(super) fn drop_unused_extensions(&mut self) {
        let users = &self.extensions.users;
        let used = |key: &Key| users.values().flat_map(|(_, uses)| uses).any(|used| used.key == *key);
        let unused: Vec<Key> = self.extensions.places.keys().filter(|key| !used(key)).cloned().collect();
        for key in unused {
            let Some(place) = self.extensions.places.remove(&key) else { continue };
            let same = |(other, known): (&Key, &Place)| known.stream == place.stream && other.1 == key.1;
            if self.extensions.places.iter().any(same) {
                // Another source of the same stream: it differs in its timeout alone.
                continue;
            }
            self.control.records.removed(Kind::Extension, &key.1);
            if let Some(handle) = self.streams.get(place.stream) {
                handle.unsubscribe(Kind::Extension, &key.1);
            }
        }
    }

    /// Takes the settings of a filter.
    pub(super) fn extension(&mut self, stream: StreamId, resource: &Resource) -> Result<(), Vec<Refusal>> {
        let keys = self.extensions.keys_of(stream, &resource.name);
        if keys.is_empty() {
            return Ok(());
        }
        let is_known = |place: &Place| place.came.as_ref().is_some_and(|came| came.body == resource.body);
        if keys.iter().all(|key| self.extensions.places.get(key).is_some_and(is_known)) {
            self.control.records.repeated(Kind::Extension, &resource.name);
            return Ok(());
        }
        let taken = self.take_extension(&keys, resource);
        for place in keys.iter().filter_map(|key| self.extensions.places.get(key)) {
            place.subscription.answered(&resource.version, taken.is_ok());
            let counter = if taken.is_ok() { place.stats.config_reload() } else { place.stats.config_fail() };
            counter.inc();
        }
        taken
    }

    fn take_extension(&mut self, keys: &[Key], resource: &Resource) -> Result<(), Vec<Refusal>> {
        let extension = self.decoder.extension(resource)?;
        self.extensions.check(keys, &extension, &resource.name)?;
        let came = Came { extension, body: resource.body.clone() };
        let mut before = Vec::new();
        for key in keys {
            if let Some(place) = self.extensions.places.get_mut(key) {
                before.push((key.clone(), place.came.replace(came.clone()), place.settled));
                place.settled = true;
            }
        }
        if let Err(refusals) = self.rebuild(keys) {
            // What was in force stays so.
            for (key, came, settled) in before {
                if let Some(place) = self.extensions.places.get_mut(&key) {
                    (place.came, place.settled) = (came, settled);
                }
            }
            let of_resource = refusals.into_iter().map(|bad| Refusal {
                name: resource.name.to_string(),
                reason: format!("listener {:?}: {}", bad.name, bad.reason),
                ..bad
            });
            return Err(of_resource.collect());
        }
        self.control.records.warming(Kind::Extension, &resource.name, version_of(resource));
        self.control.records.promoted(Kind::Extension, &resource.name);
        Ok(())
    }

    /// Builds the listeners that use one of `keys` again.
    fn rebuild(&mut self, keys: &[Key]) -> Result<(), Vec<Refusal>> {
        let uses_one = |uses: &[Use]| uses.iter().any(|used| keys.contains(&used.key));
        let users = self.extensions.users.values().filter(|(_, uses)| uses_one(uses));
        let listeners: Vec<Arc<Listener>> = users.map(|(listener, _)| listener.clone()).collect();
        if let [_, _, ..] = listeners.as_slice() {
            // All of them, or none.
            for listener in &listeners {
                if let (Some(filled), _) = self.extensions.fill(listener) {
                    let built = self.control.listeners.build(&filled);
                    built.map_err(|error| vec![Refusal::new(&*listener.name, "", format!("{error:#}"))])?;
                }
            }
        }
        listeners.iter().try_for_each(|listener| self.rebuild_listener(listener))
    }

    /// The settings are gone: the filter is what it is without any. Who waits for them goes on waiting, as in Envoy:
    /// a control plane also says so of what it does not have yet.
    pub(super) fn lose_extension(&mut self, stream: StreamId, name: &Arc<str>) {
        let mut keys = self.extensions.keys_of(stream, name);
        let mut has = |key: &Key| self.extensions.places.get_mut(key)?.came.take();
        keys.retain(|key| has(key).is_some());
        if keys.is_empty() {
            return;
        }
        self.control.records.removed(Kind::Extension, name);
        if let Err(refusals) = self.rebuild(&keys) {
            tracing::error!(name = &**name, ?refusals, "a listener cannot go on without what a filter was");
        }
    }

    /// The settings will not come in time, or what came first was refused: who waits for them waits no longer.
    pub(super) fn give_up_extension(&mut self, stream: StreamId, name: &Arc<str>, late: bool) {
        let mut waited = self.extensions.keys_of(stream, name);
        waited.retain(|key| self.extensions.places.get(key).is_some_and(|place| !place.settled));
        for key in &waited {
            if let Some(place) = self.extensions.places.get_mut(key) {
                place.settled = true;
                if late {
                    place.subscription.init_fetch_timeout().inc();
                }
            }
        }
        if let Err(refusals) = self.rebuild(&waited) {
            tracing::error!(name = &**name, ?refusals, "a listener cannot be put in force without a filter");
        }
    }
}

impl Extensions {
    fn keys_of(&self, stream: StreamId, name: &str) -> Vec<Key> {
        let of = self.places.iter().filter(|(key, place)| place.stream == stream && *key.1 == *name);
        of.map(|(key, _)| key.clone()).collect()
    }

    /// Whether every user of `keys` can use `extension`.
    fn check(&self, keys: &[Key], extension: &Extension, name: &str) -> Result<(), Vec<Refusal>> {
        let uses = self.users.values().flat_map(|(_, uses)| uses).filter(|used| keys.contains(&used.key));
        let is_wrong = |used: &&Use| {
            !used.types.contains(&extension.type_name) || used.kind != FilterKind::of(&extension.filter)
        };
        let Some(used) = { uses }.find(is_wrong) else { return Ok(()) };
        let reason = format!(
            "a filter of type {} came where {} is expected",
            extension.type_name,
            used.types.join(" or ")
        );
        Err(vec![Refusal::new(name, "typed_config", reason)])
    }

    /// `config` with what came, and the places that it has for filters; `None` where it must wait.
    fn fill(&self, config: &Arc<Listener>) -> (Option<Arc<Listener>>, Vec<Use>) {
        let mut filling = Filling { extensions: self, uses: Vec::new(), waits: false };
        let mut filled = (**config).clone();
        let chains = filled.filter_chains.iter_mut().chain(&mut filled.default_filter_chain);
        chains.for_each(|chain| filling.chain(chain));
        for filter in &mut filled.listener_filters {
            if let ListenerFilterKind::Discovered(discovered) = &filter.kind {
                let take = |filter: &ExtensionFilter| match filter {
                    ExtensionFilter::Listener(kind) => Some(kind.clone()),
                    _ => None,
                };
                let (kind, _) = filling.find(discovered, FilterKind::Listener, take);
                filter.kind = kind.unwrap_or(ListenerFilterKind::Missing);
            }
        }
        ((!filling.waits).then(|| Arc::new(filled)), filling.uses)
    }
}

/// A listener whose places for filters are being filled.
struct Filling<'a> {
    extensions: &'a Extensions,
    uses: Vec<Use>,
    waits: bool,
}

impl Filling<'_> {
    /// What is in the place of `discovered`, and a number that is another when it is something else.
    fn find<T: Clone>(
        &mut self,
        discovered: &Discovered<T>,
        kind: FilterKind,
        take: impl FnOnce(&ExtensionFilter) -> Option<T>,
    ) -> (Option<T>, u64) {
        let key = (discovered.source.clone(), discovered.name.clone());
        let place = self.extensions.places.get(&key);
        self.uses.push(Use { key, kind, types: discovered.types.clone() });
        if let Some(came) = place.and_then(|place| place.came.as_ref())
            && discovered.types.contains(&came.extension.type_name)
            && let Some(filter) = take(&came.extension.filter)
        {
            let mut hasher = std::hash::DefaultHasher::new();
            came.body.hash(&mut hasher);
            return (Some(filter), hasher.finish());
        }
        let settled = place.is_some_and(|place| place.settled);
        self.waits |= !settled && !discovered.without_warming;
        (discovered.default.clone(), u64::from(discovered.default.is_some()))
    }

    fn chain(&mut self, chain: &mut Arc<FilterChain>) {
        let mut hasher = std::hash::DefaultHasher::new();
        chain.hash.hash(&mut hasher);
        let mut filter = chain.filter.clone();
        let mut changed = false;
        if let NetworkFilter::Discovered(discovered) = &filter {
            let take = |filter: &ExtensionFilter| match filter {
                ExtensionFilter::Network(filter) => Some(filter.clone()),
                _ => None,
            };
            let (found, hash) = self.find(&discovered.clone(), FilterKind::Network, take);
            filter = found.unwrap_or(NetworkFilter::Missing);
            (hash, changed).hash(&mut hasher);
            changed = true;
        }
        if let NetworkFilter::Http(manager) = &mut filter
            && manager.filters.iter().any(|filter| matches!(filter.kind, HttpFilterKind::Discovered(_)))
        {
            for filter in &mut Arc::make_mut(manager).filters {
                let HttpFilterKind::Discovered(discovered) = &filter.kind else { continue };
                let take = |filter: &ExtensionFilter| match filter {
                    ExtensionFilter::Http(kind) => Some(kind.clone()),
                    _ => None,
                };
                let (found, hash) = self.find(&discovered.clone(), FilterKind::Http, take);
                hash.hash(&mut hasher);
                filter.kind = found.unwrap_or(HttpFilterKind::Missing);
            }
            changed = true;
        }
        if changed {
            let filled = Arc::make_mut(chain);
            (filled.filter, filled.hash) = (filter, hasher.finish());
        }
    }
}
