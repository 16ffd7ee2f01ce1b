//! The application's side: what arrives at port 15006.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use outrider_proto::pb::envoy::config::accesslog::v3::AccessLog;
use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use outrider_proto::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, LbPolicy,
};
use outrider_proto::pb::envoy::config::core::v3::TrafficDirection;
use outrider_proto::pb::envoy::config::endpoint::v3 as endpoint;
use outrider_proto::pb::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener};
use outrider_proto::pb::envoy::config::route::v3 as route;

use crate::translate::hcm::{
    DETECTION, Hcm, Routes, bare_listener, chain, http_inspector, is_http, only_at, original_dst,
    original_src, tcp_proxy,
};
use crate::translate::policy::authorization::{self, Workload};
use crate::translate::policy::telemetry;
use crate::translate::port::{Spoken, ports};
use crate::translate::scope::has_ipv6;
use crate::translate::wire::{address, any_address, duration, truth, uint};
use crate::translate::{Context, cluster, mtls, names};
use crate::world::Proxy;

use super::doors::{Door, Doors};
use super::probe;

/// How long a client may be silent until it counts as one that speaks no TLS. Longer than [`DETECTION`]: one whose first packet was lost must
/// not be taken for one that waits.
const HELLO: Duration = Duration::from_secs(1);

/// Where redirected inbound connections arrive.
const PORT: u16 = 15006;

/// The sources of connections to the application, so that capture knows them as ours.
const SOURCES: [&str; 2] = ["127.0.0.6", "::6"];

/// The ports at which this proxy's application serves, as services of its namespace say: slices elsewhere could name any address.
fn served(context: &Context, proxy: &Proxy) -> BTreeMap<u16, Spoken> {
    let mut out = BTreeMap::new();
    let services = context.world.services_of(proxy.address).into_iter();
    for service in services.filter(|it| *it.namespace() == proxy.namespace) {
        for port in ports(&service) {
            let named = || {
                let slices = context.world.slices(service.namespace(), service.name());
                slices.into_iter().find_map(|slice| {
                    let listed = slice.body().ports.as_deref()?;
                    let found =
                        listed.iter().find(|it| it.name.as_deref().unwrap_or_default() == &*port.name)?;
                    u16::try_from(found.port?).ok()
                })
            };
            // What slices say is what clients use; a number in the service is the next best.
            if let Some(target) = named().or(port.target) {
                let known = out.entry(target).or_insert(port.spoken);
                *known = together(*known, port.spoken);
            }
        }
    }
    out
}

/// What is spoken at a port of which two services say something. Who says nothing agrees with the other; where one says HTTP and the other
/// something else, it is found out, so that rules for HTTP stay in force for what is HTTP.
fn together(one: Spoken, other: Spoken) -> Spoken {
    match (one, other) {
        (one, other) if one == other => one,
        (Spoken::Unknown, known) | (known, Spoken::Unknown) => known,
        (one, other) if one.is_http() && other.is_http() => Spoken::Http,
        (one, other) if one.is_http() || other.is_http() => Spoken::Unknown,
        _ => Spoken::Tcp,
    }
}

/// The clusters towards the application.
pub(super) fn clusters(context: &Context, proxy: &Proxy) -> Vec<Cluster> {
    let sources: &[&str] = match (proxy.tproxy, has_ipv6(&context.world, proxy)) {
        // The client's address is shown.
        (true, _) => &[],
        (false, true) => &SOURCES[..],
        (false, false) => &SOURCES[..1],
    };
    let labels = authorization::labels(&context.world, proxy);
    let doors = Doors::of(context, proxy, Workload { namespace: &proxy.namespace, labels: labels.as_ref() });
    let mut out = vec![cluster::original_destination(names::INBOUND_PASSTHROUGH, sources)];
    for (port, spoken) in served(context, proxy) {
        let mut cluster = application(proxy, port, names::inbound(port), sources);
        if spoken.is_http2() {
            cluster.typed_extension_protocol_options = cluster::options(&cluster::http_options(true));
        }
        out.push(cluster);
        if by_http2(spoken, doors.at(Some(port))) {
            let mut cluster = application(proxy, port, names::inbound_http1(port), sources);
            cluster.typed_extension_protocol_options = cluster::options(&cluster::http_options(false));
            out.push(cluster);
        }
    }
    out
}

/// The cluster towards the application at a port: where the connection was going, or where an explicit proxy says that it is.
fn application(proxy: &Proxy, port: u16, name: String, sources: &[&str]) -> Cluster {
    let mut cluster = cluster::original_destination(&name, sources);
    if let Some(explicit) = proxy.explicit.filter(|it| it.listen.port() == port) {
        let to = address(&explicit.application.ip().to_string(), explicit.application.port());
        let endpoint = endpoint::Endpoint { address: Some(to), ..Default::default() };
        let endpoint = endpoint::LbEndpoint {
            host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
            ..Default::default()
        };
        let endpoints = endpoint::LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() };
        cluster.load_assignment = Some(endpoint::ClusterLoadAssignment {
            cluster_name: name,
            endpoints: vec![endpoints],
            ..Default::default()
        });
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32));
        cluster.lb_policy = LbPolicy::RoundRobin as i32;
        // Nothing has to know these connections from others.
        cluster.upstream_bind_config = None;
    }
    cluster
}

