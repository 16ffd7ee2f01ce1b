//! The compiled route table.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use outrider_config::model::{
    self, ClusterSpecifier, FilterName, Forward, HeaderMutations, MirrorCluster, RequireTls, RouteAction,
};
use outrider_core::reply::details;
use outrider_core::stats::Registry;
use outrider_core::{LocalReply, StreamMetadata};
use outrider_upstream::{ClusterManager, ClusterSlot};

use super::direct::{self, DirectBodyError};
use super::domain::{DomainIndex, DuplicateDomain};
use super::filters::{HostFilters, Override, Overrides};
use super::index::PathIndex;
use super::matcher::{self, RequestView};
use super::mutation::{Levels, Mutations};
use super::stats::{RouteStats, VirtualClusters};
use super::{redirect, rewrite, weighted};
use crate::filter::FilterError;

/// Why a route table was refused.
#[derive(Debug, thiserror::Error)]
pub enum RouteTableError {
    /// Two virtual hosts claim a domain.
    #[error("route table {table:?}: {source}")]
    Domain {
        /// The table's name.
        table: String,
        /// Which.
        source: DuplicateDomain,
    },
    /// A direct response's body.
    #[error("route table {table:?}, virtual host {virtual_host:?}, route {route}: {source}")]
    DirectBody {
        /// The table's name.
        table: String,
        /// The virtual host's name.
        virtual_host: String,
        /// The route's number in it.
        route: usize,
        /// What is wrong.
        source: DirectBodyError,
    },
    /// What is said of a filter.
    #[error("route table {table:?}, virtual host {virtual_host:?}: {source}")]
    Filter {
        /// The table's name.
        table: String,
        /// The virtual host's name.
        virtual_host: String,
        /// What is wrong.
        source: FilterError,
    },
}

/// A compiled route table: routes by domain and path, their clusters as slots, their header changes lined up.
/// Immutable and shared by all workers.
#[derive(Debug, Default)]
pub struct RouteTable {
    config: Arc<model::RouteConfiguration>,
    domains: DomainIndex,
    hosts: Vec<VirtualHost>,
    /// A format of header changes reads metadata.
    reads_metadata: bool,
}

/// A compiled virtual host. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub struct VirtualHost(Arc<Host>);

#[derive(Debug)]
struct Host {
    config: Arc<model::VirtualHost>,
    index: PathIndex,
    routes: Vec<Route>,
    virtual_clusters: Option<Box<VirtualClusters>>,
}

/// A compiled route.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) config: Arc<model::Route>,
    action: Action,
    /// By the number of the weighted cluster; one entry for all other routes.
    changes: Box<[Changes]>,
    /// What is said of HTTP filters, in the same way.
    filters: Box<[Overrides]>,
    pub(crate) stats: Option<RouteStats>,
}

#[derive(Debug)]
struct Changes {
    request: Mutations,
    response: Mutations,
}

#[derive(Debug)]
enum Action {
    Forward {
        /// By the number of the weighted cluster; empty when a header names the cluster.
        clusters: Box<[Arc<ClusterSlot>]>,
        /// In the order of the route's mirror policies; `None` when a header names the cluster.
        mirrors: Box<[Option<Arc<ClusterSlot>>]>,
    },
    Redirect,
    Direct(Bytes),
}

/// A worker's handle to the table in force. Streams pin it; the worker replaces it.
pub type TableHandle = Rc<Arc<RouteTable>>;

/// What was chosen for a request. Holds the table: a later one does not move the request's ground.
#[derive(Debug, Clone)]
pub struct Selected {
    table: TableHandle,
    host: u32,
    virtual_cluster: u32,
    choice: Choice,
}

#[derive(Debug, Clone, Copy)]
enum Choice {
    /// The virtual host asks for TLS.
    RequireTls,
    Route {
        route: u32,
        /// The number of the weighted cluster, else 0.
        cluster: u32,
    },
}

/// What a selected route does.
#[derive(Debug)]
pub enum SelectedAction<'a> {
    /// The router takes it to a cluster.
    Forward(&'a Forward),
    /// The proxy answers: a redirect or a fixed response. [`Selected::reply`] has it.
    Reply,
}

