//! From a resource's bytes to what can be put in force.

use outrider_config::convert::{self, Ledger};
use outrider_config::model;
use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use outrider_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrider_proto::pb::envoy::config::listener::v3::Listener;
use outrider_proto::pb::envoy::config::route::v3::RouteConfiguration;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use outrider_proto::prost::Message;
use outrider_proto::{Path, Problem};
use outrider_xds::{Refusal, Resource};

/// A converted resource, and what of it has no effect.
pub(super) type Decoded<T> = Result<(T, Ledger), Vec<Refusal>>;

fn decode<M: Message + Default, T>(
    resource: &Resource,
    convert: impl FnOnce(&M, &Path<'_>) -> convert::Outcome<T>,
) -> Decoded<T> {
    let message = M::decode(&*resource.body)
        .map_err(|error| vec![Refusal::new(&*resource.name, "", format!("it cannot be decoded: {error}"))])?;
    let (result, ledger) = convert(&message, &Path::root());
    let refusals = |problems: Vec<Problem>| {
        let refusal = |problem: Problem| Refusal::new(&*resource.name, problem.path, problem.message);
        problems.into_iter().map(refusal).collect()
    };
    result.map(|value| (value, ledger)).map_err(refusals)
}

pub(super) fn cluster(resource: &Resource, options: &convert::Options) -> Decoded<model::Cluster> {
    decode(resource, |message: &Cluster, path| convert::cluster(message, path, options))
}

pub(super) fn listener(resource: &Resource, options: &convert::Options) -> Decoded<model::Listener> {
    decode(resource, |message: &Listener, path| {
        // The resource's name is the listener's, also where the message has none.
        let mut message = message.clone();
        if message.name.is_empty() {
            message.name = resource.name.to_string();
        }
        convert::listener(&message, path, options)
    })
}

pub(super) fn routes(resource: &Resource, options: &convert::Options) -> Decoded<model::RouteConfiguration> {
    decode(resource, |message: &RouteConfiguration, path| {
        convert::route_configuration(message, path, options)
    })
}

pub(super) fn endpoints(resource: &Resource, options: &convert::Options) -> Decoded<model::Endpoints> {
    decode(resource, |message: &ClusterLoadAssignment, path| convert::endpoints(message, path, options))
}

pub(super) fn secret(resource: &Resource, options: &convert::Options) -> Decoded<model::Secret> {
    decode(resource, |message: &Secret, path| convert::secret(message, path, options))
}
