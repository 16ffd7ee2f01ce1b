//! Configuration text to messages: YAML or JSON in the proto3 JSON mapping, read the way Envoy reads it, with the
//! line of every field kept and every error reported at once.

mod any;
mod convert;
mod json;
mod lines;
mod node;
mod scalar;
mod wkt;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use prost::Message;
use prost_reflect::{DynamicMessage, ReflectMessage as _};

pub use lines::LineMap;
pub(crate) use wkt::{civil_from_days, has_special_form, is_wrapper};

use crate::{
    Descriptors, Problem, Problems,
    any::type_name,
    encode::canonical,
    pb::google::protobuf::{Any, Struct, Value},
};
use convert::Loader;
use node::{Kind, Node};

/// What to do with a field that Envoy's API does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// It is a problem, as in Envoy by default.
    #[default]
    Reject,
    /// It is noted in [`Loaded::unknown`] and otherwise left out (`--allow-unknown-static-fields`).
    Collect,
}

/// How to read a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParseOptions {
    /// What to do with unknown fields.
    pub unknown_fields: UnknownFields,
}

/// A field that Envoy's API does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// The full path, with the last segment as the text spells it.
    pub path: String,
    /// The line in the source, counted from one.
    pub line: Option<u32>,
    /// The source that the text came from.
    pub source: String,
}

/// A message that was loaded from text.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The message.
    pub message: DynamicMessage,
    /// Where each field came from.
    pub lines: LineMap,
    /// The unknown fields that were left out.
    pub unknown: Vec<UnknownField>,
}

impl Loaded {
    /// The message as a generated type.
    ///
    /// # Errors
    /// `M` is not the type that was loaded.
    pub fn typed<M: Message + Default>(&self) -> Result<M, prost::DecodeError> {
        self.message.transcode_to()
    }

    /// Merges `other` over this message with protobuf's semantics: scalars that are set override, messages merge,
    /// repeated fields append, map entries replace. It is what Envoy does with `--config-yaml`.
    ///
    /// # Errors
    /// `other` is another message type.
    pub fn merge_over(&mut self, other: Self) -> Result<(), prost::DecodeError> {
        // Whichever was loaded later knows the descriptors of both.
        let (mine, theirs) = (self.message.descriptor(), other.message.descriptor());
        let desc =
            if theirs.parent_pool().files().len() > mine.parent_pool().files().len() { theirs } else { mine };
        let mut merged = DynamicMessage::decode(desc, self.message.encode_to_vec().as_slice())?;
        merged.merge(other.message.encode_to_vec().as_slice())?;
        self.message = merged;
        self.lines.merge_over(other.lines);
        self.unknown.extend(other.unknown);
        Ok(())
    }
}

/// Reads YAML or JSON text as a message.
///
/// A text whose source name ends in `.json`, or that starts with `{`, is tried as JSON first; what JSON does not
/// allow (comments, trailing commas) is then read as YAML, which is a superset.
///
/// # Errors
/// Every problem of the text: syntax (alone, since nothing can be read then), unknown fields and types, values of
/// the wrong kind. Rules on values ([`crate::validate`]) are not checked here.
pub fn parse(
    descs: &Descriptors,
    text: &str,
    source_name: &str,
    message_full_name: &str,
    options: ParseOptions,
) -> Result<Loaded, Problems> {
    let problem = |line: Option<u32>, message: String| {
        Problems::from(Problem { path: String::new(), line, source: source_name.to_owned(), message })
    };
    let node = read(text, source_name).map_err(|error| problem(Some(error.line), error.message))?;
    if node.kind == Kind::Null {
        return Err(problem(None, "the text is empty".to_owned()));
    }
    load(descs, &node, source_name, message_full_name, options)
}

/// [`parse`] for bytes of unknown origin.
///
/// # Errors
/// As [`parse`]; and the bytes are not UTF-8.
pub fn parse_bytes(
    descs: &Descriptors,
    bytes: &[u8],
    source_name: &str,
    message_full_name: &str,
    options: ParseOptions,
) -> Result<Loaded, Problems> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(descs, text, source_name, message_full_name, options),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
            Err(Problems::from(Problem {
                path: String::new(),
                line: u32::try_from(line).ok(),
                source: source_name.to_owned(),
                message: "not UTF-8 text".to_owned(),
            }))
        }
    }
}

