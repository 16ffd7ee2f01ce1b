//! Messages to bytes, the same bytes for the same message every time.

use prost::{
    bytes::BufMut,
    encoding::{self, WireType},
};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind as Type, MapKey, Value};

use crate::validate::key_text;

/// Encodes a message with map entries sorted by key.
///
/// Protobuf leaves the order of map entries open, and a `HashMap` changes it from run to run. Where bytes are compared to
/// find out whether a configuration changed, that would be a change each time. An `Any` inside the message keeps the
/// bytes that it has.
pub fn canonical(message: &DynamicMessage) -> Vec<u8> {
    let mut out = Vec::new();
    encode_message(message, &mut out);
    out
}

fn encode_message(message: &DynamicMessage, out: &mut Vec<u8>) {
    for (field, value) in message.fields() {
        encode_field(&field, value, out);
    }
    for field in message.unknown_fields() {
        field.encode(out);
    }
}

fn encode_field(field: &FieldDescriptor, value: &Value, out: &mut Vec<u8>) {
    let (number, kind) = (field.number(), field.kind());
    match value {
        Value::List(items) if field.is_packed() => {
            let mut packed = Vec::new();
            items.iter().for_each(|item| encode_bare(item, &kind, &mut packed));
            delimited(number, &packed, out);
        }
        Value::List(items) => items.iter().for_each(|item| encode_value(number, item, &kind, out)),
        Value::Map(entries) => {
            let Type::Message(entry) = &kind else { return };
            let (key_kind, value_kind) =
                (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
            let mut sorted: Vec<(&MapKey, &Value)> = entries.iter().collect();
            sorted.sort_by_cached_key(|(key, _)| key_text(key));
            for (key, value) in sorted {
                let mut pair = Vec::new();
                encode_value(1, &Value::from(key.clone()), &key_kind, &mut pair);
                encode_value(2, value, &value_kind, &mut pair);
                delimited(number, &pair, out);
            }
        }
        _ => encode_value(number, value, &kind, out),
    }
}

/// Encodes one value with its tag.
fn encode_value(number: u32, value: &Value, kind: &Type, out: &mut Vec<u8>) {
    match value {
        Value::Message(message) => {
            let mut inner = Vec::new();
            encode_message(message, &mut inner);
            delimited(number, &inner, out);
        }
        Value::String(text) => delimited(number, text.as_bytes(), out),
        Value::Bytes(bytes) => delimited(number, bytes, out),
        _ => {
            encoding::encode_key(number, wire_type(kind), out);
            encode_bare(value, kind, out);
        }
    }
}

fn delimited(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encoding::encode_key(number, WireType::LengthDelimited, out);
    encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn wire_type(kind: &Type) -> WireType {
    match kind {
        Type::Double | Type::Fixed64 | Type::Sfixed64 => WireType::SixtyFourBit,
        Type::Float | Type::Fixed32 | Type::Sfixed32 => WireType::ThirtyTwoBit,
        Type::String | Type::Bytes | Type::Message(_) => WireType::LengthDelimited,
        _ => WireType::Varint,
    }
}

/// Encodes a number without its tag.
fn encode_bare(value: &Value, kind: &Type, out: &mut Vec<u8>) {
    match (value, kind) {
        (Value::F64(value), _) => out.put_f64_le(*value),
        (Value::F32(value), _) => out.put_f32_le(*value),
        (Value::U64(value), Type::Fixed64) => out.put_u64_le(*value),
        (Value::I64(value), Type::Sfixed64) => out.put_i64_le(*value),
        (Value::U32(value), Type::Fixed32) => out.put_u32_le(*value),
        (Value::I32(value), Type::Sfixed32) => out.put_i32_le(*value),
        (Value::I64(value), Type::Sint64) => encoding::encode_varint(zigzag(*value), out),
        (Value::I32(value), Type::Sint32) => encoding::encode_varint(zigzag(i64::from(*value)), out),
        (Value::I64(value), _) => encoding::encode_varint(value.cast_unsigned(), out),
        (Value::I32(value) | Value::EnumNumber(value), _) => {
            encoding::encode_varint(i64::from(*value).cast_unsigned(), out);
        }
        (Value::U64(value), _) => encoding::encode_varint(*value, out),
        (Value::U32(value), _) => encoding::encode_varint(u64::from(*value), out),
        (Value::Bool(value), _) => encoding::encode_varint(u64::from(*value), out),
        // Neither packed nor bare.
        (Value::String(_) | Value::Bytes(_) | Value::Message(_) | Value::List(_) | Value::Map(_), _) => {}
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}
