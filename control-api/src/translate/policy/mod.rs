//! What policies say, put where Envoy's API has it.

pub mod authorization;
#[cfg(test)]
mod authorization_tests;
pub mod backend_tls;
mod jwt;
pub mod peers;
pub mod rate_limit;
mod resolve;
mod status;
pub mod telemetry;
#[cfg(test)]
mod telemetry_tests;
#[cfg(test)]
mod tests;
pub mod traffic;
pub mod upstream;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::attach::{Writer, rfc3339};
use crate::model::own::TrafficPolicy;
use crate::model::{Key, Kind, Object, Typed};
use crate::translate::external;
use crate::world::{Named, World};

/// What a policy is in force for: kind, service, and the name of a port where it is for one.
type Target = (Kind, Named, Option<Arc<str>>);

/// Which policy is in force where. Pure: the same world gives the same.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    traffic: BTreeMap<Target, Arc<Object>>,
    /// Authorization policies of each namespace, by name.
    authorization: BTreeMap<Arc<str>, Vec<Arc<Object>>>,
    /// Peer policies of each namespace, what is older first.
    peers: BTreeMap<Arc<str>, Vec<Arc<Object>>>,
    /// Telemetry of each namespace, what is older first.
    telemetry: BTreeMap<Arc<str>, Vec<Arc<Object>>>,
    /// What each ExternalService refers to: certificates and keys are read once for all that ask.
    pub(in crate::translate) materials: Arc<BTreeMap<Named, Arc<external::Material>>>,
    /// The `status` of every policy and of every ExternalService, as JSON.
    pub statuses: BTreeMap<Key, Value>,
}

impl Policies {
    /// Resolves all policies of a world: among several for one target, the older one is in force, then the first by namespace and name.
    pub fn of(world: &World) -> Self {
        Self::after(world, 0, None)
    }

    /// As [`Policies::of`], for a world that changed at `now` (seconds since 1970): conditions that are as they were keep the time of
    /// their last change.
    pub fn after(world: &World, now: i64, previous: Option<&Self>) -> Self {
        let now = rfc3339(now);
        resolve::policies(world, &Writer { now: &now, previous: previous.map(|it| &it.statuses) })
    }

    /// The policy for a port of a service: one for that port alone goes before one for all.
    pub fn traffic(&self, kind: Kind, service: &Named, port: &str) -> Option<&TrafficPolicy> {
        if self.traffic.is_empty() {
            return None;
        }
        let at_port = self.traffic.get(&(kind, service.clone(), Some(port.into())));
        let found = at_port.or_else(|| self.traffic.get(&(kind, service.clone(), None)))?;
        TrafficPolicy::of(&found.body)
    }

    /// Whether there is any traffic policy.
    fn any_traffic(&self) -> bool {
        !self.traffic.is_empty()
    }

    /// Services whose policy limits rates.
    fn limited(&self) -> impl Iterator<Item = (&Kind, &Named)> {
        let limits = |object: &Object| {
            TrafficPolicy::of(&object.body).is_some_and(|policy| policy.spec.rate_limit.is_some())
        };
        self.traffic.iter().filter(move |(_, it)| limits(it)).map(|((kind, service, _), _)| (kind, service))
    }
}

/// The filters of a workload as JSON, for tests: those for HTTP and those for other connections.
#[cfg(test)]
fn testing_filters(
    context: &crate::translate::Context,
    proxy: &crate::world::Proxy,
) -> (Vec<Value>, Vec<Value>) {
    use outrider_proto::prost::Message as _;
    use outrider_proto::prost_reflect::DynamicMessage;
    let descriptors = outrider_proto::Descriptors::load();
    let json = |name: &str, bytes: Vec<u8>| {
        let descriptor = descriptors.message(name).unwrap();
        let message = DynamicMessage::decode(descriptor, bytes.as_slice()).unwrap();
        outrider_proto::to_json(&descriptors, &message)
    };
    let labels = authorization::labels(&context.world, proxy);
    let workload = authorization::Workload { namespace: &proxy.namespace, labels: labels.as_ref() };
    let http = authorization::http_filters(context, workload).into_iter().map(|it| {
        json("envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter", it.encode_to_vec())
    });
    let network = authorization::network_filters(context, workload)
        .into_iter()
        .map(|it| json("envoy.config.listener.v3.Filter", it.encode_to_vec()));
    (http.collect(), network.collect())
}
