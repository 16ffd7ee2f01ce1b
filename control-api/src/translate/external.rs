//! `ExternalService`: the egress ambassador.

use outrider_proto::pb::envoy::config::route::v3::VirtualHost;

use super::{Context, Resources, Scope};

/// The clusters (and secrets) of all ExternalServices that a scope sees.
pub fn clusters(context: &Context, scope: &Scope) -> Resources {
    let _ = (context, scope);
    Resources::default()
}

/// Virtual hosts for the hosts of ExternalServices at a port; `None`: at the explicit HTTP listener, which has all ports.
pub fn virtual_hosts(context: &Context, scope: &Scope, port: Option<u16>) -> Vec<VirtualHost> {
    let _ = (context, scope, port);
    Vec::new()
}

/// The ports at which a sidecar needs an HTTP listener for ExternalServices.
pub fn http_ports(context: &Context, scope: &Scope) -> Vec<u16> {
    let _ = (context, scope);
    Vec::new()
}