/// Reads a message that is there in bytes already (Envoy's `.pb` files). It has no lines.
///
/// # Errors
/// The message is unknown, or the bytes are not one.
pub fn decode(
    descs: &Descriptors,
    bytes: &[u8],
    source_name: &str,
    message_full_name: &str,
) -> Result<Loaded, Problems> {
    match descs.decode(message_full_name, bytes) {
        Ok(message) => {
            let lines = LineMap::new(source_name, lines::Spot::default());
            Ok(Loaded { message, lines, unknown: Vec::new() })
        }
        Err(error) => Err(Problems::from(Problem {
            path: String::new(),
            line: None,
            source: source_name.to_owned(),
            message: error.to_string(),
        })),
    }
}

/// Turns an `Any` that carries a `TypedStruct` into the `Any` that it stands for; anything else is returned as it is.
/// Texts are resolved while they are parsed; this is for messages that come over the wire.
///
/// # Errors
/// The structure does not fit the message that it names.
pub fn resolve_typed_struct(descs: &Descriptors, any: &Any) -> Result<Any, Problems> {
    if !crate::any::TYPED_STRUCTS.contains(&type_name(&any.type_url)) {
        return Ok(any.clone());
    }
    let malformed = |message: String| {
        Problems::from(Problem { path: String::new(), line: None, source: String::new(), message })
    };
    let typed = crate::any::TypedStruct::decode(any.value.as_slice())
        .map_err(|error| malformed(format!("malformed TypedStruct: {error}")))?;
    if !descs.knows(type_name(&typed.type_url)) {
        return Ok(any.clone());
    }
    let value = typed.value.unwrap_or_default();
    let loaded = parse_struct(descs, &value, type_name(&typed.type_url), ParseOptions::default())?;
    Ok(Any { type_url: typed.type_url, value: canonical(&loaded.message) })
}

/// Reads a YAML text as a `Value`, as Envoy reads a single value.
///
/// # Errors
/// It is no YAML: why, and on which line.
pub fn yaml_value(text: &str) -> Result<Value, Problem> {
    let node = yaml::read(text).map_err(|error| Problem {
        path: String::new(),
        line: Some(error.line),
        source: String::new(),
        message: error.message,
    })?;
    Ok(node.to_value())
}

/// Reads a `Struct` as the message whose JSON it is.
///
/// # Errors
/// As [`parse`].
pub fn parse_struct(
    descs: &Descriptors,
    value: &Struct,
    message_full_name: &str,
    options: ParseOptions,
) -> Result<Loaded, Problems> {
    load(descs, &Node::from_struct(value), "", message_full_name, options)
}

/// Picks the reader for a text.
fn read(text: &str, source_name: &str) -> Result<Node, node::SyntaxError> {
    let json_name = source_name.ends_with(".json");
    if !json_name && !text.trim_start_matches('\u{feff}').trim_start().starts_with('{') {
        return yaml::read(text);
    }
    json::read(text).or_else(|json_error| {
        yaml::read(text).map_err(|yaml_error| if json_name { json_error } else { yaml_error })
    })
}

fn load(
    descs: &Descriptors,
    node: &Node,
    source_name: &str,
    message_full_name: &str,
    options: ParseOptions,
) -> Result<Loaded, Problems> {
    // One pool for the whole text: the root, and every type that the text names anywhere.
    let mut names = BTreeSet::from([message_full_name]);
    named_types(node, &mut names);
    let pool = descs.pool_with(names);
    let Some(desc) = pool.get_message_by_name(message_full_name) else {
        return Err(Problems::from(Problem {
            path: String::new(),
            line: None,
            source: source_name.to_owned(),
            message: format!("no message named {message_full_name} in Envoy's API"),
        }));
    };
    let mut loader = Loader::new(descs, pool, source_name, options);
    let (message, root) = loader.root(node, &desc);
    if loader.problems.is_empty() {
        Ok(Loaded { message, lines: LineMap::new(source_name, root), unknown: loader.unknown })
    } else {
        Err(Problems(loader.problems))
    }
}

/// Collects every type name that the text mentions where a type name can stand.
fn named_types<'n>(node: &'n Node, names: &mut BTreeSet<&'n str>) {
    match &node.kind {
        Kind::Map(entries) => {
            for entry in entries {
                if matches!(entry.key.as_str(), "@type" | "type_url" | "typeUrl")
                    && let Some(url) = entry.value.text()
                {
                    names.insert(type_name(url));
                }
                named_types(&entry.value, names);
            }
        }
        Kind::Seq(items) => items.iter().for_each(|item| named_types(item, names)),
        Kind::Null | Kind::Scalar(..) => {}
    }
}