impl RouteTable {
    /// Headers that only internal requests may carry.
    pub fn internal_only_headers(&self) -> &[http::HeaderName] {
        &self.config.internal_only_headers
    }

    /// Compiles `config`. Clusters that do not exist yet get empty slots. Control thread.
    ///
    /// # Errors
    /// Duplicate domains, and direct responses' bodies that cannot be read or are too large.
    pub fn build(
        config: &Arc<model::RouteConfiguration>,
        clusters: &ClusterManager,
        registry: &Registry,
    ) -> Result<Self, RouteTableError> {
        let hosts =
            config.virtual_hosts.iter().map(|host| VirtualHost::build(config, host, clusters, registry));
        Self::of(config, hosts.collect::<Result<_, _>>()?)
    }

    fn of(config: &Arc<model::RouteConfiguration>, hosts: Vec<VirtualHost>) -> Result<Self, RouteTableError> {
        let domains = DomainIndex::build(hosts.iter().map(|host| &*host.0.config), config.ignore_port)
            .map_err(|source| RouteTableError::Domain { table: config.name.to_string(), source })?;
        let changes = hosts.iter().flat_map(|host| &host.0.routes).flat_map(|route| &route.changes);
        let reads_metadata =
            { changes }.any(|changes| changes.request.reads_metadata() || changes.response.reads_metadata());
        Ok(Self { config: config.clone(), domains, hosts, reads_metadata })
    }

    /// This table with `more` virtual hosts behind its own, which are not compiled again.
    ///
    /// # Errors
    /// A domain is taken already.
    pub fn with(&self, more: impl IntoIterator<Item = VirtualHost>) -> Result<Self, RouteTableError> {
        Self::of(&self.config, self.hosts.iter().cloned().chain(more).collect())
    }

    /// Whether it stands where one did not come (yet).
    pub(crate) fn is_stand_in(&self) -> bool {
        self.config.name.is_empty() && self.hosts.is_empty()
    }

    /// The configuration it was compiled from.
    pub fn config(&self) -> &Arc<model::RouteConfiguration> {
        &self.config
    }

    /// The clusters that its routes and mirrors name; those that a header names are not known.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<ClusterSlot>> {
        self.hosts.iter().flat_map(VirtualHost::clusters)
    }

    /// Whether any route, or a level above it, says something of the filter `name`.
    pub(crate) fn speaks_of(&self, name: &FilterName) -> bool {
        let routes = self.hosts.iter().flat_map(|host| host.0.routes.iter());
        let mut said = routes.flat_map(|route| route.filters.iter()).flat_map(|said| said.iter());
        said.any(|said| said.name == *name)
    }

    /// The route for a request; `None` for 404 `route_not_found`.
    pub fn route(table: &TableHandle, request: &RequestView<'_>) -> Option<Selected> {
        let number = table.domains.find(request.head.authority)?;
        let host = &table.hosts.get(number as usize)?.0;
        let virtual_cluster =
            host.virtual_clusters.as_ref().map_or(0, |clusters| clusters.find(&request.head));
        let selected = |choice| Selected { table: table.clone(), host: number, virtual_cluster, choice };
        if host.wants_tls(request) {
            return Some(selected(Choice::RequireTls));
        }
        let mut path = request.bare_path();
        if table.config.ignore_path_parameters {
            path = path.find(';').and_then(|end| path.get(..end)).unwrap_or(path);
        }
        let takes = |route: u32| {
            host.routes
                .get(route as usize)
                .is_some_and(|route| matcher::matches(&route.config.matches, request, path))
        };
        let route = host.index.first(path, takes)?;
        let cluster = host.routes.get(route as usize)?.choose(request);
        Some(selected(Choice::Route { route, cluster }))
    }
}

impl VirtualHost {
    /// Compiles `config`, a virtual host of `table`. Control thread.
    ///
    /// # Errors
    /// A direct response's body that cannot be read or is too large.
    pub fn build(
        table: &model::RouteConfiguration,
        config: &Arc<model::VirtualHost>,
        clusters: &ClusterManager,
        registry: &Registry,
    ) -> Result<Self, RouteTableError> {
        Host::build(table, config, clusters, registry).map(|host| Self(Arc::new(host)))
    }

