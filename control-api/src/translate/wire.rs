//! Small pieces of Envoy's API that everything is made of.

use std::collections::HashMap;
use std::time::Duration;

use outrider_proto::pb::envoy::config::core::v3 as core;
use outrider_proto::pb::google::protobuf as wkt;
use outrider_proto::prost::{Message, Name};

use crate::model::Key;

/// Under which name the origin of a resource stands in its metadata.
pub const ORIGIN: &str = "outrider.dev";

/// A message in an `Any`.
pub fn any<M: Message + Name>(message: &M) -> wkt::Any {
    wkt::Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

/// As [`any`], for messages whose maps have more than one entry: the same message gives the same bytes each time.
pub fn any_sorted<M: Message + Name>(message: &M) -> wkt::Any {
    let name = M::full_name();
    let value = super::resource::sorted(&name, message.encode_to_vec());
    wkt::Any { type_url: format!("type.googleapis.com/{name}"), value }
}

/// A duration.
pub fn duration(duration: Duration) -> wkt::Duration {
    wkt::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// A wrapped number.
pub fn uint(value: u32) -> wkt::UInt32Value {
    wkt::UInt32Value { value }
}

/// A wrapped truth.
pub fn truth(value: bool) -> wkt::BoolValue {
    wkt::BoolValue { value }
}

/// A TCP address.
pub fn address(host: &str, port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(port))),
            ..Default::default()
        })),
    }
}

/// A port of all addresses: of IPv4, or of both families by one socket.
pub fn any_address(port: u16, ipv6: bool) -> core::Address {
    let mut any = address(if ipv6 { "::" } else { "0.0.0.0" }, port);
    if let Some(core::address::Address::SocketAddress(it)) = &mut any.address {
        it.ipv4_compat = ipv6;
    }
    any
}

/// This stream.
pub fn ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3 as i32,
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        ..Default::default()
    }
}

/// A header that is set, or added.
pub fn header(name: &str, value: &str, append: bool) -> core::HeaderValueOption {
    use core::header_value_option::HeaderAppendAction::{AppendIfExistsOrAdd, OverwriteIfExistsOrAdd};
    core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        }),
        append_action: if append { AppendIfExistsOrAdd } else { OverwriteIfExistsOrAdd } as i32,
        ..Default::default()
    }
}

/// Metadata that says which object something comes from: `outrider.dev: {origin: "HTTPRoute shop/web rule 0 match 1"}`.
/// One text, so that its bytes are always the same.
pub fn origin(key: &Key, what: &str) -> core::Metadata {
    let text = if what.is_empty() { key.to_string() } else { format!("{key} {what}") };
    let value = wkt::Value { kind: Some(wkt::value::Kind::StringValue(text)) };
    core::Metadata {
        filter_metadata: HashMap::from([(
            ORIGIN.to_owned(),
            wkt::Struct { fields: HashMap::from([("origin".to_owned(), value)]) },
        )]),
        ..Default::default()
    }
}

/// What [`origin`] wrote.
pub fn origin_of(metadata: Option<&core::Metadata>) -> Option<&str> {
    match metadata?.filter_metadata.get(ORIGIN)?.fields.get("origin")?.kind.as_ref()? {
        wkt::value::Kind::StringValue(text) => Some(text),
        _ => None,
    }
}
