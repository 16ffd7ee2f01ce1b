//! Status conditions: merged with what is there, so that times change only when conditions do.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::backends::Refusal;
pub use crate::model::CONTROLLER;
use crate::model::{Key, Object};

/// The longest message: the API server takes no more than 32768 bytes.
const LONGEST_MESSAGE: usize = 2_000;

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) kind: &'static str,
    pub(crate) holds: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Condition {
    /// It holds.
    pub(crate) fn yes(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: true, reason, message: message.into() }
    }

    /// It does not hold.
    pub(crate) fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: false, reason, message: message.into() }
    }

    /// It holds, with a reason that is called as the condition is, unless something was refused.
    pub(super) fn of(kind: &'static str, refused: Option<&Refusal>, message: &str) -> Self {
        match refused {
            None => Self::yes(kind, kind, message),
            Some(it) => Self::no(kind, it.reason, &it.message),
        }
    }
}

/// What statuses are written with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer<'a> {
    /// The time of changes, by RFC 3339.
    pub(crate) now: &'a str,
    /// What was said last; it goes before what objects carry.
    pub(crate) previous: Option<&'a BTreeMap<Key, Value>>,
}

impl Writer<'_> {
    /// The status that an object has until now.
    pub(crate) fn old(&self, object: &Object) -> Value {
        match self.previous.and_then(|statuses| statuses.get(&object.key)) {
            Some(status) => status.clone(),
            None => object.body.to_json().get_mut("status").map(Value::take).unwrap_or_default(),
        }
    }

    /// Conditions as JSON. Those of `ours` that are no longer said go; those of others stay as they are.
    pub(crate) fn conditions(
        &self,
        old: Option<&Value>,
        object: &Object,
        ours: &[&str],
        new: &[Condition],
    ) -> Value {
        let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let kind_of = |it: &Value| it.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut out: Vec<Value> = new
            .iter()
            .map(|condition| {
                let before = old.iter().find(|it| kind_of(it) == condition.kind);
                self.condition(before, object, condition)
            })
            .collect();
        out.extend(
            old.iter()
                .filter(|it| {
                    let kind = kind_of(it);
                    !ours.contains(&kind.as_str()) && !new.iter().any(|condition| condition.kind == kind)
                })
                .cloned(),
        );
        Value::Array(out)
    }

    fn condition(&self, before: Option<&Value>, object: &Object, condition: &Condition) -> Value {
        let status = if condition.holds { "True" } else { "False" };
        let since = before
            .filter(|it| it.get("status").and_then(Value::as_str) == Some(status))
            .and_then(|it| it.get("lastTransitionTime")?.as_str())
            .unwrap_or(self.now);
        let mut out = json!({
            "type": condition.kind,
            "status": status,
            "reason": condition.reason,
            "message": short(&condition.message),
            "lastTransitionTime": since,
        });
        if let (Some(generation), Some(map)) = (object.meta().generation, out.as_object_mut()) {
            map.insert("observedGeneration".to_owned(), generation.into());
        }
        out
    }
}

fn short(message: &str) -> String {
    if message.len() <= LONGEST_MESSAGE {
        return message.to_owned();
    }
    let cut: String = message.chars().take(LONGEST_MESSAGE / 4).collect();
    format!("{cut}…")
}

/// Seconds since 1970 by RFC 3339.
pub(crate) fn rfc3339(seconds: i64) -> String {
    chrono::DateTime::from_timestamp(seconds, 0)
        .unwrap_or_default()
        .to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