    /// The configuration it was compiled from.
    pub fn config(&self) -> &Arc<model::VirtualHost> {
        &self.0.config
    }

    /// As [`RouteTable::clusters`].
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<ClusterSlot>> {
        self.0.routes.iter().flat_map(|route| {
            let (clusters, mirrors) = match &route.action {
                Action::Forward { clusters, mirrors } => (&**clusters, &**mirrors),
                Action::Redirect | Action::Direct(_) => Default::default(),
            };
            clusters.iter().chain(mirrors.iter().flatten())
        })
    }
}

impl Host {
    fn build(
        table: &model::RouteConfiguration,
        config: &Arc<model::VirtualHost>,
        clusters: &ClusterManager,
        registry: &Registry,
    ) -> Result<Self, RouteTableError> {
        let wrong = |source| RouteTableError::Filter {
            table: table.name.to_string(),
            virtual_host: config.name.to_string(),
            source,
        };
        let filters = HostFilters::new(table, config).map_err(wrong)?;
        let mut routes = Vec::with_capacity(config.routes.len());
        for (number, route) in config.routes.iter().enumerate() {
            let action =
                Action::build(route, clusters, table.max_direct_response_body).map_err(|source| {
                    RouteTableError::DirectBody {
                        table: table.name.to_string(),
                        virtual_host: config.name.to_string(),
                        route: number,
                        source,
                    }
                })?;
            routes.push(Route {
                config: route.clone(),
                action,
                changes: changes(table, config, route),
                filters: filters.of(route).map_err(wrong)?,
                stats: route.stat_prefix.as_ref().map(|prefix| RouteStats::build(registry, config, prefix)),
            });
        }
        Ok(Self {
            config: config.clone(),
            index: PathIndex::build(&config.routes),
            routes,
            virtual_clusters: VirtualClusters::build(registry, config),
        })
    }

    fn wants_tls(&self, request: &RequestView<'_>) -> bool {
        let header = |name: &str, want: &[u8]| {
            request.head.headers.get(name).is_some_and(|value| value.as_bytes() == want)
        };
        match self.config.require_tls {
            RequireTls::None => false,
            RequireTls::All => !header("x-forwarded-proto", b"https"),
            RequireTls::External => {
                !header("x-forwarded-proto", b"https") && !header("x-envoy-internal", b"true")
            }
        }
    }
}

impl Action {
    fn build(
        route: &model::Route,
        clusters: &ClusterManager,
        max_body: u32,
    ) -> Result<Self, DirectBodyError> {
        Ok(match &route.action {
            RouteAction::Forward(forward) => {
                let slots = match &forward.cluster {
                    ClusterSpecifier::Name(name) => Box::from([clusters.slot_or_empty(name)]),
                    ClusterSpecifier::Weighted(weighted) => weighted
                        .clusters
                        .iter()
                        .map(|cluster| clusters.slot_or_empty(&cluster.name))
                        .collect(),
                    ClusterSpecifier::Header(_) => Box::default(),
                };
                let mirror = |policy: &model::MirrorPolicy| match &policy.cluster {
                    MirrorCluster::Name(name) => Some(clusters.slot_or_empty(name)),
                    MirrorCluster::Header(_) => None,
                };
                Self::Forward { clusters: slots, mirrors: forward.mirrors.iter().map(mirror).collect() }
            }
            RouteAction::Redirect(_) => Self::Redirect,
            RouteAction::Direct(answer) => Self::Direct(direct::load(&answer.body, max_body)?),
        })
    }
}

impl Route {
    fn choose(&self, request: &RequestView<'_>) -> u32 {
        let RouteAction::Forward(forward) = &self.config.action else { return 0 };
        let ClusterSpecifier::Weighted(clusters) = &forward.cluster else { return 0 };
        u32::try_from(weighted::choose(clusters, request.head.headers, request.random)).unwrap_or(0)
    }
}

impl Selected {
    fn vhost(&self) -> Option<&Host> {
        self.table.hosts.get(self.host as usize).map(|host| &*host.0)
    }

    pub(crate) fn route(&self) -> Option<&Route> {
        match self.choice {
            Choice::RequireTls => None,
            Choice::Route { route, .. } => self.vhost()?.routes.get(route as usize),
        }
    }

