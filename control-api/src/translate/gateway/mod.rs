//! What a router gets: the listeners of its Gateway, and only what their routes reach.

#[cfg(test)]
mod authorization_tests;
#[cfg(test)]
mod backend_tests;
mod hosts;
mod listeners;
mod secrets;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use self::listeners::Frame;
use super::cluster::{Use, Way};
use super::policy::authorization::{Workload, keys};
use super::{Context, Resource, Resources, Scope, Type, cluster, external, routes};
use crate::attach::ir::Target;
use crate::attach::{Gateway, Listener, Protocol};
use crate::model::Kind;
use crate::world::Named;

/// Listeners, routes, clusters and secrets of the scope's Gateway. Without one, a cluster that leads nowhere.
pub fn shared(context: &Context, scope: &Scope) -> Resources {
    let mut out = Resources::default();
    let hole = cluster::black_hole();
    out.add(Type::Cluster, Resource::new(&hole.name, &hole));
    let Some(named) = &scope.gateway else { return out };
    let Some(gateway) = context.attachments.gateways.get(named) else { return out };
    for (port, listeners) in by_port(gateway) {
        let workload = Workload { namespace: &named.0, labels: scope.labels.as_ref() };
        let frame = Frame { context, gateway: named, workload, port };
        at_port(&frame, &listeners, &mut out);
    }
    reached(context, scope, gateway, &mut out);
    for secret in certificates(gateway) {
        if let Some(secret) = secrets::certificate(&context.world, secret) {
            out.add(Type::Secret, Resource::new(&secret.name, &secret));
        }
    }
    out
}

fn by_port(gateway: &Gateway) -> BTreeMap<u16, Vec<&Listener>> {
    let mut out: BTreeMap<u16, Vec<&Listener>> = BTreeMap::new();
    for listener in &gateway.listeners {
        out.entry(listener.port).or_default().push(listener);
    }
    out
}

/// One port. Protocols that cannot share one are in conflict, and only one of them is attached; here the first one counts.
fn at_port(frame: &Frame<'_>, listeners: &[&Listener], out: &mut Resources) {
    let (context, port) = (frame.context, frame.port);
    let class = |it: &Listener| match it.protocol {
        Protocol::Http => 0,
        Protocol::Tcp => 1,
        Protocol::Https(_) | Protocol::TlsTerminate(_) | Protocol::TlsPassthrough => 2,
    };
    let Some(first) = listeners.first().map(|it| class(it)) else { return };
    let listeners: Vec<&Listener> = listeners.iter().copied().filter(|it| class(it) == first).collect();
    let mut route_tables = Vec::new();
    let listener = if first == 2 {
        let http = listeners.iter().filter(|it| matches!(it.protocol, Protocol::Https(_)));
        route_tables.extend(http.map(|it| tables::tls(context, port, it, &listeners)));
        frame.tls(&listeners)
    } else {
        if first == 0 {
            route_tables.push(tables::plain(context, port, &listeners));
        }
        frame.plain(&listeners)
    };
    out.add(Type::Listener, Resource::new(&listener.name, &listener));
    for table in route_tables {
        out.add(Type::Route, Resource::canonical(Type::Route, &table.name, &table));
    }
}

/// The clusters that routes lead to.
fn reached(context: &Context, scope: &Scope, gateway: &Gateway, out: &mut Resources) {
    let passes = |it: &&Listener| it.protocol == Protocol::TlsPassthrough;
    let passed = gateway.listeners.iter().filter(passes).flat_map(|it| &it.tcp);
    let ended = gateway.listeners.iter().filter(|it| !passes(it));
    let calls = ended.clone().flat_map(|it| &it.http).filter(|it| it.key.kind == Kind::GrpcRoute);
    let calls = routes::targets(calls, []);
    let mut ended = routes::targets(ended.clone().flat_map(|it| &it.http), ended.flat_map(|it| &it.tcp));
    let namespace = scope.gateway.as_ref().map_or(&scope.namespace, |named| &named.0);
    let workload = Workload { namespace, labels: scope.labels.as_ref() };
    ended.extend(keys(context, workload));
    for (targets, way) in [(ended, Way::Gateway), (routes::targets([], passed), Way::Passthrough)] {
        for target in targets {
            let client_certificate = gateway.client_certificate.as_ref();
            let usage = Use { way, grpc: calls.contains(&target), client_certificate, mtls: scope.mtls };
            match target {
                Target::Service { service, port } => {
                    let cluster = cluster::at(context, &service, port, usage);
                    cluster.into_iter().for_each(|cluster| out.add(Type::Cluster, cluster));
                }
                Target::External { service, port } => {
                    out.merge(&external::clusters_of(context, &service, port));
                }
                Target::Invalid => {}
            }
        }
    }
}

fn certificates(gateway: &Gateway) -> BTreeSet<&Named> {
    let listed = gateway.listeners.iter().filter_map(|it| match &it.protocol {
        Protocol::Https(secrets) | Protocol::TlsTerminate(secrets) => Some(secrets),
        _ => None,
    });
    listed.flatten().chain(&gateway.client_certificate).collect()
}
