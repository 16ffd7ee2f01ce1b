//! VHDS: virtual hosts that come by themselves and are put into a route table beside its own.
//!
//! A virtual host's resource name is `<route configuration>/<name>`. As Envoy does, the first request asks for all of them
//! by naming none; those of tables that are not here yet are kept for them. Each is judged by itself. A table whose virtual
//! hosts have not come yet is not in force before `initial_fetch_timeout` of their source.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use outrider_http::routing::{RouteTable, VirtualHost};
use outrider_xds::{Kind, Refusal, Resource};

use super::claims::{Claimant, Clash, settle};
use super::controller::{Controller, version_of};
use super::routes::RouteKey;
use super::streams::StreamId;

/// The virtual hosts of the tables that have a source of them.
#[derive(Default)]
pub(super) struct VirtualHosts {
    tables: HashMap<RouteKey, Hosts>,
    /// Those that came and have no table (yet).
    others: HashMap<(StreamId, Arc<str>), Resource>,
    /// Streams whose first answer came, or is late.
    answered: HashSet<StreamId>,
}

struct Hosts {
    stream: StreamId,
    /// The table as RDS brought it.
    base: Arc<RouteTable>,
    by_name: BTreeMap<Arc<str>, Known>,
    /// Names that requests asked for.
    asked: BTreeSet<Arc<str>>,
    /// Something changed since the table was put together.
    changed: bool,
}

struct Known {
    resource: Resource,
    host: VirtualHost,
    /// What was in force before the update that is being taken.
    before: Option<Box<Known>>,
    /// The update that is being taken brought it.
    fresh: bool,
}

impl VirtualHosts {
    /// The stream that brings the virtual hosts of a table, if it has such.
    pub(super) fn stream_of(&self, key: &RouteKey) -> Option<StreamId> {
        self.tables.get(key).map(|hosts| hosts.stream)
    }

    /// A request asks for `name`.
    pub(super) fn asked(&mut self, stream: StreamId, name: &Arc<str>) {
        for (key, hosts) in &mut self.tables {
            if hosts.stream == stream && Kind::VirtualHost.namespace(name) == Some(&*key.1) {
                hosts.asked.insert(name.clone());
            }
        }
    }

    /// The control plane has nothing for `name`.
    pub(super) fn given_up(&mut self, stream: StreamId, name: &Arc<str>) {
        for hosts in self.tables.values_mut().filter(|hosts| hosts.stream == stream) {
            hosts.asked.remove(name);
        }
    }
}

impl Known {
    fn is_complete(&self) -> bool {
        self.host.clusters().all(|slot| slot.current.load().is_some())
    }
}

impl Hosts {
    fn new(stream: StreamId, base: Arc<RouteTable>) -> Self {
        Self { stream, base, by_name: BTreeMap::new(), asked: BTreeSet::new(), changed: true }
    }

    /// Takes out what claims a domain that is taken. Returns what of the update is refused for that.
    fn settle_domains(&mut self) -> Vec<(Resource, String)> {
        let mut refused = Vec::new();
        let table = self.base.config();
        let own = table.virtual_hosts.iter().flat_map(|host| &host.domains);
        for Clash { name, claim, loser, .. } in settle(&mut self.by_name, own.cloned()) {
            tracing::warn!(
                virtual_host = &*name,
                domain = claim,
                "the domain is taken: the virtual host is not in force"
            );
            if loser.fresh {
                refused
                    .push((loser.resource, format!("the domain {claim} is taken by another virtual host")));
            }
        }
        refused
    }
}

impl Claimant for Known {
    type Claim = String;

    fn claims(&self) -> Vec<String> {
        self.host.config().domains.clone()
    }

    fn is_new(&self) -> bool {
        self.fresh
    }

    fn before(&mut self) -> &mut Option<Box<Self>> {
        &mut self.before
    }
}

