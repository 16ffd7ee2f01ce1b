//! Listeners and the route tables that they wait for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use outrider_config::model::{self, ConfigSource, DynamicSecret, HttpFilterKind, NetworkFilter, Routes};
use outrider_http::routing::RouteTable;
use outrider_net::listener::WorkerSockets;
use outrider_xds::{Kind, Refusal, Resource};

use super::controller::{Controller, version_of};
use super::extensions::has_extensions;
use super::generations::Step;
use super::records::Version;
use super::routes::RouteKey;
use super::scopes::ScopesKey;
use super::secret_files::prints_of;
use super::streams::StreamId;
use super::subscriptions::Owner;
use crate::listeners::BuiltListener;

/// Listeners that wait for what they need, and what is known of those that came.
#[derive(Default)]
pub(super) struct WaitingListeners {
    waiting: HashMap<Arc<str>, Waiting>,
    /// As they came, to tell a change from a repetition.
    bodies: HashMap<Arc<str>, Bytes>,
    /// Tables that were asked for.
    subscribed: Vec<(StreamId, RouteKey)>,
    /// The tables in force as they came, to tell a change from a repetition.
    tables: HashMap<(StreamId, Arc<str>), Bytes>,
}

enum Waiting {
    /// For secrets: it cannot be built yet.
    Secrets(Arc<model::Listener>),
    /// For filters that come by themselves.
    Filters,
    /// For its route tables, and secrets of filters. Its addresses are taken if it is new.
    Routes(Arc<BuiltListener>, Option<Vec<WorkerSockets>>, Needs),
}

/// The route tables, the scopes of such, and the secrets of HTTP filters that a listener needs.
#[derive(Default, Clone)]
struct Needs {
    tables: Vec<RouteKey>,
    scopes: Vec<ScopesKey>,
    secrets: Vec<Arc<DynamicSecret>>,
}

impl WaitingListeners {
    /// Whether a listener waits for what it needs; those that wait for secrets do not count `without_secrets`.
    pub(super) fn is_warming(&self, without_secrets: bool) -> bool {
        let for_secrets = |waiting: &Waiting| match waiting {
            Waiting::Secrets(_) => true,
            Waiting::Filters => false,
            Waiting::Routes(_, _, needs) => !needs.secrets.is_empty(),
        };
        self.waiting.values().any(|waiting| !(without_secrets && for_secrets(waiting)))
    }
}

impl Controller {
    /// Takes a listener of LDS.
    pub(super) fn listener(&mut self, resource: &Resource) -> Result<(), Vec<Refusal>> {
        if self.listeners.bodies.get(&resource.name) == Some(&resource.body) {
            self.control.records.repeated(Kind::Listener, &resource.name);
            return Ok(());
        }
        if self.control.model.listeners.iter().any(|fixed| fixed.name == resource.name) {
            // As Envoy has it: the bootstrap's listener stays, and the control plane is not told.
            tracing::warn!(
                listener = &*resource.name,
                "the bootstrap has this listener: the control plane's is not used"
            );
            return Ok(());
        }
        let listener = self.decoder.listener(resource)?;
        self.put_listener(listener, Some(resource))?;
        self.listeners.bodies.insert(resource.name.clone(), resource.body.clone());
        Ok(())
    }

    /// Begins to warm `config`; puts it in force at once where it needs nothing.
    pub(super) fn put_listener(
        &mut self,
        config: Arc<model::Listener>,
        resource: Option<&Resource>,
    ) -> Result<(), Vec<Refusal>> {
        let name = config.name.clone();
        self.check_addresses(&config)?;
        let secrets: Vec<Arc<DynamicSecret>> = dynamic_secrets(&config);
        for secret in &secrets {
            self.want_secret(secret);
        }
        let came = resource.map(version_of);
        // What waited is outdated, unless this one is refused.
        let before = self.listeners.waiting.remove(&name);
        if secrets.iter().any(|secret| self.control.secrets.find(secret).is_none()) {
            self.note_warming(&name, came);
            self.listeners.waiting.insert(name, Waiting::Secrets(config));
            return Ok(());
        }
        let built = self.build_listener(&config, came);
        if built.is_err()
            && let Some(before) = before
        {
            self.listeners.waiting.insert(name, before);
        }
        built
    }

