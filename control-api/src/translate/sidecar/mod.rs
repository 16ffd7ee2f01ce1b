//! What a sidecar gets: the virtual listeners, a listener for each port, an explicit HTTP listener, and the application's side.

mod doors;
mod inbound;
#[cfg(test)]
mod mtls_tests;
mod outbound;
mod probe;
#[cfg(test)]
mod route_tests;
pub mod routes;
mod secrets;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

use super::cluster::{Use, Way};
use super::port::{Port, ports};
use super::{Context, Resource, Resources, Scope, Type, cluster, external, names, policy};
use crate::attach::ir::Target;
use crate::world::{Named, Proxy};

/// One port of a visible service.
#[derive(Clone, Debug)]
pub struct Visible<'c> {
    /// The service.
    pub service: Named,
    /// Its content.
    pub object: &'c Service,
    /// The port.
    pub port: Port,
}

impl Visible<'_> {
    /// The addresses under which clients reach it; none for headless services.
    pub fn addresses(&self) -> Vec<&str> {
        let Some(spec) = &self.object.spec else { return Vec::new() };
        let listed = spec.cluster_ips.as_deref().unwrap_or_default();
        let mut all: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
        all.extend(spec.cluster_ip.as_deref());
        all.into_iter().filter(|address| !address.is_empty() && *address != "None").collect()
    }
}

/// All ports of all services that a scope sees, by namespace, name and place.
pub fn visible<'c>(context: &'c Context, scope: &Scope) -> Vec<Visible<'c>> {
    let mut out = Vec::new();
    for service in context.world.all::<Service>().filter(|it| scope.sees_object(it.object)) {
        // A name for something outside: there is nothing to balance.
        if service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            continue;
        }
        let named: Named = (Arc::clone(service.namespace()), Arc::clone(service.name()));
        let object = service.body();
        out.extend(ports(object).into_iter().map(|port| Visible { service: named.clone(), object, port }));
    }
    out
}

/// What all sidecars of a scope get alike.
pub fn shared(context: &Context, scope: &Scope) -> Resources {
    let mut out = external::clusters(context, scope);
    let services = visible(context, scope);
    let reached = routes::reached(context, scope, &services);
    for it in &services {
        let target = Target::Service { service: it.service.clone(), port: it.port.number };
        let usage = Use { grpc: reached.calls.contains(&target), mtls: scope.mtls, ..Way::Mesh.into() };
        let cluster = cluster::of_port(context, &it.service, &it.port, usage);
        let waits = scope.observed && routes::spoken(context, scope, it).is_http();
        if waits && !reached.at_once.contains(&target) {
            out.on_demand.insert(cluster);
        } else {
            out.add(Type::Cluster, cluster);
        }
    }
    for (service, port) in beyond(context, &services, &reached) {
        let target = Target::Service { service: service.clone(), port: port.number };
        let usage = Use { grpc: reached.calls.contains(&target), mtls: scope.mtls, ..Way::Mesh.into() };
        out.add(Type::Cluster, cluster::of_port(context, &service, &port, usage));
    }
    for target in &reached.requests {
        let Target::Service { service, port } = target else { continue };
        if cluster::is_originated(context, service, *port) {
            let usage =
                Use { grpc: reached.calls.contains(target), mtls: scope.mtls, ..Way::Originated.into() };
            cluster::at(context, service, *port, usage).into_iter().for_each(|it| out.add(Type::Cluster, it));
        }
    }
    for target in &reached.all {
        if let Target::External { service, port } = target {
            out.merge(&external::clusters_of(context, service, *port));
        }
    }
    for cluster in [cluster::original_destination(names::PASSTHROUGH, &[]), cluster::black_hole()] {
        out.add(Type::Cluster, Resource::new(&cluster.name, &cluster));
    }
    for listener in outbound::listeners(context, scope, &services) {
        out.add(Type::Listener, Resource::new(&listener.name, &listener));
    }
    for table in routes::tables(context, scope, &services) {
        out.add(Type::Route, Resource::canonical(Type::Route, &table.name, &table));
    }
    out
}

/// The ports that routes lead to and that the scope alone does not have: who wrote the route depends on them.
pub fn beyond(context: &Context, services: &[Visible<'_>], reached: &routes::Reached) -> Vec<(Named, Port)> {
    let known: BTreeSet<(&Named, u16)> = services.iter().map(|it| (&it.service, it.port.number)).collect();
    let further = reached.all.iter().filter_map(|target| match target {
        Target::Service { service, port } if !known.contains(&(service, *port)) => Some((service, *port)),
        _ => None,
    });
    let found =
        |(service, number): (&Named, u16)| Some((service.clone(), cluster::find(context, service, number)?));
    further.filter_map(found).collect()
}

/// What one sidecar alone gets: its application's side, and the explicit HTTP listener, whose port is its own affair.
pub fn own(context: &Context, proxy: &Proxy) -> Resources {
    let mut out = Resources::default();
    for cluster in inbound::clusters(context, proxy) {
        out.add(Type::Cluster, Resource::new(&cluster.name, &cluster));
    }
    let (scope, labels) =
        (Scope::of(&context.world, proxy), policy::authorization::labels(&context.world, proxy));
    let workload = policy::authorization::Workload { namespace: &proxy.namespace, labels: labels.as_ref() };
    // Whatever the application depends on, the proxy itself fetches keys from there.
    for target in policy::authorization::keys(context, workload) {
        match target {
            Target::Service { service, port } => {
                let usage = Use { mtls: scope.mtls, ..Way::Mesh.into() };
                cluster::at(context, &service, port, usage)
                    .into_iter()
                    .for_each(|it| out.add(Type::Cluster, it));
            }
            Target::External { service, port } => {
                out.merge(&external::clusters_of(context, &service, port));
            }
            Target::Invalid => {}
        }
    }
    for listener in [inbound::listener(context, proxy), outbound::http_proxy(context, proxy)] {
        out.add(Type::Listener, Resource::new(&listener.name, &listener));
    }
    out
}
