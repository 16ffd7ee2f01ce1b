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