    fn note_warming(&self, name: &Arc<str>, came: Option<Version>) {
        if let Some(version) = came {
            self.control.records.warming(Kind::Listener, name, version);
        }
    }

    /// Builds `config`, which has all its secrets, again because of a filter in it. A newer version that waits for
    /// secrets goes on waiting.
    pub(super) fn rebuild_listener(&mut self, config: &Arc<model::Listener>) -> Result<(), Vec<Refusal>> {
        let waiting = self.listeners.waiting.get(&config.name);
        if waiting.is_some_and(|one| matches!(one, Waiting::Secrets(newer) if !Arc::ptr_eq(newer, config))) {
            return Ok(());
        }
        self.build_listener(config, None)
    }

    /// Builds `config` and puts it in force, or lets it wait for what else it needs. `came` is noted once it is built.
    fn build_listener(
        &mut self,
        config: &Arc<model::Listener>,
        came: Option<Version>,
    ) -> Result<(), Vec<Refusal>> {
        let (filled, uses) = self.with_extensions(config);
        let Some(filled) = filled else {
            self.use_extensions(config, uses);
            self.note_warming(&config.name, came);
            self.listeners.waiting.insert(config.name.clone(), Waiting::Filters);
            return Ok(());
        };
        let built = self.build_filled(&filled, came);
        if built.is_ok() {
            self.use_extensions(config, uses);
        } else {
            self.drop_unused_extensions();
        }
        built
    }

    fn build_filled(
        &mut self,
        config: &Arc<model::Listener>,
        came: Option<Version>,
    ) -> Result<(), Vec<Refusal>> {
        let refuse = |error: anyhow::Error| vec![Refusal::new(&*config.name, "", format!("{error:#}"))];
        let generations = self.control.records.generations();
        let build = || self.control.listeners.build(config);
        let built = generations.time(Step::Build(Kind::Listener, &config.name), build).map_err(refuse)?;
        let streams = &mut self.streams;
        let stream_of = |source: &ConfigSource| streams.of(&source.kind, Kind::Route);
        self.control.subscriptions.asked_for_routes(config, stream_of);
        let needs = route_needs(config);
        needs.tables.iter().for_each(|key| self.want_routes(key));
        needs.scopes.iter().for_each(|key| self.want_scopes(key));
        needs.secrets.iter().for_each(|secret| self.want_secret(secret));
        // What was reserved before goes first: it may have the same addresses.
        self.listeners.waiting.remove(&config.name);
        if self.is_there(&needs) {
            let put = || self.control.listeners.put(built, None);
            self.control.records.generations().time(Step::Publish, put).map_err(refuse)?;
            self.note_warming(&config.name, came);
            self.control.records.promoted(Kind::Listener, &config.name);
        } else {
            let reserved = self.control.listeners.reserve(&built).map_err(refuse)?;
            self.note_warming(&config.name, came);
            self.listeners.waiting.insert(config.name.clone(), Waiting::Routes(built, reserved, needs));
        }
        Ok(())
    }

    /// Two listeners may not share an address: the kernel would spread connections over both.
    fn check_addresses(&self, config: &model::Listener) -> Result<(), Vec<Refusal>> {
        let active = self.control.listeners.active();
        let others = active.iter().map(|active| active.listener.shared.config());
        for other in others.filter(|other| other.name != config.name) {
            for address in &config.addresses {
                let ephemeral = matches!(&address.address, model::SocketAddress::Ip(ip) if ip.port() == 0);
                if !ephemeral && other.addresses.iter().any(|taken| taken.address == address.address) {
                    let reason = format!(
                        "{} is the address of the listener {:?} already",
                        address.address, other.name
                    );
                    return Err(vec![Refusal::new(&*config.name, "address", reason)]);
                }
            }
        }
        Ok(())
    }

