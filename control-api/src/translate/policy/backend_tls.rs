//! `BackendTLSPolicy`: TLS towards a service, verified.

use outrider_proto::pb::envoy::config::cluster::v3::Cluster;

use crate::translate::{Context, port::Port};
use crate::world::Named;

/// Puts TLS into the cluster of a service that has a policy.
pub fn apply_to_cluster(context: &Context, service: &Named, port: &Port, cluster: &mut Cluster) {
    let _ = (context, service, port, cluster);
}
