//! Messages to JSON, as Envoy prints them in `/config_dump`: proto field names, and the content of an `Any` inline.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost_reflect::{DynamicMessage, Kind as Type, ReflectMessage as _, Value};
use serde_json::{Map, Value as Json, json};

use crate::{
    Descriptors, any,
    load::{civil_from_days, has_special_form, is_wrapper},
    validate::key_text,
};

/// How deep an `Any` inside an `Any` is followed; what lies deeper is shown as bytes.
const MAX_DEPTH: usize = 100;

/// Converts a message to JSON in the proto3 mapping, with snake_case names. What is not set is left out.
///
/// The content of an `Any` whose type Envoy's API does not have is shown as base64 under `value`.
pub fn to_json(descs: &Descriptors, message: &DynamicMessage) -> Json {
    Writer { descs }.message(message, 0)
}

struct Writer<'d> {
    descs: &'d Descriptors,
}

impl Writer<'_> {
    fn message(&self, message: &DynamicMessage, depth: usize) -> Json {
        let desc = message.descriptor();
        match desc.full_name() {
            "google.protobuf.Any" => self.any(message, depth),
            "google.protobuf.Duration" => {
                Json::String(duration(int(message, "seconds"), int(message, "nanos")))
            }
            "google.protobuf.Timestamp" => {
                Json::String(timestamp(int(message, "seconds"), int(message, "nanos")))
            }
            "google.protobuf.FieldMask" => {
                let paths = message.get_field_by_name("paths");
                let paths = paths.as_ref().and_then(|paths| paths.as_list()).unwrap_or_default();
                Json::String(paths.iter().filter_map(Value::as_str).map(camel).collect::<Vec<_>>().join(","))
            }
            "google.protobuf.Struct" | "google.protobuf.ListValue" => {
                let empty = || if desc.full_name().ends_with("Struct") { json!({}) } else { json!([]) };
                message
                    .fields()
                    .next()
                    .map_or_else(empty, |(field, value)| self.value(value, &field.kind(), depth))
            }
            "google.protobuf.Value" => {
                message.fields().next().map_or(Json::Null, |(field, value)| match value {
                    Value::EnumNumber(_) => Json::Null,
                    _ => self.value(value, &field.kind(), depth),
                })
            }
            name if is_wrapper(name) => match desc.get_field(1) {
                Some(field) => self.value(&message.get_field(&field), &field.kind(), depth),
                None => Json::Null,
            },
            _ => Json::Object(self.fields(message, depth)),
        }
    }

    fn fields(&self, message: &DynamicMessage, depth: usize) -> Map<String, Json> {
        message
            .fields()
            .map(|(field, value)| (field.name().to_owned(), self.value(value, &field.kind(), depth)))
            .collect()
    }

    fn value(&self, value: &Value, kind: &Type, depth: usize) -> Json {
        match value {
            Value::Bool(value) => json!(value),
            Value::I32(value) => json!(value),
            Value::U32(value) => json!(value),
            // Beyond 53 bits JSON's numbers are not exact: the mapping has strings.
            Value::I64(value) => Json::String(value.to_string()),
            Value::U64(value) => Json::String(value.to_string()),
            Value::F32(value) => float(f64::from(*value), || value.to_string()),
            Value::F64(value) => float(*value, || value.to_string()),
            Value::String(value) => json!(value),
            Value::Bytes(value) => Json::String(STANDARD.encode(value)),
            Value::EnumNumber(number) => match kind {
                Type::Enum(desc) => {
                    desc.get_value(*number).map_or_else(|| json!(number), |value| json!(value.name()))
                }
                _ => json!(number),
            },
            Value::Message(message) => self.message(message, depth + 1),
            Value::List(items) => items.iter().map(|item| self.value(item, kind, depth)).collect(),
            Value::Map(entries) => {
                let value_kind = kind.as_message().map(|entry| entry.map_entry_value_field().kind());
                let Some(value_kind) = value_kind else { return Json::Null };
                let pairs =
                    entries.iter().map(|(key, value)| (key_text(key), self.value(value, &value_kind, depth)));
                Json::Object(pairs.collect())
            }
        }
    }

    fn any(&self, message: &DynamicMessage, depth: usize) -> Json {
        let Some((name, bytes)) = any::parts(message) else { return json!({}) };
        let url = message.get_field_by_name("type_url").and_then(|url| url.as_str().map(str::to_owned));
        let mut object = Map::new();
        object.insert("@type".to_owned(), Json::String(url.unwrap_or_default()));
        let inner = if depth < MAX_DEPTH { self.descs.message(name) } else { None };
        match inner.and_then(|desc| DynamicMessage::decode(desc, bytes).ok()) {
            Some(inner) if has_special_form(name) => {
                object.insert("value".to_owned(), self.message(&inner, depth + 1));
            }
            Some(inner) => object.extend(self.fields(&inner, depth + 1)),
            None => {
                object.insert("value".to_owned(), Json::String(STANDARD.encode(bytes)));
            }
        }
        Json::Object(object)
    }
}

