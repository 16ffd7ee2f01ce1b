//! Who we are.

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as pb;
use outrider_proto::pb::envoy::r#type::v3::SemanticVersion;
use outrider_proto::prost::Message as _;

use super::cx::{Cx, Options, inert};
use super::json;
use crate::model::Node;

/// `node` under what the command line says, with its form on the wire.
pub(crate) fn node(cx: &Cx, path: &Path<'_>, message: Option<&pb::Node>, options: &Options) -> Node {
    let default = pb::Node::default();
    let message = message.unwrap_or(&default);
    let pb::Node {
        id,
        cluster,
        metadata,
        dynamic_parameters,
        locality,
        user_agent_name,
        extensions,
        client_features,
        listening_addresses,
        user_agent_version_type,
    } = message;
    inert!(cx, path, "a control plane is told Outrider's own, as Envoy tells its own";
        extensions, user_agent_version_type);
    let first =
        |option: &str, field: &str| if option.is_empty() { field.to_owned() } else { option.to_owned() };
    let pb::Locality { region, zone, sub_zone } = locality.clone().unwrap_or_default();
    let zone = first(&options.service_zone, &zone);
    let node = pb::Node {
        id: first(&options.service_node, id),
        cluster: first(&options.service_cluster, cluster),
        metadata: metadata.clone(),
        dynamic_parameters: dynamic_parameters.clone(),
        locality: (locality.is_some() || !zone.is_empty()).then(|| pb::Locality {
            region: region.clone(),
            zone: zone.clone(),
            sub_zone: sub_zone.clone(),
        }),
        user_agent_name: first(user_agent_name, "outrider"),
        extensions: Vec::new(),
        client_features: client_features.clone(),
        listening_addresses: listening_addresses.clone(),
        user_agent_version_type: Some(pb::node::UserAgentVersionType::UserAgentBuildVersion(build())),
    };
    Node {
        wire: node.encode_to_vec().into(),
        id: node.id,
        cluster: node.cluster,
        region,
        zone,
        sub_zone,
        metadata_json: metadata.as_ref().map(json::text).unwrap_or_default(),
    }
}

/// The version that this was built as.
fn build() -> pb::BuildVersion {
    let mut numbers = env!("CARGO_PKG_VERSION").split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let version = SemanticVersion { major_number: next(), minor_number: next(), patch: next() };
    pb::BuildVersion { version: Some(version), metadata: None }
}
