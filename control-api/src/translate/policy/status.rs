//! The statuses of policies.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::model::{Key, Object};

/// Our name in statuses.
const CONTROLLER: &str = "outrider.dev/gateway-controller";

/// The longest message.
const LONGEST: usize = 2_000;

/// What became of a policy, at one target or as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is in force; but for these parts of it.
    Accepted(Vec<String>),
    /// It is not in force, for this reason.
    Refused(&'static str, String),
}

impl Verdict {
    /// It is in force, whole.
    pub(super) fn fine() -> Self {
        Self::Accepted(Vec::new())
    }
}

/// Writes statuses with the times of their changes.
pub(super) struct Writer<'p> {
    now: String,
    previous: Option<&'p BTreeMap<Key, Value>>,
}

impl<'p> Writer<'p> {
    /// For a world that changed at `now`, in seconds since 1970, after one with these statuses.
    pub(super) fn new(now: i64, previous: Option<&'p BTreeMap<Key, Value>>) -> Self {
        let time = chrono::DateTime::from_timestamp(now, 0).unwrap_or_default();
        Self { now: time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true), previous }
    }

    /// The status of an object with one verdict. `message`: what is said when it is in force.
    pub(super) fn whole(&self, object: &Object, verdict: &Verdict, message: &str) -> Value {
        let old = self.old(object);
        json!({ "conditions": self.conditions(old.get("conditions"), object, verdict, message) })
    }

    /// The status of a policy with a verdict for each target.
    pub(super) fn ancestors(&self, object: &Object, targets: &[(Value, Verdict)]) -> Value {
        let old = self.old(object);
        let listed = old.get("ancestors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let theirs =
            listed.iter().filter(|it| it.get("controllerName").and_then(Value::as_str) != Some(CONTROLLER));
        let ours = targets.iter().map(|(target, verdict)| {
            let before = listed.iter().find(|it| {
                it.get("ancestorRef") == Some(target)
                    && it.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER)
            });
            let before = before.and_then(|it| it.get("conditions"));
            json!({
                "ancestorRef": target,
                "controllerName": CONTROLLER,
                "conditions": self.conditions(before, object, verdict, "in force"),
            })
        });
        json!({ "ancestors": ours.chain(theirs.cloned()).collect::<Vec<_>>() })
    }

    fn old(&self, object: &Object) -> Value {
        match self.previous.and_then(|statuses| statuses.get(&object.key)) {
            Some(status) => status.clone(),
            None => object.body.to_json().get_mut("status").map(Value::take).unwrap_or_default(),
        }
    }

    fn conditions(&self, old: Option<&Value>, object: &Object, verdict: &Verdict, message: &str) -> Value {
        let mut out = Vec::new();
        match verdict {
            Verdict::Accepted(left_out) => {
                out.push(self.condition(old, object, "Accepted", true, "Accepted", message));
                if !left_out.is_empty() {
                    let text = left_out.join("; ");
                    out.push(self.condition(old, object, "PartiallyInvalid", true, "NotHonoured", &text));
                }
            }
            Verdict::Refused(reason, text) => {
                out.push(self.condition(old, object, "Accepted", false, reason, text));
            }
        }
        Value::Array(out)
    }

    fn condition(
        &self,
        old: Option<&Value>,
        object: &Object,
        kind: &str,
        holds: bool,
        reason: &str,
        message: &str,
    ) -> Value {
        let text =
            |it: &Value, field: &str| it.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let status = if holds { "True" } else { "False" };
        let before =
            old.and_then(Value::as_array).and_then(|list| list.iter().find(|it| text(it, "type") == kind));
        let since = before
            .filter(|it| text(it, "status") == status)
            .map(|it| text(it, "lastTransitionTime"))
            .filter(|time| !time.is_empty());
        let message: String = message.chars().take(LONGEST).collect();
        let mut out = json!({
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": since.unwrap_or_else(|| self.now.clone()),
        });
        if let (Some(generation), Some(map)) = (object.meta().generation, out.as_object_mut()) {
            map.insert("observedGeneration".to_owned(), generation.into());
        }
        out
    }
}
