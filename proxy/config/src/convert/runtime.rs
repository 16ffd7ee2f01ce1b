//! The runtime: its layers, and what becomes of their keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::bootstrap::v3 as pb;
use outrider_proto::pb::google::protobuf as google;

use super::cx::{Cx, Options};
use super::xds::config_source;
use crate::model::{
    DiskLayer, RuntimeEntries, RuntimeEntry, RuntimeLayer, RuntimeLayerKind, RuntimeValue, RuntimeValues,
};

/// The keys of the bootstrap's static layers, each with the path where it stands.
pub(crate) type Places = BTreeMap<String, String>;

/// `layered_runtime`. Without it there is no layer, not even an admin's, as in Envoy.
pub(crate) fn layers(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::LayeredRuntime>,
    options: &Options,
    service_cluster: &str,
) -> (Vec<RuntimeLayer>, Places) {
    use pb::runtime_layer::LayerSpecifier;
    let mut places = Places::new();
    let Some(pb::LayeredRuntime { layers }) = message else { return (Vec::new(), places) };
    let at = path.field("layers");
    let mut model: Vec<RuntimeLayer> = Vec::new();
    for (i, pb::RuntimeLayer { name, layer_specifier }) in layers.iter().enumerate() {
        let path = at.index(i);
        if model.iter().any(|layer| *layer.name == **name) {
            cx.error(&path.field("name"), format!("there is a layer named {name:?} already"));
        }
        let kind = match layer_specifier {
            Some(LayerSpecifier::StaticLayer(message)) => {
                let mut keys = Keys { cx, places: &mut places, entries: RuntimeEntries::new() };
                keys.add(&path.field("static_layer"), "", message);
                RuntimeLayerKind::Static(keys.entries)
            }
            Some(LayerSpecifier::AdminLayer(pb::runtime_layer::AdminLayer {})) => {
                if model.iter().any(|layer| matches!(layer.kind, RuntimeLayerKind::Admin)) {
                    cx.error(&path.field("admin_layer"), "one admin layer is enough; remove this one");
                }
                RuntimeLayerKind::Admin
            }
            Some(LayerSpecifier::DiskLayer(message)) => {
                let path = path.field("disk_layer");
                RuntimeLayerKind::Disk(disk(cx, &path, message, service_cluster))
            }
            Some(LayerSpecifier::RtdsLayer(message)) => {
                let Some(kind) = rtds(cx, &path.field("rtds_layer"), message, name) else { continue };
                kind
            }
            None => {
                cx.error(&path, "give one of static_layer, disk_layer, rtds_layer and admin_layer");
                continue;
            }
        };
        model.push(RuntimeLayer { name: Arc::from(name.as_str()), kind });
    }
    cx.runtime.publish(first_values(&model, options));
    (model, places)
}

fn disk(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::runtime_layer::DiskLayer,
    service_cluster: &str,
) -> DiskLayer {
    let pb::runtime_layer::DiskLayer { symlink_root, subdirectory, append_service_cluster } = message;
    if symlink_root.is_empty() {
        cx.error(&path.field("symlink_root"), "a path is needed");
    }
    let mut parts = vec![subdirectory.as_str()];
    if *append_service_cluster {
        if service_cluster.is_empty() {
            cx.error(&path.field("append_service_cluster"), "it needs node.cluster, or --service-cluster");
        }
        parts.push(service_cluster);
    }
    parts.retain(|part| !part.is_empty());
    DiskLayer { symlink_root: Arc::from(symlink_root.as_str()), subdirectory: Arc::from(parts.join("/")) }
}

fn rtds(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::runtime_layer::RtdsLayer,
    layer: &str,
) -> Option<RuntimeLayerKind> {
    let pb::runtime_layer::RtdsLayer { name, rtds_config } = message;
    let resource = if name.is_empty() { layer } else { name };
    let path = path.field("rtds_config");
    let Some(message) = rtds_config else {
        cx.error(&path, "a source is needed, such as ads");
        return None;
    };
    let source = config_source(cx, &path, message)?;
    Some(RuntimeLayerKind::Rtds { resource: Arc::from(resource), source })
}

/// What the layers say that are there before anything runs.
fn first_values(layers: &[RuntimeLayer], options: &Options) -> RuntimeValues {
    let mut values = RuntimeValues::new();
    for layer in layers {
        let read;
        let entries = match &layer.kind {
            RuntimeLayerKind::Static(entries) => entries,
            RuntimeLayerKind::Disk(disk) => {
                let Some(reader) = options.disk_layers else { continue };
                read = reader(disk);
                &read
            }
            RuntimeLayerKind::Admin | RuntimeLayerKind::Rtds { .. } => continue,
        };
        values.extend(entries.iter().map(|(key, entry)| (key.clone(), entry.value.clone())));
    }
    values
}

