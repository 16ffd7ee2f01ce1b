//! One status out of two: what the server has, and what this controller says. Pure.
//!
//! Entries of `parents` and `ancestors` belong to the controller that they name; conditions elsewhere belong to whoever knows
//! their type; everything else that we say is ours. A condition keeps its `lastTransitionTime` while its `status` does.

use serde_json::{Map, Value};

use super::status::CONTROLLER;

/// Conditions of ours that are said only while they hold: when we say nothing of them they go.
const WHILE_TRUE: [&str; 1] = ["InsecureFrontendValidationMode"];

/// The server's status with our part in it replaced. `None`: we say nothing, and our entries go.
pub(super) fn merge(current: Option<&Value>, ours: Option<&Value>, now: &str) -> Value {
    let empty = Map::new();
    let current = current.and_then(Value::as_object).unwrap_or(&empty);
    let ours = ours.and_then(Value::as_object).unwrap_or(&empty);
    let mut out = current.clone();
    for list in ["parents", "ancestors"] {
        let theirs = items(current.get(list)).filter(|entry| !is_ours(entry));
        let mine =
            items(ours.get(list)).map(|entry| with_times(entry, before(current.get(list), entry), now));
        let merged: Vec<Value> = theirs.cloned().chain(mine).collect();
        if current.contains_key(list) || ours.contains_key(list) {
            out.insert(list.into(), Value::Array(merged));
        }
    }
    for (name, value) in ours {
        match name.as_str() {
            "parents" | "ancestors" => {}
            "conditions" => {
                let merged = conditions(current.get(name), value, true, now);
                out.insert(name.clone(), merged);
            }
            "listeners" => {
                let merged = items(Some(value)).map(|listener| {
                    let same = |it: &&Value| it.get("name") == listener.get("name");
                    with_times(listener, items(current.get(name)).find(same), now)
                });
                out.insert(name.clone(), Value::Array(merged.collect()));
            }
            _ => _ = out.insert(name.clone(), value.clone()),
        }
    }
    Value::Object(out)
}

/// Whether two statuses say the same, whatever the times.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    without_times(a.clone()) == without_times(b.clone())
}

fn items(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

fn is_ours(entry: &Value) -> bool {
    entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER)
}

/// Our entry for the same parent, as it was.
fn before<'c>(current: Option<&'c Value>, entry: &Value) -> Option<&'c Value> {
    let reference = |it: &Value| {
        let found = it.get("parentRef").or_else(|| it.get("ancestorRef")).cloned();
        found.map(completed)
    };
    items(current).find(|it| is_ours(it) && reference(it) == reference(entry))
}

/// A reference with what the API server fills in.
fn completed(mut reference: Value) -> Value {
    if let Some(map) = reference.as_object_mut() {
        map.entry("group").or_insert_with(|| "gateway.networking.k8s.io".into());
        map.entry("kind").or_insert_with(|| "Gateway".into());
    }
    reference
}

/// An entry whose conditions keep the times that they had.
fn with_times(entry: &Value, before: Option<&Value>, now: &str) -> Value {
    let mut out = entry.clone();
    if let Some(list) = entry.get("conditions")
        && let Some(map) = out.as_object_mut()
    {
        let before = before.and_then(|it| it.get("conditions"));
        map.insert("conditions".into(), conditions(before, list, false, now));
    }
    out
}

/// Our conditions with the times that they had; with `others`, those of types that we do not know stay.
fn conditions(current: Option<&Value>, ours: &Value, others: bool, now: &str) -> Value {
    let kind = |it: &Value| it.get("type").cloned();
    let mine = items(Some(ours)).map(|condition| {
        let mut out = condition.clone();
        let old = items(current).find(|it| kind(it) == kind(condition));
        let kept = old
            .filter(|old| old.get("status") == condition.get("status"))
            .and_then(|old| old.get("lastTransitionTime"))
            .filter(|time| time.as_str().is_some_and(|time| !time.starts_with("1970-")));
        if let Some(map) = out.as_object_mut() {
            let said = map.get("lastTransitionTime").cloned().unwrap_or_else(|| now.into());
            map.insert("lastTransitionTime".into(), kept.cloned().unwrap_or(said));
        }
        out
    });
    let theirs = items(current)
        .filter(|it| others && !items(Some(ours)).any(|condition| kind(condition) == kind(it)))
        .filter(|it| {
            !kind(it).is_some_and(|kind| kind.as_str().is_some_and(|kind| WHILE_TRUE.contains(&kind)))
        })
        .cloned();
    Value::Array(mine.chain(theirs).collect())
}

