//! The route tables of a sidecar: one for each HTTP port, one for the explicit listener.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::pb::envoy::config::accesslog::v3::AccessLog;
use outrider_proto::pb::envoy::config::listener::v3::Filter;
use outrider_proto::pb::envoy::config::route::v3 as pb;

use super::{Visible, secrets};
use crate::attach::{ServiceRoutes, ir};
use crate::model::{Key, Kind};
use crate::translate::hcm::tcp_proxy;
use crate::translate::port::Spoken;
use crate::translate::routes::{Place, http};
use crate::translate::wire::{duration, origin, truth};
use crate::translate::{Context, Scope, external, names, policy};

/// The explicit listener, and its table.
pub const HTTP_PROXY: &str = "http_proxy";

/// Where requests of captured clients go that no service claims.
const ALLOW_ANY: &str = "allow_any";

/// What is spoken at a port: a route that clients of the scope meet there settles the question.
pub fn spoken(context: &Context, scope: &Scope, it: &Visible<'_>) -> Spoken {
    let met = |route: &Arc<ir::HttpRoute>| {
        *route.key.namespace == *scope.namespace || route.key.namespace == it.service.0
    };
    let attached = || attached(context, it).any(|routes| routes.http.iter().any(met));
    if it.port.spoken == Spoken::Unknown && attached() { Spoken::Http } else { it.port.spoken }
}

/// The name of a table for one service's port alone.
pub fn table_of(it: &Visible<'_>) -> String {
    format!("{}:{}", names::host(&it.service), it.port.number)
}

