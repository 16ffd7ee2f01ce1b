//! Endpoints.

use std::cell::RefCell;
use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::config::endpoint::v3 as pb;

use super::address::{Names, required};
use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::scalar::{enumeration, timeout, u32_of};
use super::{active, json};
use crate::model::{Endpoint, EndpointHealth, EndpointPolicy, Endpoints, LocalityEndpoints, Metadata};

/// The metadata of the last endpoint: neighbours nearly always have the same, and then share it.
type Last<'m> = RefCell<Option<(&'m core_pb::Metadata, Arc<Metadata>)>>;

fn shared<'m>(
    cx: &Cx,
    path: &Path<'_>,
    message: &'m core_pb::Metadata,
    last: &Last<'m>,
) -> Option<Arc<Metadata>> {
    if let Some((other, metadata)) = &*last.borrow()
        && *other == message
    {
        return Some(metadata.clone());
    }
    let metadata = json::metadata(cx, path, Some(message))?;
    last.replace(Some((message, metadata.clone())));
    Some(metadata)
}

/// A `ClusterLoadAssignment` of a cluster.
pub(crate) fn assignment(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::ClusterLoadAssignment,
    names: Names,
) -> Endpoints {
    convert(cx, path, message, names, false)
}

/// A `ClusterLoadAssignment` that a control plane sent: addresses are IP literals and Unix sockets.
pub(crate) fn dynamic(cx: &Cx, path: &Path<'_>, message: &pb::ClusterLoadAssignment) -> Endpoints {
    convert(cx, path, message, Names::Refused, true)
}

fn convert(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::ClusterLoadAssignment,
    names: Names,
    eds: bool,
) -> Endpoints {
    let pb::ClusterLoadAssignment {
        // The cluster's own name counts; xDS uses this one as the resource's name.
        cluster_name: _cluster_name,
        endpoints,
        named_endpoints,
        policy,
    } = message;
    inert!(cx, path, "only endpoint_name refers to it, and that is refused"; named_endpoints);
    let policy = policy.as_ref().map(|message| policy_of(cx, &path.field("policy"), message, eds));
    let (at, last) = (path.field("endpoints"), Last::default());
    Endpoints {
        localities: endpoints
            .iter()
            .enumerate()
            .map(|(i, message)| locality(cx, &at.index(i), message, names, &last))
            .collect(),
        policy: policy.unwrap_or_default(),
    }
}

fn policy_of(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::cluster_load_assignment::Policy,
    eds: bool,
) -> EndpointPolicy {
    let pb::cluster_load_assignment::Policy {
        drop_overloads,
        overprovisioning_factor,
        endpoint_stale_after,
        weighted_priority_health,
    } = message;
    let stale_after = timeout(cx, path, "endpoint_stale_after", endpoint_stale_after, None);
    if stale_after.is_some() && !eds {
        cx.inert(&path.field("endpoint_stale_after"), "endpoints of the cluster itself do not grow stale");
    }
    let default = EndpointPolicy::default();
    EndpointPolicy {
        overprovisioning_factor: u32_of(overprovisioning_factor).unwrap_or(default.overprovisioning_factor),
        weighted_priority_health: *weighted_priority_health,
        drop_overload: drop_overload(cx, &path.field("drop_overloads"), drop_overloads),
        stale_after,
    }
}

/// The share of requests to drop. Categories are summed up nowhere: as in Envoy there is one.
fn drop_overload(
    cx: &Cx,
    path: &Path<'_>,
    messages: &[pb::cluster_load_assignment::policy::DropOverload],
) -> f64 {
    let [message] = messages else {
        if !messages.is_empty() {
            cx.error(path, "one category can be given, not more");
        }
        return 0.0;
    };
    let pb::cluster_load_assignment::policy::DropOverload { category: _category, drop_percentage } = message;
    let Some(fraction) = drop_percentage else { return 0.0 };
    let share = f64::from(fraction.numerator)
        / match fraction.denominator {
            0 => 100.0,
            1 => 10_000.0,
            _ => 1_000_000.0,
        };
    if share > 1.0 {
        cx.error(&path.index(0).field("drop_percentage"), "it must not be more than 100 %");
    }
    share.min(1.0)
}