/// Without times, and with lists that have keys in one order.
fn without_times(mut value: Value) -> Value {
    match &mut value {
        Value::Object(map) => {
            map.remove("lastTransitionTime");
            for entry in map.values_mut() {
                *entry = without_times(entry.take());
            }
            if let Some(parent) = map.get_mut("parentRef") {
                *parent = completed(parent.take());
            }
        }
        Value::Array(list) => {
            for entry in list.iter_mut() {
                *entry = without_times(entry.take());
            }
            if list.iter().all(|it| it.get("type").is_some() || it.get("controllerName").is_some()) {
                list.sort_by_key(ToString::to_string);
            }
        }
        _ => {}
    }
    value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-01-02T03:04:05Z";

    fn condition(status: &str, time: &str) -> Value {
        json!({"type": "Accepted", "status": status, "reason": "R", "message": "m", "lastTransitionTime": time})
    }

    fn parent(controller: &str, name: &str, conditions: &[Value]) -> Value {
        json!({"controllerName": controller, "parentRef": {"name": name}, "conditions": conditions})
    }

    #[test]
    fn what_is_said_only_while_it_holds_goes_when_nobody_says_it() {
        let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let current = json!({"conditions": [condition("InsecureFrontendValidationMode"), condition("example.com/Theirs")]});
        let merged = merge(Some(&current), Some(&json!({"conditions": [condition("Accepted")]})), "now");
        assert_eq!(merged, json!({"conditions": [condition("Accepted"), condition("example.com/Theirs")]}));
    }

    #[test]
    fn entries_of_other_controllers_stay_and_ours_are_replaced() {
        let theirs = parent("example.com/other", "g", &[condition("True", "t0")]);
        let current = json!({"parents": [parent(CONTROLLER, "old", &[]), theirs]});
        let ours = json!({"parents": [parent(CONTROLLER, "g", &[condition("True", NOW)])]});
        let merged = merge(Some(&current), Some(&ours), NOW);
        assert_eq!(merged, json!({"parents": [theirs, ours["parents"][0]]}));
        assert_eq!(merge(Some(&merged), None, NOW), json!({"parents": [theirs]}), "we say nothing any more");
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_does() {
        let current = json!({"parents": [{"controllerName": CONTROLLER, "conditions": [condition("True", "t0")],
            "parentRef": {"name": "g", "group": "gateway.networking.k8s.io", "kind": "Gateway"}}]});
        let say = |status: &str| json!({"parents": [parent(CONTROLLER, "g", &[condition(status, "t1")])]});
        let unchanged = merge(Some(&current), Some(&say("True")), NOW);
        assert_eq!(unchanged["parents"][0]["conditions"][0]["lastTransitionTime"], "t0");
        assert!(same(&unchanged, &current), "what the server filled in is no difference");
        let changed = merge(Some(&current), Some(&say("False")), NOW);
        assert_eq!(changed["parents"][0]["conditions"][0]["lastTransitionTime"], "t1");
        assert!(!same(&changed, &current));
    }

    #[test]
    fn the_default_of_a_gateway_class_goes_and_conditions_of_others_stay() {
        let pending = json!({"conditions": [
            {"type": "Accepted", "status": "Unknown", "reason": "Pending", "lastTransitionTime": "1970-01-01T00:00:00Z"},
            {"type": "example.com/Audited", "status": "True"}]});
        let merged = merge(
            Some(&pending),
            Some(&json!({"conditions": [{"type": "Accepted", "status": "True"}]})),
            NOW,
        );
        assert_eq!(
            merged,
            json!({"conditions": [{"type": "Accepted", "status": "True", "lastTransitionTime": NOW},
                {"type": "example.com/Audited", "status": "True"}]})
        );
    }

    #[test]
    fn listeners_are_ours_whole_and_keep_their_times_by_name() {
        let listener =
            |name: &str, time: &str| json!({"name": name, "conditions": [condition("True", time)]});
        let current = json!({"listeners": [listener("a", "t0"), listener("gone", "t0")], "addresses": [1]});
        let merged = merge(
            Some(&current),
            Some(&json!({"listeners": [listener("b", "t1"), listener("a", "t1")]})),
            NOW,
        );
        assert_eq!(
            merged,
            json!({"listeners": [listener("b", "t1"), listener("a", "t0")], "addresses": [1]})
        );
    }

    proptest::proptest! {
        #[test]
        fn merging_twice_changes_nothing(statuses in proptest::collection::vec((0..3u8, 0..3u8, proptest::bool::ANY), 0..6)) {
            let make = |keep: &dyn Fn(bool) -> bool| {
                let entries = statuses.iter().filter(|it| keep(it.2)).map(|(name, status, ours)| {
                    let controller = if *ours { CONTROLLER } else { "example.com/other" };
                    parent(controller, &name.to_string(), &[condition(&status.to_string(), "t0")])
                });
                json!({"parents": entries.collect::<Vec<_>>()})
            };
            let (current, ours) = (make(&|_| true), make(&|ours| ours));
            let once = merge(Some(&current), Some(&ours), NOW);
            let twice = merge(Some(&once), Some(&ours), NOW);
            proptest::prop_assert!(same(&once, &twice));
        }
    }
}
