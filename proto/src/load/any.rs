//! `google.protobuf.Any` in text: the message stands inline, named by `@type`; and `TypedStruct`, which stands for the
//! message that it names.

use prost_reflect::{DynamicMessage, MessageDescriptor, Value};

use super::{
    convert::Loader,
    lines::Kids,
    node::{Entry, Kind, Node},
    wkt::has_special_form,
};
use crate::{
    Path,
    any::{TYPED_STRUCTS, type_name},
    encode::canonical,
};

impl Loader<'_> {
    /// Converts an `Any`. The path and the lines of its content are those of the `Any` itself.
    pub(super) fn any(
        &mut self,
        node: &Node,
        desc: &MessageDescriptor,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<(DynamicMessage, Kids)> {
        let Kind::Map(entries) = &node.kind else {
            self.problem(
                path,
                node.line,
                format!("expected a mapping with '@type', got {}", node.describe()),
            );
            return None;
        };
        if entries.is_empty() {
            return Some((DynamicMessage::new(desc.clone()), Kids::None));
        }
        let types: Vec<&Entry> = entries.iter().filter(|entry| entry.key == "@type").collect();
        let type_entry = match types.as_slice() {
            [one] => one,
            [] => {
                let message = "'@type' is missing; it says which message this is, as in \
                    '\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router'";
                self.problem(path, node.line, message);
                return None;
            }
            [_, second, ..] => {
                self.problem(path, second.line, "'@type' is given twice");
                return None;
            }
        };
        let line = type_entry.line;
        let Some(url) = type_entry.value.text() else {
            self.problem(
                path,
                line,
                format!("'@type' must be a string, got {}", type_entry.value.describe()),
            );
            return None;
        };
        if url.split_once('/').is_none_or(|(host, _)| host.is_empty()) {
            let message =
                format!("'@type' must be a type URL with a host: type.googleapis.com/{}", type_name(url));
            self.problem(path, line, message);
            return None;
        }
        let rest = || entries.iter().filter(|entry| entry.key != "@type");
        if TYPED_STRUCTS.contains(&type_name(url))
            && let Some(resolved) = self.typed_struct(node, desc, path, depth)
        {
            return resolved;
        }
        let inner = self.message_type(url, path, line)?;
        let (message, kids) = if has_special_form(inner.full_name()) {
            self.special_content(rest(), &inner, path, node.line, depth)?
        } else {
            self.fields(rest(), &inner, path, depth)?
        };
        Some((pack(desc, url, &message), kids))
    }

    /// Finds the message type of a type URL.
    fn message_type(&mut self, url: &str, path: &Path<'_>, line: u32) -> Option<MessageDescriptor> {
        let name = type_name(url);
        let found = self.pool.get_message_by_name(name);
        if found.is_none() {
            let near = self.descs.similar(name);
            let message = match near.first() {
                Some(near) => format!("unknown '@type' {name}; did you mean {near}?"),
                None => format!(
                    "unknown '@type' {name}: Envoy's v3 API has no such message; check its spelling and version, or \
                     remove the extension"
                ),
            };
            self.problem(path, line, message);
        }
        found
    }

    /// Converts a well-known type inside an `Any`: its JSON form stands under `value`.
    fn special_content<'n>(
        &mut self,
        entries: impl Iterator<Item = &'n Entry>,
        desc: &MessageDescriptor,
        path: &Path<'_>,
        line: u32,
        depth: usize,
    ) -> Option<(DynamicMessage, Kids)> {
        let mut content = None;
        for entry in entries {
            if entry.key == "value" && content.is_none() {
                content = Some(&entry.value);
            } else {
                let at = path.field(&entry.key);
                let name = desc.full_name();
                self.unknown(&at, entry.line, || {
                    format!("unknown field; a {name} in an Any stands under 'value'")
                });
            }
        }
        match content {
            Some(content) => self.special(content, desc, path, depth),
            None => {
                self.problem(
                    path,
                    line,
                    format!("a {} in an Any stands under 'value', which is missing", desc.full_name()),
                );
                None
            }
        }
    }

    /// Converts a `TypedStruct` to the message that it names. `None` if that one is unknown: then it stays what it is.
    #[expect(
        clippy::option_option,
        reason = "not resolvable, and resolved with problems, are different outcomes"
    )]
    fn typed_struct(
        &mut self,
        node: &Node,
        desc: &MessageDescriptor,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<Option<(DynamicMessage, Kids)>> {
        let url = node.get("type_url", "typeUrl")?.text()?;
        let inner = self.pool.get_message_by_name(type_name(url))?;
        let Kind::Map(entries) = &node.kind else { return None };
        for entry in entries {
            if !matches!(entry.key.as_str(), "@type" | "type_url" | "typeUrl" | "value") {
                let at = path.field(&entry.key);
                self.unknown(&at, entry.line, || {
                    "unknown field; a TypedStruct has type_url and value".to_owned()
                });
            }
        }
        let empty = Node { line: node.line, kind: Kind::Map(Vec::new()) };
        let value = match node.get("value", "value") {
            Some(value) if value.kind != Kind::Null => value,
            _ => &empty,
        };
        let content = self.special(value, &inner, path, depth);
        Some(content.map(|(message, kids)| (pack(desc, url, &message), kids)))
    }
}

fn pack(desc: &MessageDescriptor, url: &str, message: &DynamicMessage) -> DynamicMessage {
    let mut any = DynamicMessage::new(desc.clone());
    any.set_field_by_name("type_url", Value::String(url.to_owned()));
    any.set_field_by_name("value", Value::Bytes(canonical(message).into()));
    any
}
