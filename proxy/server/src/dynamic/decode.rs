//! From a resource's bytes to what can be put in force.

use std::sync::Arc;

use outrider_config::convert::{self, KnownClusters, ResourceKind, ResourceReader, UnknownFields};
use outrider_config::model;
use outrider_xds::{Kind, Refusal, Resource};

use super::clusters::Expected;
use super::controller::lock;
use super::generations::Step;
use crate::control::Control;

/// A converted resource.
pub(super) type Decoded<T> = Result<Arc<T>, Vec<Refusal>>;

/// Converts what a control plane sends.
pub(super) struct Decoder {
    reader: ResourceReader,
    options: convert::Options,
    control: Arc<Control>,
}

impl Decoder {
    /// A decoder for what comes to `control`. `warming` are the clusters that tables may name although they are not in
    /// force yet (Envoy: `ClusterInfoMaps::hasCluster`).
    pub(super) fn new(control: Arc<Control>, warming: Expected) -> Self {
        let flags = &control.options;
        let unknown_fields = match (flags.reject_unknown_dynamic_fields, flags.ignore_unknown_dynamic_fields)
        {
            (true, _) => UnknownFields::Reject,
            (false, true) => UnknownFields::Ignore,
            (false, false) => UnknownFields::Warn,
        };
        let clusters = control.clusters.clone();
        let known = KnownClusters::new(move |name| {
            clusters.slot(name).is_some_and(|slot| slot.current.load().is_some())
                || lock(&warming).contains(name)
        });
        let options = convert::Options { unknown_fields, ..convert::Options::default() };
        Self {
            reader: ResourceReader::default(),
            options: convert::Options { clusters: Some(known), ..options.for_resources(&control.model) },
            control,
        }
    }

    /// To be called when all resources of an answer are through: gives back what only they needed.
    pub(super) fn release(&mut self) {
        self.reader.release();
    }

    pub(super) fn cluster(&mut self, resource: &Resource) -> Decoded<model::Cluster> {
        match self.read(ResourceKind::Cluster, resource)? {
            convert::Resource::Cluster(cluster) => Ok(cluster),
            _ => Err(other(resource)),
        }
    }

    pub(super) fn listener(&mut self, resource: &Resource) -> Decoded<model::Listener> {
        match self.read(ResourceKind::Listener, resource)? {
            convert::Resource::Listener(listener) => Ok(listener),
            _ => Err(other(resource)),
        }
    }

    pub(super) fn routes(&mut self, resource: &Resource) -> Decoded<model::RouteConfiguration> {
        match self.read(ResourceKind::RouteConfiguration, resource)? {
            convert::Resource::RouteConfiguration(routes) => Ok(routes),
            _ => Err(other(resource)),
        }
    }

    pub(super) fn endpoints(&mut self, resource: &Resource) -> Decoded<model::Endpoints> {
        match self.read(ResourceKind::Endpoints, resource)? {
            convert::Resource::Endpoints { endpoints, .. } => Ok(endpoints),
            _ => Err(other(resource)),
        }
    }

    pub(super) fn secret(&mut self, resource: &Resource) -> Decoded<model::Secret> {
        match self.read(ResourceKind::Secret, resource)? {
            convert::Resource::Secret(secret) => Ok(secret),
            _ => Err(other(resource)),
        }
    }

    pub(super) fn scope(&mut self, resource: &Resource) -> Decoded<model::Scope> {
        match self.read(ResourceKind::ScopedRoute, resource)? {
            convert::Resource::Scope(scope) => Ok(scope),
            _ => Err(other(resource)),
        }
    }

    /// A virtual host of `table`.
    pub(super) fn virtual_host(
        &mut self,
        name: &Arc<str>,
        body: &[u8],
        table: &model::RouteConfiguration,
    ) -> Decoded<model::VirtualHost> {
        let step = Step::Convert(Kind::VirtualHost, name);
        let read = || self.reader.virtual_host(body, table, &self.options);
        let outcome = self.control.records.generations().time(step, read);
        self.judge(Kind::VirtualHost, name, outcome)
    }

    pub(super) fn extension(&mut self, resource: &Resource) -> Decoded<model::Extension> {
        match self.read(ResourceKind::Extension, resource)? {
            convert::Resource::Extension { extension, .. } => Ok(extension),
            _ => Err(other(resource)),
        }
    }

    pub(super) fn runtime(&mut self, resource: &Resource) -> Decoded<model::RuntimeEntries> {
        match self.read(ResourceKind::Runtime, resource)? {
            convert::Resource::Runtime { entries, .. } => Ok(entries),
            _ => Err(other(resource)),
        }
    }

    fn read(&mut self, kind: ResourceKind, resource: &Resource) -> Result<convert::Resource, Vec<Refusal>> {
        let Some(of) = Kind::from_type_url(kind.type_url()) else { return Err(other(resource)) };
        let read = || self.reader.read(kind, &resource.name, &resource.body, &self.options);
        let outcome = self.control.records.generations().time(Step::Convert(of, &resource.name), read);
        self.judge(of, &resource.name, outcome)
    }

    fn judge<T>(
        &self,
        kind: Kind,
        name: &Arc<str>,
        (result, ledger): convert::Outcome<T>,
    ) -> Result<T, Vec<Refusal>> {
        for field in &ledger.unknown {
            tracing::warn!(name = &**name, "unknown field {field} is left out");
            self.control.server_stats.dynamic_unknown_fields().inc();
        }
        if result.is_ok() {
            self.control.records.inert(kind, name, ledger.inert);
        }
        result.map_err(|problems| {
            let refusals = problems.into_iter();
            refusals.map(|problem| Refusal::new(&**name, problem.path, problem.message)).collect()
        })
    }
}

/// A reader gives what it is asked for.
fn other(resource: &Resource) -> Vec<Refusal> {
    vec![Refusal::new(&*resource.name, "", "it is of another type")]
}