    /// The virtual host.
    pub fn virtual_host(&self) -> Option<&Arc<model::VirtualHost>> {
        self.vhost().map(|host| &host.config)
    }

    /// The route as configured; `None` for the redirect of a virtual host that requires TLS.
    pub fn config(&self) -> Option<&Arc<model::Route>> {
        self.route().map(|route| &route.config)
    }

    /// The stats of the route and of the virtual cluster, where they have any.
    pub(crate) fn stats(&self) -> impl Iterator<Item = &RouteStats> {
        let of_route = self.route().and_then(|route| route.stats.as_ref());
        let of_cluster = self.virtual_clusters().and_then(|clusters| clusters.stats(self.virtual_cluster));
        of_route.into_iter().chain(of_cluster)
    }

    /// The virtual cluster's name.
    pub(crate) fn virtual_cluster(&self) -> Option<Arc<str>> {
        Some(self.virtual_clusters()?.name(self.virtual_cluster))
    }

    fn virtual_clusters(&self) -> Option<&VirtualClusters> {
        self.vhost()?.virtual_clusters.as_deref()
    }

    /// Whether a format of the table's header changes reads metadata.
    pub(crate) fn reads_metadata(&self) -> bool {
        self.table.reads_metadata
    }

    /// The metadata of route and virtual host.
    pub(crate) fn metadata(&self) -> StreamMetadata {
        StreamMetadata {
            route: self.config().and_then(|route| route.metadata.clone()),
            virtual_host: self.virtual_host().and_then(|host| host.metadata.clone()),
            ..StreamMetadata::default()
        }
    }

    /// The route's name.
    pub fn name(&self) -> Option<&Arc<str>> {
        self.config()?.name.as_ref()
    }

    /// What is to be done.
    pub fn action(&self) -> SelectedAction<'_> {
        match self.forward() {
            Some(forward) => SelectedAction::Forward(forward),
            None => SelectedAction::Reply,
        }
    }

    /// The route's way to a cluster, if it goes to one.
    pub fn forward(&self) -> Option<&Forward> {
        match &self.route()?.config.action {
            RouteAction::Forward(forward) => Some(forward),
            RouteAction::Redirect(_) | RouteAction::Direct(_) => None,
        }
    }

    /// Whether the route is a redirect (`http.<prefix>.rq_redirect`), a virtual host's `require_tls` included.
    pub fn is_redirect(&self) -> bool {
        self.route().is_none_or(|route| matches!(route.action, Action::Redirect))
    }

    /// The answer that the proxy gives itself; `None` for routes that go to a cluster. The route's changes of
    /// response headers are not applied yet: `router::finish_reply`.
    pub fn reply(&self, request: &RequestView<'_>) -> Option<LocalReply> {
        let Some(route) = self.route() else {
            return Some(moved(StatusCode::MOVED_PERMANENTLY, redirect::https_location(request)));
        };
        match (&route.action, &route.config.action) {
            (Action::Redirect, RouteAction::Redirect(to)) => {
                Some(moved(to.status, redirect::location(to, &route.config.matches.path, request)))
            }
            (Action::Direct(body), RouteAction::Direct(answer)) => {
                let location = || redirect::same_location(request);
                Some(direct::reply(answer.status, body.clone(), location))
            }
            _ => None,
        }
    }

    /// The path of a redirected request as the redirect rewrites it.
    pub(crate) fn redirected_path(&self, path: &str) -> Option<String> {
        let route = self.route()?;
        let RouteAction::Redirect(to) = &route.config.action else { return None };
        redirect::rewritten_path(to, &route.config.matches.path, path)
    }

    /// The slot of the chosen cluster; `None` when a header names it.
    pub(crate) fn cluster(&self) -> Option<&Arc<ClusterSlot>> {
        match (&self.route()?.action, self.choice) {
            (Action::Forward { clusters, .. }, Choice::Route { cluster, .. }) => {
                clusters.get(cluster as usize)
            }
            _ => None,
        }
    }

    /// The name of the cluster that a request with these headers goes to.
    pub(crate) fn cluster_name<'a>(&'a self, headers: &'a http::HeaderMap) -> Option<&'a str> {
        match (self.cluster(), &self.forward()?.cluster) {
            (Some(slot), _) => Some(&slot.name),
            (None, ClusterSpecifier::Header(name)) => headers.get(name)?.to_str().ok(),
            (None, _) => None,
        }
    }

    /// The slots of the mirrors' clusters, in the order of the policies.
    pub(crate) fn mirrors(&self) -> &[Option<Arc<ClusterSlot>>] {
        match self.route().map(|route| &route.action) {
            Some(Action::Forward { mirrors, .. }) => mirrors,
            _ => &[],
        }
    }

    /// The literal authority of the chosen weighted cluster.
    pub(crate) fn cluster_host_rewrite(&self) -> Option<&str> {
        let ClusterSpecifier::Weighted(weighted) = &self.forward()?.cluster else { return None };
        let Choice::Route { cluster, .. } = self.choice else { return None };
        weighted.clusters.get(cluster as usize)?.host_rewrite.as_deref()
    }

    fn changes(&self) -> Option<&Changes> {
        match self.choice {
            Choice::RequireTls => None,
            Choice::Route { cluster, .. } => self.route()?.changes.get(cluster as usize),
        }
    }

    /// What the route says of a filter; `None` when no level of the table speaks of it.
    pub(crate) fn filter(&self, name: &FilterName) -> Option<&Override> {
        let Choice::Route { cluster, .. } = self.choice else { return None };
        self.route()?.filters.get(cluster as usize)?.iter().find(|said| said.name == *name)
    }

    /// The changes of request headers, when there are any.
    pub(crate) fn request_changes(&self) -> Option<&Mutations> {
        self.changes().map(|changes| &changes.request).filter(|changes| !changes.is_empty())
    }

    /// The changes of response headers, when there are any.
    pub(crate) fn response_changes(&self) -> Option<&Mutations> {
        self.changes().map(|changes| &changes.response).filter(|changes| !changes.is_empty())
    }

    /// Whether the changes of response headers may read the request's head.
    pub(crate) fn response_reads_request(&self) -> bool {
        self.response_changes().is_some_and(Mutations::has_formats)
    }

    /// The new path and query for upstream; `None` when the route does not rewrite it.
    pub(crate) fn path_rewrite(&self, path: &str) -> Option<String> {
        let route = self.route()?;
        let rewrite = self.forward()?.path_rewrite.as_ref()?;
        rewrite::path(rewrite, &route.config.matches.path, path)
    }
}