/// All tables of a scope.
pub fn tables(context: &Context, scope: &Scope, services: &[Visible<'_>]) -> Vec<pb::RouteConfiguration> {
    let mut ports: BTreeMap<u16, Vec<pb::VirtualHost>> = BTreeMap::new();
    let (mut explicit, mut out) = (Vec::new(), Vec::new());
    let defaults = default_ports(context, scope, services);
    for it in services {
        let spoken = spoken(context, scope, it);
        if !spoken.is_http() && spoken != Spoken::Unknown {
            continue;
        }
        let routes = of_service(context, scope, it);
        let mut domains = names::domains(&it.service, &scope.namespace);
        let with_port =
            domains.iter().map(|domain| format!("{domain}:{}", it.port.number)).collect::<Vec<_>>();
        let mut explicit_domains = with_port;
        if defaults.get(&it.service) == Some(&it.port.number) {
            explicit_domains.extend(domains.iter().cloned());
        }
        explicit.push(virtual_host(it, explicit_domains, routes.clone()));
        domains.extend(it.addresses().iter().map(|address| bracketed(address)));
        if spoken == Spoken::Unknown {
            let host = virtual_host(it, vec!["*".to_owned()], routes);
            out.push(table(&table_of(it), vec![host]));
        } else {
            ports.entry(it.port.number).or_default().push(virtual_host(it, domains, routes));
        }
    }
    // After the services: nobody takes a service's host away by claiming it for something outside.
    for port in external::http_ports(context, scope) {
        ports.entry(port).or_default().extend(external::virtual_hosts(context, scope, Some(port)));
    }
    explicit.extend(external::virtual_hosts(context, scope, None));
    for (port, mut hosts) in ports {
        unique(&mut hosts);
        hosts.push(allow_any());
        out.push(table(&port.to_string(), hosts));
    }
    unique(&mut explicit);
    out.push(pb::RouteConfiguration { ignore_port_in_host_matching: false, ..table(HTTP_PROXY, explicit) });
    out
}

/// The port that a client means which names none: 80, else the only one for HTTP.
fn default_ports(
    context: &Context,
    scope: &Scope,
    services: &[Visible<'_>],
) -> BTreeMap<crate::world::Named, u16> {
    let mut http: BTreeMap<_, Vec<u16>> = BTreeMap::new();
    let speaks =
        |it: &&Visible<'_>| spoken(context, scope, it).is_http() || it.port.spoken == Spoken::Unknown;
    for it in services.iter().filter(speaks) {
        http.entry(it.service.clone()).or_default().push(it.port.number);
    }
    http.into_iter()
        .filter_map(|(service, ports)| match ports.as_slice() {
            [only] => Some((service, *only)),
            ports => ports.contains(&80).then_some((service, 80)),
        })
        .collect()
}

/// The routes of a service's port for clients of a scope.
pub fn of_service(context: &Context, scope: &Scope, it: &Visible<'_>) -> Vec<pb::Route> {
    let attached = http_routes(context, scope, it);
    if attached.is_empty() {
        return vec![default_route(context, it)];
    }
    let place = Place { port: it.port.number, tls: false, sidecar: !scope.grpc };
    http(context, &attached, &place)
}

/// The HTTPRoutes and GRPCRoutes that clients of a scope meet at a service's port: routes in the client's own namespace
/// (consumer routes) go before those of the service's namespace.
fn http_routes(context: &Context, scope: &Scope, it: &Visible<'_>) -> Vec<Arc<ir::HttpRoute>> {
    let of = |namespace: &str| -> Vec<Arc<ir::HttpRoute>> {
        let all = attached(context, it).flat_map(|routes| &routes.http);
        all.filter(|route| *route.key.namespace == *namespace).cloned().collect()
    };
    let mine = of(&scope.namespace);
    if !mine.is_empty() {
        return mine;
    }
    of(&it.service.0).into_iter().map(|route| secrets::http(context, scope, route)).collect()
}

/// The TCPRoute or TLSRoute that they meet.
fn tcp_route(context: &Context, scope: &Scope, it: &Visible<'_>) -> Option<Arc<ir::TcpRoute>> {
    let seen = |namespace: &str| {
        let routes = attached(context, it).flat_map(|routes| &routes.tcp);
        let mine = routes.filter(|route| *route.key.namespace == *namespace);
        mine.min_by_key(|route| (route.created, route.key.clone())).cloned()
    };
    let theirs = || Some(secrets::tcp(context, scope, seen(&it.service.0)?));
    seen(&scope.namespace).or_else(theirs)
}

/// What the routes of a scope's services lead to.
#[derive(Clone, Debug, Default)]
pub struct Reached {
    /// All of it.
    pub all: BTreeSet<ir::Target>,
    /// What requests are sent to, copies too.
    pub requests: BTreeSet<ir::Target>,
    /// What GRPCRoutes lead to.
    pub calls: BTreeSet<ir::Target>,
    /// What a proxy cannot wait for: copies are sent, and connections passed on, to clusters that are there.
    pub at_once: BTreeSet<ir::Target>,
}

/// What the routes of these services lead to.
pub fn reached(context: &Context, scope: &Scope, services: &[Visible<'_>]) -> Reached {
    use crate::translate::routes::{mirrored, targets};
    let http: Vec<_> = services.iter().flat_map(|it| http_routes(context, scope, it)).collect();
    let tcp: Vec<_> = services.iter().filter_map(|it| tcp_route(context, scope, it)).collect();
    let calls = http.iter().filter(|it| it.key.kind == Kind::GrpcRoute);
    let mut at_once = targets([], &tcp);
    at_once.extend(http.iter().flat_map(|it| mirrored(it)));
    Reached { all: targets(&http, &tcp), requests: targets(&http, []), calls: targets(calls, []), at_once }
}

/// All to the service itself.
fn default_route(context: &Context, it: &Visible<'_>) -> pb::Route {
    let cluster = names::outbound(&it.service, it.port.number);
    let mut route = pb::Route {
        name: "default".to_owned(),
        r#match: Some(pb::RouteMatch {
            path_specifier: Some(pb::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(pb::route::Action::Route(pb::RouteAction {
            cluster_specifier: Some(pb::route_action::ClusterSpecifier::Cluster(cluster)),
            ..Default::default()
        })),
        metadata: Some(origin(&Key::new(Kind::Service, &it.service.0, &it.service.1), "")),
        ..Default::default()
    };
    policy::traffic::apply_to_route(context, &it.service, it.port.number, &mut route);
    // Where no policy says how long a request may take, the client does.
    if let Some(pb::route::Action::Route(action)) = &mut route.action {
        action.timeout.get_or_insert_with(|| duration(Duration::ZERO));
    }
    route
}

fn attached<'c>(context: &'c Context, it: &Visible<'_>) -> impl Iterator<Item = &'c ServiceRoutes> {
    let at_port = context.attachments.services.get(&(it.service.clone(), Some(it.port.number)));
    // Routes for one port go before those for all.
    let at_all = context.attachments.services.get(&(it.service.clone(), None));
    at_port.or(at_all).into_iter()
}

/// Where a connection goes that is not HTTP: to the service, or where its TCPRoutes and TLSRoutes say.
pub fn tcp(
    context: &Context,
    scope: &Scope,
    it: &Visible<'_>,
    cluster: &str,
    logs: Vec<AccessLog>,
) -> Vec<Filter> {
    match tcp_route(context, scope, it) {
        Some(route) => vec![crate::translate::routes::tcp(&route, cluster, logs)],
        None => vec![tcp_proxy(cluster, cluster, logs)],
    }
}

fn virtual_host(it: &Visible<'_>, domains: Vec<String>, routes: Vec<pb::Route>) -> pb::VirtualHost {
    pb::VirtualHost {
        name: table_of(it),
        domains,
        routes,
        include_request_attempt_count: true,
        ..Default::default()
    }
}

/// A domain may stand in one virtual host of a table only: the first one has it. The rest of a service is not lost for it.
fn unique(hosts: &mut Vec<pb::VirtualHost>) {
    let mut seen = BTreeSet::new();
    for host in hosts.iter_mut() {
        host.domains.retain(|domain| seen.insert(domain.to_lowercase()));
    }
    hosts.retain(|host| !host.domains.is_empty());
}

fn allow_any() -> pb::VirtualHost {
    pb::VirtualHost {
        name: ALLOW_ANY.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![pb::Route {
            name: ALLOW_ANY.to_owned(),
            r#match: Some(pb::RouteMatch {
                path_specifier: Some(pb::route_match::PathSpecifier::Prefix("/".to_owned())),
                ..Default::default()
            }),
            action: Some(pb::route::Action::Route(pb::RouteAction {
                cluster_specifier: Some(pb::route_action::ClusterSpecifier::Cluster(
                    names::PASSTHROUGH.to_owned(),
                )),
                timeout: Some(duration(Duration::ZERO)),
                ..Default::default()
            })),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn table(name: &str, virtual_hosts: Vec<pb::VirtualHost>) -> pb::RouteConfiguration {
    pb::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts,
        validate_clusters: Some(truth(false)),
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}
