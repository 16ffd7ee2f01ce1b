//! Which namespaces see an object.

use crate::model::{Kind, Object};

/// The annotation of a Service or ExternalService that says which namespaces see it, separated by commas: `.` is its own, `*` all.
pub const EXPORT_TO: &str = "outrider.dev/export-to";

/// Whether an object is exported to a namespace. Without the annotation, a Service is exported to all. An ExternalService is exported
/// to its own namespace alone: it claims hosts and ports, which nobody may do for others unasked, and may have credentials.
pub fn exported(object: &Object, namespace: &str) -> bool {
    let own = *object.key.namespace == *namespace;
    match object.annotation(EXPORT_TO) {
        None => own || object.key.kind != Kind::ExternalService,
        Some(text) => text.split(',').map(str::trim).any(|word| match word {
            "*" => true,
            "." => own,
            word => namespace == word,
        }),
    }
}
