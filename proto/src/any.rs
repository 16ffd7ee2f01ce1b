//! `google.protobuf.Any`: typed unpacking, and the pieces that reflection needs.

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use crate::pb::google::protobuf::Any;

/// The prefix that every type URL of Envoy's API has.
pub const TYPE_URL_PREFIX: &str = "type.googleapis.com/";

/// The full names under which a `TypedStruct` may come.
pub(crate) const TYPED_STRUCTS: [&str; 2] = ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"];

/// A message written as JSON-like structure with its type beside it, for control planes that have no types for
/// the extension they configure. `xds.type.v3` and `udpa.type.v1` share the shape.
#[derive(Clone, PartialEq, Message)]
pub struct TypedStruct {
    /// Type URL of the message that `value` describes.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message in the proto3 JSON mapping.
    #[prost(message, optional, tag = "2")]
    pub value: Option<crate::pb::google::protobuf::Struct>,
}

/// Why an `Any` is not the message that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum AnyError {
    /// It carries another message.
    #[error("expected {expected}, got {}", if got.is_empty() { "an empty Any" } else { got })]
    Type {
        /// Full name of the message that was wanted.
        expected: String,
        /// Full name of the message that is there; empty for an empty `Any`.
        got: String,
    },
    /// The type is right and the bytes are not.
    #[error("not a {expected}: {error}")]
    Malformed {
        /// Full name of the message that was wanted.
        expected: String,
        /// What the decoder said.
        error: prost::DecodeError,
    },
}

/// The full message name in a type URL: what follows the last slash.
pub fn type_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

/// Whether an `Any` carries the message type `M`.
pub fn is<M: Name>(any: &Any) -> bool {
    type_name(&any.type_url) == M::full_name()
}

/// Decodes the message of type `M` that an `Any` carries.
///
/// # Errors
/// The `Any` carries another type, or bytes that are not an `M`.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M, AnyError> {
    unpack_as(any, &M::full_name())
}

/// [`unpack`] for a message type that does not know its own name.
///
/// # Errors
/// The `Any` carries another type, or bytes that are not an `M`.
pub fn unpack_as<M: Message + Default>(any: &Any, full_name: &str) -> Result<M, AnyError> {
    let got = type_name(&any.type_url);
    if got != full_name {
        return Err(AnyError::Type { expected: full_name.to_owned(), got: got.to_owned() });
    }
    M::decode(any.value.as_slice())
        .map_err(|error| AnyError::Malformed { expected: full_name.to_owned(), error })
}

/// Packs a message with Envoy's type URL prefix.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("{TYPE_URL_PREFIX}{}", M::full_name()), value: message.encode_to_vec() }
}

/// The type name and the bytes of a dynamic `Any`; `None` if the message is no `Any`, or an empty one.
pub(crate) fn parts(message: &DynamicMessage) -> Option<(&str, &[u8])> {
    if message.descriptor().full_name() != "google.protobuf.Any" {
        return None;
    }
    let (mut name, mut bytes) = (None, &[][..]);
    for (field, value) in message.fields() {
        match value {
            Value::String(url) if field.number() == 1 => name = Some(type_name(url)),
            Value::Bytes(value) if field.number() == 2 => bytes = value,
            _ => {}
        }
    }
    Some((name.filter(|name| !name.is_empty())?, bytes))
}

/// Decodes what a dynamic `Any` carries, if its pool knows the type.
pub(crate) fn content(message: &DynamicMessage) -> Option<DynamicMessage> {
    let (name, bytes) = parts(message)?;
    let desc = message.descriptor().parent_pool().get_message_by_name(name)?;
    DynamicMessage::decode(desc, bytes).ok()
}

/// The full name of the message that a `TypedStruct` in a dynamic `Any` describes.
pub(crate) fn typed_struct_target(message: &DynamicMessage) -> Option<String> {
    let (name, bytes) = parts(message)?;
    if !TYPED_STRUCTS.contains(&name) {
        return None;
    }
    let typed = TypedStruct::decode(bytes).ok()?;
    Some(type_name(&typed.type_url).to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::envoy::config::{cluster::v3::Cluster, listener::v3::Listener};

    #[test]
    fn unpack_checks_the_type_first() {
        let any = pack(&Cluster { name: "a".to_owned(), ..Cluster::default() });
        assert_eq!(unpack::<Cluster>(&any).unwrap().name, "a");
        let error = unpack::<Listener>(&any).unwrap_err().to_string();
        assert_eq!(error, "expected envoy.config.listener.v3.Listener, got envoy.config.cluster.v3.Cluster");
        let error = unpack::<Listener>(&Any::default()).unwrap_err().to_string();
        assert_eq!(error, "expected envoy.config.listener.v3.Listener, got an empty Any");
        let broken = Any { value: vec![0xff], ..any };
        assert!(matches!(unpack::<Cluster>(&broken), Err(AnyError::Malformed { .. })));
    }
}
