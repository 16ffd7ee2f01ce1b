//! Walks over messages whose type is not known in advance.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind as Type, ReflectMessage as _, Value};

use crate::{Path, any, load::is_wrapper, validate::key_text};

/// The path of every leaf field that is set, sorted by field number within each message.
///
/// The walk goes into messages, lists, maps and the content of an `Any` whose type the pool knows. A leaf is a scalar, a
/// list or map of scalars (once, not per element), an empty message, or one that is a value rather than a structure:
/// wrappers, durations, timestamps, and structures of free form (`Struct`).
pub fn set_fields(message: &DynamicMessage) -> Vec<String> {
    let mut found = Vec::new();
    fields(message, &Path::root(), &mut found);
    found
}

fn fields(message: &DynamicMessage, path: &Path<'_>, found: &mut Vec<String>) {
    if any::parts(message).is_some() {
        match any::content(message) {
            Some(inner) if !is_leaf(&inner) => fields(&inner, path, found),
            _ => found.push(path.to_string()),
        }
        return;
    }
    for (field, value) in message.fields() {
        visit(&field, value, &path.field(field.name()), found);
    }
}

fn visit(field: &FieldDescriptor, value: &Value, path: &Path<'_>, found: &mut Vec<String>) {
    match value {
        Value::Message(message) => nested(message, path, found),
        Value::List(items) if matches!(field.kind(), Type::Message(_)) => {
            for (index, item) in items.iter().enumerate() {
                if let Value::Message(message) = item {
                    nested(message, &path.index(index), found);
                }
            }
        }
        Value::Map(entries) if entries.values().any(|value| value.as_message().is_some()) => {
            let mut sorted: Vec<_> = entries.iter().map(|(key, value)| (key_text(key), value)).collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            for (key, value) in sorted {
                if let Value::Message(message) = value {
                    nested(message, &path.key(&key), found);
                }
            }
        }
        _ => found.push(path.to_string()),
    }
}

fn nested(message: &DynamicMessage, path: &Path<'_>, found: &mut Vec<String>) {
    if is_leaf(message) { found.push(path.to_string()) } else { fields(message, path, found) }
}

/// Whether a message is a value rather than a structure, or has nothing set.
fn is_leaf(message: &DynamicMessage) -> bool {
    let desc = message.descriptor();
    let name = desc.full_name();
    is_wrapper(name)
        || matches!(
            name,
            "google.protobuf.Duration"
                | "google.protobuf.Timestamp"
                | "google.protobuf.Struct"
                | "google.protobuf.Value"
                | "google.protobuf.ListValue"
                | "google.protobuf.FieldMask"
        )
        || message.fields().next().is_none()
}

/// A field that is set although the API has deprecated it, or that has a deprecated value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deprecated {
    /// The path of the field.
    pub path: String,
    /// The name of the deprecated enum value; none if it is the field that is deprecated.
    pub value: Option<String>,
    /// Whether Envoy refuses it, unless told otherwise by a runtime key.
    pub disallowed: bool,
}

/// Every deprecated field and enum value in a message, the content of each `Any` included. Envoy warns of them.
pub fn deprecated(message: &DynamicMessage) -> Vec<Deprecated> {
    let mut found = Vec::new();
    deprecated_in(message, &Path::root(), &mut found);
    found
}

