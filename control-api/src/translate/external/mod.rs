//! `ExternalService`: the egress ambassador. Applications speak in clear to their sidecar; it finds the service, speaks TLS to it and
//! adds the credentials.

mod cluster;
mod credentials;
mod listeners;
mod material;
mod routes;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod visibility_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use credentials::{gateway_filters, sidecar_filters};
use k8s_openapi::api::core::v1::Service;
pub use listeners::listeners;
use outrider_proto::pb::envoy::config::route::v3::{
    Route, VirtualHost, route::Action, weighted_cluster::ClusterWeight,
};

pub use self::material::Material;
use super::policy::upstream::Settings;
use super::port::ports;
use super::{Context, Resource, Resources, Scope, Type, names};
use crate::model::own::{ExternalPort, ExternalProtocol, ExternalService, ExternalServiceSpec, Resolution};
use crate::model::{Key, Kind, Object};
use crate::world::{Named, Of, World, exported};

/// The clusters and secrets of all ExternalServices that a scope sees.
pub fn clusters(context: &Context, scope: &Scope) -> Resources {
    let mut out = Resources::default();
    for it in visible(context, scope) {
        let material = material(context, &it);
        it.body().spec.ports.iter().for_each(|port| add_cluster(context, &it, port, &material, &mut out));
    }
    out
}

/// The cluster and secrets of one port of an ExternalService, whoever sees it: for routes that were allowed to name it.
pub fn clusters_of(context: &Context, service: &Named, port: u16) -> Resources {
    let mut out = Resources::default();
    if let Ok((it, port)) = port_of(context, service, port) {
        add_cluster(context, &it, port, &material(context, &it), &mut out);
    }
    out
}

fn add_cluster(
    context: &Context,
    it: &Of<'_, ExternalService>,
    port: &ExternalPort,
    material: &Material,
    out: &mut Resources,
) {
    // Without what it needs there is no cluster: whatever leads to it is answered with 503, never sent otherwise than it should be.
    if material.missing(port).is_some() {
        return;
    }
    let service = named(it);
    let cluster = cluster::of_port(context, &service, it.body(), port, material);
    out.add(Type::Cluster, Resource::new(&cluster.name, &cluster));
    if let Some(secret) = cluster::client_certificate(&service, port, material) {
        out.add(Type::Secret, Resource::new(&secret.name, &secret));
    }
    for secret in material.credentials(port).iter().map(credentials::secret) {
        out.add(Type::Secret, Resource::new(&secret.name, &secret));
    }
}

/// Virtual hosts for the hosts of ExternalServices at a port; `None`: at the explicit HTTP listener, which has all ports.
pub fn virtual_hosts(context: &Context, scope: &Scope, port: Option<u16>) -> Vec<VirtualHost> {
    visible(context, scope).iter().flat_map(|it| routes::virtual_hosts(context, it, port)).collect()
}

/// The ports at which a sidecar needs an HTTP listener for ExternalServices.
pub fn http_ports(context: &Context, scope: &Scope) -> Vec<u16> {
    let all = visible(context, scope);
    let ports: BTreeSet<u16> =
        all.iter().flat_map(|it| it.spec.ports.iter().filter_map(|port| captured(&it.spec, port))).collect();
    ports.into_iter().collect()
}

/// Puts into a route to a port of an ExternalService what it needs: credentials, the host that the service knows itself by, retries,
/// timeouts. When something that it needs cannot be had, the route answers 503 and says why.
pub fn apply_to_route(context: &Context, service: &Named, port: u16, route: &mut Route) {
    match port_of(context, service, port) {
        Ok((it, port)) => routes::complete(context, &it, port, None, route),
        Err(reason) => route.action = Some(routes::unavailable(&reason)),
    }
}

fn port_of<'c>(
    context: &'c Context,
    service: &Named,
    port: u16,
) -> Result<(Of<'c, ExternalService>, &'c ExternalPort), String> {
    let found = context.world.get::<ExternalService>(&service.0, &service.1);
    found
        .and_then(|it| Some((it, it.body().spec.ports.iter().find(|known| known.number == port)?)))
        .ok_or_else(|| format!("there is no port {port} of ExternalService {}/{}", service.0, service.1))
}

