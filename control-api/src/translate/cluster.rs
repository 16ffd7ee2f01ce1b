//! CDS: the cluster of a service's port.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use outrider_proto::pb::envoy::config::cluster::v3 as pb;
use outrider_proto::pb::envoy::config::core::v3 as core;
use outrider_proto::pb::envoy::extensions::upstreams::http::v3 as http;

use super::port::{Port, Spoken, ports};
use super::wire::{ads, any, duration, origin};
use super::{Context, Resource, names, policy};
use crate::model::{Key, Kind};
use crate::world::Named;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The key under which a cluster says how it speaks HTTP.
pub const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// How a service's port is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As applications call it: where they bring TLS of their own, at ports that are named so, it must not be wrapped in another.
    Mesh,
    /// From a gateway at which TLS ended, if there was any: a `BackendTLSPolicy` is in force at each port.
    Gateway,
    /// From a gateway that passes TLS on as it comes.
    Passthrough,
}

/// The cluster of a service's port, with all policies in it, for a client that speaks to it as applications do.
pub fn of_port(context: &Context, service: &Named, port: &Port) -> Arc<Resource> {
    resource(&message(context, service, port, Way::Mesh))
}

/// The cluster that a gateway's routes lead to; `None` when there is no such service, or it has no such port.
pub fn for_gateway(context: &Context, service: &Named, number: u16, way: Way) -> Option<Arc<Resource>> {
    Some(resource(&message(context, service, &find(context, service, number)?, way)))
}

/// The port of a service that routes name by its number.
pub fn find(context: &Context, service: &Named, number: u16) -> Option<Port> {
    let object = context.world.get::<Service>(&service.0, &service.1)?;
    ports(&object).into_iter().find(|port| port.number == number)
}

/// A cluster as it is served.
pub fn resource(cluster: &pb::Cluster) -> Arc<Resource> {
    Resource::new(&cluster.name, cluster)
}

/// The cluster of a service's port.
pub fn message(context: &Context, service: &Named, port: &Port, way: Way) -> pb::Cluster {
    let name = names::outbound(service, port.number);
    let mut cluster = pb::Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(pb::cluster::ClusterDiscoveryType::Type(
            pb::cluster::DiscoveryType::Eds as i32,
        )),
        eds_cluster_config: Some(pb::cluster::EdsClusterConfig {
            eds_config: Some(ads()),
            ..Default::default()
        }),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        lb_policy: pb::cluster::LbPolicy::LeastRequest as i32,
        metadata: Some(origin(&Key::new(Kind::Service, &service.0, &service.1), "")),
        typed_extension_protocol_options: options(&http_options(port.spoken.is_http2())),
        ..Default::default()
    };
    policy::traffic::apply_to_cluster(context, service, port, &mut cluster);
    match way {
        Way::Mesh if port.spoken == Spoken::Tls => {}
        Way::Mesh | Way::Gateway => {
            policy::backend_tls::apply_to_cluster(context, service, port, &mut cluster);
        }
        // The same endpoints beside the cluster of those routes at which TLS ends.
        Way::Passthrough => {
            cluster.name = names::passthrough(service, port.number);
            if let Some(endpoints) = &mut cluster.eds_cluster_config {
                endpoints.service_name = name;
            }
        }
    }
    cluster
}

/// HTTP options as a cluster carries them.
pub fn options(
    options: &http::HttpProtocolOptions,
) -> HashMap<String, outrider_proto::pb::google::protobuf::Any> {
    HashMap::from([(HTTP_OPTIONS.to_owned(), any(options))])
}

/// How a cluster speaks HTTP.
pub fn http_options(http2: bool) -> http::HttpProtocolOptions {
    use http::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    };
    let config = if http2 {
        ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default())
    } else {
        ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default())
    };
    http::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(config),
        })),
        ..Default::default()
    }
}

/// A cluster that leads to where the connection was going.
pub fn original_destination(name: &str, bind: Option<&str>) -> pb::Cluster {
    pb::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(pb::cluster::ClusterDiscoveryType::Type(
            pb::cluster::DiscoveryType::OriginalDst as i32,
        )),
        lb_policy: pb::cluster::LbPolicy::ClusterProvided as i32,
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        upstream_bind_config: bind.map(|address| core::BindConfig {
            source_address: Some(core::SocketAddress {
                address: address.to_owned(),
                port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        typed_extension_protocol_options: options(&http::HttpProtocolOptions {
            upstream_protocol_options: Some(
                http::http_protocol_options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(
                    http::http_protocol_options::UseDownstreamHttpConfig {
                        http_protocol_options: Some(core::Http1ProtocolOptions::default()),
                        http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
                        ..Default::default()
                    },
                ),
            ),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A cluster that leads nowhere.
pub fn black_hole() -> pb::Cluster {
    pb::Cluster {
        name: names::BLACK_HOLE.to_owned(),
        cluster_discovery_type: Some(pb::cluster::ClusterDiscoveryType::Type(
            pb::cluster::DiscoveryType::Static as i32,
        )),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        ..Default::default()
    }
}
