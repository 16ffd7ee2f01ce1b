//! Scalars: what a piece of text means as a value of a given type.

use std::borrow::Cow;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use prost_reflect::{EnumDescriptor, Kind as Type, Value};

use super::{
    convert::Loader,
    node::{Kind, Node, Scalar, Style, interpret, shorten},
};
use crate::{Path, suggest};

/// How many values of an enum an error message lists.
const LISTED_VALUES: usize = 24;

/// Converts a scalar to a value of `kind`, which is neither message nor enum.
pub(super) fn convert(text: &str, style: Style, kind: &Type) -> Result<Value, String> {
    let scalar = &interpret(text, style);
    let wrong = || Err(format!("expected {}, got {}", describe(kind), describe_scalar(scalar)));
    match (kind, scalar) {
        (Type::String, Scalar::Text(text)) => Ok(Value::String(text.clone().into_owned())),
        (Type::String, Scalar::Bool(_)) if style == Style::Plain => {
            Err(format!("expected a string, and YAML reads a bare {text} as a boolean; put it in quotes"))
        }
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

/// Reads an integer, or a decimal that is whole (`10.0`, `1e3`). The outer `None` is no number, the inner one a number
/// with a fraction or beyond any integer type.
fn integer(text: &str) -> Option<Option<i128>> {
    if let Some(whole) = hexadecimal(text) {
        return Some(Some(whole));
    }
    if !is_number(text) {
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

/// Reads a floating point number.
pub(super) fn float(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ if is_number(text) => text.parse().ok().filter(|value: &f64| value.is_finite()),
        #[expect(clippy::cast_precision_loss, reason = "a floating point number is what is wanted")]
        _ => hexadecimal(text).map(|value| value as f64),
    }
}

/// Whether a text is a decimal number. The grammar is wider than JSON's, as it is in Envoy: `+5`, `08`, `.5` and `5.` are
/// numbers.
fn is_number(text: &str) -> bool {
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let exponent_ok = exponent.is_none_or(|it| {
        let digits = it.strip_prefix(['+', '-']).unwrap_or(it);
        !digits.is_empty() && all_digits(digits)
    });
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    exponent_ok && all_digits(whole) && all_digits(fraction) && !(whole.is_empty() && fraction.is_empty())
}

/// Reads `0x1f`, which Envoy takes where it stands in quotes, too.
fn hexadecimal(text: &str) -> Option<i128> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
    if digits.is_empty() || digits.len() > 16 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    i128::from_str_radix(digits, 16).ok()
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
    /// Converts the name, in any case, or the number of an enum value.
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
                    if let Some(value) = desc.get_value_by_name(&text.to_ascii_uppercase()) {
                        return Some(Value::EnumNumber(value.number()));
                    }
                }
                self.unknown(path, node.line, || unknown_value(desc, &text));
            }
            Scalar::Bool(_) => {
                let bare = if *style == Style::Plain {
                    "; YAML reads this bare word so: put it in quotes"
                } else {
                    ""
                };
                let message = format!("expected {}, got {}{bare}", value_list(desc), node.describe());
                self.problem(path, node.line, message);
            }
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
