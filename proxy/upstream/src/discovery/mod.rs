//! Where hosts come from.

mod dns;

use std::sync::Arc;

use outrider_config::model::{self, Discovery, Endpoint, Endpoints, LocalityEndpoints, SocketAddress};
use outrider_core::stream::Address;

use crate::error::ClusterError;
use crate::host::{Host, Locality};

pub(crate) use dns::Discoverer;

/// The hosts that `config` names by address; `None` when they are yet to be found.
pub(crate) fn fixed_hosts(config: &model::Cluster) -> Result<Option<Vec<Host>>, ClusterError> {
    let Discovery::Static(endpoints) = &config.discovery else { return Ok(None) };
    let mut hosts = Vec::new();
    for locality in &endpoints.localities {
        let shared = locality_of(locality);
        for endpoint in &locality.endpoints {
            let Some(address) = literal(&endpoint.address) else {
                return Err(ClusterError::NameInStatic {
                    cluster: config.name.clone(),
                    address: endpoint.address.to_string(),
                });
            };
            hosts.push(host(endpoint, address, locality.priority, &shared));
        }
    }
    Ok(Some(hosts))
}

/// The overprovisioning factor of `config`, in percent.
pub(crate) fn overprovisioning(config: &model::Cluster) -> u32 {
    endpoints(config).map_or(140, |endpoints| endpoints.overprovisioning_factor)
}

pub(crate) const fn endpoints(config: &model::Cluster) -> Option<&Endpoints> {
    match &config.discovery {
        Discovery::Static(endpoints)
        | Discovery::StrictDns { endpoints, .. }
        | Discovery::LogicalDns { endpoints, .. } => Some(endpoints),
        Discovery::OriginalDst(_) => None,
    }
}

fn locality_of(locality: &LocalityEndpoints) -> Arc<Locality> {
    Arc::new(Locality {
        region: locality.region.clone(),
        zone: locality.zone.clone(),
        sub_zone: locality.sub_zone.clone(),
    })
}

/// The address, when it is one and not a name.
fn literal(address: &SocketAddress) -> Option<Address> {
    match address {
        SocketAddress::Ip(ip) => Some(Address::Ip(*ip)),
        SocketAddress::Pipe { path, .. } => Some(Address::Pipe(path.clone())),
        SocketAddress::Name { host, port } => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            bare.parse().ok().map(|ip| Address::Ip(std::net::SocketAddr::new(ip, *port)))
        }
    }
}

fn host(endpoint: &Endpoint, address: Address, priority: u32, locality: &Arc<Locality>) -> Host {
    Host::new(
        address,
        endpoint.hostname.clone(),
        endpoint.weight,
        priority,
        locality.clone(),
        endpoint.health,
    )
}