    /// Puts listeners in force whose route tables are there.
    pub(super) fn promote_listeners(&mut self) {
        let waiting = self.listeners.waiting.iter();
        let waiting = waiting.filter_map(|(name, one)| match one {
            Waiting::Secrets(_) | Waiting::Filters => None,
            Waiting::Routes(_, _, needs) => Some((name.clone(), needs.clone())),
        });
        let mut names: Vec<_> = waiting.collect();
        names.retain(|(_, needs)| self.is_there(needs));
        for (name, _) in names {
            let Some(Waiting::Routes(built, reserved, _)) = self.listeners.waiting.remove(&name) else {
                continue;
            };
            let put = || self.control.listeners.put(built, reserved);
            match self.control.records.generations().time(Step::Publish, put) {
                Ok(()) => self.control.records.promoted(Kind::Listener, &name),
                Err(error) => self.failed_late(&name, &format!("{error:#}")),
            }
        }
        self.control.listeners.stats.total_listeners_warming().set(self.listeners.waiting.len() as u64);
        self.forget_routes();
    }

    fn is_there(&mut self, needs: &Needs) -> bool {
        needs.tables.iter().all(|key| self.control.routes.is_settled(key))
            && needs.scopes.iter().all(|key| self.scopes_ready(key))
            && needs.secrets.iter().all(|secret| self.control.secrets.is_settled(secret))
    }

    /// A listener cannot be put in force after the control plane was told that it is good. If it is sent again it is
    /// judged again.
    fn failed_late(&mut self, name: &Arc<str>, reason: &str) {
        tracing::error!(listener = &**name, "cannot be put in force: {reason}");
        self.listeners.bodies.remove(name);
        self.control.records.failed(Kind::Listener, name, reason);
    }

    pub(super) fn remove_listener(&mut self, name: &Arc<str>) {
        if self.control.model.listeners.iter().any(|fixed| fixed.name == *name) {
            // The bootstrap's: no control plane takes it away.
            return;
        }
        self.listeners.waiting.remove(name);
        self.forget_extensions(name);
        if self.listeners.bodies.remove(name).is_some() {
            self.control.listeners.remove(name);
        }
        self.control.records.removed(Kind::Listener, name);
        self.forget_routes();
    }

    /// Builds the listeners that a secret that came was missing for.
    pub(super) fn listeners_with_secret(&mut self, wanted: &DynamicSecret) {
        let waits = |waiting: &Waiting| match waiting {
            Waiting::Secrets(config) => dynamic_secrets(config).iter().any(|secret| **secret == *wanted),
            Waiting::Routes(..) | Waiting::Filters => false,
        };
        let configs: Vec<_> = self
            .listeners
            .waiting
            .values()
            .filter(|waiting| waits(waiting))
            .filter_map(|waiting| match waiting {
                Waiting::Secrets(config) => Some(config.clone()),
                Waiting::Routes(..) | Waiting::Filters => None,
            })
            .collect();
        for config in configs {
            if dynamic_secrets(&config).iter().all(|secret| self.control.secrets.find(secret).is_some())
                && let Err(refusals) = self.build_listener(&config, None)
            {
                let reasons: Vec<_> = refusals.iter().map(|refusal| refusal.reason.as_str()).collect();
                self.failed_late(&config.name, &reasons.join("; "));
            }
        }
    }

    pub(super) fn want_routes(&mut self, key: &RouteKey) {
        let Some((stream, handle)) = self.stream(&key.0, Kind::Route) else { return };
        if !self.listeners.subscribed.iter().any(|(_, known)| known == key) {
            self.listeners.subscribed.push((stream, key.clone()));
        }
        handle.subscribe(Kind::Route, &key.1, key.0.initial_fetch_timeout);
    }

    /// Gives up the tables that no listener uses any more.
    fn forget_routes(&mut self) {
        if !self.control.routes.forget_unused() {
            return;
        }
        let used: HashSet<RouteKey> = self.control.routes.used().into_iter().collect();
        // Two sources may differ in their timeouts alone: the stream knows the name once.
        let kept = self.listeners.subscribed.iter().filter(|(_, key)| used.contains(key));
        let named: HashSet<(StreamId, Arc<str>)> =
            kept.map(|(stream, key)| (*stream, key.1.clone())).collect();
        let streams = &self.streams;
        let (records, subscriptions) = (&self.control.records, &self.control.subscriptions);
        let tables = &mut self.listeners.tables;
        self.listeners.subscribed.retain(|(stream, key)| {
            let keep = used.contains(key);
            if !keep && !named.contains(&(*stream, key.1.clone())) {
                records.removed(Kind::Route, &key.1);
                subscriptions.ended(Kind::Route, &key.1);
                tables.remove(&(*stream, key.1.clone()));
                if let Some(handle) = streams.get(*stream) {
                    handle.unsubscribe(Kind::Route, &key.1);
                }
            }
            keep
        });
        self.forget_unused_virtual_hosts(&used);
    }