/// As [`apply_to_route`], for one of several backends of a route: the host and the credentials. When something that it needs cannot be
/// had, its cluster is not there, and its share of the requests gets 503.
pub fn apply_to_share(context: &Context, service: &Named, port: u16, share: &mut ClusterWeight) {
    use outrider_proto::pb::envoy::config::route::v3::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let Ok((it, port)) = port_of(context, service, port) else { return };
    let material = material(context, &it);
    if material.missing(port).is_some() {
        return;
    }
    credentials::turn_on(
        material.credentials(port),
        &mut share.typed_per_filter_config,
        &mut share.request_headers_to_add,
        &mut share.request_headers_to_remove,
    );
    if share.host_rewrite_specifier.is_none() {
        let host = routes::own_host(&it.spec, port, None);
        share.host_rewrite_specifier = host.map(HostRewriteSpecifier::HostRewriteLiteral);
    }
}

/// Whether clients of a namespace may be given what a route to an ExternalService needs: its secrets go to those alone whom it is exported to,
/// whoever wrote the route.
pub fn may_be_given(world: &World, service: &Named, namespace: &str) -> bool {
    let found = world.get::<ExternalService>(&service.0, &service.1);
    found.is_none_or(|it| !it.spec.has_secrets() || exported(it.object, namespace))
}

/// Whether requests to a port of an ExternalService get credentials.
pub fn has_credentials(context: &Context, service: &Named, port: u16) -> bool {
    port_of(context, service, port)
        .is_ok_and(|(it, port)| port.protocol.is_http() && !it.body().spec.credentials.is_empty())
}

/// As [`has_credentials`], by the name of a cluster.
pub fn needs_credentials(context: &Context, cluster: &str) -> bool {
    names::parse_external(cluster).is_some_and(|(service, port)| has_credentials(context, &service, port))
}

/// The answer of a route that would copy a request with credentials.
pub fn not_mirrored() -> Action {
    routes::unavailable("a request that gets credentials is not mirrored; take the mirror out of the route")
}

/// What all ExternalServices of a world refer to.
pub(super) fn materials(world: &World) -> BTreeMap<Named, Arc<Material>> {
    let all = world.all::<ExternalService>();
    all.map(|it| (named(&it), Arc::new(Material::of(world, &it)))).collect()
}

/// What an ExternalService refers to, as it was read once for this world.
fn material(context: &Context, it: &Of<'_, ExternalService>) -> Arc<Material> {
    let known = context.policies.materials.get(&named(it)).cloned();
    known.unwrap_or_else(|| Arc::new(Material::of(&context.world, it)))
}

/// What cannot be honoured of each ExternalService of a world, by key.
pub(super) fn judge(world: &World, materials: &BTreeMap<Named, Arc<Material>>) -> Vec<(Key, Vec<String>)> {
    let mut hosts: BTreeMap<(&str, u16), Key> = BTreeMap::new();
    let mut tcp: BTreeMap<u16, Key> = BTreeMap::new();
    let mut all: Vec<Of<'_, ExternalService>> = world.all::<ExternalService>().collect();
    if all.is_empty() {
        return Vec::new();
    }
    all.sort_by_cached_key(|it| age(it.object));
    let http = http_of_services(world);
    all.iter()
        .map(|it| {
            let (key, spec) = (&it.object.key, &it.body().spec);
            let mut out = materials.get(&named(it)).map(|it| it.problems()).unwrap_or_default();
            for port in &spec.ports {
                for host in &spec.hosts {
                    let first = hosts.entry((host, port.number)).or_insert_with(|| key.clone());
                    if first != key {
                        out.push(format!(
                            "spec.hosts: {host} at port {} is that of {first}, too, which goes first where both are visible",
                            port.number
                        ));
                    }
                }
                let anywhere = match port.protocol {
                    ExternalProtocol::TLS => true,
                    ExternalProtocol::TCP => spec.resolution != Resolution::Static,
                    _ => false,
                };
                if let Some((namespace, name)) = http.get(&port.number).filter(|_| anywhere) {
                    out.push(format!(
                        "spec.ports: captured connections to port {} are HTTP where Service {namespace}/{name} is visible; use another number",
                        port.number
                    ));
                }
                if port.protocol == ExternalProtocol::TCP && spec.resolution != Resolution::Static {
                    let first = tcp.entry(port.number).or_insert_with(|| key.clone());
                    if first != key {
                        out.push(format!(
                            "spec.ports: captured connections to port {} are those of {first}, too, which goes first where both are visible; give addresses to tell them apart",
                            port.number
                        ));
                    }
                }
            }
            (key.clone(), out)
        })
        .collect()
}

