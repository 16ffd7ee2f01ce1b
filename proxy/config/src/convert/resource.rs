//! Single resources: what a config_dump lists, and what xDS brings.

use outrider_proto::pb::envoy::config::cluster::v3::Cluster as ClusterMessage;
use outrider_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrider_proto::pb::envoy::config::listener::v3::Listener as ListenerMessage;
use outrider_proto::pb::envoy::config::route::v3::RouteConfiguration as RouteMessage;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret as SecretMessage;
use outrider_proto::{Path, Problem};

use super::address::{Bind, Names};
use super::cx::{Cx, Ledger, Options};
use crate::model::{Cluster, Endpoints, Listener, RouteConfiguration, Secret};

/// The outcome of one resource: the model or its problems, and the ledger.
pub type Outcome<T> = (Result<T, Vec<Problem>>, Ledger);

/// Runs `convert`, whose `None` comes with a problem; were it to come without, that would be one.
fn run<T>(path: &Path<'_>, options: &Options, convert: impl FnOnce(&Cx) -> Option<T>) -> Outcome<T> {
    let cx = Cx::new(options);
    let value = convert(&cx);
    if value.is_none() && !cx.has_problems() {
        cx.error(path, "the resource cannot be used");
    }
    let (result, ledger) = cx.finish(value);
    (result.and_then(|value| value.ok_or_else(Vec::new)), ledger)
}

/// Converts a listener; problems name paths below `path`.
pub fn listener(message: &ListenerMessage, path: &Path<'_>, options: &Options) -> Outcome<Listener> {
    run(path, options, |cx| super::listener::listener(cx, path, message))
}

/// Converts a cluster; problems name paths below `path`.
pub fn cluster(message: &ClusterMessage, path: &Path<'_>, options: &Options) -> Outcome<Cluster> {
    run(path, options, |cx| super::cluster::cluster(cx, path, message, &Bind::default()))
}

/// Converts a route table; problems name paths below `path`.
pub fn route_configuration(
    message: &RouteMessage,
    path: &Path<'_>,
    options: &Options,
) -> Outcome<RouteConfiguration> {
    run(path, options, |cx| Some(super::route::route_configuration(cx, path, message)))
}

/// Converts a secret; problems name paths below `path`.
pub fn secret(message: &SecretMessage, path: &Path<'_>, options: &Options) -> Outcome<Secret> {
    run(path, options, |cx| super::secret::secret(cx, path, message))
}

/// Converts endpoints as EDS brings them: addresses are IP literals. Problems name paths below `path`.
pub fn endpoints(message: &ClusterLoadAssignment, path: &Path<'_>, options: &Options) -> Outcome<Endpoints> {
    run(path, options, |cx| Some(super::endpoint::assignment(cx, path, message, Names::Refused)))
}