impl Controller {
    /// `base` with its virtual hosts from elsewhere; `None` while it has to wait for them.
    pub(super) fn with_virtual_hosts(
        &mut self,
        key: &RouteKey,
        base: &Arc<RouteTable>,
    ) -> Option<Arc<RouteTable>> {
        let found = base.config().vhds.clone().and_then(|vhds| {
            let (stream, handle) = self.stream(&vhds.source, Kind::VirtualHost)?;
            Some((stream, handle, vhds.source.initial_fetch_timeout))
        });
        let Some((stream, handle, timeout)) = found else {
            self.forget_virtual_hosts(key);
            return Some(base.clone());
        };
        if self.vhosts.tables.get(key).is_some_and(|hosts| hosts.stream != stream) {
            self.forget_virtual_hosts(key);
        }
        handle.subscribe_all(Kind::VirtualHost, timeout);
        let known = self.vhosts.tables.remove(key);
        let mut hosts = known.unwrap_or_else(|| Hosts::new(stream, base.clone()));
        hosts.base = base.clone();
        hosts.changed = true;
        // What they take over from the table may have changed; and some came before it.
        let known = std::mem::take(&mut hosts.by_name).into_values().map(|known| known.resource);
        let waiting = self
            .vhosts
            .others
            .extract_if(|(of, name), _| *of == stream && Kind::VirtualHost.namespace(name) == Some(&*key.1));
        let all: Vec<Resource> = known.chain(waiting.map(|(_, resource)| resource)).collect();
        for resource in all {
            let name = resource.name.clone();
            match self.compile(base, &resource) {
                Ok(host) => {
                    hosts.by_name.insert(name, Known { resource, host, before: None, fresh: false });
                }
                Err(refusals) => tracing::warn!(
                    virtual_host = &*name,
                    ?refusals,
                    "it does not go with its new route configuration and is not in force"
                ),
            }
        }
        hosts.settle_domains();
        self.vhosts.tables.insert(key.clone(), hosts);
        self.assembled(key)
    }

    /// The table of `key` with its virtual hosts, if it is to be put in force.
    fn assembled(&mut self, key: &RouteKey) -> Option<Arc<RouteTable>> {
        let settled = self.control.routes.is_settled(key);
        let hosts = self.vhosts.tables.get_mut(key)?;
        let answered = self.vhosts.answered.contains(&hosts.stream);
        if !(answered || settled) || !std::mem::take(&mut hosts.changed) {
            return None;
        }
        match hosts.base.with(hosts.by_name.values().map(|known| known.host.clone())) {
            Ok(table) => Some(Arc::new(table)),
            Err(error) => {
                // Domains were settled before.
                tracing::error!(routes = &*key.1, "virtual hosts do not fit together: {error}");
                None
            }
        }
    }

    fn compile(&mut self, base: &RouteTable, resource: &Resource) -> Result<VirtualHost, Vec<Refusal>> {
        let host = self.decoder.virtual_host(&resource.name, &resource.body, base.config())?;
        let built = VirtualHost::build(base.config(), &host, &self.control.clusters, &self.control.registry);
        built.map_err(|error| vec![Refusal::new(&*resource.name, "", error.to_string())])
    }

    /// Takes a virtual host of VHDS. It is in force when [`Self::publish_virtual_hosts`] has been called.
    pub(super) fn virtual_host(&mut self, stream: StreamId, resource: &Resource) -> Result<(), Vec<Refusal>> {
        let keys = self.tables_of(stream, &resource.name);
        if keys.is_empty() {
            self.vhosts.others.insert((stream, resource.name.clone()), resource.clone());
            self.control.records.warming(Kind::VirtualHost, &resource.name, version_of(resource));
            self.control.records.promoted(Kind::VirtualHost, &resource.name);
            return Ok(());
        }
        for key in keys {
            let Some(hosts) = self.vhosts.tables.get(&key) else { continue };
            let known = hosts.by_name.get(&resource.name);
            if known.is_some_and(|known| known.resource.body == resource.body) {
                continue;
            }
            let base = hosts.base.clone();
            let host = self.compile(&base, resource)?;
            let Some(hosts) = self.vhosts.tables.get_mut(&key) else { continue };
            let before = hosts.by_name.remove(&resource.name).map(Box::new);
            let known = Known { resource: resource.clone(), host, before, fresh: true };
            hosts.by_name.insert(resource.name.clone(), known);
            hosts.changed = true;
        }
        self.control.records.repeated(Kind::VirtualHost, &resource.name);
        Ok(())
    }

