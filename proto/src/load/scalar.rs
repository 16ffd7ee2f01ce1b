//! Scalars: what a piece of text means as a value of a given type.

use std::borrow::Cow;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use prost_reflect::{EnumDescriptor, Kind as Type, Value};

use super::{
    convert::Loader,
    node::{Kind, Node, Scalar, interpret, shorten},
};
use crate::{Path, suggest};

/// How many values of an enum an error message lists.
const LISTED_VALUES: usize = 24;

/// Converts a scalar to a value of `kind`, which is neither message nor enum.
pub(super) fn convert(scalar: &Scalar<'_>, kind: &Type) -> Result<Value, String> {
    let wrong = || Err(format!("expected {}, got {}", describe(kind), describe_scalar(scalar)));
    match (kind, scalar) {
        (Type::String, Scalar::Text(text)) => Ok(Value::String(text.clone().into_owned())),
        (Type::String, Scalar::Bool(_) | Scalar::Number(_)) => {
            Err(format!("expected a string, got {}; put it in quotes", describe_scalar(scalar)))
        }
        (Type::Bytes, Scalar::Text(text)) => match base64(text) {
            Some(bytes) => Ok(Value::Bytes(bytes.into())),
            None => Err("expected base64".to_owned()),
        },
        (Type::Bool, Scalar::Bool(flag)) => Ok(Value::Bool(*flag)),
        (Type::Bool, Scalar::Text(text)) => loose_bool(text).map_or_else(wrong, |flag| Ok(Value::Bool(flag))),
        (_, Scalar::Number(text) | Scalar::Text(text)) => number(text, kind).unwrap_or_else(wrong),
        _ => wrong(),
    }
}

/// Reads digits as a number of `kind`; `None` if they are none.
fn number(text: &str, kind: &Type) -> Option<Result<Value, String>> {
    match kind {
        Type::Double => return Some(Ok(Value::F64(float(text)?))),
        Type::Float => {
            let wide = float(text)?;
            #[expect(clippy::cast_possible_truncation, reason = "a float field has the precision of a float")]
            let narrow = wide as f32;
            if narrow.is_infinite() && wide.is_finite() {
                return Some(Err(format!("{text} is out of range for {}", describe(kind))));
            }
            return Some(Ok(Value::F32(narrow)));
        }
        _ => {}
    }
    let whole = match integer(text)? {
        Some(whole) => whole,
        None => return Some(Err(format!("expected {}, got {text}, which has a fraction", describe(kind)))),
    };
    let value = match kind {
        Type::Int32 | Type::Sint32 | Type::Sfixed32 => i32::try_from(whole).ok().map(Value::I32),
        Type::Int64 | Type::Sint64 | Type::Sfixed64 => i64::try_from(whole).ok().map(Value::I64),
        Type::Uint32 | Type::Fixed32 => u32::try_from(whole).ok().map(Value::U32),
        Type::Uint64 | Type::Fixed64 => u64::try_from(whole).ok().map(Value::U64),
        _ => return None,
    };
    Some(value.ok_or_else(|| format!("{text} is out of range for {}", describe(kind))))
}

/// Reads JSON's integers, and its decimals where they are whole (`10.0`, `1e3`). The outer `None` is no number, the
/// inner one a number with a fraction or beyond any integer type.
fn integer(text: &str) -> Option<Option<i128>> {
    if !is_json_number(text) {
        return None;
    }
    if let Ok(whole) = text.parse::<i128>() {
        return Some(Some(whole));
    }
    let value: f64 = text.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, reason = "the value is whole and within 2^64, checked first")]
    let whole =
        (value.fract() == 0.0 && value.abs() <= 18_446_744_073_709_551_616.0).then_some(value as i128);
    Some(whole)
}

/// Reads a floating point number in the JSON mapping.
pub(super) fn float(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ if is_json_number(text) => text.parse().ok().filter(|value: &f64| value.is_finite()),
        _ => None,
    }
}

/// Whether a text is a number by JSON's grammar; plain leading zeros are let through.
fn is_json_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let exponent_ok = exponent.is_none_or(|it| digits(it.strip_prefix(['+', '-']).unwrap_or(it)));
    let mantissa_ok = match mantissa.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(mantissa),
    };
    exponent_ok && mantissa_ok
}