/// Whether peers may send HTTP/1.1 of their applications as HTTP/2: what the application speaks is then not what arrives.
fn by_http2(spoken: Spoken, door: Door) -> bool {
    spoken == Spoken::Http && door.tls
}

/// `virtualInbound`.
pub(super) fn listener(context: &Context, proxy: &Proxy) -> Listener {
    let labels = authorization::labels(&context.world, proxy);
    let workload = Workload { namespace: &proxy.namespace, labels: labels.as_ref() };
    let at = At { context, proxy, workload };
    let doors = Doors::of(context, proxy, workload);
    if let Some(explicit) = proxy.explicit {
        return at_explicit_port(context, proxy, explicit.listen, at, &doors);
    }
    let mut listener = bare_listener("virtualInbound", "0.0.0.0", PORT, TrafficDirection::Inbound);
    listener.address = Some(any_address(PORT, has_ipv6(&context.world, proxy)));
    listener.continue_on_listener_filters_timeout = true;
    listener.filter_chains = vec![chain(
        "virtualInbound-blackhole",
        Some(at_port(PORT)),
        vec![tcp_proxy(names::BLACK_HOLE, names::BLACK_HOLE, Vec::new())],
    )];
    let mut served = served(context, proxy);
    let unknown = unknown(&served, &doors);
    // Each port that differs from the rest has chains for all that may come to it.
    let named = served.clone();
    for port in doors.ports() {
        served.entry(port).or_insert(Spoken::Tcp);
    }
    for (port, spoken) in &served {
        let cluster = if named.contains_key(port) {
            names::inbound(*port)
        } else {
            names::INBOUND_PASSTHROUGH.to_owned()
        };
        let chains = at.port(*port, *spoken, &cluster, &doors);
        listener.filter_chains.extend(chains);
    }
    let rest = doors.at(None);
    if rest.tls {
        let wanted = doors.wanted(FilterChainMatch::default(), rest);
        let filters = at.tcp(names::INBOUND_PASSTHROUGH);
        listener.filter_chains.push(at.tls(chain("virtualInbound|mtls", Some(wanted), filters), &[]));
    }
    if rest.clear {
        let passthrough = at.tcp(names::INBOUND_PASSTHROUGH);
        listener.default_filter_chain = Some(chain("virtualInbound", None, passthrough));
    }
    listener.listener_filters = vec![original_dst()];
    if proxy.tproxy {
        listener.transparent = Some(truth(true));
        listener.listener_filters.push(original_src());
    }
    inspect(&mut listener, &doors, &served, &unknown);
    listener
}

/// The listener of a proxy to which nothing is redirected: what arrives at its one port, and nothing else.
fn at_explicit_port(
    context: &Context,
    proxy: &Proxy,
    listen: SocketAddr,
    at: At<'_>,
    doors: &Doors<'_>,
) -> Listener {
    let (host, port) = (listen.ip().to_string(), listen.port());
    let mut listener = bare_listener("virtualInbound", &host, port, TrafficDirection::Inbound);
    listener.continue_on_listener_filters_timeout = true;
    let mut served = served(context, proxy);
    served.retain(|served, _| *served == port);
    if let Some(spoken) = served.get(&port) {
        listener.filter_chains = at.port(port, *spoken, &names::inbound(port), doors);
    }
    // A connection on whose way nothing was redirected was going to this very listener: there is nowhere to pass it on to.
    let hole = vec![tcp_proxy(names::BLACK_HOLE, names::BLACK_HOLE, Vec::new())];
    listener.default_filter_chain = Some(chain("virtualInbound-blackhole", None, hole));
    let unknown = unknown(&served, doors);
    inspect(&mut listener, doors, &served, &unknown);
    listener
}

/// The ports in clear of which nobody says what is spoken there.
fn unknown(served: &BTreeMap<u16, Spoken>, doors: &Doors<'_>) -> Vec<u16> {
    let clear = |port: &u16| doors.at(Some(*port)).clear;
    let unknown = served.iter().filter(|(port, spoken)| **spoken == Spoken::Unknown && clear(port));
    unknown.map(|it| *it.0).collect()
}

/// What a listener looks at before it chooses a chain.
fn inspect(listener: &mut Listener, doors: &Doors<'_>, served: &BTreeMap<u16, Spoken>, unknown: &[u16]) {
    listener.listener_filters.extend(doors.inspector(served));
    if !unknown.is_empty() {
        listener.listener_filters.push(only_at(http_inspector(), unknown));
        listener.listener_filters_timeout = Some(duration(DETECTION));
    }
    if doors.guesses(served) {
        listener.listener_filters_timeout = Some(duration(HELLO));
    }
}

