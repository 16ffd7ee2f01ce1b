//! From what a response carries to named resources, without decoding them beyond the name.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrider_proto::pb::envoy::service::discovery::v3::Resource as Wrapper;
use outrider_proto::pb::google::protobuf::Any;
use prost::Message;

use crate::{Kind, Refusal};

const WRAPPER: &str = "envoy.service.discovery.v3.Resource";

/// The one field that every kind of resource begins with: its name.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// One resource of a response.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) name: Arc<str>,
    /// The version of its own (delta, or a wrapper).
    pub(super) version: String,
    /// `None` for heartbeats, and for aliases that lead nowhere.
    pub(super) body: Option<Bytes>,
    pub(super) aliases: Vec<Arc<str>>,
    pub(super) ttl: Option<Duration>,
}

/// A resource of a state-of-the-world response: the message itself, or in its wrapper. `place` names what has no name.
pub(super) fn from_any(kind: Kind, place: usize, any: Any) -> Result<Parsed, Refusal> {
    if any.type_url.rsplit('/').next() == Some(WRAPPER) {
        let wrapper = Wrapper::decode(any.value.as_slice())
            .map_err(|error| Refusal::new(format!("#{place}"), "", format!("cannot be decoded: {error}")))?;
        return from_wrapper(kind, place, wrapper);
    }
    let name = || format!("#{place}");
    if Kind::from_type_url(&any.type_url) != Some(kind) {
        return Err(Refusal::new(name(), "", mismatch(kind, &any.type_url)));
    }
    let own = own_name(&any.value)
        .map_err(|error| Refusal::new(name(), "", format!("cannot be decoded: {error}")))?;
    Ok(Parsed {
        name: own.into(),
        version: String::new(),
        body: Some(any.value.into()),
        aliases: Vec::new(),
        ttl: None,
    })
}

/// A resource in its wrapper: all of delta, and those with a TTL in state of the world.
pub(super) fn from_wrapper(kind: Kind, place: usize, wrapper: Wrapper) -> Result<Parsed, Refusal> {
    let Wrapper { name, aliases, version, resource, ttl, cache_control: _, resource_name, metadata: _ } =
        wrapper;
    let mut name = match resource_name {
        Some(full) if name.is_empty() => full.name,
        _ => name,
    };
    let body = match resource {
        None => None,
        Some(any) => {
            let place = || if name.is_empty() { format!("#{place}") } else { name.clone() };
            if Kind::from_type_url(&any.type_url) != Some(kind) {
                return Err(Refusal::new(place(), "", mismatch(kind, &any.type_url)));
            }
            if name.is_empty() {
                name = own_name(&any.value)
                    .map_err(|error| Refusal::new(place(), "", format!("cannot be decoded: {error}")))?;
            }
            Some(any.value.into())
        }
    };
    Ok(Parsed {
        name: name.into(),
        version,
        body,
        aliases: aliases.into_iter().map(Into::into).collect(),
        ttl: ttl.and_then(duration),
    })
}

fn own_name(body: &[u8]) -> Result<String, prost::DecodeError> {
    Named::decode(body).map(|named| named.name)
}

fn mismatch(kind: Kind, url: &str) -> String {
    format!("type URL {url} does not match the message-wide type URL {}", kind.type_url())
}

/// A TTL of 0 or less is none.
fn duration(ttl: outrider_proto::pb::google::protobuf::Duration) -> Option<Duration> {
    let ttl = Duration::new(u64::try_from(ttl.seconds).ok()?, u32::try_from(ttl.nanos).ok()?);
    (!ttl.is_zero()).then_some(ttl)
}