fn deprecated_in(message: &DynamicMessage, path: &Path<'_>, found: &mut Vec<Deprecated>) {
    if let Some(inner) = any::content(message) {
        deprecated_in(&inner, path, found);
        return;
    }
    for (field, value) in message.fields() {
        let at = path.field(field.name());
        if let Some(disallowed) = mark(&field.options(), DISALLOWED_FIELD) {
            found.push(Deprecated { path: at.to_string(), value: None, disallowed });
        }
        if let (Value::EnumNumber(number), Type::Enum(desc)) = (value, field.kind())
            && let Some(value) = desc.get_value(*number)
            && let Some(disallowed) = mark(&value.options(), DISALLOWED_VALUE)
        {
            found.push(Deprecated { path: at.to_string(), value: Some(value.name().to_owned()), disallowed });
        }
        match value {
            Value::Message(inner) => deprecated_in(inner, &at, found),
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let Value::Message(inner) = item {
                        deprecated_in(inner, &at.index(index), found);
                    }
                }
            }
            Value::Map(entries) => {
                let mut sorted: Vec<_> = entries.iter().map(|(key, value)| (key_text(key), value)).collect();
                sorted.sort_by(|a, b| a.0.cmp(&b.0));
                for (key, value) in sorted {
                    if let Value::Message(inner) = value {
                        deprecated_in(inner, &at.key(&key), found);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Numbers of the extensions `envoy.annotations.disallowed_by_default` and `..._enum`.
const DISALLOWED_FIELD: u32 = 189_503_207;
const DISALLOWED_VALUE: u32 = 70_100_853;

/// Whether something is deprecated, and then whether Envoy refuses it.
fn mark(options: &DynamicMessage, extension: u32) -> Option<bool> {
    if !options.get_field_by_name("deprecated").is_some_and(|it| matches!(*it, Value::Bool(true))) {
        return None;
    }
    let extension = options.descriptor().get_extension(extension);
    Some(extension.is_some_and(|it| matches!(*options.get_extension(&it), Value::Bool(true))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Descriptors, load};

    fn message(text: &str) -> DynamicMessage {
        let name = "envoy.config.bootstrap.v3.Bootstrap";
        load::parse(&Descriptors::load(), text, "t.yaml", name, load::ParseOptions::default())
            .unwrap()
            .message
    }

    #[test]
    fn leaves_are_what_a_user_wrote() {
        let text = "
node: {id: a, metadata: {x: {y: 1}}}
static_resources:
  clusters:
  - name: a
    connect_timeout: 1s
    circuit_breakers: {}
    typed_extension_protocol_options:
      some.key:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
  listeners: {listener_filters: [], address: {socket_address: {port_value: 0}}}
cluster_manager: {local_cluster_name: \"\"}
inline_headers: [{}]
";
        assert_eq!(
            set_fields(&message(text)),
            [
                "node.id",
                "node.metadata",
                "static_resources.listeners[0].address.socket_address.port_value",
                "static_resources.clusters[0].name",
                "static_resources.clusters[0].connect_timeout",
                "static_resources.clusters[0].circuit_breakers",
                "static_resources.clusters[0].typed_extension_protocol_options[\"some.key\"].explicit_http_config.http2_protocol_options",
                "cluster_manager",
                "inline_headers[0]",
            ]
        );
    }

    #[test]
    fn what_envoy_refuses_is_told_from_what_it_warns_of() {
        let text = "{rate_limits: [{actions: [{dynamic_metadata: {descriptor_key: a}}]}]}";
        let name = "envoy.config.route.v3.VirtualHost";
        let loaded =
            load::parse(&Descriptors::load(), text, "t", name, load::ParseOptions::default()).unwrap();
        let path = "rate_limits[0].actions[0].dynamic_metadata".to_owned();
        assert_eq!(deprecated(&loaded.message), [Deprecated { path, value: None, disallowed: true }]);
    }

    #[test]
    fn deprecated_fields_and_values_are_named() {
        let text = "
static_resources:
  clusters: [{name: a, http2_protocol_options: {}}]
dynamic_resources: {lds_config: {resource_api_version: V2}}
";
        let found = deprecated(&message(text));
        let found: Vec<_> =
            found.iter().map(|it| (it.path.as_str(), it.value.as_deref(), it.disallowed)).collect();
        assert_eq!(
            found,
            [
                ("static_resources.clusters[0].http2_protocol_options", None, false),
                ("dynamic_resources.lds_config.resource_api_version", Some("V2"), false),
            ]
        );
    }
}
