//! What an object becomes on its way into the store: what the server makes and keeps, and what it does not take from clients.

use serde_json::{Map, Value, json};

use crate::model::{Kind, Object};

/// What in `metadata` is never taken from a manifest.
const SERVERS: [&str; 8] = [
    "resourceVersion",
    "managedFields",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "uid",
    "creationTimestamp",
];

/// What is to be stored, and whether it differs from what is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Prepared {
    pub(super) json: Value,
    pub(super) changed: bool,
}

/// The object as it is to be stored, after `old`. `fresh`: a new uid and the time, for an object that is not there yet.
pub(super) fn prepare(
    object: &Object,
    old: Option<&Value>,
    fresh: impl FnOnce() -> (String, String),
) -> Prepared {
    let mut json = object.to_json();
    strip(&mut json, object.key.kind);
    let kept = |name: &str| old.and_then(|old| old.pointer(&format!("/metadata/{name}"))).cloned();
    let (uid, created) = match (kept("uid"), kept("creationTimestamp")) {
        (Some(uid), Some(created)) => (uid, created),
        (uid, created) => {
            let made = fresh();
            (uid.unwrap_or_else(|| made.0.into()), created.unwrap_or_else(|| made.1.into()))
        }
    };
    let generation = kept("generation").and_then(|it| it.as_u64());
    let same_content = old.is_some_and(|old| content(old) == content(&json));
    let generation = match generation {
        Some(known) if same_content => known,
        Some(known) => known.saturating_add(1),
        None => 1,
    };
    if let Some(meta) = json.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.insert("uid".to_owned(), uid);
        meta.insert("creationTimestamp".to_owned(), created);
        meta.insert("generation".to_owned(), json!(generation));
    }
    let changed = old != Some(&json);
    Prepared { json, changed }
}

/// Takes out what clients do not say: a status (but a Pod's, whose address nobody else tells), and the server's own fields.
fn strip(json: &mut Value, kind: Kind) {
    let Some(object) = json.as_object_mut() else { return };
    if kind != Kind::Pod {
        object.remove("status");
    }
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.retain(|name, _| !SERVERS.contains(&name.as_str()));
    }
}

/// What a generation counts: all but metadata and status.
fn content(json: &Value) -> Map<String, Value> {
    let all = json.as_object().into_iter().flatten();
    let counted = all.filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status"));
    counted.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A new uid: RFC 9562, version 4.
pub(super) fn uid() -> Option<String> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    let number = u128::from_be_bytes(bytes);
    let number = (number & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{number:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    Some(format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)))
}

/// Now, as Kubernetes writes it.
pub(super) fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// The conditions of the Gateway API that hold when something is wrong.
const WHEN_WRONG: [&str; 4] =
    ["Conflicted", "PartiallyInvalid", "OverlappingTLSConfig", "InsecureFrontendValidationMode"];

/// What is wrong with what a status says, in words: conditions that are not as they should be.
pub(super) fn unmet(status: &Value) -> Vec<String> {
    let mut out = Vec::new();
    walk(status, "", &mut out);
    out
}

fn walk(value: &Value, place: &str, out: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, place, out)),
        Value::Object(fields) => {
            let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
            let place =
                match (fields.get("parentRef").or_else(|| fields.get("ancestorRef")), fields.get("name")) {
                    (Some(parent), _) => {
                        let name = text(parent.get("name"));
                        let section = text(parent.get("sectionName"));
                        if section.is_empty() {
                            format!("at {name}: ")
                        } else {
                            format!("at {name}/{section}: ")
                        }
                    }
                    (None, Some(Value::String(name))) if fields.contains_key("conditions") => {
                        format!("{place}{name}: ")
                    }
                    _ => place.to_owned(),
                };
            if let Some(kind) = fields.get("type").and_then(Value::as_str)
                && let Some(status @ ("True" | "False")) = fields.get("status").and_then(Value::as_str)
            {
                let good = if WHEN_WRONG.contains(&kind) { "False" } else { "True" };
                if status != good {
                    let (reason, message) = (text(fields.get("reason")), text(fields.get("message")));
                    out.push(format!("{place}{kind} is {status} ({reason}): {message}"));
                }
                return;
            }
            // The one condition that is better not there.
            if fields.get("type").and_then(Value::as_str) == Some("PartiallyInvalid") {
                out.push(format!("{place}in force but for a part: {}", text(fields.get("message"))));
                return;
            }
            fields.values().for_each(|value| walk(value, &place, out));
        }
        _ => {}
    }
}
