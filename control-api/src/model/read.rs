//! From YAML or JSON to objects. Nothing is ignored: an unknown field is a problem with its path.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Body, Key, Kind, Object, Problem, validate};

/// What is wrong with a field: its path and the reason.
pub(super) type FieldError = (String, String);

/// Why text is no list of objects.
#[derive(Debug, thiserror::Error)]
#[error("{source_name}: {reason}")]
pub struct ReadError {
    /// The file.
    pub source_name: String,
    /// What the parser said, with line and column.
    pub reason: String,
}

/// The documents in a text of YAML or JSON; lists (`kind: List`) are taken apart, empty documents left out.
///
/// # Errors
/// When the text is no YAML.
pub fn documents(source: &str, text: &str) -> Result<Vec<Value>, ReadError> {
    let parsed: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| ReadError { source_name: source.to_owned(), reason: error.to_string() })?;
    let mut out = Vec::with_capacity(parsed.len());
    for mut document in parsed {
        let list = document.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
        match document.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) if list => out.extend(items),
            Some(items) => {
                if let Some(slot) = document.get_mut("items") {
                    *slot = items;
                }
                out.push(document);
            }
            None if document.is_null() => {}
            None => out.push(document),
        }
    }
    Ok(out)
}

/// Reads one object of JSON text. See [`read_value`].
///
/// # Errors
/// As [`read_value`].
pub fn read_json(source: &str, json: &[u8], default_namespace: &str) -> Result<Option<Object>, Vec<Problem>> {
    match serde_json::from_slice(json) {
        Ok(value) => read_value(source, value, default_namespace),
        Err(error) => Err(vec![Problem {
            source: source.into(),
            object: "document".into(),
            field: String::new(),
            reason: format!("not JSON: {error}"),
        }]),
    }
}

/// Reads one object and judges it. `Ok(None)`: a kind that does not concern a control plane.
///
/// # Errors
/// All that is wrong with it, each with its field.
pub fn read_value(
    source: &str,
    value: Value,
    default_namespace: &str,
) -> Result<Option<Object>, Vec<Problem>> {
    let Some((object, mut problems)) = known_fields(source, value, default_namespace)? else {
        return Ok(None);
    };
    // What is known of it is judged too: all that is to be mended is told at one go.
    problems.extend(validate::check(&object).into_iter().map(|(field, reason)| Problem {
        source: Arc::clone(&object.source),
        object: object.key.to_string(),
        field,
        reason,
    }));
    if problems.is_empty() { Ok(Some(object)) } else { Err(problems) }
}

/// Reads one object whose every field is known; nobody looked at the values.
///
/// # Errors
/// As [`read_value`].
#[cfg(test)]
pub(crate) fn unjudged(
    source: &str,
    value: Value,
    default_namespace: &str,
) -> Result<Option<Object>, Vec<Problem>> {
    match known_fields(source, value, default_namespace)? {
        Some((object, problems)) if problems.is_empty() => Ok(Some(object)),
        Some((_, problems)) => Err(problems),
        None => Ok(None),
    }
}

/// Reads what is known of one object, with the fields that are not as problems.
fn known_fields(
    source: &str,
    value: Value,
    default_namespace: &str,
) -> Result<Option<(Object, Vec<Problem>)>, Vec<Problem>> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind_name) = (text("/apiVersion"), text("/kind"));
    let (name, namespace) = (text("/metadata/name"), text("/metadata/namespace"));
    let source: Arc<str> = source.into();
    let label = match (kind_name.is_empty(), namespace.is_empty()) {
        (true, _) => "document".to_owned(),
        (false, true) => format!("{kind_name} {name}"),
        (false, false) => format!("{kind_name} {namespace}/{name}"),
    };
    let problem = |field: &str, reason: String| Problem {
        source: Arc::clone(&source),
        object: label.clone(),
        field: field.to_owned(),
        reason,
    };
    if kind_name.is_empty() || api_version.is_empty() {
        let field = if kind_name.is_empty() { "kind" } else { "apiVersion" };
        return Err(vec![problem(field, "missing; every object has an apiVersion and a kind".into())]);
    }
    let kind = match Kind::of_manifest(&api_version, &kind_name) {
        Ok(Some(kind)) => kind,
        Ok(None) => return Ok(None),
        Err(reason) => return Err(vec![problem("apiVersion", reason)]),
    };
    if name.is_empty() {
        return Err(vec![problem("metadata.name", "missing; every object has a name".into())]);
    }
    let mut unknown = Vec::new();
    let mut body =
        Body::read(kind, value, &mut unknown).map_err(|(field, reason)| vec![problem(&field, reason)])?;
    let problems: Vec<Problem> = unknown
        .into_iter()
        .map(|field| problem(&field, "unknown field; remove it or mend its name".into()))
        .collect();
    let key = Key::new(kind, if namespace.is_empty() { default_namespace } else { &namespace }, &name);
    body.meta_mut().namespace = kind.namespaced().then(|| key.namespace.to_string());
    let object = Object { key, body, revision: 0, source: Arc::clone(&source) };
    Ok(Some((object, problems)))
}

/// Reads a typed value; unknown fields go to `unknown`.
pub(super) fn typed<T: DeserializeOwned>(value: Value, unknown: &mut Vec<String>) -> Result<T, FieldError> {
    let mut read = None;
    tracked(value, unknown, &mut |deserializer| {
        read = Some(erased_serde::deserialize(deserializer)?);
        Ok(())
    })?;
    read.ok_or_else(|| (String::new(), "nothing was read".to_owned()))
}

/// As [`typed`], with the type behind `read`: one instance for all of them.
fn tracked(
    value: Value,
    unknown: &mut Vec<String>,
    read: &mut dyn FnMut(&mut dyn erased_serde::Deserializer<'_>) -> Result<(), erased_serde::Error>,
) -> Result<(), FieldError> {
    let mut track = serde_path_to_error::Track::new();
    let mut note = |path: serde_ignored::Path<'_>| {
        let path = dotted(&path);
        // The type itself says both; Kubernetes' managed fields and typed nulls are nobody's mistake.
        if path != "apiVersion" && path != "kind" {
            unknown.push(path);
        }
    };
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let deserializer = serde_ignored::Deserializer::new(deserializer, &mut note);
    read(&mut <dyn erased_serde::Deserializer<'_>>::erase(deserializer)).map_err(|error| {
        let path = track.path().to_string();
        (if path == "." { String::new() } else { path }, error.to_string())
    })
}

/// `spec.rules[0].matches`, as Kubernetes writes paths.
fn dotted(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", dotted(parent)),
        Path::Map { parent, key } => {
            let parent = dotted(parent);
            if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") }
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            dotted(parent)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_unknown_field_hides_no_other_problem() {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "Web!", "namespace": "shop" },
            "spec": { "prots": [], "ports": [{ "port": 80 }] },
        });
        let problems = read_value("web.yaml", service, "shop").unwrap_err();
        let fields: Vec<_> = problems.iter().map(|it| it.field.as_str()).collect();
        assert!(fields.contains(&"spec.prots") && fields.contains(&"metadata.name"), "{problems:#?}");
    }
}
