//! Single resources: what a config_dump lists, and what xDS brings.

use std::sync::Arc;

use outrider_proto::pb::envoy::config::cluster::v3::Cluster as ClusterMessage;
use outrider_proto::pb::envoy::config::core::v3::TypedExtensionConfig as ExtensionMessage;
use outrider_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrider_proto::pb::envoy::config::listener::v3::Listener as ListenerMessage;
use outrider_proto::pb::envoy::config::route::v3::{
    RouteConfiguration as RouteMessage, ScopedRouteConfiguration as ScopeMessage, VirtualHost as HostMessage,
};
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret as SecretMessage;
use outrider_proto::pb::envoy::service::runtime::v3::Runtime as RuntimeMessage;
use outrider_proto::prost::Message;
use outrider_proto::{Inspected, Inspector, Path, Problem, any};

use super::cx::{Cx, Ledger, Options, UnknownFields};
use crate::model::{
    Cluster, Endpoints, Extension, Listener, RouteConfiguration, RuntimeEntries, Scope, Secret, VirtualHost,
};

/// The outcome of one resource: the model or its problems, and the ledger.
pub type Outcome<T> = (Result<T, Vec<Problem>>, Ledger);

/// The kinds of resources that a control plane sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResourceKind {
    /// CDS
    Cluster,
    /// EDS
    Endpoints,
    /// LDS
    Listener,
    /// RDS
    RouteConfiguration,
    /// VHDS
    VirtualHost,
    /// SRDS
    ScopedRoute,
    /// SDS
    Secret,
    /// RTDS
    Runtime,
    /// ECDS
    Extension,
}

impl ResourceKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Cluster,
        Self::Endpoints,
        Self::Listener,
        Self::RouteConfiguration,
        Self::VirtualHost,
        Self::ScopedRoute,
        Self::Secret,
        Self::Runtime,
        Self::Extension,
    ];

    /// The type URL of its resources.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::RouteConfiguration => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
            Self::ScopedRoute => "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
            Self::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        }
    }

    /// The kind of this type URL, whatever its host.
    pub fn of_type_url(type_url: &str) -> Option<Self> {
        let name = any::type_name(type_url);
        Self::ALL.into_iter().find(|kind| any::type_name(kind.type_url()) == name)
    }
}

/// A resource that a control plane sent, converted.
#[derive(Debug, Clone)]
pub enum Resource {
    /// A cluster.
    Cluster(Arc<Cluster>),
    /// The endpoints of a cluster.
    Endpoints {
        /// The resource's name: the `service_name` of the cluster that they are for, or its name.
        cluster_name: Arc<str>,
        /// The endpoints.
        endpoints: Arc<Endpoints>,
    },
    /// A listener.
    Listener(Arc<Listener>),
    /// A route table.
    RouteConfiguration(Arc<RouteConfiguration>),
    /// A virtual host.
    VirtualHost(Arc<VirtualHost>),
    /// A scope of routes.
    Scope(Arc<Scope>),
    /// A secret.
    Secret(Arc<Secret>),
    /// A layer of the runtime.
    Runtime {
        /// The resource's name.
        name: Arc<str>,
        /// The layer's keys.
        entries: Arc<RuntimeEntries>,
    },
    /// A filter.
    Extension {
        /// The resource's name.
        name: Arc<str>,
        /// The filter.
        extension: Arc<Extension>,
    },
}

impl Resource {
    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Cluster(cluster) => &cluster.name,
            Self::Endpoints { cluster_name, .. } => cluster_name,
            Self::Listener(listener) => &listener.name,
            Self::RouteConfiguration(routes) => &routes.name,
            Self::VirtualHost(host) => &host.name,
            Self::Scope(scope) => &scope.name,
            Self::Secret(secret) => &secret.name,
            Self::Runtime { name, .. } | Self::Extension { name, .. } => name,
        }
    }
}

/// Converts resources from their bytes: what the API does not know is found, its own rules are checked, and what is left
/// is decided field by field. Keeps the rules of the types that it has met, so it is kept itself.
#[derive(Debug, Default)]
pub struct ResourceReader {
    inspector: Inspector,
}

