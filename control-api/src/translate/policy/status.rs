//! The statuses of policies.

use serde_json::{Value, json};

use crate::attach::{CONTROLLER, Condition, Writer};
use crate::model::Object;

/// The conditions of policies that are ours to say.
const OURS: [&str; 2] = ["Accepted", "PartiallyInvalid"];

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

    /// As conditions. `message`: what is said when it is in force.
    fn conditions(&self, message: &str) -> Vec<Condition> {
        match self {
            Self::Refused(reason, text) => vec![Condition::no("Accepted", reason, text)],
            Self::Accepted(left_out) => {
                let mut out = vec![Condition::yes("Accepted", "Accepted", message)];
                if !left_out.is_empty() {
                    out.push(Condition::yes("PartiallyInvalid", "NotHonoured", left_out.join("; ")));
                }
                out
            }
        }
    }
}

/// The status of an object with one verdict. `message`: what is said when it is in force.
pub(super) fn whole(writer: &Writer<'_>, object: &Object, verdict: &Verdict, message: &str) -> Value {
    let old = writer.old(object);
    let conditions = writer.conditions(old.get("conditions"), object, &OURS, &verdict.conditions(message));
    json!({ "conditions": conditions })
}

/// The status of a policy with a verdict for each target. `message`: what is said where it is in force.
pub(super) fn ancestors(
    writer: &Writer<'_>,
    object: &Object,
    targets: &[(Value, Verdict)],
    message: &str,
) -> Value {
    let old = writer.old(object);
    let listed = old.get("ancestors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_ours = |it: &Value| it.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER);
    let ours = targets.iter().map(|(target, verdict)| {
        let before = listed.iter().find(|it| it.get("ancestorRef") == Some(target) && is_ours(it));
        let before = before.and_then(|it| it.get("conditions"));
        json!({
            "ancestorRef": target,
            "controllerName": CONTROLLER,
            "conditions": writer.conditions(before, object, &OURS, &verdict.conditions(message)),
        })
    });
    json!({ "ancestors": ours.chain(listed.iter().filter(|it| !is_ours(it)).cloned()).collect::<Vec<_>>() })
}
