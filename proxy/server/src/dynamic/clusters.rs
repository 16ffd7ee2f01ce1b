//! Clusters and their endpoints.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use outrider_config::model::{self, Discovery, DynamicSecret};
use outrider_upstream::ClusterShared;
use outrider_xds::{Kind, Refusal, Resource};

use super::controller::{Controller, lock, version_of};
use super::generations::Step;
use super::streams::StreamId;
use super::subscriptions::Owner;
use crate::control::Control;

/// The names of clusters that wait for something. Cloning gives another handle.
pub(super) type Expected = Arc<Mutex<HashSet<Arc<str>>>>;

/// Clusters that came from elsewhere, or wait for what does.
#[derive(Default)]
pub(super) struct Clusters {
    by_name: HashMap<Arc<str>, Entry>,
    endpoints: HashMap<(StreamId, Arc<str>), Endpoints>,
    /// Those that wait for something.
    warming: HashSet<Arc<str>>,
    /// The same, for others to look at.
    expected: Expected,
    /// Those of `warming` that find their hosts by themselves.
    finding: HashSet<Arc<str>>,
    /// Those of `warming` that may have what they waited for.
    touched: Vec<Arc<str>>,
    /// Those of the bootstrap: no control plane replaces them.
    fixed: HashSet<Arc<str>>,
}

#[derive(Default)]
struct Entry {
    /// As it came, to tell a change from a repetition.
    body: Option<Bytes>,
    /// In force.
    active: Option<Arc<ClusterShared>>,
    /// Waits for its hosts.
    warming: Option<Arc<ClusterShared>>,
    /// Waits for its secrets: it cannot be built yet.
    unbuilt: Option<Arc<model::Cluster>>,
    /// Its endpoints' key.
    endpoints: Option<(StreamId, Arc<str>)>,
}

#[derive(Default)]
struct Endpoints {
    current: Option<Arc<model::Endpoints>>,
    /// As they came, to tell a change from a repetition.
    body: Bytes,
    /// They are late; clusters do not wait for them any more.
    given_up: bool,
    users: BTreeSet<Arc<str>>,
}

impl Clusters {
    pub(super) fn new(control: &Control) -> Self {
        Self {
            fixed: control.model.clusters.iter().map(|cluster| cluster.name.clone()).collect(),
            ..Self::default()
        }
    }

    /// Whether the cluster is in force, or waits for what it needs.
    pub(super) fn is_known(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Whether the cluster is in force.
    pub(super) fn is_active(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|entry| entry.active.is_some())
    }

    /// Whether a cluster waits for what it needs; those that wait for secrets do not count `without_secrets`.
    pub(super) fn is_warming(&self, without_secrets: bool) -> bool {
        let waits_for_secrets = |name: &Arc<str>| {
            let entry = self.by_name.get(name);
            entry.is_some_and(|entry| entry.unbuilt.is_some() && entry.warming.is_none())
        };
        self.warming.iter().any(|name| !(without_secrets && waits_for_secrets(name)))
    }

    /// Hosts changed: those that find them by themselves may have found them.
    pub(super) fn hosts_changed(&mut self) {
        self.touched.extend(self.finding.iter().cloned());
    }

    /// Whether the cluster is the bootstrap's.
    pub(super) fn is_fixed(&self, name: &str) -> bool {
        self.fixed.contains(name)
    }

    /// Calls `tell` with each cluster that uses these endpoints.
    pub(super) fn each_user(&self, key: &(StreamId, Arc<str>), tell: impl Fn(&ClusterShared)) {
        let users = self.endpoints.get(key).into_iter().flat_map(|endpoints| &endpoints.users);
        let entries = users.filter_map(|name| self.by_name.get(name));
        entries
            .filter_map(|entry| entry.active.as_ref().or(entry.warming.as_ref()))
            .for_each(|one| tell(one));
    }

    /// The names of clusters that wait for something, for others to look at.
    pub(super) fn expected(&self) -> Expected {
        self.expected.clone()
    }

    fn waits_no_more(&mut self, name: &Arc<str>) {
        lock(&self.expected).remove(name);
        self.warming.remove(name);
        self.finding.remove(name);
    }
}

impl Controller {
    /// Takes a cluster of CDS.
    pub(super) fn cluster(&mut self, resource: &Resource) -> Result<(), Vec<Refusal>> {
        self.held.stays(&resource.name);
        let known = self.clusters.by_name.get(&resource.name);
        if known.is_some_and(|known| known.body.as_ref() == Some(&resource.body)) {
            self.control.records.repeated(Kind::Cluster, &resource.name);
            return Ok(());
        }
        if self.clusters.fixed.contains(&resource.name) {
            // As Envoy has it: the bootstrap's cluster stays, and the control plane is not told.
            tracing::warn!(
                cluster = &*resource.name,
                "the bootstrap has this cluster: the control plane's is not used"
            );
            return Ok(());
        }
        let cluster = self.decoder.cluster(resource)?;
        self.put_cluster(cluster, Some(resource.body.clone()));
        if let Some(reason) = self.build_cluster(&resource.name) {
            return Err(vec![Refusal::new(&*resource.name, "", reason)]);
        }
        self.control.records.warming(Kind::Cluster, &resource.name, version_of(resource));
        Ok(())
    }

