//! SRDS: scopes of routes, which choose a request's route table by a key of its own.
//!
//! Scopes are judged one by one; one whose key another has is refused. A scope whose new table has not come
//! yet goes on with the one before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use outrider_config::model::{
    ConfigSource, Scope as ScopeModel, ScopeKeyBuilder, ScopeRoutes, ScopedRoutes, Scopes,
};
use outrider_http::Change;
use outrider_http::routing::{RouteSlot, Scope, ScopeSlot, ScopeTable};
use outrider_xds::{Kind, Refusal, Resource};

use super::claims::{Claimant, Clash, settle};
use super::controller::{Controller, version_of};
use super::routes::RouteKey;
use super::streams::StreamId;

/// What the scopes of a connection manager depend on: those with the same share a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopesKey {
    source: ConfigSource,
    tables: Option<ConfigSource>,
    key: ScopeKeyBuilder,
}

impl ScopesKey {
    /// The key of `config`; `None` for scopes that are in the configuration itself.
    pub fn of(config: &ScopedRoutes) -> Option<Self> {
        let Scopes::Srds { source, tables } = &config.scopes else { return None };
        Some(Self { source: source.clone(), tables: tables.clone(), key: config.key.clone() })
    }
}

/// The places of scopes that come from elsewhere. Cloning gives another handle.
#[derive(Debug, Clone, Default)]
pub struct ScopePlaces(Arc<Mutex<Places>>);

type Places = Vec<(ScopesKey, Weak<ScopeSlot>)>;

impl ScopePlaces {
    /// The place of `key`; empty until its scopes come.
    pub fn slot(&self, key: &ScopesKey) -> Arc<ScopeSlot> {
        let mut places = self.lock();
        places.retain(|(_, slot)| slot.strong_count() > 0);
        let known = places.iter().find(|(known, _)| known == key);
        if let Some(slot) = known.and_then(|(_, slot)| slot.upgrade()) {
            return slot;
        }
        let slot = Arc::new(ScopeSlot::default());
        places.push((key.clone(), Arc::downgrade(&slot)));
        slot
    }

