//! Files of manifests: YAML of several documents, or JSON. What gets no sidecar stays as it was written, letter by letter; in a document
//! that does, fields keep their order, and comments go.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use serde_json::Value;

use crate::{Injection, Refused, Report, Settings, inject};

/// Why a file of manifests was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is no YAML.
    #[error("document {document}, which begins at line {line}: {reason}")]
    Text {
        /// Which document, from 1.
        document: usize,
        /// The line of the file where it begins, from 1.
        line: usize,
        /// What the parser said; its lines are counted in the document.
        reason: String,
    },
    /// It cannot be injected.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// A file of manifests with sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// The text.
    pub text: String,
    /// What became of each object.
    pub reports: Vec<Report>,
}

/// Puts sidecars into all manifests of a file. `namespace`: where they will be, when they do not say.
///
/// # Errors
/// The first document that is no YAML; or all that is wrong with manifests. Then nothing was changed.
pub fn inject_text(
    text: &str,
    settings: &Settings,
    namespace: Option<&str>,
) -> Result<Injected, ManifestError> {
    let mut out = String::with_capacity(text.len() * 2);
    let (mut reports, mut problems) = (Vec::new(), Vec::new());
    for (index, document) in documents(text).into_iter().enumerate() {
        let wrong = |reason: String| ManifestError::Text { document: index + 1, line: document.line, reason };
        out.push_str(document.front);
        let node: Node = match blank(document.body) {
            true => Node::Scalar(Value::Null),
            false => serde_saphyr::from_str_with_options(document.body, as_kubectl())
                .map_err(|error| wrong(error.to_string()))?,
        };
        let value = node.value();
        if !value.is_object() {
            out.push_str(document.body);
            continue;
        }
        match inject(&value, settings, namespace) {
            Err(Refused(found)) => problems.extend(found),
            Ok(done) if !done.changed() => {
                out.push_str(document.body);
                reports.extend(done.reports);
            }
            Ok(Injection { object, reports: of }) => {
                let ordered = Ordered { value: &object, as_in: Some(&node) };
                let written = serde_saphyr::to_string(&ordered).map_err(|error| wrong(error.to_string()))?;
                out.push_str(written.trim_end());
                out.push('\n');
                reports.extend(of);
            }
        }
    }
    if problems.is_empty() { Ok(Injected { text: out, reports }) } else { Err(Refused(problems).into()) }
}

/// How kubectl reads YAML: as in version 1.1 `0644` is a number of eight's powers, which modes of files are written as.
fn as_kubectl() -> serde_saphyr::Options {
    serde_saphyr::options! { legacy_octal_numbers: true }
}

/// One document of a file.
struct Document<'t> {
    /// The line `---` before it, if there is one.
    front: &'t str,
    body: &'t str,
    /// Where the body begins, from 1.
    line: usize,
}

/// Takes a file apart at the lines that begin with `---`: nothing else may begin so, not even a line of a text (YAML 1.2.2, 9.1.2).
fn documents(text: &str) -> Vec<Document<'_>> {
    let mut out = Vec::new();
    let (mut front, mut begin, mut at) = ("", 0, 0);
    let mut line = 1;
    for (number, of) in text.split_inclusive('\n').enumerate() {
        let end = at + of.len();
        let marker =
            of.strip_prefix("---").is_some_and(|rest| rest.trim_end_matches(['\r', '\n']).is_empty());
        // What stands behind `---` on its line belongs to the document.
        let inline = of.strip_prefix("---").is_some_and(|rest| rest.starts_with([' ', '\t']));
        if marker || inline {
            let body = text.get(begin..at).unwrap_or_default();
            if !(out.is_empty() && front.is_empty() && body.is_empty()) {
                out.push(Document { front, body, line });
            }
            let cut = if marker { end } else { at + 3 };
            front = text.get(at..cut).unwrap_or_default();
            begin = cut;
            line = number + if marker { 2 } else { 1 };
        }
        at = end;
    }
    out.push(Document { front, body: text.get(begin..).unwrap_or_default(), line });
    out
}

/// Whether there is nothing in a document but comments, or it is what may stand before the first one (`%YAML`).
fn blank(body: &str) -> bool {
    body.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "..."
    })
}

/// A value that knows the order of its fields.
#[derive(Clone, Debug)]
enum Node {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    fn value(&self) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::List(all) => all.iter().map(Self::value).collect(),
            Self::Map(all) => all.iter().map(|(name, it)| (name.clone(), it.value())).collect(),
        }
    }

    fn field(&self, name: &str) -> Option<&Node> {
        let Self::Map(all) = self else { return None };
        all.iter().find(|(known, _)| known == name).map(|(_, it)| it)
    }

    fn name(&self) -> Option<&str> {
        match self.field("name") {
            Some(Self::Scalar(Value::String(name))) => Some(name),
            _ => None,
        }
    }

    /// What an element of a list was: of the same name, or at the same place in a list of things without names.
    fn element(&self, at: usize, value: &Value) -> Option<&Node> {
        let Self::List(all) = self else { return None };
        match value.get("name").and_then(Value::as_str) {
            Some(name) => all.iter().find(|it| it.name() == Some(name)),
            None => all.get(at),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a manifest")
    }

    fn visit_bool<E>(self, it: bool) -> Result<Node, E> {
        Ok(Node::Scalar(it.into()))
    }

    fn visit_i64<E>(self, it: i64) -> Result<Node, E> {
        Ok(Node::Scalar(it.into()))
    }

    fn visit_u64<E>(self, it: u64) -> Result<Node, E> {
        Ok(Node::Scalar(it.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, it: f64) -> Result<Node, E> {
        let number = serde_json::Number::from_f64(it);
        number
            .map(|it| Node::Scalar(Value::Number(it)))
            .ok_or_else(|| E::custom("a number that JSON does not have"))
    }

    fn visit_str<E>(self, it: &str) -> Result<Node, E> {
        Ok(Node::Scalar(it.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Node, A::Error> {
        let mut out = Vec::new();
        while let Some(it) = all.next_element()? {
            out.push(it);
        }
        Ok(Node::List(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Node, A::Error> {
        let mut out = Vec::new();
        while let Some(it) = all.next_entry()? {
            out.push(it);
        }
        Ok(Node::Map(out))
    }
}

/// A value whose fields are written in the order that they had; what is new comes behind.
struct Ordered<'v> {
    value: &'v Value,
    as_in: Option<&'v Node>,
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Array(all) => {
                let mut list = serializer.serialize_seq(Some(all.len()))?;
                for (at, value) in all.iter().enumerate() {
                    let as_in = self.as_in.and_then(|it| it.element(at, value));
                    list.serialize_element(&Ordered { value, as_in })?;
                }
                list.end()
            }
            Value::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                let known = match self.as_in {
                    Some(Node::Map(known)) => known.as_slice(),
                    _ => &[],
                };
                for (name, node) in known {
                    if let Some(value) = fields.get(name) {
                        map.serialize_entry(name, &Ordered { value, as_in: Some(node) })?;
                    }
                }
                // People look for a name first.
                let mut new: Vec<_> =
                    fields.iter().filter(|(name, _)| !known.iter().any(|(it, _)| it == *name)).collect();
                new.sort_by_key(|(name, _)| (*name != "name", *name));
                for (name, value) in new {
                    map.serialize_entry(name, &Ordered { value, as_in: None })?;
                }
                map.end()
            }
            scalar => scalar.serialize(serializer),
        }
    }
}