    /// Takes a route table of RDS.
    pub(super) fn routes(&mut self, stream: StreamId, resource: &Resource) -> Result<(), Vec<Refusal>> {
        let keys = self.route_keys_of(stream, &resource.name);
        if keys.is_empty() {
            return Ok(());
        }
        let place = (stream, resource.name.clone());
        let settled = keys.iter().all(|key| self.control.routes.is_settled(key));
        if settled && self.listeners.tables.get(&place) == Some(&resource.body) {
            self.control.records.repeated(Kind::Route, &resource.name);
            return Ok(());
        }
        let table = self.decoder.routes(resource)?;
        let build = || RouteTable::build(&table, &self.control.clusters, &self.control.registry);
        let table = self.control.records.generations().time(Step::Build(Kind::Route, &resource.name), build);
        let table = table.map_err(|error| vec![Refusal::new(&*resource.name, "", error.to_string())])?;
        let table = Arc::new(table);
        self.control.records.warming(Kind::Route, &resource.name, version_of(resource));
        for key in &keys {
            if let Some(table) = self.with_virtual_hosts(key, &table) {
                self.put_table(key, &table);
            }
        }
        self.control.subscriptions.reloaded(Kind::Route, &resource.name);
        self.listeners.tables.insert(place, resource.body.clone());
        Ok(())
    }

    /// A table is late: its listeners go on with an empty one.
    pub(super) fn give_up_routes(&mut self, stream: StreamId, name: &Arc<str>) {
        for key in self.route_keys_of(stream, name) {
            if !self.control.routes.is_settled(&key) {
                self.control.routes.store(&key, Arc::default());
            }
        }
    }

    fn route_keys_of(&self, stream: StreamId, name: &Arc<str>) -> Vec<RouteKey> {
        let subscribed = self.listeners.subscribed.iter();
        let of = subscribed.filter(|(from, key)| *from == stream && key.1 == *name);
        of.map(|(_, key)| key.clone()).collect()
    }

    /// Takes a secret of SDS.
    pub(super) fn secret(&mut self, stream: StreamId, resource: &Resource) -> Result<(), Vec<Refusal>> {
        let (place, print) = ((stream, resource.name.clone()), fingerprint(&resource.body));
        if self.secrets_here.get(&place) == Some(&print) {
            self.control.records.repeated(Kind::Secret, &resource.name);
            return Ok(());
        }
        let secret = self.decoder.secret(resource)?;
        // Before they are read: what changes from here on is another reading.
        let prints = prints_of(&secret);
        outrider_net::tls::check_secret(&secret)
            .map_err(|error| vec![Refusal::new(&*resource.name, "", error.to_string())])?;
        outrider_http::secrets::check(&secret)
            .map_err(|error| vec![Refusal::new(&*resource.name, "", error.to_string())])?;
        // Its body holds keys: it is not kept.
        let version = Version { body: Bytes::new(), ..version_of(resource) };
        self.control.records.warming(Kind::Secret, &resource.name, version);
        self.control.records.promoted(Kind::Secret, &resource.name);
        if self.put_secret(stream, &resource.name, &secret) {
            self.secrets_here.insert(place.clone(), print);
            self.secret_files.follow(place, &secret, prints);
        }
        Ok(())
    }