/// The keys of a resource of RTDS; those without effect go to the ledger.
pub(crate) fn entries(cx: &Cx, path: &Path<'_>, message: Option<&google::Struct>) -> RuntimeEntries {
    let mut places = Places::new();
    let mut keys = Keys { cx, places: &mut places, entries: RuntimeEntries::new() };
    if let Some(message) = message {
        keys.add(&path.field("layer"), "", message);
    }
    let entries = keys.entries;
    for (key, at) in places {
        match fate(&key) {
            // Refusing it would keep the keys beside it from taking effect.
            Fate::Unsupported => cx.inert_at(at, format!("the runtime key {key} is not supported")),
            Fate::Inert(why) => cx.inert_at(at, why),
            Fate::Read | Fate::Supported => {}
        }
    }
    entries
}

/// A value as text gives it: in a file, or to `/runtime_modify`. What is no number, truth value or fraction is text.
pub fn runtime_entry(text: &str) -> RuntimeEntry {
    let text = text.trim_end();
    let value = outrider_proto::load::yaml_value(text).ok().and_then(|value| value_of(&value.kind?));
    RuntimeEntry {
        value: value.unwrap_or_else(|| RuntimeValue::Text(text.to_owned())),
        text: text.to_owned(),
    }
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

/// What becomes of a key.
enum Fate {
    /// Something looks at it, or may, where its owner asks for it.
    Read,
    /// Something looks at it in any case.
    Supported,
    /// It changes nothing, for this reason.
    Inert(&'static str),
    /// It would change traffic in Envoy, and does not here.
    Unsupported,
}

fn fate(key: &str) -> Fate {
    const LIMITS: [&str; 6] = [
        "max_connections",
        "max_pending_requests",
        "max_requests",
        "max_retries",
        "retry_budget.budget_percent",
        "retry_budget.min_retry_concurrency",
    ];
    if key.starts_with("envoy.reloadable_features.") || key.starts_with("envoy.restart_features.") {
        return match key {
            REJECT_FRAGMENT => Fate::Supported,
            _ => Fate::Inert("a switch of Envoy's own code; Outrider does what Envoy does by default"),
        };
    }
    if key == "re2.max_program_size.warn_level" {
        return Fate::Inert("nothing warns of large expressions; error_level refuses them");
    }
    let supported = match key {
        "upstream.healthy_panic_threshold"
        | "http_connection_manager.normalize_path"
        | "overload.global_downstream_max_connections"
        | "re2.max_program_size.error_level" => true,
        _ if key.starts_with("upstream.maintenance_mode.") => true,
        _ if key.starts_with("circuit_breakers.") => {
            LIMITS.iter().any(|limit| key.strip_suffix(limit).is_some_and(|rest| rest.ends_with('.')))
        }
        _ => key.starts_with("envoy.resource_limits.listener.") && key.ends_with(".connection_limit"),
    };
    if supported {
        Fate::Supported
    } else if ENVOYS.iter().any(|prefix| key.starts_with(prefix)) {
        Fate::Unsupported
    } else {
        Fate::Read
    }
}

/// Whether a path with a fragment is refused (otherwise the fragment is cut off).
pub(crate) const REJECT_FRAGMENT: &str = "envoy.reloadable_features.http_reject_path_with_fragment";

/// Says what became of the static layers' keys that no setting looked at: none is passed over in silence.
/// `more_to_come`: settings that come from elsewhere may look at any.
pub(crate) fn unread(cx: &Cx, places: &Places, more_to_come: bool) {
    for (key, at) in places {
        match fate(key) {
            Fate::Supported => {}
            _ if cx.runtime_was_read(key) => {}
            Fate::Inert(why) => cx.inert_at(at.clone(), why),
            Fate::Unsupported => cx.refuse_at(
                at.clone(),
                format!("the runtime key {key} is not supported; set the field that it overrides"),
            ),
            Fate::Read if more_to_come => {}
            Fate::Read => cx.inert_at(at.clone(), "no setting of this bootstrap asks for this key"),
        }
    }
}

/// Collects the keys of one layer.
struct Keys<'a> {
    cx: &'a Cx,
    places: &'a mut Places,
    entries: RuntimeEntries,
}

impl Keys<'_> {
    /// Adds the fields of `message`, nested ones under names joined by dots.
    fn add(&mut self, path: &Path<'_>, prefix: &str, message: &google::Struct) {
        use google::value::Kind;
        let fields: BTreeMap<&String, &google::Value> = message.fields.iter().collect();
        for (name, value) in fields {
            let path = path.field(name);
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match &value.kind {
                // As in Envoy: an empty one is a key, and so is one with a numerator or denominator.
                Some(Kind::StructValue(inner))
                    if !inner.fields.is_empty()
                        && !inner.fields.contains_key("numerator")
                        && !inner.fields.contains_key("denominator") =>
                {
                    self.add(&path, &key, inner);
                }
                Some(kind) => match value_of(kind) {
                    Some(value) => {
                        self.places.insert(key.clone(), path.to_string());
                        self.entries.insert(key, RuntimeEntry { value, text: text_of(kind) });
                    }
                    None => self.wrong(&path),
                },
                None => self.wrong(&path),
            }
        }
    }

    fn wrong(&self, path: &Path<'_>) {
        self.cx.error(path, "a runtime value is a number, a truth value, text or a fraction");
    }
}

