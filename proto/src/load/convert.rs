//! [`Node`]s to messages: mappings, lists and fields. Scalars and the well-known types have files of their own.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind as Type, MapKey, MessageDescriptor,
    Value,
};

use super::{
    ParseOptions, UnknownField, UnknownFields,
    lines::{Kids, Spot},
    node::{Entry, Kind, Node, Style, shorten},
};
use crate::{Descriptors, Path, Problem, redact::is_sensitive, suggest};

/// How deep messages may nest; protobuf's own decoders stop there too.
pub(super) const MAX_MESSAGE_DEPTH: usize = 90;

/// The work of turning one tree into one message. Problems gather here, so that one pass finds them all; what a
/// problem left without a value is left out of the message.
pub(super) struct Loader<'a> {
    pub(super) descs: &'a Descriptors,
    pub(super) pool: DescriptorPool,
    source: &'a str,
    options: ParseOptions,
    pub(super) problems: Vec<Problem>,
    pub(super) unknown: Vec<UnknownField>,
    names: HashMap<String, Arc<str>>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        descs: &'a Descriptors,
        pool: DescriptorPool,
        source: &'a str,
        options: ParseOptions,
    ) -> Self {
        let (problems, unknown, names) = (Vec::new(), Vec::new(), HashMap::new());
        Self { descs, pool, source, options, problems, unknown, names }
    }

    /// Converts the whole tree.
    pub(super) fn root(&mut self, node: &Node, desc: &MessageDescriptor) -> (DynamicMessage, Spot) {
        let (message, kids) = self.special(node, desc, &Path::root(), 0).unwrap_or_else(|| {
            // Its problems are noted; the message will not be used.
            (DynamicMessage::new(desc.clone()), Kids::None)
        });
        (message, self.spot(node.line, kids))
    }

    /// Notes a problem.
    pub(super) fn problem(&mut self, path: &Path<'_>, line: u32, message: impl Into<String>) {
        self.problems.push(Problem {
            path: path.to_string(),
            line: (line > 0).then_some(line),
            source: self.source.to_owned(),
            message: message.into(),
        });
    }

    /// Notes something unknown, which is a problem or not, as the options say.
    pub(super) fn unknown(&mut self, path: &Path<'_>, line: u32, message: impl FnOnce() -> String) {
        match self.options.unknown_fields {
            UnknownFields::Reject => {
                let message = message();
                self.problem(path, line, message);
            }
            UnknownFields::Collect => self.unknown.push(UnknownField {
                path: path.to_string(),
                line: (line > 0).then_some(line),
                source: self.source.to_owned(),
            }),
        }
    }

    pub(super) fn spot(&self, line: u32, kids: Kids) -> Spot {
        Spot { line, source: 0, kids }
    }

    /// Converts a mapping to an ordinary message, one without a JSON form of its own.
    pub(super) fn message(
        &mut self,
        node: &Node,
        desc: &MessageDescriptor,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<(DynamicMessage, Kids)> {
        let Kind::Map(entries) = &node.kind else {
            let name = desc.full_name();
            self.problem(path, node.line, format!("expected a mapping ({name}), got {}", node.describe()));
            return None;
        };
        self.fields(entries.iter(), desc, path, depth)
    }

    /// Converts the entries of a mapping to the fields of a message.
    pub(super) fn fields<'n>(
        &mut self,
        entries: impl Iterator<Item = &'n Entry>,
        desc: &MessageDescriptor,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<(DynamicMessage, Kids)> {
        let mut message = DynamicMessage::new(desc.clone());
        let mut spots = Vec::new();
        let mut seen: HashMap<u32, (&str, u32)> = HashMap::new();
        for entry in entries {
            let Some(field) = find_field(desc, &entry.key) else {
                let at = path.field(&entry.key);
                self.unknown(&at, entry.line, || unknown_field(desc, &entry.key));
                continue;
            };
            let at = path.field(field.name());
            match seen.entry(field.number()) {
                hash_map::Entry::Vacant(slot) => slot.insert((&entry.key, entry.line)),
                hash_map::Entry::Occupied(first) => {
                    let line = first.get().1;
                    self.problem(&at, entry.line, format!("the field is given twice, first on line {line}"));
                    continue;
                }
            };
            // An explicit null is the same as leaving the field out, but where null is itself a value.
            if entry.value.kind == Kind::Null && !takes_null(&field) {
                continue;
            }
            if let Some(oneof) = field.containing_oneof()
                && let Some(other) = oneof.fields().find(|other| message.has_field(other))
            {
                let (name, other) = (oneof.name(), other.name());
                self.problem(
                    &at,
                    entry.line,
                    format!("only one of '{name}' may be set, and '{other}' already is"),
                );
                continue;
            }
            let problems = self.problems.len();
            if let Some((value, kids)) = self.field(&entry.value, &field, &at, depth) {
                message.set_field(&field, value);
                spots.push((self.name(field.name()), self.spot(entry.line, kids)));
            }
            if self.problems.len() > problems && is_sensitive(&field) {
                // An error message must not be where a secret gets out.
                for problem in self.problems.iter_mut().skip(problems) {
                    "the value does not fit; it is not shown, since the field is sensitive"
                        .clone_into(&mut problem.message);
                }
            }
        }
        Some((message, Kids::Fields(spots)))
    }

    /// Converts the value of a field, repeated or not.
    fn field(
        &mut self,
        node: &Node,
        field: &FieldDescriptor,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<(Value, Kids)> {
        if field.is_map() {
            return self.map(node, field, path, depth);
        }
        if field.cardinality() != Cardinality::Repeated {
            return self.single(node, &field.kind(), path, depth);
        }
        // Envoy takes a single value for a list of one.
        let items = match &node.kind {
            Kind::Seq(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let (mut values, mut spots) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
        for (index, item) in items.iter().enumerate() {
            let (value, kids) = self.item(item, &field.kind(), &path.index(index), depth);
            values.push(value);
            spots.push(self.spot(item.line, kids));
        }
        Some((Value::List(values), Kids::Items(spots)))
    }

    /// Converts an element of a list or a value of a map; null is the default value, as in Envoy.
    fn item(&mut self, node: &Node, kind: &Type, path: &Path<'_>, depth: usize) -> (Value, Kids) {
        let default = || (Value::default_value(kind), Kids::None);
        if node.kind == Kind::Null && !kind_takes_null(kind) {
            return default();
        }
        self.single(node, kind, path, depth).unwrap_or_else(default)
    }

    fn map(
        &mut self,
        node: &Node,
        field: &FieldDescriptor,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<(Value, Kids)> {
        let Kind::Map(entries) = &node.kind else {
            self.problem(path, node.line, format!("expected a mapping, got {}", node.describe()));
            return None;
        };
        let entry_type = field.kind();
        let entry_type = entry_type.as_message()?;
        let (key_type, value_type) =
            (entry_type.map_entry_key_field().kind(), entry_type.map_entry_value_field().kind());
        let (mut values, mut spots) =
            (HashMap::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
        for entry in entries {
            let at = path.key(&entry.key);
            let Some(key) = map_key(&entry.key, &key_type) else {
                let key = shorten(&entry.key);
                self.problem(&at, entry.line, format!("{key:?} is no key of type {key_type:?}"));
                continue;
            };
            let (value, kids) = self.item(&entry.value, &value_type, &at, depth);
            if values.insert(key, value).is_some() {
                self.problem(&at, entry.line, "the key is given twice");
            }
            spots.push((entry.key.clone().into_boxed_str(), self.spot(entry.line, kids)));
        }
        Some((Value::Map(values), Kids::Entries(spots)))
    }

    /// Converts one value.
    pub(super) fn single(
        &mut self,
        node: &Node,
        kind: &Type,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<(Value, Kids)> {
        match kind {
            Type::Message(desc) => {
                if depth >= MAX_MESSAGE_DEPTH {
                    self.problem(
                        path,
                        node.line,
                        format!("messages nested deeper than {MAX_MESSAGE_DEPTH} levels"),
                    );
                    return None;
                }
                let (message, kids) = self.special(node, desc, path, depth + 1)?;
                Some((Value::Message(message), kids))
            }
            Type::Enum(desc) => Some((self.enumeration(node, desc, path)?, Kids::None)),
            _ => {
                let value = match &node.kind {
                    Kind::Scalar(text, style) => super::scalar::convert(text, *style, kind),
                    _ => Err(format!("expected {}, got {}", super::scalar::describe(kind), node.describe())),
                };
                match value {
                    Ok(value) => Some((value, Kids::None)),
                    Err(message) => {
                        self.problem(path, node.line, message);
                        None
                    }
                }
            }
        }
    }

    /// A shared copy of a field name.
    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let shared: Arc<str> = name.into();
        self.names.insert(name.to_owned(), Arc::clone(&shared));
        shared
    }
}

/// Finds a field by its proto name or its JSON name.
fn find_field(desc: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    desc.get_field_by_name(key).or_else(|| desc.get_field_by_json_name(key))
}

/// Whether null is a value of the field rather than its absence.
fn takes_null(field: &FieldDescriptor) -> bool {
    field.cardinality() != Cardinality::Repeated && kind_takes_null(&field.kind())
}

fn kind_takes_null(kind: &Type) -> bool {
    match kind {
        Type::Message(desc) => desc.full_name() == "google.protobuf.Value",
        Type::Enum(desc) => desc.full_name() == "google.protobuf.NullValue",
        _ => false,
    }
}

/// What to say about a key that is no field.
fn unknown_field(desc: &MessageDescriptor, key: &str) -> String {
    let name = desc.full_name();
    if key == "<<" {
        return format!(
            "YAML merge keys are not part of Envoy's configuration language; {name} has no field '<<'"
        );
    }
    let fields: Vec<FieldDescriptor> = desc.fields().collect();
    if let Some(near) = suggest::nearest(key, fields.iter().flat_map(|it| [it.name(), it.json_name()])) {
        return format!("unknown field; did you mean '{near}'?");
    }
    const LISTED: usize = 8;
    match fields.len() {
        0 => format!("unknown field; {name} has no fields"),
        1..=LISTED => {
            let names: Vec<&str> = fields.iter().map(FieldDescriptor::name).collect();
            format!("unknown field; {name} has {}", names.join(", "))
        }
        _ => format!("unknown field; {name} has none of that name"),
    }
}

/// Reads the key of a map entry. JSON keys are strings whatever their type.
fn map_key(text: &str, kind: &Type) -> Option<MapKey> {
    if matches!(kind, Type::String) {
        return Some(MapKey::String(text.to_owned()));
    }
    super::scalar::convert(text, Style::Quoted, kind).ok()?.into_map_key()
}
