//! What fuzz targets call: bytes of a control plane, up to what the consumer is told.

use std::hash::{DefaultHasher, Hasher as _};
use std::time::Duration;

use bytes::Bytes;
use outrider_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse, Resource as Wrapper,
};
use outrider_proto::pb::google::protobuf::Any;
use prost::Message;

use crate::core::{Core, Now, Options, Response};
use crate::grpc::{Frames, frame};
use crate::{Event, Kind, Refusal};

/// Messages as they may come, one after the other.
pub fn seeds(delta: bool) -> Vec<Vec<u8>> {
    // A name as the first field is all that a resource needs here.
    let any = |kind: Kind, name: &str| Any {
        type_url: kind.type_url().to_owned(),
        value: [&[0x0a, name.len() as u8], name.as_bytes()].concat(),
    };
    let mut seeds = Vec::new();
    for kind in [Kind::Cluster, Kind::Endpoint] {
        let mut bytes = Vec::new();
        for version in ["1", "2"] {
            let message = if delta {
                let wrapper = |name: &str| Wrapper {
                    name: name.to_owned(),
                    version: version.to_owned(),
                    resource: Some(any(kind, name)),
                    ..Wrapper::default()
                };
                frame(&DeltaDiscoveryResponse {
                    type_url: kind.type_url().to_owned(),
                    nonce: version.to_owned(),
                    resources: vec![wrapper("a"), wrapper("b")],
                    removed_resources: vec!["c".to_owned()],
                    ..DeltaDiscoveryResponse::default()
                })
            } else {
                frame(&DiscoveryResponse {
                    type_url: kind.type_url().to_owned(),
                    nonce: version.to_owned(),
                    version_info: version.to_owned(),
                    resources: vec![any(kind, "a"), any(kind, "b")],
                    ..DiscoveryResponse::default()
                })
            };
            bytes.extend(message.unwrap_or_default());
        }
        seeds.push(bytes);
    }
    seeds
}

/// Feeds `data` to a client, as it came from a control plane, and answers what it is told. The numbers tell outcomes
/// apart.
///
/// # Panics
/// A message is longer than the limit and was read all the same.
pub fn stream(delta: bool, data: &[u8]) -> Vec<u64> {
    const LIMIT: usize = 4096;
    let mut outcomes = Vec::new();
    let mut core = Core::new(Options { delta, node: Default::default(), node_once: true });
    let now = Now::read();
    core.subscribe_all(now, Kind::Cluster, Duration::ZERO);
    core.subscribe(now, Kind::Endpoint, "a", Duration::from_secs(1));
    core.connected(true);
    while core.next_request().is_some() {}
    let mut frames = Frames::new(LIMIT);
    // As the network cuts it.
    for piece in data.chunks(100) {
        frames.push(Bytes::copy_from_slice(piece));
        loop {
            let response = if delta {
                frames.next::<DeltaDiscoveryResponse>().map(|message| message.map(Response::Delta))
            } else {
                frames.next::<DiscoveryResponse>().map(|message| message.map(Response::Sotw))
            };
            match response {
                Ok(None) => break,
                Ok(Some(response)) => {
                    assert!(size(&response) <= LIMIT, "the limit holds");
                    match core.receive(now, response) {
                        Ok(()) => outcomes.push(1),
                        Err(ignored) => outcomes.push(hash(&std::mem::discriminant(&ignored))),
                    }
                    answer(&mut core, now, &mut outcomes);
                }
                Err(error) => {
                    let text = error.to_string();
                    outcomes.push(hash(&text.split(|c: char| c.is_ascii_digit()).next()));
                    return outcomes;
                }
            }
        }
    }
    outcomes
}

fn size(response: &Response) -> usize {
    match response {
        Response::Sotw(response) => response.encoded_len(),
        Response::Delta(response) => response.encoded_len(),
    }
}

fn answer(core: &mut Core, now: Now, outcomes: &mut Vec<u64>) {
    while let Some(event) = core.next_event() {
        let Event::Update(update) = event else { continue };
        let shape = (
            update.resources.len().min(3),
            update.removed.len().min(3),
            update.refused.len().min(3),
            update.unresolved.len().min(2),
            update.whole,
        );
        outcomes.push(hash(&shape));
        // Every second resource is refused.
        let bad = update.resources.iter().step_by(2);
        let refusals = bad.map(|resource| Refusal::new(&*resource.name, "field", "no")).collect();
        core.verdict(now, update.token, refusals);
        while core.next_request().is_some() {}
    }
}

fn hash(value: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
