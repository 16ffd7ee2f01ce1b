//! Worlds in YAML, and what becomes of them.

mod services;

use serde_json::Value;

use super::Attachments;
use crate::model::{Key, Kind, documents, read_value};
use crate::world::World;

/// The time of all changes in these tests: 2026-01-02T03:04:05Z.
const NOW: i64 = 1_767_323_045;

/// A world of the documents in a text of YAML. Panics when one of them is refused.
pub(crate) fn world(yaml: &str) -> World {
    let objects = documents("test.yaml", yaml).expect("YAML").into_iter().filter_map(|value| {
        read_value("test.yaml", value, "default").unwrap_or_else(|problems| panic!("{problems:?}"))
    });
    World::of(objects.collect::<Vec<_>>())
}

/// What becomes of a text of YAML.
fn attachments(yaml: &str) -> Attachments {
    Attachments::after(&world(yaml), NOW, None)
}

/// The conditions at a place in a status, as `Type=Status:Reason`.
fn conditions(all: &Attachments, kind: Kind, name: &str, pointer: &str) -> Vec<String> {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let status = all.statuses.get(&Key::new(kind, namespace, name)).unwrap_or(&Value::Null);
    let list = status.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
    list.iter()
        .map(|it| format!("{}={}:{}", text(it, "type"), text(it, "status"), text(it, "reason")))
        .collect()
}

/// The message of one condition.
fn message(all: &Attachments, kind: Kind, name: &str, pointer: &str, condition: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let status = all.statuses.get(&Key::new(kind, namespace, name)).unwrap_or(&Value::Null);
    let list = status.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let found = list.iter().find(|it| it["type"] == condition).cloned().unwrap_or_default();
    found["message"].as_str().unwrap_or_default().to_owned()
}