/// What a string may be where a boolean is wanted, as Envoy reads it.
fn loose_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "1" => Some(true),
        "false" | "f" | "no" | "n" | "0" => Some(false),
        _ => None,
    }
}

/// Reads base64 in either alphabet, padded or not.
fn base64(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    static DECODER: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    let text: Cow<'_, str> =
        if text.contains(['-', '_']) { text.replace('-', "+").replace('_', "/").into() } else { text.into() };
    DECODER.decode(text.as_bytes()).ok()
}

/// A type, in words.
pub(super) fn describe(kind: &Type) -> &'static str {
    match kind {
        Type::Double | Type::Float => "a number",
        Type::Int32 | Type::Sint32 | Type::Sfixed32 => "a 32-bit integer",
        Type::Int64 | Type::Sint64 | Type::Sfixed64 => "a 64-bit integer",
        Type::Uint32 | Type::Fixed32 => "a 32-bit unsigned integer",
        Type::Uint64 | Type::Fixed64 => "a 64-bit unsigned integer",
        Type::Bool => "true or false",
        Type::String => "a string",
        Type::Bytes => "base64",
        Type::Message(_) => "a mapping",
        Type::Enum(_) => "the name of an enum value",
    }
}

fn describe_scalar(scalar: &Scalar<'_>) -> String {
    match scalar {
        Scalar::Bool(flag) => format!("the boolean {flag}"),
        Scalar::Number(text) => format!("the number {}", shorten(text)),
        Scalar::Text(text) => format!("{:?}", shorten(text)),
    }
}

impl Loader<'_> {
    /// Converts the name or the number of an enum value. As in Envoy, case and `-` for `_` do not matter.
    pub(super) fn enumeration(
        &mut self,
        node: &Node,
        desc: &EnumDescriptor,
        path: &Path<'_>,
    ) -> Option<Value> {
        if desc.full_name() == "google.protobuf.NullValue" && node.kind == Kind::Null {
            return Some(Value::EnumNumber(0));
        }
        let Kind::Scalar(text, style) = &node.kind else {
            let message = format!("expected {}, got {}", value_list(desc), node.describe());
            self.problem(path, node.line, message);
            return None;
        };
        match interpret(text, *style) {
            Scalar::Number(text) | Scalar::Text(text) => {
                if let Some(Some(number)) = integer(&text) {
                    if let Ok(number) = i32::try_from(number) {
                        return Some(Value::EnumNumber(number));
                    }
                } else if let Some(value) = desc.get_value_by_name(&text) {
                    return Some(Value::EnumNumber(value.number()));
                } else {
                    let loose = text.to_ascii_uppercase().replace('-', "_");
                    if let Some(value) = desc.get_value_by_name(&loose) {
                        return Some(Value::EnumNumber(value.number()));
                    }
                }
                self.unknown(path, node.line, || unknown_value(desc, &text));
            }
            // An enum value whose name YAML takes for a boolean.
            Scalar::Bool(_) => match desc.get_value_by_name(&text.to_ascii_uppercase()) {
                Some(value) => return Some(Value::EnumNumber(value.number())),
                None => {
                    let message = format!("expected {}, got {}", value_list(desc), node.describe());
                    self.problem(path, node.line, message);
                }
            },
        }
        None
    }
}

fn unknown_value(desc: &EnumDescriptor, text: &str) -> String {
    let values: Vec<_> = desc.values().collect();
    let upper = text.to_ascii_uppercase();
    let near = suggest::nearest(&upper, values.iter().map(|value| value.name()));
    let hint = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
    format!("{:?} is not {}{hint}", shorten(text), value_list(desc))
}

/// "one of A, B, C".
fn value_list(desc: &EnumDescriptor) -> String {
    let names: Vec<String> = desc.values().take(LISTED_VALUES).map(|value| value.name().to_owned()).collect();
    let more = if desc.values().len() > LISTED_VALUES { ", ..." } else { "" };
    format!("one of {}{more}", names.join(", "))
}