impl ResourceReader {
    /// Converts the encoding of a resource (the `value` of its `Any`). `name` is what it is called outside of it; empty where
    /// it has no name there. Problems name paths that begin with the resource's own fields.
    pub fn read(
        &mut self,
        kind: ResourceKind,
        name: &str,
        bytes: &[u8],
        options: &Options,
    ) -> Outcome<Resource> {
        match kind {
            ResourceKind::Cluster => {
                self.convert(kind, bytes, options, |cx, path, message: &ClusterMessage| {
                    super::cluster::cluster(cx, path, message)
                        .map(|cluster| Resource::Cluster(Arc::new(cluster)))
                })
            }
            ResourceKind::Endpoints => {
                self.convert(kind, bytes, options, |cx, path, message: &ClusterLoadAssignment| {
                    Some(Resource::Endpoints {
                        cluster_name: Arc::from(message.cluster_name.as_str()),
                        endpoints: Arc::new(super::endpoint::dynamic(cx, path, message)),
                    })
                })
            }
            ResourceKind::Listener => {
                self.convert(kind, bytes, options, |cx, path, message: &ListenerMessage| {
                    let listener = if message.name.is_empty() && !name.is_empty() {
                        let message = ListenerMessage { name: name.to_owned(), ..message.clone() };
                        super::listener::listener(cx, path, &message)?
                    } else {
                        super::listener::listener(cx, path, message)?
                    };
                    Some(Resource::Listener(Arc::new(listener)))
                })
            }
            ResourceKind::RouteConfiguration => {
                self.convert(kind, bytes, options, |cx, path, message: &RouteMessage| {
                    let routes = super::route::dynamic(cx, path, message);
                    Some(Resource::RouteConfiguration(Arc::new(routes)))
                })
            }
            ResourceKind::VirtualHost => {
                let (host, ledger) = self.virtual_host(bytes, &RouteConfiguration::default(), options);
                (host.map(Resource::VirtualHost), ledger)
            }
            ResourceKind::ScopedRoute => {
                self.convert(kind, bytes, options, |cx, path, message: &ScopeMessage| {
                    super::scope::scope(cx, path, message).map(|scope| Resource::Scope(Arc::new(scope)))
                })
            }
            ResourceKind::Secret => {
                self.convert(kind, bytes, options, |cx, path, message: &SecretMessage| {
                    super::secret::secret(cx, path, message).map(|secret| Resource::Secret(Arc::new(secret)))
                })
            }
            ResourceKind::Extension => {
                self.convert(kind, bytes, options, |cx, path, message: &ExtensionMessage| {
                    let (name, extension) = super::extension::extension(cx, path, message)?;
                    Some(Resource::Extension { name, extension: Arc::new(extension) })
                })
            }
            ResourceKind::Runtime => {
                self.convert(kind, bytes, options, |cx, path, message: &RuntimeMessage| {
                    let RuntimeMessage { name, layer } = message;
                    let entries = super::runtime::entries(cx, path, layer.as_ref());
                    Some(Resource::Runtime { name: Arc::from(name.as_str()), entries: Arc::new(entries) })
                })
            }
        }
    }

    /// Converts a virtual host that came by itself; `table` is the route table that it is for.
    pub fn virtual_host(
        &mut self,
        bytes: &[u8],
        table: &RouteConfiguration,
        options: &Options,
    ) -> Outcome<Arc<VirtualHost>> {
        self.convert(ResourceKind::VirtualHost, bytes, options, |cx, path, message: &HostMessage| {
            Some(Arc::new(super::route::dynamic_virtual_host(cx, path, message, table)))
        })
    }

    /// Gives the memory back that only types not met before, and faults, needed. To be called when a batch is through.
    pub fn release(&mut self) {
        self.inspector.release();
    }

    fn convert<M: Message + Default, T>(
        &mut self,
        kind: ResourceKind,
        bytes: &[u8],
        options: &Options,
        convert: impl FnOnce(&Cx, &Path<'_>, &M) -> Option<T>,
    ) -> Outcome<T> {
        let name = any::type_name(kind.type_url());
        let refused = |error: &dyn std::fmt::Display| {
            let problem = Problem {
                path: String::new(),
                line: None,
                source: String::new(),
                message: error.to_string(),
            };
            (Err(vec![problem]), Ledger::default())
        };
        let Inspected { unknown, problems: broken, resolved } = match self.inspector.inspect(name, bytes) {
            Ok(inspected) => inspected,
            Err(error) => return refused(&error),
        };
        let message = match M::decode(resolved.as_deref().unwrap_or(bytes)) {
            Ok(message) => message,
            Err(error) => return refused(&format!("malformed {name}: {error}")),
        };
        let root = Path::root();
        let mut cx = Cx::new(options);
        cx.is_dynamic = true;
        cx.is_sds = kind == ResourceKind::Secret;
        let value = convert(&cx, &root, &message);
        if value.is_none() && !cx.has_problems() && broken.is_empty() {
            cx.error(&root, "the resource cannot be used");
        }
        let (result, mut ledger) = cx.finish(value);
        let mut problems = broken;
        for problem in result.as_ref().err().into_iter().flatten() {
            // The API's own rule has already said so, in fewer words.
            if !problems.iter().any(|known| known.path == problem.path) {
                problems.push(problem.clone());
            }
        }
        match options.unknown_fields {
            UnknownFields::Ignore => {}
            UnknownFields::Warn => ledger.unknown = unknown,
            UnknownFields::Reject => problems.extend(unknown.into_iter().map(|path| Problem {
                path,
                line: None,
                source: String::new(),
                message: "Envoy's API has no such field (--reject-unknown-dynamic-fields)".to_owned(),
            })),
        }
        match result {
            Ok(Some(value)) if problems.is_empty() => (Ok(value), ledger),
            _ => (Err(problems), ledger),
        }
    }
}

/// Converts one resource; who has many keeps a [`ResourceReader`].
pub fn from_any(kind: ResourceKind, bytes: &[u8], options: &Options) -> Outcome<Resource> {
    ResourceReader::default().read(kind, "", bytes, options)
}
