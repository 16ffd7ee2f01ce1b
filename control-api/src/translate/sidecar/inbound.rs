//! The application's side: what arrives at port 15006.

use std::collections::BTreeMap;

use outrider_proto::pb::envoy::config::accesslog::v3::AccessLog;
use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use outrider_proto::pb::envoy::config::core::v3::TrafficDirection;
use outrider_proto::pb::envoy::config::listener::v3::{Filter, FilterChainMatch, Listener};
use outrider_proto::pb::envoy::config::route::v3 as route;

use crate::translate::hcm::{Hcm, Routes, bare_listener, chain, original_dst, tcp_proxy};
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

/// The ports at which this proxy's application serves, as services say.
fn served(context: &Context, proxy: &Proxy) -> BTreeMap<u16, Spoken> {
    let mut out = BTreeMap::new();
    for service in context.world.services_of(proxy.address) {
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
                // Two services that disagree about a port: what both can live with.
                if *known != port.spoken && !(known.is_http() && port.spoken.is_http()) {
                    *known = Spoken::Tcp;
                }
            }
        }
    }
    out
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
    let workload = Workload { namespace: &proxy.namespace, labels: &labels };
    let at = At { context, proxy, workload };
    let mut listener = bare_listener("virtualInbound", any_address(proxy), PORT, TrafficDirection::Inbound);
    listener.listener_filters = vec![original_dst()];
    listener.continue_on_listener_filters_timeout = true;
    listener.filter_chains = vec![chain(
        "virtualInbound-blackhole",
        Some(at_port(PORT)),
        vec![tcp_proxy(names::BLACK_HOLE, names::BLACK_HOLE, Vec::new())],
    )];
    for (port, spoken) in served(context, proxy) {
        let name = names::inbound(port);
        let filters = if spoken.is_http() { at.http(port, &name) } else { at.tcp(&name) };
        listener.filter_chains.push(chain(&name, Some(at_port(port)), filters));
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
        telemetry::access_logs(self.context, &self.proxy.namespace, Some(&self.proxy.labels))
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
