//! CDS: the cluster of a service's port.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use outrider_proto::pb::envoy::config::cluster::v3 as pb;
use outrider_proto::pb::envoy::config::core::v3 as core;
use outrider_proto::pb::envoy::extensions::upstreams::http::v3 as http;
use outrider_proto::prost::Message as _;

use super::port::{Port, Spoken, ports};
use super::wire::{ads, any, duration, origin};
use super::{Context, Resource, mtls, names, policy};
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
    /// For requests in clear that routes lead to such a port: a `BackendTLSPolicy` is in force.
    Originated,
    /// By a gRPC client, which brings no TLS of its own: a `BackendTLSPolicy` is in force at each port.
    Grpc,
    /// From a gateway at which TLS ended, if there was any: a `BackendTLSPolicy` is in force at each port.
    Gateway,
    /// From a gateway that passes TLS on as it comes.
    Passthrough,
}

/// How a cluster is used.
#[derive(Clone, Copy, Debug)]
pub struct Use<'u> {
    /// The way to its port.
    pub way: Way,
    /// A GRPCRoute leads to it.
    pub grpc: bool,
    /// The Secret with the certificate that the client shows.
    pub client_certificate: Option<&'u Named>,
    /// The client has an identity of the mesh.
    pub mtls: bool,
}

impl From<Way> for Use<'_> {
    fn from(way: Way) -> Self {
        Self { way, grpc: false, client_certificate: None, mtls: false }
    }
}

impl Use<'_> {
    /// What requests are sent in. Where nobody says what a port speaks, applications do by how they call it; a gateway cannot know from
    /// how browsers call it, and what all understand is HTTP/1.1. gRPC is HTTP/2.
    fn protocol(&self, spoken: Spoken) -> Protocol {
        match self.way {
            _ if spoken.is_http2() => Protocol::Http2,
            Way::Mesh if spoken == Spoken::Unknown || self.grpc => Protocol::Downstream,
            Way::Gateway | Way::Originated if self.grpc => Protocol::Http2,
            _ => Protocol::Http1,
        }
    }
}

/// What a cluster's requests are sent in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
    /// What the client speaks.
    Downstream,
}

/// A cluster for requests or connections of a sidecar's application.
pub fn of_port(context: &Context, service: &Named, port: &Port, usage: Use<'_>) -> Arc<Resource> {
    resource(&message(context, service, port, usage))
}

/// The cluster that routes lead to; `None` when there is no such service, or it has no such port.
pub fn at(context: &Context, service: &Named, number: u16, usage: Use<'_>) -> Option<Arc<Resource>> {
    Some(resource(&message(context, service, &find(context, service, number)?, usage)))
}