fn int(message: &DynamicMessage, field: &str) -> i64 {
    match message.get_field_by_name(field).as_deref() {
        Some(Value::I64(value)) => *value,
        Some(Value::I32(value)) => i64::from(*value),
        _ => 0,
    }
}

/// A number, or its name where JSON has none. The shortest text of a float is kept, so that 0.1f stays 0.1.
fn float(value: f64, text: impl FnOnce() -> String) -> Json {
    if value.is_nan() {
        return json!("NaN");
    }
    if value.is_infinite() {
        return json!(if value > 0.0 { "Infinity" } else { "-Infinity" });
    }
    // Whole numbers print without a point, as far as they are exact.
    #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
    if value.fract() == 0.0
        && value.abs() < 9_007_199_254_740_992.0
        && (value != 0.0 || value.is_sign_positive())
    {
        return json!(value as i64);
    }
    text().parse::<f64>().ok().and_then(serde_json::Number::from_f64).map_or(Json::Null, Json::Number)
}

/// `1.500s`: decimals in groups of three, as protobuf prints them.
fn duration(seconds: i64, nanos: i64) -> String {
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    format!("{sign}{}{}s", seconds.unsigned_abs(), decimals(nanos.unsigned_abs()))
}

fn timestamp(seconds: i64, nanos: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = decimals(nanos.unsigned_abs());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

fn decimals(nanos: u64) -> String {
    match nanos {
        0 => String::new(),
        _ if nanos.is_multiple_of(1_000_000) => format!(".{:03}", nanos / 1_000_000),
        _ if nanos.is_multiple_of(1_000) => format!(".{:06}", nanos / 1_000),
        _ => format!(".{nanos:09}"),
    }
}

fn camel(path: &str) -> String {
    let (mut out, mut upper) = (String::with_capacity(path.len()), false);
    for c in path.chars() {
        if c == '_' {
            upper = true;
        } else {
            out.push(if std::mem::take(&mut upper) { c.to_ascii_uppercase() } else { c });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_protobuf_prints_them() {
        assert_eq!(duration(1, 500_000_000), "1.500s");
        assert_eq!(duration(-1, -1_000), "-1.000001s");
        assert_eq!(duration(0, 1), "0.000000001s");
        assert_eq!(duration(7, 0), "7s");
        assert_eq!(timestamp(951_868_800, 500_000_000), "2000-03-01T00:00:00.500Z");
        assert_eq!(timestamp(-1, 0), "1969-12-31T23:59:59Z");
        assert_eq!(float(f64::from(0.1_f32), || 0.1_f32.to_string()), json!(0.1));
        assert_eq!(float(30.0, || "30".to_owned()).to_string(), "30");
        assert_eq!(float(f64::NAN, String::new), json!("NaN"));
    }
}
