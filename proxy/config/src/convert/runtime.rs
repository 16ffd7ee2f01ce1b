//! The runtime: layers merged into one map.

use std::collections::BTreeMap;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::bootstrap::v3 as pb;
use outrider_proto::pb::google::protobuf as google;

use super::cx::{Cx, refuse};
use crate::model::RuntimeValue;

/// `layered_runtime`: a later layer's value takes the place of an earlier one's.
pub(crate) fn layers(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::LayeredRuntime>,
) -> BTreeMap<String, RuntimeValue> {
    use pb::runtime_layer::LayerSpecifier;
    let mut values = BTreeMap::new();
    let Some(pb::LayeredRuntime { layers }) = message else { return values };
    let at = path.field("layers");
    let mut names = std::collections::BTreeSet::new();
    let mut has_admin = false;
    for (i, pb::RuntimeLayer { name, layer_specifier }) in layers.iter().enumerate() {
        let path = at.index(i);
        if !names.insert(name) {
            cx.error(&path.field("name"), format!("there is a layer named {name:?} already"));
        }
        match layer_specifier {
            Some(LayerSpecifier::StaticLayer(message)) => {
                add(cx, &path.field("static_layer"), "", message, &mut values);
            }
            Some(LayerSpecifier::AdminLayer(pb::runtime_layer::AdminLayer {})) => {
                if std::mem::replace(&mut has_admin, true) {
                    cx.error(&path.field("admin_layer"), "one admin layer is enough; remove this one");
                }
            }
            Some(LayerSpecifier::DiskLayer(message)) => {
                let pb::runtime_layer::DiskLayer { symlink_root, subdirectory, append_service_cluster } =
                    message;
                let path = path.field("disk_layer");
                refuse!(cx, path, "runtime files are not supported; write a static_layer";
                    symlink_root, subdirectory, append_service_cluster);
            }
            Some(LayerSpecifier::RtdsLayer(_)) => {
                cx.refuse(
                    &path.field("rtds_layer"),
                    "runtime discovery comes with xDS; write a static_layer",
                );
            }
            None => cx.error(&path, "give one of static_layer and admin_layer"),
        }
    }
    values
}

/// Adds the fields of `message`, nested ones under names joined by dots.
fn add(
    cx: &Cx,
    path: &Path<'_>,
    prefix: &str,
    message: &google::Struct,
    values: &mut BTreeMap<String, RuntimeValue>,
) {
    use google::value::Kind;
    let fields: BTreeMap<&String, &google::Value> = message.fields.iter().collect();
    for (name, value) in fields {
        let path = path.field(name);
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match &value.kind {
            Some(Kind::NumberValue(number)) => {
                values.insert(key, RuntimeValue::Number(*number));
            }
            Some(Kind::BoolValue(value)) => {
                values.insert(key, RuntimeValue::Bool(*value));
            }
            Some(Kind::StringValue(text)) => {
                values.insert(key, parse(text));
            }
            Some(Kind::StructValue(message)) => match fraction(message) {
                Some(fraction) => {
                    values.insert(key, fraction);
                }
                None => add(cx, &path, &key, message, values),
            },
            Some(Kind::ListValue(_) | Kind::NullValue(_)) | None => {
                cx.error(&path, "a runtime value is a number, a truth value, text or a fraction");
            }
        }
    }
}

/// Text that reads as a number or a truth value is one.
fn parse(text: &str) -> RuntimeValue {
    match text {
        "true" => RuntimeValue::Bool(true),
        "false" => RuntimeValue::Bool(false),
        _ => text
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite())
            .map_or_else(|| RuntimeValue::Text(text.to_owned()), RuntimeValue::Number),
    }
}

/// A message with a numerator is a fraction, not a namespace.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to fit")]
fn fraction(message: &google::Struct) -> Option<RuntimeValue> {
    use google::value::Kind;
    if !message.fields.keys().all(|key| key == "numerator" || key == "denominator")
        || message.fields.is_empty()
    {
        return None;
    }
    let numerator = match message.fields.get("numerator").and_then(|value| value.kind.as_ref()) {
        Some(Kind::NumberValue(number)) if (0.0..=4_294_967_295.0).contains(number) => *number as u32,
        None => 0,
        Some(_) => return None,
    };
    let denominator = match message.fields.get("denominator").and_then(|value| value.kind.as_ref()) {
        None => 100,
        Some(Kind::StringValue(text)) => match text.as_str() {
            "HUNDRED" => 100,
            "TEN_THOUSAND" => 10_000,
            "MILLION" => 1_000_000,
            _ => return None,
        },
        Some(_) => return None,
    };
    Some(RuntimeValue::Fraction { numerator, denominator })
}
