//! Resources, built.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, anyhow};
use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use outrider_proto::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig,
};
use outrider_proto::pb::envoy::config::core::v3::address::Address as Which;
use outrider_proto::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use outrider_proto::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use outrider_proto::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress,
};
use outrider_proto::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use outrider_proto::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use outrider_proto::pb::google::protobuf::{Any, Duration};
use outrider_proto::prost::Message as _;
use outrider_proto::{Descriptors, any, load};
use serde_json::{Value, json};

use super::plane::Served;

/// Routes of a virtual host.
const HOST: usize = 100;

/// The virtual host that has the route of this ordinal.
pub(super) fn host(route: usize) -> String {
    format!("host-{}", route / HOST)
}

/// A cluster whose endpoints come by ADS.
pub(super) fn cluster(name: &str) -> Served {
    let ads = ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    };
    let body = any::pack(&Cluster {
        name: name.to_owned(),
        connect_timeout: Some(Duration { seconds: 5, nanos: 0 }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads), ..EdsClusterConfig::default() }),
        ..Cluster::default()
    });
    Served { name: name.to_owned(), body }
}

/// The endpoints of a cluster.
pub(super) fn endpoints(cluster: &str, hosts: impl Iterator<Item = (Ipv4Addr, u16)>) -> Served {
    let endpoint = |(address, port): (Ipv4Addr, u16)| {
        let address = SocketAddress {
            address: address.to_string(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        };
        let address = Address { address: Some(Which::SocketAddress(address)) };
        let endpoint = Endpoint { address: Some(address), ..Endpoint::default() };
        LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..LbEndpoint::default() }
    };
    let all =
        LocalityLbEndpoints { lb_endpoints: hosts.map(endpoint).collect(), ..LocalityLbEndpoints::default() };
    let body = any::pack(&ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![all],
        ..ClusterLoadAssignment::default()
    });
    Served { name: cluster.to_owned(), body }
}

/// A table of so many routes to as many clusters: `/name` goes to the cluster `name`.
pub(super) fn table(descriptors: &Descriptors, names: &[String]) -> Result<Served> {
    let route =
        |name: &String| json!({ "match": { "path": format!("/{name}") }, "route": { "cluster": name } });
    let hosts: Vec<Value> = names
        .chunks(HOST)
        .enumerate()
        .map(|(ordinal, names)| {
            json!({
                "name": host(ordinal * HOST), "domains": [host(ordinal * HOST)],
                "routes": names.iter().map(route).collect::<Vec<_>>(),
            })
        })
        .collect();
    json(
        descriptors,
        &json!({
            "@type": format!("{}config.route.v3.RouteConfiguration", outrider_tests::control_plane::TYPE),
            "name": "table", "virtual_hosts": hosts,
        }),
    )
}

/// A resource from JSON.
pub(super) fn json(descriptors: &Descriptors, resource: &Value) -> Result<Served> {
    let url = resource["@type"].as_str().context("no type")?.to_owned();
    let name = resource["name"].as_str().or(resource["cluster_name"].as_str()).context("no name")?.to_owned();
    let mut fields = resource.clone();
    fields.as_object_mut().context("not an object")?.remove("@type");
    let type_name = any::type_name(&url).to_owned();
    let loaded = load::parse(
        descriptors,
        &fields.to_string(),
        "resource.json",
        &type_name,
        load::ParseOptions::default(),
    );
    let loaded = loaded.map_err(|problems| anyhow!("{problems}"))?;
    Ok(Served { name, body: Any { type_url: url, value: loaded.message.encode_to_vec() } })
}