/// What a value means; `None` for lists and nothing at all, which are no values.
fn value_of(kind: &google::value::Kind) -> Option<RuntimeValue> {
    use google::value::Kind;
    Some(match kind {
        Kind::NumberValue(number) => RuntimeValue::Number(*number),
        Kind::BoolValue(value) => RuntimeValue::Bool(*value),
        Kind::StringValue(text) => parse(text),
        Kind::StructValue(message) => fraction(message).unwrap_or_else(|| RuntimeValue::Text(text_of(kind))),
        Kind::ListValue(_) | Kind::NullValue(_) => return None,
    })
}

/// A value as `/runtime` shows it.
fn text_of(kind: &google::value::Kind) -> String {
    use google::value::Kind;
    match kind {
        Kind::NumberValue(number) => general(*number),
        Kind::BoolValue(value) => value.to_string(),
        Kind::StringValue(text) => text.clone(),
        Kind::StructValue(message) => {
            let fields: BTreeMap<&String, &google::Value> = message.fields.iter().collect();
            let show = |(name, value): (&String, &google::Value)| {
                format!("{name}: {}", value.kind.as_ref().map(text_of).unwrap_or_default())
            };
            fields.into_iter().map(show).collect::<Vec<_>>().join("\n")
        }
        Kind::ListValue(_) | Kind::NullValue(_) => String::new(),
    }
}

/// A number in six significant digits, as C's `%g` writes it.
fn general(number: f64) -> String {
    if number == 0.0 || !number.is_finite() {
        return number.to_string();
    }
    let scientific = format!("{number:.5e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..6).contains(&exponent) {
        let decimals = usize::try_from(5 - exponent).unwrap_or(0);
        return trimmed(&format!("{number:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs())
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

/// A fraction; `None` for a structure that is none.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_c_writes_them() {
        for (number, text) in [
            (0.0, "0"),
            (5.0, "5"),
            (-4.0, "-4"),
            (2.5, "2.5"),
            (1e8, "1e+08"),
            (123_456.0, "123456"),
            (1_234_567.0, "1.23457e+06"),
            (0.0001, "0.0001"),
            (0.000_012, "1.2e-05"),
        ] {
            assert_eq!(general(number), text);
        }
    }

    /// Each as Envoy 1.40 takes it.
    #[test]
    fn text_means_what_yaml_says() {
        let of = |text: &str| Some(runtime_entry(text).value);
        assert_eq!(of("5\n"), Some(RuntimeValue::Number(5.0)));
        assert_eq!(of("2.5"), Some(RuntimeValue::Number(2.5)));
        assert_eq!(of("true"), Some(RuntimeValue::Bool(true)));
        assert_eq!(of("hello world\n\n"), Some(RuntimeValue::Text("hello world".to_owned())));
        assert_eq!(of(""), Some(RuntimeValue::Text(String::new())));
        assert_eq!(of("[1]"), Some(RuntimeValue::Text("[1]".to_owned())));
        let fraction = Some(RuntimeValue::Fraction { numerator: 4, denominator: 1_000_000 });
        assert_eq!(of("numerator: 4\ndenominator: MILLION"), fraction);
        assert_eq!(of("{numerator: 4, denominator: MILLION}"), fraction);
    }
}