fn locality<'m>(
    cx: &Cx,
    path: &Path<'_>,
    message: &'m pb::LocalityLbEndpoints,
    names: Names,
    last: &Last<'m>,
) -> LocalityEndpoints {
    use pb::locality_lb_endpoints::{LbConfig, LbEndpointList};
    let pb::LocalityLbEndpoints {
        locality,
        metadata,
        lb_endpoints,
        load_balancing_weight,
        priority,
        proximity,
        lb_config,
    } = message;
    inert!(cx, path, "not implemented, in Envoy neither"; proximity);
    let core_pb::Locality { region, zone, sub_zone } = locality.clone().unwrap_or_default();
    if *priority > 128 {
        cx.error(&path.field("priority"), format!("{priority} is too high: 128 is the most"));
    }
    let at = path.field("lb_endpoints");
    let mut endpoints: Vec<Endpoint> = lb_endpoints
        .iter()
        .enumerate()
        .filter_map(|(i, message)| endpoint(cx, &at.index(i), message, names, last))
        .collect();
    match lb_config {
        Some(LbConfig::LoadBalancerEndpoints(LbEndpointList { lb_endpoints })) => {
            let path = path.field("load_balancer_endpoints");
            let path = path.field("lb_endpoints");
            endpoints.extend(
                lb_endpoints
                    .iter()
                    .enumerate()
                    .filter_map(|(i, message)| endpoint(cx, &path.index(i), message, names, last)),
            );
        }
        Some(LbConfig::LedsClusterLocalityConfig(_)) => {
            cx.refuse(
                &path.field("leds_cluster_locality_config"),
                "endpoints one by one (LEDS) are not supported; write lb_endpoints",
            );
        }
        None => {}
    }
    LocalityEndpoints {
        region,
        zone,
        sub_zone,
        priority: *priority,
        weight: u32_of(load_balancing_weight),
        endpoints,
        metadata: json::metadata(cx, path, metadata.as_ref()),
    }
}

fn endpoint<'m>(
    cx: &Cx,
    path: &Path<'_>,
    message: &'m pb::LbEndpoint,
    names: Names,
    last: &Last<'m>,
) -> Option<Endpoint> {
    use core_pb::HealthStatus;
    use pb::lb_endpoint::HostIdentifier;
    let pb::LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier } = message;
    let weight = u32_of(load_balancing_weight).unwrap_or(1);
    if weight == 0 {
        cx.error(&path.field("load_balancing_weight"), "it must be 1 or more");
    }
    let health = match enumeration::<HealthStatus>(cx, path, "health_status", *health_status) {
        HealthStatus::Unknown | HealthStatus::Healthy => EndpointHealth::Healthy,
        HealthStatus::Unhealthy | HealthStatus::Timeout => EndpointHealth::Unhealthy,
        HealthStatus::Draining => EndpointHealth::Draining,
        HealthStatus::Degraded => EndpointHealth::Degraded,
    };
    let message = match host_identifier {
        Some(HostIdentifier::Endpoint(message)) => message,
        Some(HostIdentifier::EndpointName(_)) => {
            cx.refuse(&path.field("endpoint_name"), "not implemented, in Envoy neither; write endpoint");
            return None;
        }
        None => {
            cx.error(&path.field("endpoint"), "an endpoint is needed");
            return None;
        }
    };
    let path = path.field("endpoint");
    let pb::Endpoint { address, health_check_config, hostname, additional_addresses, observability_name } =
        message;
    refuse!(cx, path, "a second address of a host is not supported; make it an endpoint of its own"; additional_addresses);
    refuse!(cx, path, UNSUPPORTED; observability_name);
    let address = required(cx, &path.field("address"), address.as_ref(), names)?;
    Some(Endpoint {
        address,
        hostname: Arc::from(hostname.as_str()),
        weight: weight.max(1),
        health,
        check: active::endpoint(cx, &path.field("health_check_config"), health_check_config.as_ref()),
        metadata: metadata.as_ref().and_then(|message| shared(cx, &path, message, last)),
    })
}
