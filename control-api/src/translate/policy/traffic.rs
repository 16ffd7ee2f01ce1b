//! `TrafficPolicy`: balancing, breakers, outliers, health checks, timeouts, retries, rate limits.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use outrider_proto::pb::envoy::config::route::v3::Route;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use super::rate_limit;
use super::upstream::Settings;
use crate::attach::ir::Target;
use crate::model::{Key, Kind};
use crate::translate::port::{Port, ports};
use crate::translate::{Context, Scope, routes, sidecar};
use crate::world::Named;

/// Puts into a cluster what the policy of its service says.
pub fn apply_to_cluster(context: &Context, service: &Named, port: &Port, cluster: &mut Cluster) {
    if let Some(policy) = context.policies.traffic(Kind::Service, service, &port.name) {
        Settings::of_policy(&policy.spec).to_cluster(port.spoken.is_http2(), cluster);
    }
}

/// Puts into a route to a service what the service's policy says, where the route does not say it itself: a timeout of `None` is one
/// that the route does not say.
pub fn apply_to_route(context: &Context, service: &Named, port: u16, route: &mut Route) {
    if !context.policies.any_traffic() {
        return;
    }
    let Some(object) = context.world.get::<Service>(&service.0, &service.1) else { return };
    let Some(port) = ports(&object).into_iter().find(|it| it.number == port) else { return };
    if let Some(policy) = context.policies.traffic(Kind::Service, service, &port.name) {
        Settings::of_policy(&policy.spec).to_route(route);
    }
}

/// The filters that connection managers of sidecars of a scope need for what routes say: none, unless a policy limits rates of a
/// service that they see or reach.
pub fn http_filters(context: &Context, scope: &Scope) -> Vec<HttpFilter> {
    let limited: BTreeSet<_> = context.policies.limited().collect();
    if limited.is_empty() {
        return Vec::new();
    }
    let some = context.once.limits(scope, || any_limit(context, scope, &limited));
    if some { vec![rate_limit::filter()] } else { Vec::new() }
}

fn any_limit(context: &Context, scope: &Scope, limited: &BTreeSet<(&Kind, &Named)>) -> bool {
    let seen = limited.iter().any(|(kind, (namespace, name))| {
        let key = Key::new(**kind, namespace, name);
        context.world.object(&key).is_some_and(|object| scope.sees_object(object))
    });
    let reached = || sidecar::routes::reached(context, scope, &sidecar::visible(context, scope));
    seen || reached().all.iter().any(|target| limits(limited, target))
}

/// The same for a gateway.
pub fn gateway_filters(context: &Context, gateway: &Named) -> Vec<HttpFilter> {
    let limited: BTreeSet<_> = context.policies.limited().collect();
    let Some(gateway) = context.attachments.gateways.get(gateway).filter(|_| !limited.is_empty()) else {
        return Vec::new();
    };
    let reached = routes::targets(gateway.listeners.iter().flat_map(|it| &it.http), []);
    if reached.iter().any(|target| limits(&limited, target)) {
        vec![rate_limit::filter()]
    } else {
        Vec::new()
    }
}

fn limits(limited: &BTreeSet<(&Kind, &Named)>, target: &Target) -> bool {
    match target {
        Target::Service { service, .. } => limited.contains(&(&Kind::Service, service)),
        Target::External { service, .. } => limited.contains(&(&Kind::ExternalService, service)),
        Target::Invalid => false,
    }
}
