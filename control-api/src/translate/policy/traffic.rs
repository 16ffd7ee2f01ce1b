//! `TrafficPolicy`: balancing, breakers, outliers, health checks, timeouts, retries, rate limits.

use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use outrider_proto::pb::envoy::config::route::v3::Route;

use crate::translate::{Context, port::Port};
use crate::world::Named;

/// Puts into a cluster what the policy of its service says.
pub fn apply_to_cluster(context: &Context, service: &Named, port: &Port, cluster: &mut Cluster) {
    let _ = (context, service, port, cluster);
}

/// Puts into a route to a service what the service's policy says, where the route does not say it itself.
pub fn apply_to_route(context: &Context, service: &Named, port: u16, route: &mut Route) {
    let _ = (context, service, port, route);
}
