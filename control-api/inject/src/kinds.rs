//! Which kinds make pods, and where in them the pod is.

use serde_json::Value;

use crate::value::text;

/// Where the pod is in an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// A JSON pointer to what has the pod's `metadata` and `spec`.
    pub(crate) pointer: &'static str,
    /// Pods that end by themselves.
    pub(crate) ends: bool,
}

impl Place {
    /// The path of a field of the pod, for people.
    pub(crate) fn path(&self, field: &str) -> String {
        let front = self.pointer.trim_start_matches('/').replace('/', ".");
        match (front.is_empty(), field.is_empty()) {
            (true, _) => field.to_owned(),
            (_, true) => front,
            _ => format!("{front}.{field}"),
        }
    }
}

/// Where the pod is in an object of this kind; `None`: it makes no pods that we know of.
pub(crate) fn place(version: &str, kind: &str) -> Option<Place> {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let pointer = match (group, kind) {
        ("", "Pod") => "",
        ("" | "apps" | "extensions" | "batch", _) => match (group, kind) {
            ("", "ReplicationController")
            | ("apps" | "extensions", "Deployment" | "DaemonSet" | "ReplicaSet")
            | ("apps", "StatefulSet")
            | ("batch", "Job") => "/spec/template",
            ("batch", "CronJob") => "/spec/jobTemplate/spec/template",
            _ => return None,
        },
        _ => return None,
    };
    Some(Place { pointer, ends: group == "batch" })
}

/// Whether an object is a list of objects.
pub(crate) fn is_list(object: &Value) -> bool {
    text(object, "kind").ends_with("List") && object.get("items").is_some_and(Value::is_array)
}

/// What the items of a list are that do not say so themselves: version and kind. Nothing for `List`.
pub(crate) fn of_items(list: &Value) -> (String, String) {
    let kind = text(list, "kind");
    match kind.strip_suffix("List") {
        Some(kind) if !kind.is_empty() => (text(list, "apiVersion"), kind.to_owned()),
        _ => (String::new(), String::new()),
    }
}