fn moved(status: StatusCode, location: String) -> LocalReply {
    let reply = LocalReply::new(status, details::DIRECT_RESPONSE);
    match HeaderValue::from_maybe_shared(Bytes::from(location)) {
        Ok(location) => reply.header(header::LOCATION, location),
        Err(_) => reply,
    }
}

fn changes(
    table: &model::RouteConfiguration,
    host: &model::VirtualHost,
    route: &model::Route,
) -> Box<[Changes]> {
    let build = |cluster: Option<&HeaderMutations>| {
        let request = Levels {
            table: (&table.headers.request_remove, &table.headers.request_add),
            host: (&host.headers.request_remove, &host.headers.request_add),
            route: (&route.headers.request_remove, &route.headers.request_add),
            cluster: cluster.map(|own| (&own.request_remove[..], &own.request_add[..])),
        };
        let response = Levels {
            table: (&table.headers.response_remove, &table.headers.response_add),
            host: (&host.headers.response_remove, &host.headers.response_add),
            route: (&route.headers.response_remove, &route.headers.response_add),
            cluster: cluster.map(|own| (&own.response_remove[..], &own.response_add[..])),
        };
        Changes {
            request: Mutations::build(&request, table.most_specific_wins),
            response: Mutations::build(&response, table.most_specific_wins),
        }
    };
    match &route.action {
        RouteAction::Forward(forward) => match &forward.cluster {
            ClusterSpecifier::Weighted(weighted) => {
                weighted.clusters.iter().map(|cluster| build(Some(&cluster.headers))).collect()
            }
            ClusterSpecifier::Name(_) | ClusterSpecifier::Header(_) => Box::from([build(None)]),
        },
        RouteAction::Redirect(_) | RouteAction::Direct(_) => Box::from([build(None)]),
    }
}