    /// Puts what an update of VHDS brought in force, and takes out what it `removed`. Returns what is refused because its
    /// domains are taken.
    pub(super) fn publish_virtual_hosts(&mut self, stream: StreamId, removed: &[Arc<str>]) -> Vec<Refusal> {
        self.vhosts.answered.insert(stream);
        for name in removed {
            self.vhosts.others.remove(&(stream, name.clone()));
            for key in self.tables_of(stream, name) {
                let Some(hosts) = self.vhosts.tables.get_mut(&key) else { continue };
                hosts.changed |= hosts.by_name.remove(name).is_some();
            }
            self.control.records.removed(Kind::VirtualHost, name);
        }
        let (mut good, mut refused) = (Vec::new(), Vec::new());
        let keys: Vec<_> = self.vhosts.tables.keys().cloned().collect();
        for key in keys {
            let Some(hosts) = self.vhosts.tables.get_mut(&key).filter(|hosts| hosts.stream == stream) else {
                continue;
            };
            let mut breaks = false;
            if hosts.changed {
                refused.extend(hosts.settle_domains());
                for known in hosts.by_name.values_mut() {
                    breaks |= known.before.is_some() && !known.is_complete();
                    known.before = None;
                    if std::mem::take(&mut known.fresh) {
                        good.push(known.resource.clone());
                    }
                }
            }
            self.put_assembled(&key, breaks);
        }
        let records = &self.control.records;
        for resource in good {
            records.warming(Kind::VirtualHost, &resource.name, version_of(&resource));
            records.promoted(Kind::VirtualHost, &resource.name);
        }
        let refusal = |(resource, reason): (Resource, String)| {
            records.refused(Kind::VirtualHost, &resource.name, version_of(&resource), reason.clone());
            Refusal::new(&*resource.name, "domains", reason)
        };
        refused.into_iter().map(refusal).collect()
    }

    /// Virtual hosts are late: tables go on with their own.
    pub(super) fn give_up_virtual_hosts(&mut self, stream: StreamId) {
        self.vhosts.answered.insert(stream);
        let keys = self.vhosts.tables.iter().filter(|(_, hosts)| hosts.stream == stream);
        for key in keys.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.put_assembled(&key, false);
        }
    }

    /// A virtual host that is new breaks nothing, whether its clusters are there or not; one in the place of another may.
    fn put_assembled(&mut self, key: &RouteKey, breaks: bool) {
        let Some(table) = self.assembled(key) else { return };
        if breaks || self.held.holds(key) {
            self.put_table(key, &table);
        } else {
            self.publish_table(key, &table);
        }
    }

    /// The tables that a virtual host of this name is for.
    fn tables_of(&self, stream: StreamId, name: &str) -> Vec<RouteKey> {
        let Some(table) = Kind::VirtualHost.namespace(name) else { return Vec::new() };
        let hosts = self.vhosts.tables.iter();
        let of = hosts.filter(|(key, hosts)| hosts.stream == stream && *key.1 == *table);
        of.map(|(key, _)| key.clone()).collect()
    }

    /// Gives up the virtual hosts of tables that nobody uses.
    pub(super) fn forget_unused_virtual_hosts(&mut self, used: &HashSet<RouteKey>) {
        let unused = self.vhosts.tables.keys().filter(|key| !used.contains(key));
        for key in unused.cloned().collect::<Vec<_>>() {
            self.forget_virtual_hosts(&key);
        }
    }

    fn forget_virtual_hosts(&mut self, key: &RouteKey) {
        let Some(gone) = self.vhosts.tables.remove(key) else { return };
        let stream = gone.stream;
        if self.vhosts.tables.iter().any(|(other, hosts)| hosts.stream == stream && other.1 == key.1) {
            return;
        }
        // Those that came unasked would not come again; those that were asked for do.
        if let Some(handle) = self.streams.get(stream) {
            gone.asked.iter().for_each(|name| handle.unsubscribe(Kind::VirtualHost, name));
        }
        for (name, known) in gone.by_name {
            self.vhosts.others.insert((stream, name), known.resource);
        }
    }
}