    /// Begins to warm `config`. `body` is what it came as.
    pub(super) fn put_cluster(&mut self, config: Arc<model::Cluster>, body: Option<Bytes>) {
        let name = config.name.clone();
        let entry = self.clusters.by_name.entry(name.clone()).or_default();
        entry.body = body;
        entry.unbuilt = Some(config.clone());
        self.clusters.warming.insert(name.clone());
        lock(&self.clusters.expected).insert(name.clone());
        for secret in config.dynamic_secrets() {
            self.want_secret(secret);
        }
        if self.clusters.by_name.get(&name).is_some_and(|entry| entry.body.is_none())
            && let Some(reason) = self.build_cluster(&name)
        {
            tracing::error!(cluster = &*name, "cannot be built: {reason}");
        }
    }

    /// Builds a cluster whose secrets are there. Returns why that cannot be, if it cannot: it is given up then.
    fn build_cluster(&mut self, name: &Arc<str>) -> Option<String> {
        let config = self.clusters.by_name.get(name)?.unbuilt.clone()?;
        let secrets = self.control.secrets.clone();
        let find = |wanted: &DynamicSecret| secrets.find(wanted);
        let missing = config.dynamic_secrets().any(|wanted| find(wanted).is_none());
        if missing {
            return None;
        }
        let prepare = || self.control.clusters.prepare(config.clone(), &find);
        let built = self.control.records.generations().time(Step::Build(Kind::Cluster, name), prepare);
        let owner =
            |stream| Owner { name: name.clone(), stat_name: config.stat_name.clone(), stream: Some(stream) };
        let wanted = match &config.discovery {
            Discovery::Eds { source, service_name } => {
                self.stream(source, Kind::Endpoint).map(|(stream, handle)| {
                    self.control.subscriptions.asked(Kind::Endpoint, service_name, owner(stream));
                    handle.subscribe(Kind::Endpoint, service_name, source.initial_fetch_timeout);
                    (stream, service_name.clone())
                })
            }
            _ => None,
        };
        let entry = self.clusters.by_name.get_mut(name)?;
        entry.unbuilt = None;
        let shared = match built {
            Ok(shared) => shared,
            Err(error) => {
                // What was in force stays; so does what is known of it, so that the same again is judged again.
                entry.body = None;
                if entry.warming.is_none() {
                    self.clusters.waits_no_more(name);
                }
                return Some(error.to_string());
            }
        };
        if entry.body.is_some() {
            shared.sent_by_api();
        }
        if let Some(abandoned) = entry.warming.replace(shared.clone()) {
            self.control.clusters.abandon(&abandoned);
        }
        self.clusters.touched.push(name.clone());
        let before = std::mem::replace(&mut entry.endpoints, wanted.clone());
        if let Some(key) = wanted {
            let endpoints = self.clusters.endpoints.entry(key.clone()).or_default();
            endpoints.users.insert(name.clone());
            if shared.config.checks.is_some() {
                // Its endpoints are followed by their first checks.
                self.clusters.finding.insert(name.clone());
            }
            if let Some(current) = &endpoints.current {
                self.control.clusters.set_endpoints(&shared, current);
            } else if endpoints.given_up {
                shared.give_up_waiting();
            }
            if before.as_ref() != Some(&key) {
                self.leave_endpoints(name, before);
            }
        } else {
            self.clusters.finding.insert(name.clone());
            self.leave_endpoints(name, before);
        }
        None
    }

    fn leave_endpoints(&mut self, cluster: &Arc<str>, key: Option<(StreamId, Arc<str>)>) {
        let Some(key) = key else { return };
        let Some(endpoints) = self.clusters.endpoints.get_mut(&key) else { return };
        endpoints.users.remove(cluster);
        self.control.subscriptions.left(Kind::Endpoint, &key.1, cluster, key.0);
        if endpoints.users.is_empty() {
            self.clusters.endpoints.remove(&key);
            self.stale.renew(&key, None);
            self.control.records.removed(Kind::Endpoint, &key.1);
            self.control.subscriptions.ended(Kind::Endpoint, &key.1);
            if let Some(handle) = self.streams.get(key.0) {
                handle.unsubscribe(Kind::Endpoint, &key.1);
            }
        }
    }

