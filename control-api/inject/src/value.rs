//! JSON values of which nothing is known.

use serde_json::{Map, Value};

/// A field that is a text; empty when it is missing, or none.
pub(crate) fn text(object: &Value, field: &str) -> String {
    object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Kind and name of an object, for people.
pub(crate) fn title(object: &Value, kind: &str) -> String {
    let kind = if kind.is_empty() { text(object, "kind") } else { kind.to_owned() };
    let kind = if kind.is_empty() { "document".to_owned() } else { kind };
    let meta = object.get("metadata").cloned().unwrap_or_default();
    let (name, generated) = (text(&meta, "name"), text(&meta, "generateName"));
    match (name.is_empty(), generated.is_empty()) {
        (false, _) => format!("{kind} {name}"),
        (true, false) => format!("{kind} {generated}*"),
        (true, true) => kind,
    }
}

/// The elements of a list, none where there is no list.
pub(crate) fn list<'v>(object: &'v Value, field: &str) -> &'v [Value] {
    object.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A map in an object, made where there is none (or `null`, which means the same to Kubernetes). `None`: something else is there.
pub(crate) fn map_in<'v>(
    object: &'v mut Map<String, Value>,
    field: &str,
) -> Option<&'v mut Map<String, Value>> {
    let slot = object.entry(field).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut()
}

/// A list in an object, made where there is none.
pub(crate) fn list_in<'v>(object: &'v mut Map<String, Value>, field: &str) -> Option<&'v mut Vec<Value>> {
    let slot = object.entry(field).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut()
}

/// Whether an element of a list has this name.
pub(crate) fn named(element: &Value, name: &str) -> bool {
    element.get("name").and_then(Value::as_str) == Some(name)
}
