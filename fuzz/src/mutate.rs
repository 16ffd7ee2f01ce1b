//! Changes to inputs: by byte, by line of text, and by field of a message.

use crate::rng::Rng;

/// Longer inputs are cut.
const LONGEST: usize = 64 * 1024;

/// What an input is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Bytes.
    Bytes,
    /// YAML.
    Yaml,
    /// A protobuf message.
    Message,
}

/// Numbers that programs stumble over.
const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    127,
    128,
    255,
    65535,
    65536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Text that converters stumble over.
const TEXTS: [&str; 24] = [
    "",
    "*",
    "**",
    "*.a",
    "/",
    "//",
    "..",
    "%",
    "%%",
    "%REQ(",
    "%REQ(:path)%",
    "(",
    "[a-",
    "\\",
    "a\0b",
    "\u{e9}",
    "-1",
    "1e999",
    "99999999999999999999",
    "127.0.0.1",
    "::1",
    "a.example:99999",
    "@",
    "xdstp://a/b",
];

/// Values in YAML.
const VALUES: [&str; 16] = [
    "null",
    "[]",
    "{}",
    "~",
    "-1",
    "1e999",
    "0.5s",
    "-0.1s",
    "315576000001s",
    "18446744073709551616",
    "\"\"",
    "'*'",
    "!!binary aGk=",
    "*a",
    "&a [*a]",
    "[[[[[[[[]]]]]]]]",
];

/// Changes `input` here and there; `other` is another one to take from.
pub fn mutate(shape: Shape, input: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..=rng.below(4) {
        out = match shape {
            Shape::Message if !rng.one_in(12) => message(&out, other, rng, 0),
            Shape::Yaml if !rng.one_in(8) => yaml(&out, other, rng),
            _ => bytes(out, other, rng),
        };
    }
    out.truncate(LONGEST);
    out
}

