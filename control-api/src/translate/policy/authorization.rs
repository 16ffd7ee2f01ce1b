//! `AuthorizationPolicy`: who may do what at a workload, as RBAC filters in front of it.

use outrider_proto::pb::envoy::config::listener::v3::Filter as NetworkFilter;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use crate::translate::Context;
use crate::world::Proxy;

/// The HTTP filters that enforce the policies of a proxy's workload, for the chain of one port.
pub fn http_filters(context: &Context, proxy: &Proxy, port: u16) -> Vec<HttpFilter> {
    let _ = (context, proxy, port);
    Vec::new()
}

/// The same for connections that are not HTTP.
pub fn network_filters(context: &Context, proxy: &Proxy, port: u16) -> Vec<NetworkFilter> {
    let _ = (context, proxy, port);
    Vec::new()
}
