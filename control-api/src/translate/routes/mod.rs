//! HTTP routes, in the order in which the Gateway API wants them tried.

mod action;
mod cors;
mod headers;
mod matches;
mod order;
mod path;
mod redirect;
mod weights;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use outrider_proto::pb::envoy::config::accesslog::v3::AccessLog;
use outrider_proto::pb::envoy::config::listener::v3::Filter as NetworkFilter;
use outrider_proto::pb::envoy::config::route::v3 as pb;
use outrider_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_pb;

use super::hcm::{network_filter, tcp_proxy};
use super::wire::origin;
use super::{Context, cluster, names};
use crate::attach::ir::{self, Target};

/// Where routes will stand.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The port of the listener, for redirects.
    pub port: u16,
    /// Whether TLS ends at the listener.
    pub tls: bool,
    /// Whether they are a sidecar's: ports that speak TLS have a cluster for requests beside the one for connections.
    pub sidecar: bool,
}

impl Place {
    /// The cluster that requests for a target go to; `None` when it leads nowhere.
    fn cluster(&self, context: &Context, target: &Target) -> Option<String> {
        match target {
            Target::Service { service, port }
                if self.sidecar && cluster::is_originated(context, service, *port) =>
            {
                Some(names::originated(service, *port))
            }
            other => cluster_of(other),
        }
    }
}

/// The routes of several HTTPRoutes and GRPCRoutes for one host, by precedence: an exact path first, then the longest prefix, a
/// method, the most headers, the most query parameters, the oldest route, the first by name, the first rule.
/// <https://gateway-api.sigs.k8s.io/reference/spec/#httprouterule>
pub fn http(context: &Context, routes: &[Arc<ir::HttpRoute>], place: &Place) -> Vec<pb::Route> {
    let mut all = Vec::new();
    for route in routes {
        for rule in &route.rules {
            for (index, matched) in rule.matches.iter().enumerate() {
                all.push((order::Rank::of(route, rule, index, matched), rule, index, matched, route));
            }
        }
    }
    all.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let mut out = Vec::with_capacity(all.len());
    for (_, rule, index, matched, route) in all {
        let Some(matches) = matches::route_match(matched) else { continue };
        let key = &route.key;
        let named = rule.name.as_deref().map_or_else(|| rule.index.to_string(), str::to_owned);
        let base = pb::Route {
            name: format!("{}/{}/{named}/{index}", key.namespace, key.name),
            r#match: Some(matches),
            metadata: Some(origin(key, &format!("rule {} match {index}", rule.index))),
            ..Default::default()
        };
        out.extend(action::routes(context, rule, matched, &base, place));
    }
    out
}

/// A TCP proxy that goes where a TCPRoute or TLSRoute says. What leads nowhere is refused, in its share.
pub fn tcp(route: &ir::TcpRoute, stat_prefix: &str, logs: Vec<AccessLog>) -> NetworkFilter {
    tcp_to(route, stat_prefix, logs, cluster_of)
}

/// As [`tcp`], for TLS that is passed on.
pub fn passthrough(route: &ir::TcpRoute, stat_prefix: &str, logs: Vec<AccessLog>) -> NetworkFilter {
    tcp_to(route, stat_prefix, logs, |target| match target {
        Target::Service { service, port } => Some(names::passthrough(service, *port)),
        other => cluster_of(other),
    })
}

fn tcp_to(
    route: &ir::TcpRoute,
    stat_prefix: &str,
    logs: Vec<AccessLog>,
    cluster: impl Fn(&Target) -> Option<String>,
) -> NetworkFilter {
    use tcp_pb::tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight};
    let live: Vec<_> = route.backends.iter().filter(|(_, weight)| *weight > 0).collect();
    let name = |target: &Target| cluster(target).unwrap_or_else(|| names::BLACK_HOLE.to_owned());
    let weights: Vec<u64> = live.iter().map(|(_, weight)| u64::from(*weight)).collect();
    match live.as_slice() {
        [] => tcp_proxy(stat_prefix, names::BLACK_HOLE, logs),
        [(only, _)] => tcp_proxy(stat_prefix, &name(only), logs),
        several => {
            let clusters = several
                .iter()
                .zip(weights::fit(&weights, 0))
                .map(|((target, _), weight)| ClusterWeight {
                    name: name(target),
                    weight,
                    ..Default::default()
                })
                .filter(|it| it.weight > 0)
                .collect();
            let proxy = tcp_pb::TcpProxy {
                stat_prefix: stat_prefix.to_owned(),
                cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster { clusters })),
                access_log: logs,
                ..Default::default()
            };
            network_filter("envoy.filters.network.tcp_proxy", &proxy)
        }
    }
}

/// The cluster of a target; `None` when it leads nowhere.
pub fn cluster_of(target: &Target) -> Option<String> {
    match target {
        Target::Service { service, port } => Some(names::outbound(service, *port)),
        Target::External { service, port } => Some(names::external(service, *port)),
        Target::Invalid => None,
    }
}

/// All that routes reach, mirrors too.
pub fn targets<'r>(
    http: impl IntoIterator<Item = &'r Arc<ir::HttpRoute>>,
    tcp: impl IntoIterator<Item = &'r Arc<ir::TcpRoute>>,
) -> BTreeSet<Target> {
    let mut out = BTreeSet::new();
    for route in http {
        out.extend(mirrored(route));
        let backends = route.rules.iter().flat_map(|rule| &rule.backends);
        out.extend(backends.filter(|it| it.weight > 0).map(|it| it.target.clone()));
    }
    let backends = tcp.into_iter().flat_map(|route| &route.backends);
    out.extend(backends.filter(|(_, weight)| *weight > 0).map(|(target, _)| target.clone()));
    out.remove(&Target::Invalid);
    out
}

/// Where a route sends copies.
pub fn mirrored(route: &ir::HttpRoute) -> impl Iterator<Item = Target> + use<'_> {
    let filters = route.rules.iter().flat_map(|rule| {
        let live = rule.backends.iter().filter(|it| it.weight > 0);
        rule.filters.iter().chain(live.flat_map(|it| &it.filters))
    });
    filters.filter_map(|filter| match filter {
        ir::Filter::Mirror { target, per_million: 1.. } if *target != Target::Invalid => Some(target.clone()),
        _ => None,
    })
}