fn bytes(mut out: Vec<u8>, other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let at = rng.below(out.len() + 1);
    match rng.below(8) {
        0 => {
            if let Some(byte) = out.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        1 => {
            if let Some(byte) = out.get_mut(at) {
                *byte = rng.number() as u8;
            }
        }
        2 => out.insert(at, rng.number() as u8),
        3 => drop(out.drain(at..(at + rng.below(8)).min(out.len()))),
        4 => out.truncate(at),
        5 => {
            let end = (at + rng.below(64)).min(out.len());
            let copy = out.get(at..end).unwrap_or_default().to_vec();
            out.splice(at..at, copy);
        }
        6 => {
            let from = rng.below(other.len() + 1);
            let end = (from + rng.below(64)).min(other.len());
            out.splice(at..at, other.get(from..end).unwrap_or_default().iter().copied());
        }
        _ => {
            let number = rng.pick(&NUMBERS).copied().unwrap_or(0).to_be_bytes();
            let width = 1 << rng.below(4);
            let tail = number.get(8 - width..).unwrap_or_default();
            let end = (at + width).min(out.len());
            out.splice(at..end, tail.iter().copied());
        }
    }
    out
}

fn yaml(input: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let text = String::from_utf8_lossy(input);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let other = String::from_utf8_lossy(other);
    let at = rng.below(lines.len().max(1)).min(lines.len());
    let line = lines.get(at).cloned().unwrap_or_default();
    match rng.below(7) {
        0 if at < lines.len() => drop(lines.remove(at)),
        1 => lines.insert(at, line),
        2 => {
            let theirs: Vec<&str> = other.lines().collect();
            lines.insert(at, rng.pick(&theirs).map(|line| (*line).to_owned()).unwrap_or_default());
        }
        3 if at < lines.len() => {
            let to = rng.below(lines.len());
            lines.swap(at, to);
        }
        4 => {
            if let Some(line) = lines.get_mut(at) {
                line.insert_str(0, if rng.one_in(2) { "  " } else { "- " });
            }
        }
        _ => {
            if let (Some(line), Some((key, _))) = (lines.get_mut(at), line.split_once(": ")) {
                *line = format!("{key}: {}", rng.pick(&VALUES).unwrap_or(&"null"));
            }
        }
    }
    lines.join("\n").into_bytes()
}

/// A field of a message: its number and what it holds.
#[derive(Debug, Clone)]
enum Value {
    Number(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    Bytes(Vec<u8>),
}

/// Deeper than the API goes.
const DEPTH: usize = 12;

fn message(input: &[u8], other: &[u8], rng: &mut Rng, depth: usize) -> Vec<u8> {
    let Some(mut fields) = fields(input) else { return bytes(input.to_vec(), other, rng) };
    let theirs = self::fields(other).unwrap_or_default();
    let at = rng.below(fields.len().max(1));
    match rng.below(14) {
        0 if at < fields.len() => drop(fields.remove(at)),
        1 => {
            if let Some(field) = fields.get(at).cloned() {
                fields.push(field);
            }
        }
        2 if at < fields.len() => {
            let to = rng.below(fields.len());
            fields.swap(at, to);
        }
        // A field from elsewhere, under its own number.
        3 | 4 => fields.extend(rng.pick(&theirs).cloned()),
        5 => {
            let value = match rng.below(3) {
                0 => Value::Number(rng.pick(&NUMBERS).copied().unwrap_or(0)),
                1 => Value::Bytes(rng.pick(&TEXTS).unwrap_or(&"").as_bytes().to_vec()),
                _ => Value::Bytes(Vec::new()),
            };
            fields.push((1 + rng.below(60) as u64, value));
        }
        6 => {
            // What many copies of a thing do.
            if let Some(field) = fields.get(at).cloned() {
                fields.extend(std::iter::repeat_n(field, rng.below(40)));
            }
        }
        _ => {
            if let Some((_, value)) = fields.get_mut(at) {
                change(value, &theirs, other, rng, depth);
            }
        }
    }
    encode(&fields)
}

fn change(value: &mut Value, theirs: &[(u64, Value)], other: &[u8], rng: &mut Rng, depth: usize) {
    match value {
        Value::Number(number) => {
            *number = match rng.below(3) {
                0 => number.wrapping_add(1),
                1 => number.wrapping_sub(1),
                _ => rng.pick(&NUMBERS).copied().unwrap_or(0),
            }
        }
        Value::Fixed32(bytes) => *bytes = (rng.number() as u32).to_le_bytes(),
        Value::Fixed64(bytes) => {
            let odd = [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300, 1e-300];
            *bytes = rng.pick(&odd).copied().unwrap_or(0.0).to_le_bytes();
        }
        Value::Bytes(inner) => {
            let nested = depth < DEPTH && !inner.is_empty() && fields(inner).is_some();
            if nested && !rng.one_in(6) {
                // Parts of the other input lie deeper there, too.
                let deeper = rng.pick(theirs).and_then(|(_, value)| match value {
                    Value::Bytes(bytes) => Some(bytes.as_slice()),
                    _ => None,
                });
                *inner = message(inner, deeper.unwrap_or(other), rng, depth + 1);
            } else if rng.one_in(2) {
                *inner = rng.pick(&TEXTS).unwrap_or(&"").as_bytes().to_vec();
            } else {
                *inner = bytes(std::mem::take(inner), other, rng);
            }
        }
    }
}

/// The fields of a message; `None` when it is none.
fn fields(mut input: &[u8]) -> Option<Vec<(u64, Value)>> {
    let mut fields = Vec::new();
    while !input.is_empty() {
        let key = varint(&mut input)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut input)?),
            1 => Value::Fixed64(take(&mut input, 8)?.try_into().ok()?),
            2 => {
                let length = usize::try_from(varint(&mut input)?).ok()?;
                Value::Bytes(take(&mut input, length)?.to_vec())
            }
            5 => Value::Fixed32(take(&mut input, 4)?.try_into().ok()?),
            _ => return None,
        };
        if key >> 3 == 0 {
            return None;
        }
        fields.push((key >> 3, value));
    }
    Some(fields)
}

fn encode(fields: &[(u64, Value)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, value) in fields {
        let wire = match value {
            Value::Number(_) => 0,
            Value::Fixed64(_) => 1,
            Value::Bytes(_) => 2,
            Value::Fixed32(_) => 5,
        };
        put_varint(number << 3 | wire, &mut out);
        match value {
            Value::Number(number) => put_varint(*number, &mut out),
            Value::Fixed32(bytes) => out.extend_from_slice(bytes),
            Value::Fixed64(bytes) => out.extend_from_slice(bytes),
            Value::Bytes(bytes) => {
                put_varint(bytes.len() as u64, &mut out);
                out.extend_from_slice(bytes);
            }
        }
    }
    out
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (front, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(front)
}

fn varint(input: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_and_written_as_it_is() {
        let input = [0x08, 0x96, 0x01, 0x12, 0x03, b'a', b'b', b'c', 0x1d, 1, 2, 3, 4];
        assert_eq!(encode(&fields(&input).unwrap()), input);
        assert!(fields(&[0x12, 0x05, 1]).is_none());
    }

    #[test]
    fn changes_are_the_same_for_the_same_seed() {
        let input = [0x08, 0x96, 0x01, 0x12, 0x03, b'a', b'b', b'c'];
        let all = |seed| {
            let mut rng = Rng::new(seed);
            (0..50).map(|_| mutate(Shape::Message, &input, &input, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
    }
}