    fn used(&self) -> Vec<(ScopesKey, Arc<ScopeSlot>)> {
        let places = self.lock();
        places.iter().filter_map(|(key, slot)| Some((key.clone(), slot.upgrade()?))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The scopes that came.
#[derive(Default)]
pub(super) struct RouteScopes {
    streams: HashMap<StreamId, OfStream>,
    /// Tables that scopes wait for while they go on with those before.
    late: Vec<(StreamId, RouteKey, Arc<RouteSlot>)>,
}

#[derive(Default)]
struct OfStream {
    by_name: BTreeMap<Arc<str>, Known>,
    /// The first answer came, or is late.
    answered: bool,
}

struct Known {
    body: Bytes,
    scope: Arc<ScopeModel>,
    /// The table that came with it.
    own: Option<Arc<RouteSlot>>,
    /// What was in force before the update that is being taken.
    before: Option<Box<Known>>,
    /// The update that is being taken brought it.
    resource: Option<Resource>,
}

impl Claimant for Known {
    type Claim = Vec<Box<str>>;

    fn claims(&self) -> Vec<Vec<Box<str>>> {
        vec![self.scope.key.to_vec()]
    }

    fn is_new(&self) -> bool {
        self.resource.is_some()
    }

    fn before(&mut self) -> &mut Option<Box<Self>> {
        &mut self.before
    }
}

impl OfStream {
    /// Takes out what has the key of another. Returns what of the update is in force, and what is refused.
    fn settle_keys(&mut self) -> (Vec<Resource>, Vec<(Resource, String)>) {
        let mut refused = Vec::new();
        for Clash { name, owner, loser, .. } in settle(&mut self.by_name, std::iter::empty()) {
            let owner = owner.unwrap_or_default();
            tracing::warn!(scope = &*name, owner = &*owner, "the key is taken: the scope is not in force");
            if let Some(resource) = loser.resource {
                refused.push((resource, format!("the scope {owner:?} has this key already")));
            }
        }
        let mut good = Vec::new();
        for known in self.by_name.values_mut() {
            known.before = None;
            good.extend(known.resource.take());
        }
        (good, refused)
    }
}

impl Controller {
    /// Asks for the scopes of `key`, if nobody did.
    pub(super) fn want_scopes(&mut self, key: &ScopesKey) {
        let Some((stream, handle)) = self.stream(&key.source, Kind::ScopedRoute) else { return };
        handle.subscribe_all(Kind::ScopedRoute, key.source.initial_fetch_timeout);
        self.scopes.streams.entry(stream).or_default();
        self.put_scopes(stream);
    }

    /// Whether the scopes of `key` came, with all tables that they do not ask for later, or are late.
    pub(super) fn scopes_ready(&mut self, key: &ScopesKey) -> bool {
        let Some((stream, _)) = self.stream(&key.source, Kind::ScopedRoute) else { return true };
        let Some(known) = self.scopes.streams.get(&stream) else { return false };
        let scopes = known.by_name.values().map(|known| &known.scope);
        known.answered
            && scopes
                .filter(|scope| !scope.on_demand)
                .all(|scope| table_key(key, scope).is_none_or(|table| self.control.routes.is_settled(&table)))
    }

    /// Takes a scope of SRDS. It is in force when [`Self::publish_scopes`] has been called.
    pub(super) fn scope(&mut self, stream: StreamId, resource: &Resource) -> Result<(), Vec<Refusal>> {
        let known = self.scopes.streams.get(&stream).and_then(|scopes| scopes.by_name.get(&resource.name));
        if known.is_some_and(|known| known.body == resource.body) {
            self.control.records.repeated(Kind::ScopedRoute, &resource.name);
            return Ok(());
        }
        let refuse = |path, reason: String| vec![Refusal::new(&*resource.name, path, reason)];
        let scope = self.decoder.scope(resource)?;
        let own = match &scope.routes {
            ScopeRoutes::Inline(table) => {
                let built = RouteSlot::fixed(table, &self.control.clusters, &self.control.registry);
                Some(built.map_err(|error| refuse("route_configuration", error.to_string()))?)
            }
            ScopeRoutes::Rds(_) => {
                let sources = self.scope_places(stream);
                if sources.iter().any(|(key, _)| key.tables.is_none()) {
                    let why = "the connection manager's scoped_routes needs rds_config_source for that";
                    return Err(refuse("route_configuration_name", why.to_owned()));
                }
                None
            }
        };
        let scopes = self.scopes.streams.entry(stream).or_default();
        let before = scopes.by_name.remove(&resource.name).map(Box::new);
        let resource_now = Some(resource.clone());
        let known = Known { body: resource.body.clone(), scope, own, before, resource: resource_now };
        scopes.by_name.insert(resource.name.clone(), known);
        Ok(())
    }

    /// Puts what an update of SRDS brought in force, and takes out what it `removed`. Returns what is refused because its
    /// key is taken.
    pub(super) fn publish_scopes(&mut self, stream: StreamId, removed: &[Arc<str>]) -> Vec<Refusal> {
        for name in removed {
            self.control.records.removed(Kind::ScopedRoute, name);
        }
        let Some(scopes) = self.scopes.streams.get_mut(&stream) else { return Vec::new() };
        scopes.answered = true;
        for name in removed {
            scopes.by_name.remove(name);
        }
        let (good, refused) = scopes.settle_keys();
        for resource in good {
            self.control.records.warming(Kind::ScopedRoute, &resource.name, version_of(&resource));
            self.control.records.promoted(Kind::ScopedRoute, &resource.name);
        }
        self.put_scopes(stream);
        let refusal = |(resource, reason): (Resource, String)| {
            let version = version_of(&resource);
            self.control.records.refused(Kind::ScopedRoute, &resource.name, version, reason.clone());
            Refusal::new(&*resource.name, "key", reason)
        };
        refused.into_iter().map(refusal).collect()
    }

    /// The scopes of a stream are late: connection managers go on without.
    pub(super) fn give_up_scopes(&mut self, stream: StreamId) {
        if let Some(scopes) = self.scopes.streams.get_mut(&stream) {
            scopes.answered = true;
        }
    }

    /// Lets scopes take their new tables that have come by now.
    pub(super) fn promote_scopes(&mut self) {
        let routes = &self.control.routes;
        let came = self.scopes.late.iter().filter(|(_, key, _)| routes.is_settled(key));
        let streams: BTreeSet<StreamId> = came.map(|(stream, _, _)| *stream).collect();
        streams.into_iter().for_each(|stream| self.put_scopes(stream));
    }

    fn scope_places(&mut self, stream: StreamId) -> Vec<(ScopesKey, Arc<ScopeSlot>)> {
        let mut places = self.control.routes.scopes.used();
        places.retain(|(key, _)| self.streams.of(&key.source.kind, Kind::ScopedRoute) == Some(stream));
        places
    }

    /// Puts the scopes of a stream in force wherever they are used.
    fn put_scopes(&mut self, stream: StreamId) {
        // The places of tables that scopes were waiting for live until they are asked for again.
        let late = std::mem::take(&mut self.scopes.late);
        let (_waited, others): (Vec<_>, Vec<_>) = late.into_iter().partition(|(of, _, _)| *of == stream);
        self.scopes.late = others;
        for (key, slot) in self.scope_places(stream) {
            let Some(known) = self.scopes.streams.get(&stream) else { continue };
            let before = slot.load();
            let mut wanted = Vec::new();
            let mut late = Vec::new();
            let mut scopes = Vec::new();
            for known in known.by_name.values() {
                let scope = &known.scope;
                let mut routes = match (table_key(&key, scope), &known.own) {
                    (Some((source, name)), _) => self.control.routes.slot(&source, &name),
                    (None, Some(own)) => own.clone(),
                    (None, None) => continue,
                };
                if let Some(table) = table_key(&key, scope).filter(|_| !scope.on_demand) {
                    let earlier = before.scopes().iter().find(|earlier| earlier.name == scope.name);
                    if let Some(earlier) = earlier.filter(|_| !self.control.routes.is_settled(&table)) {
                        late.push((stream, table.clone(), routes));
                        routes = earlier.routes.clone();
                    }
                    wanted.push(table);
                }
                let made = Scope { name: scope.name.clone(), routes, on_demand: scope.on_demand };
                scopes.push((known.scope.clone(), made));
            }
            let scopes = scopes.iter().map(|(scope, made)| (&scope.key[..], made.clone()));
            slot.store(Arc::new(ScopeTable::build(&key.key, scopes)));
            self.control.listeners.review(&Change::Scopes(slot.clone()));
            self.scopes.late.extend(late);
            wanted.iter().for_each(|table| self.want_routes(table));
        }
    }
}

/// The table that a scope names, where it names one.
fn table_key(key: &ScopesKey, scope: &ScopeModel) -> Option<RouteKey> {
    match &scope.routes {
        ScopeRoutes::Rds(name) => Some((key.tables.clone()?, name.clone())),
        ScopeRoutes::Inline(_) => None,
    }
}