/// Where what arrives is treated.
#[derive(Clone, Copy)]
struct At<'c> {
    context: &'c Context,
    proxy: &'c Proxy,
    workload: Workload<'c>,
}

impl At<'_> {
    fn logs(self) -> Vec<AccessLog> {
        telemetry::access_logs(self.context, &self.proxy.namespace, self.workload.labels)
    }

    /// All chains of one port.
    fn port(self, port: u16, spoken: Spoken, cluster: &str, doors: &Doors<'_>) -> Vec<FilterChain> {
        let (name, door) = (names::inbound(port), doors.at(Some(port)));
        let mut out = Vec::new();
        if door.tls {
            let wanted = doors.wanted(at_port(port), door);
            let (filters, protocols): (_, &[&str]) = if spoken.is_http() {
                let http1 = by_http2(spoken, door).then(|| names::inbound_http1(port));
                (self.http(port, (cluster, http1.as_deref()), true), &["h2", "http/1.1"])
            } else {
                (self.tcp(cluster), &[])
            };
            out.push(self.tls(chain(&format!("{name}mtls"), Some(wanted), filters), protocols));
        }
        if !door.clear {
            let probes = doors.probes.get(&port).map(Vec::as_slice).unwrap_or_default();
            out.extend(probe::chain(&name, at_port(port), cluster, probes));
            // What matches none of a port's chains is taken by the one for the rest, which may be open.
            let nowhere = vec![tcp_proxy(names::BLACK_HOLE, names::BLACK_HOLE, Vec::new())];
            out.push(chain(&format!("{name}closed"), Some(at_port(port)), nowhere));
            return out;
        }
        if door.tls {
            // TLS that is not the mesh's: what is chosen among chains for TLS is never sought among the others.
            let filters =
                if spoken.is_http() { self.http(port, (cluster, None), false) } else { self.tcp(cluster) };
            let wanted = FilterChainMatch { transport_protocol: "tls".to_owned(), ..at_port(port) };
            out.push(chain(&format!("{name}tls"), Some(wanted), filters));
        }
        match spoken {
            Spoken::Http | Spoken::Http2 | Spoken::Grpc => {
                out.push(chain(&name, Some(at_port(port)), self.http(port, (cluster, None), false)));
            }
            Spoken::Tls | Spoken::Tcp => out.push(chain(&name, Some(at_port(port)), self.tcp(cluster))),
            Spoken::Unknown => {
                let filters = self.http(port, (cluster, None), false);
                out.push(chain(&format!("{name}http"), Some(is_http(at_port(port))), filters));
                out.push(chain(&name, Some(at_port(port)), self.tcp(cluster)));
            }
        }
        out
    }

    /// A chain behind mutual TLS.
    fn tls(self, mut chain: FilterChain, protocols: &[&str]) -> FilterChain {
        chain.transport_socket = Some(mtls::downstream(self.context, protocols));
        let rest = std::mem::take(&mut chain.filters);
        chain.filters = authorization::revoked(&self.context.world).into_iter().chain(rest).collect();
        chain
    }

    /// `http1`: the cluster of what came as HTTP/2 and is HTTP/1.1 for the application. gRPC is HTTP/2 for both.
    fn http(self, port: u16, (cluster, http1): (&str, Option<&str>), certificates: bool) -> Vec<Filter> {
        let grpc = http1.map(|_| to("grpc", cluster, true));
        let routes = route::RouteConfiguration {
            name: cluster.to_owned(),
            virtual_hosts: vec![route::VirtualHost {
                name: format!("inbound|http|{port}"),
                domains: vec!["*".to_owned()],
                routes: grpc.into_iter().chain([to("default", http1.unwrap_or(cluster), false)]).collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        vec![
            Hcm {
                stat_prefix: format!("inbound_{port}"),
                routes: Routes::Inline(Box::new(routes)),
                filters: authorization::http_filters(self.context, self.workload),
                access_log: self.logs(),
                edge: false,
                certificates,
                grpc: false,
            }
            .filter(),
        ]
    }

    fn tcp(self, cluster: &str) -> Vec<Filter> {
        let mut filters = authorization::network_filters(self.context, self.workload);
        let logs = self.logs();
        filters.push(tcp_proxy(cluster, cluster, logs));
        filters
    }
}

/// A route of all requests, or all of gRPC, to a cluster.
fn to(name: &str, cluster: &str, grpc: bool) -> route::Route {
    use route::route_action::ClusterSpecifier;
    use route::route_match::{GrpcRouteMatchOptions, PathSpecifier};
    route::Route {
        name: name.to_owned(),
        r#match: Some(route::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            grpc: grpc.then(GrpcRouteMatchOptions::default),
            ..Default::default()
        }),
        action: Some(route::route::Action::Route(route::RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
            // The client's side decides how long it waits.
            timeout: Some(duration(Duration::ZERO)),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn at_port(port: u16) -> FilterChainMatch {
    FilterChainMatch { destination_port: Some(uint(u32::from(port))), ..Default::default() }
}