    /// Puts a secret in force for all who want it; false: nobody does.
    pub(super) fn put_secret(
        &mut self,
        stream: StreamId,
        name: &Arc<str>,
        secret: &Arc<model::Secret>,
    ) -> bool {
        let of = self.wanted_secrets.iter();
        let of = of.filter(|(from, wanted)| *from == stream && wanted.name == *name);
        let wanted: Vec<_> = of.map(|(_, wanted)| wanted.clone()).collect();
        for wanted in &wanted {
            self.control.secrets.store(wanted.source.kind.clone(), secret.clone());
            self.secret_came(wanted);
            self.listeners_with_secret(wanted);
            self.control.listeners.renew_tls(wanted);
            self.renew_waiting(wanted);
            self.control.clusters.renew_tls(wanted, &|wanted| self.control.secrets.find(wanted));
        }
        !wanted.is_empty()
    }

    /// A secret is late, or no good: filters that wait for it go on without, and turn requests away that need it.
    pub(super) fn give_up_secret(&self, stream: StreamId, name: &Arc<str>) {
        let of = self.wanted_secrets.iter().filter(|(from, wanted)| *from == stream && wanted.name == *name);
        of.for_each(|(_, wanted)| self.control.secrets.give_up(wanted));
    }

    /// A listener that waits for its tables has its secrets already: it is not to begin with one that is outdated.
    fn renew_waiting(&self, changed: &DynamicSecret) {
        let secrets = |wanted: &DynamicSecret| self.control.secrets.find(wanted);
        for waiting in self.listeners.waiting.values() {
            let Waiting::Routes(built, ..) = waiting else { continue };
            for error in built.shared.renew_tls(changed, &secrets).1 {
                tracing::error!(secret = &*changed.name, "a waiting listener keeps its certificate: {error}");
            }
        }
    }

    /// Asks for a secret, if nobody did.
    pub(super) fn want_secret(&mut self, secret: &Arc<DynamicSecret>) {
        let Some((stream, handle)) = self.stream(&secret.source, Kind::Secret) else { return };
        if !self.wanted_secrets.iter().any(|(_, known)| known == secret) {
            self.wanted_secrets.push((stream, secret.clone()));
            let name = secret.name.clone();
            let owner = Owner { name: name.clone(), stat_name: name, stream: Some(stream) };
            self.control.subscriptions.asked(Kind::Secret, &secret.name, owner);
            handle.subscribe(Kind::Secret, &secret.name, secret.source.initial_fetch_timeout);
        }
    }
}

/// Tells one secret from another without keeping it.
pub(super) fn fingerprint(body: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(body, &mut hasher);
    std::hash::Hasher::finish(&hasher)
}

fn route_needs(config: &model::Listener) -> Needs {
    let mut needs = Needs::default();
    for chain in config.filter_chains.iter().chain(&config.default_filter_chain) {
        let NetworkFilter::Http(manager) = &chain.filter else { continue };
        match &manager.routes {
            Routes::Rds { source, name } => needs.tables.push((source.clone(), name.clone())),
            Routes::Scoped(scoped) => needs.scopes.extend(ScopesKey::of(scoped)),
            Routes::Inline(_) => {}
        }
        for filter in &manager.filters {
            match &filter.kind {
                HttpFilterKind::CredentialInjector(injector) => {
                    needs.secrets.extend(injector.dynamic_secret().cloned());
                }
                HttpFilterKind::OAuth2(Some(login)) => needs.secrets.extend(login.dynamic_secrets().cloned()),
                _ => {}
            }
        }
    }
    needs
}

/// The secrets of the HTTP filters of `config`, as far as they come from elsewhere.
pub(crate) fn filter_secrets(config: &model::Listener) -> Vec<Arc<DynamicSecret>> {
    route_needs(config).secrets
}

pub(crate) fn dynamic_secrets(config: &model::Listener) -> Vec<Arc<DynamicSecret>> {
    let chains = config.filter_chains.iter().chain(&config.default_filter_chain);
    let contexts = chains.filter_map(|chain| chain.tls.as_ref());
    contexts.flat_map(|tls| tls.dynamic_secrets().into_iter().cloned()).collect()
}

/// Whether `config` needs more than the secrets of its TLS contexts.
pub(crate) fn needs_routes(config: &model::Listener) -> bool {
    let Needs { tables, scopes, secrets } = route_needs(config);
    !tables.is_empty() || !scopes.is_empty() || !secrets.is_empty() || has_extensions(config)
}
