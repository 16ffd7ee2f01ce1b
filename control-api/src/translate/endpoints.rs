//! EDS: the endpoints of a service's port, from its slices.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use outrider_proto::pb::envoy::config::core::v3::{HealthStatus, Locality};
use outrider_proto::pb::envoy::config::endpoint::v3 as pb;
use outrider_proto::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;

use super::policy::peers;
use super::port::{Port, ports};
use super::wire::{address, uint};
use super::{Context, Resource, TypeSet, mtls, names};
use crate::world::{Named, Of};

/// The endpoints of all services that `wanted` says yes to.
pub fn all(context: &Context, wanted: impl Fn(&Named) -> bool) -> TypeSet {
    let services = context.world.all::<Service>();
    let named = services.map(|it| (Arc::clone(it.namespace()), Arc::clone(it.name())));
    let disabled = peers::any_disabled(context);
    named.filter(|it| wanted(it)).flat_map(|service| each(context, &service, disabled)).collect()
}

/// The endpoints of one service, a resource for each port.
pub fn of_service(context: &Context, service: &Named) -> Vec<Arc<Resource>> {
    each(context, service, peers::any_disabled(context))
}

/// Address and port, with their health and whether mutual TLS is spoken there.
type Hosts = BTreeMap<(String, u16), (HealthStatus, bool)>;

/// `disabled`: somewhere a policy has something spoken in clear alone.
fn each(context: &Context, service: &Named, disabled: bool) -> Vec<Arc<Resource>> {
    let world = &context.world;
    let Some(object) = world.get::<Service>(&service.0, &service.1) else { return Vec::new() };
    ports(&object)
        .iter()
        .map(|port| {
            let name = names::outbound(service, port.number);
            Resource::new(&name, &assignment(context, service, port, (&name, disabled)))
        })
        .collect()
}

fn assignment(
    context: &Context,
    service: &Named,
    port: &Port,
    (name, disabled): (&str, bool),
) -> pb::ClusterLoadAssignment {
    let world = &*context.world;
    // Sorted, so that the same endpoints are the same bytes; twice the same endpoint (slices overlap while they are
    // rebuilt) is one, the better of the two.
    let mut localities: BTreeMap<&str, Hosts> = BTreeMap::new();
    for slice in world.slices(&service.0, &service.1) {
        let Some(number) = port_in(&slice, port) else { continue };
        for endpoint in &slice.body().endpoints {
            let Some(health) = health(endpoint) else { continue };
            let Some(tls) = mtls::of_endpoint(context, &slice, endpoint, disabled.then_some(number)) else {
                continue;
            };
            let hosts = localities.entry(endpoint.zone.as_deref().unwrap_or_default()).or_default();
            // Proxies refuse the whole resource for one that is no IP address (slices of type FQDN have such).
            for address in endpoint.addresses.iter().filter(|it| it.parse::<IpAddr>().is_ok()) {
                let known = hosts.entry((address.clone(), number)).or_insert((health, tls));
                if health == HealthStatus::Healthy {
                    known.0 = health;
                }
                // Where one slice says that there is a sidecar, nothing goes there in clear for want of a word in another.
                known.1 |= tls;
            }
        }
    }
    let endpoints = localities
        .into_iter()
        .map(|(zone, hosts)| pb::LocalityLbEndpoints {
            locality: Some(Locality { zone: zone.to_owned(), ..Default::default() }),
            // gRPC leaves localities out that have no weight.
            load_balancing_weight: Some(uint(u32::try_from(hosts.len()).unwrap_or(u32::MAX).max(1))),
            lb_endpoints: hosts
                .into_iter()
                .map(|((host, port), (health, tls))| endpoint_of(&host, port, health, tls))
                .collect(),
            ..Default::default()
        })
        .collect();
    pb::ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints, ..Default::default() }
}

fn endpoint_of(host: &str, port: u16, health: HealthStatus, tls: bool) -> pb::LbEndpoint {
    let endpoint = pb::Endpoint { address: Some(address(host, port)), ..Default::default() };
    pb::LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
        health_status: health as i32,
        metadata: tls.then(mtls::metadata),
        ..Default::default()
    }
}

/// The number of a service's port in a slice: the port of the same name.
fn port_in(slice: &Of<'_, EndpointSlice>, port: &Port) -> Option<u16> {
    let listed = slice.ports.as_deref().unwrap_or_default();
    let found = listed.iter().find(|it| it.name.as_deref().unwrap_or_default() == &*port.name)?;
    u16::try_from(found.port?).ok()
}

/// Ready: healthy. Serving while it terminates: draining, so that what it works on may end. Else it does not count.
/// <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#conditions>
fn health(endpoint: &Endpoint) -> Option<HealthStatus> {
    let Some(conditions) = &endpoint.conditions else { return Some(HealthStatus::Healthy) };
    if conditions.ready.unwrap_or(true) {
        return Some(HealthStatus::Healthy);
    }
    let draining = conditions.serving.unwrap_or(false) && conditions.terminating.unwrap_or(false);
    draining.then_some(HealthStatus::Draining)
}
