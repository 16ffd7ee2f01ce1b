//! `core.v3.Metadata`: what operators write beside endpoints, routes and clusters, for matchers and logs to read.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static READ: AtomicBool = AtomicBool::new(false);

/// Somebody reads dynamic metadata: a format, a matcher, a filter. To be said when configuration is converted, by whoever
/// will read it: filters that would note something for each request do so only from then on.
pub fn note_reader() {
    READ.store(true, Relaxed);
}

/// Whether anybody reads dynamic metadata.
#[inline]
pub fn is_read() -> bool {
    READ.load(Relaxed)
}

/// `Metadata.filter_metadata`: structures by namespace.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata {
    /// The structures.
    pub namespaces: BTreeMap<Arc<str>, BTreeMap<Arc<str>, MetadataValue>>,
}

impl Metadata {
    /// The value at `path` within `namespace`; the whole namespace is no value.
    pub fn get(&self, namespace: &str, path: &[&str]) -> Option<&MetadataValue> {
        let (first, rest) = path.split_first()?;
        let value = self.namespaces.get(namespace)?.get(*first)?;
        rest.iter().try_fold(value, |value, key| match value {
            MetadataValue::Map(map) => map.get(*key),
            _ => None,
        })
    }

    /// Whether `namespace` has every value that `wanted` has, each the same (Envoy:
    /// `Config::Metadata::metadataLabelMatch` with lists compared whole). Nothing wanted matches everything.
    pub fn has(&self, namespace: &str, wanted: &BTreeMap<Arc<str>, MetadataValue>) -> bool {
        if wanted.is_empty() {
            return true;
        }
        let Some(there) = self.namespaces.get(namespace) else { return false };
        wanted.iter().all(|(key, value)| there.get(key) == Some(value))
    }

    /// Appends the value at `path` within `namespace`, or the whole namespace when `path` is empty: as JSON, or as
    /// text, which is the same but for a string. `false` when there is none.
    pub fn write(&self, namespace: &str, path: &[Box<str>], as_json: bool, out: &mut Vec<u8>) -> bool {
        let Some(members) = self.namespaces.get(namespace) else { return false };
        let Some((first, rest)) = path.split_first() else {
            map(members, out);
            return true;
        };
        let value = members.get(&**first).and_then(|value| {
            rest.iter().try_fold(value, |value, key| match value {
                MetadataValue::Map(map) => map.get(&**key),
                _ => None,
            })
        });
        match value {
            None | Some(MetadataValue::Null) => return false,
            Some(MetadataValue::Text(text)) if !as_json => out.extend_from_slice(text.as_bytes()),
            Some(value) => value.write_json(out),
        }
        true
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }
}

/// `google.protobuf.Value`
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataValue {
    /// `null`
    Null,
    /// A truth value.
    Bool(bool),
    /// A number.
    Number(f64),
    /// Text.
    Text(Arc<str>),
    /// A list.
    List(Vec<MetadataValue>),
    /// A structure.
    Map(BTreeMap<Arc<str>, MetadataValue>),
}

/// What metadata a stream's formats can read. Collected only where one of them does.
#[derive(Debug, Clone, Default)]
pub struct StreamMetadata {
    /// Of the route.
    pub route: Option<Arc<Metadata>>,
    /// Of the virtual host.
    pub virtual_host: Option<Arc<Metadata>>,
    /// Of the cluster.
    pub cluster: Option<Arc<Metadata>>,
    /// Of the upstream host.
    pub host: Option<Arc<Metadata>>,
}

impl MetadataValue {
    /// Appends the value as JSON, without white space.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            // Writing to a vector cannot fail.
            Self::Number(value) if value.is_finite() => _ = write!(out, "{value}"),
            Self::Null | Self::Number(_) => out.extend_from_slice(b"null"),
            Self::Text(text) => string(text, out),
            Self::List(values) => {
                out.push(b'[');
                for (i, value) in values.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    value.write_json(out);
                }
                out.push(b']');
            }
            Self::Map(members) => map(members, out),
        }
    }
}

fn map(members: &BTreeMap<Arc<str>, MetadataValue>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, (name, value)) in members.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        string(name, out);
        out.push(b':');
        value.write_json(out);
    }
    out.push(b'}');
}

fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c if c < ' ' => _ = write!(out, "\\u{:04x}", c as u32),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_path_and_printed() {
        let list = MetadataValue::List(vec![MetadataValue::Number(1.0), MetadataValue::Text("x\"".into())]);
        let members = BTreeMap::from([("a".into(), list), ("b".into(), MetadataValue::Text("t".into()))]);
        let metadata = Metadata { namespaces: BTreeMap::from([("my".into(), members)]) };
        let text = |path: &[&str], as_json| {
            let path: Vec<Box<str>> = path.iter().map(|part| (*part).into()).collect();
            let mut out = Vec::new();
            metadata.write("my", &path, as_json, &mut out).then(|| String::from_utf8(out).expect("text"))
        };
        assert_eq!(text(&["a"], false).as_deref(), Some("[1,\"x\\\"\"]"));
        assert_eq!(text(&[], false).as_deref(), Some("{\"a\":[1,\"x\\\"\"],\"b\":\"t\"}"));
        assert_eq!((text(&["b"], false), text(&["b"], true)), (Some("t".into()), Some("\"t\"".into())));
        assert_eq!(text(&["a", "c"], false), None);
    }
}