/// Whether requests in clear to a port need a cluster of their own, [`Way::Originated`]: TLS is spoken there, which connections bring along,
/// and a policy says how it is spoken to.
pub fn is_originated(context: &Context, service: &Named, number: u16) -> bool {
    let any = !context.attachments.backend_tls.is_empty();
    let found = || find(context, service, number).filter(|port| port.spoken == Spoken::Tls);
    any && found().is_some_and(|port| policy::backend_tls::policy(context, service, &port).is_some())
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
pub fn message<'u>(
    context: &Context,
    service: &Named,
    port: &Port,
    usage: impl Into<Use<'u>>,
) -> pb::Cluster {
    let usage = usage.into();
    let protocol = usage.protocol(port.spoken);
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
        typed_extension_protocol_options: options(&match protocol {
            Protocol::Http1 => http_options(false),
            Protocol::Http2 => http_options(true),
            Protocol::Downstream => as_the_client_speaks(),
        }),
        ..Default::default()
    };
    policy::traffic::apply_to_cluster(context, service, port, &mut cluster);
    // The same endpoints beside the cluster of the port.
    let beside = match usage.way {
        Way::Passthrough => Some(names::passthrough(service, port.number)),
        Way::Originated => Some(names::originated(service, port.number)),
        Way::Mesh | Way::Gateway | Way::Grpc => None,
    };
    if let (Some(other), Some(endpoints)) = (beside, &mut cluster.eds_cluster_config) {
        cluster.name = other;
        endpoints.service_name = name;
    }
    let speaks_tls = match usage.way {
        Way::Mesh => port.spoken != Spoken::Tls,
        Way::Originated | Way::Gateway | Way::Grpc => true,
        Way::Passthrough => false,
    };
    if speaks_tls {
        let http2 = protocol == Protocol::Http2;
        let certificate = usage.client_certificate;
        policy::backend_tls::apply_to_cluster(context, service, port, (http2, certificate), &mut cluster);
    }
    // What somebody said by a policy goes before what is done by itself, and a cluster that leads nowhere stays one.
    if usage.mtls && cluster.transport_socket.is_none() && cluster.eds_cluster_config.is_some() {
        let then = match protocol {
            Protocol::Http2 => Some("h2"),
            Protocol::Http1 if port.spoken.is_http() => Some("http/1.1"),
            // The other side finds out.
            Protocol::Http1 | Protocol::Downstream => None,
        };
        mtls::apply_to_cluster(context, service, port.number, then, &mut cluster);
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

/// Has a cluster of HTTP/1.1 agree with each endpoint upon HTTP/1.1 or HTTP/2, by ALPN. All else that it says of HTTP stays.
pub fn agree_by_alpn(cluster: &mut pb::Cluster) {
    use http::http_protocol_options::explicit_http_config::ProtocolConfig::HttpProtocolOptions;
    use http::http_protocol_options::{
        AutoHttpConfig, ExplicitHttpConfig,
        UpstreamProtocolOptions::{AutoConfig, ExplicitHttpConfig as Explicit},
    };
    let Some(packed) = cluster.typed_extension_protocol_options.get_mut(HTTP_OPTIONS) else { return };
    let Ok(mut options) = http::HttpProtocolOptions::decode(packed.value.as_slice()) else { return };
    let Some(Explicit(ExplicitHttpConfig { protocol_config: Some(HttpProtocolOptions(http1)) })) =
        options.upstream_protocol_options.take()
    else {
        return;
    };
    options.upstream_protocol_options = Some(AutoConfig(AutoHttpConfig {
        http_protocol_options: Some(http1),
        http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
        ..Default::default()
    }));
    *packed = any(&options);
}

/// A cluster that speaks HTTP in the version of each request.
fn as_the_client_speaks() -> http::HttpProtocolOptions {
    use http::http_protocol_options::{UpstreamProtocolOptions, UseDownstreamHttpConfig};
    let both = UseDownstreamHttpConfig {
        http_protocol_options: Some(core::Http1ProtocolOptions::default()),
        http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
        ..Default::default()
    };
    http::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(both)),
        ..Default::default()
    }
}

/// A cluster that leads to where the connection was going. `sources`: the addresses that its connections come from, one of each family
/// at most; none for whatever the kernel chooses.
pub fn original_destination(name: &str, sources: &[&str]) -> pb::Cluster {
    let source = |address: &&str| core::SocketAddress {
        address: (*address).to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
        ..Default::default()
    };
    let extra =
        |address: &&str| core::ExtraSourceAddress { address: Some(source(address)), ..Default::default() };
    pb::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(pb::cluster::ClusterDiscoveryType::Type(
            pb::cluster::DiscoveryType::OriginalDst as i32,
        )),
        lb_policy: pb::cluster::LbPolicy::ClusterProvided as i32,
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        upstream_bind_config: sources.split_first().map(|(first, others)| core::BindConfig {
            source_address: Some(source(first)),
            extra_source_addresses: others.iter().map(extra).collect(),
            ..Default::default()
        }),
        typed_extension_protocol_options: options(&as_the_client_speaks()),
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
