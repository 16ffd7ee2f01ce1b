//! Metadata, which all kinds have.

use super::forms;
use super::node::{Node, Report};
use crate::model::{Kind, Object};

/// The most that all annotations of an object may take, in bytes.
const ANNOTATIONS: usize = 256 * 1024;

/// Names, labels and annotations.
pub(super) fn check(report: &mut Report, object: &Object, root: &Node<'_>) {
    let name = &*object.key.name;
    let named = match object.key.kind {
        Kind::Service => forms::service_name(name),
        Kind::Namespace => forms::label(name),
        _ if name.len() > 253 => Err(format!("has {} characters; there can be 253 at most", name.len())),
        _ => forms::subdomain(name),
    };
    if let Err(why) = named {
        report.say("metadata.name", why);
    }
    if object.key.kind.namespaced()
        && let Err(why) = forms::label(&object.key.namespace)
    {
        report.say("metadata.namespace", why);
    }
    for (key, value) in root.entries("metadata.labels") {
        let judged = forms::qualified(key).and(forms::label_value(value.value.as_str().unwrap_or_default()));
        if let Err(why) = judged {
            report.say(value.path, why);
        }
    }
    let mut size = 0;
    for (key, value) in root.entries("metadata.annotations") {
        size += key.len() + value.value.as_str().unwrap_or_default().len();
        // The API server compares keys in lower case.
        if let Err(why) = forms::qualified(&key.to_ascii_lowercase()) {
            report.say(value.path, why);
        }
    }
    if size > ANNOTATIONS {
        report.say("metadata.annotations", format!("take {size} bytes; there can be {ANNOTATIONS} at most"));
    }
}