/// The ports at which some service speaks HTTP for certain, with one that does.
fn http_of_services(world: &World) -> BTreeMap<u16, Named> {
    let mut out = BTreeMap::new();
    for service in world.all::<Service>() {
        for port in ports(&service).into_iter().filter(|port| port.spoken.is_http()) {
            out.entry(port.number)
                .or_insert_with(|| (Arc::clone(service.namespace()), Arc::clone(service.name())));
        }
    }
    out
}

/// Those that a scope sees: its own namespace first, then what is older. Who claims a host first has it.
fn visible<'c>(context: &'c Context, scope: &Scope) -> Vec<Of<'c, ExternalService>> {
    let seen = |it: &Of<'_, ExternalService>| scope.sees_object(it.object);
    let mut all: Vec<Of<'c, ExternalService>> = context.world.all::<ExternalService>().filter(seen).collect();
    all.sort_by_cached_key(|it| (*it.namespace() != scope.namespace, age(it.object)));
    all
}

fn age(object: &Object) -> (i64, Key) {
    (object.created(), object.key.clone())
}

fn named(it: &Of<'_, ExternalService>) -> Named {
    (Arc::clone(it.namespace()), Arc::clone(it.name()))
}

/// The policy of its namespace for a port, and what the service says of itself, which that goes before.
fn settings<'c>(
    context: &'c Context,
    service: &Named,
    spec: &'c ExternalServiceSpec,
    port: &ExternalPort,
) -> Settings<'c> {
    let policy =
        context.policies.traffic(Kind::ExternalService, service, port.name.as_deref().unwrap_or_default());
    let own = Settings::of_external(spec);
    policy.map_or(own, |policy| Settings::of_policy(&policy.spec).or(own))
}

/// The port at which captured applications call a port that speaks HTTP: its own; for `HTTPS`, whose number is that of the service, the one
/// of clear HTTP.
fn captured(spec: &ExternalServiceSpec, port: &ExternalPort) -> Option<u16> {
    const CLEAR: u16 = 80;
    match port.protocol {
        ExternalProtocol::HTTP | ExternalProtocol::HTTP2 | ExternalProtocol::GRPC => Some(port.number),
        ExternalProtocol::HTTPS => {
            let first = spec.ports.iter().find(|it| {
                it.protocol == ExternalProtocol::HTTPS || (it.number == CLEAR && it.protocol.is_http())
            });
            let clear =
                spec.ports.iter().any(|it| it.number == CLEAR && it.protocol != ExternalProtocol::HTTPS);
            (!clear && first.is_some_and(|first| first.number == port.number)).then_some(CLEAR)
        }
        ExternalProtocol::TLS | ExternalProtocol::TCP => None,
    }
}

/// The port of clients that name none: 80, else `HTTPS`, else the first that speaks HTTP.
fn default_port(spec: &ExternalServiceSpec) -> Option<u16> {
    let http = || spec.ports.iter().filter(|port| port.protocol.is_http());
    let found = http()
        .find(|port| port.number == 80)
        .or_else(|| http().find(|port| port.protocol == ExternalProtocol::HTTPS))
        .or_else(|| http().next())?;
    Some(found.number)
}

/// The name of a port's cluster.
fn cluster_name(service: &Named, port: &ExternalPort) -> String {
    names::external(service, port.number)
}
