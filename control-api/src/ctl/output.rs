//! JSON, YAML and names.

use std::io::Write;

use serde_json::{Value, json};

use super::args::Format;
use super::failure::Failure;
use crate::model::Kind;

/// `httproute.gateway.networking.k8s.io/web`, as kubectl names objects.
pub(super) fn name_of(kind: &str, api_version: &str, name: &str) -> String {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let kind = kind.to_lowercase();
    if group.is_empty() { format!("{kind}/{name}") } else { format!("{kind}.{group}/{name}") }
}

/// The name of an object.
pub(super) fn object_name(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    name_of(text("/kind"), text("/apiVersion"), text("/metadata/name"))
}

/// An object as YAML, with the first fields first.
pub(super) fn yaml(value: &Value) -> Result<String, Failure> {
    serde_saphyr::to_string(value)
        .map_err(|error| Failure::refused(format!("cannot be written as YAML: {error}")))
}

/// Prints objects: one as itself, more as a list.
pub(super) fn objects(
    out: &mut dyn Write,
    objects: &[Value],
    list: bool,
    format: Format,
) -> Result<(), Failure> {
    if format == Format::Name {
        for object in objects {
            writeln!(out, "{}", object_name(object))?;
        }
        return Ok(());
    }
    match (objects, list) {
        ([one], false) => value(out, one, format),
        _ => value(out, &json!({ "apiVersion": "v1", "kind": "List", "items": objects }), format),
    }
}

/// Prints a value as JSON or YAML.
pub(super) fn value(out: &mut dyn Write, value: &Value, format: Format) -> Result<(), Failure> {
    match format {
        Format::Yaml => {
            let text = yaml(value)?;
            writeln!(out, "{}", text.trim_end())?;
        }
        _ => writeln!(out, "{value:#}")?,
    }
    Ok(())
}

/// The kind that somebody typed.
pub(super) fn kind_of(word: &str) -> Result<Kind, Failure> {
    Kind::of_word(word).ok_or_else(|| {
        let names = Kind::ALL.iter().flat_map(|kind| [kind.plural(), kind.name()]);
        let near = outrider_proto::suggest::nearest(word, names);
        let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
        Failure::usage(format!("{word:?} is no kind here{hint} (`outriderctl api-resources` lists them)"))
    })
}

/// What was meant by `KIND NAME...`, `KIND/NAME...`, `KIND,KIND` or `all`: kinds, each with names or all of them.
pub(super) fn targets(words: &[String]) -> Result<Vec<(Kind, Option<String>)>, Failure> {
    let [first, names @ ..] = words else { return Err(Failure::usage("which kind?")) };
    if words.iter().any(|word| word.contains('/')) {
        return words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) if !name.is_empty() => Ok((kind_of(kind)?, Some(name.to_owned()))),
                _ => Err(Failure::usage(format!("{word:?}: want KIND/NAME, as for the others"))),
            })
            .collect();
    }
    let kinds = if first == "all" {
        if !names.is_empty() {
            return Err(Failure::usage("`all` has no names"));
        }
        Kind::ALL.to_vec()
    } else {
        first.split(',').map(kind_of).collect::<Result<Vec<_>, _>>()?
    };
    if names.is_empty() {
        return Ok(kinds.into_iter().map(|kind| (kind, None)).collect());
    }
    let both = kinds.iter().flat_map(|kind| names.iter().map(move |name| (*kind, Some(name.clone()))));
    Ok(both.collect())
}
