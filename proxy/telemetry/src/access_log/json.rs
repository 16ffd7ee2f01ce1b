//! JSON entries.

use outrider_config::model::JsonNode;
use outrider_core::format::{Format, FormatContext};

/// Appends `node` as JSON. With `omit_empty`, absent values are left out of their object.
pub(super) fn write(node: &JsonNode, cx: &FormatContext<'_>, omit_empty: bool, out: &mut Vec<u8>) {
    match node {
        JsonNode::Object(fields) => {
            out.push(b'{');
            let start = out.len();
            for (name, value) in fields {
                let before = out.len();
                if before > start {
                    out.push(b',');
                }
                string(name.as_bytes(), out);
                out.push(b':');
                if !value_or_absent(value, cx, omit_empty, out) {
                    if omit_empty {
                        out.truncate(before);
                    } else {
                        out.extend_from_slice(b"null");
                    }
                }
            }
            out.push(b'}');
        }
        JsonNode::List(items) => {
            out.push(b'[');
            let start = out.len();
            for item in items {
                let before = out.len();
                if before > start {
                    out.push(b',');
                }
                if !value_or_absent(item, cx, omit_empty, out) {
                    if omit_empty {
                        out.truncate(before);
                    } else {
                        out.extend_from_slice(b"null");
                    }
                }
            }
            out.push(b']');
        }
        leaf => {
            if !value_or_absent(leaf, cx, omit_empty, out) {
                out.extend_from_slice(b"null");
            }
        }
    }
}

/// Appends a value; `false` (and nothing appended) when it is absent.
fn value_or_absent(node: &JsonNode, cx: &FormatContext<'_>, omit_empty: bool, out: &mut Vec<u8>) -> bool {
    match node {
        JsonNode::Object(_) | JsonNode::List(_) => write(node, cx, omit_empty, out),
        JsonNode::Null => return false,
        JsonNode::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        JsonNode::Number(value) => out.extend_from_slice(number(*value).as_bytes()),
        JsonNode::Value(format) => return formatted(format, cx, omit_empty, out),
    }
    true
}

fn formatted(format: &Format, cx: &FormatContext<'_>, omit_empty: bool, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    if format.is_json() {
        return format.write_json(cx, out);
    }
    if format.is_single() {
        if !format.write_single(cx, out) {
            out.truncate(start);
            return false;
        }
    } else {
        format.write(cx, omit_empty, out);
    }
    if format.is_number() && out.len() == start {
        return false;
    }
    if !format.is_number() {
        let raw = out.split_off(start);
        string(&raw, out);
    }
    true
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value:.0}") } else { value.to_string() }
}

/// Appends `raw` as a JSON string; bytes that are no UTF-8 are replaced.
fn string(raw: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for c in String::from_utf8_lossy(raw).chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c if c < ' ' => out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes()),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

/// Whether any format below `node` is so.
pub(super) fn any_format(node: &JsonNode, is: &dyn Fn(&Format) -> bool) -> bool {
    match node {
        JsonNode::Object(fields) => fields.iter().any(|(_, node)| any_format(node, is)),
        JsonNode::List(items) => items.iter().any(|node| any_format(node, is)),
        JsonNode::Value(format) => is(format),
        JsonNode::Number(_) | JsonNode::Bool(_) | JsonNode::Null => false,
    }
}
