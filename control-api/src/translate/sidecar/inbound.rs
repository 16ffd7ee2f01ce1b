//! The application's side: what arrives at port 15006.

use std::collections::BTreeMap;

use outrider_proto::pb::envoy::config::accesslog::v3::AccessLog;
use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use outrider_proto::pb::envoy::config::core::v3::TrafficDirection;
use outrider_proto::pb::envoy::config::listener::v3::{Filter, FilterChainMatch, Listener};
use outrider_proto::pb::envoy::config::route::v3 as route;

use crate::translate::hcm::{
    DETECTION, Hcm, Routes, bare_listener, chain, http_inspector, is_http, only_at, original_dst, tcp_proxy,
};
use crate::translate::policy::authorization::{self, Workload};
use crate::translate::policy::telemetry;
use crate::translate::port::{Spoken, ports};
use crate::translate::wire::{duration, uint};
use crate::translate::{Context, cluster, names};
use crate::world::Proxy;

/// Where redirected inbound connections arrive.
const PORT: u16 = 15006;

/// The source of connections to the application, so that capture knows them as ours.
const SOURCE: &str = "127.0.0.6";

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
    let source = if proxy.address.is_ipv6() { "::6" } else { SOURCE };
    let mut out = vec![cluster::original_destination(names::INBOUND_PASSTHROUGH, Some(source))];
    for (port, spoken) in served(context, proxy) {
        let mut cluster = cluster::original_destination(&names::inbound(port), Some(source));
        if spoken.is_http2() {
            cluster.typed_extension_protocol_options = cluster::options(&cluster::http_options(true));
        }
        out.push(cluster);
    }
    out
}

/// `virtualInbound`.
pub(super) fn listener(context: &Context, proxy: &Proxy) -> Listener {
    let labels = authorization::labels(&context.world, proxy);
    let workload = Workload { namespace: &proxy.namespace, labels: labels.as_ref() };
    let at = At { context, proxy, workload };
    let mut listener = bare_listener("virtualInbound", any_address(proxy), PORT, TrafficDirection::Inbound);
    listener.listener_filters = vec![original_dst()];
    listener.continue_on_listener_filters_timeout = true;
    listener.filter_chains = vec![chain(
        "virtualInbound-blackhole",
        Some(at_port(PORT)),
        vec![tcp_proxy(names::BLACK_HOLE, names::BLACK_HOLE, Vec::new())],
    )];
    let served = served(context, proxy);
    let unknown: Vec<u16> =
        served.iter().filter(|(_, spoken)| **spoken == Spoken::Unknown).map(|(port, _)| *port).collect();
    if !unknown.is_empty() {
        listener.listener_filters.push(only_at(http_inspector(), &unknown));
        listener.listener_filters_timeout = Some(duration(DETECTION));
    }
    for (port, spoken) in served {
        let name = names::inbound(port);
        let mut add = |name: &str, wanted, filters| {
            listener.filter_chains.push(chain(name, Some(wanted), filters));
        };
        match spoken {
            Spoken::Http | Spoken::Http2 | Spoken::Grpc => add(&name, at_port(port), at.http(port, &name)),
            Spoken::Tls | Spoken::Tcp => add(&name, at_port(port), at.tcp(&name)),
            Spoken::Unknown => {
                add(&format!("{name}http"), is_http(at_port(port)), at.http(port, &name));
                add(&name, at_port(port), at.tcp(&name));
            }
        }
    }
    let passthrough = at.tcp(names::INBOUND_PASSTHROUGH);
    listener.default_filter_chain = Some(chain("virtualInbound", None, passthrough));
    listener
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

    fn http(self, port: u16, cluster: &str) -> Vec<Filter> {
        let routes = route::RouteConfiguration {
            name: cluster.to_owned(),
            virtual_hosts: vec![route::VirtualHost {
                name: format!("inbound|http|{port}"),
                domains: vec!["*".to_owned()],
                routes: vec![route::Route {
                    name: "default".to_owned(),
                    r#match: Some(route::RouteMatch {
                        path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
                        ..Default::default()
                    }),
                    action: Some(route::route::Action::Route(route::RouteAction {
                        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(
                            cluster.to_owned(),
                        )),
                        // The client's side decides how long it waits.
                        timeout: Some(duration(std::time::Duration::ZERO)),
                        ..Default::default()
                    })),
                    ..Default::default()
                }],
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

fn at_port(port: u16) -> FilterChainMatch {
    FilterChainMatch { destination_port: Some(uint(u32::from(port))), ..Default::default() }
}

fn any_address(proxy: &Proxy) -> &'static str {
    if proxy.address.is_ipv6() { "::" } else { "0.0.0.0" }
}