    /// Puts clusters in force whose hosts are there.
    pub(super) fn promote_clusters(&mut self) {
        let mut promoted = 0;
        for name in std::mem::take(&mut self.clusters.touched) {
            let Some(entry) = self.clusters.by_name.get_mut(&name) else { continue };
            if entry.warming.as_ref().is_some_and(|warming| warming.is_warm())
                && let Some(warm) = entry.warming.take()
            {
                let promote = || self.control.clusters.promote(&warm);
                self.control.records.generations().time(Step::Publish, promote);
                entry.active = Some(warm);
                if entry.unbuilt.is_none() {
                    self.clusters.waits_no_more(&name);
                }
                self.control.records.promoted(Kind::Cluster, &name);
                promoted += 1;
            }
        }
        if promoted > 0 {
            tracing::debug!(promoted, "clusters are in force");
        }
    }

    /// Builds what a secret that came was missing for.
    pub(super) fn secret_came(&mut self, wanted: &DynamicSecret) {
        let waits = |entry: &&Entry| {
            let mut secrets = entry.unbuilt.iter().flat_map(|config| config.dynamic_secrets());
            secrets.any(|secret| **secret == *wanted)
        };
        let waiting = self.clusters.by_name.iter().filter(|(_, entry)| waits(entry));
        for name in waiting.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            if let Some(reason) = self.build_cluster(&name) {
                tracing::error!(cluster = &*name, "cannot be built: {reason}");
            }
        }
    }

    pub(super) fn remove_cluster(&mut self, name: &Arc<str>) {
        let Some(entry) = self.clusters.by_name.remove(name) else {
            // All that is known of it is that it was refused.
            self.control.records.removed(Kind::Cluster, name);
            return;
        };
        self.clusters.waits_no_more(name);
        if let Some(warming) = &entry.warming {
            self.control.clusters.abandon(warming);
        }
        if entry.active.is_some() {
            self.control.clusters.remove(name);
        }
        self.leave_endpoints(name, entry.endpoints);
        self.control.records.removed(Kind::Cluster, name);
    }

    /// Takes endpoints of EDS.
    pub(super) fn endpoints(&mut self, stream: StreamId, resource: &Resource) -> Result<(), Vec<Refusal>> {
        let key = (stream, resource.name.clone());
        let Some(endpoints) = self.clusters.endpoints.get_mut(&key) else { return Ok(()) };
        if let Some(current) = endpoints.current.clone().filter(|_| endpoints.body == resource.body) {
            self.live(&key, &current);
            self.control.records.repeated(Kind::Endpoint, &resource.name);
            return Ok(());
        }
        let found = self.decoder.endpoints(resource)?;
        endpoints.current = Some(found.clone());
        endpoints.given_up = false;
        endpoints.body = resource.body.clone();
        for name in &endpoints.users {
            let Some(entry) = self.clusters.by_name.get(name) else { continue };
            for shared in entry.active.iter().chain(&entry.warming) {
                let set = || self.control.clusters.set_endpoints(shared, &found);
                self.control.records.generations().time(Step::Publish, set);
            }
            self.clusters.touched.push(name.clone());
        }
        self.control.records.warming(Kind::Endpoint, &resource.name, version_of(resource));
        self.control.records.promoted(Kind::Endpoint, &resource.name);
        self.live(&key, &found);
        Ok(())
    }

    /// The control plane has no endpoints of this name (any more). What is in force stays, as in Envoy: a cluster is
    /// emptied by an assignment without endpoints, and one that goes altogether may be in use until its routes are
    /// replaced. A cluster that waits goes on without.
    pub(super) fn no_such_endpoints(&mut self, stream: StreamId, name: &Arc<str>) {
        let key = (stream, name.clone());
        if self.clusters.endpoints.get(&key).is_some_and(|endpoints| endpoints.current.is_none()) {
            self.give_up_endpoints(stream, name);
        }
    }

    /// The time of endpoints is over: the clusters have none.
    pub(super) fn lose_endpoints(&mut self, stream: StreamId, name: &Arc<str>) {
        let Some(endpoints) = self.clusters.endpoints.get_mut(&(stream, name.clone())) else { return };
        endpoints.current = None;
        // They may not come again: a next version of a cluster does not wait for them.
        endpoints.given_up = true;
        self.stale.renew(&(stream, name.clone()), None);
        let none = model::Endpoints::default();
        for name in &endpoints.users {
            let Some(entry) = self.clusters.by_name.get(name) else { continue };
            for shared in entry.active.iter().chain(&entry.warming) {
                self.control.clusters.set_endpoints(shared, &none);
            }
            self.clusters.touched.push(name.clone());
        }
        self.control.records.removed(Kind::Endpoint, name);
    }

    /// Endpoints are late, were refused or will not come: their clusters go on without them.
    pub(super) fn give_up_endpoints(&mut self, stream: StreamId, name: &Arc<str>) {
        let Some(endpoints) = self.clusters.endpoints.get_mut(&(stream, name.clone())) else { return };
        endpoints.given_up = true;
        for name in &endpoints.users {
            if let Some(warming) = self.clusters.by_name.get(name).and_then(|entry| entry.warming.as_ref()) {
                warming.give_up_waiting();
                self.clusters.touched.push(name.clone());
            }
        }
    }
}
