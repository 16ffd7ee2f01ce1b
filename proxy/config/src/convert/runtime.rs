//! The runtime: layers merged into one map.

use std::collections::BTreeMap;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::bootstrap::v3 as pb;
use outrider_proto::pb::google::protobuf as google;

use super::cx::{Cx, refuse};
use crate::model::RuntimeValue;

/// The values of all layers, each with the path where it stands.
pub(crate) type Values = BTreeMap<String, (RuntimeValue, String)>;

/// `layered_runtime`: a later layer's value takes the place of an earlier one's.
pub(crate) fn layers(cx: &Cx, path: &Path<'_>, message: Option<&pb::LayeredRuntime>) -> Values {
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

/// Prefixes of Envoy's own runtime keys that change traffic: one that nothing looked at is not supported.
const ENVOYS: [&str; 8] = [
    "upstream.",
    "circuit_breakers.",
    "http_connection_manager.",
    "http.",
    "router.",
    "overload.",
    "tcp_proxy.",
    "envoy.resource_limits.",
];

/// Says what became of the keys that no setting looked at: none is passed over in silence.
pub(crate) fn unread(cx: &Cx, values: &Values) {
    for (key, (_, at)) in values {
        if cx.runtime_was_read(key) {
            continue;
        }
        if key.starts_with("envoy.reloadable_features.") || key.starts_with("envoy.restart_features.") {
            cx.inert_at(at.clone(), "a switch of Envoy's own code; Outrider does what Envoy does by default");
        } else if ENVOYS.iter().any(|prefix| key.starts_with(prefix)) {
            cx.refuse_at(
                at.clone(),
                format!("the runtime key {key} is not supported; set the field that it overrides"),
            );
        } else {
            cx.inert_at(at.clone(), "no setting of this bootstrap asks for this key");
        }
    }
}

/// Adds the fields of `message`, nested ones under names joined by dots.
fn add(cx: &Cx, path: &Path<'_>, prefix: &str, message: &google::Struct, values: &mut Values) {
    use google::value::Kind;
    let fields: BTreeMap<&String, &google::Value> = message.fields.iter().collect();
    for (name, value) in fields {
        let path = path.field(name);
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match &value.kind {
            Some(Kind::NumberValue(number)) => {
                values.insert(key, (RuntimeValue::Number(*number), path.to_string()));
            }
            Some(Kind::BoolValue(value)) => {
                values.insert(key, (RuntimeValue::Bool(*value), path.to_string()));
            }
            Some(Kind::StringValue(text)) => {
                values.insert(key, (parse(text), path.to_string()));
            }
            Some(Kind::StructValue(message)) => match fraction(message) {
                Some(fraction) => {
                    values.insert(key, (fraction, path.to_string()));
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
