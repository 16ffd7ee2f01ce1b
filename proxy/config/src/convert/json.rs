//! `google.protobuf.Struct` as JSON text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use outrider_core::metadata::{Metadata, MetadataValue};
use outrider_proto::Path;
use outrider_proto::pb::google::protobuf::{ListValue, Struct, Value, value::Kind};

use super::cx::Cx;

/// Metadata as formats read it, the field `metadata` of the message at `path`; `None` when there is none.
pub(crate) fn metadata(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&outrider_proto::pb::envoy::config::core::v3::Metadata>,
) -> Option<Arc<Metadata>> {
    let outrider_proto::pb::envoy::config::core::v3::Metadata { filter_metadata, typed_filter_metadata } =
        message?;
    if !typed_filter_metadata.is_empty() {
        let at = path.field("metadata");
        cx.inert(
            &at.field("typed_filter_metadata"),
            "no matcher, format or filter here reads typed metadata",
        );
    }
    let namespaces = filter_metadata.iter().map(|(name, value)| (name.as_str().into(), members(value)));
    (!filter_metadata.is_empty()).then(|| Arc::new(Metadata { namespaces: namespaces.collect() }))
}

/// The fields of a structure.
pub(crate) fn members(message: &Struct) -> BTreeMap<Arc<str>, MetadataValue> {
    message.fields.iter().map(|(name, value)| (name.as_str().into(), metadata_value(value))).collect()
}

fn metadata_value(value: &Value) -> MetadataValue {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => MetadataValue::Null,
        Some(Kind::BoolValue(value)) => MetadataValue::Bool(*value),
        Some(Kind::NumberValue(number)) => MetadataValue::Number(*number),
        Some(Kind::StringValue(text)) => MetadataValue::Text(text.as_str().into()),
        Some(Kind::StructValue(message)) => MetadataValue::Map(members(message)),
        Some(Kind::ListValue(ListValue { values })) => {
            MetadataValue::List(values.iter().map(metadata_value).collect())
        }
    }
}

/// The text, with its keys sorted.
pub(crate) fn text(message: &Struct) -> String {
    let mut out = String::new();
    object(message, &mut out);
    out
}

fn object(message: &Struct, out: &mut String) {
    out.push('{');
    for (i, (key, value)) in message.fields.iter().collect::<BTreeMap<_, _>>().into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        string(key, out);
        out.push(':');
        any(value, out);
    }
    out.push('}');
}

fn any(value: &Value, out: &mut String) {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => out.push_str("null"),
        Some(Kind::BoolValue(value)) => out.push_str(if *value { "true" } else { "false" }),
        Some(Kind::NumberValue(number)) if number.is_finite() => {
            let _ = write!(out, "{number}");
        }
        Some(Kind::NumberValue(_)) => out.push_str("null"),
        Some(Kind::StringValue(text)) => string(text, out),
        Some(Kind::StructValue(message)) => object(message, out),
        Some(Kind::ListValue(ListValue { values })) => {
            out.push('[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                any(value, out);
            }
            out.push(']');
        }
    }
}

fn string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
